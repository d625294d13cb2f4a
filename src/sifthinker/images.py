"""Read image files: upright, RGB, complete, of limited size. Transparent pixels become white."""

from __future__ import annotations

import base64
import io
import logging
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sifthinker.errors import ImageError
from sifthinker.literals import ImageFormat

logger = logging.getLogger(__name__)

MAX_IMAGE_PIXELS = 100_000_000
_SIXTEEN_BITS = 65535
# A 16-bit photo whose values all lie below was taken with 10, 12 or 14 bits and not scaled.
_NOT_SCALED = 1 << 14
_warned: set[str] = set()
_BITS_PER_SAMPLE = 258  # a TIFF tag
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 mean rotated by 90 degrees
_SIXTEEN_BIT_COLOURS = "RGB;16B"  # Pillow's name for them in a PNG
_STORED_SIZE = (256, 257)  # TIFF tags: width and height
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag and its value for negatives
# Formats that trainers and browsers decode alike. Other files are converted.
_COMMON_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
# Modes with only one way to convert to RGB.
_PLAIN_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "LAB")
_FAST = 1  # PNG compression level for images sent once: a third of the time of the usual level 6, and a fourteenth larger
_EXACT_SIDE = 256  # images up to this side are small without JPEG, which would blur drawn boxes
_JPEG_QUALITY = 90
# Errors of Pillow's decoders for broken files; they depend on the format.
BROKEN_IMAGE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image: upright (EXIF orientation applied), RGB, with transparent parts on white.

    Only the first frame of an animation is used.

    Raises:
        ImageError: the file is missing, truncated or not an image, or it has no pixels or more than 100 million.
    """
    return _load(Path(path)).image


def decode_image(path: str | os.PathLike[str], data: bytes) -> tuple[Image.Image, bool]:
    """Decode the content of an image file as `load_image` does. Also return whether the file can be used unchanged.

    It can if every trainer and browser shows this same image: a JPEG, PNG or WebP that is upright, RGB, opaque and still.

    Raises:
        ImageError: see `load_image`.
    """
    found = _load(Path(path), data)
    return found.image, found.common


def as_loaded(image: Image.Image, where: str) -> Image.Image:
    """Convert an image that Pillow opened or made as `load_image` does: upright, RGB, on white, of limited size.

    The image itself does not change, but its pixels are loaded. The current frame of an animation is used.

    Args:
        image: an image of any mode.
        where: origin of the image, for messages.
    Raises:
        ImageError: the image is broken, has no pixels or more than 100 million, or its value for white is unknown.
    Example:
        >>> as_loaded(Image.new("RGBA", (2, 1), (255, 0, 0, 0)), "a clear pixel").getpixel((0, 0))
        (255, 255, 255)
    """
    if fault := format_fault(image) or size_fault(image.size):
        raise ImageError(f"{where}: {fault}", "broken_image")
    try:
        sample = _sample(image)
        sixteen = _is_sixteen_bit(image)
        _read_pixels(image)
        _check_size(where, image)
        if sixteen:
            _warn_if_not_scaled(image, where)
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return _to_rgb(upright, where, image)
        # The lower bytes of 16-bit colours are lost, so compare the upper bytes of the transparent colour.
        return _on_white(upright, where, None, "" if sample == _SIXTEEN_BIT_COLOURS else sample, image)
    except BROKEN_IMAGE as error:
        raise _broken(where, error) from None


def check_image(path: str | os.PathLike[str]) -> tuple[Image.Image, bool]:
    """Return the image as `load_image` does, and whether other trainers see the same image.

    They decode with Pillow and convert to RGB. That drops transparency and all but 8 bits per channel.

    Raises:
        ImageError: see `load_image`.
    """
    found = _load(Path(path))
    if found.plain:
        return found.image, True
    with Image.open(path) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about dropped transparency
        theirs = ImageOps.exif_transpose(image).convert("RGB")
    return found.image, np.array_equal(np.asarray(theirs), np.asarray(found.image))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (width, height) of the image from `load_image`, reading only the header.

    Raises:
        ImageError: the file is missing or not an image, or it has no pixels or more than 100 million.
    """
    with _open(Path(path)) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow versions differ in the size of a rotated TIFF: upright or as stored
            width, height = (int(image.tag_v2[tag]) for tag in _STORED_SIZE)  # type: ignore[attr-defined]
        if width == height or (image.format == "PNG" and not _tells_orientation(Path(path))):
            return width, height  # Pillow would read the complete PNG for its orientation, which is rare
        try:
            sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        except BROKEN_IMAGE as error:
            raise _broken(path, error) from None
        return (height, width) if sideways else (width, height)


def _tells_orientation(png: Path) -> bool:
    """Whether a PNG has a chunk that may contain its orientation. Reads no pixels."""
    with png.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)  # its content and checksum
    return False


