"""CV-Bench: 2D questions about counts and relations, 3D questions about depth and distance.

Tong et al., "Cambrian-1" (arXiv 2406.16860); files at https://huggingface.co/datasets/nyu-visionx/CV-Bench. The layout
follows its card: `test_2d.parquet` and `test_3d.parquet`, with `idx`, `type` (2D, 3D), `task` (Count, Relation, Depth,
Distance), `image`, `question`, `choices`, `answer` ("(A)") and `source` (ADE20K, COCO, Omni3D); other columns are ignored.
2D is the mean of the accuracies on its two sources, 3D the accuracy on Omni3D, and the total the mean of 2D and 3D. The same
data as single files (`img/`, `test_2d.jsonl`) are not read.

The lenient numbers follow Cambrian-1's scripts (eval/eval/{ade,coco,omni} in its repository). The reader was checked against
the card and the scripts, not against the published files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sifthinker.benchmarks.choices import index_of_letter, right_answer, right_letter
from sifthinker.benchmarks.hub import TableQuestion, TableRow, table_rows
from sifthinker.benchmarks.listed import listed
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Benchmark, Estimate, Headline, Metric, Statistic, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.records import as_text, shown
from sifthinker.thinker import Thought

_TASKS = {"Count": "2D", "Relation": "2D", "Depth": "3D", "Distance": "3D"}
_SOURCES = {"ADE20K": "2D", "COCO": "2D", "Omni3D": "3D"}
_STRICT, _LENIENT = "answer accuracy", "Cambrian's accuracy"
_ABOUT = (
    "right if the first letter of the answer (after the last 'answer is' or 'answer:') is that of the right option, "
    "whatever follows it"
)


def read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[Question]:
    """See `benchmark.Reader`. `images` is ignored, because the table contains the images."""
    rows = table_rows(data, split, pictures=["image"], limit=limit)
    return listed((_question(row, split) for row in rows), limit, os.fspath(data))


def _question(row: TableRow, split: str) -> Question:
    kind, task, source = row.text("type"), row.text("task"), row.text("source")
    if _TASKS.get(task) != kind or _SOURCES.get(source) != kind:
        raise RecordError(
            f"{row.place}: expected type 2D with task Count or Relation and source ADE20K or COCO, or type 3D with task "
            f"Depth or Distance and source Omni3D, got type {shown(kind)}, task {shown(task)}, source {shown(source)}"
        )
    choices = row.texts("choices")
    if len(choices) < 2:
        raise RecordError(f"{row.place}: expected two or more choices, got {shown(list(choices))}")
    pictures = row.pictures.get("image", ())
    if len(pictures) != 1:
        raise RecordError(f"{row.place}: expected one image in column image, got {len(pictures)}", "missing_image")
    name = f"{kind}-{task}-{as_text(row.value('idx'), 'idx', row.place)}"
    return TableQuestion(
        id=name,
        image=Path(name),
        question=row.text("question"),
        answers=(right_answer(choices, index_of_letter(row.text("answer"), choices, row.place)),),
        choices=choices,
        dataset="CV-Bench",
        split=split,
        family=task,
        tags={"type": kind, "source": source},
        source=row.place,
        pictures=pictures,
    )


def cambrian_letter(answer: str) -> str:
    """Return the letter that Cambrian-1's scripts read from an answer: its first character in lower case; "" if empty.

    Example:
        >>> cambrian_letter("The answer is (B)."), cambrian_letter("because it is nearer")
        ('b', 'b')
    """
    text = answer.lower().strip()
    for phrase in ("answer is", "answer:"):
        text = text.split(phrase)[-1]
    return text.strip().lstrip("(")[:1]


def _lenient(thought: Thought, question: Question) -> float:
    return float(cambrian_letter(thought.answer or "") == right_letter(question).lower())


def _combined(metric: str) -> Statistic:
    def statistic(rows: Sequence[Row]) -> Estimate | None:
        known = [(row.tags.get("source"), found) for row in rows if (found := row.values.get(metric)) is not None]
        values = np.array([found for _, found in known], dtype=np.float64)
        of = {name: np.array([source == name for source, _ in known], dtype=bool) for name in _SOURCES}

        def value(times: NDArray[np.int64]) -> float | None:
            counts = {name: int(times[of[name]].sum()) for name in _SOURCES}
            if not all(counts.values()):
                return None  # the resample lacks a source
            ade, coco, omni = (float((values * times)[of[name]].sum()) / counts[name] for name in _SOURCES)
            return ((ade + coco) / 2 + omni) / 2

        return Estimate(len(known), value) if known else None

    return statistic


def _source(row: Row) -> str:
    return row.tags["source"]


def _of(name: str, about: str, keep: Callable[[Row], bool]) -> Headline:
    return Headline(name, about, mean_of(_STRICT, keep), mean_of(_LENIENT, keep), _ABOUT)


def _is_2d(row: Row) -> bool:
    return row.tags["type"] == "2D"


def _is_task(task: str) -> Callable[[Row], bool]:
    return lambda row: row.family == task


BENCHMARKS = {
    "cv-bench": Benchmark(
        name="cv-bench",
        title="CV-Bench",
        source="Tong et al., Cambrian-1, arXiv 2406.16860; https://huggingface.co/datasets/nyu-visionx/CV-Bench",
        hub="nyu-visionx/CV-Bench",
        splits=("test",),
        read=read,
        headlines=(
            Headline(
                "CV-Bench",
                "mean of 2D and 3D",
                mean_of(_STRICT, by=_source),
                mean_of(_LENIENT, by=_source),
                _ABOUT,
                _combined(_STRICT),
                _combined(_LENIENT),
                needs=frozenset(_SOURCES),
            ),
            Headline(
                "2D",
                "mean of the accuracies on ADE20K and COCO",
                mean_of(_STRICT, _is_2d, _source),
                mean_of(_LENIENT, _is_2d, _source),
                _ABOUT,
                needs=frozenset(("ADE20K", "COCO")),
            ),
            _of("3D", "accuracy on Omni3D", lambda row: row.tags["type"] == "3D"),
            *(_of(task, f"accuracy, {kind}", _is_task(task)) for task, kind in _TASKS.items()),
        ),
        metrics=(Metric(_LENIENT, _ABOUT, _lenient),),
    )
}
