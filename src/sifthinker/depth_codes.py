"""Find numbers in depth files that look like codes for "no reading".

A code that stays among the distances silently ruins a map: scaling maps the code to 1 and everything else close to 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Limits of number types, and fill values. No scene ends exactly there by chance.
_FILL_VALUES = frozenset({65535, 65534, 65533, 65504, 32767, 32766, 2147483647, 4294967295, 99999, 999999, 1e9, 1e10})
# Limits of sensor ranges, and round numbers that drivers write. A far plane may lie there too.
_SENSOR_CODES = frozenset({16383, 8191, 4095, 2047, 2046, 1023, 10000, 9999, 999})
# The farthest point of a scene is less than this many times as far as the second farthest.
_TIMES = 100
# Maximum number of codes at the upper end of a file.
_MOST = 8
# Gaps smaller than this part of the range of the rest mean nothing.
_LEAST_GAP = 1 / 10
_SAMPLE = 1 << 12


class Codes(NamedTuple):
    """Numbers that are far from all others in a file.

    Args:
        values: the numbers, greatest first (the least for a code at the low end).
        pixels: number of pixels with one of them.
        nearest: the nearest of the other numbers.
        certain: True if only codes explain them; False if a flat or clipped part of the scene may explain them too.
    """

    values: tuple[float, ...]
    pixels: int
    nearest: float
    certain: bool


def codes_at_the_top(seen: NDArray[Any], *, inverse: bool) -> Codes | None:
    """Return the greatest numbers of a map if they look like codes, else None.

    One or a few distinct numbers look like codes if a gap separates them from the rest. The required gap depends on the
    numbers:

    - A hundred times the next number: certain, for any number.
    - A fill value such as 32767 or 65534: certain if the gap exceeds the range of the rest, or a tenth of it in several
      pixels.
    - The limit of a sensor range such as 2047 or 10000, in several pixels: certain if the gap exceeds the range of the rest,
      uncertain from a quarter of it.
    - Any other number in several pixels: uncertain if the gap exceeds the range of the rest. The sky of a rendered scene
      looks like this.

    Args:
        seen: numbers of the pixels that have a reading.
        inverse: whether they are disparity or inverse depth. Programs scale disparity to the limit of a number type, so a
            power of two minus one is only uncertain there.
    """
    if _has_no_gap(seen):
        return None
    ordered = np.sort(seen, axis=None)
    # Index at which each distinct number begins.
    starts = np.concatenate(([0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1))
    numbers = ordered[starts].astype(np.float64)
    counts = np.diff(np.append(starts, len(ordered)))
    found: Codes | None = None
    # Remove a certain code and search the rest again, so that one message lists all codes.
    while codes := _first_codes(numbers, counts, inverse):
        if not codes.certain:
            return found or codes
        numbers, counts = numbers[: -len(codes.values)], counts[: -len(codes.values)]
        if found is not None:
            codes = codes._replace(values=found.values + codes.values, pixels=found.pixels + codes.pixels)
        found = codes
    return found


def _has_no_gap(seen: NDArray[Any]) -> bool:
    """Whether a sample shows that there is no gap at the top. Sorting all numbers takes long."""
    flat = seen.reshape(-1)
    sample = np.unique(np.append(flat[:: max(1, len(flat) // _SAMPLE)], flat.max())).astype(np.float64)
    top = sample[-_MOST - 1 :]
    # The gaps between all numbers are not larger than the gaps in a sample.
    return len(sample) > _MOST + 1 and bool((np.diff(top) <= (top[:-1] - float(flat.min())) * _LEAST_GAP).all())


def _first_codes(numbers: NDArray[np.float64], counts: NDArray[np.intp], inverse: bool) -> Codes | None:
    """Return the smallest group of greatest numbers that are certainly codes, else the smallest uncertain group.

    Args:
        numbers: distinct numbers in ascending order.
        counts: number of pixels with each.
    """
    doubtful: Codes | None = None
    for size in range(1, min(_MOST, len(numbers) - 1) + 1):
        group, nearest = numbers[-size:], float(numbers[-size - 1])
        gap, span = float(group[0]) - nearest, nearest - float(numbers[0])
        if size > 1 and 2 * size > len(numbers):
            break  # the group is larger than the rest
        known = {value for value in group.tolist() if value in _FILL_VALUES | _SENSOR_CODES}
        telling = {value for value in known if not (inverse and _is_type_end(value))}
        repeated = bool((counts[-size:] > 1).any())
        codes = Codes(tuple(group[::-1].tolist()), int(counts[-size:].sum()), nearest, True)
        if 0 < _TIMES * nearest < group[0]:
            return codes
        if telling & _FILL_VALUES and (gap > span or (repeated and gap > span * _LEAST_GAP)):
            return codes
        if telling and repeated and gap > span > 0:
            return codes
        # A map with only two distances is a drawing, not a measurement. The rest has no range to compare with.
        apart = (telling or span > 0) and gap > (span / 4 if known else span)
        if doubtful is None and repeated and apart:
            doubtful = codes._replace(certain=False)
    return doubtful


def zero_disparity(seen: NDArray[Any]) -> Codes | None:
    """Return zeros in disparity that are a quarter of the range away from the rest: infinitely far, or "no match"."""
    zeros = seen == 0
    pixels = int(np.count_nonzero(zeros))
    if pixels < 2 or pixels == seen.size:
        return None
    rest = seen[~zeros]
    least, greatest = float(rest.min()), float(rest.max())
    return Codes((0.0,), pixels, least, False) if greatest > least > (greatest - least) / 4 else None


def _is_type_end(value: float) -> bool:
    """Whether a number is a power of two minus one."""
    return value.is_integer() and value < 2**53 and (int(value) + 1) & int(value) == 0
