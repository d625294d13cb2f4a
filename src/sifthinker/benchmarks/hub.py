"""Published files from where they are: a Hugging Face name, a folder, or a Parquet file, and pictures that lie in tables.

Names are loaded by `datasets.load_dataset` and `huggingface_hub.snapshot_download`, which keep what they fetched in their
own caches. A picture in a table stays there: a question holds where it is, and it is decoded when the question is asked.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.engine.sources.tables import undecoded
from sifthinker.errors import ImageError, RecordError, need
from sifthinker.evaluation.questions import Question
from sifthinker.files import inside, sha256
from sifthinker.images import BROKEN_IMAGE, ORIENTATION, decode_image, what_is_wrong
from sifthinker.records import shown

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_POINTER = b"version https://git-lfs"  # with which the file begins that `git clone` leaves where Git LFS is not installed
_GAP = 8  # grey pixels between pictures that are shown as one
_GREY = (128, 128, 128)


# ------------------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture inside a table, read when it is wanted.

    Args:
        place: where it is, for messages.
        read: gives its bytes, an image file's.
        digest: SHA-256 of them.
        length: their number.
        missing: what is there instead, where the table holds no bytes of it; "" where it does. What asks about such a
            picture cannot be asked, as where an image's file is gone.
    """

    place: str
    read: Callable[[], bytes]
    digest: str
    length: int
    missing: str = ""

    def load(self) -> Image.Image:
        """The picture, upright RGB.

        Raises:
            ImageError: it is missing or broken, has no pixels or too many.
        """
        if self.missing:
            raise ImageError(self.missing, "missing_image")
        return decode_image(self.place, self.read())[0]

    def size(self) -> tuple[int, int]:
        """(width, height) as `load` would give it, from its header alone.

        Raises:
            RecordError: it is missing, or no picture.
        """
        if self.missing:
            raise RecordError(self.missing, "missing_image")
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                width, height = image.size
                return (height, width) if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)
        except BROKEN_IMAGE as error:
            raise RecordError(f"{self.place}: the image is broken: {what_is_wrong(error)}", "broken_image") from None


