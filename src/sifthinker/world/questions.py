"""Questions about scenes, with answers and target objects, and the scripted teacher that explains focus paths."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region
from sifthinker.engine.teachers import Attempt, Task
from sifthinker.errors import ConfigError
from sifthinker.files import make_folder, write_jsonl
from sifthinker.records import Record
from sifthinker.world.scenes import COLOURS, SHAPES, Scene, render, sample_scene

DECIMALS = 2  # of world boxes and chains: 0.01 is finer than a pixel of the nano model's picture
DEPTH_GAP = 0.05  # least difference of mean depths that a comparison of depths turns on

# Scenes of the splits come from disjoint ranges of seeds.
SPLITS = {"train": 0, "val": 10**12, "test": 2 * 10**12}
_SEED_STEP = 10_000_000
_SEEDS = 10_000  # of one split: 10,000 × 10,000,000 scenes stay below the next split's


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Args:
        family: one of `FAMILIES`.
        text: the question.
        answer: the right answer, one of `choices`.
        choices: every possible answer.
        targets: indices of the objects that answer it, in the order in which the reasons name them.
        subject: what to look for, in words.
        reason: the closing argument; `{0}`, `{1}` … stand for the targets' stated depths.
    """

    family: str
    text: str
    answer: str
    choices: tuple[str, ...]
    targets: tuple[int, ...]
    subject: str
    reason: str


def _pair(scene: Scene, draw: random.Random) -> tuple[int, int]:
    first, second = draw.sample(range(len(scene.objects)), 2)
    return first, second


def _depths(scene: Scene) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N,) mean depth of each object's box, as a chain would state it."""
    return scene.depth_reference.mean(round_boxes(scene.boxes, DECIMALS))


def _nearer(scene: Scene, draw: random.Random) -> Question | None:
    """Which of two is nearer to or farther from the camera. Boxes' mean depths must agree with the objects' distances."""
    a, b = _pair(scene, draw)
    depths, distances = _depths(scene), scene.distances
    if abs(depths[a] - depths[b]) < DEPTH_GAP or (depths[a] < depths[b]) != (distances[a] < distances[b]):
        return None
    if abs(distances[a] - distances[b]) < 0.8:
        return None
    farther = draw.random() < 0.5
    first, second = scene.objects[a].name, scene.objects[b].name
    a_wins = (depths[a] > depths[b]) == farther
    wanted, sign = ("farther from", "more") if farther else ("nearer to", "less")
    winner = first if a_wins else second
    left, right = ("{0}", "{1}") if a_wins else ("{1}", "{0}")
    return Question(
        "nearer",
        f"Which is {wanted} the camera, the {first} or the {second}?",
        winner,
        (first, second),
        (a, b),
        f"the {first} and the {second}",
        f"The {first} is at {{0}} and the {second} at {{1}}. {left} is {sign} than {right}, "
        f"so the {winner} is {wanted} the camera.",
    )


def _side(scene: Scene, draw: random.Random) -> Question | None:
    """Left or right of another object, by the centres of their boxes."""
    a, b = _pair(scene, draw)
    centres = (scene.boxes[:, 0] + scene.boxes[:, 2]) / 2
    if abs(centres[a] - centres[b]) < 0.08:
        return None
    first, second = scene.objects[a].name, scene.objects[b].name
    answer = "left" if centres[a] < centres[b] else "right"
    return Question(
        "side",
        f"Is the {first} to the left or to the right of the {second}?",
        answer,
        ("left", "right"),
        (a, b),
        f"the {first} and the {second}",
        f"The {first} is to the {answer} of the {second}.",
    )


def _front(scene: Scene, draw: random.Random) -> Question | None:
    """In front of or behind another object."""
    found = _nearer(scene, draw)
    if found is None:
        return None
    a, b = found.targets
    first, second = scene.objects[a].name, scene.objects[b].name
    ahead = scene.distances[a] < scene.distances[b]
    answer, sign = ("in front", "less") if ahead else ("behind", "more")
    return Question(
        "front",
        f"Is the {first} in front of or behind the {second}?",
        answer,
        ("in front", "behind"),
        (a, b),
        f"the {first} and the {second}",
        f"The {first} is at {{0}} and the {second} at {{1}}. {{0}} is {sign} than {{1}}, so it is {answer}.",
    )


