"""The world benchmark: held-out scenes, greedy answers, and the four quantities that the rewards measure.

Two more measurements: the scores of baselines that do not see the image (`baselines`), and how well a model without chains
finds objects (`localise`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.boxes import pairwise_iou, set_iou
from sifthinker.chain import Region, find_regions
from sifthinker.depth import DepthMap, agrees
from sifthinker.evaluation.metrics import Result, Row, bootstrap, group_by, summarise
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import evaluate as evaluate_questions
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.files import atomic_write, sha256
from sifthinker.lab.lessons import LIST_QUESTION, locate_question, read_list, regions_of
from sifthinker.lab.questions import WorldQuestion, is_novel, sample_questions, scene_at, scene_of, world_record
from sifthinker.lab.scenes import Scene, render
from sifthinker.literals import ThinkProtocol
from sifthinker.thinker import Thinker


@dataclass(frozen=True, slots=True)
class SceneQuestion(Question):
    """A question about a scene. The scene is rendered when the image is loaded.

    Args:
        scene: seed of the scene.
        size: side length of the image in pixels.
    """

    scene: int = 0
    size: int = 64

    def load(self, *, with_depth: bool = True) -> tuple[Image.Image, DepthMap | None]:
        image, found, _ = render(scene_at(self.scene, self.tags["level"]), self.size)
        return image, found if with_depth else None

    def image_name(self, root: Path) -> str:
        return str(self.image)

    def depth_name(self, root: Path) -> str | None:
        return str(self.depth)

    def identity(self, root: Path) -> list[Any]:
        return [self.id, self.question, list(self.answers), self.scene, dict(self.tags), self.size]


def world_questions(count: int, *, split: str = "test", seed: int = 0, size: int = 64) -> Iterator[SceneQuestion]:
    """Yield questions about the world, balanced over families and levels. An image is named after the seed of its scene.

    Args:
        count: number of questions.
        split: split of the scenes. `test` shares no scene with training.
        seed: random seed of the scenes.
        size: side length of the images in pixels.
    """
    for asked in sample_questions(count, split=split, seed=seed):
        record = world_record(asked, image=f"{asked.scene}.png", split=split)
        yield SceneQuestion(
            id=record.id,
            image=Path(record.image),
            question=record.question,
            answers=(record.answer,),
            choices=record.choices,
            boxes=record.boxes,
            depth=Path(str(record.depth)),
            dataset=record.dataset,
            split=record.split,
            family=record.family,
            tags={"level": asked.level, "combination": "new" if is_novel(asked) else "known"},
            scene=asked.scene,
            size=size,
        )


def evaluate(
    thinker: Thinker,
    count: int,
    *,
    split: str = "test",
    seed: int = 0,
    size: int = 64,
    rgb_only: bool = False,
    direct: bool = False,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Result], list[Row]]:
    """Evaluate a model on `count` questions about the world; see `evaluation.run.evaluate`.

    Args:
        thinker: the model. It answers greedily.
        count: see `world_questions`.
        split: see `world_questions`.
        seed: see `world_questions`.
        size: see `world_questions`.
        rgb_only: do not show the depth image.
        direct: ask for the answer only, without steps. Only the answer accuracy is measured then.
        batch_size: number of questions in a batch.
        progress: called with the number of finished questions.
    Returns:
        (metric → result, one row per question).
    """
    protocol: ThinkProtocol = "direct" if direct else "chain"
    settings = EvalSettings(data="world", rgb_only=rgb_only, protocol=protocol, batch_size=batch_size)
    found = evaluate_questions(
        settings,
        questions=list(world_questions(count, split=split, seed=seed, size=size)),
        thinker=thinker,
        progress=None if progress is None else lambda done, _: progress(done),
    )
    return found.results, list(found.rows)


def families_above_chance(rows: Sequence[Row], *, split: str = "test", seed: int = 0) -> set[str]:
    """Return the question families in which a model is better than guessing: its 95 % interval lies above chance.

    Args:
        rows: all rows that `evaluate` returned.
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
    "guess": "a random choice",
    "always first": "the first choice",
    "question only": "naive Bayes over the words of the question, trained on the training split",
}


