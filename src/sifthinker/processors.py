"""Effects of a model's image processor: bounds of the image area, cropped parts, and images that it cannot process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sifthinker.boxes import as_unit_boxes

_LONG = 10  # aspect ratio; longer shapes are tested
_LARGE = 4096  # side of the test image that shows the unit of a processor's area bounds


def bound_area(processor: Any, max_pixels: int) -> str:
    """Set the maximum image area of a processor that resizes by area. `save_pretrained` saves the bound.

    The minimum area is lowered to the bound if necessary. A small image that is enlarged to the minimum area can exceed the
    bound, because its sides are rounded up.

    Args:
        processor: processor of a model; its image processor is changed.
        max_pixels: maximum area of a resized image, in pixels.
    Returns:
        "" if the bound was set; otherwise a phrase that describes how the processor resizes images.
    """
    images = processor.image_processor
    if not resizes_by_area(images):
        return describe_resizing(images)
    size = _size(images)
    most = max_pixels * _frames(images)
    images.size = type(images.size)(shortest_edge=min(size["shortest_edge"], most), longest_edge=most)
    return ""


def resizes_by_area(images: Any) -> bool:
    """Return whether an image processor keeps the aspect ratio and limits the area by two bounds, as Qwen-VL's does."""
    size = _size(images)
    both = bool(size.get("shortest_edge") and size.get("longest_edge"))
    return both and hasattr(images, "merge_size") and hasattr(images, "get_number_of_image_patches")


def describe_resizing(images: Any) -> str:
    """Describe how an image processor resizes images, as a phrase that follows its name.

    Example:
        >>> from types import SimpleNamespace
        >>> describe_resizing(SimpleNamespace(size={"height": 896, "width": 896}))
        'resizes every image to 896×896'
    """
    size, crop = _size(images), _size(images, "crop_size")
    if resizes_by_area(images):
        return f"keeps the image area between {size['shortest_edge']:,} and {size['longest_edge']:,} pixels"
    if grids := getattr(images, "image_grid_pinpoints", None):
        side = _shorter(size)
        largest = max(height * width for height, width in grids)
        return f"cuts every image into tiles of {side}×{side}, up to {largest // (side * side)}, plus an overview"
    if getattr(images, "max_tiles", None):
        return f"cuts every image into tiles of {images.tile_size}×{images.tile_size}, up to {images.max_tiles}"
    if getattr(images, "max_patches", None) and getattr(images, "crop_to_patches", False):
        shape = f"{size['width']}×{size['height']}"
        return f"cuts every image into tiles of {shape}, up to {images.max_patches}, plus an overview"
    if longest := size.get("longest_edge"):
        tile = _size(images, "max_image_size").get("longest_edge")
        tiles = f" and cuts it into tiles of {tile}×{tile}" if tile and getattr(images, "do_image_splitting", True) else ""
        return f"{'resizes' if tile else 'shrinks'} the longer side of an image to {longest} pixels{tiles}"
    if _crops(images):
        centre = f"{crop['width']}×{crop['height']}"
        return f"resizes the shorter side of an image to {_shorter(size)} pixels and crops the centre to {centre}"
    if size.get("height") and size.get("width"):
        return f"resizes every image to {size['width']}×{size['height']}"
    return "resizes images in its own way"


def image_fault(processor: Any, size: tuple[int, int]) -> str:
    """Return why a model's processor cannot process an image of this size; "" if it can.

    A processor that resizes by area computes this from the size. Others fail on some long and narrow images; such a size is
    tested with a blank image.

    Args:
        processor: processor of the model.
        size: (width, height) in pixels.
    """
    images = processor.image_processor
    width, height = size
    try:
        if resizes_by_area(images):
            images.get_number_of_image_patches(height, width)
        elif max(size) > _LONG * min(size):
            images(images=[Image.new("RGB", size)], return_tensors="pt")
    except (ValueError, RuntimeError) as error:
        return f"the processor of this model cannot process an image of {width}×{height}: {error}"
    return ""


def visible_part(processor: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of an image that a model sees: all of it, unless the processor crops the centre, as CLIP's does.

    Args:
        processor: processor of the model.
        size: (width, height) of the image in pixels.
    Returns:
        A unit xyxy box.
    Example:
        >>> from types import SimpleNamespace
        >>> clip = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
        >>> visible_part(SimpleNamespace(image_processor=clip), (200, 100))
        (0.25, 0.0, 0.75, 1.0)
    """
    images = processor.image_processor
    if not _crops(images):
        return (0.0, 0.0, 1.0, 1.0)
    bound, crop = _size(images), _size(images, "crop_size")
    if short := bound.get("shortest_edge"):
        resized = [short * side // min(size) for side in size]
    else:
        resized = [bound["width"], bound["height"]]
    low, high = [], []
    for side, kept in zip(resized, (crop["width"], crop["height"]), strict=True):
        start = max(0, (side - kept) // 2)
        low.append(start / side)
        high.append(min(side, start + kept) / side)
    return (low[0], low[1], high[0], high[1])


def cropped_share(processor: Any, boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of each box that a model does not see because its processor crops the image.

    Args:
        processor: processor of the model.
        boxes: (N, 4) unit xyxy.
        size: (width, height) of the image in pixels.
    Returns:
        (N,) shares of the boxes' areas, from 0 (fully visible) to 1 (not visible).
    Raises:
        BoxError: see `boxes.as_unit_boxes`.
    """
    array = as_unit_boxes(boxes)
    part = np.array(visible_part(processor, size))
    low, high = np.maximum(array[:, :2], part[:2]), np.minimum(array[:, 2:], part[2:])
    seen = np.clip(high - low, 0, None).prod(axis=1)
    share: NDArray[np.float64] = 1 - seen / (array[:, 2:] - array[:, :2]).prod(axis=1)
    return share


def _size(images: Any, name: str = "size") -> dict[str, int]:
    """Return a size of an image processor as a dict, without unset keys."""
    size = getattr(images, name, None)
    return {key: value for key, value in dict(size).items() if value is not None} if size else {}


def _shorter(size: Mapping[str, int]) -> int:
    return size.get("shortest_edge") or min(size["height"], size["width"])


def _crops(images: Any) -> bool:
    """Return whether an image processor crops images. Processors with tiles do not; for them, the crop size is the tile."""
    return bool(
        getattr(images, "do_center_crop", False)
        and _size(images, "crop_size")
        and not getattr(images, "image_grid_pinpoints", None)
    )


def _frames(images: Any) -> int:
    """Return how often a processor counts each pixel of an image in its area bounds.

    Qwen-VL's counts it once. GLM-4V's treats an image as a video of two frames, and counts it twice.
    """
    tried = copy.copy(images)
    most = (_LARGE // 2) ** 2
    tried.size = type(images.size)(shortest_edge=1, longest_edge=most)
    area = tried.get_number_of_image_patches(_LARGE, _LARGE) * images.patch_size**2
    return round(float(most / area))