def _attribute(scene: Scene, draw: random.Random) -> Question | None:
    """The colour or shape of the object at a place: leftmost, rightmost, nearest, farthest."""
    place = draw.choice(("leftmost", "rightmost", "nearest", "farthest"))
    if place in ("leftmost", "rightmost"):
        values = (scene.boxes[:, 0] + scene.boxes[:, 2]) / 2
        least = 0.06
    else:
        values = _depths(scene).astype(np.float64)
        least = DEPTH_GAP
        if int(np.argmin(values)) != int(np.argmin(scene.distances)):
            return None
        if int(np.argmax(values)) != int(np.argmax(scene.distances)):
            return None
    order = np.argsort(values if place in ("leftmost", "nearest") else -values)
    if abs(values[order[0]] - values[order[1]]) < least:
        return None
    target = int(order[0])
    thing = scene.objects[target]
    kind = draw.choice(("colour", "shape"))
    answer = thing.colour if kind == "colour" else thing.shape
    return Question(
        "attribute",
        f"What {kind} is the {place} object?",
        answer,
        tuple(COLOURS) if kind == "colour" else SHAPES,
        (target,),
        f"the {place} object",
        f"The {place} object is a {thing.name} at {{0}}. Its {kind} is {answer}.",
    )


def _count(scene: Scene, draw: random.Random) -> Question | None:
    """How many objects of a colour or a shape, at least one."""
    by_shape = draw.random() < 0.6
    kinds = sorted({thing.shape if by_shape else thing.colour for thing in scene.objects})
    kind = draw.choice(kinds)
    targets = tuple(
        index for index, thing in enumerate(scene.objects) if kind == (thing.shape if by_shape else thing.colour)
    )
    if len(targets) > 4:
        return None
    plural = f"{kind}s" if by_shape else f"{kind} objects"
    # Left to right, so that the listing has one order.
    targets = tuple(sorted(targets, key=lambda index: float(scene.boxes[index, 0])))
    names = _listed([f"the {scene.objects[index].name}" for index in targets])
    return Question(
        "count",
        f"How many {plural} are there?",
        str(len(targets)),
        ("1", "2", "3", "4"),
        targets,
        f"the {plural}",
        f"I count {names}: {len(targets)}.",
    )


def _larger(scene: Scene, draw: random.Random) -> Question | None:
    """Which of two is larger in truth, not on the picture."""
    a, b = _pair(scene, draw)
    if scene.objects[a].size == scene.objects[b].size:
        return None
    first, second = scene.objects[a].name, scene.objects[b].name
    smaller = draw.random() < 0.5
    a_wins = (scene.objects[a].size == "small") == smaller
    wanted = "smaller" if smaller else "larger"
    winner = first if a_wins else second
    return Question(
        "size",
        f"Which is {wanted}, the {first} or the {second}?",
        winner,
        (first, second),
        (a, b),
        f"the {first} and the {second}",
        f"At {{0}} the {first} is {scene.objects[a].size}, at {{1}} the {second} is {scene.objects[b].size}, "
        f"so the {winner} is {wanted}.",
    )


def _detail(scene: Scene, draw: random.Random) -> Question | None:
    """The colour of the round mark on an object: a few pixels of the nano model's picture."""
    marked = [index for index, thing in enumerate(scene.objects) if thing.dot]
    if not marked:
        return None
    target = draw.choice(marked)
    thing = scene.objects[target]
    assert thing.dot is not None
    return Question(
        "detail",
        f"What colour is the dot on the {thing.name}?",
        thing.dot,
        tuple(COLOURS),
        (target,),
        f"the {thing.name}",
        f"The {thing.name} is at {{0}}. The dot on it is {thing.dot}.",
    )


FAMILIES: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "nearer": _nearer,
    "side": _side,
    "front": _front,
    "attribute": _attribute,
    "count": _count,
    "size": _larger,
    "detail": _detail,
}


