"""What makes a published benchmark: how its files are read, its own metrics, and the numbers of its table.

`sifthinker.benchmarks` holds the benchmarks themselves. Here is what an evaluation needs to know of any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sifthinker.evaluation.metrics import RESAMPLES, Result, Row
from sifthinker.evaluation.questions import Question
from sifthinker.thinker import Thought

# What a number is the mean of: (group, value) of every unit, for instance of every question, or of every pair of them.
Units = Callable[[Sequence[Row]], Iterable[tuple[str, float]]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that is no mean, and how it changes when what it is worked out from is drawn again.

    Args:
        parts: how many parts there are that are drawn as wholes, for instance the images of all questions.
        value: the number, 0 or more, where each part counts so many times: (parts,) whole numbers, 0 for one that is left
            out; None where it cannot be worked out.
    """

    parts: int
    value: Callable[[NDArray[np.int64]], float | None]


# What is worked out once from the rows, so that a bootstrap does not read them again.
Statistic = Callable[[Sequence[Row]], Estimate | None]

_STATISTIC_RESAMPLES = 200  # of a statistic that is no mean; each takes longer than one of a mean


class Reader(Protocol):
    """Reads a benchmark's files as they are published."""

    def __call__(
        self, data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
    ) -> list[Question]:
        """
        Args:
            data: local file or folder, or a Hugging Face name.
            split: one of the benchmark's.
            images: folder of the images where they do not lie with the files.
            limit: the first so many questions; None for all.
        Raises:
            RecordError: the files are not there or not as published; says where.
        """
        ...


@dataclass(frozen=True, slots=True)
class Metric:
    """A benchmark's own value of one question, beside those of `metrics.METRICS`.

    Args:
        name: its key in `Row.values`; "answer accuracy" replaces the general one.
        about: what it is, in half a sentence.
        value: of a thought about a question; None where it does not apply.
    """

    name: str
    about: str
    value: Callable[[Thought, Question], float | None]


@dataclass(frozen=True, slots=True)
class Headline:
    """One number of a benchmark's table.

    Args:
        name: as the benchmark's table has it.
        about: what it is, in half a sentence.
        units: what it is the mean of. With several groups it is the mean of the groups' means, each group counting alike.
        lenient: the same as the benchmark's official scorer counts, where that is more lenient; None where it is not.
        lenient_about: in what way it is.
        statistic: the number itself, where it is no mean; `units` then say no more than how many there are.
        lenient_statistic: likewise, of the official scorer.
    """

    name: str
    about: str
    units: Units
    lenient: Units | None = None
    lenient_about: str = ""
    statistic: Statistic | None = None
    lenient_statistic: Statistic | None = None


@dataclass(frozen=True, slots=True)
class Number:
    """A headline of one evaluation: the strict number, and the official lenient one where it differs in kind."""

    strict: Result
    lenient: Result | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark.

    Args:
        name: on the command line.
        title: as its authors write it.
        source: paper and place of its files.
        hub: the Hugging Face name of its files, asked for where no data is named; "" where there is none.
        splits: its splits, the usual one first.
        read: reads its files.
        headlines: the numbers of its table, the most important first.
        metrics: its own values of a question.
        show_choices: whether its questions are asked with their choices under them.
    """

    name: str
    title: str
    source: str
    hub: str
    splits: tuple[str, ...]
    read: Reader
    headlines: tuple[Headline, ...]
    metrics: tuple[Metric, ...] = ()
    show_choices: bool = True

    def numbers(self, rows: Iterable[Row]) -> dict[str, Number]:
        """The benchmark's table: headline → number; without those that no row has a part in."""
        asked = [row for row in rows if not row.error]
        found = {}
        for headline in self.headlines:
            strict = _number(asked, headline.units, headline.statistic)
            if strict is not None:
                lenient = headline.lenient and _number(asked, headline.lenient, headline.lenient_statistic)
                found[headline.name] = Number(strict, lenient)
        return found

    def compared(
        self, first: Sequence[Row], second: Sequence[Row]
    ) -> dict[str, tuple[Result | None, Result | None, Result | None]]:
        """The strict numbers of two models over the same questions, and how much higher the second one's are.

        Args:
            first: rows of one model, asked and of the same questions in the same order as the next; where one of them lacks
                a value the other must lack it too.
            second: of the other model.
        Returns:
            Headline → (first, second, difference). The difference is paired: its interval is over units, for instance over
            questions. It is None of a number that is no mean. Without headlines that neither has.
        """
        found = {}
        for headline in self.headlines:
            one, other = (_number(rows, headline.units, headline.statistic) for rows in (first, second))
            if one is not None or other is not None:
                paired = None if headline.statistic else _paired(headline.units, first, second)
                found[headline.name] = one, other, paired
        return found

    def to_json(self, rows: Iterable[Row]) -> dict[str, Any]:
        """What an evaluation's file says of the benchmark: its title, its own metrics, its table; plain values."""
        about = {headline.name: headline for headline in self.headlines}
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "metrics": {metric.name: metric.about for metric in self.metrics},
            "table": {
                name: {
                    "about": about[name].about,
                    "lenient_about": about[name].lenient_about,
                    "strict": asdict(number.strict),
                    "lenient": None if number.lenient is None else asdict(number.lenient),
                }
                for name, number in self.numbers(rows).items()
            },
        }


