"""Depth maps: the mean depth of a box in constant time, and the test whether a stated depth agrees with it.

Inside sifthinker, depth is relative: 0 is nearest, 1 is farthest. `depth_files` reads the formats of other programs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sifthinker.ask_settings import DepthFiles
from sifthinker.boxes import as_unit_boxes
from sifthinker.depth_files import (
    HOLES_MARK,
    LEVELS,
    MARK,
    ROUNDING,
    check_options,
    grey_png,
    read_depth,
    relative,
    spectral_colours,
)
from sifthinker.errors import DepthError
from sifthinker.files import atomic_write, sha256
from sifthinker.literals import Encoding, Near

_Sum = TypeVar("_Sum", np.float64, np.uint32, np.uint64)

# Tolerance and floor of the depth reward. A true mean below the floor counts as the floor; the engine writes no smaller
# depth.
DEPTH_TOLERANCE = 0.1
LEAST_DEPTH = 1 / 255


_EIGHT_BIT: NDArray[np.float32] = (np.arange(256) / 255).astype(np.float32)


class DepthMap:
    """Relative depth of every pixel of an image.

    Args:
        values: (H, W) in [0, 1]; 0 is nearest, 1 is farthest. Values up to 1e-5 outside are rounding errors and are clipped.
        valid: (H, W) booleans, False in holes (pixels without a reading); None if every pixel is valid.
    Raises:
        DepthError: wrong shape, no pixels, or a valid pixel that is NaN or outside [0, 1].
    """

    def __init__(self, values: ArrayLike, valid: ArrayLike | None = None) -> None:
        array = np.array(values, dtype=np.float32)  # a copy: it is made read-only below
        if array.ndim != 2 or array.size == 0:
            raise DepthError(f"depth must have shape (H, W), got {array.shape}")
        mask = None if valid is None else np.asarray(valid, dtype=bool)
        if mask is not None:
            if mask.shape != array.shape:
                raise DepthError(f"valid must have the shape of the depth map, {array.shape}, got {mask.shape}")
            array = np.where(mask, array, np.float32(0))
            if mask.all():
                mask = None
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise DepthError(
                f"depth must be finite, got {array[row, column]} at row {row}, column {column}. Mark pixels without depth "
                "as False in `valid`"
            )
        low, high = float(array.min()), float(array.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise DepthError(f"depth must be in [0, 1], 0 nearest and 1 farthest, got {low:g} to {high:g}")
        if low < 0 or high > 1:
            np.clip(array, 0, 1, out=array)
        array.setflags(write=False)
        self._values: NDArray[np.float32] | None = array
        self._levels: NDArray[np.uint8] | None = None
        self._added = 0
        self.valid: NDArray[np.bool_] | None = mask

    @classmethod
    def from_levels(cls, levels: ArrayLike) -> DepthMap:
        """Return a map of 8-bit levels, in steps of 1/255. Such a map is small, and its means are exact.

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
        """Return a map of distances, scaled to [0, 1] by the nearest and farthest valid pixel of the image.

        Args:
            metres: (H, W) distances in any unit; larger is farther.
            valid: (H, W) booleans, False in holes.
        Raises:
            DepthError: there is no valid pixel, or a valid pixel is not finite.
        """
        mask = None if valid is None else np.asarray(valid, dtype=bool)
        return cls(relative(metres, mask), mask)

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
        """Whether the map was made from 8-bit levels. Then `view` shows it exactly."""
        return self._levels is not None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = (self._values if self._levels is None else self._levels).shape  # type: ignore[union-attr]
        return width, height

    @property
    def nbytes(self) -> int:
        """Memory of the map in bytes, without the tables that `release` drops."""
        return sum(array.nbytes for array in (self._values, self._levels, self.valid) if array is not None)

    @property
    def full_nbytes(self) -> int:
        """Memory of the map in bytes, including the tables of `mean`."""
        width, height = self.size
        sums = np.float64 if self._levels is None else self._sum_type
        entry = np.dtype(sums).itemsize + (0 if self.valid is None else np.dtype(np.float64).itemsize)
        return self.nbytes + (height + 1) * (width + 1) * entry

    @cached_property
    def _sums(self) -> NDArray[Any]:
        """(H + 1, W + 1) summed-area table of values or levels. The first row and column are zero."""
        return _summed(self.values, np.float64) if self._levels is None else _summed(self._levels, self._sum_type)

    @property
    def _sum_type(self) -> type[np.uint32 | np.uint64]:
        # Needs half the memory if the sum of all levels fits.
        return np.uint32 if self.size[0] * self.size[1] * 255 < 2**32 else np.uint64

    @cached_property
    def _counts(self) -> NDArray[np.float64] | None:
        return None if self.valid is None else _summed(self.valid, np.float64)

    def mean(self, boxes: ArrayLike) -> NDArray[np.float32]:
        """Return the mean depth inside each box.

        A pixel that a box touches counts fully: x1 and y1 are rounded down, x2 and y2 up, and the result is clipped. At
        least one pixel is used. Differences of a billionth of the image side are ignored, so 0.57 of 100 pixels starts at
        pixel 57 although 0.57 * 100 < 57 in floating point.

        Args:
            boxes: (N, 4) unit xyxy.
        Returns:
            (N,) means in [0, 1]; 0 is nearest. NaN if every pixel of the box is a hole.
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
        """Return the (N,) sums of the values in rectangles of pixels."""
        if self._levels is None:
            return _rectangle(self._sums, x1, y1, x2, y2)
        # Sums of levels are exact either way. Making the table takes as long as summing the complete map eight times.
        self._added += int(((x2 - x1) * (y2 - y1)).sum())
        if "_sums" in self.__dict__ or self._added > 8 * self._levels.size:
            return _rectangle(self._sums, x1, y1, x2, y2) / 255
        sides = zip(x1, y1, x2, y2, strict=True)
        parts = (self._levels[top:bottom, left:right] for left, top, right, bottom in sides)
        return np.array([part.sum(dtype=self._sum_type) for part in parts]) / 255

    def release(self) -> None:
        """Drop the tables that `mean` keeps for its next call. They are larger than the map."""
        for name in ("_sums", "_counts"):
            self.__dict__.pop(name, None)
        self._added = 0

    def digest(self) -> str:
        """Return a hex digest of size, values or levels, and holes."""
        stored = self.values if self._levels is None else self._levels
        parts = [repr(self.size).encode(), stored.tobytes(), b"" if self.valid is None else self.valid.tobytes()]
        return sha256(b"".join(parts))

    def view(self) -> Image.Image:
        """Return the depth image that a model sees: 8-bit RGB grey, dark is near, holes are white."""
        return Image.fromarray(self._view_levels()).convert("RGB")

    def _view_levels(self) -> NDArray[np.uint8]:
        level = np.rint(self.values * 255).astype(np.uint8) if self._levels is None else self._levels
        return level if self.valid is None else np.where(self.valid, level, np.uint8(255))

    def coloured(self) -> Image.Image:
        """Return the depth image that a person sees: `Spectral_r` colours, red is near, holes are black."""
        colours = spectral_colours()[255 - np.rint(self.values * 255).astype(np.intp)]
        if self.valid is not None:
            colours = np.where(self.valid[..., None], colours, np.uint8(0))
        return Image.fromarray(colours)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write sifthinker's own format atomically: 16-bit grey PNG, value / 65535, lossless to 1 / 65535.

        A text chunk in the file marks the format. If the map has holes, level 0 stands for a hole (a second text chunk marks
        this), and valid pixels start at level 1. A map of 8-bit levels is written as 8-bit PNG, value / 255.
        """
        if self._levels is not None:
            atomic_write(path, grey_png(self._levels, MARK))
        else:
            atomic_write(path, grey_png(self._sixteen_bit(), MARK if self.valid is None else MARK | HOLES_MARK))

    def write_view(self, path: str | os.PathLike[str]) -> None:
        """Write the depth image that a model sees (see `view`) atomically as 8-bit grey PNG."""
        atomic_write(path, grey_png(self._view_levels(), {}))

    def _sixteen_bit(self) -> NDArray[np.uint16]:
        level = np.rint(self.values * LEVELS).astype(np.uint16)
        return level if self.valid is None else np.where(self.valid, np.maximum(level, 1), 0).astype(np.uint16)

    def rounded(self) -> DepthMap:
        """Return the map as it is after being written and read back."""
        if self.eight_bit:
            return self
        return DepthMap(self._sixteen_bit().astype(np.float64) / LEVELS, self.valid)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        encoding: Encoding = "auto",
        near: Near | None = None,
        holes: Sequence[float] = (),
    ) -> DepthMap:
        """Read a depth file.

        | encoding      | what the numbers are                   | files       | near          | always holes       |
        |---------------|----------------------------------------|-------------|---------------|--------------------|
        | `sif`         | depth, value / 65535; in files with    | 16-bit      | low           |                    |
        |               | sifthinker's mark also value / 255     |             |               |                    |
        | `grey8`       | depth or disparity, value / 255        | 8-bit       | must be given |                    |
        | `spectral`    | disparity in `Spectral_r` colours      | RGB         | high          |                    |
        | `npy`         | depth in [0, 1]                        | numbers     | low           |                    |
        | `metres`,     | distances in any unit, the same for    | 16-bit,     | low, always   | 0 and below, 65535 |
        | `millimetres` | both: scaled to [0, 1] for each image  | numbers     |               | of unsigned 16-bit |
        | `inverse`     | disparity or inverse depth in any      | 16-bit,     | high, always  | below 0            |
        |               | unit, scaled to [0, 1] for each image  | numbers     |               |                    |

        Files: 8-bit grey (or RGB with three equal channels) and 16-bit grey are PNG, TIFF or PGM. Numbers are .npy, .npz
        with one array, .pfm, or 32-bit TIFF. NaN, infinity and transparent pixels are holes in every encoding.

        `auto` chooses by the kind of file: `sif` for 16 bits, `grey8`, `spectral` or `npy`. It rejects a 16-bit file without
        sifthinker's mark if all values lie below a sixth of the range, because these are probably distances. It warns about
        other 16-bit files without the mark and about numbers.

        Distances and disparity are searched for codes that are not in `holes`: numbers at the upper end, far from all
        others, such as 32767, 65534 or 1e10. A number that can only be a code is an error. One that may be a code is a
        warning.

        Args:
            path: the file.
            encoding: meaning of the numbers in the file.
            near: whether low or high values are near.
            holes: values that stand for "no reading", as stored in the file.
        Raises:
            DepthError: the file is missing, broken or of another kind, or its meaning is unclear. The message gives the
                file.
        """
        found, valid = read_depth(path, encoding, near, holes)
        return cls.from_levels(found) if valid is None and found.dtype == np.uint8 else cls(found, valid)


