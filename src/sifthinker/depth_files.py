"""Read depth files of sensors, depth models and other programs as relative depth, and write sifthinker's own format.

Three independent settings describe a file: the meaning of its numbers (the encoding), which end of them is near, and which
numbers stand for "no reading" (holes). If a file can be read in two ways, the reader raises an error that asks for a
setting.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sifthinker.depth_codes import Codes, codes_at_the_top, zero_disparity
from sifthinker.errors import DepthError
from sifthinker.images import BROKEN_IMAGE, format_fault, size_fault, what_is_wrong
from sifthinker.literals import Encoding, Near

logger = logging.getLogger(__name__)


# PNG text chunks of sifthinker's own files: depth, near at the low end; level 0 stands for "no depth here".
MARK = {"sifthinker:depth": "near low"}
HOLES_MARK = {"sifthinker:holes": "0"}

LEVELS = 65535

_Kind = Literal["8-bit grey", "16-bit grey", "RGB", "numbers"]

# Encoding → kinds of file that it reads.
_KINDS: Mapping[str, tuple[_Kind, ...]] = {
    "sif": ("16-bit grey",),
    "grey8": ("8-bit grey",),
    "spectral": ("RGB",),
    "npy": ("numbers",),
    "metres": ("16-bit grey", "numbers"),
    "millimetres": ("16-bit grey", "numbers"),
    "inverse": ("16-bit grey", "numbers"),
}
_DEFAULTS: Mapping[_Kind, Encoding] = {"16-bit grey": "sif", "8-bit grey": "grey8", "RGB": "spectral", "numbers": "npy"}
_IN_WORDS: Mapping[_Kind, str] = {
    "8-bit grey": "an 8-bit grey image",
    "16-bit grey": "a 16-bit grey image",
    "RGB": "an RGB image",
    "numbers": "an array or an image of floats",
}
_CHOOSE = "Set their meaning with --depth-encoding (encoding=… in Python)"
_SCALED = "metres or millimetres for distances in any unit, inverse for disparity or inverse depth (high is near)"
# Kind → advice for a file of that kind.
_ADVICE: Mapping[_Kind, str] = {
    "8-bit grey": "grey8, with --depth-near low (near='low') for depth or high for disparity",
    "16-bit grey": f"{_SCALED}, sif for depth as value / 65535",
    "RGB": "spectral",
    "numbers": f"{_SCALED}, npy for depth in [0, 1]",
}

# A 16-bit file whose values all lie below was not scaled to 65535. It may contain distances of up to 10.9 m.
_LOOKS_METRIC = LEVELS // 6
# Rounding in single precision can leave a depth this far outside [0, 1].
ROUNDING = 1e-5
# First bytes of unsupported kinds of file, and their names. Newer MATLAB files are HDF5 after a header.
_NOT_READ: Mapping[bytes, str] = {
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"MATLAB": "a MATLAB file",
}

# Number of pixels whose colours are looked up at once. NumPy needs 8 bytes for each index.
_STRIP = 1 << 14
# The 11 colours of ColorBrewer's Spectral, from far (blue) to near (red): the anchors of matplotlib's `Spectral_r`.
_SPECTRAL_ANCHORS = (
    (94, 79, 162), (50, 136, 189), (102, 194, 165), (171, 221, 164), (230, 245, 152), (255, 255, 191),
    (254, 224, 139), (253, 174, 97), (244, 109, 67), (213, 62, 79), (158, 1, 66),
)  # fmt: skip


class Decoded(NamedTuple):
    """Relative depth, 0 nearest: (H, W) levels of 255 or values in [0, 1], and an (H, W) mask, False in holes, or None."""

    depth: NDArray[np.uint8] | NDArray[np.float64]
    valid: NDArray[np.bool_] | None = None


def read_depth(path: str | os.PathLike[str], encoding: Encoding, near: Near | None, holes: Sequence[float]) -> Decoded:
    """Read a depth file, see `DepthMap.read`.

    Raises:
        DepthError: the file is missing, broken or of another kind, or its meaning is unclear. The message gives the file.
    """
    check_options(encoding, near, holes)
    where = Path(path)
    try:
        return _interpreted(_stored(where), where, encoding, near, holes)
    except DepthError as error:
        raise DepthError(f"{where}: {error}") from None


def check_options(encoding: Encoding, near: Near | None, holes: Sequence[float]) -> None:
    """Check the settings for reading depth files.

    Raises:
        DepthError: an unknown encoding, a near end that contradicts the encoding, or a hole that is not a number.
    """
    if encoding not in get_args(Encoding):
        raise DepthError(f"unknown depth encoding {encoding!r}, expected one of {', '.join(get_args(Encoding))}")
    if near not in (None, "low", "high"):
        raise DepthError(f"near must be 'low' or 'high', got {near!r}")
    if not all(math.isfinite(hole) for hole in holes):
        raise DepthError(f"holes must be finite numbers, got {list(holes)}. NaN and infinity are always holes")
    if encoding in ("metres", "millimetres") and near == "high":
        raise DepthError(
            f"low values are always near in the encoding {encoding}. Remove --depth-near high (near='high'), or read "
            "disparity and inverse depth with --depth-encoding inverse (encoding='inverse')"
        )
    if encoding == "inverse" and near == "low":
        raise DepthError(
            "high values are always near in the encoding inverse. Remove --depth-near low (near='low'), or read distances "
            "with --depth-encoding metres (encoding='metres')"
        )


def depth_file_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (width, height) of a depth file without decoding its pixels.

    Raises:
        DepthError: the file is missing or of an unknown kind.
    """
    where = Path(path)
    try:
        form = _form(where)
        if form != "picture":
            height, width = _array(where, form, header=True).shape
            return width, height
        with _open(where) as image:
            return image.size
    except DepthError as error:
        raise DepthError(f"{where}: {error}") from None


