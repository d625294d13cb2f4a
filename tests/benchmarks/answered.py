"""What a benchmark makes of answers that are given: rows as an evaluation makes them, with the benchmark's own values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sifthinker.chain import read_completion
from sifthinker.coordinates import UNIT, Frame
from sifthinker.evaluation.benchmark import Benchmark, Number
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.thinker import Thought

Box = Sequence[float]


def chain(boxes: Sequence[Box], answer: str) -> str:
    """An RGB-only chain that looks at the whole image, then at these boxes, and answers."""
    areas = [[(0, 0, 1, 1)], boxes]
    steps = [
        "<area>" + json.dumps([{"bbox_2d": [round(float(side), 3) for side in box]} for box in area]) + "</area>\n"
        "<text>Here.</text>"
        for area in areas
    ]
    return "<think>\n" + "\n".join(steps) + f"\n</think>\n<answer>\n{answer}\n</answer>"


def rows_of(
    benchmark: Benchmark,
    questions: Sequence[Question],
    completions: Sequence[str],
    folder: Path,
    *,
    direct: bool = False,
    frame: Frame = UNIT,
) -> list[Row]:
    """The rows of completions, one a question, by `evaluate` from a file of saved completions."""
    saved = folder / "completions.jsonl"
    pairs = list(zip(questions, completions, strict=True))
    lines = [{"id": asked.id, "completion": said, **frame.columns()} for asked, said in pairs]
    saved.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    settings = EvalSettings(data=str(folder), completions=str(saved), direct=direct)
    rows = evaluate(settings, questions=questions).rows
    found = []
    for row, asked in zip(rows, questions, strict=True):
        assert not row.error, row.error
        image, _ = asked.load(with_depth=False)
        thought = Thought(asked.question, image, None, row.completion, direct=direct, frame=row.frame)
        own = {metric.name: metric.value(thought, asked) for metric in benchmark.metrics}
        found.append(replace(row, values={**row.values, **own}))
    return found


def numbers_of(
    benchmark: Benchmark, questions: Sequence[Question], completions: Sequence[str], folder: Path, *, direct: bool = False
) -> dict[str, Number]:
    """The benchmark's table."""
    return benchmark.numbers(rows_of(benchmark, questions, completions, folder, direct=direct))


def strict(numbers: dict[str, Number]) -> dict[str, float]:
    """Headline → its strict number, rounded."""
    return {name: round(number.strict.mean, 4) for name, number in numbers.items()}


def lenient(numbers: dict[str, Number]) -> dict[str, float]:
    """Headline → its official lenient number, rounded; without those that have none."""
    return {name: round(number.lenient.mean, 4) for name, number in numbers.items() if number.lenient is not None}


def is_valid(completion: str) -> bool:
    """Whether a completion is a valid RGB-only chain."""
    return not read_completion(completion, with_depth=False).problems
