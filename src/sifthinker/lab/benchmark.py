"""The world benchmark: held-out scenes, greedy answers, the four quantities that the rewards look at.

Beside it what knows nothing of the picture scores (`baselines`), and how well a model that has no chains yet finds things
(`localise`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import hierarchical_iou, pairwise_iou, set_iou
from sifthinker.chain import Region, find_regions, region_boxes
from sifthinker.depth import agrees
from sifthinker.files import atomic_write, sha256
from sifthinker.lab.lessons import LIST_QUESTION, locate_question, read_list, regions_of
from sifthinker.lab.questions import Question, is_novel, sample_questions, scene_of, world_record
from sifthinker.lab.scenes import Scene, render
from sifthinker.scoring.answers import judge
from sifthinker.scoring.rewards import score_depth, score_grounding
from sifthinker.thinker import Thinker, Thought

METRICS: dict[str, str] = {
    "answer accuracy": "judged answers; an answer that cannot be read is wrong",
    "final HIoU": "hierarchical IoU of the last area with the target boxes; 0 without a readable area",
    "first HIoU": "hierarchical IoU of the first area that is not the whole image; chains with an area",
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
    level: str
    family: str
    novel: bool
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
    direct: bool = False,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Result], list[Row]]:
    """Ask a model `count` questions of the world, as many of each family and level.

    Args:
        thinker: the model; it answers greedily.
        count: number of questions.
        split: whose scenes; `test` never coincides with training.
        seed: moves to other scenes.
        size: side of the pictures in pixels.
        depth: whether the model sees the depth image; False for RGB-only models.
        direct: ask for the answer alone, without steps; nothing but the answer is measured then.
        batch_size: questions at once.
        progress: called with the number of questions done.
    Returns:
        (metric → result, one row a question).
    """
    asked = list(sample_questions(count, split=split, seed=seed))
    rows: list[Row] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        records = [world_record(question, image=f"{question.scene}.png", split=split) for question in batch]
        tasks = []
        for question in batch:
            image, truth, _ = render(scene_of(question), size)
            tasks.append((image, question.text, truth if depth else None))
        for record, question, thought in zip(records, batch, thinker.think_all(tasks, direct=direct), strict=True):
            rows.append(
                Row(
                    id=record.id,
                    scene=question.scene,
                    level=question.level,
                    family=question.family,
                    novel=is_novel(question),
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
    answer = 0.0 if thought.answer is None else float(judge(thought.answer, truth, choices).score == 1)
    if thought.direct:
        return {**dict.fromkeys(METRICS), "answer accuracy": answer}
    reading = thought.reading
    depth = score_depth(reading, thought.depth)
    grounded = score_grounding(reading, boxes)
    return {
        "answer accuracy": answer,
        "final HIoU": hierarchical_iou(region_boxes(reading.areas[-1]), boxes) if reading.areas else 0.0,
        "first HIoU": grounded.parts["start"] if reading.areas else None,
        "correction gain": grounded.parts.get("gain"),
        "depth consistency": depth.value if reading.areas else None,
        "valid format": float(not reading.problems),
    }


def summarise(rows: Sequence[Row], *, resamples: int = 1000) -> dict[str, Result]:
    """Mean, count and percentile bootstrap interval of every metric; a metric without values is left out."""
    results = {}
    for name in METRICS:
        values = [value for row in rows if (value := row.values[name]) is not None]
        if values:
            results[name] = bootstrap(values, resamples)
    return results


def bootstrap(values: Sequence[float], resamples: int = 1000) -> Result:
    """Mean, count and percentile bootstrap interval of one value or more; the same for the same values."""
    array = np.array(values, dtype=np.float64)
    draw = np.random.default_rng(0)
    means = draw.choice(array, (resamples, len(array))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Result(float(array.mean()), len(array), float(low), float(high))


def group_by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by family, level, or whatever `key` says, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def families_above_chance(rows: Sequence[Row], *, split: str = "test", seed: int = 0) -> set[str]:
    """Families of questions in which a model is measurably better than guessing: its 95 % interval lies above.

    Args:
        rows: as `evaluate` gives them, whole.
        split: see `evaluate`.
        seed: see `evaluate`.
    """
    questions = sample_questions(len(rows), split=split, seed=seed)
    guesses: dict[str, list[float]] = {}
    for question in questions:
        guesses.setdefault(question.family, []).append(1 / len(question.choices))
    accuracies = {
        family: summarise(found)["answer accuracy"] for family, found in group_by(rows, lambda r: r.family).items()
    }
    return {family for family, found in accuracies.items() if found.low > sum(guesses[family]) / len(guesses[family])}


BASELINES = {
    "guess": "any of the possible answers",
    "always first": "the first of the possible answers",
    "question only": "naive Bayes over the words of the question, from questions of the training split",
}


def baselines(
    count: int, *, split: str = "test", seed: int = 0, learn_from: int = 5400
) -> dict[str, dict[str, tuple[float, int]]]:
    """What is scored without looking: family → baseline of `BASELINES` → (accuracy, number of questions).

    Args:
        count: number of questions.
        split: see `evaluate`.
        seed: see `evaluate`.
        learn_from: training questions that the question-only baseline sees.
    """
    learnt = _QuestionOnly(sample_questions(learn_from, split="train"))
    scores: dict[str, dict[str, list[float]]] = {}
    for question in sample_questions(count, split=split, seed=seed):
        right = question.choices.index(question.answer)
        found = (1 / len(question.choices), float(right == 0), float(learnt(question) == right))
        for family in (question.family, "all"):
            of_family = scores.setdefault(family, {name: [] for name in BASELINES})
            for name, value in zip(BASELINES, found, strict=True):
                of_family[name].append(value)
    scores["all"] = scores.pop("all", {})  # last
    return {
        family: {name: (sum(values) / len(values), len(values)) for name, values in of_family.items()}
        for family, of_family in scores.items()
    }


METRICS_FILE = "metrics.json"  # of an embedded model: what `card` measured


def card(
    model: str | Path, about: str, *, questions: int, scenes: int, progress: Callable[[str], None] = lambda text: None
) -> None:
    """Measure a nano model on the test split; write `metrics.json` and the model card `README.md` into its folder.

    Args:
        model: its folder.
        about: what it is and how it was made.
        questions: test questions it answers directly.
        scenes: test scenes whose objects it is asked to find.
        progress: told what is measured next.
    """
    folder = Path(model)
    thinker = Thinker.load(folder, max_new_tokens=260)
    progress("finding objects")
    found = {"finds objects": localise(thinker, scenes)}
    progress("answering")
    found["answers directly"] = evaluate(thinker, questions, direct=True, batch_size=108)[0]
    numbers = {title: {name: asdict(result) for name, result in results.items()} for title, results in found.items()}
    body = {"questions": questions, "scenes": scenes, "split": "test", "seed": 0, "results": numbers}
    atomic_write(folder / METRICS_FILE, json.dumps(body, indent=1) + "\n")
    rows = [
        f"| {title}: {name} | {result.mean:.3f} | {result.low:.3f} – {result.high:.3f} | {result.count} |"
        for title, results in found.items()
        for name, result in results.items()
    ]
    hashes = [f"| `{file.name}` | `{sha256(file.read_bytes())}` |" for file in sorted(folder.glob("*.safetensors"))]
    lines = [
        "---", "library_name: transformers", "pipeline_tag: image-text-to-text", "tags: [sifthinker]", "---", "",
        f"# {folder.name}", "", about, "",
        "Measured on the test split of the embedded world by `sifthinker.lab.benchmark.card`:", "",
        "| | mean | 95 % interval | count |", "| --- | --- | --- | --- |", *rows, "",
        "| file | SHA-256 |", "| --- | --- |", *hashes, "",
    ]  # fmt: skip
    atomic_write(folder / "README.md", "\n".join(lines))


class _QuestionOnly:
    """Naive Bayes from a question's words to the position of its right answer, one a family, with add-one smoothing."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._slots: dict[str, Counter[int]] = {}
        self._words: dict[tuple[str, int], Counter[str]] = {}
        self._seen: set[str] = set()
        for question in questions:
            slot = question.choices.index(question.answer)
            self._slots.setdefault(question.family, Counter())[slot] += 1
            words = set(question.text.split())
            self._words.setdefault((question.family, slot), Counter()).update(words)
            self._seen |= words

    def __call__(self, question: Question) -> int:
        slots = self._slots.get(question.family, Counter())
        words = set(question.text.split()) & self._seen

        def score(slot: int) -> float:
            known = self._words.get((question.family, slot), Counter())
            times = slots[slot]
            return math.log(times + 1) + sum(math.log((known[word] + 1) / (times + 2)) for word in words)

        return max(range(len(question.choices)), key=score)


