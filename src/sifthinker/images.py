"""Images from files: upright, RGB, whole, of a bounded size; what is transparent is white."""

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
# A photo whose values all lie below was taken with 10, 12 or 14 bits and never scaled to 16.
_NOT_SCALED = 1 << 14
_warned: set[str] = set()
_BITS_PER_SAMPLE = 258  # a TIFF tag
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lay the image on its side
_SIXTEEN_BIT_COLOURS = "RGB;16B"  # of a PNG, in Pillow's words
_STORED_SIZE = (256, 257)  # TIFF tags: width and height
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag and its value for negatives
# What trainers and browsers open alike; other files are written anew.
_COMMON_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
# Modes that convert to RGB in one way only.
_PLAIN_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "LAB")
_FAST = 1  # level of PNG's compression for what is sent once: a third of the time, a fourteenth larger than the usual 6
_EXACT_SIDE = 256  # pictures of no more pixels a side are small as they are; JPEG would blur boxes drawn into them
_JPEG_QUALITY = 90
# What Pillow's decoders raise on broken files; which of them depends on the format.
BROKEN_IMAGE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image upright (EXIF orientation applied) and in RGB, on white where it is transparent.

    Of an animation this is the first frame.

    Raises:
        ImageError: missing, truncated, no image, without pixels, or more than 100 million pixels.
    """
    return _load(Path(path)).image


def decode_image(path: str | os.PathLike[str], data: bytes) -> tuple[Image.Image, bool]:
    """The image of a file whose content was read already, as `load_image` gives it, and whether the file may be kept.

    It may when every trainer and browser shows just this image: a JPEG, PNG or WebP that is upright, RGB, opaque and still.

    Raises:
        ImageError: as `load_image` does.
    """
    found = _load(Path(path), data)
    return found.image, found.common


def as_loaded(image: Image.Image, where: str) -> Image.Image:
    """An image that Pillow opened or made, as `load_image` gives that of a file: upright, RGB, on white, of a bounded size.

    The image itself stays as it is, but that its pixels are read; of an animation this is the frame that it stands at.

    Args:
        image: of any mode.
        where: where it comes from, for messages.
    Raises:
        ImageError: broken, without pixels, more than 100 million pixels, or of values of which nobody knows what is white.
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
        # The lower bytes of colours with 16 bits are gone: their key is compared by the upper ones.
        return _on_white(upright, where, None, "" if sample == _SIXTEEN_BIT_COLOURS else sample, image)
    except BROKEN_IMAGE as error:
        raise _broken(where, error) from None


def check_image(path: str | os.PathLike[str]) -> tuple[Image.Image, bool]:
    """The image as `load_image` gives it, and whether the trainers of others see the same.

    They decode with Pillow and convert to RGB, which drops transparency and cuts off what 8 bits do not hold.

    Raises:
        ImageError: as `load_image` does.
    """
    found = _load(Path(path))
    if found.plain:
        return found.image, True
    with Image.open(path) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the transparency that is dropped
        theirs = ImageOps.exif_transpose(image).convert("RGB")
    return found.image, np.array_equal(np.asarray(theirs), np.asarray(found.image))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image as `load_image` would give it, from its header alone.

    Raises:
        ImageError: missing, no image, without pixels, or more than 100 million pixels.
    """
    with _open(Path(path)) as image:
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow give the size of a turned one upright, others as it is stored
            width, height = (int(image.tag_v2[tag]) for tag in _STORED_SIZE)  # type: ignore[attr-defined]
        if width == height or (image.format == "PNG" and not _tells_orientation(Path(path))):
            return width, height  # Pillow reads all of a PNG to know its orientation, which hardly any has
        try:
            sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        except BROKEN_IMAGE as error:
            raise _broken(path, error) from None
        return (height, width) if sideways else (width, height)


def _tells_orientation(png: Path) -> bool:
    """Whether a PNG has a chunk that may say how it is turned, wherever in the file; no pixel is read."""
    with png.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)  # its content and checksum
    return False


def same_shape(stated: tuple[int, int], actual: tuple[int, int]) -> bool:
    """Whether an image is the one of the stated (width, height), or a scaled copy of it (to one pixel of rounding)."""
    (stated_width, stated_height), (width, height) = stated, actual
    return abs(stated_width * height - stated_height * width) <= max(*stated, *actual)


def size_fault(size: tuple[int, int]) -> str:
    """What is wrong with a (width, height), before memory is given to it: no pixels, or too many; "" if nothing."""
    if 0 < size[0] * size[1] <= MAX_IMAGE_PIXELS:
        return ""
    return f"the size is {size[0]}×{size[1]}; wanted 1 to {MAX_IMAGE_PIXELS:,} pixels"


def format_fault(image: Image.Image) -> str:
    """What is wrong with a file whose kind Pillow knows by name alone, such as HDF5; "" if it can be decoded."""
    return f"{image.format} is not read here" if isinstance(image, ImageFile.StubImageFile) else ""


def what_is_wrong(error: BaseException) -> str:
    """Pillow's words, without those that name an object in memory."""
    return "no picture of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)


