"""The rewards for TRL: functions of a batch of completions and the columns of the dataset.

```python
from sifthinker import AnswerReward, depth_reward, format_reward, grounding_reward
trainer = trl.GRPOTrainer(..., reward_funcs=[format_reward, AnswerReward(), grounding_reward, depth_reward])
```

`SIFGRPOTrainer` uses the same functions. A malformed completion scores 0 and never raises. A column has one value for each
completion; another number of values is a `ConfigError`.

If completions do not state fractions, all functions take two more columns: `coordinates` (`unit`, `per_mille` or `resized`),
and for `resized` the column `resized`, the (width, height) of each image as the model saw it; see `coordinates.Frame`.
`coordinates` can also be one text for all completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike

from sifthinker.chain import Reading, read_completion
from sifthinker.coordinates import frame_of
from sifthinker.depth import DepthMap
from sifthinker.depth_cache import cached_depth
from sifthinker.errors import ConfigError
from sifthinker.literals import Correction, Denominator
from sifthinker.records import read_choices
from sifthinker.scoring.answers import Verdict
from sifthinker.scoring.judge import Claim, ModelJudge
from sifthinker.scoring.rewards import as_correction, score_answer, score_depth, score_format, score_grounding, with_gain

Completion = str | Sequence[Mapping[str, Any]]


class Ledger:
    """Mean answer score of each example's group at its last visit, keyed by example id."""

    def __init__(self, means: Mapping[str, float] | None = None) -> None:
        self._means = dict(means or {})

    def previous(self, sample: str) -> float | None:
        """Return the mean of the last visit; None on the first visit."""
        return self._means.get(sample)

    def update(self, scores: Mapping[str, Sequence[float]]) -> None:
        """Store the means of the present groups: sample id → the answer scores s of its completions."""
        for sample, values in scores.items():
            self._means[sample] = sum(values) / len(values)

    def to_json(self) -> dict[str, float]:
        return dict(self._means)


