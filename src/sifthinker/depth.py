"""Depth maps: one polarity inside, the mean depth of a box in constant time, and the files that others have.

Inside sifthinker depth is relative: 0 is nearest, 1 is farthest. Files differ in bit depth, colour and in which end is
near, so every reader states its polarity; nothing is guessed from the pixels' values.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import numpy as np
from isal import isal_zlib
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sifthinker.boxes import as_unit_boxes
from sifthinker.errors import DepthError
from sifthinker.files import atomic_write, sha256
from sifthinker.images import BROKEN_IMAGE, what_is_wrong

Encoding = Literal["auto", "sif", "grey8", "spectral", "npy", "millimetres"]
Near = Literal["low", "high"]

_Sum = TypeVar("_Sum", np.float64, np.uint32, np.uint64)

# The depth reward's floor: a true mean below it counts as this, and the engine states no less.
LEAST_DEPTH = 1 / 255

_LEVELS = 65535
# PNG text chunks of our own files: 8-bit levels are depths, near at the low end; level 0 stands for "no depth here".
_EIGHT_BIT_KEY = "sifthinker:depth"
_HOLES_KEY = "sifthinker:holes"
_EIGHT_BIT: NDArray[np.float32] = (np.arange(256) / 255).astype(np.float32)

# Pixels whose colours are looked up at once: what is computed on the way stays in a core's cache.
_STRIP = 1 << 14
# ColorBrewer's Spectral, 11 classes, from far (blue) to near (red): the anchors of matplotlib's `Spectral_r`.
_SPECTRAL_ANCHORS = (
    (94, 79, 162), (50, 136, 189), (102, 194, 165), (171, 221, 164), (230, 245, 152), (255, 255, 191),
    (254, 224, 139), (253, 174, 97), (244, 109, 67), (213, 62, 79), (158, 1, 66),
)  # fmt: skip


class DepthMap:
    """Relative depth of every pixel of an image.

    Args:
        values: (H, W) in [0, 1]; 0 is nearest, 1 is farthest.
        valid: (H, W) booleans, False where the sensor saw nothing; None when every pixel counts.
    Raises:
        DepthError: wrong shape, no pixels, a value that is NaN or outside [0, 1] where valid.
    """

    def __init__(self, values: ArrayLike, valid: ArrayLike | None = None) -> None:
        array = np.array(values, dtype=np.float32)  # a copy: it is made read-only below
        if array.ndim != 2 or array.size == 0:
            raise DepthError(f"depth must have shape (H, W), got {array.shape}")
        mask = None if valid is None else np.asarray(valid, dtype=bool)
        if mask is not None:
            if mask.shape != array.shape:
                raise DepthError(f"the validity mask has shape {mask.shape}, the depth map {array.shape}")
            array = np.where(mask, array, np.float32(0))
            if mask.all():
                mask = None
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise DepthError(
                f"depth at row {row}, column {column} is {array[row, column]}; wanted finite values. "
                "Mark pixels without depth in the validity mask"
            )
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise DepthError(f"depth runs from {low:g} to {high:g}; wanted [0, 1], 0 nearest and 1 farthest")
        array.setflags(write=False)
        self._values: NDArray[np.float32] | None = array
        self._levels: NDArray[np.uint8] | None = None
        self._added = 0
        self.valid: NDArray[np.bool_] | None = mask

    @classmethod
    def from_levels(cls, levels: ArrayLike) -> DepthMap:
        """Depth in steps of 1/255, as 8-bit files hold it; such a map is small, and its means are exact.

        Args:
            levels: (H, W) unsigned bytes; 0 is nearest, 255 is farthest.
        Raises:
            DepthError: wrong shape or type, or no pixels.
        """
        array = np.array(levels)
        if array.ndim != 2 or array.size == 0 or array.dtype != np.uint8:
            raise DepthError(f"levels must be unsigned bytes of shape (H, W), got {array.dtype} of shape {array.shape}")
        array.setflags(write=False)
        found = cls.__new__(cls)
        found._values, found._levels, found._added, found.valid = None, array, 0, None
        return found

    @classmethod
    def from_metric(cls, metres: ArrayLike, valid: ArrayLike | None = None) -> DepthMap:
        """Scale distances to [0, 1] by the nearest and farthest valid pixel of this image.

        Args:
            metres: (H, W) distances in any unit, larger is farther.
            valid: (H, W) booleans.
        Raises:
            DepthError: no valid pixel, or a valid pixel that is not finite.
        """
        distances = np.asarray(metres, dtype=np.float64)
        mask = np.ones(distances.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
        if mask.shape != distances.shape or not mask.any():
            raise DepthError("no pixel has a depth: every one is a hole")
        seen = distances[mask]
        if not np.isfinite(seen).all():
            raise DepthError("depth has NaN or infinite values; mark them in the validity mask")
        span = seen.max() - seen.min()
        unit = (distances - seen.min()) / (span if span > 0 else 1.0)
        return cls(np.where(mask, unit, 0), mask)

    @property
    def values(self) -> NDArray[np.float32]:
        """(H, W) in [0, 1]; 0 is nearest, 1 is farthest, 0 in holes."""
        if self._values is None:
            assert self._levels is not None
            self._values = _EIGHT_BIT[self._levels]
            self._values.setflags(write=False)
        return self._values

    @property
    def eight_bit(self) -> bool:
        """Whether the map was made of 8-bit levels, so that its `view` shows all of it."""
        return self._levels is not None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = (self._values if self._levels is None else self._levels).shape  # type: ignore[union-attr]
        return width, height

    @cached_property
    def _sums(self) -> NDArray[Any]:
        """(H + 1, W + 1) summed-area table of values, or of levels; a zero row and column first."""
        return _summed(self.values, np.float64) if self._levels is None else _summed(self._levels, self._sum_type)

    @property
    def _sum_type(self) -> type[np.uint32 | np.uint64]:
        # Half the memory to go through, where the sum of all levels fits.
        return np.uint32 if self.size[0] * self.size[1] * 255 < 2**32 else np.uint64

    @cached_property
    def _counts(self) -> NDArray[np.float64] | None:
        return None if self.valid is None else _summed(self.valid, np.float64)

    def mean(self, boxes: ArrayLike) -> NDArray[np.float32]:
        """Mean depth inside each box.

        A pixel that a box touches counts whole: x1 and y1 are rounded down, x2 and y2 up, then clipped; at least one
        pixel is always taken. A coordinate within a billionth of a pixel's side is taken to lie on it, so that 0.57 of
        100 pixels starts at pixel 57 although 0.57 * 100 < 57 in floating point.

        Args:
            boxes: (N, 4) unit xyxy.
        Returns:
            (N,) means in [0, 1]; 0 is nearest. NaN where every pixel of the box is a hole.
        Raises:
            BoxError: a box is empty, not finite or outside the image.
        Source: SIFThinker's depth reward; the released code rounds outward too.
        """
        array = as_unit_boxes(boxes)
        size = np.array(self.size)
        slack = 1e-9 * size.max()
        low = np.minimum(np.floor(array[:, :2] * size + slack).astype(np.intp), size - 1)  # (N, 2) x1, y1
        high = np.maximum(np.ceil(array[:, 2:] * size - slack).astype(np.intp), low + 1)  # (N, 2) x2, y2
        (x1, y1), (x2, y2) = low.T, high.T
        total = self._totals(x1, y1, x2, y2)
        counts = self._counts
        if counts is None:
            means = total / ((x2 - x1) * (y2 - y1))
        else:
            pixels = _rectangle(counts, x1, y1, x2, y2)
            means = np.divide(total, pixels, out=np.full(len(array), np.nan), where=pixels > 0)
        clipped: NDArray[np.float32] = np.minimum(np.maximum(means, 0), 1).astype(np.float32)
        return clipped

    def _totals(
        self, x1: NDArray[np.intp], y1: NDArray[np.intp], x2: NDArray[np.intp], y2: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """(N,) sums of the values in rectangles of pixels."""
        if self._levels is None:
            return _rectangle(self._sums, x1, y1, x2, y2)
        # Sums of levels are exact either way, and making the table takes as long as adding up the whole map eight times.
        self._added += int(((x2 - x1) * (y2 - y1)).sum())
        if "_sums" in self.__dict__ or self._added > 8 * self._levels.size:
            return _rectangle(self._sums, x1, y1, x2, y2) / 255
        sides = zip(x1, y1, x2, y2, strict=True)
        parts = (self._levels[top:bottom, left:right] for left, top, right, bottom in sides)
        return np.array([part.sum(dtype=self._sum_type) for part in parts]) / 255

    def release(self) -> None:
        """Drop the tables that `mean` keeps for its next call; they are larger than the map."""
        for name in ("_sums", "_counts"):
            self.__dict__.pop(name, None)
        self._added = 0

    def digest(self) -> str:
        """Hex digest of the map as it is written: size, values or levels, holes."""
        stored = self.values if self._levels is None else self._levels
        parts = [repr(self.size).encode(), stored.tobytes(), b"" if self.valid is None else self.valid.tobytes()]
        return sha256(b"".join(parts))

    def view(self) -> Image.Image:
        """The depth image that a model sees: 8-bit RGB grey, dark is near, holes are white."""
        return Image.fromarray(self._view_levels()).convert("RGB")

    def _view_levels(self) -> NDArray[np.uint8]:
        level = np.rint(self.values * 255).astype(np.uint8) if self._levels is None else self._levels
        return level if self.valid is None else np.where(self.valid, level, np.uint8(255))

    def coloured(self) -> Image.Image:
        """The depth image that a person sees: `Spectral_r`, red is near, holes are black."""
        colours = _spectral()[255 - np.rint(self.values * 255).astype(np.intp)]
        if self.valid is not None:
            colours = np.where(self.valid[..., None], colours, np.uint8(0))
        return Image.fromarray(colours)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write our own format atomically: 16-bit grey PNG, value / 65535, lossless to 1 / 65535.

        With holes, level 0 stands for a hole (a text chunk in the file says so) and valid pixels start at level 1. A map of
        8-bit levels is written as they are, value / 255, which another text chunk says.
        """
        if self._levels is not None:
            atomic_write(path, _grey_png(self._levels, {_EIGHT_BIT_KEY: "near low"}))
        else:
            atomic_write(path, _grey_png(self._sixteen_bit(), {} if self.valid is None else {_HOLES_KEY: "0"}))

    def write_view(self, path: str | os.PathLike[str]) -> None:
        """Write the depth image that a model sees, see `view`, atomically as 8-bit grey PNG."""
        atomic_write(path, _grey_png(self._view_levels(), {}))

    def _sixteen_bit(self) -> NDArray[np.uint16]:
        level = np.rint(self.values * _LEVELS).astype(np.uint16)
        return level if self.valid is None else np.where(self.valid, np.maximum(level, 1), 0).astype(np.uint16)

    def rounded(self) -> DepthMap:
        """The map as it is when it has been written and read back."""
        if self.eight_bit:
            return self
        return DepthMap(self._sixteen_bit().astype(np.float64) / _LEVELS, self.valid)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, encoding: Encoding = "auto", near: Near | None = None) -> DepthMap:
        """Read a depth file.

        | encoding      | file                                   | near by default |
        |---------------|----------------------------------------|-----------------|
        | `sif`         | ours: 16-bit grey PNG, value / 65535,  | low             |
        |               | or marked 8-bit grey, value / 255      |                 |
        | `grey8`       | 8-bit grey, depth or disparity; or RGB | must be given   |
        |               | of three equal channels                |                 |
        | `spectral`    | RGB in `Spectral_r` colours, disparity | high            |
        | `npy`         | NumPy array in [0, 1]                  | low             |
        | `millimetres` | 16-bit sensor distances, 0 is a hole   | low             |

        `auto` goes by the kind of file: .npy, 16-bit, 8-bit or RGB; sensor distances must be asked for, because a
        16-bit file looks the same as ours. NaN is refused everywhere.

        Args:
            path: the file.
            encoding: what the numbers in it mean.
            near: whether low or high values are near.
        Raises:
            DepthError: the file is missing, broken, of another kind, or its polarity is not known.
        """
        if encoding not in get_args(Encoding):
            raise DepthError(f"unknown depth encoding {encoding!r}; wanted one of {', '.join(get_args(Encoding))}")
        if near not in (None, "low", "high"):
            raise DepthError(f"near must be 'low' or 'high', got {near!r}")
        where = Path(path)
        if encoding == "npy" or (encoding == "auto" and where.suffix == ".npy"):
            return _from_array(where, near or "low")
        file = _open(where)
        kind = _kind(file.mode)
        marked = kind == "8-bit grey" and _EIGHT_BIT_KEY in file.info
        if encoding == "auto":
            kinds: dict[str, Encoding] = {"16-bit grey": "sif", "8-bit grey": "grey8", "RGB": "spectral"}
            encoding = "sif" if marked else kinds[kind]
        wanted = {"sif": "16-bit grey", "millimetres": "16-bit grey", "grey8": "8-bit grey", "spectral": "RGB"}[encoding]
        if kind != wanted and not (encoding == "sif" and marked):
            raise DepthError(f"{where}: encoding {encoding!r} is read from a {wanted} image, got {kind} ({file.mode})")
        if encoding in ("sif", "millimetres") and near == "high":
            raise DepthError(f"{where}: {encoding!r} files are near at the low end by definition; drop near='high'")
        if encoding == "spectral":
            return _from_levels(_spectral_levels(file.pixels, where), near or "high")
        level = file.pixels
        if encoding == "millimetres":
            try:
                return cls.from_metric(level, level > 0)
            except DepthError as error:
                raise DepthError(f"{where}: {error}") from None
        if marked and encoding == "sif":
            return cls.from_levels(level)
        if encoding == "sif":
            holes = _HOLES_KEY in file.info
            return cls(level.astype(np.float64) / _LEVELS, level > 0 if holes else None)
        if near is None:
            raise DepthError(
                f"{where}: an 8-bit grey file may hold depth or disparity; say which end is near: "
                "near='low' (--depth-near low) for depth, 'high' for disparity"
            )
        return _from_levels(level, near)


