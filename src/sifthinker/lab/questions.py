"""Questions about scenes, with answers and target objects.

Each question has a family (the kind of question) and a level (how crowded the scene is and how clear the answer). Some
combinations of family, colour and shape occur only in the test split, see `is_novel`.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import round_boxes
from sifthinker.errors import ConfigError, ImageError, RecordError
from sifthinker.files import json_lines, make_folder, write_jsonl
from sifthinker.lab.scenes import (
    COLOURS,
    LEVELS,
    SHAPES,
    Object,
    Scene,
    is_world_image,
    render,
    sample_scene,
    write_scene,
)
from sifthinker.records import Record

DECIMALS = 2  # of world boxes and chains: 0.01 is finer than a pixel of the nano model's image


@dataclass(frozen=True, slots=True)
class _Margins:
    """Minimum clarity of the answers of a level.

    The fields are the smallest difference of mean depths, the smallest horizontal distance of box centres, and the smallest
    ratio of two distances on the ground.
    """

    depth: float
    across: float
    ratio: float


_MARGINS = {"easy": _Margins(0.12, 0.16, 2.0), "medium": _Margins(0.07, 0.10, 1.6), "hard": _Margins(0.04, 0.06, 1.3)}

# The splits use disjoint ranges of scene seeds. Nano is pretrained on `base`.
SPLITS = {"train": 0, "val": 10**12, "test": 2 * 10**12, "base": 3 * 10**12}
_SEED_STEP = 10_000_000
_SEEDS = 10_000  # per split: 10,000 × 10,000,000 scenes end before the next split starts

_HELD_OUT = 6  # one in six combinations of family, colour and shape is reserved for the test split


@dataclass(frozen=True, slots=True)
class WorldQuestion:
    """A question about a scene.

    Args:
        family: one of `FAMILIES`.
        text: the question.
        answer: the correct answer, one of `choices`.
        choices: all possible answers.
        targets: indices of the objects that answer the question, in the order of the reasons.
        subject: what to look for, in words.
        plain: the final argument, without numbers.
        reason: the final argument, with placeholders `{0}`, `{1}` … for the depths of the targets.
        scene: seed of the scene.
        level: level of the scene and of the margins, one of `scenes.LEVELS`.
    """

    family: str
    text: str
    answer: str
    choices: tuple[str, ...]
    targets: tuple[int, ...]
    subject: str
    plain: str
    reason: str
    scene: int = 0
    level: str = "medium"


@dataclass(frozen=True)
class _Call:
    """The input of a family's function, which makes a question from it.

    Args:
        scene: the scene.
        draw: random number generator.
        margins: minimum clarity of the answer.
        slot: position of the correct answer among the choices, to balance a sequence of questions. Families whose answers
            are balanced by the symmetry of the scenes ignore it.
    """

    scene: Scene
    draw: random.Random
    margins: _Margins
    slot: int

    def pick(self, count: int) -> tuple[int, ...]:
        """Draw different objects in random order. The tuple is empty if there are too few objects."""
        if count > len(self.scene.objects):
            return ()
        return tuple(self.draw.sample(range(len(self.scene.objects)), count))

    def name(self, index: int) -> str:
        return self.scene.objects[index].name

    @property
    def depths(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(N,) mean depth in the box of each object, as in a chain."""
        return self.scene.depth_reference.mean(round_boxes(self.scene.boxes, DECIMALS))

    @property
    def centres(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(N,) x coordinate of the centre of each box."""
        return (self.scene.boxes[:, 0] + self.scene.boxes[:, 2]) / 2

    def by_distance(self) -> tuple[int, int] | None:
        """Draw two objects and return the nearer one first. None if their mean depths and true distances disagree."""
        pair = self.pick(2)
        if not pair:
            return None
        distances, depths = self.scene.distances, self.depths
        near, far = sorted(pair, key=lambda index: float(distances[index]))
        return (near, far) if depths[far] - depths[near] >= self.margins.depth else None


def _nearer(call: _Call) -> WorldQuestion | None:
    """Which of two is nearer to or farther from the camera."""
    found = call.by_distance()
    if found is None:
        return None
    farther = call.draw.random() < 0.5
    right, wrong = found[::-1] if farther else found
    pair = (right, wrong) if call.slot % 2 == 0 else (wrong, right)
    first, second = map(call.name, pair)
    wanted, sign = ("farther from", "more") if farther else ("nearer to", "less")
    left, other = ("{0}", "{1}") if right == pair[0] else ("{1}", "{0}")
    end = f"so the {call.name(right)} is {wanted} the camera."
    return WorldQuestion(
        "nearer",
        f"Which is {wanted} the camera, the {first} or the {second}?",
        call.name(right),
        (first, second),
        pair,
        f"the {first} and the {second}",
        f"I see the {first} and the {second}, {end}",
        f"The {first} is at {{0}} and the {second} at {{1}}. {left} is {sign} than {other}, {end}",
    )


def _side(call: _Call) -> WorldQuestion | None:
    """Left or right of another object, by the centres of their boxes."""
    pair = call.pick(2)
    if not pair or abs(call.centres[pair[0]] - call.centres[pair[1]]) < call.margins.across:
        return None
    left_first = bool(call.centres[pair[0]] < call.centres[pair[1]])
    if left_first != (call.slot % 2 == 0):
        pair = pair[::-1]
    first, second = map(call.name, pair)
    answer = ("left", "right")[call.slot % 2]
    said = f"The {first} is to the {answer} of the {second}."
    return WorldQuestion(
        "side",
        f"Is the {first} to the left or to the right of the {second}?",
        answer,
        ("left", "right"),
        pair,
        f"the {first} and the {second}",
        said,
        said,
    )


def _front(call: _Call) -> WorldQuestion | None:
    """In front of or behind another object."""
    found = call.by_distance()
    if found is None:
        return None
    pair = found if call.slot % 2 == 0 else found[::-1]
    first, second = map(call.name, pair)
    answer, sign = (("in front", "less"), ("behind", "more"))[call.slot % 2]
    return WorldQuestion(
        "front",
        f"Is the {first} in front of or behind the {second}?",
        answer,
        ("in front", "behind"),
        pair,
        f"the {first} and the {second}",
        f"I see the {first} and the {second}, so it is {answer}.",
        f"The {first} is at {{0}} and the {second} at {{1}}. {{0}} is {sign} than {{1}}, so it is {answer}.",
    )


def _closest(call: _Call) -> WorldQuestion | None:
    """Which of two is closer to a third, on the ground."""
    picked = call.pick(3)
    if not picked:
        return None
    to = call.scene.objects[picked[2]]
    gaps = {i: float(np.hypot(call.scene.objects[i].x - to.x, call.scene.objects[i].z - to.z)) for i in picked[:2]}
    right, wrong = sorted(gaps, key=gaps.__getitem__)
    if gaps[wrong] < call.margins.ratio * gaps[right]:
        return None
    pair = (right, wrong) if call.slot % 2 == 0 else (wrong, right)
    first, second = map(call.name, pair)
    said = f"The {call.name(right)} is closer to the {to.name} than the {call.name(wrong)}."
    return WorldQuestion(
        "closest",
        f"Which is closer to the {to.name}, the {first} or the {second}?",
        call.name(right),
        (first, second),
        (picked[2], *pair),
        f"the {to.name}, the {first} and the {second}",
        said,
        said,
    )


def _attribute(call: _Call) -> WorldQuestion | None:
    """The colour or shape of the object at a place: leftmost, rightmost, nearest, farthest."""
    place = call.draw.choice(("leftmost", "rightmost", "nearest", "farthest"))
    if place in ("leftmost", "rightmost"):
        values, least = call.centres, call.margins.across
    else:
        values, least = call.depths.astype(np.float64), call.margins.depth
    sign = 1 if place in ("leftmost", "nearest") else -1
    order = np.argsort(sign * values)
    if abs(values[order[0]] - values[order[1]]) < least:
        return None
    target = int(order[0])
    if place in ("nearest", "farthest") and target != int(np.argmin(sign * call.scene.distances)):
        return None
    thing = call.scene.objects[target]
    kind = call.draw.choice(("colour", "shape"))
    answer = thing.colour if kind == "colour" else thing.shape
    said = f"The {place} object is a {thing.name}. Its {kind} is {answer}."
    return WorldQuestion(
        "attribute",
        f"What {kind} is the {place} object?",
        answer,
        tuple(COLOURS) if kind == "colour" else SHAPES,
        (target,),
        f"the {place} object",
        said,
        said,
    )


def _count(call: _Call) -> WorldQuestion | None:
    """How many objects of a colour or a shape, at least one."""
    most = 3 if len(call.scene.objects) < 5 else 4
    choices = tuple(str(number) for number in range(1, most + 1))
    wanted = call.slot % most + 1
    by_shape = call.draw.random() < 0.6

    def kind_of(thing: Object) -> str:
        return thing.shape if by_shape else thing.colour

    kinds = [kind_of(thing) for thing in call.scene.objects]
    fitting = sorted(kind for kind in set(kinds) if kinds.count(kind) == wanted)
    if not fitting:
        return None
    kind = call.draw.choice(fitting)
    plural = f"{kind}s" if by_shape else f"{kind} objects"
    # Left to right, so that the order of the list is unique.
    found = [index for index, thing in enumerate(call.scene.objects) if kind_of(thing) == kind]
    targets = tuple(sorted(found, key=lambda index: float(call.scene.boxes[index, 0])))
    said = f"I count {join_names([call.name(index) for index in targets])}: {wanted}."
    return WorldQuestion(
        "count", f"How many {plural} are there?", str(wanted), choices, targets, f"the {plural}", said, said
    )


def _larger(call: _Call) -> WorldQuestion | None:
    """Which of two is larger in the scene, not in the image."""
    pair = call.pick(2)
    if not pair or call.scene.objects[pair[0]].size == call.scene.objects[pair[1]].size:
        return None
    smaller = call.draw.random() < 0.5
    first_is_right = (call.scene.objects[pair[0]].size == "small") == smaller
    if first_is_right != (call.slot % 2 == 0):
        pair = pair[::-1]
    first, second = map(call.name, pair)
    right = (first, second)[call.slot % 2]
    sizes = [call.scene.objects[index].size for index in pair]
    wanted = "smaller" if smaller else "larger"
    said = f"The {first} is {sizes[0]} and the {second} is {sizes[1]}, so the {right} is {wanted}."
    return WorldQuestion(
        "size",
        f"Which is {wanted}, the {first} or the {second}?",
        right,
        (first, second),
        pair,
        f"the {first} and the {second}",
        said,
        said,
    )


def _detail(call: _Call) -> WorldQuestion | None:
    """The colour of the round mark on an object. The mark covers a few pixels of the nano model's image."""
    marked = [index for index, thing in enumerate(call.scene.objects) if thing.dot]
    if not marked:
        return None
    target = call.draw.choice(marked)
    thing = call.scene.objects[target]
    assert thing.dot is not None
    said = f"The dot on the {thing.name} is {thing.dot}."
    return WorldQuestion(
        "detail",
        f"What colour is the dot on the {thing.name}?",
        thing.dot,
        tuple(COLOURS),
        (target,),
        f"the {thing.name}",
        said,
        said,
    )


def _odd(call: _Call) -> WorldQuestion | None:
    """Which one differs from all others: the only one with stripes, with a dot, or without a dot."""
    marks: dict[str, Callable[[Object], bool]] = {
        "has stripes": lambda thing: thing.striped,
        "has a dot": lambda thing: thing.dot is not None,
        "has no dot": lambda thing: thing.dot is None,
    }
    if len(call.scene.objects) < 3:
        return None  # with two objects, each differs from the other
    mark = call.draw.choice(sorted(marks))
    found = [index for index, thing in enumerate(call.scene.objects) if marks[mark](thing)]
    if len(found) != 1:
        return None
    said = f"Only the {call.name(found[0])} {mark}."
    names = [thing.name for thing in call.scene.objects]
    call.draw.shuffle(names)
    return WorldQuestion(
        "odd",
        f"Which object alone {mark}?",
        call.name(found[0]),
        tuple(names),
        (found[0],),
        f"the object that alone {mark}",
        said,
        said,
    )


# Spatial relations first, then fine-grained perception.
FAMILIES: dict[str, Callable[[_Call], WorldQuestion | None]] = {
    "nearer": _nearer,
    "side": _side,
    "front": _front,
    "closest": _closest,
    "attribute": _attribute,
    "count": _count,
    "size": _larger,
    "detail": _detail,
    "odd": _odd,
}


def ask(scene_seed: int, family: str, level: str = "medium", *, slot: int = 0) -> WorldQuestion | None:
    """Return a question about a scene, or None if the scene has no clear question of the family.

    The same arguments always give the same question.

    Args:
        scene_seed: seed of the scene.
        family: one of `FAMILIES`.
        level: one of `scenes.LEVELS`.
        slot: position of the correct answer among the choices, modulo their number. Families whose answers are balanced by
            the symmetry of the scenes (attribute, detail, odd) ignore it.
    Raises:
        ConfigError: the family or level is unknown.
    """
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}; expected one of {', '.join(FAMILIES)}")
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r}; expected one of {', '.join(LEVELS)}")
    draw = random.Random(f"sifthinker question {family} {level} {scene_seed}")
    call = _Call(scene_at(scene_seed, level), draw, _MARGINS[level], slot)
    for _ in range(4):
        found = FAMILIES[family](call)
        if found is not None:
            return replace(found, scene=scene_seed, level=level)
    return None


