"""What every reader of other people's data needs: lines, boxes in unit coordinates, and faults as rejects."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sifthinker.boxes import Boxes, Space, convert
from sifthinker.errors import BoxError, ImageError, RecordError
from sifthinker.records import Record, Reject

OutsideBoxes = Literal["clip", "strict"]

# What a line of somebody else's data can go wrong with; all of it becomes a reject.
FAULTS = (RecordError, ImageError, BoxError, KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError)


def rows(path: Path) -> Iterator[tuple[str, Any] | Reject]:
    """(place, value) of every line; a line that is not JSON is a reject, and reading goes on."""
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
        for number, line in enumerate(stream, 1):
            place = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                yield place, json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                yield Reject(place, "", "not_json", f"{place}: not a line of JSON: {error}")


def records(lines: Iterable[tuple[str, Any] | Reject], make: Callable[[int, str, Any], Record]) -> Iterator[Record | Reject]:
    """A record of every line, or the reject that says why not.

    Args:
        lines: (place, row), or rejects, which pass through.
        make: number of the line from 0, rejects counted too, its place, its row → the record; may raise any of `FAULTS`.
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


def read_json(path: Path) -> Any:
    """A file that is one JSON value.

    Raises:
        RecordError: missing, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {error}", "not_json") from None


def to_unit(
    boxes: Any, space: Space, size: tuple[int, int] | None, outside: OutsideBoxes, place: str
) -> tuple[Boxes, tuple[str, ...]]:
    """Boxes of a record in unit coordinates, with a note for each that was clipped.

    Raises:
        RecordError: none, degenerate, not numbers, wholly outside, or (strict) past the border.
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{place}: boxes are not numbers: {str(boxes)[:80]}", "bad_box") from None
    if array.size == 0:
        raise RecordError(f"{place}: boxes is empty; wanted at least one", "no_box")
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise RecordError(f"{place}: boxes must be finite numbers of shape (N, 4), got {str(boxes)[:80]}", "bad_box")
    degenerate = (array[:, 0] >= array[:, 2]) | (array[:, 1] >= array[:, 3])
    if degenerate.any():
        worst = array[int(np.argmax(degenerate))].tolist()
        raise RecordError(f"{place}: box {worst} has no area (x1 >= x2 or y1 >= y2)", "degenerate_box")
    unit = convert(array, source=space, target="unit", size=size)
    clipped = np.clip(unit, 0, 1)
    notes = []
    image = f"width {size[0]}, height {size[1]}" if size else "0 to 1"
    # A billionth is the noise of the division, not a box past the border.
    for before, after, original in zip(unit, clipped, array.tolist(), strict=True):
        if np.abs(before - after).max() <= 1e-9:
            continue
        if outside == "strict":
            raise RecordError(f"{place}: box {original} ends past the image ({image})", "box_outside")
        if after[0] >= after[2] or after[1] >= after[3]:
            raise RecordError(f"{place}: box {original} lies wholly outside the image ({image})", "box_outside")
        notes.append(f"{place}: box {original} ends past the image ({image}); clipped")
    return clipped, tuple(notes)


def text_of(row: Any, name: str, place: str) -> str:
    """A field of text; numbers are common in answers, null is not an answer."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"{place}: {name} is {str(value)[:80]}, wanted text", "blank_field")
    return str(value).strip()


def reject(place: str, row: Any, error: Exception) -> Reject:
    identity = str(row.get("id") or row.get("question_id") or "") if isinstance(row, dict) else ""
    if isinstance(error, RecordError):
        return Reject(place, identity, error.code, str(error))
    if isinstance(error, ImageError):
        return Reject(place, identity, error.code, f"{place}: {error}")
    if isinstance(error, KeyError | IndexError):
        return Reject(place, identity, "missing_key", f"{place}: lacks {error}")
    return Reject(place, identity, "bad_record", f"{place}: {error}")