def format_reward(
    completions: Sequence[Completion],
    depth: Sequence[DepthMap | str | None] | None = None,
    *,
    opened: bool | None = None,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function for `score_format`. Without a `depth` column, chains must state depths.

    Args:
        completions: texts or messages.
        depth: column of depth maps; only None or not None matters.
        opened: see `chain.read_completion`.
    """
    return [score_format(reading).value for reading in _readings(completions, depth, columns, opened)]


def answer_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    choices: Sequence[Sequence[str] | str] | None = None,
    depth: Sequence[DepthMap | str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function for the answer score without progress. `AnswerReward` adds progress with a ledger."""
    _check_columns(len(completions), {"answer": answer, "choices": choices})
    return [
        score_answer(reading, answer[index], _choices_of(choices, index)).value
        for index, reading in enumerate(_readings(completions, depth, columns))
    ]


class AnswerReward:
    """TRL reward function for `score_answer` with progress, which a ledger stores.

    Args:
        ledger: ledger, for instance one that the caller saves; a new one by default.
        judge: model judge for free text that the rules cannot decide; by default, the rules alone decide. If the judge
            fails, the reward is None. `SIFGRPOTrainer` leaves None out of the sum; plain TRL would count it as 0.
        progress: False for the answer score alone, an ablation of progress. The ledger is still updated.

    Attributes:
        recording: whether calls update the ledger; a trainer turns it off during evaluation.
        gather: function that joins the (sample id, s) pairs of all processes. A trainer sets it: a group can be spread over
            processes, and every process needs the same ledger.
    """

    __name__ = "answer_reward"  # TRL uses this in the names of its metrics

    def __init__(self, ledger: Ledger | None = None, judge: ModelJudge | None = None, *, progress: bool = True) -> None:
        self.ledger = ledger if ledger is not None else Ledger()
        self.judge = judge
        self.progress = progress
        self.recording = True
        self.gather: Callable[[list[tuple[str, float]]], list[tuple[str, float]]] = list

    def __call__(
        self,
        completions: Sequence[Completion],
        id: Sequence[str],
        answer: Sequence[str],
        choices: Sequence[Sequence[str] | str] | None = None,
        problem: Sequence[str] | None = None,
        depth: Sequence[DepthMap | str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        _check_columns(len(completions), {"id": id, "answer": answer, "choices": choices, "problem": problem})
        readings = _readings(completions, depth, columns)
        options = [_choices_of(choices, index) for index in range(len(readings))]
        verdicts: list[Verdict | Literal["rules"] | None] = ["rules"] * len(readings)
        if self.judge is not None:
            said = {
                index: Claim(problem[index] if problem else "", reading.answer, answer[index], options[index])
                for index, reading in enumerate(readings)
                if reading.answer is not None
            }
            for index, verdict in zip(said, self.judge.judge_all(list(said.values())), strict=True):
                verdicts[index] = verdict
        previous = [self.ledger.previous(sample) if self.progress else None for sample in id]
        scores = [
            score_answer(reading, answer[i], options[i], previous=previous[i], verdict=verdicts[i])
            for i, reading in enumerate(readings)
        ]
        if self.recording:
            pairs = [(id[index], score.parts["s"]) for index, score in enumerate(scores) if score.value is not None]
            groups: dict[str, list[float]] = {}
            for sample, value in self.gather(pairs):
                groups.setdefault(sample, []).append(value)
            self.ledger.update(groups)
        return [score.value for score in scores]


class GroundingReward:
    """TRL reward function for `score_grounding`. Columns: `boxes`, (N, 4) unit xyxy per sample; for `group` also `id`.

    Args:
        denominator: see `boxes.paired_iou`.
        correction: see `score_grounding`. With `group`, completions with the same `id` are one group.

    Attributes:
        gather: function that joins the (sample id, h_start) pairs of all processes. A trainer sets it, because a group can
            be spread over processes.
    """

    __name__ = "grounding_reward"  # TRL uses this in the names of its metrics

    def __init__(self, *, denominator: Denominator = "max", correction: Correction | bool = "own") -> None:
        self.denominator = denominator
        self.correction = as_correction(correction)
        self.gather: Callable[[list[tuple[str, float]]], list[tuple[str, float]]] = list

    def __call__(
        self,
        completions: Sequence[Completion],
        boxes: Sequence[ArrayLike],
        depth: Sequence[DepthMap | str | None] | None = None,
        id: Sequence[str] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        _check_columns(len(completions), {"boxes": boxes, "id": id})
        readings = _readings(completions, depth, columns)
        alone: Correction = "off" if self.correction == "group" else self.correction
        scores = [
            score_grounding(reading, boxes[index], denominator=self.denominator, correction=alone)
            for index, reading in enumerate(readings)
        ]
        focused = [index for index, reading in enumerate(readings) if reading.areas]
        if self.correction == "group":
            if id is None:
                raise ConfigError(
                    "grounding_reward: correction 'group' needs a column `id` with the group of each completion"
                )
            starts: dict[str, list[float]] = {}
            for sample, start in self.gather([(id[index], scores[index].parts["start"]) for index in focused]):
                starts.setdefault(sample, []).append(start)
            for index in focused:
                parts = scores[index].parts
                others = list(starts[id[index]])
                others.remove(parts["start"])
                scores[index] = with_gain(parts["start"], parts["end"], "group", others)
        if log_metric is not None and focused:
            for name, part in (("first", "start"), ("final", "end")):
                log_metric(f"chain/{name}_hiou", sum(scores[index].parts[part] for index in focused) / len(focused))
        return [score.value for score in scores]


def grounding_reward(
    completions: Sequence[Completion],
    boxes: Sequence[ArrayLike],
    depth: Sequence[DepthMap | str | None] | None = None,
    *,
    denominator: Denominator = "max",
    correction: Correction | bool = "own",
    **columns: Any,
) -> list[float | None]:
    """TRL reward function for `score_grounding` in one process; for columns and settings see `GroundingReward`."""
    return GroundingReward(denominator=denominator, correction=correction)(completions, boxes, depth, **columns)


def depth_reward(
    completions: Sequence[Completion], depth: Sequence[DepthMap | str | None], *, repeats: bool = False, **columns: Any
) -> list[float | None]:
    """TRL reward function for `score_depth`. Column `depth`: a DepthMap, the path of one in sifthinker's format, or None."""
    readings = _readings(completions, depth, columns)
    maps = [cached_depth(truth) if isinstance(truth, str) else truth for truth in depth]
    return [score_depth(reading, known, repeats=repeats).value for reading, known in zip(readings, maps, strict=True)]


def _readings(
    completions: Sequence[Completion],
    depth: Sequence[DepthMap | str | None] | None,
    columns: Mapping[str, Any],
    opened: bool | None = None,
) -> list[Reading]:
    """Read each completion. Without a `depth` column, chains must state depths.

    Raises:
        BoxError: the columns `coordinates` and `resized` are not a valid frame.
        ConfigError: the number of values in a column differs from the number of completions.
    """
    spaces, sizes = columns.get("coordinates"), columns.get("resized")
    if isinstance(spaces, str):
        spaces = [spaces] * len(completions)
    _check_columns(len(completions), {"depth": depth, "coordinates": spaces, "resized": sizes})
    return [
        read_completion(
            completion_text(item),
            with_depth=depth is None or depth[index] is not None,
            opened=opened,
            frame=frame_of(None if spaces is None else spaces[index], None if sizes is None else sizes[index]),
        )
        for index, item in enumerate(completions)
    ]


# Columns that may be empty; an empty one counts as missing.
_MAY_BE_EMPTY = ("choices", "problem")


def _check_columns(count: int, columns: Mapping[str, Any]) -> None:
    """Check that each column has one value per completion. None means no column.

    Raises:
        ConfigError: a column has another number of values, or is not a list.
    """
    for name, column in columns.items():
        if column is None:
            continue
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__len__"):
            raise ConfigError(
                f"{name} must be a list with one value for each of the {count} completions, got {column!r:.80}"
            )
        if len(column) != count and (len(column) or name not in _MAY_BE_EMPTY):
            raise ConfigError(f"{name} must have one value for each of the {count} completions, got {len(column)}")


def _choices_of(column: Sequence[Any] | None, index: int) -> tuple[str, ...]:
    """Return the choices of one sample from a column of lists or texts, see `records.read_choices`."""
    return () if column is None or not len(column) else read_choices(column[index])


def completion_text(completion: Completion) -> str:
    """Return the text of a completion: a text, or messages whose content is text or a list of typed parts."""
    if isinstance(completion, str):
        return completion
    texts = []
    for message in completion:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part.get("text") or "" for part in content)
        texts.append(content)
    return "".join(texts)
