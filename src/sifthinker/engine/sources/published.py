"""Readers of published datasets with boxes: VisCoT in both forms, and RefCOCO-style lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import Boxes, convert
from sifthinker.engine.sources.rows import (
    field_of,
    image_below,
    list_or_lines,
    name_of,
    numbers_of,
    path_of,
    records,
    rows,
    size_of,
    text_of,
    to_unit,
)
from sifthinker.errors import RecordError
from sifthinker.images import image_size
from sifthinker.literals import OutsideBoxes
from sifthinker.records import Record, Reject, as_text, shown

# A conversation file states each box twice. Below this IoU the two contradict each other. In VisCoT's own files, rounding
# to whole pixels lowers the IoU of very small boxes to about 0.4.
_LEAST_AGREEMENT = 0.25


def viscot(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    def record(index: int, place: str, row: Any) -> Record:
        size = size_of(row, place)
        boxes, notes = to_unit(field_of(row, "bboxs", place, "a list of pixel boxes"), "pixel", size, outside, place)
        dataset, split = text_of(row, "dataset", place), text_of(row, "split", place)
        return Record(
            id=f"{dataset}-{split}-{index:06d}",
            image=path_of(row, "image", place, root),
            question=text_of(row, "question", place),
            answer=text_of(row, "answer", place),
            boxes=tuple(tuple(box) for box in boxes.tolist()),
            dataset=dataset,
            split=split,
            size=size,
            notes=notes,
            source=place,
        )

    return records(rows(path), record)


def viscot_conversations(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """Yield conversations from a JSON list, as published, or from JSON lines."""
    return records(list_or_lines(path), lambda index, place, row: _conversation(row, index, root, outside, place))


def _conversation(row: Any, index: int, root: Path | None, outside: OutsideBoxes, place: str) -> Record:
    image, pixels = image_and_box(field_of(row, "image", place, "a list of an image and its marked box"), place)
    asked, square_box, told = turns_of(field_of(row, "conversations", place, "a list of four turns"), place)
    if root is None:
        raise RecordError(
            f"{place}: this format states no image size, and its boxes need it. Set the image folder with --images",
            "missing_image_root",
        )
    size = image_size(image_below(root, image, exists=True))
    square = convert(_one_box(square_box, "the second turn", place), source="padded_square", target="pixel", size=size)
    _agree(square, pixels, size, place)
    boxes, notes = to_unit(square, "pixel", size, outside, place)
    dataset, split = text_of(row, "dataset", place), text_of(row, "split", place)
    return Record(
        id=f"{dataset}-{split}-{name_of(row, ('question_id',), index)}",
        image=image,
        question=asked_in(asked),
        answer=told.strip(),
        boxes=tuple(tuple(box) for box in boxes.tolist()),
        dataset=dataset,
        split=split,
        size=size,
        notes=notes,
        source=place,
    )


def image_and_box(images: Any, place: str) -> tuple[str, Boxes]:
    """Return the image of a conversation and its pixel box, (1, 4).

    Mixed files also contain entries in LLaVA's format, which have one image and no box.
    """
    if isinstance(images, str) or (isinstance(images, list) and len(images) == 1):
        raise RecordError(
            f"{place}: image must be [image, 'image###[x1, y1, x2, y2]'], got an entry without a box: {shown(images)}",
            "no_box",
        )
    if not isinstance(images, list) or len(images) != 2 or not all(isinstance(name, str) for name in images):
        raise RecordError(f"{place}: image must be [image, 'image###[x1, y1, x2, y2]'], got {shown(images)}")
    name, _, pixels = images[1].partition("###")
    if name != images[0] or not pixels:
        raise RecordError(
            f"{place}: the second image must be {shown(images[0])} with its box, 'image###[x1, y1, x2, y2]', got "
            f"{shown(images[1])}"
        )
    return name, _one_box(pixels, "the box of the second image", place, "bad_box")


def turns_of(turns: Any, place: str) -> tuple[str, str, str]:
    """Return the question, the box (fractions of the padded square) and the answer of a conversation."""
    if not isinstance(turns, list) or len(turns) != 4:
        got = f"{len(turns)} turns" if isinstance(turns, list) else shown(turns)
        lacking = isinstance(turns, list) and len(turns) < 4
        raise RecordError(
            f"{place}: conversations must be four turns: question, box, image, answer; got {got}"
            + ", so the answer is missing" * lacking,
            "missing_key" if lacking else "bad_record",
        )
    for number, (turn, speaker) in enumerate(zip(turns, ("human", "gpt", "human", "gpt"), strict=True), 1):
        if not isinstance(turn, Mapping) or turn.get("from", speaker) != speaker:
            raise RecordError(f"{place}: turn {number} must be from {speaker!r} and have a value, got {shown(turn)}")
    said = [as_text(field_of(turn, "value", f"{place}: turn {number}"), "value", f"{place}: turn {number}")
            for number, turn in enumerate(turns, 1)]  # fmt: skip
    return said[0], said[1], said[3]


def _one_box(text: str, what: str, place: str, code: str = "bad_record") -> Boxes:
    """Parse a text such as "[0.1, 0.2, 0.6, 0.6]" to a (1, 4) array."""
    try:
        box = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{place}: {what} must be [x1, y1, x2, y2], got {shown(text)}", code) from None
    return numbers_of([box], place)


# VisCoT's own request for a box. Prompts of sifthinker ask for a chain instead.
_VISCOT_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."


def asked_in(asked: str) -> str:
    """Return the question without the request and without the image placeholder at its start or end."""
    words = asked.strip()
    words = words.removeprefix("<image>") if words.startswith("<image>") else words.removesuffix("<image>")
    return words.strip().removesuffix(_VISCOT_REQUEST).strip()


def _agree(square: Boxes, stated: Boxes, size: tuple[int, int], place: str) -> None:
    """Check that the two boxes of a conversation agree: each side within about two pixels, or a sufficient IoU."""
    if np.abs(stated - square).max() <= 2 + 0.001 * max(size):
        return
    low, high = np.maximum(stated[0, :2], square[0, :2]), np.minimum(stated[0, 2:], square[0, 2:])
    shared = float(np.clip(high - low, 0, None).prod())
    areas = [float((box[0, 2:] - box[0, :2]).prod()) for box in (stated, square)]
    if shared < _LEAST_AGREEMENT * (sum(areas) - shared):
        raise RecordError(
            f"{place}: the pixel box {stated[0].tolist()} and the padded-square box {np.round(square[0], 1).tolist()} (in "
            f"pixels of an image of {size[0]}×{size[1]}) contradict each other. Check that this is the right image",
            "boxes_disagree",
        )


def refcoco(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """Yield RefCOCO-style JSON lines: `img_path, expression, bbox` (pixels, x1 y1 x2 y2), `width, height`.

    The answer repeats the expression, so a model can learn only the box. Train on such data with `rewards: {answer: 0}`.
    """

    def record(index: int, place: str, row: Any) -> Record:
        size = size_of(row, place)
        boxes, notes = to_unit([field_of(row, "bbox", place, "a pixel box")], "pixel", size, outside, place)
        expression = text_of(row, "expression", place)
        dataset = text_of(row, "dataset_name", place) if row.get("dataset_name") else path.stem
        dataset = dataset.rstrip("/").rpartition("/")[2]
        split = text_of(row, "split", place) if row.get("split") else "train"
        return Record(
            id=f"{dataset}-{split}-{name_of(row, ('sent_id',), index)}",
            image=path_of(row, "img_path", place, root),
            question=f'Where is "{expression}"?' if expression else "",
            answer=expression,
            boxes=tuple(tuple(box) for box in boxes.tolist()),
            dataset=dataset,
            split=split,
            size=size,
            notes=notes,
            source=place,
        )

    return records(rows(path), record)
