"""Images from files: upright, RGB, whole, of a bounded size."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageOps

from sifthinker.errors import ImageError

MAX_IMAGE_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lay the image on its side
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image upright (EXIF orientation applied) and in RGB.

    Raises:
        ImageError: missing, truncated, no image, or more than 100 million pixels.
    """
    with _open(Path(path)) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
        except _BROKEN as error:
            raise ImageError(f"{path}: the image is broken: {error}") from None


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image as `load_image` would give it, from its header alone.

    Raises:
        ImageError: missing, no image, or more than 100 million pixels.
    """
    with _open(Path(path)) as image:
        width, height = image.size
        sideways = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (height, width) if sideways else (width, height)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise ImageError(f"{path}: no such image")
    try:
        image = Image.open(path)
    except _BROKEN as error:
        raise ImageError(f"{path}: not an image that can be read: {error}") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ImageError(f"{path}: {image.width}×{image.height} is more than {MAX_IMAGE_PIXELS:,} pixels")
    return image
