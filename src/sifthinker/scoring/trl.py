"""The rewards as TRL takes them: functions of a batch of completions and the dataset's columns.

```python
from sifthinker import AnswerReward, depth_reward, format_reward, grounding_reward
trainer = trl.GRPOTrainer(..., reward_funcs=[format_reward, AnswerReward(), grounding_reward, depth_reward])
```

`SIFGRPOTrainer` uses the same functions. A malformed completion scores 0 and never raises. Where completions
state no fractions, all take two columns more: `coordinates` (`unit`, `per_mille` or `resized`) and for `resized` the column
`resized`, (width, height) of each image as the model saw it; see `coordinates.Frame`. `coordinates` may be one text for all.
A column has one value for each completion; another number of them is a `ConfigError`.
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
    """The mean answer score of each sample's group the last time it was seen, keyed by sample id."""

    def __init__(self, means: Mapping[str, float] | None = None) -> None:
        self._means = dict(means or {})

    def previous(self, sample: str) -> float | None:
        """The mean of the last visit; None on the first."""
        return self._means.get(sample)

    def update(self, scores: Mapping[str, Sequence[float]]) -> None:
        """Take in the groups just seen: sample id → the answer scores s of its completions."""
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
    """TRL reward function of `score_format`. Without a `depth` column, chains are held to state depths.

    Args:
        completions: texts or messages.
        depth: the column of depth maps; only whether there is one matters.
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
    """TRL reward function of the judged answer alone, without progress; `AnswerReward` keeps a ledger and adds it."""
    _check_columns(len(completions), {"answer": answer, "choices": choices})
    return [
        score_answer(reading, answer[index], _choices_of(choices, index)).value
        for index, reading in enumerate(_readings(completions, depth, columns))
    ]


class AnswerReward:
    """TRL reward function of `score_answer` with progress, over a ledger.

    Args:
        ledger: shared with whoever saves it; a new one by default.
        judge: asked about free text that rules cannot decide; without one, rules decide alone. Where it fails the reward is
            None, which `SIFGRPOTrainer` keeps out of the sum; plain TRL would count it as 0.
        progress: False leaves the judged answer alone, to ablate progress; the ledger is still kept.

    Attributes:
        recording: whether groups are taken into the ledger; a trainer turns it off while it evaluates.
        gather: makes one list of every process's (sample id, s) pairs; a trainer sets it, so that a group that is spread
            over processes has one mean and every process the same ledger.
    """

    __name__ = "answer_reward"  # TRL names the reward's metrics by it

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
    """TRL reward function of `score_grounding`. Columns: `boxes`, (N, 4) unit xyxy a sample; for `group` also `id`.

    Args:
        denominator: see `boxes.paired_iou`.
        correction: see `score_grounding`. With `group`, completions of one `id` are one group.

    Attributes:
        gather: makes one list of every process's (sample id, h_start) pairs; a trainer sets it, so that a group that is
            spread over processes is seen whole.
    """

    __name__ = "grounding_reward"  # TRL names the reward's metrics by it

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
                raise ConfigError("grounding_reward: correction 'group' needs a column `id` that says which group is whose")
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
    """TRL reward function of `score_grounding` within one process; see `GroundingReward` for columns and settings."""
    return GroundingReward(denominator=denominator, correction=correction)(completions, boxes, depth, **columns)


def depth_reward(
    completions: Sequence[Completion], depth: Sequence[DepthMap | str | None], *, repeats: bool = False, **columns: Any
) -> list[float | None]:
    """TRL reward function of `score_depth`. Column `depth`: a DepthMap, the path of one in our own format, or None."""
    readings = _readings(completions, depth, columns)
    maps = [cached_depth(truth) if isinstance(truth, str) else truth for truth in depth]
    return [score_depth(reading, known, repeats=repeats).value for reading, known in zip(readings, maps, strict=True)]


def _readings(
    completions: Sequence[Completion],
    depth: Sequence[DepthMap | str | None] | None,
    columns: Mapping[str, Any],
    opened: bool | None = None,
) -> list[Reading]:
    """Each completion read; without a `depth` column, chains are held to state depths.

    Raises:
        BoxError: `coordinates` and `resized` among the columns that are no frame.
        ConfigError: a column with another number of values than there are completions.
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


# Columns that may be empty, which is as good as none.
_MAY_BE_EMPTY = ("choices", "problem")


def _check_columns(count: int, columns: Mapping[str, Any]) -> None:
    """See that columns have one value for each of so many completions; None is no column.

    Raises:
        ConfigError: another number of values, or one value that is no list.
    """
    for name, column in columns.items():
        if column is None:
            continue
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__len__"):
            raise ConfigError(f"{name} is {column!r:.80}; wanted a list with one value for each of the {count} completions")
        if len(column) != count and (len(column) or name not in _MAY_BE_EMPTY):
            raise ConfigError(f"{name} has {len(column)} values for {count} completions; wanted one for each")


def _choices_of(column: Sequence[Any] | None, index: int) -> tuple[str, ...]:
    """One sample's choices from a column of lists or of text, see `records.read_choices`."""
    return () if column is None or not len(column) else read_choices(column[index])


def completion_text(completion: Completion) -> str:
    """The words of a completion: text, or messages whose content is text or a list of typed parts."""
    if isinstance(completion, str):
        return completion
    texts = []
    for message in completion:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part.get("text") or "" for part in content)
        texts.append(content)
    return "".join(texts)
