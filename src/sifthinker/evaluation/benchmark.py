"""What makes a published benchmark: how its files are read, its own metrics, and the numbers of its table.

`sifthinker.benchmarks` holds the benchmarks themselves. Here is what an evaluation needs to know of any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sifthinker.evaluation.metrics import RESAMPLES, Result, Row
from sifthinker.evaluation.questions import Question
from sifthinker.thinker import Thought


class Unit(NamedTuple):
    """One of the values that a number is the mean of: of a question, or of a pair of them.

    Args:
        group: groups count alike.
        value: the value.
        ids: of the rows that it comes from.
    """

    group: str
    value: float
    ids: tuple[str, ...]


# What a number is the mean of.
Units = Callable[[Sequence[Row]], Iterable[Unit]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that is no mean, and how it changes when what it is worked out from is drawn again.

    Args:
        parts: how many parts there are that are drawn as wholes, for instance the images of all questions.
        value: the number, 0 or more, where each part counts so many times: (parts,) whole numbers, 0 for one that is left
            out; None where it cannot be worked out.
        biased: whether the values of other draws lie to one side of the number, so that their percentiles say nothing about
            it; such a number is a share, from 0 to 1.
    """

    parts: int
    value: Callable[[NDArray[np.int64]], float | None]
    biased: bool = False


