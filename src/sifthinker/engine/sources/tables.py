"""Read tables (CSV, TSV and Parquet files, saved and Hub datasets). Their columns become the fields of plain records."""

from __future__ import annotations

import ast
import base64
import contextlib
import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

from PIL import Image

from sifthinker.engine.sources.rows import FAULTS, numbers_of, read_json, reject
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import atomic_write, encoding_name, encoding_of, sha256
from sifthinker.images import BROKEN_IMAGE, what_is_wrong
from sifthinker.literals import BoxForm
from sifthinker.records import REJECTS, Reject, as_text, as_whole, is_base64_image, shown

Line = tuple[str, Any] | Reject  # place of a row, and the row

HUB = "hf://"  # prefix of a Hugging Face dataset name; the split follows a colon

# Fields that the columns of a table can be mapped to: fields of a record, and the two sides of the image.
COLUMNS = ("id", "image", "question", "answer", "boxes", "dataset", "split", "depth", "choices", "family", "width", "height")

# Texts that pandas writes for an empty cell. In CSV also texts that pandas reads as an empty cell, and texts that programs
# write for an infinite number.
_EMPTY = frozenset(("", "nan", "NaN", "<NA>", "NaT"))
_EMPTY_IN_CSV = _EMPTY | {
    *("None", "null", "NULL", "NA", "N/A", "n/a"),
    *("-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "1.#INF", "-1.#INF"),
    *(f"{sign}{word}" for sign in ("", "-", "+") for word in ("inf", "Inf", "INF", "infinity", "Infinity", "INFINITY")),
}  # fmt: skip
# Texts that a spreadsheet writes for a failed formula: #DIV/0!, #N/A, #NAME?, #WERT!, and LibreOffice's Err:502.
_FAILED = re.compile(r"#(?:N/?A(?: N/A)?|NV|[A-Z][A-Z_/0-9]{1,20}[!?]|GETTING_DATA|ERROR|ERR)|Err:\d{3}")


def is_table(name: str) -> bool:
    """Whether a name is read as a table by default."""
    return (
        name.startswith(HUB)
        or name.lower().endswith((".csv", ".tsv", ".parquet"))
        or any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json"))
    )


_TEXT_TABLES = (".csv", ".tsv", ".tab", ".txt")


def table(name: str, columns: Mapping[str, str], form: BoxForm, images: Path | None) -> Iterator[Line]:
    """Yield the rows of a table as plain records.

    Args:
        name: file, folder of `Dataset.save_to_disk`, or `hf://owner/name:split`.
        columns: record field (one of `COLUMNS`) → column of the table.
        form: box format.
        images: folder for images stored inside the table.
    Raises:
        ConfigError: a column is missing or occurs twice, or a package is not installed.
        RecordError: the table is missing or cannot be opened.
    """
    unknown = sorted(columns.keys() - set(COLUMNS))
    if unknown:
        raise ConfigError(f"columns: unknown field {unknown[0]!r}, expected one of {', '.join(COLUMNS)}")
    source = _open(name)
    chosen = {ours: columns.get(ours, ours) for ours in COLUMNS if ours in columns or ours in source.names}
    absent = sorted({theirs for theirs in chosen.values() if theirs not in source.names})
    lacking = [ours for ours in ("image", "question", "answer", "boxes") if ours not in chosen]
    if absent or lacking:
        wrong = f"no column {absent[0]!r}" if absent else f"no column for the field {lacking[0]}"
        has = ", ".join(sorted(source.names))[:600] or "no columns"
        raise ConfigError(
            f"{name}: {wrong}. The table has {has}. Map fields to columns with --columns question=…,boxes=… "
            "(in a recipe: columns: {question: …, boxes: …})"
        )
    twice = sorted(theirs for theirs in set(chosen.values()) if source.names.count(theirs) > 1)
    if twice:
        raise ConfigError(f"{name}: several columns have the name {twice[0]!r}. Rename all but one")
    stem = Path(name.removeprefix(HUB).partition(":")[0]).stem
    called = name if name.startswith(HUB) else Path(name).name or name
    for index, (line, row) in enumerate(source.rows(sorted(set(chosen.values())))):
        place = f"{called}[{index}]" if line is None else f"{called}:{line}"
        identity = f"{stem}-{index:06d}"
        try:
            if isinstance(row, str):
                raise RecordError(f"{place}: {row}")
            values = {ours: row.get(theirs) for ours, theirs in chosen.items()}
            yield place, _plain(values, chosen, form, images, {"id": identity, "dataset": stem}, source.empty, place)
        except FAULTS as error:
            yield reject(place, {"id": identity}, error)


def _plain(
    values: dict[str, Any],
    columns: Mapping[str, str],
    form: BoxForm,
    images: Path | None,
    defaults: Mapping[str, str],
    empty: frozenset[str],
    place: str,
) -> dict[str, Any]:
    """Return a row as a plain record, with texts and lists parsed and without empty cells."""
    values = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    for name, value in list(values.items()):
        if isinstance(value, str) and _FAILED.fullmatch(value):
            code = f"blank_{name}" if f"blank_{name}" in REJECTS else "bad_record"
            raise RecordError(f"{place}: {name} is {value!r}, the result of a failed formula in a spreadsheet. Fix it", code)
        # An empty required field gets its own message. `Record` would only report it as missing.
        if value is None or value != value or (isinstance(value, str) and value in empty):
            if name in ("question", "answer", "image"):
                words = f"{name} is empty" + f" ({value!r} means an empty or infinite cell)" * bool(value)
                raise RecordError(f"{place}: {words}, expected text", f"blank_{name}")
            del values[name]
    width, height = values.pop("width", None), values.pop("height", None)
    if width is not None and height is not None:
        for name, side in (("width", width), ("height", height)):
            if as_whole(side) is None:
                raise RecordError(f"{place}: {name} must be a whole number of pixels, got {shown(side)}")
        values["size"] = [as_whole(width), as_whole(height)]
    values["boxes"] = _boxes(values.get("boxes", []), form, columns["boxes"], place)
    if isinstance(values.get("choices"), str):
        values["choices"] = _texts(values["choices"], columns["choices"], place)
    for name in ("id", "question", "answer", "dataset", "split", "family"):
        if name in values:
            values[name] = as_text(values[name], name, place)
    values["image"] = _image(values["image"], images, place)
    return {**defaults, **values}


# ------------------------------------------------------------------------------------------------------------ cells

_WRAPPERS = re.compile(
    r"(?:np|numpy|torch)\.|\b(?:array|tensor|float|float16|float32|float64|int|int32|int64)\s*(?=\()"
    r"|,\s*(?:dtype|device)\s*=\s*(?:'[^']*'|[\w.]+)"
)
_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?+"  # possessive: a long run of digits is read once
_ITEM = re.compile(rf"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|{_NUMBER}(?=[\s,]|$)""", re.DOTALL)
_BETWEEN = re.compile(r"\s*+,?\s*+")
_ARRAY = re.compile(r"(?:np\.|numpy\.)?array\s*\(\s*")
_DTYPE = re.compile(r"\s*(?:,\s*dtype\s*=[^()]*)?")


def _boxes(cell: Any, form: BoxForm, column: str, place: str) -> list[list[float]]:
    """Return the boxes of a cell: a list of four numbers, a list of such lists, or text in any common notation of them."""
    boxes = _numbers(cell, column, place) if isinstance(cell, str) else cell
    if isinstance(boxes, Sequence) and len(boxes) and (isinstance(boxes[0], str) or not isinstance(boxes[0], Iterable)):
        boxes = [boxes]
    numbers = numbers_of(boxes, place)
    if form == "xywh":
        for box in numbers.tolist():
            if min(box[2:]) <= 0:
                words = f"column {column!r}: box {box} has no area; width and height must be above 0"
                raise RecordError(f"{place}: {words}", "degenerate_box")
        numbers[:, 2:] += numbers[:, :2]
    return [list(map(float, box)) for box in numbers]


def _numbers(text: str, column: str, place: str) -> Any:
    """Parse boxes as written by JSON, Python, NumPy and people: [[…], […]], (…), array([…]), "1 2 3 4",
    "1,2,3,4;5,6,7,8"."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, list):
            return found
    # NumPy writes a number as np.float64(0.5). Brackets around a single number separate nothing.
    plain = re.sub(rf"\(\s*({_NUMBER})\s*\)", r" \1 ", _WRAPPERS.sub("", text))
    if all(plain.count(opening) == plain.count(closing) for opening, closing in ("()", "[]")):
        groups = re.findall(r"[^()\[\]]+", plain) if re.search(r"[(\[]", plain) else re.split(r"[;|\n]", plain)
        # Text between brackets is a separator.
        boxes = [re.split(r"[\s,]+", group.strip(" ,\t\r\n")) for group in groups if group.strip(" ,;|\t\r\n")]
        if boxes and all(len(box) == 4 and all(re.fullmatch(_NUMBER, side) for side in box) for box in boxes):
            return boxes
    raise RecordError(
        f"{place}: column {column!r} must be boxes of four numbers, such as [[10, 10, 60, 30]], got {shown(text)}", "bad_box"
    )


def _texts(text: str, column: str, place: str) -> list[Any]:
    """Parse choices: a list as written by JSON, Python or NumPy, or texts separated by semicolons, bars or line ends."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _quoted(text) or _parted(text)
    if isinstance(found, list):
        return found
    raise RecordError(f'{place}: column {column!r} must be a JSON list such as ["red", "blue"], got {shown(text)}')


def _quoted(text: str) -> list[str | float] | None:
    """Parse ['red', 'blue'], ("red", "blue"), array(['red'], dtype=object) or ['red' 'blue'] (Python would join the
    last)."""
    array = _ARRAY.match(text)
    listed = text
    if array and text.endswith(")"):
        last = max(text.rfind(sign, array.end(), -1) for sign in "])")
        if not _DTYPE.fullmatch(text, last + 1, len(text) - 1):
            return None
        listed = text[array.end() : last + 1]
    if listed[:1] + listed[-1:] not in ("[]", "()"):
        return None
    found: list[str | float] = []
    inner = listed[1:-1].strip()
    position = 0
    while position < len(inner):
        item = _ITEM.match(inner, position)
        if item is None:
            return None
        try:
            found.append(ast.literal_eval(item[0]))
        except (ValueError, SyntaxError):
            return None
        between = _BETWEEN.match(inner, item.end())
        position = between.end() if between else item.end()
        if position == item.end() < len(inner):  # no separator between two items
            return None
    return found


def _parted(text: str) -> list[str] | None:
    parts = [part.strip() for part in re.split(r"[;|\n]", text)]
    kinds = {sign for sign in ";|\n" if sign in text}
    return parts if len(kinds) == 1 and all(parts) and not text.startswith(("[", "{", "(")) else None


def _decoded(text: str, place: str) -> bytes:
    """Return the bytes of an image that a cell contains as a `data:` URL or base64."""
    head, comma, body = text.partition(",") if text.lstrip()[:5].lower() == "data:" else ("", "", text)
    try:
        if head and (not comma or not head.rstrip().lower().endswith(";base64")):
            raise ValueError("the data URL is not base64")
        return base64.b64decode("".join(unquote(body).split() if head else body.split()), validate=True)
    except ValueError as error:
        raise RecordError(
            f"{place}: image must be a path, bytes or base64, got {len(text):,} characters that cannot be decoded: "
            f"{shown(text[:60])} ({error})",
            "broken_image",
        ) from None


def _image(cell: Any, folder: Path | None, place: str) -> str:
    """Return the path of the image. Image bytes of a table are first written to a file, named by content."""
    if isinstance(cell, Sequence) and not isinstance(cell, str | bytes):
        if len(cell) != 1:
            raise RecordError(
                f"{place}: image must be one image, got a list of {len(cell)}", "bad_record" if cell else "missing_image"
            )
        return _image(cell[0], folder, place)
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(cell, Mapping) and not data:
        data = cell.get("path")
    if isinstance(data, str) and is_base64_image(data):
        data = _decoded(data, place)
    if isinstance(data, str) and data.strip():
        return data.strip()
    if not isinstance(data, bytes) or not data:
        got = (
            f"an object with bytes {shown(cell.get('bytes'))} and path {shown(cell.get('path'))}"
            if isinstance(cell, Mapping)
            else shown(cell)
        )
        raise RecordError(f"{place}: image must be a path, image bytes or {{bytes, path}}, got {got}", "missing_image")
    if folder is None:
        raise RecordError(
            f"{place}: the table contains its images. Set an image folder for them with --images", "missing_image_root"
        )
    try:
        with Image.open(io.BytesIO(data)) as opened:
            suffix = (opened.format or "png").lower()
    except BROKEN_IMAGE as error:
        raise RecordError(f"{place}: the image is broken: {what_is_wrong(error)}", "broken_image") from None
    name = f"{sha256(data)[:24]}.{suffix}"
    if not (folder / name).is_file():
        atomic_write(folder / name, data)
    return name


# ------------------------------------------------------------------------------------------------------------ files


_Row = tuple[int | None, Mapping[str, Any] | str]


class _Source:
    """An open table.

    Args:
        names: column names.
        rows: columns → (line of the file where a row begins, None if it has no lines; the row), read in small batches. Text
            instead of a row is the reason why the row cannot be read.
        empty: texts that stand for an empty cell.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Callable[[Sequence[str]], Iterator[_Row]],
        empty: frozenset[str] = _EMPTY,
    ) -> None:
        self.names, self.rows, self.empty = list(names), rows, empty


def _open(name: str) -> _Source:
    path = Path(name)
    if name.lower().endswith(_TEXT_TABLES):
        return _open_csv(path)
    if name.lower().endswith(".parquet"):
        return _open_parquet(name)
    if name.startswith(HUB) or not path.is_file():
        return _open_dataset(name)
    with open(path, "rb") as stream:  # a table with another extension
        is_parquet = stream.read(4) == b"PAR1"
    return _open_parquet(name) if is_parquet else _open_csv(path)


_LONGEST_CELL = 2**31 - 1
_EXCEL = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE | re.DOTALL)  # the line that sets the delimiter for Excel
_LIMIT = threading.Lock()


class _Lines:
    """The lines of a CSV file. Keeps the lines of the current row.

    Python's CSV reader puts everything after an unclosed quote into one cell, and keeps text after a closing quote in the
    same cell. Both can join lines, and rows would disappear without a message.

    Args:
        lines: lines of the file.
        number: number of lines before them.
    """

    def __init__(self, lines: Iterable[str], number: int) -> None:
        self.number = number
        self._lines = iter(lines)
        self._row: list[str] = []
        self._is_past_end = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self._is_past_end = True
            raise StopIteration
        self.number += 1
        self._row.append(line)
        return line

    def begin_row(self) -> int:
        """Return the line number at which the next row begins."""
        self._row = []
        return self.number + 1

    def fault(self, row: Sequence[str], delimiter: str) -> str:
        """Return why the last row may not be a single row, or ""."""
        first = self.number - len(self._row) + 1
        if self._is_past_end:  # a complete row ends without reading a further line
            opened = self.number - len(_LINE_END.findall(row[-1].rstrip("\r\n")))
            swallowed = self.number - opened
            return (
                f"the quote that opens at line {opened} is never closed"
                + f", so the {swallowed} lines after it, up to the end of the file, became part of its cell"
                * (swallowed > 0)
                + ". Close it, or double quotes inside a cell"
            )
        if len(self._row) > 1:
            try:
                next(csv.reader(self._row, delimiter=delimiter, strict=True), None)
            except csv.Error as error:
                return (
                    f"lines {first} to {self.number} were read as one row, because their quotes do not match ({error}). "
                    f"Close the quote that opens at line {first}, or double quotes inside a cell"
                )
        return ""


_LINE_END = re.compile("\r\n|\r|\n")


def _open_csv(path: Path) -> _Source:
    encoding = encoding_of(path)
    is_utf8 = encoding.startswith("utf-8")

    def opened() -> TextIO:
        # Keep undecodable bytes recognisable, so only their own row is rejected.
        return open(path, newline="", encoding=encoding, errors="surrogateescape" if is_utf8 else "replace")

    def is_text(cell: str) -> bool:
        return cell.isascii() or not (
            any("\udc80" <= letter <= "\udcff" for letter in cell) or ("\ufffd" in cell and not is_utf8)
        )

    with opened() as stream:
        first = _EXCEL.fullmatch(stream.readline(100))
    skipped = 1 if first else 0
    # Spreadsheets write semicolons if the comma is the decimal sign, and tabs in UTF-16.
    marks = first[1] if first else ",;\t" if path.suffix.lower() == ".csv" else "\t,;"
    headers: dict[str, list[str]] = {}
    for mark in marks:
        with opened() as stream, contextlib.suppress(csv.Error):
            headers[mark] = next((row for row in csv.reader(islice(stream, skipped, None), delimiter=mark) if row), [])
    delimiter = max(headers, key=lambda mark: len(headers[mark]), default=",")
    names = [name.strip() for name in headers.get(delimiter, [])]
    if not all(map(is_text, names)):
        raise RecordError(f"{path}: the header is not {encoding_name(encoding)}. Save the file as UTF-8", "not_json")

    def cells() -> Iterator[tuple[int, list[str] | str]]:
        with opened() as stream:
            lines = _Lines(islice(stream, skipped, None), skipped)
            reader = csv.reader(lines, delimiter=delimiter)
            is_header = True
            while True:
                start = lines.begin_row()
                try:
                    # The limit on cell size is global to the process, so raise it only while reading a row.
                    with _LIMIT:
                        before = csv.field_size_limit(_LONGEST_CELL)
                        try:
                            row = next(reader, None)
                            fault = lines.fault(row, delimiter) if row else ""
                        finally:
                            csv.field_size_limit(before)
                except csv.Error as error:
                    yield start, f"cannot be read: {error}"
                    continue
                if row is None:
                    return
                if row and (fault or not is_header):
                    yield start, fault or row
                is_header = is_header and not row

    def rows(columns: Sequence[str]) -> Iterator[_Row]:
        floats, booleans = _typed((row for _, row in cells()), names, columns)
        for line, row in cells():
            if isinstance(row, str):
                yield line, row
            elif len(row) > len(names):
                words = f"the row has {len(row)} cells, but the header has {len(names)}. Quote cells that contain a comma"
                yield line, words
            elif not all(map(is_text, row)):
                yield line, f"the row is not {encoding_name(encoding)}. Save the file as UTF-8"
            else:
                values: dict[str, Any] = dict(zip(names, row, strict=False))
                for name in floats & values.keys():
                    values[name] = float(values[name]) if values[name].strip() not in _EMPTY_IN_CSV else None
                for name in booleans & values.keys():
                    values[name] = _BOOLEANS.get(values[name].strip())
                yield line, values

    return _Source(names, rows, _EMPTY_IN_CSV)


_FLOAT = re.compile(r"-?\d+\.\d+", re.ASCII)


_BOOLEANS = {"True": True, "TRUE": True, "False": False, "FALSE": False}  # pandas; R and spreadsheets


def _typed(rows: Iterator[list[str] | str], names: Sequence[str], columns: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the columns in which pandas turned whole numbers into floats (2 into 2.0), and the boolean columns.

    A column is boolean if all its cells that are not empty are boolean, as in the same table saved with types. pandas turns
    whole numbers into floats if a cell of the column is empty. A column of floats therefore counts as such a column if it
    has an empty cell, or if all its numbers are whole (the empty rows may have been dropped later). All other columns stay
    as they are: columns with other text, or with 2.1 and 2.0 and no empty cell, such as versions.
    """
    candidates = {name: [False, True] for name in columns if name in names}  # has an empty cell, all are whole
    booleans = dict.fromkeys(candidates, False)  # has a boolean
    for row in rows:
        if not candidates and not booleans:
            break
        if isinstance(row, str):
            continue
        values = {name: cell.strip() for name, cell in zip(names, row, strict=False)}
        for name in list(booleans):
            text = values.get(name, "")
            if text in _BOOLEANS:
                booleans[name] = True
            elif text not in _EMPTY_IN_CSV:
                del booleans[name]
        for name, state in list(candidates.items()):
            text = values.get(name, "")
            if text in _EMPTY_IN_CSV:
                state[0] = True
            elif not _FLOAT.fullmatch(text) or repr(float(text)) != text:
                del candidates[name]
            elif not text.endswith(".0"):
                state[1] = False
    floats = {name for name, (has_empty, all_whole) in candidates.items() if has_empty or all_whole}
    return floats, {name for name, has_one in booleans.items() if has_one}


def _needs(package: str, what: str) -> ConfigError:
    return ConfigError(f"reading {what} needs {package}: pip install 'sifthinker[train]'")


def _open_parquet(name: str) -> _Source:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise _needs("pyarrow", "Parquet") from None

    try:
        file = parquet.ParquetFile(name)
    except (OSError, pyarrow.ArrowException) as error:
        raise RecordError(f"{name}: cannot read: {error}", "missing_file") from None

    broken = (ValueError, OverflowError, pyarrow.ArrowException)

    def rows(columns: Sequence[str]) -> Iterator[_Row]:
        try:
            for batch in file.iter_batches(batch_size=256):
                chosen = batch.select(list(columns))
                try:
                    yield from ((None, row) for row in chosen.to_pylist())
                    continue
                except broken:  # one row or several
                    pass
                for number in range(chosen.num_rows):
                    try:
                        (row,) = chosen.slice(number, 1).to_pylist()
                    except broken as error:
                        row = f"cannot be read: {error}"
                    yield None, row
        except (OSError, pyarrow.ArrowException) as error:
            raise RecordError(f"{name}: cannot read further: {error}", "missing_file") from None

    return _Source(file.schema_arrow.names, rows)


def _open_dataset(name: str) -> _Source:
    """Open a Hub dataset, or a folder written by `Dataset.save_to_disk`."""
    splits = Path(name) / "dataset_dict.json"
    if not name.startswith(HUB) and splits.is_file():
        listed = read_json(splits)
        raise _several_splits(name, listed.get("splits") if isinstance(listed, Mapping) else None)
    try:
        import datasets
    except ModuleNotFoundError:
        raise _needs("datasets", "a saved or hub dataset") from None

    dataset: Any
    try:
        if name.startswith(HUB):
            where, _, split = name.removeprefix(HUB).partition(":")
            dataset = datasets.load_dataset(where, split=split or "train", streaming=True)
        else:
            dataset = datasets.load_from_disk(name)
    except (OSError, ValueError, ConnectionError) as error:
        raise RecordError(f"{name}: cannot open the dataset: {str(error).splitlines()[0]}", "missing_file") from None
    names: Any = dataset.column_names
    if isinstance(names, dict):
        raise _several_splits(name, names)
    for column, feature in (dataset.features or {}).items():
        stored = undecoded(feature)
        if stored is not feature:
            dataset = dataset.cast_column(column, stored)

    def rows(columns: Sequence[str]) -> Iterator[_Row]:
        try:
            yield from ((None, row) for row in dataset.select_columns(list(columns)))
        except (OSError, ValueError, ConnectionError) as error:
            raise RecordError(f"{name}: cannot read further: {str(error).splitlines()[0]}", "missing_file") from None

    return _Source(names or list(next(iter(dataset), {})), rows)


def _several_splits(name: str, splits: Any) -> ConfigError:
    names = list(map(str, splits)) if isinstance(splits, Iterable) and not isinstance(splits, str) else []
    example = f", such as {name.rstrip('/')}{':' if name.startswith(HUB) else '/'}{names[0]}" if names else ""
    return ConfigError(f"{name}: the dataset has several splits ({', '.join(names)[:300]}). Choose one{example}")


def undecoded(feature: Any) -> Any:
    """Return the feature of an image column, or of a column with lists of images, without decoding: stored bytes."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        return datasets.List(datasets.Image(decode=False))
    return feature
