"""Metrics of an answer, and their statistics: mean, count, bootstrap interval, groups and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sifthinker.boxes import hierarchical_iou
from sifthinker.chain import region_boxes
from sifthinker.coordinates import Frame, frame_of
from sifthinker.evaluation.questions import Question
from sifthinker.files import check_keys
from sifthinker.literals import Coordinates
from sifthinker.records import Box
from sifthinker.scoring.answers import Verdict, judge
from sifthinker.scoring.rewards import score_depth, score_grounding
from sifthinker.thinker import Thought

METRICS: dict[str, str] = {
    "answer accuracy": "share of right answers; an unreadable answer is wrong",
    "final HIoU": "hierarchical IoU of the last area with the target boxes; 0 without a readable area",
    "first HIoU": "hierarchical IoU of the first area that is not the whole image; only chains with an area",
    "correction gain": "final HIoU minus first HIoU; only chains with an area",
    "depth consistency": "share of stated depths within 10 % of the measured depth; only chains with an area",
    "valid format": "share of completions that are valid chains",
}

RESAMPLES = 1000  # per bootstrap
_MOST_DRAWN = 10_000_000  # random numbers drawn at once


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one metric: mean, number of completions, and the 95 % bootstrap interval of the mean."""

    mean: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One question with the model's answer and its metrics.

    Args:
        id: id of the question.
        dataset: dataset of the question; "" if unknown.
        split: split of the question; "" if unknown.
        family: family of the question; "" if unknown.
        tags: further groups of the question: grouping → its group.
        question: the question.
        answers: right answers; empty if unknown.
        choices: the possible answers of a closed question.
        boxes: target boxes, unit xyxy; empty if unknown.
        image: the image's path, relative to the folder of the images.
        depth: the depth file's path, relative to the same folder; None if the model saw no depth.
        prompt: the complete prompt, without the marks of the model's chat template.
        completion: the model's text; for a structured reply, the chain composed from it.
        complete: whether the model ended by itself; False if it ran out of tokens.
        answer: the answer read from the completion; None if there is none.
        verdict: score, rule and reason of the answer; None if there is nothing to judge.
        problems: reason codes of why the completion is not a valid chain, see `chain.REASONS`.
        values: metric → value; None if the metric does not apply to the question or the completion.
        error: why the question could not be asked; "" if it was. A row with an error has no values.
        file_sizes: bytes of the image and depth files when the question was asked, see `Question.file_sizes`; () if unknown.
        coordinates: coordinates of boxes in the completion, see `coordinates.Frame`.
        resized: for `resized`, (width, height) of the image as the model saw it.
        reply: the model's text, if the completion was composed from it.
        faults: (reason code, message) for each fault of the reply, see `structured.FAULTS`.
        tokens: numbers of tokens (read, written); () if unknown.
    """

    id: str
    dataset: str
    split: str
    family: str
    tags: Mapping[str, str]
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    boxes: tuple[Box, ...]
    image: str
    depth: str | None
    prompt: str
    completion: str = ""
    complete: bool = True
    answer: str | None = None
    verdict: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()
    values: Mapping[str, float | None] = field(default_factory=lambda: dict.fromkeys(METRICS))
    error: str = ""
    file_sizes: tuple[int | None, ...] = ()
    coordinates: Coordinates = "unit"
    resized: tuple[int, int] | None = None
    reply: str = ""
    faults: tuple[tuple[str, str], ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def frame(self) -> Frame:
        """What the numbers of boxes in the completion stand for."""
        return frame_of(self.coordinates, self.resized)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values, with lists for tuples. Unit coordinates are left out."""
        row = asdict(self)
        del row["coordinates"], row["resized"]
        row |= self.frame.columns()
        row["boxes"] = [list(box) for box in self.boxes]
        row["faults"] = [list(fault) for fault in self.faults]
        for name in ("reply", "faults", "tokens"):  # few rows have them
            if not row[name]:
                del row[name]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], where: str = "row") -> Row:
        """Read a row that `to_json` wrote.

        Raises:
            ConfigError: an unknown key.
            TypeError: a key is missing.
        """
        check_keys(row, list(cls.__dataclass_fields__), where)
        lists: dict[str, Any] = {name: tuple(row[name]) for name in ("answers", "choices", "problems")}
        lists |= {name: tuple(row.get(name, ())) for name in ("file_sizes", "tokens")}
        lists["faults"] = tuple((code, words) for code, words in row.get("faults", ()))
        frame = frame_of(row.get("coordinates"), row.get("resized"))
        lists |= {"coordinates": frame.space, "resized": frame.size}
        return cls(**{**row, **lists, "boxes": tuple(tuple(box) for box in row["boxes"])})


