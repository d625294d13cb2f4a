"""Readers: files that others published become Records, and what cannot be read becomes a Reject with its reason."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sifthinker.boxes import Boxes, Space, as_boxes, convert
from sifthinker.errors import BoxError, ConfigError, ImageError, RecordError
from sifthinker.files import inside
from sifthinker.images import image_size
from sifthinker.records import Record, Reject

SourceFormat = Literal["auto", "jsonl", "viscot", "viscot-conversation"]
OutsideBoxes = Literal["clip", "strict"]

# A conversation file states each box twice; below this IoU the two contradict each other. Whole-pixel rounding of
# boxes a few pixels wide alone goes down to about 0.4 in VisCoT's own files.
_LEAST_AGREEMENT = 0.25


# What a line of somebody else's data can go wrong with; all of it becomes a reject.
_FAULTS = (RecordError, ImageError, BoxError, KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError)


def read_source(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    format: SourceFormat = "auto",
    outside: OutsideBoxes = "clip",
    box_space: Space = "unit",
) -> Iterator[Record | Reject]:
    """Read records in file order.

    Formats: `jsonl`, plain records (see `Record`); `viscot`, VisCoT's metadata JSONL (`bboxs` in pixels, `width`,
    `height`); `viscot-conversation`, VisCoT's conversation JSON, whose answers hold boxes as fractions of the padded
    square: it states no image size, so it needs the images.

    Args:
        path: the file.
        images: image root; plain records default to the file's folder.
        format: `auto` goes by the file's first record.
        outside: `clip` boxes that leave the image, noting it, or reject the record (`strict`).
        box_space: space of a plain record's boxes.
    Yields:
        A record, or a reject that says where and why. An id seen before is a reject too.
    Raises:
        RecordError: the file is missing or its beginning is of no known format.
        ConfigError: an unknown format.
    """
    if format not in get_args(SourceFormat):
        raise ConfigError(f"unknown source format {format!r}; wanted one of {', '.join(get_args(SourceFormat))}")
    where = Path(path)
    if format == "auto":
        format = _guess(where)
    root = Path(images) if images is not None else None
    if root is not None and not root.is_dir():
        raise RecordError(f"{root}: no such image folder", "missing_file")
    if format == "viscot":
        found = _viscot(where, root, outside)
    elif format == "viscot-conversation":
        found = _viscot_conversations(where, root, outside)
    else:
        found = _plain(where, root, outside, box_space)
    seen: dict[str, str] = {}
    for item in found:
        if isinstance(item, Record):
            if item.id in seen:
                reason = f"{item.source}: id {item.id!r} stands at {seen[item.id]} already"
                yield Reject(item.source, item.id, "duplicate_id", reason)
                continue
            seen[item.id] = item.source
        yield item


def _guess(path: Path) -> SourceFormat:
    """By the first line that is not blank, however long it is."""
    try:
        with open(path, "rb") as stream:
            start = next((line for line in stream if line.strip()), b"").removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    if start.startswith(b"["):
        return "viscot-conversation"
    try:
        row = json.loads(start)
    except (ValueError, RecursionError):
        raise RecordError(
            f"{path}: the first line is not JSON; wanted JSON lines or a JSON list of conversations", "not_json"
        ) from None
    return "viscot" if isinstance(row, dict) and "bboxs" in row else "jsonl"


def _rows(path: Path) -> Iterator[tuple[str, Any] | Reject]:
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


def _plain(path: Path, root: Path | None, outside: OutsideBoxes, space: Space) -> Iterator[Record | Reject]:
    base = root or path.parent
    for item in _rows(path):
        if isinstance(item, Reject):
            yield item
            continue
        place, row = item
        try:
            notes: tuple[str, ...] = ()
            if isinstance(row, dict) and "boxes" in row:
                stated = row.get("size")
                size = (stated[0], stated[1]) if isinstance(stated, list) and len(stated) == 2 else None
                if size is None and space not in ("unit", "per_mille"):
                    size = image_size(inside(base, str(row.get("image", ""))))
                boxes, notes = _to_unit(row["boxes"], space, size, outside, place)
                row = {**row, "boxes": boxes.tolist(), "notes": [*row.get("notes", ()), *notes]}
            yield Record.from_json(row, place)
        except _FAULTS as error:
            yield _reject(place, row, error)


def _viscot(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    index = -1
    for item in _rows(path):
        index += 1
        if isinstance(item, Reject):
            yield item
            continue
        place, row = item
        try:
            size = int(row["width"]), int(row["height"])
            boxes, notes = _to_unit(row["bboxs"], "pixel", size, outside, place)
            if root is not None:
                inside(root, str(row["image"]))
            yield Record(
                id=f"{row['dataset']}-{row['split']}-{index:06d}",
                image=_text(row, "image", place),
                question=_text(row, "question", place),
                answer=_text(row, "answer", place),
                boxes=tuple(tuple(box) for box in boxes.tolist()),
                dataset=str(row["dataset"]),
                split=str(row["split"]),
                size=size,
                notes=notes,
                source=place,
            )
        except _FAULTS as error:
            yield _reject(place, row, error)


def _viscot_conversations(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {error}", "not_json") from None
    if not isinstance(rows, list):
        raise RecordError(f"{path}: wanted a JSON list of conversations, got {type(rows).__name__}", "not_json")
    for index, row in enumerate(rows):
        place = f"{path.name}[{index}]"
        try:
            yield _conversation(row, index, root, outside, place)
        except _FAULTS as error:
            yield _reject(place, row, error)


def _conversation(row: Any, index: int, root: Path | None, outside: OutsideBoxes, place: str) -> Record:
    image, marked = row["image"][0], row["image"][1]
    if root is None:
        raise RecordError(
            f"{place}: this form states no image size, which its boxes need; give the image folder with --images",
            "missing_image_root",
        )
    name, _, pixels = marked.partition("###")
    if name != image or not pixels:
        raise RecordError(f"{place}: wanted 'image###[x1, y1, x2, y2]' as the second image, got {marked!r}")
    size = image_size(inside(root, image))
    asked, told = row["conversations"][0]["value"], row["conversations"][3]["value"]
    fractions = as_boxes([json.loads(row["conversations"][1]["value"])])
    square = convert(fractions, source="padded_square", target="pixel", size=size)
    _agree(square, json.loads(pixels), size, place)
    boxes, notes = _to_unit(square, "pixel", size, outside, place)
    question = asked.replace("<image>", "").strip()
    question = question.removesuffix(_VISCOT_REQUEST).strip()
    return Record(
        id=f"{row['dataset']}-{row['split']}-{row.get('question_id', index)}",
        image=image,
        question=question,
        answer=_text({"answer": told}, "answer", place),
        boxes=tuple(tuple(box) for box in boxes.tolist()),
        dataset=str(row["dataset"]),
        split=str(row["split"]),
        size=size,
        notes=notes,
        source=place,
    )


# VisCoT's own words, which ask for a box; ours ask for a chain.
_VISCOT_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."


def _agree(square: Boxes, pixels: list[float], size: tuple[int, int], place: str) -> None:
    """Hold the two boxes of a conversation against each other, each side within two pixels or a fair IoU."""
    stated = np.asarray([pixels], dtype=np.float64)
    if stated.shape != (1, 4) or not np.isfinite(stated).all():
        raise RecordError(f"{place}: the pixel box {pixels} has not four numbers", "bad_box")
    if np.abs(stated - square).max() <= 2 + 0.001 * max(size):
        return
    low, high = np.maximum(stated[0, :2], square[0, :2]), np.minimum(stated[0, 2:], square[0, 2:])
    shared = float(np.clip(high - low, 0, None).prod())
    areas = [float((box[0, 2:] - box[0, :2]).prod()) for box in (stated, square)]
    if shared < _LEAST_AGREEMENT * (sum(areas) - shared):
        raise RecordError(
            f"{place}: its pixel box {pixels} and its padded-square box {np.round(square[0], 1).tolist()} (in pixels of "
            f"an image of {size[0]}×{size[1]}) contradict each other; is this the right image?",
            "boxes_disagree",
        )


def _to_unit(
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


def _text(row: Any, name: str, place: str) -> str:
    """A field of text; numbers are common in answers, null is not an answer."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"{place}: {name} is {str(value)[:80]}, wanted text", f"blank_{name}")
    return str(value).strip()


def _reject(place: str, row: Any, error: Exception) -> Reject:
    identity = str(row.get("id") or row.get("question_id") or "") if isinstance(row, dict) else ""
    if isinstance(error, RecordError):
        return Reject(place, identity, error.code, str(error))
    if isinstance(error, ImageError):
        return Reject(place, identity, error.code, f"{place}: {error}")
    if isinstance(error, KeyError | IndexError):
        return Reject(place, identity, "missing_key", f"{place}: lacks {error}")
    return Reject(place, identity, "bad_record", f"{place}: {error}")
