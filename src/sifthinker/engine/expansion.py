"""Reverse expansion: from the boxes that answer a question outwards to the whole image.

Read in reverse, the result is a path of narrowing focus: whole image → (distractor) → merged → expanded → target.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sifthinker.boxes import WHOLE_IMAGE, Boxes, snap_boxes, union_box
from sifthinker.coordinates import UNIT, Frame
from sifthinker.engine.settings import Expansion
from sifthinker.records import Box, Record

FocusKind = Literal["whole", "distractor", "merged", "expanded", "target"]


@dataclass(frozen=True, slots=True)
class Focus:
    """One focus of a path: its kind, and its boxes (unit xyxy, rounded to the numbers that a chain can state)."""

    kind: FocusKind
    boxes: tuple[Box, ...]


FocusPath = tuple[Focus, ...]


def expand(record: Record, *, seed: int = 0, settings: Expansion | None = None, frame: Frame = UNIT) -> FocusPath:
    """Return the focus path of a record in the order in which a model looks: whole image first, target last.

    The function is pure: the same arguments (id and boxes of the record) give the same path. The last focus is the record's
    boxes, rounded. Each focus except the distractor contains the next one. Without the distractor, the hierarchical IoU with
    the target never decreases. Equal neighbours are merged into the later one.

    Args:
        record: only its id and boxes are used.
        seed: random seed of the dataset.
        settings: see `Expansion`.
        frame: coordinates of the chain; boxes are rounded to them.
    Source: docs/method/index.md. The union of the overlapping expanded boxes and the union box of all have the same hull,
        so one merged focus stands for both.
    """
    settings = settings or Expansion()
    draw = random.Random(hashlib.sha256(f"{seed}\0{record.id}".encode()).digest())
    grid = frame.grid(settings.decimals)
    target = snap_boxes(record.boxes, grid)
    expanded = snap_boxes(_expand_sides(target, settings, draw), grid)
    merged = union_box(expanded)
    distractor = _distractor(merged, settings, draw, grid)
    stops: list[tuple[FocusKind, Boxes | None]] = [
        ("whole", np.array([WHOLE_IMAGE])),
        ("distractor", distractor),
        ("merged", merged),
        ("expanded", expanded),
        ("target", target),
    ]
    path: list[Focus] = []
    for kind, boxes in stops:
        if boxes is None:
            continue
        focus = Focus(kind, tuple(tuple(box) for box in boxes.tolist()))
        if path and path[-1].boxes == focus.boxes:
            path.pop()
        path.append(focus)
    return tuple(path)


def _expand_sides(boxes: Boxes, settings: Expansion, draw: random.Random) -> Boxes:
    border = np.array(WHOLE_IMAGE)
    if settings.margin is not None:
        return np.clip(boxes + np.array([-1, -1, 1, 1]) * settings.margin, 0, 1)
    moves = np.array(
        [
            [settings.alpha * draw.uniform(1 - settings.jitter, 1 + settings.jitter) for _ in range(4)]
            for _ in range(len(boxes))
        ]
    )
    return boxes + moves * (border - boxes)


def _distractor(merged: Boxes, settings: Expansion, draw: random.Random, grid: tuple[int, int]) -> Boxes | None:
    """Return a box of about the size of the merged box, without overlap; None if not drawn or if there is no room."""
    # Draw every number even if it is not used, so one setting does not change the random numbers of the others.
    wanted, scale = draw.random() < settings.distractor, draw.uniform(0.7, 1.3)
    pick, across, along = draw.random(), draw.random(), draw.random()
    if not wanted:
        return None
    columns, rows = grid
    x1, y1, x2, y2 = (int(side) for side in np.rint(merged[0] * (grid * 2)))
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    # Positions of the top left corner, in grid steps, for which the box is beside, above or below the merged box.
    strips = [
        (left, right, top, bottom)
        for left, right, top, bottom in (
            (0, x1 - width, 0, rows - height),
            (x2, columns - width, 0, rows - height),
            (0, columns - width, 0, y1 - height),
            (0, columns - width, y2, rows - height),
        )
        if left <= right and top <= bottom
    ]
    if not strips:
        return None
    sizes = [(right - left + 1) * (bottom - top + 1) for left, right, top, bottom in strips]
    goal = pick * sum(sizes)
    chosen = 0
    while goal >= sizes[chosen]:
        goal -= sizes[chosen]
        chosen += 1
    left, right, top, bottom = strips[chosen]
    x = left + int(across * (right - left + 1))
    y = top + int(along * (bottom - top + 1))
    box: Boxes = np.array([[x, y, x + width, y + height]]) / (grid * 2)
    return box


def path_row(record: Record, path: FocusPath) -> dict[str, Any]:
    """Return a record's focus path as a JSON object: id, question, answer, boxes (unit xyxy), path (outermost first)."""
    return {
        "id": record.id,
        "question": record.question,
        "answer": record.answer,
        "boxes": [list(box) for box in record.boxes],
        "path": [{"kind": focus.kind, "boxes": [list(box) for box in focus.boxes]} for focus in path],
    }
