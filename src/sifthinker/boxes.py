"""Boxes: conversion between the coordinate spaces of datasets and models, and IoU of sets and pairs.

Inside sifthinker, boxes are float64 arrays of shape (N, 4), xyxy, as fractions of the *original* image (`unit`).
`convert` converts all other boxes on the way in and out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sifthinker.errors import BoxError
from sifthinker.literals import Denominator, Space

Boxes = NDArray[np.float64]

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)

# Qwen2-VL and Qwen2.5-VL: patch 14, merged 2 by 2; the pixel bounds of the published 7B preprocessor config.
QWEN_FACTOR = 28
QWEN_MIN_PIXELS = 56 * 56
QWEN_MAX_PIXELS = 16384 * 28 * 28
_MAX_ASPECT_RATIO = 200


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Validate boxes in any space.

    Args:
        boxes: (N, 4) xyxy, or anything that NumPy converts to it; `[]` gives (0, 4).
    Returns:
        (N, 4) float64.
    Raises:
        BoxError: wrong shape, a value that is not finite, or a box without area (x1 >= x2 or y1 >= y2).
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BoxError(f"boxes must be numbers of shape (N, 4), got {_short(boxes)} ({error})") from None
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(f"boxes must have shape (N, 4), got {array.shape}. Put a single box in a list")
    if not np.isfinite(array).all():
        raise BoxError(f"box {_first(array, ~np.isfinite(array).all(axis=1))} is not finite. Remove NaN and infinity")
    no_area = np.asarray((array[:, :2] >= array[:, 2:]).any(axis=1))
    if no_area.any():
        raise BoxError(f"box {_first(array, no_area)} has no area, expected x1 < x2 and y1 < y2")
    return array


# Advice about boxes that must be fractions and are not, if no option can set their space.
TO_FRACTIONS = "divide pixels by the image's width and height, and thousandths by 1000"


def as_unit_boxes(boxes: ArrayLike, *, advice: str = "") -> Boxes:
    """Validate boxes as `as_boxes` does, and check that they lie in [0, 1].

    Args:
        boxes: (N, 4) unit xyxy.
        advice: advice for the message about boxes outside the image.
    Raises:
        BoxError: as `as_boxes`, or a coordinate outside [0, 1].
    """
    array = as_boxes(boxes)
    outside = np.asarray(((array < 0) | (array > 1)).any(axis=1))
    if outside.any():
        raise BoxError(
            f"box {_first(array, outside)} is outside the image, expected fractions in [0, 1]{advice and f'; {advice}'}"
        )
    return array


_FRACTIONS = ("unit", "padded_square")
# In an image of at most this many pixels a side, a box of pixels can look like fractions.
_FEW_PIXELS = 8


def other_space(boxes: ArrayLike, space: Space, size: tuple[int, int] | None = None) -> tuple[str, str]:
    """Describe boxes whose numbers look like another space, because most would be clipped or lie within one pixel.

    Args:
        boxes: (N, 4) finite numbers.
        space: the stated space.
        size: (width, height) of the image, if known.
    Returns:
        What is wrong and how to convert; ("", "") if nothing looks wrong.
    Example:
        >>> other_space([[10, 10, 90, 90]], "unit")[0]
        'box [10.0, 10.0, 90.0, 90.0] looks like pixels or thousandths, expected fractions from 0 to 1'
    """
    array = np.asarray(boxes, dtype=np.float64)
    greatest = np.abs(array).max(axis=1)
    if space in _FRACTIONS:
        wrong, looks, expected = greatest > 2, "pixels or thousandths", "fractions from 0 to 1"
        convert_by = TO_FRACTIONS
    elif space == "per_mille" and (greatest > 2000).any():
        wrong, looks, expected = greatest > 2000, "pixels", "thousandths from 0 to 1000"
        convert_by = "multiply by 1000 and divide by the image's width and height"
    elif space == "per_mille" or size is None or max(size) > _FEW_PIXELS:
        expected = "thousandths from 0 to 1000" if space == "per_mille" else "pixels"
        wrong, looks = greatest <= 1 + 1e-6, "fractions of the image"
        convert_by = "multiply by the image's width and height"
    else:
        return "", ""
    if not wrong.any():
        return "", ""
    return f"box {array[int(np.argmax(wrong))].tolist()} looks like {looks}, expected {expected}", convert_by


def other_names(space: Space) -> str:
    """Return the spaces that boxes may be in if `other_space` finds that they are not in this one, for a message."""
    return "pixel or per_mille" if space in _FRACTIONS else "unit or pixel" if space == "per_mille" else "unit"


# A file needs this many boxes, or this many large images, before a common pattern means anything.
_ENOUGH = 10
_LARGE, _SMALL = 1250, 800  # pixels: sides well past 1000, and well below


def suspect_space(
    boxes: Sequence[ArrayLike],
    space: Space,
    sizes: Sequence[tuple[int, int] | None],
    *,
    past: ArrayLike = (),
    rejected: int = 0,
) -> list[str]:
    """Describe why the boxes of a file may be in another space. Each box by itself may be valid, see `other_space`.

    Args:
        boxes: for each image, (N, 4) xyxy in `space`, inside the image.
        space: the stated space.
        sizes: (width, height) of each image, None if unknown.
        past: (N, 4) xyxy in `space`, as in the file: boxes that extend past the image. `boxes` contains them clipped.
        rejected: number of these that were rejected instead and are not in `boxes`.
    Returns:
        Sentences with counts; empty if nothing looks wrong.
    Example:
        >>> suspect_space([[[0, 0, 1000, 990]]] * 12, "pixel", [(4000, 3000)] * 12)[0][:57]
        'no box of 12 images with a side longer than 1,250 pixels '
    """
    found = []
    arrays = [np.asarray(array, dtype=np.float64).reshape(-1, 4) for array in boxes]
    outside = np.asarray(past, dtype=np.float64).reshape(-1, 4)
    count = sum(map(len, arrays)) + rejected
    # A few boxes past the image border are noise in the data. More than half of a short file is not.
    if 2 * len(outside) > count or (len(outside) >= _ENOUGH and 5 * len(outside) > count):
        clipped = len(outside) - rejected
        parts = ((clipped, "would be clipped"), (rejected, "rejected"))
        done = ", ".join(f"{number} {what}" for number, what in parts if number)
        thousandths = space in ("pixel", "resized") and 1 < outside.max() <= 1000
        found.append(
            f"{len(outside)} of {count} boxes end past the image ({done}). "
            + (
                "None of their numbers exceeds 1000, so they may be thousandths (box space per_mille) "
                if thousandths
                else f"They may be in another space than {space} "
            )
            + "or pixels of images of another size"
        )
    known = [(array, size) for array, size in zip(arrays, sizes, strict=True) if size is not None and len(array)]
    large = [array for array, size in known if max(size) > _LARGE]
    if space in ("pixel", "resized") and len(large) >= _ENOUGH:
        greatest = max(float(array.max()) for array, _ in known)
        if greatest <= 1000:
            found.append(
                f"no box of {len(large)} images with a side longer than {_LARGE:,} pixels reaches past {greatest:g}. They "
                "may be thousandths (box space per_mille)"
            )
    small = [(array, size) for array, size in known if min(size) < _SMALL]
    if space == "per_mille" and len(small) >= _ENOUGH:
        inside = sum(bool((array <= np.tile(size, 2)).all()) for array, size in small)
        if inside == len(small):
            found.append(
                f"no box of {inside} images with a side shorter than {_SMALL} pixels reaches past its image's pixels. They "
                "may be pixels (box space pixel)"
            )
    return found


def check_bounds(factor: int, min_pixels: int, max_pixels: int) -> None:
    """Check the arguments of `smart_resize`.

    Raises:
        BoxError: one of them is not positive. A minimum area of 0 means no bound.
    """
    for name, value in (("factor", factor), ("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if not isinstance(value, int | float | np.integer | np.floating) or not value >= (name != "min_pixels"):
            raise BoxError(f"{name} must be a positive number of pixels, got {value!r:.100}")


def smart_resize(
    size: tuple[int, int],
    *,
    factor: int = QWEN_FACTOR,
    min_pixels: int = QWEN_MIN_PIXELS,
    max_pixels: int = QWEN_MAX_PIXELS,
) -> tuple[int, int]:
    """Return the size to which Qwen2-VL and Qwen2.5-VL processors resize an image.

    Each side becomes a multiple of `factor`, and the area is brought into [min_pixels, max_pixels]. The aspect ratio is kept
    as closely as that allows. Halves are rounded to even, as in the processors (Python's `round`).

    Args:
        size: (width, height) in pixels.
        factor: patch size times merge size; 28 for Qwen2-VL and Qwen2.5-VL.
        min_pixels: minimum area.
        max_pixels: maximum area.
    Returns:
        (width, height) in pixels.
    Raises:
        BoxError: a side or a bound is not positive, or one side is more than 200 times the other. The processors refuse
            such images too.
    Source: the formula of the Qwen2-VL image processor in transformers; a test compares the two.
    """
    width, height = _check_size(size)
    check_bounds(factor, min_pixels, max_pixels)
    if max(width, height) / min(width, height) > _MAX_ASPECT_RATIO:
        raise BoxError(f"image of {width}×{height} is too narrow: Qwen-VL accepts an aspect ratio of at most 200")
    new_width, new_height = (round(side / factor) * factor for side in (width, height))
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width, new_height = (max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height))
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return new_width, new_height


def convert(
    boxes: ArrayLike,
    *,
    source: Space,
    target: Space,
    size: tuple[int, int] | None = None,
    factor: int = QWEN_FACTOR,
    min_pixels: int = QWEN_MIN_PIXELS,
    max_pixels: int = QWEN_MAX_PIXELS,
) -> Boxes:
    """Convert boxes between coordinate spaces. Nothing is rounded or clipped.

    Spaces: `unit` fractions of the image; `pixel` of the original image; `per_mille` 0–1000 (Qwen3-VL, InternVL);
    `resized` pixels of the image after Qwen2.5-VL's smart resize; `padded_square` fractions of the square on which
    LLaVA and VisCoT centre the image. The padding before the image is rounded down to a whole pixel.

    Args:
        boxes: (N, 4) xyxy in `source`.
        source: space of `boxes`.
        target: space of the result.
        size: (width, height) of the original image. Every space except `unit` and `per_mille` needs it.
        factor: see `smart_resize`. Only `resized` uses this and the next two.
        min_pixels: see `smart_resize`.
        max_pixels: see `smart_resize`.
    Returns:
        (N, 4) float64 in `target`.
    Raises:
        BoxError: invalid boxes (see `as_boxes`), an unknown space, or a missing `size`.
    """
    array = as_boxes(boxes)
    scales = []
    for space in (source, target):
        if space not in get_args(Space):
            raise BoxError(f"unknown box space {space!r}, expected one of {', '.join(get_args(Space))}")
        if space == "unit":
            scales.append((np.ones(4), np.zeros(4)))
        elif space == "per_mille":
            scales.append((np.full(4, 1000.0), np.zeros(4)))
        elif size is None:
            raise BoxError(f"box space {space!r} needs size=(width, height) of the original image")
        elif space == "pixel":
            scales.append((np.tile(_check_size(size), 2).astype(np.float64), np.zeros(4)))
        elif space == "resized":
            resized = smart_resize(size, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
            scales.append((np.tile(resized, 2).astype(np.float64), np.zeros(4)))
        else:
            width, height = _check_size(size)
            side = max(width, height)
            offset = np.tile([(side - width) // 2, (side - height) // 2], 2)
            scales.append((np.tile([width, height], 2) / side, offset / side))
    (source_scale, source_offset), (target_scale, target_offset) = scales
    if source == target:
        return array.copy()
    return (array - source_offset) / source_scale * target_scale + target_offset


def union_box(boxes: ArrayLike) -> Boxes:
    """Return the smallest box around all boxes: (1, 4), or (0, 4) without boxes."""
    array = as_boxes(boxes)
    if not len(array):
        return array
    return np.concatenate([array[:, :2].min(axis=0), array[:, 2:].max(axis=0)])[None]


def round_boxes(boxes: ArrayLike, decimals: int = 3) -> Boxes:
    """Round unit boxes. A side that would vanish keeps a length of one unit of the last decimal.

    Args:
        boxes: (N, 4) unit xyxy.
        decimals: decimal places.
    Returns:
        (N, 4) unit xyxy, each with x1 < x2 and y1 < y2.
    """
    return snap_boxes(boxes, (10**decimals, 10**decimals))


def snap_boxes(boxes: ArrayLike, grid: tuple[int, int]) -> Boxes:
    """Move the sides of unit boxes to the nearest lines of a grid. A side that would vanish keeps a length of one step.

    Args:
        boxes: (N, 4) unit xyxy.
        grid: number of steps across the image's width and height.
    Returns:
        (N, 4) unit xyxy, each with x1 < x2 and y1 < y2.
    Example:
        >>> snap_boxes([[0.251, 0, 0.501, 1]], (4, 1))
        array([[0.25, 0.  , 0.5 , 1.  ]])
    """
    array = as_unit_boxes(boxes)
    steps = np.array(grid)
    low = np.rint(array[:, :2] * steps)
    high = np.rint(array[:, 2:] * steps)
    # A sliver gets the cell in which it begins.
    low = np.where(low == high, np.minimum(np.floor(array[:, :2] * steps), steps - 1), low)
    high = np.maximum(high, low + 1)
    snapped: Boxes = np.concatenate([low / steps, high / steps], axis=1)
    return snapped


def set_iou(pred: ArrayLike, gt: ArrayLike) -> float:
    """Return the exact IoU of two regions, each the union of its boxes: area(∪pred ∩ ∪gt) / area(∪pred ∪ ∪gt).

    Args:
        pred: (N, 4) xyxy.
        gt: (M, 4) xyxy in the same space.
    Returns:
        IoU in [0, 1]; 1 if both are empty, 0 if one is.
    Raises:
        BoxError: see `as_boxes`.
    Source: docs/method/index.md; SIFThinker's hierarchical IoU, region level.
    """
    return _set_iou(as_boxes(pred), as_boxes(gt))


def paired_iou(pred: ArrayLike, gt: ArrayLike, *, denominator: Denominator = "max") -> float:
    """Return the mean IoU under the one-to-one assignment that maximises the summed IoU.

    The sum is divided by the larger count, so missing, spurious and duplicate boxes all lower the score. The released
    implementation divides by the smaller count: `denominator="min"`.

    Args:
        pred: (N, 4) xyxy.
        gt: (M, 4) xyxy in the same space.
        denominator: divide by the `max` or the `min` of N and M.
    Returns:
        IoU in [0, 1]; 1 if both are empty, 0 if one is.
    Raises:
        BoxError: invalid boxes (see `as_boxes`), or an unknown denominator.
    Source: docs/method/index.md; SIFThinker's hierarchical IoU, box level.
    """
    return _paired_iou(as_boxes(pred), as_boxes(gt), denominator)


def hierarchical_iou(pred: ArrayLike, gt: ArrayLike, *, denominator: Denominator = "max") -> float:
    """Return (set_iou + paired_iou) / 2, which compares regions both as one shape and box by box.

    The arguments, return value and errors are those of `paired_iou`.
    """
    pred, gt = as_boxes(pred), as_boxes(gt)
    paired = _paired_iou(pred, gt, denominator)
    # Nearly every area has one box. Its region is that box.
    return paired if len(pred) == len(gt) == 1 else (_set_iou(pred, gt) + paired) / 2


def pairwise_iou(pred: ArrayLike, gt: ArrayLike) -> NDArray[np.float64]:
    """Return the IoU of every box of `pred` with every box of `gt`: (N, 4), (M, 4) → (N, M)."""
    return _pairwise_iou(as_boxes(pred), as_boxes(gt))


def _pairwise_iou(pred: Boxes, gt: Boxes) -> NDArray[np.float64]:
    low = np.maximum(pred[:, None, :2], gt[None, :, :2])  # (N, M, 2)
    high = np.minimum(pred[:, None, 2:], gt[None, :, 2:])  # (N, M, 2)
    shared: NDArray[np.float64] = np.clip(high - low, 0, None).prod(axis=2)  # (N, M)
    pred_area = (pred[:, 2:] - pred[:, :2]).prod(axis=1)
    gt_area = (gt[:, 2:] - gt[:, :2]).prod(axis=1)
    union = pred_area[:, None] + gt_area[None] - shared
    # Areas below the smallest float are zero. Such boxes overlap no other box.
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _paired_iou(pred: Boxes, gt: Boxes, denominator: Denominator) -> float:
    if denominator not in ("max", "min"):
        raise BoxError(f"denominator must be 'max' or 'min', got {denominator!r}")
    count_max, count_min = max(len(pred), len(gt)), min(len(pred), len(gt))
    if count_min == 0:
        return 1.0 if count_max == 0 else 0.0
    iou = _pairwise_iou(pred, gt)
    if count_min == 1:
        best = float(iou.max())
    else:
        from scipy.optimize import linear_sum_assignment  # takes 0.2 s to import, and one box does not need it

        rows, columns = linear_sum_assignment(iou, maximize=True)
        best = float(iou[rows, columns].sum())
    return min(1.0, best / (count_max if denominator == "max" else count_min))


def _set_iou(pred: Boxes, gt: Boxes) -> float:
    if not len(pred) or not len(gt):
        return 1.0 if len(pred) == len(gt) else 0.0
    if len(pred) == 1 and len(gt) == 1:
        return float(_pairwise_iou(pred, gt)[0, 0])
    # Cut the plane along every box side. Each cell between neighbouring cuts lies entirely inside or outside a box.
    everything = np.concatenate([pred, gt])
    xs, ys = np.unique(everything[:, 0::2]), np.unique(everything[:, 1::2])
    widths, heights = np.diff(xs), np.diff(ys)
    shared = union = 0.0
    # Work in blocks of rows to limit memory: 10⁵ boxes with arbitrary coordinates would make 4·10¹⁰ cells.
    block = max(1, 4_000_000 // len(widths))
    for start in range(0, len(heights), block):
        stop = min(start + block, len(heights))
        in_pred, in_gt = (_covered(boxes, xs, ys, start, stop) for boxes in (pred, gt))
        area = heights[start:stop, None] * widths
        shared += float(area[in_pred & in_gt].sum())
        union += float(area[in_pred | in_gt].sum())
    return min(1.0, shared / union) if union > 0 else 0.0


def _covered(boxes: Boxes, xs: NDArray[np.float64], ys: NDArray[np.float64], start: int, stop: int) -> NDArray[np.bool_]:
    """Return which cells of rows start..stop of the grid lie in a box: (stop - start, len(xs) - 1)."""
    left, right = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(xs, boxes[:, 2])
    top = np.clip(np.searchsorted(ys, boxes[:, 1]), start, stop) - start
    bottom = np.clip(np.searchsorted(ys, boxes[:, 3]), start, stop) - start
    # A two-dimensional difference array: +1 at two corners, -1 at the others; its double running sum counts the boxes.
    steps = np.zeros((stop - start + 1, len(xs)), dtype=np.int32)
    np.add.at(steps, (top, left), 1)
    np.add.at(steps, (bottom, left), -1)
    np.add.at(steps, (top, right), -1)
    np.add.at(steps, (bottom, right), 1)
    covered: NDArray[np.bool_] = steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return covered


def _check_size(size: Sequence[int]) -> tuple[int, int]:
    width, height = size
    if width <= 0 or height <= 0:
        raise BoxError(f"size must be (width, height) in positive pixels, got {tuple(size)}")
    return width, height


def _first(array: Boxes, wrong: ArrayLike) -> str:
    index = int(np.argmax(wrong))
    return f"{index} {array[index].tolist()}"


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