@dataclass(frozen=True, slots=True)
class TableQuestion(Question):
    """A question whose picture lies in a table; several pictures are shown as one, side by side.

    `image` is no more than the picture's name in messages and results.

    Args:
        pictures: at least one.
    """

    pictures: tuple[StoredPicture, ...] = ()

    def picture(self) -> Image.Image:
        """See `Question.picture`."""
        return side_by_side([picture.load() for picture in self.pictures])

    def image_name(self, root: Path) -> str:
        """The picture's name in its table; it is no path of a file."""
        return str(self.image)

    def identity(self, root: Path) -> list[Any]:
        """See `Question.identity`. Pictures are told apart by their content."""
        return [*Question.identity(self, Path()), [picture.digest for picture in self.pictures]]

    def file_sizes(self) -> tuple[int | None, int | None]:
        """Bytes of the pictures, and None for the depth."""
        return sum(picture.length for picture in self.pictures), None


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures as one, in order from left to right, as high as the highest, with a narrow grey gap between them.

    Args:
        images: RGB, at least one; a single one is given back as it is.
    Returns:
        RGB; lower ones are scaled up to the common height, so that none loses detail.
    """
    if len(images) == 1:
        return images[0]
    height = max(image.height for image in images)
    scaled = [
        image if image.height == height else image.resize((max(1, round(image.width * height / image.height)), height))
        for image in images
    ]
    width = sum(image.width for image in scaled) + _GAP * (len(scaled) - 1)
    whole = Image.new("RGB", (width, height), _GREY)
    at = 0
    for image in scaled:
        whole.paste(image, (at, 0))
        at += image.width + _GAP
    return whole


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table.

    Args:
        place: table and number of the row, for messages.
        index: of the row, from 0.
        values: column → value, without the columns of pictures.
        pictures: column → its pictures; none where the cell is empty.
    """

    place: str
    index: int
    values: Mapping[str, Any]
    pictures: Mapping[str, tuple[StoredPicture, ...]]

    def value(self, name: str) -> Any:
        """A value that the row must have.

        Raises:
            RecordError: no such column, or an empty cell.
        """
        if self.values.get(name) is None:
            known = ", ".join([*self.values, *self.pictures])[:300]
            raise RecordError(f"{self.place}: lacks {name!r}; it has {known}", "missing_key")
        return self.values[name]

    def text(self, name: str) -> str:
        """A text that the row must have, stripped.

        Raises:
            RecordError: no such column, or no text that is not blank.
        """
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise RecordError(f"{self.place}: {name} is {shown(value)}, wanted a text that is not blank")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that the row must have, stripped.

        Raises:
            RecordError: no such column, or no list of texts that are not blank.
        """
        value = self.value(name)
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text.strip() for text in value):
            raise RecordError(f"{self.place}: {name} is {shown(value)}, wanted a list of texts that are not blank")
        return tuple(text.strip() for text in value)


def table_rows(
    data: str | os.PathLike[str],
    split: str,
    *,
    pictures: Sequence[str],
    config: str | None = None,
    files: str | Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Iterator[TableRow]:
    """The rows of a dataset as it is published.

    Args:
        data: a Hugging Face name; a folder as `snapshot_download`, `git clone` or `Dataset.save_to_disk` leaves it; or a
            Parquet file, which holds one split.
        split: its name in the dataset.
        pictures: the columns that hold pictures; those that the dataset lacks are passed over.
        config: of the dataset; its default one where None.
        files: its data files by split, where they are not told by the dataset itself, see `datasets.load_dataset`.
        limit: the first so many rows; None for all.
    Raises:
        MissingExtraError: `datasets` is not installed.
        RecordError: nothing there that can be read, no such split, or a cell of pictures that is none.

    Example:
        >>> rows = table_rows("nyu-visionx/CV-Bench", "test", pictures=["image"], limit=10)  # doctest: +SKIP
        >>> next(rows).text("question")  # doctest: +SKIP
        'How many organs are in the image?'
    """
    need("reading a published table", "datasets")
    name = os.fspath(data)
    table = _load(name, split, config, files)
    for column, feature in table.features.items():
        stored = undecoded(feature)
        if stored is not feature:
            table = table.cast_column(column, stored)
    columns = [column for column in pictures if column in table.column_names]
    plain = table.remove_columns(columns)
    cells = {column: table.select_columns([column]) for column in columns}
    values_of = plain if plain.column_names else repeat({}, len(table))
    for index, values in enumerate(islice(values_of, limit)):
        place = f"{name} {split}[{index}]"
        found = {column: _pictures(cells[column], index, column, place) for column in columns}
        yield TableRow(place, index, values, found)


def _load(name: str, split: str, config: str | None, files: str | Mapping[str, str] | None) -> Any:
    import datasets

    path = Path(name)
    try:
        if path.is_file():
            _refuse_pointer(path)
            return datasets.load_dataset("parquet", data_files={split: str(path)}, split=split)
        if any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.Dataset):
                return saved
            if split not in saved:
                raise RecordError(f"{name}: has no split {split!r}; it has {', '.join(map(str, saved))}", "missing_file")
            return saved[split]
        if path.is_dir():
            for file in sorted(path.rglob("*.parquet"))[:1]:
                _refuse_pointer(file)
            return datasets.load_dataset(str(path.resolve()), config, split=split, data_files=files)
        return datasets.load_dataset(hub_name(name), config, split=split, data_files=files)
    except RecordError:
        raise
    except Exception as error:  # noqa: BLE001 - builders raise whatever their readers do; all of it is about the data
        raise _unread(name, split, error) from None


def _pictures(cells: Any, index: int, column: str, place: str) -> tuple[StoredPicture, ...]:
    """The pictures of one cell, one or a list of them."""

    def content(number: int) -> Callable[[], bytes]:
        return lambda: _bytes_in(_listed(cells[index][column])[number], column, place)

    found = []
    for number, cell in enumerate(_listed(cells[index][column])):
        if isinstance(cell, Mapping) and cell.get("path") and not cell.get("bytes"):
            # Nothing that a table names on this machine is opened.
            missing = f"{place}: {column} has the path {shown(cell['path'])} and null bytes; wanted the picture's bytes"
            found.append(StoredPicture(f"{place}.{column}", bytes, sha256(missing.encode()), 0, missing))
            continue
        data = _bytes_in(cell, column, place)
        found.append(StoredPicture(f"{place}.{column}", content(number), sha256(data), len(data)))
    return tuple(found)


def _listed(cell: Any) -> list[Any]:
    return [] if cell is None else cell if isinstance(cell, list) else [cell]


def _bytes_in(cell: Any, column: str, place: str) -> bytes:
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(data, bytes) or not data:
        raise RecordError(f"{place}: {column} is {shown(cell)}, wanted a picture's bytes", "missing_image")
    return data


# ------------------------------------------------------------------------------------------------------------- folders


def folder_of(data: str | os.PathLike[str], *, patterns: Sequence[str] | None = None) -> Path:
    """A dataset's folder: the one that is named, or the files of a Hugging Face name, fetched where they are not yet.

    Args:
        data: a local folder, or a Hugging Face name.
        patterns: which files to fetch, with `*` for any characters; all by default.
    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
        RecordError: no such folder or dataset; or a dataset that asks for its terms to be accepted first.
    """
    name = os.fspath(data)
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise RecordError(f"{name}: is a file; wanted the folder of the dataset, or its Hugging Face name", "missing_file")
    wanted = hub_name(name)
    need("fetching a published dataset", "huggingface_hub")
    import huggingface_hub

    try:
        fetched = huggingface_hub.snapshot_download(
            wanted, repo_type="dataset", allow_patterns=None if patterns is None else list(patterns)
        )
    except Exception as error:  # noqa: BLE001 - the client's errors have no common base; all of them are about the fetching
        raise _unread(name, "", error) from None
    return Path(fetched)


def file_in(folder: Path, relative: str, place: str) -> Path:
    """A file that published data name, in the folder of the data.

    In the cache of `huggingface_hub` files are links to where their content is kept; what counts is where the link lies.

    Raises:
        RecordError: the path is absolute, or leads out of the folder.
    """
    path = folder / relative
    if not relative.strip() or os.path.isabs(relative) or ".." in Path(relative).parts:
        raise RecordError(f"{place}: path {relative[:200]!r} leads outside {folder}", "path_outside_root")
    if path.is_symlink() and folder.parent.name == "snapshots":
        inside(folder.parent.parent, os.path.relpath(path.resolve(), folder.parent.parent.resolve()))
        return path
    return inside(folder, relative)


def hub_name(name: str) -> str:
    """A Hugging Face name of a dataset, `owner/name`, without `hf://` before it.

    Raises:
        RecordError: it is none, nor a local file or folder.
    """
    found = name.removeprefix("hf://").removeprefix("datasets/")
    if not _NAME.fullmatch(found):
        raise RecordError(
            f"{name}: no such file or folder; wanted one, or the Hugging Face name of a dataset (owner/name)",
            "missing_file",
        )
    return found


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise RecordError(
                f"{path}: a pointer of Git LFS in place of the file; fetch the files with `git lfs pull`, or name the "
                "dataset by its Hugging Face name",
                "missing_file",
            )


def _unread(name: str, split: str, error: Exception) -> RecordError:
    """What the loaders' error means, and what to do about it."""
    from huggingface_hub.errors import GatedRepoError

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "is a gated dataset" in str(error):
        advice = f"accept its terms at https://huggingface.co/datasets/{hub_name(name)}, then log in with `hf auth login`"
    elif isinstance(error, ValueError) and "split" in str(error):
        advice = f"wanted its split {split!r}"
    elif Path(name).exists():
        advice = f"wanted files as they are published, with the split {split!r}" if split else "wanted files as published"
    else:
        advice = "there is no such local file or folder either; where there is no network, name a folder with its files"
    words = next((" ".join(str(cause).split()) for cause in (error, causes[-1]) if str(cause).strip()), type(error).__name__)
    return RecordError(f"{name}: cannot be read ({words[:300]}); {advice}", "missing_file")
