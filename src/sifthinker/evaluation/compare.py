"""Two evaluations compared, question by question."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sifthinker.errors import ConfigError
from sifthinker.evaluation.metrics import Result, Row, bootstrap, group_by, metrics_of, paired_difference
from sifthinker.evaluation.run import Evaluation


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two models, over the questions that have it with both.

    Args:
        first: of the first model.
        second: of the second one.
        difference: second less first, question by question; its interval is over questions.
    """

    first: Result
    second: Result
    difference: Result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations of the same questions.

    Args:
        questions: how many both asked.
        only_first: how many only the first one asked.
        only_second: how many only the second one asked.
        results: metric → difference.
        families: family → metric → difference, where the questions state families.
    """

    questions: int
    only_first: int
    only_second: int
    results: Mapping[str, Difference]
    families: Mapping[str, Mapping[str, Difference]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(first: str | os.PathLike[str] | Evaluation, second: str | os.PathLike[str] | Evaluation) -> Comparison:
    """Compare two evaluations on the questions that both asked.

    A question that only one of them could ask, for instance because its image was gone, counts as not asked by the other.

    Args:
        first: an evaluation, or its file.
        second: likewise; differences are this one less the first.
    Raises:
        ConfigError: a file is no evaluation, they have no question in common, or an id stands for two different questions.
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
                    f"the evaluations are of different data: question {name!r} has the {part} {said!r} in the first and "
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
    )


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