class Asked(list[Row]):
    """The rows that the numbers of a table are worked out of.

    Attributes:
        known: what a statistic keeps of them for the next one that needs it, by keys of its own.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__(row for row in rows if not row.error)
        self.known: dict[Any, Any] = {}


# What is worked out once from the rows, so that a bootstrap does not read them again.
Statistic = Callable[[Sequence[Row]], Estimate | None]

_BIASED_RESAMPLES = 200  # a standard deviation needs fewer than percentiles do


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
        needs: the parts that the number is about. Where one of them has no row the number is left out: a part of a benchmark
            must not stand under the name of the whole.
        parts: the parts that a row stands for; by default that of the group of its unit.
        mean_over: the groups whose mean the whole number is, where a mean of some of them is a number as well. It is then
            said of which.
    """

    name: str
    about: str
    units: Units
    lenient: Units | None = None
    lenient_about: str = ""
    statistic: Statistic | None = None
    lenient_statistic: Statistic | None = None
    needs: frozenset[str] = frozenset()
    parts: Callable[[Row], Iterable[str]] | None = None
    mean_over: frozenset[str] = frozenset()

    def only(self, rows: Sequence[Row]) -> str:
        """The groups that the number is about, in words, where these are not all of `mean_over`; "" where they are."""
        if not self.mean_over:
            return ""
        groups = {unit.group for unit in self.units(rows)}
        return "" if self.mean_over <= groups or not groups else ", ".join(sorted(groups))

    def lacks(self, rows: Sequence[Row]) -> frozenset[str]:
        """The parts of `needs` that none of the rows is of."""
        if not self.needs:
            return self.needs
        units = list(self.units(rows))
        if self.parts is None:
            return self.needs - {unit.group for unit in units}
        used = {name for unit in units for name in unit.ids}
        return self.needs - {part for row in rows if row.id in used for part in self.parts(row)}


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
        splits_about: what their names do not say, in half a sentence.
        read: reads its files.
        headlines: the numbers of its table, the most important first.
        metrics: its own values of a question.
        show_choices: whether its questions are asked with their choices under them.
        unit: what a value of its numbers is of, where it is not a question, for instance "a pair of questions".
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
    unit: str = "a question"
    splits_about: str = ""

    @property
    def splits_said(self) -> str:
        """Its splits, in words."""
        return f"{', '.join(self.splits)}{f' ({self.splits_about})' if self.splits_about else ''}"

    def numbers(self, rows: Iterable[Row]) -> dict[str, Number]:
        """The benchmark's table: headline → number; without those that lack a part, or that no row has a part in."""
        asked = Asked(rows)
        found = {}
        for headline in self.headlines:
            if headline.lacks(asked):
                continue
            strict = _number(asked, headline.units, headline.statistic)
            if strict is not None:
                lenient = headline.lenient and _number(asked, headline.lenient, headline.lenient_statistic)
                found[headline.name] = Number(strict, lenient)
        return found

    def left_out(self, rows: Iterable[Row]) -> list[str]:
        """What the table does not say, in sentences: numbers that lack a part, and rows that have a part in no number.

        Of numbers that are means of parts it says so where they are of some alone.
        """
        asked = [row for row in rows if not row.error]
        lacking = {headline: lacks for headline in self.headlines if (lacks := headline.lacks(asked))}
        said = []
        if lacking:
            names = ", ".join(headline.name for headline in lacking)
            parts = ", ".join(sorted({part for lacks in lacking.values() for part in lacks}))
            said.append(f"not in the table: {names}, for want of questions of {parts} that have a value")
        parts_of: dict[str, list[str]] = {}
        for headline in self.headlines:
            if only := headline.only(asked):
                parts_of.setdefault(only, []).append(headline.name)
        said += [f"{', '.join(names)}: of {only} alone, a part of the benchmark" for only, names in parts_of.items()]
        used = {
            name
            for headline in self.headlines
            if headline not in lacking
            for unit in headline.units(asked)
            for name in unit.ids
        }
        without = [row.id for row in asked if row.id not in used]
        if without:
            said.append(
                f"{len(without)} of {len(asked)} questions have no part in any number, each of which is of {self.unit}; the "
                f"first is {without[0]!r}"
            )
        return said

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
            if headline.lacks(first) or headline.lacks(second):
                continue
            one, other = (_number(Asked(rows), headline.units, headline.statistic) for rows in (first, second))
            if one is not None or other is not None:
                paired = None if headline.statistic else _paired(headline.units, first, second)
                found[headline.name] = one, other, paired
        return found

    def to_json(self, rows: Iterable[Row]) -> dict[str, Any]:
        """What an evaluation's file says of the benchmark: its title, its own metrics, its table; plain values."""
        rows = list(rows)
        asked = [row for row in rows if not row.error]
        about = {headline.name: headline for headline in self.headlines}
        only = {headline.name: headline.only(asked) for headline in self.headlines}
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "metrics": {metric.name: metric.about for metric in self.metrics},
            "table": {
                name: {
                    "about": about[name].about + (f" (here of {only[name]} alone)" if only[name] else ""),
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

    def units(rows: Sequence[Row]) -> Iterable[Unit]:
        for row in rows:
            value = row.values.get(metric)
            if value is not None and (keep is None or keep(row)):
                yield Unit(by(row) if by else "", value, (row.id,))

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
    if not one or [(unit.group, unit.ids) for unit in one] != [(unit.group, unit.ids) for unit in other]:
        return None
    return _mean_of_groups([now._replace(value=now.value - before.value) for before, now in zip(one, other, strict=True)])


def _mean_of_groups(units: Sequence[Unit]) -> Result:
    groups: dict[str, list[float]] = {}
    for group, value, _ in units:
        groups.setdefault(group, []).append(value)
    count, draw = len(units), np.random.default_rng(0)
    arrays = [np.array(values, dtype=np.float64) for values in groups.values()]
    mean = float(np.mean([array.mean() for array in arrays]))
    low, high = np.percentile(np.mean([_drawn_means(array, draw) for array in arrays], axis=0), [2.5, 97.5])
    return Result(mean, count, float(low), float(high))


def _estimated(estimate: Estimate | None, count: int, draw: np.random.Generator) -> Result | None:
    """The number of an estimate, and a percentile interval of what other draws come to.

    Where that is biased it is 1.96 of their standard deviations about the number, as far as shares go: an average precision
    of parts that are drawn again, some of them twice, is higher than that of all, by more than its spread where categories
    are small.
    """
    mean = None if estimate is None else estimate.value(np.ones(estimate.parts, dtype=np.int64))
    if estimate is None or mean is None:
        return None
    drawn = (
        estimate.value(np.bincount(draw.integers(estimate.parts, size=estimate.parts), minlength=estimate.parts))
        for _ in range(_BIASED_RESAMPLES if estimate.biased else RESAMPLES)
    )
    values = [value for value in drawn if value is not None] or [mean]
    if estimate.biased:
        spread = 1.96 * float(np.std(values))
        return Result(mean, count, max(mean - spread, 0.0), min(mean + spread, 1.0))
    low, high = np.percentile(values, [2.5, 97.5])
    return Result(mean, count, float(low), float(high))


def _drawn_means(values: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Means of values drawn again, one draw at a time: a thousand of a benchmark's would not fit into memory."""
    return np.array([values[draw.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])