def ask(scene: Scene, seed: int, *, family: str | None = None) -> Question | None:
    """A question about a scene, the same for the same seed; None when the scene has no clear one of the family.

    Raises:
        ConfigError: an unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}; the world has {', '.join(FAMILIES)}")
    draw = random.Random(f"sifthinker question {family} {seed}")
    for _ in range(6):
        found = FAMILIES[family or draw.choice(list(FAMILIES))](scene, draw)
        if found is not None:
            return found
    return None


def sample_questions(count: int, *, split: str = "train", seed: int = 0) -> Iterator[tuple[int, Question]]:
    """Questions in equal numbers of every family, one a scene: yields (scene seed, question).

    Args:
        count: how many.
        split: train, val or test; their scenes never coincide.
        seed: 0 to 9,999, moves to other scenes of the split; those of different seeds do not overlap below a million
            questions.
    Raises:
        ConfigError: an unknown split, or a seed out of range.
    """
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"the world's seeds are 0 to {_SEEDS - 1}, got {seed}; others would meet another split's scenes")
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; the world has {', '.join(SPLITS)}")
    families = list(FAMILIES)
    scene_seed = SPLITS[split] + seed * _SEED_STEP
    for number in range(count):
        family = families[number % len(families)]
        while True:
            found = ask(sample_scene(scene_seed), scene_seed, family=family)
            scene_seed += 1
            if found is not None:
                yield scene_seed - 1, found
                break


def world_record(scene_seed: int, question: Question, *, image: str, split: str = "train") -> Record:
    """A question as a Record. Its scene and reasoning are rebuilt from `extra` by the scripted teacher."""
    scene = sample_scene(scene_seed)
    boxes = round_boxes(scene.boxes[list(question.targets)], DECIMALS)
    return Record(
        id=f"world-{split}-{scene_seed}-{question.family}",
        image=image,
        question=question.text,
        answer=question.answer,
        boxes=tuple(tuple(box) for box in boxes.tolist()),
        dataset="world",
        split=split,
        depth=f"{Path(image).with_suffix('')}.depth.png",
        choices=question.choices,
        family=question.family,
        extra={"scene": scene_seed},
        source=f"world:{scene_seed}",
    )


def write_world(
    out: str | Path,
    count: int,
    *,
    split: str = "train",
    seed: int = 0,
    size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render a folder of scenes with questions: `images/*.png`, `images/*.depth.png`, `records.jsonl`.

    Args:
        out: folder.
        count: number of questions, one a scene.
        split: see `sample_questions`.
        seed: see `sample_questions`.
        size: side of the pictures in pixels.
        progress: called with the number of questions done.
    Returns:
        The records file, which `sif data build` reads.
    Raises:
        SIFError: the folder cannot be written.
    """
    folder = make_folder(Path(out) / "images")
    rows = []
    for number, (scene_seed, question) in enumerate(sample_questions(count, split=split, seed=seed), 1):
        image = f"images/{scene_seed}.png"
        rgb, depth, _ = render(sample_scene(scene_seed), size)
        rgb.save(folder / f"{scene_seed}.png")
        depth.write(folder / f"{scene_seed}.depth.png")
        rows.append(world_record(scene_seed, question, image=image, split=split).to_json())
        if progress:
            progress(number)
    records = Path(out) / "records.jsonl"
    write_jsonl(records, rows)
    return records


class ScriptedTeacher:
    """Explains world records from their scene graphs; deterministic, and free."""

    name = "scripted:1"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        """See `engine.teachers.Teacher`.

        Raises:
            ConfigError: the record is not one of the world's.
        """
        seed = task.record.extra.get("scene")
        if not isinstance(seed, int) or task.record.family not in FAMILIES:
            raise ConfigError(
                f"record {task.record.id!r} is not of the embedded world; the scripted teacher knows no other. "
                "Use --teacher openai"
            )
        scene, question = _question(seed, task.record.family)
        thoughts = [_thought(kind, regions, scene, question) for kind, regions in zip(task.kinds, task.foci, strict=True)]
        return json.dumps({"thoughts": thoughts, "answer": question.answer})


@lru_cache(maxsize=64)
def _question(scene_seed: int, family: str) -> tuple[Scene, Question]:
    scene = sample_scene(scene_seed)
    question = ask(scene, scene_seed, family=family)
    if question is None:
        raise ConfigError(f"scene {scene_seed} has no question of family {family!r}; the record was made by another version")
    return scene, question


def _thought(kind: str, regions: Sequence[Region], scene: Scene, question: Question) -> str:
    if kind == "target":
        depths = [f"{region.depth:.{DECIMALS}f}" if region.depth is not None else "" for region in regions]
        if all(depths):
            return question.reason.format(*depths)
        return f"Here is {question.subject}. So it is {question.answer}."
    if kind == "whole":
        return f"There are {len(scene.objects)} objects. I look for {question.subject}."
    seen = _seen(regions, scene)
    if kind == "distractor":
        return f"I see {seen}. This does not help." if seen else "There is nothing here."
    if kind == "merged":
        return f"This part shows {seen}." if seen else "This part is closer to it."
    return f"I find {question.subject} around here."


def _seen(regions: Sequence[Region], scene: Scene) -> str:
    """The objects whose centres lie in the regions, left to right."""
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    inside = [
        index
        for index, (x, y) in enumerate(centres)
        if any(r.box[0] <= x <= r.box[2] and r.box[1] <= y <= r.box[3] for r in regions)
    ]
    inside.sort(key=lambda index: float(scene.boxes[index, 0]))
    return _listed([f"the {scene.objects[index].name}" for index in inside])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
