"""The final boxes of an answer, for benchmarks that ask for boxes: read strictly, and as third-party scorers do."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from sifthinker.boxes import Boxes, hierarchical_iou, pairwise_iou, union_box
from sifthinker.chain import find_regions, region_boxes, stated_areas
from sifthinker.coordinates import Frame
from sifthinker.evaluation.benchmark import Headline, Metric, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.thinker import Thought

_NONE = np.zeros((0, 4))
_ENOUGH = 0.5  # IoU; MDETR and lmms-eval include exactly 0.5, earlier work does not
_NOISE = 1e-9  # rounding error of fractions; pixels are exact
_SIDE = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*"
_BOX = re.compile(rf"[\[(]{_SIDE},{_SIDE},{_SIDE},{_SIDE}[\])]")


def last_area(text: str, *, frame: Frame) -> Boxes:
    """Return the boxes of the last area of a chain. There are none if that area is unreadable, even if earlier ones are not.

    A missing or unexpected depth does not matter, because the benchmarks ask for boxes only.

    Args:
        text: the chain.
        frame: what the numbers of its boxes stand for.
    Returns:
        (N, 4) unit xyxy.
    """
    start = text.rfind("<area>")
    found = [] if start < 0 else find_regions(text[start:], with_depth=None, frame=frame)
    return region_boxes(found[-1]) if found else _NONE


def last_readable_area(text: str, *, frame: Frame) -> Boxes:
    """Return the boxes of the last area that is JSON and has a `bbox_2d` of four numbers in each region.

    Numbers may have any form: more decimals than the format allows, fractions of thousandths or pixels, or a minus sign.
    Boxes are clipped to the image. Boxes that are empty after that are dropped.

    Args:
        text: the chain.
        frame: what the numbers of its boxes stand for.
    Returns:
        (N, 4) unit xyxy.
    """
    found = _NONE
    for area in stated_areas(text):
        boxes = np.array([frame.read(box) for box in area if box is not None], dtype=np.float64).reshape(-1, 4)
        if area and len(boxes) == len(area) and np.isfinite(boxes).all():
            found = boxes
    found = np.clip(found, 0, 1)
    return found[(found[:, 0] < found[:, 2]) & (found[:, 1] < found[:, 3])]


def one_box(thought: Thought) -> Boxes:
    """Return the final box of a thought, read strictly: the last area, which must have exactly one box.

    A direct answer has no area. It must be one box in fractions and nothing else: "[0.1, 0.2, 0.5, 0.6]".

    Returns:
        (1, 4) unit xyxy, or (0, 4).
    """
    if thought.direct:
        return _box_of(_BOX.fullmatch((thought.answer or "").strip().removesuffix(".")))
    boxes = last_area(thought.text, frame=thought.frame)
    return boxes if len(boxes) == 1 else _NONE


def box_around(thought: Thought) -> Boxes:
    """Return the final box of a thought, read leniently: the smallest box around all boxes of the last readable area.

    For a direct answer it is the first box anywhere in the text, as in lmms-eval.

    Returns:
        (1, 4) unit xyxy, or (0, 4).
    """
    if thought.direct:
        return _box_of(_BOX.search(thought.answer or ""))
    return union_box(last_readable_area(thought.text, frame=thought.frame))


def _box_of(match: re.Match[str] | None) -> Boxes:
    if match is None:
        return _NONE
    x1, y1, x2, y2 = map(float, match.groups())
    if not (x1 < x2 <= 1 and y1 < y2 <= 1):  # the pattern has no minus signs
        return _NONE
    return np.array([[x1, y1, x2, y2]])


def _iou(boxes: Boxes, question: Question) -> float | None:
    """Return the IoU of at most one box with the box around a question's boxes; None for a question without boxes."""
    if not question.boxes:
        return None
    return float(pairwise_iou(boxes, union_box(question.boxes))[0, 0]) if len(boxes) else 0.0


def _hit(boxes: Boxes, question: Question) -> float | None:
    iou = _iou(boxes, question)
    return None if iou is None else float(iou >= _ENOUGH - _NOISE)


def _hierarchical(boxes: Boxes, thought: Thought, question: Question) -> float | None:
    """Return the HIoU with a question's boxes, 0 without a box; None for a question without boxes or a direct answer."""
    if thought.direct or not question.boxes:
        return None
    return hierarchical_iou(boxes, question.boxes) if len(boxes) else 0.0


def _strict_hiou(thought: Thought, question: Question) -> float | None:
    return _hierarchical(last_area(thought.text, frame=thought.frame), thought, question)


def _lenient_hiou(thought: Thought, question: Question) -> float | None:
    return _hierarchical(last_readable_area(thought.text, frame=thought.frame), thought, question)


_READ = "the last area that is JSON with four numbers of any form per region, clipped to the image"
LENIENT = (
    f"uses the box around all boxes of {_READ}, as SIFThinker's release intends (its code fails on several boxes and blanks "
    "the answer); for a direct answer, the first box in it, as in lmms-eval"
)
_ABOUT_HIOU = f"HIoU of {_READ}"
_HIOU, _LENIENT_HIOU = "HIoU of the last area", "HIoU of the last readable area"

# Metrics of chains. The general "final HIoU" uses the last valid area. These use the last written area, and ignore depth.
HIOU_METRICS = (
    Metric(_HIOU, "hierarchical IoU of the last area; 0 if it is unreadable", _strict_hiou),
    Metric(_LENIENT_HIOU, _ABOUT_HIOU, _lenient_hiou),
)

# For benchmarks whose target is one box.
METRICS = (
    Metric(
        "box accuracy",
        "share of answers whose last area is one box with an IoU of at least 0.5",
        lambda t, q: _hit(one_box(t), q),
    ),
    Metric("box IoU", "IoU of the last area; 0 if it is not exactly one box", lambda t, q: _iou(one_box(t), q)),
    Metric(
        "lenient box accuracy",
        "share of answers whose box around the last area has an IoU of at least 0.5",
        lambda t, q: _hit(box_around(t), q),
    ),
    Metric("lenient box IoU", "IoU of the box around the last area", lambda t, q: _iou(box_around(t), q)),
)


def hiou(
    name: str, about: str, *, keep: Callable[[Row], bool] | None = None, by: Callable[[Row], str] | None = None
) -> Headline:
    """Return a headline of `HIOU_METRICS`; see `mean_of` for `keep` and `by`."""
    return Headline(name, about, mean_of(_HIOU, keep, by), mean_of(_LENIENT_HIOU, keep, by), _ABOUT_HIOU)