@lru_cache(maxsize=64)
def scene_at(seed: int, level: str) -> Scene:
    """`scenes.sample_scene` with a cache, because lessons, questions and teachers use the same scene in succession."""
    return sample_scene(seed, level)


def scene_of(question: WorldQuestion) -> Scene:
    """Return the scene of a question."""
    return scene_at(question.scene, question.level)


def is_novel(question: WorldQuestion) -> bool:
    """Return whether the question's combination of family, colour and shape is reserved for the test split.

    Training questions never have such a combination. But the objects do occur in training scenes, and other families ask
    about them.
    """
    objects = scene_of(question).objects
    return any(_held_out(question.family, objects[index].name) for index in question.targets)


@lru_cache(maxsize=1024)
def _held_out(family: str, name: str) -> bool:
    return hashlib.sha256(f"{family} {name}".encode()).digest()[0] % _HELD_OUT == 0


def sample_questions(
    count: int,
    *,
    split: str = "train",
    seed: int = 0,
    families: Sequence[str] = (),
    levels: Sequence[str] = (),
) -> Iterator[WorldQuestion]:
    """Yield questions, balanced over families, levels and positions of the correct answer. Each has its own scene.

    In the test split, half of the questions have novel combinations (see `is_novel`). The other splits have none.

    Args:
        count: number of questions.
        split: one of `SPLITS`. Different splits share no scenes.
        seed: random seed of the scenes, 0 to 9,999. Different seeds share no scenes for up to 200,000 questions.
        families: families to use. Default: all.
        levels: levels to use. Default: all.
    Raises:
        ConfigError: the split, a family or a level is unknown, or the seed is out of range.
    """
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed must be 0 to {_SEEDS - 1}, got {seed}; other seeds would use the scenes of another split")
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    chosen, graded = list(families or FAMILIES), list(levels or LEVELS)
    scene_seed = SPLITS[split] + seed * _SEED_STEP
    for number in range(count):
        family, level = chosen[number % len(chosen)], graded[number // len(chosen) % len(graded)]
        round_ = number // (len(chosen) * len(graded))
        novel = split == "test" and round_ % 2 == 1
        while True:
            found = ask(scene_seed, family, level, slot=round_ // 2)
            scene_seed += 1
            if found is not None and is_novel(found) == novel:
                yield found
                break


def world_record(question: WorldQuestion, *, image: str, split: str = "train") -> Record:
    """Convert a question to a Record. `extra` contains the text for the scripted teacher and the centres of all objects from
    left to right, so that the teacher does not have to sample the scene again."""
    scene = scene_of(question)
    boxes = round_boxes(scene.boxes[list(question.targets)], DECIMALS)
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    return Record(
        id=f"world-{split}-{question.scene}-{question.family}",
        image=image,
        question=question.text,
        answer=question.answer,
        boxes=tuple(tuple(box) for box in boxes.tolist()),
        dataset="world",
        split=split,
        depth=f"{Path(image).with_suffix('')}.depth.png",
        choices=question.choices,
        family=question.family,
        extra={
            "scene": question.scene,
            "level": question.level,
            "subject": question.subject,
            "plain": question.plain,
            "reason": question.reason,
            "objects": [
                [scene.objects[index].name, *centres[index].round(4).tolist()] for index in np.argsort(scene.boxes[:, 0])
            ],
        },
        source=f"world:{question.scene}",
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
    """Render scenes with questions to a folder: `images/*.png`, `images/*.depth.png`, `records.jsonl`.

    If the folder already contains a world, it is replaced, and scenes that do not belong to the new world are deleted.

    Args:
        out: folder.
        count: number of questions. Each has its own scene.
        split: see `sample_questions`.
        seed: see `sample_questions`.
        size: side length of the images in pixels.
        progress: called with the number of finished questions.
    Returns:
        Path of the records file, for `sif data build`.
    Raises:
        ConfigError: the folder contains other files that the world would overwrite. Nothing is written or deleted.
        SIFError: the folder cannot be written.
    """
    records = Path(out) / "records.jsonl"
    asked = list(sample_questions(count, split=split, seed=seed))
    stale = _older_scenes(Path(out) / "images", {question.scene for question in asked})
    if not _is_worlds(records):
        raise ConfigError(f"{records} is not from the embedded world and would be overwritten; choose another folder")
    folder = make_folder(Path(out) / "images")
    rows = []
    for number, question in enumerate(asked, 1):
        rgb, depth, _ = render(scene_of(question), size)
        write_scene(folder / f"{question.scene}.png", rgb, question.scene, question.level)
        depth.write(folder / f"{question.scene}.depth.png")
        rows.append(world_record(question, image=f"images/{question.scene}.png", split=split).to_json())
        if progress:
            progress(number)
    write_jsonl(records, rows)
    for path in stale:
        path.unlink(missing_ok=True)
        path.with_suffix(".depth.png").unlink(missing_ok=True)
    return records


def _is_worlds(records: Path) -> bool:
    """Return whether a records file may be overwritten: it is from the world, or does not exist."""
    if not os.path.exists(records):
        return True
    try:
        first = next(json_lines(records), None)
    except RecordError:  # not from the world
        return False
    return first is None or (isinstance(first.value, dict) and str(first.value.get("source")).startswith("world:"))


def _older_scenes(folder: Path, scenes: set[int]) -> list[Path]:
    """Return the images of an older world that do not belong to these scenes.

    Raises:
        ConfigError: an image that is not from the world has the name of one of these scenes.
    """
    older = []
    for path in folder.glob("*.png"):
        if not path.stem.isdecimal():
            continue
        try:
            ours = is_world_image(path)
        except ImageError:
            ours = False
        if int(path.stem) in scenes:
            if not ours:
                raise ConfigError(f"{path} is not from the embedded world and would be overwritten; choose another folder")
        elif ours:
            older.append(path)
    return older


def join_names(names: Sequence[str]) -> str:
    """ "the red ball, the blue cube and the green cone"; empty for no names."""
    *others, last = [f"the {name}" for name in names] or [""]
    return f"{', '.join(others)} and {last}" if others else last