class Measured(NamedTuple):
    """The metrics of a thought (None for those that do not apply), and the verdict on its answer."""

    values: dict[str, float | None]
    verdict: Verdict | None


def measure(thought: Thought, question: Question) -> Measured:
    """Measure one thought.

    A metric that does not apply is None: there is no accuracy without right answers, no HIoU or gain without boxes, and no
    depth consistency without depth. A direct answer only has an accuracy.

    Args:
        thought: the model's thought.
        question: its question; an answer is right if it matches one of `answers`.
    """
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    verdict = None
    if question.answers:
        if thought.answer is not None:
            verdicts = [judge(thought.answer, truth, question.choices) for truth in question.answers]
            verdict = max(verdicts, key=lambda found: found.score)  # the first of equals
        values["answer accuracy"] = 0.0 if verdict is None else float(verdict.score == 1)
    if thought.direct:
        return Measured(values, verdict)
    reading = thought.reading  # for a structured reply: the composed chain, with the faults of the reply
    values["valid format"] = float(not reading.problems)
    if reading.areas and thought.depth is not None:
        values["depth consistency"] = score_depth(reading, thought.depth).value
    if question.boxes:
        values["final HIoU"] = 0.0
        if reading.areas:
            grounded = score_grounding(reading, question.boxes)
            values["final HIoU"] = hierarchical_iou(region_boxes(reading.areas[-1]), question.boxes)
            values["first HIoU"], values["correction gain"] = grounded.parts["start"], grounded.parts["gain"]
    return Measured(values, verdict)


def summarise(rows: Iterable[Row], *, resamples: int = RESAMPLES) -> dict[str, Result]:
    """Return mean, count and percentile bootstrap interval of every metric. A metric without values is left out."""
    rows = list(rows)
    results = {}
    for name in metrics_of(rows):
        values = [value for row in rows if (value := row.values.get(name)) is not None]
        if values:
            results[name] = bootstrap(values, resamples)
    return results


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Return the metrics of rows, the general ones first."""
    return list(dict.fromkeys([*METRICS, *(name for row in rows for name in row.values)]))


def bootstrap(values: Sequence[float], resamples: int = RESAMPLES) -> Result:
    """Return mean, count and percentile bootstrap interval of values. The seed is fixed: equal values give equal results.

    Args:
        values: (N,), N at least 1.
        resamples: number of resamples.
    """
    array = np.array(values, dtype=np.float64)
    draw = np.random.default_rng(0)
    # Draws all resamples at once if they fit. Splitting them does not change the numbers.
    at_once = max(1, min(resamples, _MOST_DRAWN // len(array)))
    parts = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate([draw.choice(array, (part, len(array))).mean(axis=1) for part in parts])
    low, high = np.percentile(means, [2.5, 97.5])
    return Result(float(array.mean()), len(array), float(low), float(high))


def paired_difference(
    ours: Mapping[str, float | None], theirs: Mapping[str, float | None], *, resamples: int = RESAMPLES
) -> Result | None:
    """Return the mean of ours less theirs over the questions that both have, with a bootstrap interval over questions.

    The difficulty of a question cancels out, which makes the interval narrower than those of the two means.

    Args:
        ours: question → value, or None if it has none.
        theirs: question → value, or None if it has none.
        resamples: see `bootstrap`.
    Returns:
        The difference; None if no question has both values.
    Example:
        >>> paired_difference({"a": 1, "b": 0.5, "c": 1}, {"b": 0.25, "a": 1}).mean
        0.125
    """
    differences = [
        value - other for key, value in ours.items() if value is not None and (other := theirs.get(key)) is not None
    ]
    return bootstrap(differences, resamples) if differences else None


def group_by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Group rows by `key`, for example their family. Groups are in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def all_groups(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Group rows by dataset, by split, by family and by every tag. Return grouping → group → rows.

    A grouping that no row has is left out. Rows without a value that other rows have are in the group "".
    """
    keys: dict[str, Callable[[Row], str]] = {
        "dataset": lambda row: row.dataset,
        "split": lambda row: row.split,
        "family": lambda row: row.family,
    }
    for name in dict.fromkeys(name for row in rows for name in row.tags):
        keys[name] = lambda row, name=name: row.tags.get(name, "")  # type: ignore[misc]
    grouped = {name: group_by(rows, key) for name, key in keys.items()}
    return {name: groups for name, groups in grouped.items() if list(groups) not in ([], [""])}
