"""Score saved completions with the rewards, to inspect a reward before training on it."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import Boxes, as_boxes
from sifthinker.chain import TAG, other_coordinates
from sifthinker.coordinates import UNIT, Frame, frame_stated
from sifthinker.errors import BoxError, DepthError, RecordError
from sifthinker.files import read_jsonl
from sifthinker.records import Example, read_examples, shown
from sifthinker.scoring.rewards import REWARDS, Score, Scores, reference_from, score_completion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scored:
    """A saved completion with its scores.

    Args:
        id: id of its example, else the file and line.
        text: the completion.
        question: the question.
        answer: the right answer.
        boxes: ground-truth boxes, unit xyxy.
        depth: path of the depth map; None for RGB only. A loaded map would take megabytes per completion.
        images: image paths of its example; empty if there are none.
        scores: the four rewards.
        frame: what the numbers of boxes in the text stand for.
    """

    id: str
    text: str
    question: str
    answer: str
    boxes: Boxes
    depth: str | None
    images: tuple[str, ...]
    scores: Scores
    frame: Frame = UNIT


@dataclass(frozen=True, slots=True)
class Component:
    """Statistics of one reward: count, mean, standard deviation, minimum, maximum, and reasons with their counts."""

    count: int
    mean: float
    std: float
    low: float
    high: float
    reasons: Mapping[str, int]


@dataclass(slots=True)
class Looks:
    """Counts completions whose boxes do not fit their space. If most do not, the space is wrong, not the model.

    Args:
        chains: number of completions with an area.
        others: description of the space that the boxes look like → number of completions.
    """

    chains: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, frame: Frame) -> None:
        """Count one completion, whose box numbers are read by `frame`."""
        first = next((tag for tag in TAG.finditer(text) if tag[2] == "area"), None)
        if first is None:
            return
        self.chains += 1
        looks = other_coordinates(text, frame)
        if looks:
            self.others[looks] += 1

    def hint(self) -> str:
        """Return a sentence about the space that most boxes look like; "" if nothing looks wrong."""
        if 2 * self.others.total() <= self.chains:
            return ""
        ((looks, _),) = self.others.most_common(1)
        return (
            f"{self.others.total():,} of {self.chains:,} completions have boxes that do not fit the coordinates they are "
            f"read in; most look like {looks}"
        )


def score_file(path: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Iterator[Scored]:
    """Score a JSONL file of completions.

    Each line has `completion`, and either the `id` of an example of `data`, or its own `answer` and `boxes` (optionally
    `depth`, `choices` and `images`). Paths are relative to the file. The line's `coordinates` and `resized` (see
    `coordinates.Frame`) override those of its example. A warning is logged if most completions have boxes in another space.

    Args:
        path: the file of completions.
        data: dataset folder or examples file that the ids refer to.
    Raises:
        RecordError: a malformed line, an id that is not in `data`, or an unusable reference; the message gives the line.
    """
    examples = {example.id: example for example in read_examples(data)} if data is not None else {}
    looks = Looks()
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            raise RecordError(f"{where}: expected an object with `completion` (text), got {shown(row)}")
        example = examples.get(str(row.get("id")))
        if data is not None and example is None:
            raise RecordError(f"{where}: {data} has no example {row.get('id')!r}")
        scored = _scored(row, example, Path(path).parent, where)
        looks.add(scored.text, scored.frame)
        yield scored
    if hint := looks.hint():
        logger.warning("%s: %s. Set `coordinates` in each line, and `resized` for boxes in pixels", path, hint)


def _scored(row: Mapping[str, Any], example: Example | None, folder: Path, where: str) -> Scored:
    known = {**row, "problem": row.get("problem", "")}
    try:
        frame = frame_stated(row, UNIT if example is None else example.frame)
    except BoxError as error:
        raise RecordError(f"{where}: {error}") from None
    if example is not None:
        known = {
            "answer": example.answer,
            "boxes": example.boxes,
            "depth": example.depth,
            "choices": example.choices,
            "problem": example.problem,
            "images": example.images,
            **frame.columns(),
        }
    else:
        missing = [name for name in ("answer", "boxes") if name not in row]
        if missing:
            raise RecordError(f"{where}: lacks {', '.join(missing)}; give the dataset with --data, or add them to the line")
        if isinstance(row.get("depth"), str):
            known["depth"] = str(folder / row["depth"])
        known["images"] = [str(folder / image) for image in row.get("images") or ()]
    try:
        reference = reference_from(known)
        scores = score_completion(row["completion"], reference)
    except (BoxError, DepthError, RecordError, AttributeError, TypeError, ValueError) as error:
        raise RecordError(f"{where}: {error}") from None
    return Scored(
        id=str(row.get("id", where)),
        text=row["completion"],
        question=str(known["problem"]),
        answer=reference.answer,
        boxes=as_boxes(reference.boxes),
        depth=known.get("depth"),
        images=tuple(known["images"]),
        scores=scores,
        frame=reference.frame,
    )


def summarise_scores(scored: Iterable[Scores]) -> dict[str, Component]:
    """Return statistics of every reward, in one pass. A reward that no completion has is left out."""
    values: dict[str, array[float]] = {name: array("d") for name in REWARDS}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in REWARDS}
    for scores in scored:
        for name in REWARDS:
            score: Score = getattr(scores, name)
            reasons[name].update(score.reasons)
            if score.value is not None:
                values[name].append(score.value)
    found = {}
    for name, numbers in values.items():
        if not numbers:
            continue
        known = np.array(numbers)
        spread = float(known.mean()), float(known.std()), float(known.min()), float(known.max())
        found[name] = Component(len(known), *spread, dict(reasons[name].most_common()))
    return found