def depth_file_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of a depth file without decoding its pixels.

    Raises:
        DepthError: the file is missing or of no known kind.
    """
    where = Path(path)
    if where.suffix == ".npy":
        height, width = _load_npy(where, memory_map=True).shape
        return width, height
    try:
        with Image.open(where) as image:
            return image.size
    except BROKEN_IMAGE as error:
        raise DepthError(f"{where}: cannot read the depth file: {what_is_wrong(error)}") from None


@lru_cache(maxsize=256)
def cached_depth(path: str) -> DepthMap:
    """A depth file in our own format, kept in memory for rewards that ask for it again and again."""
    return DepthMap.read(path, encoding="sif")


def _summed(values: NDArray[Any], dtype: type[_Sum]) -> NDArray[_Sum]:
    table: NDArray[_Sum] = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=dtype)
    np.cumsum(values, axis=1, dtype=dtype, out=table[1:, 1:])
    np.cumsum(table, axis=0, out=table)
    return table


def _rectangle(
    table: NDArray[Any],
    x1: NDArray[np.intp],
    y1: NDArray[np.intp],
    x2: NDArray[np.intp],
    y2: NDArray[np.intp],
) -> NDArray[Any]:
    return cast("NDArray[Any]", table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1])


def _grey_png(levels: NDArray[np.uint8] | NDArray[np.uint16], texts: Mapping[str, str]) -> bytes:
    """A grey PNG with text chunks, for smooth pictures: each row as its difference from the one above.

    Pillow tries five filters on every row, which takes it two to three times as long, and its files are no smaller; zlib
    takes four times as long as ISA-L.
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
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * levels.itemsize, 0, 0, 0, 0)),
            *(chunk(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in texts.items()),
            chunk(b"IDAT", isal_zlib.compress(rows.data, 1)),
            chunk(b"IEND", b""),
        )
    )