def mean_of(metric: str, keep: Callable[[Row], bool] | None = None, by: Callable[[Row], str] | None = None) -> Units:
    """The mean of a metric over questions.

    Args:
        metric: a key of `Row.values`.
        keep: which rows; all by default.
        by: the group of a row; groups count alike.
    """

    def units(rows: Sequence[Row]) -> Iterable[tuple[str, float]]:
        for row in rows:
            value = row.values.get(metric)
            if value is not None and (keep is None or keep(row)):
                yield (by(row) if by else ""), value

    return units


def _number(rows: Sequence[Row], units: Units, statistic: Statistic | None) -> Result | None:
    found = list(units(rows))
    if not found:
        return None
    if statistic is not None:
        return _estimated(statistic(rows), len(found), np.random.default_rng(0))
    return _mean_of_groups(found)


def _paired(units: Units, first: Sequence[Row], second: Sequence[Row]) -> Result | None:
    """The mean of the second's units less the first's; None where they are not of the same."""
    one, other = list(units(first)), list(units(second))
    if not one or [group for group, _ in one] != [group for group, _ in other]:
        return None
    return _mean_of_groups([(group, value - before) for (group, before), (_, value) in zip(one, other, strict=True)])


def _mean_of_groups(units: Sequence[tuple[str, float]]) -> Result:
    groups: dict[str, list[float]] = {}
    for group, value in units:
        groups.setdefault(group, []).append(value)
    count, draw = len(units), np.random.default_rng(0)
    arrays = [np.array(values, dtype=np.float64) for values in groups.values()]
    mean = float(np.mean([array.mean() for array in arrays]))
    low, high = np.percentile(np.mean([_drawn_means(array, draw) for array in arrays], axis=0), [2.5, 97.5])
    return Result(mean, count, float(low), float(high))


def _estimated(estimate: Estimate | None, count: int, draw: np.random.Generator) -> Result | None:
    """The number of an estimate, and an interval of 1.96 standard deviations of what other draws come to.

    Not their percentiles: an average precision of parts that are drawn again, some of them twice, is higher than that of
    all, by more than its spread where categories are small.
    """
    mean = None if estimate is None else estimate.value(np.ones(estimate.parts, dtype=np.int64))
    if estimate is None or mean is None:
        return None
    drawn = (
        estimate.value(np.bincount(draw.integers(estimate.parts, size=estimate.parts), minlength=estimate.parts))
        for _ in range(_STATISTIC_RESAMPLES)
    )
    spread = 1.96 * float(np.std([value for value in drawn if value is not None] or [mean]))
    return Result(mean, count, max(mean - spread, 0.0), mean + spread)


def _drawn_means(values: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Means of values drawn again, one draw at a time: a thousand of a benchmark's would not fit into memory."""
    return np.array([values[draw.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])
