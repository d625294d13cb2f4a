"""Numbers in depth files that look like codes for "no reading": found, not interpreted.

A code left among the distances ruins a map without a sign: scaling puts the code at 1 and everything else near 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Ends of number types and fill values. No scene ends at one by chance.
_FILL_VALUES = frozenset({65535, 65534, 65533, 65504, 32767, 32766, 2147483647, 4294967295, 99999, 999999, 1e9, 1e10})
# Ends of sensors' ranges and round numbers that drivers write; a far plane may lie there too.
_SENSOR_CODES = frozenset({16383, 8191, 4095, 2047, 2046, 1023, 10000, 9999, 999})
# The farthest point of a scene is not this many times as far as the one before it.
_TIMES = 100
# A file has at most this many codes at its upper end.
_MOST = 8
# Gaps smaller than this part of the range of the rest say nothing.
_LEAST_GAP = 1 / 10
_SAMPLE = 1 << 12


class Codes(NamedTuple):
    """Numbers that stand apart from all others in a file.

    Args:
        values: the numbers, greatest first (the least for a code at the low end).
        pixels: how many pixels have one of them.
        nearest: the next number of those that do not stand apart.
        certain: whether nothing but codes explains them; else a flat or clipped part of the scene may.
    """

    values: tuple[float, ...]
    pixels: int
    nearest: float
    certain: bool


def codes_at_the_top(seen: NDArray[Any], *, inverse: bool) -> Codes | None:
    """The greatest numbers of a map, if they look like codes.

    They do where one or a few distinct numbers stand apart from the rest. How far apart depends on what they are:

    - a hundred times the next number: certain, whatever they are;
    - a fill value such as 32767 or 65534: certain if the gap is larger than the range of the rest, or in several pixels
      larger than a tenth of it;
    - the end of a sensor's range, such as 2047 or 10000, in several pixels: certain if the gap is larger than the range of
      the rest, doubtful from a quarter of it on;
    - any other number in several pixels: doubtful if the gap is larger than the range of the rest. The sky of a rendered
      scene looks like this.

    Args:
        seen: numbers of the pixels that have a reading.
        inverse: whether they are disparity or inverse depth. Programs scale disparity to the end of a type, so a power of
            two less one is only doubtful there.
    """
    if _has_no_gap(seen):
        return None
    ordered = np.sort(seen, axis=None)
    # Where each distinct number begins.
    starts = np.concatenate(([0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1))
    numbers = ordered[starts].astype(np.float64)
    counts = np.diff(np.append(starts, len(ordered)))
    found: Codes | None = None
    # A certain code is set aside and the rest looked at anew, so that all of them are named at once.
    while codes := _first_codes(numbers, counts, inverse):
        if not codes.certain:
            return found or codes
        numbers, counts = numbers[: -len(codes.values)], counts[: -len(codes.values)]
        if found is not None:
            codes = codes._replace(values=found.values + codes.values, pixels=found.pixels + codes.pixels)
        found = codes
    return found


def _has_no_gap(seen: NDArray[Any]) -> bool:
    """Whether a sample already shows that no group of numbers stands apart at the top; sorting all of them takes long."""
    flat = seen.reshape(-1)
    sample = np.unique(np.append(flat[:: max(1, len(flat) // _SAMPLE)], flat.max())).astype(np.float64)
    top = sample[-_MOST - 1 :]
    # Gaps between all numbers are no larger than those in a sample, and a group has no more numbers than the whole.
    return len(sample) > _MOST + 1 and bool((np.diff(top) <= (top[:-1] - float(flat.min())) * _LEAST_GAP).all())


def _first_codes(numbers: NDArray[np.float64], counts: NDArray[np.intp], inverse: bool) -> Codes | None:
    """The smallest group of greatest numbers that are certainly codes, or else the smallest that may be.

    Args:
        numbers: distinct, rising.
        counts: pixels of each.
    """
    doubtful: Codes | None = None
    for size in range(1, min(_MOST, len(numbers) - 1) + 1):
        group, nearest = numbers[-size:], float(numbers[-size - 1])
        gap, span = float(group[0]) - nearest, nearest - float(numbers[0])
        if size > 1 and 2 * size > len(numbers):
            break  # the many do not stand apart from the few
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
        # Two distances in all are a drawing, not a measurement: there is no range to stand apart from.
        apart = (telling or span > 0) and gap > (span / 4 if known else span)
        if doubtful is None and repeated and apart:
            doubtful = codes._replace(certain=False)
    return doubtful


def zero_disparity(seen: NDArray[Any]) -> Codes | None:
    """Zeros in disparity that stand apart from the rest by a quarter of its range: infinitely far, or "no match"."""
    zeros = seen == 0
    pixels = int(np.count_nonzero(zeros))
    if pixels < 2 or pixels == seen.size:
        return None
    rest = seen[~zeros]
    least, greatest = float(rest.min()), float(rest.max())
    return Codes((0.0,), pixels, least, False) if greatest > least > (greatest - least) / 4 else None


def _is_type_end(value: float) -> bool:
    """Whether a number is a power of two less one."""
    return value.is_integer() and value < 2**53 and (int(value) + 1) & int(value) == 0
