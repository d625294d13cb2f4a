"""Read published files from a Hugging Face name, a folder or a Parquet file, and images stored inside tables.

`datasets.load_dataset` and `huggingface_hub.snapshot_download` load Hugging Face names and keep the files in their caches.
An image in a table stays there. A question only refers to it, and decodes it when it is asked.
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
_POINTER = b"version https://git-lfs"  # start of the pointer file that `git clone` writes without Git LFS
_GAP = 8  # grey pixels between images that are shown side by side
_GREY = (128, 128, 128)


# -------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image stored inside a table, read when it is needed.

    Args:
        place: place in the table, for messages.
        read: returns the bytes of the image file.
        digest: SHA-256 of the bytes.
        length: number of bytes.
        missing: why the table has no bytes for the image; "" if it has. A question about a missing image cannot be asked.
    """

    place: str
    read: Callable[[], bytes]
    digest: str
    length: int
    missing: str = ""

    def load(self) -> Image.Image:
        """Load the image, upright RGB.

        Raises:
            ImageError: the image is missing, broken, empty or too large.
        """
        if self.missing:
            raise ImageError(self.missing, "missing_image")
        return decode_image(self.place, self.read())[0]

    def size(self) -> tuple[int, int]:
        """Return (width, height) of the image that `load` returns. Reads only the header.

        Raises:
            RecordError: the image is missing or broken.
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
    """A question with images from a table. Several images are shown as one, side by side.

    `image` is only a name for messages and results.

    Args:
        pictures: at least one image.
    """

    pictures: tuple[StoredPicture, ...] = ()

    def picture(self) -> Image.Image:
        """See `Question.picture`."""
        return side_by_side([picture.load() for picture in self.pictures])

    def image_name(self, root: Path) -> str:
        """Return the image's name in its table, which is not a file path."""
        return str(self.image)

    def identity(self, root: Path) -> list[Any]:
        """See `Question.identity`. Images count by content."""
        return [*Question.identity(self, Path()), [picture.digest for picture in self.pictures]]

    def file_sizes(self) -> tuple[int | None, int | None]:
        """Return the size of the images in bytes, and None for the depth."""
        return sum(picture.length for picture in self.pictures), None


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Join images from left to right, with a narrow grey gap between them.

    Args:
        images: RGB, at least one; a single image is returned unchanged.
    Returns:
        RGB, as high as the highest image. Lower images are scaled up, so no image loses detail.
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
        index: number of the row, from 0.
        values: column → value, without the image columns.
        pictures: column → its images; empty for an empty cell.
    """

    place: str
    index: int
    values: Mapping[str, Any]
    pictures: Mapping[str, tuple[StoredPicture, ...]]

    def value(self, name: str) -> Any:
        """Return a required value.

        Raises:
            RecordError: the column is missing, or the cell is empty.
        """
        if self.values.get(name) is None:
            known = ", ".join([*self.values, *self.pictures])[:300]
            raise RecordError(f"{self.place}: lacks {name!r}; it has {known}", "missing_key")
        return self.values[name]

    def text(self, name: str) -> str:
        """Return a required text, stripped.

        Raises:
            RecordError: the column is missing, or the value is not text or is blank.
        """
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise RecordError(f"{self.place}: {name} must be text that is not blank, got {shown(value)}")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a required list of texts, stripped.

        Raises:
            RecordError: the column is missing, or the value is not a list of texts that are not blank.
        """
        value = self.value(name)
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text.strip() for text in value):
            raise RecordError(f"{self.place}: {name} must be a list of texts that are not blank, got {shown(value)}")
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
    """Read the rows of a published dataset.

    Args:
        data: a Hugging Face name; a folder written by `snapshot_download`, `git clone` or `Dataset.save_to_disk`; or a
            Parquet file with one split.
        split: name of the split in the dataset.
        pictures: the image columns; those that the dataset lacks are ignored.
        config: configuration of the dataset; None for its default.
        files: data files by split, if the dataset does not define them, see `datasets.load_dataset`.
        limit: number of rows to read from the start; None for all.
    Yields:
        The rows in order.
    Raises:
        MissingExtraError: `datasets` is not installed.
        RecordError: the dataset cannot be read, the split does not exist, or an image cell has no image.

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
    except Exception as error:  # noqa: BLE001 - loaders raise any error of their readers, always about the data
        raise _unread(name, split, error) from None


def _pictures(cells: Any, index: int, column: str, place: str) -> tuple[StoredPicture, ...]:
    """Return the images of one cell, which has one image or a list."""

    def content(number: int) -> Callable[[], bytes]:
        return lambda: _bytes_in(_listed(cells[index][column])[number], column, place)

    found = []
    for number, cell in enumerate(_listed(cells[index][column])):
        if isinstance(cell, Mapping) and cell.get("path") and not cell.get("bytes"):
            # Never opens a local path from a table.
            missing = f"{place}: {column} has the path {shown(cell['path'])} and no bytes; expected the bytes of the image"
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
        raise RecordError(f"{place}: {column} must contain the bytes of an image, got {shown(cell)}", "missing_image")
    return data


# ------------------------------------------------------------------------------------------------------------- folders


def folder_of(data: str | os.PathLike[str], *, patterns: Sequence[str] | None = None) -> Path:
    """Return the folder of a dataset. The files of a Hugging Face name are downloaded if they are not in the cache.

    Args:
        data: a local folder, or a Hugging Face name.
        patterns: files to download, with `*` for any characters; all by default.
    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
        RecordError: the folder or dataset does not exist, or the terms of the dataset must be accepted first.
    """
    name = os.fspath(data)
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise RecordError(f"{name}: expected the folder of the dataset or its Hugging Face name, got a file", "missing_file")
    wanted = hub_name(name)
    need("downloading a published dataset", "huggingface_hub")
    import huggingface_hub

    try:
        fetched = huggingface_hub.snapshot_download(
            wanted, repo_type="dataset", allow_patterns=None if patterns is None else list(patterns)
        )
    except Exception as error:  # noqa: BLE001 - the client's errors have no common base; all are about the download
        raise _unread(name, "", error) from None
    return Path(fetched)


def file_in(folder: Path, relative: str, place: str) -> Path:
    """Return the path of a file that published data refer to, in the folder of the data.

    The cache of `huggingface_hub` contains links to the stored content. The place of the link counts, not its target.

    Raises:
        RecordError: the path is absolute, or leads outside the folder.
    """
    path = folder / relative
    if not relative.strip() or os.path.isabs(relative) or ".." in Path(relative).parts:
        raise RecordError(f"{place}: path {relative[:200]!r} leads outside {folder}", "path_outside_root")
    if path.is_symlink() and folder.parent.name == "snapshots":
        inside(folder.parent.parent, os.path.relpath(path.resolve(), folder.parent.parent.resolve()))
        return path
    return inside(folder, relative)


def hub_name(name: str) -> str:
    """Return the Hugging Face name of a dataset, `owner/name`, without `hf://`.

    Raises:
        RecordError: the text is neither a Hugging Face name nor a local file or folder.
    """
    found = name.removeprefix("hf://").removeprefix("datasets/")
    if not _NAME.fullmatch(found):
        raise RecordError(
            f"{name}: no such file or folder; give an existing one, or the Hugging Face name of a dataset (owner/name)",
            "missing_file",
        )
    return found


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise RecordError(
                f"{path}: expected the file, got a Git LFS pointer. Fetch the files with `git lfs pull`, or give the "
                "dataset's Hugging Face name",
                "missing_file",
            )


def _unread(name: str, split: str, error: Exception) -> RecordError:
    """Return an error that explains a loader's error and what to do about it."""
    from huggingface_hub.errors import GatedRepoError

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "is a gated dataset" in str(error):
        advice = f"accept its terms at https://huggingface.co/datasets/{hub_name(name)}, then log in with `hf auth login`"
    elif isinstance(error, ValueError) and "split" in str(error):
        advice = f"expected the split {split!r}"
    elif Path(name).exists():
        advice = "expected the files in their published layout" + (f", with the split {split!r}" if split else "")
    else:
        advice = "there is no local file or folder of this name either. Without a network, give a folder with the files"
    words = next((" ".join(str(cause).split()) for cause in (error, causes[-1]) if str(cause).strip()), type(error).__name__)
    return RecordError(f"{name}: cannot read the data ({words[:300]}); {advice}", "missing_file")
