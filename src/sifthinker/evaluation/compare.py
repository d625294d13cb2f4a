"""Compare two evaluations, question by question."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sifthinker.errors import ConfigError
from sifthinker.evaluation.benchmark import Benchmark
from sifthinker.evaluation.metrics import Result, Row, bootstrap, group_by, metrics_of, paired_difference
from sifthinker.evaluation.run import Evaluation


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two models, over the questions that have it in both evaluations.

    Args:
        first: result of the first model.
        second: result of the second model.
        difference: second less first, question by question; its interval is over questions.
    """

    first: Result
    second: Result
    difference: Result


@dataclass(frozen=True, slots=True)
class HeadlineDifference:
    """One strict number of a benchmark's table for two models, over the questions that have its values in both evaluations.

    Args:
        first: number of the first model; None if it cannot be computed.
        second: number of the second model; None if it cannot be computed.
        difference: second less first, with an interval over the same questions; None for a number that is not a mean.
    """

    first: Result | None
    second: Result | None
    difference: Result | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations of the same questions.

    Args:
        questions: number of questions that both asked.
        only_first: number of questions that only the first one asked.
        only_second: number of questions that only the second one asked.
        results: metric → difference, for the general metrics and those of the benchmark.
        families: family → metric → difference; empty if the questions have no families.
        table: headline of the benchmark → its numbers; empty without a benchmark.
    """

    questions: int
    only_first: int
    only_second: int
    results: Mapping[str, Difference]
    families: Mapping[str, Mapping[str, Difference]]
    table: Mapping[str, HeadlineDifference] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return asdict(self)


def compare(
    first: str | os.PathLike[str] | Evaluation,
    second: str | os.PathLike[str] | Evaluation,
    *,
    benchmark: Benchmark | None = None,
) -> Comparison:
    """Compare two evaluations on the questions that both asked.

    A question that an evaluation could not ask, for example because its image was missing, counts as not asked.

    Args:
        first: an evaluation, or its file.
        second: an evaluation, or its file; differences are second less first.
        benchmark: benchmark of the questions, for its table, for example `benchmarks.benchmark("cv-bench")`.
    Raises:
        ConfigError: a file is not an evaluation, the two have no question in common, or an id has two different questions.
    Example:
        >>> compare("sft.json", "grpo.json").results["final HIoU"].difference.mean  # doctest: +SKIP
        0.12
    """
    one, other = (found if isinstance(found, Evaluation) else Evaluation.read(found) for found in (first, second))
    mine, theirs = ({row.id: row for row in found.rows if not row.error} for found in (one, other))
    both = [name for name in mine if name in theirs]
    for name in both:
        for part in ("question", "answers", "choices"):
            said, says = getattr(mine[name], part), getattr(theirs[name], part)
            if said != says:
                raise ConfigError(
                    f"the evaluations use different data: question {name!r} has the {part} {said!r} in the first and "
                    f"{says!r} in the second; evaluate both on the same data"
                )
    if not both:
        raise ConfigError("the evaluations have no question in common; evaluate both on the same data")
    families = group_by((mine[name] for name in both), lambda row: row.family)
    return Comparison(
        questions=len(both),
        only_first=len(mine) - len(both),
        only_second=len(theirs) - len(both),
        results=_differences([mine[name] for name in both], theirs),
        families={} if list(families) == [""] else {name: _differences(rows, theirs) for name, rows in families.items()},
        table={} if benchmark is None else _table(benchmark, [(mine[name], theirs[name]) for name in both]),
    )


def _table(benchmark: Benchmark, pairs: Sequence[tuple[Row, Row]]) -> dict[str, HeadlineDifference]:
    """Return the benchmark's numbers for pairs of rows. A value that one row lacks is removed from the other too."""
    first, second = [], []
    for one, other in pairs:
        lack = [name for name in {**one.values, **other.values} if None in (one.values.get(name), other.values.get(name))]
        first.append(replace(one, values={**one.values, **dict.fromkeys(lack)}))
        # Both rows take the groups of the first, or a pair could fall into two groups.
        same = {name: getattr(one, name) for name in ("dataset", "split", "family", "tags")}
        second.append(replace(other, values={**other.values, **dict.fromkeys(lack)}, **same))
    return {name: HeadlineDifference(*found) for name, found in benchmark.compared(first, second).items()}


def _differences(rows: Sequence[Row], theirs: Mapping[str, Row]) -> dict[str, Difference]:
    found = {}
    for metric in metrics_of(rows):
        pairs = [(row.id, row.values.get(metric), theirs[row.id].values.get(metric)) for row in rows]
        first = {name: a for name, a, b in pairs if a is not None and b is not None}
        second = {name: b for name, a, b in pairs if a is not None and b is not None}
        difference = paired_difference(second, first)
        if difference is not None:
            found[metric] = Difference(bootstrap(list(first.values())), bootstrap(list(second.values())), difference)
    return found