def relative(distances: ArrayLike, valid: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Scale (H, W) distances in any unit to [0, 1] by the nearest and the farthest valid pixel; 0 in holes.

    Raises:
        DepthError: there is no valid pixel, or a valid pixel is not finite.
    """
    array = np.asarray(distances, dtype=np.float64)
    mask = np.ones(array.shape, dtype=bool) if valid is None else valid
    if mask.shape != array.shape or not mask.any():
        raise DepthError("no pixel has a depth: all of them are holes")
    seen = array[mask]
    if not np.isfinite(seen).all():
        raise DepthError("depth has NaN or infinite values. Mark these pixels as False in `valid`")
    span = seen.max() - seen.min()
    unit = np.zeros(array.shape)
    np.divide(array - seen.min(), span if span > 0 else 1.0, out=unit, where=mask)
    return unit


def grey_png(levels: NDArray[np.uint8] | NDArray[np.uint16], texts: Mapping[str, str]) -> bytes:
    """Return a grey PNG with text chunks, for smooth images. Each row is stored as its difference from the row above.

    Pillow tries five filters on every row. That takes two to three times as long, and its files are not smaller. zlib
    searches only for runs, because differences of smooth images have few other repetitions. A full search takes twice as
    long for 16 bits.
    Source: the PNG specification, https://www.w3.org/TR/png-3/.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))

    height, width = levels.shape
    pixels = np.ascontiguousarray(levels, dtype=levels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    rows = np.empty((height, 1 + pixels.shape[1]), dtype=np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * levels.itemsize, 0, 0, 0, 0)),
            *(chunk(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in texts.items()),
            chunk(b"IDAT", packer.compress(rows.data) + packer.flush()),
            chunk(b"IEND", b""),
        )
    )


# ---------------------------------------------------------------------------------------------- what the numbers mean


class _Stored(NamedTuple):
    """The content of a file before it is interpreted.

    Args:
        numbers: (H, W), or (H, W, 3) for colours.
        kind: kind of file.
        form: kind of file in the words of the library that read it.
        marked: whether it has sifthinker's own format.
        holes: whether it has sifthinker's own format with holes at level 0.
        opaque: (H, W), False in transparent pixels of an image; None if it is opaque.
    """

    numbers: NDArray[Any]
    kind: _Kind
    form: str
    marked: bool = False
    holes: bool = False
    opaque: NDArray[np.bool_] | None = None


