"""What is measured of an answer, and its statistics: mean, count, bootstrap interval, by group, and paired differences."""

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
    "answer accuracy": "judged answers; an answer that cannot be read is wrong",
    "final HIoU": "hierarchical IoU of the last area with the target boxes; 0 without a readable area",
    "first HIoU": "hierarchical IoU of the first area that is not the whole image; chains with an area",
    "correction gain": "final HIoU minus that of the first area that is not the whole image; chains with an area",
    "depth consistency": "share of stated depths within a tenth of the truth; chains with an area",
    "valid format": "completions that are valid chains",
}

RESAMPLES = 1000  # of a bootstrap
_MOST_DRAWN = 10_000_000  # numbers that are drawn at once


@dataclass(frozen=True, slots=True)
class Result:
    """One metric: mean, number of completions it is over, and a 95 % bootstrap interval of the mean."""

    mean: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One question and what a model made of it.

    Args:
        id: of the question.
        dataset: of the question; "" where unknown, as the next two.
        split: of the question.
        family: of the question.
        tags: further groups of the question: what is grouped → its group.
        question: what was asked.
        answers: right answers, none where unknown.
        choices: the possible answers of a closed question.
        boxes: target boxes, unit xyxy; none where unknown.
        image: the image's path, relative to the folder of the images.
        depth: the depth file's path likewise; None where the model saw no depth.
        prompt: all that was asked, without the marks of the model's chat template.
        completion: what the model wrote; of a structured reply, the chain that was composed from it.
        complete: whether the model ended by itself; False when it ran out of tokens.
        answer: the answer that was read in the completion; None where there is none.
        verdict: of the answer: score, rule, reason; None where there is nothing to judge.
        problems: reason codes of what makes the completion no valid chain, see `chain.REASONS`.
        values: metric → value; None where the question or the completion cannot have it.
        error: why the question could not be asked; "" where it was. Such a row has no values.
        file_sizes: bytes of the image and of the depth file when it was asked, see `Question.file_sizes`; () where unknown.
        coordinates: what the numbers of boxes in the completion are, see `coordinates.Frame`.
        resized: for `resized`, (width, height) of the image as the model saw it.
        reply: what the model wrote, where the completion was composed from it.
        faults: (reason code, words) of what was wrong with the reply, see `structured.FAULTS`.
        tokens: (read, written); () where unknown.
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
        """The row as plain values, lists for tuples; without coordinates where they are fractions."""
        row = asdict(self)
        del row["coordinates"], row["resized"]
        row |= self.frame.columns()
        row["boxes"] = [list(box) for box in self.boxes]
        row["faults"] = [list(fault) for fault in self.faults]
        for name in ("reply", "faults", "tokens"):  # what few rows have
            if not row[name]:
                del row[name]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], where: str = "row") -> Row:
        """A row that `to_json` wrote.

        Raises:
            ConfigError: a key that no row has.
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
    """The metrics of a thought, None where one does not apply, and the verdict on its answer."""

    values: dict[str, float | None]
    verdict: Verdict | None


def measure(thought: Thought, question: Question) -> Measured:
    """Measure one thought.

    A metric that the question cannot have is None: without right answers there is no accuracy, without boxes no HIoU and no
    gain, without depth no depth consistency. An answer that was asked for directly has nothing but its accuracy.

    Args:
        thought: of the model.
        question: what it was asked; an answer is right if it is one of `answers`.
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
    reading = thought.reading  # of a structured reply: what was composed, with what is wrong with the reply
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
    """Mean, count and percentile bootstrap interval of every metric; a metric without values is left out."""
    rows = list(rows)
    results = {}
    for name in metrics_of(rows):
        values = [value for row in rows if (value := row.values.get(name)) is not None]
        if values:
            results[name] = bootstrap(values, resamples)
    return results


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """The metrics that rows may have, the general ones first."""
    return list(dict.fromkeys([*METRICS, *(name for row in rows for name in row.values)]))


def bootstrap(values: Sequence[float], resamples: int = RESAMPLES) -> Result:
    """Mean, count and percentile bootstrap interval of one value or more; the same for the same values.

    Args:
        values: (N,), N at least 1.
        resamples: how often they are drawn again.
    """
    array = np.array(values, dtype=np.float64)
    draw = np.random.default_rng(0)
    # All at once where that is no burden, as it always was: the same numbers come out.
    at_once = max(1, min(resamples, _MOST_DRAWN // len(array)))
    parts = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate([draw.choice(array, (part, len(array))).mean(axis=1) for part in parts])
    low, high = np.percentile(means, [2.5, 97.5])
    return Result(float(array.mean()), len(array), float(low), float(high))


def paired_difference(
    ours: Mapping[str, float | None], theirs: Mapping[str, float | None], *, resamples: int = RESAMPLES
) -> Result | None:
    """Mean of ours less theirs, over the questions that both have, with a bootstrap interval over questions.

    How hard a question is cancels out, so that the interval is narrower than those of the two means.

    Args:
        ours: question → value, None where it has none.
        theirs: likewise.
        resamples: see `bootstrap`.
    Returns:
        None where no question has both.
    Example:
        >>> paired_difference({"a": 1, "b": 0.5, "c": 1}, {"b": 0.25, "a": 1}).mean
        0.125
    """
    differences = [
        value - other for key, value in ours.items() if value is not None and (other := theirs.get(key)) is not None
    ]
    return bootstrap(differences, resamples) if differences else None


def group_by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by family, level, or whatever `key` says, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def all_groups(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows by dataset, by split, by family and by every tag: what is grouped → group → rows.

    What no row states is left out; rows that do not state it while others do are the group "".
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