_Thing = tuple[str, Region]  # name, place


def localise(thinker: Thinker, count: int, *, split: str = "test", seed: int = 0, batch_size: int = 64) -> dict[str, Result]:
    """How well a model that answers directly finds objects: each asked for by its name, and all of a scene listed.

    Of either, IoU of each box with the true one and the share of stated depths within a tenth of the true mean in the true
    box; of lists also the share of right names. Listed boxes are matched to objects one to one, so that the sum of IoUs is
    greatest. What is missing, or listed without being there, counts 0.

    Args:
        thinker: the model.
        count: number of scenes.
        split: whose scenes.
        seed: moves to other scenes.
        batch_size: questions at once.
    """
    scenes = [scene_of(question) for question in sample_questions(count, split=split, seed=seed)]
    there = [list(zip((thing.name for thing in scene.objects), regions_of(scene), strict=True)) for scene in scenes]

    def replies(asked: Sequence[tuple[Scene, str]]) -> Iterator[str]:
        tasks = [(scene.reference[0], question, scene.depth_reference) for scene, question in asked]
        for start in range(0, len(tasks), batch_size):
            yield from (thought.text for thought in thinker.think_all(tasks[start : start + batch_size], direct=True))

    each = [(scene, thing) for scene, things in zip(scenes, there, strict=True) for thing in things]
    named: list[tuple[_Thing | None, _Thing | None]] = []
    for reply, (_, thing) in zip(replies([(s, locate_question([name])) for s, (name, _) in each]), each, strict=True):
        areas = find_regions(f"<area>{reply}</area>")
        named.append(((thing[0], areas[0][0]) if areas else None, thing))
    lists = replies([(scene, LIST_QUESTION) for scene in scenes])
    listed = [pair for reply, things in zip(lists, there, strict=True) for pair in _matched(read_list(reply), things)]

    results = {}
    for kind, pairs in (("named", named), ("listed", listed)):
        both = [(found, true) if found and true else None for found, true in pairs]
        results[f"{kind}: box IoU"] = [set_iou([p[0][1].box], [p[1][1].box]) if p else 0.0 for p in both]
        results[f"{kind}: depth within 10 %"] = [float(p is not None and _near(p[0][1], p[1][1])) for p in both]
    results["listed: name"] = [float(bool(found and true and found[0] == true[0])) for found, true in listed]
    return {name: bootstrap(values) for name, values in results.items()}


def _near(stated: Region, true: Region) -> bool:
    if stated.depth is None or true.depth is None:
        return False
    return bool(agrees(stated.depth, true.depth))


def _matched(found: Sequence[_Thing], there: Sequence[_Thing]) -> list[tuple[_Thing | None, _Thing | None]]:
    """Pairs, one to one, whose sum of IoUs is greatest; what is left over on either side is paired with None."""
    from scipy.optimize import linear_sum_assignment

    if not found:
        return [(None, thing) for thing in there]
    overlaps = pairwise_iou([region.box for _, region in found], [region.box for _, region in there])
    rows, columns = (chosen.tolist() for chosen in linear_sum_assignment(overlaps, maximize=True))
    pairs: list[tuple[_Thing | None, _Thing | None]] = [(found[r], there[c]) for r, c in zip(rows, columns, strict=True)]
    pairs += [(thing, None) for index, thing in enumerate(found) if index not in rows]
    return pairs + [(None, thing) for index, thing in enumerate(there) if index not in columns]
