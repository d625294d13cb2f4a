"""Shared functions of all readers of third-party data: lines, checked fields, unit boxes, and faults as rejects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import Boxes, other_space
from sifthinker.coordinates import Resizer
from sifthinker.errors import BoxError, ImageError, RecordError
from sifthinker.files import JsonLine, encoding_name, encoding_of, inside, json_fault, json_lines
from sifthinker.literals import OutsideBoxes, Space
from sifthinker.records import LONGEST_SIDE, Record, Reject, as_number, as_text, as_whole, shown

# Errors from a line of third-party data; each becomes a reject. Readers check fields with the functions below, whose
# messages contain the field name. The built-in errors are a last resort.
FAULTS = (RecordError, ImageError, BoxError, KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError)

_BLANK = re.compile(r"\s*")


# ------------------------------------------------------------------------------------------------------------- text


def read_json(path: Path) -> Any:
    """Read a file that contains one JSON value.

    Raises:
        RecordError: the file is missing, not UTF-8 or UTF-16, or not JSON.
    """
    encoding = encoding_of(path)
    try:
        return json.loads(path.read_text(encoding=encoding))
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: {_undecodable(encoding, error)}", "not_json") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {json_fault(error)}", "not_json") from None


def rows(path: Path) -> Iterator[tuple[str, Any] | Reject]:
    """Yield (place, value) for every JSON line, every item of a JSON list, or every JSON object across lines.

    A line that is not JSON becomes a reject, and reading continues.

    Raises:
        RecordError: the file is missing, or is an incomplete JSON list.
    """
    is_first = True
    for line in json_lines(path):
        place = f"{path.name}:{line.number}"
        items = _items(path, line) if is_first and line.text and (line.fault or isinstance(line.value, list)) else None
        if items is not None:
            yield from ((f"{path.name}[{index}]", item) for index, item in enumerate(items))
            return
        yield Reject(place, "", "not_json", line.fault) if line.fault else (place, line.value)
        is_first = False


def list_or_lines(path: Path) -> Iterator[tuple[str, Any] | Reject]:
    """Yield the same as `rows`, for files that are published as one JSON list and sometimes kept as JSON lines.

    Raises:
        RecordError: the file is missing, or is a broken JSON list or cannot be decoded.
    """
    try:
        with open(path, encoding=encoding_of(path), errors="replace") as stream:
            is_list = stream.read(1000).lstrip("\ufeff \r\n\t").startswith("[")
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    if not is_list:
        yield from rows(path)
        return
    yield from ((f"{path.name}[{index}]", row) for index, row in enumerate(read_json(path)))


def _items(path: Path, first: JsonLine) -> list[Any] | None:
    """Return the items of a file with one JSON list, or with JSON objects across lines, as `jq` and editors write them.

    Args:
        path: the file.
        first: its first line that is not blank.
    Returns:
        The items; None if each line is separate JSON.
    Raises:
        RecordError: the file is one JSON value that is broken or incomplete.
    """
    opening = first.text.lstrip()[0]
    if opening not in "[{":
        return None
    decoder = json.JSONDecoder()
    found: list[Any] = []
    encoding = encoding_of(path)
    try:
        text = path.read_text(encoding=encoding)
        position = _after_blanks(text, 0)
        while position < len(text):
            value, end = decoder.raw_decode(text, position)
            found.append(value)
            position = _after_blanks(text, end)
    except (ValueError, RecursionError) as error:
        if opening == "{" or not first.fault or _has_lines(path):
            return None
        words = (
            _undecodable(encoding, error)
            if isinstance(error, UnicodeDecodeError)
            else f"the JSON list is incomplete: {json_fault(error)}"
        )
        raise RecordError(f"{path}: {words}", "not_json") from None
    if opening == "{":
        return found
    return found[0] if len(found) == 1 else None


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANK.match(text, position)
    return blanks.end() if blanks else position


def _has_lines(path: Path) -> bool:
    """Whether a line after the first is a JSON object by itself. The last line does not count: it may end a broken list."""
    return any(isinstance(line.value, dict) for line, _ in pairwise(islice(json_lines(path), 1, 50)))


def _undecodable(encoding: str, error: UnicodeDecodeError) -> str:
    return f"not {encoding_name(encoding)} at byte {error.start}. Save the file as UTF-8"


# ----------------------------------------------------------------------------------------------------------- fields


def records(lines: Iterable[tuple[str, Any] | Reject], make: Callable[[int, str, Any], Record]) -> Iterator[Record | Reject]:
    """Yield a record or a reject for every line.

    Args:
        lines: (place, row), or rejects, which pass through.
        make: makes a record from the line number (from 0, including rejects), place and row. May raise any of `FAULTS`.
    """
    for index, item in enumerate(lines):
        if isinstance(item, Reject):
            yield item
            continue
        place, row = item
        try:
            yield make(index, place, row)
        except FAULTS as error:
            yield reject(place, row, error)


def field_of(row: Any, name: str, place: str, wanted: str = "") -> Any:
    """Return a required value of a row.

    Args:
        row: the row, which should be a JSON object.
        name: the key.
        place: file and line, for messages.
        wanted: what the value should be, for the message about a missing key.
    Raises:
        RecordError: the row is not an object, or the key is missing.
    """
    if not isinstance(row, Mapping):
        raise RecordError(f"{place}: expected a JSON object, got {shown(row)}", "not_an_object")
    if name not in row:
        raise RecordError(f"{place}: lacks {name!r}{wanted and f' ({wanted})'}", "missing_key")
    return row[name]


def text_of(row: Any, name: str, place: str) -> str:
    """Return a text field, stripped. Numbers count as text, because answers often are numbers; null and NaN do not.

    Raises:
        RecordError: the key is missing, or its value is not text.
    """
    return as_text(field_of(row, name, place, "text"), name, place).strip()


def path_of(row: Any, name: str, place: str, root: Path | None = None) -> str:
    """Return a path field, as written in the row.

    Raises:
        RecordError: the key is missing, its value is not text, or it leads out of `root`.
    """
    value = field_of(row, name, place, "a path")
    if not isinstance(value, str):
        code = "blank_field" if value is None else "bad_record"
        raise RecordError(f"{place}: {name} must be the path of an image, got {shown(value)}", code)
    if root is not None:
        image_below(root, value)
    return value.strip()


def image_below(root: Path, image: str, *, exists: bool = False) -> Path:
    """Return the file of an image path from data.

    Args:
        root: image folder.
        image: path relative to it.
        exists: whether the file must exist.
    Raises:
        RecordError: the path cannot be used, or leads outside `root`.
        ImageError: there is no such file.
    """
    try:
        path = inside(root, image)
    except RecordError as error:
        if error.code != "path_outside_root":
            raise
        raise RecordError(f"{error}. Set --images to a folder above it (in a recipe: images)", error.code) from None
    if exists and not path.is_file():
        raise ImageError(f"{path}: no such image. Check the path, and --images (in a recipe: images)", "missing_image")
    return path


def whole_of(row: Any, name: str, place: str) -> int:
    """Return a field with a whole number; 640.0, "640" and "640.0" are 640.

    Raises:
        RecordError: the key is missing, or its value is not a whole number.
    """
    value = field_of(row, name, place, "a whole number")
    number = as_whole(value)
    if number is None:
        raise RecordError(f"{place}: {name} must be a whole number, got {shown(value)}")
    return number


def size_of(row: Any, place: str) -> tuple[int, int]:
    """Return the fields width and height, in pixels.

    Raises:
        RecordError: a side is missing, not a whole number, or not positive.
    """
    width, height = whole_of(row, "width", place), whole_of(row, "height", place)
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
        raise RecordError(f"{place}: width and height must be an image size in pixels, got {shown(width)} × {shown(height)}")
    return width, height


def name_of(row: Any, names: tuple[str, ...], index: int) -> str:
    """Return the first of these fields that identifies a row, else its index. 7, 7.0 and "7" are the same."""
    for name in names:
        value = row.get(name)
        number = as_whole(value)
        if number is not None:
            return str(number)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return str(index)


def to_unit(
    boxes: Any,
    space: Space,
    size: tuple[int, int] | None,
    outside: OutsideBoxes,
    place: str,
    advice: str = "",
    resizer: Resizer | None = None,
    origin: Callable[[int], str] = lambda index: "",
) -> tuple[Boxes, tuple[str, ...]]:
    """Return the boxes of a record in unit coordinates, with a note for each clipped box.

    Args:
        boxes: boxes as in the source.
        space: the stated space.
        size: (width, height) of the image, for spaces that need it.
        outside: `clip` or `strict`.
        place: file and line, for messages.
        advice: advice for boxes that look like another space.
        resizer: for `resized`, see `Resizer.convert`; Qwen2.5-VL's by default.
        origin: the end of a message about a box, by its number from 0: how the source states it.
    Raises:
        RecordError: there is no box, or a box has no area, is not numeric, looks like another space, lies outside the
            image, or (strict) extends past its border.
    """
    resizer = resizer or Resizer()
    array = numbers_of(boxes, place)
    fault, convert_by = other_space(array, space, size)
    if fault:
        raise RecordError(f"{place}: {fault}; {advice or convert_by}", "bad_box")
    degenerate = (array[:, 0] >= array[:, 2]) | (array[:, 1] >= array[:, 3])
    if degenerate.any():
        worst = array[int(np.argmax(degenerate))].tolist()
        raise RecordError(f"{place}: box {worst} has no area, expected x1 < x2 and y1 < y2", "degenerate_box")
    with np.errstate(over="ignore"):  # a side that overflows is clipped like any other past the border
        unit = resizer.convert(array, source=space, target="unit", size=size)
    clipped = np.clip(unit, 0, 1)
    notes = []
    # The border in the coordinates of the boxes.
    if space == "per_mille" or not size:
        image = "0 to 1000" if space == "per_mille" else "0 to 1"
    else:
        width, height = resizer.size(size) if space == "resized" else size
        image = f"{'resized to ' if space == 'resized' else ''}width {width}, height {height}"
    # Ignore a billionth: it is rounding noise of the division.
    for index, (before, after, original) in enumerate(zip(unit, clipped, array.tolist(), strict=True)):
        if before[0] >= before[2] or before[1] >= before[3]:
            raise RecordError(f"{place}: box {original} has no area after division by the image size", "degenerate_box")
        if after[0] >= after[2] or after[1] >= after[3]:
            words = f"box {original} lies wholly outside the image ({image}){origin(index)}"
            raise RecordError(f"{place}: {words}", "box_outside")
        if np.abs(before - after).max() <= 1e-9:
            continue
        if outside == "strict":
            raise RecordError(f"{place}: box {original} ends past the image ({image}){origin(index)}", "box_outside")
        notes.append(f"{place}: box {original} ends past the image ({image}); clipped")
    return clipped, tuple(notes)


def numbers_of(boxes: Any, place: str) -> Boxes:
    """Return boxes of any space and form as numbers.

    Args:
        boxes: at least one list of four numbers. Numbers can be text ("10").
        place: file and line, for messages.
    Returns:
        (N, 4) float64, finite.
    Raises:
        RecordError: there is no box, or a box is not four finite numbers. Booleans are not numbers.
    """
    if isinstance(boxes, str | bytes | Mapping) or not isinstance(boxes, Iterable):
        raise RecordError(f"{place}: boxes must be a list of [x1, y1, x2, y2], got {shown(boxes)}", "bad_box")
    listed = list(boxes)
    if not listed:
        raise RecordError(f"{place}: boxes is empty, expected at least one box", "no_box")
    found = [_four_numbers(box) for box in listed]
    for box, numbers in zip(listed, found, strict=True):
        if numbers is None:
            hint = ". Put a single box in a list" if isinstance(box, int | float) else ""
            raise RecordError(f"{place}: a box must be four finite numbers, got {shown(box)}{hint}", "bad_box")
    return np.array(found, dtype=np.float64)


def _four_numbers(box: Any) -> list[float] | None:
    if isinstance(box, str | bytes | Mapping) or not isinstance(box, Iterable):
        return None
    numbers = [number for number in map(as_number, box) if number is not None]
    return numbers if len(numbers) == len(list(box)) == 4 else None


def reject(place: str, row: Any, error: Exception) -> Reject:
    """Return the reject for a fault in a row."""
    value = row.get("id") or row.get("question_id") if isinstance(row, Mapping) else None
    identity = str(value) if isinstance(value, str | int | float) else ""
    if isinstance(error, RecordError | ImageError):
        code = error.code
    elif isinstance(error, BoxError):
        code = "bad_box"
    else:
        code = "missing_key" if isinstance(error, KeyError | IndexError) else "bad_record"
    words = f"lacks {error}" if isinstance(error, KeyError | IndexError) else str(error)
    return Reject(place, identity, code, words)