@dataclass(frozen=True, slots=True)
class DepthReading:
    """Settings for reading the depth files of images, see `DepthMap.read`.

    Raises:
        DepthError: the settings contradict each other.
    """

    encoding: Encoding = "auto"
    near: Near | None = None
    holes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_options(self.encoding, self.near, self.holes)

    @classmethod
    def of(cls, files: DepthFiles) -> DepthReading:
        """Return the reading for some settings.

        Raises:
            DepthError: the settings contradict each other.
        """
        return cls(files.depth_encoding, files.depth_near, files.depth_hole)

    def read(self, path: str | os.PathLike[str], size: tuple[int, int]) -> DepthMap:
        """Read the depth of an image of `size` (width, height).

        Raises:
            DepthError: the file is missing, cannot be read, or differs in size from the image.
        """
        found = DepthMap.read(path, encoding=self.encoding, near=self.near, holes=self.holes)
        if found.size != size:
            raise DepthError(
                f"{path}: the depth file must have the size of its image, {size[0]}×{size[1]}, got "
                f"{found.size[0]}×{found.size[1]}. Make the depth at the image's size"
            )
        return found


def agrees(stated: ArrayLike, truth: ArrayLike) -> NDArray[np.bool_]:
    """Return whether stated depths earn the depth reward: within a tenth of the true means, which count as at least 1/255.

    Args:
        stated: (N,) depths in a chain; NaN if the chain states none.
        truth: (N,) means from `DepthMap.mean`. NaN (no depth) agrees with nothing.
    """
    true = np.maximum(np.asarray(truth, dtype=np.float64), LEAST_DEPTH)
    off = np.abs(np.asarray(stated, dtype=np.float64) - true)
    # Round to twelve digits: 0.11 and 0.1 differ by exactly a tenth, and floating-point noise must not decide.
    found: NDArray[np.bool_] = np.round(off - DEPTH_TOLERANCE * true, 12) <= 0
    return found


def dataset_depth(path: str | os.PathLike[str]) -> DepthMap:
    """Read a depth map of a dataset, in sifthinker's own format.

    Raises:
        DepthError: the file is missing, broken or in another format.
    """
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
