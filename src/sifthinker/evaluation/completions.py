"""Scoring saved completions: what users look at before they spend GPU days on a reward."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.errors import BoxError, DepthError, RecordError
from sifthinker.files import read_jsonl
from sifthinker.records import Example, read_examples
from sifthinker.rewards import REWARDS, Reference, Scores, reference_from, score_completion


@dataclass(frozen=True, slots=True)
class Scored:
    """A saved completion with its scores; `images` as in its example, empty where there is none."""

    id: str
    text: str
    question: str
    reference: Reference
    images: tuple[str, ...]
    scores: Scores


@dataclass(frozen=True, slots=True)
class Component:
    """Statistics of one reward: how many have it, mean, standard deviation, least, greatest, and its reasons by count."""

    count: int
    mean: float
    std: float
    low: float
    high: float
    reasons: Mapping[str, int]


def score_file(path: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Iterator[Scored]:
    """Score a JSONL file of completions.

    Each line has `completion`, and either `id` of an example of `data`, or `answer`, `boxes`, and perhaps `depth`, `choices`
    and `images` of its own, with paths relative to the file.

    Args:
        path: the completions.
        data: dataset folder or examples file that the ids name.
    Raises:
        RecordError: a malformed line, an id that `data` lacks, or a reference that cannot be used; says where.
    """
    examples = {example.id: example for example in read_examples(data)} if data is not None else {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            raise RecordError(f"{where}: wanted an object with the text `completion`")
        example = examples.get(str(row.get("id")))
        if data is not None and example is None:
            raise RecordError(f"{where}: {data} has no example {row.get('id')!r}")
        yield _scored(row, example, Path(path).parent, where)


def _scored(row: Mapping[str, Any], example: Example | None, folder: Path, where: str) -> Scored:
    known = {**row, "problem": row.get("problem", "")}
    if example is not None:
        known = {
            "answer": example.answer,
            "boxes": example.boxes,
            "depth": example.depth,
            "choices": example.choices,
            "problem": example.problem,
            "images": example.images,
        }
    else:
        missing = [name for name in ("answer", "boxes") if name not in row]
        if missing:
            raise RecordError(
                f"{where}: lacks {', '.join(missing)}; give the dataset with --data, or put them into the line"
            )
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
        reference=reference,
        images=tuple(known["images"]),
        scores=scores,
    )


def summarise_scores(scored: Sequence[Scored]) -> dict[str, Component]:
    """Statistics of every component; one that no completion has is left out."""
    found = {}
    for name in REWARDS:
        scores = [getattr(item.scores, name) for item in scored]
        values = np.array([score.value for score in scores if score.value is not None], dtype=np.float64)
        if not len(values):
            continue
        reasons = Counter(reason for score in scores for reason in score.reasons)
        found[name] = Component(
            len(values),
            float(values.mean()),
            float(values.std()),
            float(values.min()),
            float(values.max()),
            dict(reasons.most_common()),
        )
    return found