def data_url(image: Image.Image, *, max_side: int | None = None, form: ImageFormat | None = None) -> str:
    """An image as text, for a page or a request: exact up to 256 pixels a side (PNG), larger ones as JPEG.

    Args:
        image: RGB or grey.
        max_side: shrink a larger image to this longest side in pixels; None keeps its size.
        form: `png`, exact, or `jpeg`, smaller; None chooses by size.
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
    common: bool  # the file may be kept, see `decode_image`
    plain: bool  # the file's mode converts to RGB in one way only


def _load(path: Path, data: bytes | None = None) -> _Loaded:
    with _open(path, data) as image:
        try:
            image = _with_alpha(image, path, data)
            sample = _sample(image)
            sixteen = _is_sixteen_bit(image)
            _read_pixels(image)
            _check_size(path, image)  # an icon's header, for one, may state another size than its picture has
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
        raise ImageError(f"{path}: not an image that can be read: {what_is_wrong(error)}", "broken_image") from None
    if fault := format_fault(image):
        raise ImageError(f"{path}: {fault}; save it as PNG or JPEG", "broken_image")
    _check_size(path, image)
    return image


def _read_pixels(image: Image.Image) -> None:
    """Load an image, a TIFF without mapping its file: Pillow 12.3 maps one that lies on its side in rows of wrong length."""
    name = getattr(image, "filename", None)
    if image.format != "TIFF" or not name:
        image.load()
        return
    image.filename = ""  # type: ignore[attr-defined]  # what has no name is read
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
    """An animated WebP with the transparency of its first frame, which its header denies when the last frame has none."""
    if image.format != "WEBP" or image.mode != "RGB" or not getattr(image, "is_animated", False):
        return image
    changed = bytearray(path.read_bytes() if data is None else data)
    # The flag "alpha" of the chunk VP8X, see https://developers.google.com/speed/webp/docs/riff_container.
    changed[20] |= 0b0001_0000
    return Image.open(io.BytesIO(changed))


def _sample(image: Image.Image) -> str:
    """How a PNG that is not yet loaded stores a pixel, in Pillow's words: `L;4` is 4-bit grey."""
    tile = getattr(image, "tile", None)  # only what comes from a file has one
    stored = tile[0].args if image.format == "PNG" and tile else ""
    return stored if isinstance(stored, str) else ""


def _is_sixteen_bit(image: Image.Image) -> bool:
    """Whether a PNG or TIFF that is not yet loaded stores 16 bits a sample and does not say what white is."""
    tile = getattr(image, "tile", None)
    if image.format not in ("PNG", "TIFF") or not tile or _twelve_bits(image):
        return False
    args = tile[0].args
    stored = args if isinstance(args, str) else str(args[0]) if args else ""
    return ";16" in stored and not image.mode.startswith("F")


def _twelve_bits(image: Image.Image) -> bool:
    """Whether a TIFF packs 12 bits a sample, which Pillow gives as they are, 0 to 4095."""
    return image.format == "TIFF" and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,)  # type: ignore[attr-defined]


def _warn_if_not_scaled(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Log, once in a process, that a picture of 16 bits uses so few of them that it is nearly black."""
    values = np.asarray(image)
    if image.mode.startswith("I"):
        highest = int(values.max())
    else:  # Pillow keeps the upper byte of colours
        colours = [index for index, name in enumerate(image.getbands()) if name != "A"]
        highest = int(np.atleast_3d(values)[..., colours].max()) << 8
    if 0 < highest < _NOT_SCALED and "not scaled" not in _warned:
        _warned.add("not scaled")
        logger.warning(
            "%s: a picture of 16 bits a channel whose values reach only about %d of 65535, so that it is almost one "
            "shade. If the camera gave 10, 12 or 14 bits, scale it to 8 or 16 first (said of the first such file alone)",
            path,
            highest,
        )


def _on_white(
    image: Image.Image, path: str | os.PathLike[str], data: bytes | None, sample: str, source: Image.Image
) -> Image.Image:
    """An image with transparency of any kind, on white."""
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
    """(H, W): which pixels have the one colour that the file declares transparent."""
    key = np.array(image.info["transparency"])
    levels = np.asarray(image.convert("L") if image.mode == "1" else image)
    # Pillow spreads grey of 2 or 4 bits over 0 to 255, but not its key.
    key = key * {"L;2": 85, "L;4": 17}.get(sample, 1)
    if sample == _SIXTEEN_BIT_COLOURS:
        # Pillow keeps the upper byte of each channel; reading the file as little-endian gives the lower one.
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
    """The colours alone, transparency left out; `source` is the image as it was opened, which knows its file's tags."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    # Pillow scales grey of a PGM to 16 bits; all else of 32 bits, or of fractions, has no white.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and source.format == "PPM")):
        raise ImageError(
            f"{path}: with values from {values.min():g} to {values.max():g} (mode {image.mode}) nobody knows what is white; "
            "save it with 8 or 16 bits a channel",
            "broken_image",
        )
    white = (1 << 12) - 1 if _twelve_bits(source) else _SIXTEEN_BITS
    if source.format == "TIFF" and source.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        values = white - values
    # Rounded; Pillow would clip what is above 255.
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")


def bears_mark(path: str | os.PathLike[str], mark: str) -> bool:
    """Whether an image file holds a text chunk of this name; pictures that others saved again have lost it.

    Raises:
        ImageError: not an image.
    """
    try:
        with Image.open(path) as image:
            return mark in image.info
    except BROKEN_IMAGE as error:
        raise ImageError(f"{path}: not an image that can be read: {error}", "broken_image") from None