def baselines(
    count: int, *, split: str = "test", seed: int = 0, learn_from: int = 5400
) -> dict[str, dict[str, tuple[float, int]]]:
    """Return the scores of baselines that see no image: family → name in `BASELINES` → (accuracy, number of questions).

    Args:
        count: number of questions.
        split: see `evaluate`.
        seed: see `evaluate`.
        learn_from: number of training questions for the question-only baseline.
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


METRICS_FILE = "metrics.json"  # results of `card`, in the folder of an embedded model


def card(
    model: str | Path, about: str, *, questions: int, scenes: int, progress: Callable[[str], None] = lambda text: None
) -> None:
    """Evaluate a nano model on the test split. Write `metrics.json` and the model card `README.md` to its folder.

    Args:
        model: folder of the model.
        about: first paragraph of the card: what the model is and how it was trained.
        questions: number of test questions for direct answers.
        scenes: number of test scenes for finding objects.
        progress: called with the title of the next measurement.
    """
    folder = Path(model)
    thinker = Thinker.load(folder, max_new_tokens=260)
    progress("evaluating: finding objects")
    found = {"finds objects": localise(thinker, scenes)}
    progress("evaluating: direct answers")
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
        "Measured on the test split of the embedded world with `sifthinker.lab.benchmark.card`:", "",
        "| metric | mean | 95 % interval | count |", "| --- | --- | --- | --- |", *rows, "",
        "| file | SHA-256 |", "| --- | --- |", *hashes, "",
    ]  # fmt: skip
    atomic_write(folder / "README.md", "\n".join(lines))


class _QuestionOnly:
    """Naive Bayes from the words of a question to the position of its correct answer.

    Each question family has its own classifier, with add-one smoothing.
    """

    def __init__(self, questions: Iterable[WorldQuestion]) -> None:
        self._slots: dict[str, Counter[int]] = {}
        self._words: dict[tuple[str, int], Counter[str]] = {}
        self._seen: set[str] = set()
        for question in questions:
            slot = question.choices.index(question.answer)
            self._slots.setdefault(question.family, Counter())[slot] += 1
            words = set(question.text.split())
            self._words.setdefault((question.family, slot), Counter()).update(words)
            self._seen |= words

    def __call__(self, question: WorldQuestion) -> int:
        slots = self._slots.get(question.family, Counter())
        words = set(question.text.split()) & self._seen

        def score(slot: int) -> float:
            known = self._words.get((question.family, slot), Counter())
            times = slots[slot]
            return math.log(times + 1) + sum(math.log((known[word] + 1) / (times + 2)) for word in words)

        return max(range(len(question.choices)), key=score)


_Thing = tuple[str, Region]  # name, place


def localise(thinker: Thinker, count: int, *, split: str = "test", seed: int = 0, batch_size: int = 64) -> dict[str, Result]:
    """Measure how well a model that answers directly finds objects: single objects by name, and a list of all objects.

    Both parts measure the IoU of each box with the ground-truth box, and the share of depths within 10 % of the mean depth
    in the ground-truth box. Lists also measure the share of correct names. Listed boxes are matched to objects one to one,
    with the largest sum of IoUs. Missing objects, and listed objects that do not exist, count as 0.

    Args:
        thinker: the model.
        count: number of scenes.
        split: split of the scenes.
        seed: random seed of the scenes.
        batch_size: number of questions in a batch.
    """
    scenes = [scene_of(question) for question in sample_questions(count, split=split, seed=seed)]
    there = [list(zip((thing.name for thing in scene.objects), regions_of(scene), strict=True)) for scene in scenes]

    def replies(asked: Sequence[tuple[Scene, str]]) -> Iterator[str]:
        tasks = [(scene.reference[0], question, scene.depth_reference) for scene, question in asked]
        for start in range(0, len(tasks), batch_size):
            yield from (thought.text for thought in thinker.think_all(tasks[start : start + batch_size], protocol="direct"))

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
    """Pair found and true objects one to one with the largest sum of IoUs. Objects that are left over pair with None."""
    from scipy.optimize import linear_sum_assignment

    if not found:
        return [(None, thing) for thing in there]
    overlaps = pairwise_iou([region.box for _, region in found], [region.box for _, region in there])
    rows, columns = (chosen.tolist() for chosen in linear_sum_assignment(overlaps, maximize=True))
    pairs: list[tuple[_Thing | None, _Thing | None]] = [(found[r], there[c]) for r, c in zip(rows, columns, strict=True)]
    pairs += [(thing, None) for index, thing in enumerate(found) if index not in rows]
    return pairs + [(None, thing) for index, thing in enumerate(there) if index not in columns]