def _from_levels(levels: NDArray[np.uint8], near: Near) -> DepthMap:
    return DepthMap.from_levels(levels if near == "low" else 255 - levels)


def _oriented(values: NDArray[np.float64], near: Near) -> NDArray[np.float64]:
    return values if near == "low" else 1 - values


class _Picture(NamedTuple):
    """A decoded image file: pixels (H, W) or, in colours, (H, W, 3); Pillow's name of the mode; text chunks."""

    pixels: NDArray[Any]
    mode: str
    info: Mapping[Any, Any]


def _open(path: Path) -> _Picture:
    try:
        data = path.read_bytes()
        image: Image.Image = Image.open(io.BytesIO(data))
        pixels = _png_pixels(data, image)
        if pixels is None:
            # One bit is grey at its ends; a palette is a way to store colours.
            to = {"1": "L", "P": "RGB", "RGBA": "RGB"}.get(image.mode)
            image = image.convert(to) if to else image
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise DepthError(f"{path}: no such depth file") from None
    except IsADirectoryError:
        raise DepthError(f"{path} is a folder, not a depth file") from None
    except BROKEN_IMAGE as error:
        raise DepthError(f"{path}: cannot read the depth file: {what_is_wrong(error)}") from None
    if image.mode == "RGB" and (pixels[0, 0] == pixels[0, 0, 0]).all() and (pixels == pixels[..., :1]).all():
        return _Picture(pixels[..., 0], "L", image.info)  # grey, written three times
    return _Picture(pixels, image.mode, image.info)