def same_shape(stated: tuple[int, int], actual: tuple[int, int]) -> bool:
    """Whether an image has the stated (width, height), or is a scaled copy, within one pixel of rounding."""
    (stated_width, stated_height), (width, height) = stated, actual
    return abs(stated_width * height - stated_height * width) <= max(*stated, *actual)


def shape_fault(name: str, stated: tuple[int, int], actual: tuple[int, int]) -> str:
    """Return a message if an image has another shape than its source states; "" if `same_shape`."""
    if same_shape(stated, actual):
        return ""
    return (
        f"{name} must have the shape {stated[0]}×{stated[1]} as stated by the source, got {actual[0]}×{actual[1]}. Check "
        "that it is the right image"
    )


def size_fault(size: tuple[int, int]) -> str:
    """Return the fault of a (width, height): no pixels or too many; "" if valid. Call it before allocating memory."""
    if 0 < size[0] * size[1] <= MAX_IMAGE_PIXELS:
        return ""
    return f"the size must be 1 to {MAX_IMAGE_PIXELS:,} pixels, got {size[0]}×{size[1]}"


def format_fault(image: Image.Image) -> str:
    """Return the fault of a file that Pillow identifies but cannot decode, such as HDF5; "" if it can be decoded."""
    return f"{image.format} is not supported" if isinstance(image, ImageFile.StubImageFile) else ""


def what_is_wrong(error: BaseException) -> str:
    """Return Pillow's error message, without messages that only describe an object in memory."""
    return "unknown image format" if isinstance(error, UnidentifiedImageError) else str(error)


def data_url(image: Image.Image, *, max_side: int | None = None, form: ImageFormat | None = None) -> str:
    """Return an image as a data URL, for a page or a request: exact up to 256 pixels per side (PNG), else JPEG.

    Args:
        image: RGB or grey.
        max_side: shrink a larger image to this longest side in pixels; None keeps its size.
        form: `png` (exact) or `jpeg` (smaller); None chooses by size.
    Example:
        >>> data_url(Image.new("RGB", (64, 48)))[:22]
        'data:image/png;base64,'
    """
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side))
    kind = form or ("png" if max(image.size) <= _EXACT_SIDE else "jpeg")
    options = {"quality": _JPEG_QUALITY} if kind == "jpeg" else {"compress_level": 6 if form is None else _FAST}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _Loaded(NamedTuple):
    image: Image.Image
    common: bool  # the file can be used unchanged, see `decode_image`
    plain: bool  # there is only one way to convert the mode to RGB


def _load(path: Path, data: bytes | None = None) -> _Loaded:
    with _open(path, data) as image:
        try:
            image = _with_alpha(image, path, data)
            sample = _sample(image)
            sixteen = _is_sixteen_bit(image)
            _read_pixels(image)
            _check_size(path, image)  # the header of an icon, for example, can state another size than the image has
            if sixteen:
                _warn_if_not_scaled(image, path)
            upright = image.getexif().get(ORIENTATION, 1) == 1
            ImageOps.exif_transpose(image, in_place=True)
            opaque = not image.has_transparency_data
            if image.mode == "RGB" and opaque:
                still = not getattr(image, "is_animated", False) or image.format == "MPO"
                return _Loaded(image, upright and still and image.format in _COMMON_FORMATS, True)
            if opaque:
                return _Loaded(_to_rgb(image, path, image), False, image.mode in _PLAIN_MODES)
            return _Loaded(_on_white(image, path, data, sample, image), False, False)
        except BROKEN_IMAGE as error:
            raise _broken(path, error) from None


def _open(path: Path, data: bytes | None = None) -> ImageFile.ImageFile:
    if data is None and not path.is_file():
        raise ImageError(f"{path}: no such image", "missing_image")
    try:
        image = Image.open(path if data is None else io.BytesIO(data))
    except BROKEN_IMAGE as error:
        raise ImageError(f"{path}: cannot read the image: {what_is_wrong(error)}", "broken_image") from None
    if fault := format_fault(image):
        raise ImageError(f"{path}: {fault}. Save it as PNG or JPEG", "broken_image")
    _check_size(path, image)
    return image


def _read_pixels(image: Image.Image) -> None:
    """Load an image. A TIFF is not memory-mapped, because Pillow 12.3 maps rotated ones with a wrong row length."""
    name = getattr(image, "filename", None)
    if image.format != "TIFF" or not name:
        image.load()
        return
    image.filename = ""  # type: ignore[attr-defined]  # without a name, it is not mapped
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]


def _check_size(path: str | os.PathLike[str], image: Image.Image) -> None:
    if fault := size_fault(image.size):
        raise ImageError(f"{path}: {fault}", "broken_image")


def _broken(path: str | os.PathLike[str], error: BaseException) -> ImageError:
    if isinstance(error, ImageError):
        return error
    return ImageError(f"{path}: the image is broken: {what_is_wrong(error)}", "broken_image")


