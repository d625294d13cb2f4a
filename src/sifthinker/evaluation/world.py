"""The world benchmark: held-out scenes, greedy answers, the four quantities that the rewards look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sifthinker.boxes import hierarchical_iou
from sifthinker.chain import region_boxes
from sifthinker.judges import judge
from sifthinker.rewards import score_depth, score_grounding
from sifthinker.thinker import Thinker, Thought
from sifthinker.world.questions import sample_questions, world_record
from sifthinker.world.scenes import render, sample_scene

METRICS: dict[str, str] = {
    "answer accuracy": "judged answers; an answer that cannot be read is wrong",
    "final HIoU": "hierarchical IoU of the last area with the target boxes; 0 without a readable area",
    "correction gain": "final HIoU minus that of the first area that is not the whole image; chains with an area",
    "depth consistency": "share of stated depths within a tenth of the truth; chains with an area",
    "valid format": "completions that are valid chains",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One metric: mean, number of completions it is over, and a 95 % bootstrap interval of the mean."""

    mean: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One question of the benchmark and what the model made of it."""

    id: str
    scene: int
    family: str
    question: str
    truth: str
    boxes: tuple[tuple[float, ...], ...]
    text: str
    values: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    thinker: Thinker,
    count: int,
    *,
    split: str = "test",
    seed: int = 0,
    size: int = 64,
    depth: bool = True,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Result], list[Row]]:
    """Ask a model `count` questions of the world, as many of each family.

    Args:
        thinker: the model; it answers greedily.
        count: number of questions.
        split: whose scenes; `test` never coincides with training.
        seed: moves to other scenes.
        size: side of the pictures in pixels.
        depth: whether the model sees the depth image; False for RGB-only models.
        batch_size: questions at once.
        progress: called with the number of questions done.
    Returns:
        (metric → result, one row a question).
    """
    asked = list(sample_questions(count, split=split, seed=seed))
    rows: list[Row] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        records = [world_record(scene, question, image=f"{scene}.png", split=split) for scene, question in batch]
        tasks = []
        for record, (scene, _) in zip(records, batch, strict=True):
            image, truth, _ = render(sample_scene(scene), size)
            tasks.append((image, record.question, truth if depth else None))
        for record, (scene, _), thought in zip(records, batch, thinker.think_all(tasks), strict=True):
            rows.append(
                Row(
                    id=record.id,
                    scene=scene,
                    family=record.family,
                    question=record.question,
                    truth=record.answer,
                    boxes=record.boxes,
                    text=thought.text,
                    values=measure(thought, record.answer, record.boxes, record.choices),
                )
            )
        if progress:
            progress(len(rows))
    return summarise(rows), rows


def measure(
    thought: Thought, truth: str, boxes: Sequence[Sequence[float]], choices: Sequence[str] = ()
) -> dict[str, float | None]:
    """The metrics of one thought; None where one does not apply."""
    reading = thought.reading
    answer = 0.0 if reading.answer is None else float(judge(reading.answer, truth, choices).score == 1)
    depth = score_depth(reading, thought.depth)
    grounded = score_grounding(reading, boxes)
    return {
        "answer accuracy": answer,
        "final HIoU": hierarchical_iou(region_boxes(reading.areas[-1]), boxes) if reading.areas else 0.0,
        "correction gain": grounded.parts.get("gain"),
        "depth consistency": depth.value if reading.areas else None,
        "valid format": float(not reading.problems),
    }


def summarise(rows: Sequence[Row], *, resamples: int = 1000) -> dict[str, Result]:
    """Mean, count and percentile bootstrap interval of every metric; a metric without values is left out."""
    results = {}
    for name in METRICS:
        values = np.array([row.values[name] for row in rows if row.values[name] is not None], dtype=np.float64)
        if not len(values):
            continue
        draw = np.random.default_rng(0)
        means = draw.choice(values, (resamples, len(values))).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        results[name] = Result(float(values.mean()), len(values), float(low), float(high))
    return results
