"""The definition of a published benchmark: a reader for its files, its own metrics, and the numbers of its table.

`sifthinker.benchmarks` contains the benchmarks themselves. This module has what an evaluation needs to know about them.
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


def describe_lenient(numbers: Iterable[tuple[str, str]]) -> list[str]:
    """Return how an official scorer is more lenient, one text for each rule. Several rules name their numbers.

    Args:
        numbers: (name of a number, its rule or "").
    Example:
        >>> describe_lenient([("accuracy", "any letter"), ("HIoU", "clipped boxes"), ("gqa HIoU", "clipped boxes")])
        ['accuracy: any letter', 'HIoU, also of each dataset: clipped boxes']
    """
    rules: dict[str, list[str]] = {}
    for name, rule in numbers:
        if rule:
            rules.setdefault(rule, []).append(name)
    if len(rules) == 1:
        return list(rules)
    found = []
    for rule, names in rules.items():
        # "gqa HIoU" stands beside "HIoU".
        common = [name for name in names if not any(name.endswith(f" {other}") for other in names)]
        found.append(f"{', '.join(common)}{', also of each dataset' if len(common) < len(names) else ''}: {rule}")
    return found


class Unit(NamedTuple):
    """One value that enters the mean of a number: the value of a question, or of a pair of questions.

    Args:
        group: group of the value; groups have equal weight.
        value: the value.
        ids: ids of the rows that it comes from.
    """

    group: str
    value: float
    ids: tuple[str, ...]


# Returns the values whose mean is the number.
Units = Callable[[Sequence[Row]], Iterable[Unit]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that is not a mean, in a form that a bootstrap can resample.

    Args:
        parts: number of parts to resample, for example the images of all questions.
        value: returns the number (0 or more) for a resample, or None if it has none. A resample is an integer array of shape
            (parts,): how often each part was drawn, 0 if it was not.
        biased: whether the values of resamples lie to one side of the number, so that their percentiles are no interval of
            it. A biased number must be a share from 0 to 1.
    """

    parts: int
    value: Callable[[NDArray[np.int64]], float | None]
    biased: bool = False


class Asked(list[Row]):
    """The rows that the numbers of a table are computed from: those without an error.

    Attributes:
        known: cache that statistics share, by keys of their own.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__(row for row in rows if not row.error)
        self.known: dict[Any, Any] = {}


# Computes an estimate from the rows once. The bootstrap then does not read the rows again.
Statistic = Callable[[Sequence[Row]], Estimate | None]

_BIASED_RESAMPLES = 200  # a standard deviation needs fewer than percentiles do


class Reader(Protocol):
    """Reader of a benchmark's files in their published layout."""

    def __call__(
        self, data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
    ) -> list[Question]:
        """Read the questions of a split.

        Args:
            data: local file or folder, or a Hugging Face name.
            split: a split of the benchmark.
            images: folder of the images if they are not beside the files.
            limit: number of questions to read from the start; None for all.
        Raises:
            RecordError: the files are missing or not in the published layout.
        """
        ...


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that a benchmark adds to those of `metrics.METRICS`.

    Args:
        name: key in `Row.values`; "answer accuracy" replaces the general metric.
        about: short description, a noun phrase.
        value: returns the value of a thought about a question; None if the metric does not apply.
    """

    name: str
    about: str
    value: Callable[[Thought, Question], float | None]


@dataclass(frozen=True, slots=True)
class Headline:
    """One number of a benchmark's table.

    Args:
        name: name in the benchmark's table.
        about: short description, a noun phrase.
        units: the values whose mean is the number. With several groups it is the mean of the group means, with equal weight.
        lenient: the values as the official scorer counts them, if it is more lenient; otherwise None.
        lenient_about: how the official scorer is more lenient.
        statistic: the number itself, if it is not a mean; `units` then only give the count.
        lenient_statistic: the number of the official scorer, if it is not a mean.
        needs: the parts of the benchmark that the number covers. If one of them has no row, the number is left out: the
            result of a part must not carry the name of the complete benchmark.
        parts: returns the parts that a row belongs to; by default the group of its unit.
        mean_over: the groups that the complete number averages, if a mean over some of them is a valid number too. The
            table then lists these groups.
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
        """Return the groups that the number covers, as text, if some of `mean_over` are missing; otherwise ""."""
        if not self.mean_over:
            return ""
        groups = {unit.group for unit in self.units(rows)}
        return "" if self.mean_over <= groups or not groups else ", ".join(sorted(groups))

    def lacks(self, rows: Sequence[Row]) -> frozenset[str]:
        """Return the parts of `needs` that no row belongs to."""
        if not self.needs:
            return self.needs
        units = list(self.units(rows))
        if self.parts is None:
            return self.needs - {unit.group for unit in units}
        used = {name for unit in units for name in unit.ids}
        return self.needs - {part for row in rows if row.id in used for part in self.parts(row)}