def _interpreted(file: _Stored, path: Path, encoding: Encoding, near: Near | None, holes: Sequence[float]) -> Decoded:
    _check_told(file, path, encoding, near)
    told = encoding
    if encoding == "auto":
        encoding = "sif" if file.marked else _DEFAULTS[file.kind]
    numbers = _spectral_levels(file.numbers) if encoding == "spectral" else file.numbers
    valid = _valid(numbers, file, encoding, holes)
    if valid is not None and not valid.any() and not file.marked:
        raise DepthError("no pixel has a depth: all of them are holes (NaN, infinite, or a code for 'no reading')")
    if numbers.dtype == np.uint8 and file.kind != "numbers":
        end = near or ("high" if encoding == "spectral" else "low")
        levels = numbers if end == "low" else 255 - numbers
        return Decoded(levels) if valid is None else Decoded(levels / 255, valid)
    if encoding == "sif":
        level = numbers.astype(np.float64)
        return Decoded((LEVELS - level if near == "high" else level) / LEVELS, valid)
    seen = numbers if valid is None else numbers[valid]
    if encoding != "npy":
        _check_codes(seen, path, inverse=encoding == "inverse")
        return Decoded(relative(-numbers.astype(np.float64) if encoding == "inverse" else numbers, valid), valid)
    low, high = float(seen.min()), float(seen.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise DepthError(
            f"depth must be in [0, 1], 0 nearest and 1 farthest, got values from {low:g} to {high:g} ({file.form}). "
            f"{_CHOOSE}: {_SCALED}. If a value stands for 'no reading', add --depth-hole VALUE (holes=[VALUE])"
        )
    if told == "auto" and near is None:
        zeros = " 0 is read as the nearest point. If it stands for 'no reading', add --depth-hole 0 (holes=[0])."
        _warn(
            "numbers",
            f"{path}: the values from {low:g} to {high:g} are read as depth, 0 nearest and 1 farthest."
            f"{zeros if low <= 0 else ''} {_advice(file)}",
        )
    unit = np.clip(numbers.astype(np.float64), 0, 1)
    return Decoded(1 - unit if near == "high" else unit, valid)


def _check_told(file: _Stored, path: Path, encoding: Encoding, near: Near | None) -> None:
    """Check that a file fits its settings, and that a file without settings can be read in only one way."""
    if encoding != "auto" and file.kind not in _KINDS[encoding] and not (encoding == "sif" and file.marked):
        expected = " or ".join(_IN_WORDS[kind] for kind in _KINDS[encoding])
        raise DepthError(f"encoding {encoding!r} needs {expected}, got {file.kind} ({file.form}). {_advice(file)}")
    if file.marked:
        if near == "high" or encoding not in ("auto", "sif"):
            raise DepthError(
                "the file has sifthinker's mark, so low values are near. Remove --depth-near high (near='high'), and read "
                "it with --depth-encoding auto (encoding='auto')"
            )
        return
    if file.kind == "8-bit grey" and near is None:
        raise DepthError(
            "an 8-bit grey file can contain depth or disparity. Set --depth-near low (near='low') for depth, or "
            "--depth-near high (near='high') for disparity"
        )
    if file.kind != "16-bit grey" or encoding not in ("auto", "sif"):
        return
    low, high = int(file.numbers.min()), int(file.numbers.max())
    if high < _LOOKS_METRIC:
        doubt = f"the values from {low} to {high} of 65535 look like distances. {_advice(file)}"
        if encoding == "auto":
            raise DepthError(doubt)
        _warn("metric", f"{path}: {doubt}")
    elif encoding == "auto" and near is None:
        doubt = f"the file has no sifthinker mark. Its values are read as depth: value / 65535, low is near. {_advice(file)}"
        _warn("unmarked", f"{path}: {doubt}")


def _advice(file: _Stored) -> str:
    return f"{_CHOOSE}: {_ADVICE[file.kind]}"


_warned: set[str] = set()


def _warn(doubt: str, message: str) -> None:
    """Log a warning about a file once per process, because the files of a folder are alike."""
    if doubt not in _warned:
        _warned.add(doubt)
        logger.warning("%s (further files of this kind are not reported)", message)


def _valid(numbers: NDArray[Any], file: _Stored, encoding: Encoding, holes: Sequence[float]) -> NDArray[np.bool_] | None:
    """Return an (H, W) mask, True where there is a reading; None if every pixel has one."""
    rules: list[NDArray[np.bool_]] = [] if file.opaque is None else [file.opaque]
    if numbers.dtype.kind == "f":
        rules.append(np.isfinite(numbers))
    for hole in holes:
        with np.errstate(over="ignore"):
            # Round as the file does: 0.1 is another number in single precision.
            rules.append(numbers != (numbers.dtype.type(hole) if numbers.dtype.kind == "f" else hole))
    if encoding in ("metres", "millimetres"):
        rules.append(numbers > 0)
        if numbers.dtype.kind == "u" and numbers.dtype.itemsize == 2:
            rules.append(numbers < LEVELS)  # the largest 16-bit number: too far, or a code
    elif encoding == "inverse":
        rules.append(numbers >= 0)
    elif file.holes:
        rules.append(numbers > 0)
    valid: NDArray[np.bool_] = np.logical_and.reduce(rules) if rules else np.array(True)
    return None if valid.all() else valid


def _check_codes(seen: NDArray[Any], path: Path, *, inverse: bool) -> None:
    """Raise for numbers that can only be codes for "no reading", and warn about possible ones. Scaling would ruin the
    rest."""
    codes = codes_at_the_top(seen, inverse=inverse)
    if codes is not None and codes.certain:
        many = len(codes.values) > 1
        raise DepthError(
            f"the greatest value{'s are' if many else ' is'} {_listed(codes)}, and the next is {codes.nearest:g}. If "
            f"{'they stand' if many else 'it stands'} for 'no reading', add {_as_holes(codes)}. If "
            f"{'they are' if many else 'it is'} real, such as a far plane, clip the file at a smaller number"
        )
    if codes is not None:
        _warn(
            "code",
            f"{path}: the greatest value is {_listed(codes)}, far from the next, {codes.nearest:g}. It is read as "
            f"{'the nearest' if inverse else 'the farthest'} point. If it stands for 'no reading', add {_as_holes(codes)}",
        )
    zeros = zero_disparity(seen) if inverse else None
    if zeros is not None:
        _warn(
            "zero disparity",
            f"{path}: the least value is {_listed(zeros)}, far from the next, {zeros.nearest:g}. It is read as infinitely "
            f"far, like the sky. If it stands for 'no match', add {_as_holes(zeros)}",
        )


def _listed(codes: Codes) -> str:
    pixels = f"{codes.pixels} pixel{'s' if codes.pixels != 1 else ''}"
    return f"{', '.join(map(_number, codes.values))} ({pixels})"


def _as_holes(codes: Codes) -> str:
    names = [_number(value) for value in codes.values]
    return f"{' '.join(f'--depth-hole {name}' for name in names)} (holes=[{', '.join(names)}])"


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


# ------------------------------------------------------------------------------------------------ what the files hold


def _stored(path: Path) -> _Stored:
    form = _form(path)
    if form == "picture":
        return _picture(path)
    array = _array(path, form)
    return _Stored(array, "numbers", f"an array of {array.dtype}")


def _form(path: Path) -> Literal["array", "archive", "picture"]:
    """Return what a file is, by its content, else by its name.

    Raises:
        DepthError: the file does not exist, or its kind is not supported.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(8)
    except FileNotFoundError:
        raise DepthError("no such depth file") from None
    except IsADirectoryError:
        raise DepthError("it is a folder, not a depth file") from None
    except OSError as error:
        raise DepthError(f"cannot read the depth file: {error.strerror}") from None
    for magic, name in _NOT_READ.items():
        if start.startswith(magic):
            raise DepthError(f"{name} is not supported. Convert the file to .npy, or to .tiff or .pfm with 32-bit floats")
    if start.startswith(b"\x93NUMPY") or (path.suffix.lower() == ".npy" and not start.startswith(b"PK")):
        return "array"
    return "archive" if start.startswith(b"PK") or path.suffix.lower() == ".npz" else "picture"


def _array(path: Path, form: Literal["array", "archive"], *, header: bool = False) -> NDArray[Any]:
    """Return the (H, W) array of an .npy file, or the only array of an .npz archive. `header` reads only its shape."""
    try:
        if form == "array":
            return _read_array(lambda: open(path, "rb"), header)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            if len(names) != 1:
                held = ", ".join(name.removesuffix(".npy") for name in names[:9])
                raise DepthError(f"the archive must contain one array, of shape (H, W), got {len(names)} ({held})")
            return _read_array(lambda: archive.open(names[0]), header)
    except DepthError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DepthError(f"cannot read the depth array: {error or type(error).__name__}") from None


def _read_array(opened: Callable[[], IO[bytes]], header: bool) -> NDArray[Any]:
    with opened() as stream:  # read the header first, because the array can be of any size
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    # Models write (1, H, W), and some programs (H, W, 1).
    plane = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape[:2] if len(shape) == 3 and shape[2] == 1 else shape
    if dtype.kind == "b":
        raise DepthError("the array must be real numbers of shape (H, W), got booleans, which are a mask and not a depth")
    if dtype.kind not in "fiu" or len(plane) != 2:
        raise DepthError(f"the array must be real numbers of shape (H, W), got {dtype} of shape {shape}")
    if fault := size_fault((plane[1], plane[0])):
        raise DepthError(f"cannot read the depth array: {fault}")
    if header:
        return np.broadcast_to(np.zeros((), dtype), plane)
    with opened() as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array.reshape(plane)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except BROKEN_IMAGE as error:
        raise _unreadable(what_is_wrong(error)) from None
    if fault := format_fault(image):
        raise _unreadable(fault)
    if fault := size_fault(image.size):
        raise _unreadable(fault)
    return image


def _unreadable(reason: str) -> DepthError:
    return DepthError(
        f"cannot read the depth file: {reason}. Expected .png, .npy, .npz, .pfm, or .tiff with 8 or 16 bits or 32-bit floats"
    )


def _picture(path: Path) -> _Stored:
    with _open(path) as image:
        mode, opaque = image.mode, None
        try:
            if mode in ("RGBA", "LA", "PA"):
                seen = np.asarray(image.getchannel("A")) > 0
                opaque = None if seen.all() else seen
            # One bit is black or white grey. A palette stores colours.
            mode = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB"}.get(mode, mode)
            pixels = np.asarray(image if mode == image.mode else image.convert(mode))
        except BROKEN_IMAGE as error:
            raise _unreadable(what_is_wrong(error)) from None
        holes = HOLES_MARK.keys() <= image.info.keys()
        marked = holes or MARK.keys() <= image.info.keys()
        kind: _Kind
        if mode == "RGB" and (pixels[0, 0] == pixels[0, 0, 0]).all() and (pixels == pixels[..., :1]).all():
            kind, pixels = "8-bit grey", pixels[..., 0]  # grey in three equal channels
        elif mode == "L":
            kind = "8-bit grey"
        elif mode == "RGB":
            kind = "RGB"
        elif mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):  # Pillow scales a PGM to 16 bits
            kind, pixels = "16-bit grey", pixels.astype(np.uint16)
        elif mode in ("I", "F"):
            kind = "numbers"
        else:
            raise DepthError(f"the image must be grey, floats or RGB, got mode {mode}")
        return _Stored(pixels, kind, f"mode {image.mode}", marked, holes, opaque)


# ------------------------------------------------------------------------------------------------------------ colours


@lru_cache(maxsize=1)
def spectral_colours() -> NDArray[np.uint8]:
    """Return the (256, 3) colours of matplotlib's `Spectral_r`, level 0 to 255. A test compares them with matplotlib."""
    anchors = np.array(_SPECTRAL_ANCHORS, dtype=np.float64)
    level = np.linspace(0, 1, 256)
    at = np.linspace(0, 1, len(anchors))
    colours = np.stack([np.interp(level, at, anchors[:, channel]) for channel in range(3)], axis=1)
    # matplotlib truncates. The small term keeps the anchors from falling one level too low.
    return cast("NDArray[np.uint8]", np.floor(colours + 1e-9).astype(np.uint8))


@lru_cache(maxsize=1)
def _level_of_red_and_blue() -> NDArray[np.uint8]:
    """Return a (65536,) table of levels, indexed by 256 · red + blue, which is unique for each colour; 0 elsewhere."""
    colours = spectral_colours()
    levels = np.zeros(1 << 16, dtype=np.uint8)
    levels[_red_and_blue(colours)] = np.arange(len(colours))
    return levels


def _red_and_blue(colours: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return colours[..., 0].astype(np.uint16) << np.uint16(8) | colours[..., 2]


def _spectral_levels(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert (H, W, 3) colours to exact (H, W) levels 0..255.

    Raises:
        DepthError: a pixel has another colour.
    """
    height, width, _ = colours.shape
    levels = np.empty((height, width), dtype=np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        strip = colours[top : top + step]
        levels[top : top + step] = _level_of_red_and_blue().take(_red_and_blue(strip))
        if not np.array_equal(spectral_colours().take(levels[top : top + step], axis=0), strip):
            raise _foreign_colours(colours)
    return levels


def _foreign_colours(colours: NDArray[np.uint8]) -> DepthError:
    nearest = spectral_colours()[_level_of_red_and_blue()[_red_and_blue(colours)]]
    foreign = (nearest != colours).any(axis=2)
    row, column = np.argwhere(foreign)[0]
    return DepthError(
        f"{int(foreign.sum())} of {foreign.size} pixels are not Spectral_r colours, the first at row {row}, column "
        f"{column}: {colours[row, column].tolist()}. A lossy copy (JPEG or resized) cannot be decoded. Use the original file"
    )