def _png_pixels(data: bytes, image: Image.Image) -> NDArray[np.uint8] | None:
    """Pixels of an 8-bit PNG in half of Pillow's time; None where Pillow must decode (and say what is wrong)."""
    channels = {"L": "mono", "RGB": "rgb"}.get(image.mode)
    decode = _png_decoder()
    if decode is None or image.format != "PNG" or channels is None:
        return None
    try:
        pixels: NDArray[np.uint8] = decode(data, (image.height, image.width), channels)
    except Exception:  # noqa: BLE001  (it raises no other kind)
        return None
    return pixels[..., 0] if channels == "mono" else pixels


@lru_cache(maxsize=1)
def _png_decoder() -> Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]] | None:
    """kornia-rs's, where it is installed (`sifthinker[fast]`)."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return cast("Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]]", decode_image_png_u8)


def _kind(mode: str) -> str:
    if mode.startswith("I"):  # PIL names 16-bit grey I;16, and I in older versions
        return "16-bit grey"
    if mode == "L":
        return "8-bit grey"
    if mode == "RGB":
        return "RGB"
    raise DepthError(f"an image of mode {mode} holds no depth; wanted grey or RGB")


def _load_npy(path: Path, *, memory_map: bool = False) -> NDArray[np.float64]:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if memory_map else None)
    except FileNotFoundError:
        raise DepthError(f"{path}: no such depth file") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DepthError(f"{path}: cannot read the depth array: {error or type(error).__name__}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DepthError(f"{path}: wanted one array of real numbers of shape (H, W)")
    return array


def _from_array(path: Path, near: Near) -> DepthMap:
    try:
        return DepthMap(_oriented(_load_npy(path).astype(np.float64), near))
    except DepthError as error:
        raise DepthError(error.args[0] if str(path) in error.args[0] else f"{path}: {error}") from None


@lru_cache(maxsize=1)
def _spectral() -> NDArray[np.uint8]:
    """(256, 3) colours of matplotlib's `Spectral_r`, from level 0 to 255 (a test compares them with matplotlib's)."""
    anchors = np.array(_SPECTRAL_ANCHORS, dtype=np.float64)
    level = np.linspace(0, 1, 256)
    at = np.linspace(0, 1, len(anchors))
    colours = np.stack([np.interp(level, at, anchors[:, channel]) for channel in range(3)], axis=1)
    # matplotlib truncates; the small term keeps the anchors themselves from falling one level below.
    return cast("NDArray[np.uint8]", np.floor(colours + 1e-9).astype(np.uint8))


@lru_cache(maxsize=1)
def _spectral_slots() -> tuple[np.uint32, NDArray[np.uint8], NDArray[np.uint32]]:
    """A perfect hash of the colours: a multiplier under which the upper half of each product is another slot; the level in
    each of the 65,536 slots; and the packed colour of each level."""
    packed = _pack(_spectral()[None])[0]
    for multiplier in map(np.uint32, itertools.count(0x9E3779B1, 2)):
        slots = packed * multiplier >> np.uint32(16)
        if len(np.unique(slots)) == len(packed):
            break
    levels = np.zeros(1 << 16, dtype=np.uint8)
    levels[slots] = np.arange(len(packed))
    return multiplier, levels, packed


def _pack(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(H, W) colours of (H, W, 3) bytes, one number each."""
    height, width, _ = colours.shape
    padded = np.zeros(colours.size + 1, dtype=np.uint8)
    padded[:-1] = colours.reshape(-1)
    # Four bytes from each pixel's first on, of which the fourth is the next pixel's.
    return np.ndarray((height, width), "<u4", padded.data, strides=(3 * width, 3)) & np.uint32(0xFFFFFF)


def _spectral_levels(colours: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) colours → (H, W) levels 0..255, exact."""
    multiplier, slots, of_levels = _spectral_slots()
    height, width, _ = colours.shape
    levels = np.empty((height, width), dtype=np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        packed = _pack(colours[top : top + step])
        strip = slots.take(packed * multiplier >> np.uint32(16))
        if not np.array_equal(of_levels.take(strip), packed):
            raise _foreign_colours(colours, path)
        levels[top : top + step] = strip
    return levels


def _foreign_colours(colours: NDArray[np.uint8], path: Path) -> DepthError:
    foreign = ~np.isin(_pack(colours), _spectral_slots()[2])
    row, column = np.argwhere(foreign)[0]
    return DepthError(
        f"{path}: {int(foreign.sum())} of {foreign.size} pixels are not Spectral_r colours, the first at row {row}, "
        f"column {column}: {colours[row, column].tolist()}. A lossy copy (JPEG, resized) cannot be decoded"
    )