@dataclass(frozen=True, slots=True)
class Number:
    """The result of a headline: the strict number, and the official lenient one if the official scorer differs."""

    strict: Result
    lenient: Result | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark.

    Args:
        name: name on the command line.
        title: name as its authors write it.
        source: paper, and where its files are published.
        hub: Hugging Face name of its files, the default data; "" if there is none.
        splits: its splits, the usual one first.
        splits_about: short explanation of the split names.
        read: reads its files.
        headlines: the numbers of its table, the most important first.
        metrics: its own metrics.
        show_choices: whether the choices are added below each question.
        unit: what a value of its numbers belongs to, if not to a question, for example "a pair of questions".
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
        """The splits as text, with their explanation."""
        return f"{', '.join(self.splits)}{f' ({self.splits_about})' if self.splits_about else ''}"

    def numbers(self, rows: Iterable[Row]) -> dict[str, Number]:
        """Return the benchmark's table: headline → number. Headlines with a missing part or without values are left out."""
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
        """Return sentences about the gaps of the table.

        They list the numbers that are left out, the numbers that cover only some parts, and the rows that enter no number.
        """
        asked = [row for row in rows if not row.error]
        lacking = {headline: lacks for headline in self.headlines if (lacks := headline.lacks(asked))}
        said = []
        if lacking:
            names = ", ".join(headline.name for headline in lacking)
            parts = ", ".join(sorted({part for lacks in lacking.values() for part in lacks}))
            said.append(f"not in the table: {names}, because no question of {parts} has a value")
        parts_of: dict[str, list[str]] = {}
        for headline in self.headlines:
            if only := headline.only(asked):
                parts_of.setdefault(only, []).append(headline.name)
        said += [f"{', '.join(names)}: only {only}, a part of the benchmark" for only, names in parts_of.items()]
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
                f"{len(without)} of {len(asked)} questions do not count in any number of the table. The first is "
                f"{without[0]!r}. Each value comes from {self.unit}"
            )
        return said

    def compared(
        self, first: Sequence[Row], second: Sequence[Row]
    ) -> dict[str, tuple[Result | None, Result | None, Result | None]]:
        """Return the strict numbers of two models over the same questions, and their differences (second less first).

        Args:
            first: rows of the first model, without errors.
            second: rows of the second model: the same questions in the same order, with values for the same metrics.
        Returns:
            Headline → (first, second, difference). The difference is paired, and its interval is over units, for example
            questions. It is None for a number that is not a mean. Headlines that neither model has are left out.
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
        """Return the benchmark's part of an evaluation file as plain values: its title, its own metrics, its table."""
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
                    "about": about[name].about + (f" (here only {only[name]})" if only[name] else ""),
                    "lenient_about": about[name].lenient_about,
                    "strict": asdict(number.strict),
                    "lenient": None if number.lenient is None else asdict(number.lenient),
                }
                for name, number in self.numbers(rows).items()
            },
        }


def mean_of(metric: str, keep: Callable[[Row], bool] | None = None, by: Callable[[Row], str] | None = None) -> Units:
    """Return the units of a headline that is the mean of a metric over questions.

    Args:
        metric: a key of `Row.values`.
        keep: selects rows; all by default.
        by: returns the group of a row; groups have equal weight.
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
    """Return the mean difference of the units (second less first); None if they belong to different rows."""
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
    """Return the number of an estimate and its bootstrap interval.

    The interval has the 2.5 and 97.5 percentiles of the resamples. For a biased estimate it is the number ± 1.96 standard
    deviations of the resamples, limited to [0, 1]. An average precision is biased: a resample draws some parts twice, which
    raises the value, and with small categories by more than its spread.
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
    """Return the means of resampled values. Draws one resample at a time, because all of them would not fit in memory."""
    return np.array([values[draw.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])
