"""Images from files: upright, RGB, whole, of a bounded size."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sifthinker.errors import ImageError

MAX_IMAGE_PIXELS = 100_000_000
_SIXTEEN_BITS = 65535
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lay the image on its side
# What Pillow's decoders raise on broken files; which of them depends on the format.
BROKEN_IMAGE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image upright (EXIF orientation applied) and in RGB.

    Raises:
        ImageError: missing, truncated, no image, or more than 100 million pixels.
    """
    return _load(Path(path))[0]


def decode_image(path: str | os.PathLike[str], data: bytes) -> tuple[Image.Image, bool]:
    """The image of a file whose content was read already, as `load_image` gives it; and whether it was stored just so.

    Raises:
        ImageError: as `load_image` does.
    """
    return _load(Path(path), data)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image as `load_image` would give it, from its header alone.

    Raises:
        ImageError: missing, no image, or more than 100 million pixels.
    """
    with _open(Path(path)) as image:
        width, height = image.size
        try:
            sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        except BROKEN_IMAGE as error:
            raise ImageError(f"{path}: the image is broken: {what_is_wrong(error)}", "broken_image") from None
        return (height, width) if sideways else (width, height)


def _load(path: Path, data: bytes | None = None) -> tuple[Image.Image, bool]:
    with _open(path, data) as image:
        try:
            image.load()
            upright = image.getexif().get(ORIENTATION, 1) == 1
            ImageOps.exif_transpose(image, in_place=True)
            return (image, upright) if image.mode == "RGB" else (_to_rgb(image, path), False)
        except BROKEN_IMAGE as error:
            raise ImageError(f"{path}: the image is broken: {what_is_wrong(error)}", "broken_image") from None


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    # Pillow would clip what is above 255.
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ImageError(
            f"{path}: with values from {values.min():g} to {values.max():g} (mode {image.mode}) nobody knows what is white; "
            "save it with 8 or 16 bits a channel",
            "broken_image",
        )
    return Image.fromarray((values / (_SIXTEEN_BITS / 255)).round().astype(np.uint8)).convert("RGB")


def what_is_wrong(error: BaseException) -> str:
    """Pillow's words, without those that name an object in memory."""
    return "no picture of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)


def _open(path: Path, data: bytes | None = None) -> Image.Image:
    if data is None and not path.is_file():
        raise ImageError(f"{path}: no such image", "missing_image")
    try:
        image = Image.open(path if data is None else io.BytesIO(data))
    except BROKEN_IMAGE as error:
        raise ImageError(f"{path}: not an image that can be read: {what_is_wrong(error)}", "broken_image") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        size = f"{image.width}×{image.height}"
        raise ImageError(f"{path}: {size} is more than {MAX_IMAGE_PIXELS:,} pixels", "broken_image")
    return image