def _with_alpha(image: ImageFile.ImageFile, path: Path, data: bytes | None) -> ImageFile.ImageFile:
    """Return an animated WebP with the transparency of its first frame. Its header hides it if the last frame has none."""
    if image.format != "WEBP" or image.mode != "RGB" or not getattr(image, "is_animated", False):
        return image
    changed = bytearray(path.read_bytes() if data is None else data)
    # The flag "alpha" of the chunk VP8X, see https://developers.google.com/speed/webp/docs/riff_container.
    changed[20] |= 0b0001_0000
    return Image.open(io.BytesIO(changed))


def _sample(image: Image.Image) -> str:
    """Return the pixel format of a PNG that is not yet loaded, in Pillow's notation: `L;4` is 4-bit grey."""
    tile = getattr(image, "tile", None)  # only images from files have one
    stored = tile[0].args if image.format == "PNG" and tile else ""
    return stored if isinstance(stored, str) else ""


def _is_sixteen_bit(image: Image.Image) -> bool:
    """Whether a PNG or TIFF that is not yet loaded has 16 bits per sample and does not state its white."""
    tile = getattr(image, "tile", None)
    if image.format not in ("PNG", "TIFF") or not tile or _twelve_bits(image):
        return False
    args = tile[0].args
    stored = args if isinstance(args, str) else str(args[0]) if args else ""
    return ";16" in stored and not image.mode.startswith("F")


def _twelve_bits(image: Image.Image) -> bool:
    """Whether a TIFF has 12 bits per sample, which Pillow returns as 0 to 4095."""
    return image.format == "TIFF" and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,)  # type: ignore[attr-defined]


def _warn_if_not_scaled(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Log a warning, once per process, if a 16-bit image uses so few values that it is nearly black."""
    values = np.asarray(image)
    if image.mode.startswith("I"):
        highest = int(values.max())
    else:  # Pillow keeps only the upper byte of colours
        colours = [index for index, name in enumerate(image.getbands()) if name != "A"]
        highest = int(np.atleast_3d(values)[..., colours].max()) << 8
    if 0 < highest < _NOT_SCALED and "not scaled" not in _warned:
        _warned.add("not scaled")
        logger.warning(
            "%s: the image has 16 bits per channel, but its values reach only about %d of 65535, so it is almost black. If "
            "the camera wrote 10, 12 or 14 bits, scale the image to 8 or 16 bits first (further files are not reported)",
            path,
            highest,
        )


def _on_white(
    image: Image.Image, path: str | os.PathLike[str], data: bytes | None, sample: str, source: Image.Image
) -> Image.Image:
    """Return an image with any kind of transparency on white."""
    if image.mode in ("1", "L", "RGB") or image.mode.startswith("I"):
        clear = _is_key(image, path, data, sample)
        layer, alpha = _to_rgb(image, path, source), Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    else:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = layer.getchannel("A")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=alpha)
    return white


def _is_key(image: Image.Image, path: str | os.PathLike[str], data: bytes | None, sample: str) -> NDArray[np.bool_]:
    """Return an (H, W) mask of the pixels with the colour that the file declares transparent."""
    key = np.array(image.info["transparency"])
    levels = np.asarray(image.convert("L") if image.mode == "1" else image)
    # Pillow scales 2-bit and 4-bit grey to 0 to 255, but not the transparent value.
    key = key * {"L;2": 85, "L;4": 17}.get(sample, 1)
    if sample == _SIXTEEN_BIT_COLOURS:
        # Pillow keeps the upper byte of each channel. Reading the file as little-endian gives the lower byte.
        with _open(Path(path), data) as lower:
            lower.tile = [part._replace(args="RGB;16L") for part in lower.tile]
            lower.load()
            ImageOps.exif_transpose(lower, in_place=True)
            levels = levels.astype(np.uint16) << 8 | np.asarray(lower)
    elif image.mode == "RGB" and key.max() > np.iinfo(np.uint8).max:
        key = key >> 8
    clear: NDArray[np.bool_] = np.equal(levels.reshape(*levels.shape[:2], -1), key).all(axis=2)
    return clear


def _to_rgb(image: Image.Image, path: str | os.PathLike[str], source: Image.Image) -> Image.Image:
    """Return only the colours, without transparency. `source` is the image as opened, which has the file's tags."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    # Pillow scales the grey of a PGM to 16 bits. All other 32-bit and float images have no defined white.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and source.format == "PPM")):
        raise ImageError(
            f"{path}: the value of white is unknown, got values from {values.min():g} to {values.max():g} (mode "
            f"{image.mode}). Save the image with 8 or 16 bits per channel",
            "broken_image",
        )
    white = (1 << 12) - 1 if _twelve_bits(source) else _SIXTEEN_BITS
    if source.format == "TIFF" and source.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        values = white - values
    # Scale and round; Pillow would clip values above 255.
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")


def bears_mark(path: str | os.PathLike[str], mark: str) -> bool:
    """Whether an image file has a text chunk of this name. Other programs drop it when they save the image again.

    Raises:
        ImageError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return mark in image.info
    except BROKEN_IMAGE as error:
        raise ImageError(f"{path}: cannot read the image: {error}", "broken_image") from None
