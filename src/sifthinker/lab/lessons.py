"""Lessons for nano's pretraining: list, locate and describe objects, copy, conclude, and answer directly.

A lesson is a question with a reply about one scene. No lesson contains a chain. A model that learned the lessons is like a
general VLM before SIF training.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region, find_regions, render_regions
from sifthinker.lab.questions import DECIMALS, FAMILIES, WorldQuestion, ask, is_novel, join_names
from sifthinker.lab.scenes import COLOURS, SHAPES, Object, Scene


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question and the reply to learn. `kind`: list, locate, name, describe, compare, repeat, read, conclude or direct."""

    kind: str
    question: str
    reply: str


LIST_QUESTION = "List all objects from left to right."

# Pieces of the chain syntax. Lessons that repeat them teach the tokens, but not the form of a chain.
SYNTAX = (
    "<think>\n<area>", "</area>\n<text>", "</text>\n<area>", "</text>\n</think>\n<answer>\n", "\n</answer>",
    "<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>",
)  # fmt: skip
_WORDS = (
    "I look for", "I see", "I look closer.", "This does not help.", "It is around here.", "There is nothing here.",
    "is at", "is less than", "is more than", "so the", "is", "Only", "I count", "nearer to the camera.", "in front.",
    "behind.",
)  # fmt: skip


def read_list(reply: str) -> list[tuple[str, Region]]:
    """Read the name and region of each object from a reply to `LIST_QUESTION`. Lines of another form are ignored."""
    found = []
    for line in reply.split("\n"):
        written, _, name = line.rpartition("}] ")
        areas = find_regions(f"<area>{written}}}]</area>")
        if areas and len(areas[0]) == 1:
            found.append((name, areas[0][0]))
    return found


def locate_question(names: Sequence[str]) -> str:
    """Return the question for the boxes of named objects. The reply lists the boxes in the order of the names."""
    verb = "is" if len(names) == 1 else "are"
    return f"Where {verb} {join_names(names)}?"


Course = Literal["see", "find", "conclude"]


def lessons(
    scene: Scene, scene_seed: int, level: str, *, with_depth: bool = True, course: Course = "see"
) -> Iterator[Lesson]:
    """Yield the lessons of one scene. The same arguments always give the same lessons.

    The course `see` teaches to list all objects, `find` to locate named objects, and `conclude` to draw conclusions from
    located objects. Every course includes some direct answers.

    Args:
        scene: the scene.
        scene_seed: seed of the scene.
        level: level of the scene.
        with_depth: whether boxes have depths.
        course: course of the lessons.
    """
    draw = random.Random(f"sifthinker lessons {course} {level} {scene_seed}")
    return _COURSES[course](_Material(scene, scene_seed, level, draw, regions_of(scene, with_depth=with_depth)))


@dataclass(frozen=True)
class _Material:
    """The material for the lessons of a scene.

    Args:
        scene: the scene.
        seed: seed of the scene.
        level: level of the scene.
        draw: random number generator.
        places: regions of the objects.
    """

    scene: Scene
    seed: int
    level: str
    draw: random.Random
    places: Sequence[Region]

    @property
    def order(self) -> list[int]:
        """All objects from left to right."""
        return sorted(range(len(self.places)), key=lambda index: self.places[index].box[0])

    def one(self) -> int:
        """Any object."""
        return self.draw.randrange(len(self.places))

    def some(self) -> list[int]:
        """Two or three objects in any order."""
        return self.draw.sample(range(len(self.places)), self.draw.randint(2, min(3, len(self.places))))

    def written(self, chosen: Sequence[int]) -> str:
        """The regions of objects, in the format of chains."""
        return render_regions([self.places[index] for index in chosen], decimals=DECIMALS)

    def names(self, chosen: Sequence[int]) -> list[str]:
        return [self.scene.objects[index].name for index in chosen]

    def lines(self, chosen: Sequence[int], form: str) -> str:
        """One line per object: `form` with its {name} and {region}."""
        return "\n".join(form.format(name=self.scene.objects[i].name, region=self.written([i])) for i in chosen)

    def questions(self, most: int) -> list[WorldQuestion]:
        """Questions of different families, without the combinations that are reserved for the test split."""
        found: list[WorldQuestion] = []
        for family in self.draw.sample(list(FAMILIES), len(FAMILIES)):
            question = ask(self.seed, family, self.level, slot=self.draw.randrange(12))
            if question is not None and not is_novel(question):
                found.append(question)
            if len(found) == most:
                break
        return found

    def listing(self) -> Lesson:
        return Lesson("list", LIST_QUESTION, self.lines(self.order, "{region} {name}"))

    def locating(self, chosen: Sequence[int]) -> Lesson:
        return Lesson("locate", locate_question(self.names(chosen)), self.written(chosen))

    def describing(self) -> Lesson:
        index = self.one()
        return Lesson("describe", f"What is at {self.written([index])}?", _description(self.scene.objects[index]))


def _see(given: _Material) -> Iterator[Lesson]:
    """List all objects, locate two by name, describe one. With such dense targets, a model learns several times faster than
    with one box per sample."""
    yield given.listing()
    together = given.some()
    if given.draw.random() < 0.5:
        yield given.describing()
    yield given.locating(together[:2])
    if given.draw.random() < 0.15:
        yield from map(_direct, given.questions(1))


def _find(given: _Material) -> Iterator[Lesson]:
    """Locate many objects by name, place and kind, which ties names to objects. Answer a question from a sentence that
    contains the answer. Compare numbers or repeat words. Some lists and descriptions keep the earlier lessons alive."""
    draw = given.draw
    if draw.random() < 0.4:
        yield given.listing()
    together = given.some()
    if draw.random() < 0.5:
        yield given.describing()
    yield given.locating([given.one()])
    yield given.locating(together)
    pair = draw.sample(range(len(given.places)), 2)
    yield Lesson("name", f"Find {join_names(given.names(pair))}.", given.lines(pair, "The {name}: {region}"))
    yield _by_place(given) if draw.random() < 0.5 else _by_kind(given)
    for question in given.questions(1):
        yield Lesson("read", f"{question.plain} {question.text}", question.answer)
    if draw.random() < 0.5:
        yield _comparison(draw)
    else:
        words = " ".join(_word(draw) for _ in range(draw.randint(2, 7)))
        yield Lesson("repeat", f"Repeat: {words}", words)
    if draw.random() < 0.5:
        yield from map(_direct, given.questions(1))


def _conclude(given: _Material) -> Iterator[Lesson]:
    """Split questions into two parts: locate the objects that answer the question, then conclude the answer from them."""
    if given.draw.random() < 0.4:
        yield given.listing()
    together = given.some()
    if given.draw.random() < 0.5:
        yield given.describing()
    yield given.locating([given.one()])
    thing = given.scene.objects[given.one()]
    yield Lesson("describe", f"What is the {thing.name}?", _description(thing))
    yield Lesson("locate", f"I look for {join_names(given.names(together))}.", given.written(together))
    yield _by_kind(given)
    for question in given.questions(2):
        yield Lesson("locate", f"{question.text} Where is that?", given.written(question.targets))
        yield _conclusion(given, question)
        if given.draw.random() < 0.2:
            yield _direct(question)


_COURSES: dict[Course, Callable[[_Material], Iterator[Lesson]]] = {
    "see": _see,
    "find": _find,
    "conclude": _conclude,
}


def _direct(question: WorldQuestion) -> Lesson:
    return Lesson("direct", question.text, question.answer)


def _conclusion(given: _Material, question: WorldQuestion) -> Lesson:
    """Conclude the answer from the regions of the targets, with or without their names, or from half of the reason."""
    depths = [given.places[index].depth for index in question.targets]
    numbers = [f"{depth:.{DECIMALS}f}" for depth in depths if depth is not None]
    reason = question.reason.format(*numbers) if numbers else question.plain
    evidence, sign, rest = re.split(r"(\. |, so |: |$)", reason, maxsplit=1)[:3]
    form = given.draw.random()
    if form < 0.4:
        return Lesson("conclude", f"{question.text}\n{given.written(question.targets)}", reason)
    if form < 0.7 or not rest or (question.plain != question.reason and not numbers):
        named = given.lines(question.targets, "The {name}: {region}")
        return Lesson("conclude", f"{named}\n{question.text}", question.answer)
    if form < 0.85:
        return Lesson("conclude", f"{evidence}. {question.text}", question.answer)
    return Lesson("conclude", f"{question.text} {evidence}.", (sign + rest).lstrip(".,: "))


def _by_place(given: _Material) -> Lesson:
    order = given.order
    by_distance = sorted(order, key=lambda index: float(given.scene.distances[index]))
    ends = {"leftmost": order[0], "rightmost": order[-1], "nearest": by_distance[0], "farthest": by_distance[-1]}
    place = given.draw.choice(list(ends))
    return Lesson("locate", f"Where is the {place} object?", given.written([ends[place]]))


def _by_kind(given: _Material) -> Lesson:
    thing = given.scene.objects[given.one()]
    kinds: dict[str, Callable[[Object], bool]] = {
        f"{thing.shape}s": lambda other: other.shape == thing.shape,
        f"{thing.colour} objects": lambda other: other.colour == thing.colour,
        "objects with stripes" if thing.striped else "objects with no stripes": lambda other: other.striped == thing.striped,
        "objects with a dot" if thing.dot else "objects with no dot": lambda other: bool(other.dot) == bool(thing.dot),
    }
    kind = given.draw.choice(list(kinds))
    fitting = [index for index in given.order if kinds[kind](given.scene.objects[index])]
    return Lesson("locate", f"Where are the {kind}?", given.written(fitting))


def _comparison(draw: random.Random) -> Lesson:
    first = draw.randint(10, 99)
    second = min(99, max(10, first + draw.choice((-1, 1)) * draw.randint(1, 30)))
    sign = "less" if first < second else "more"
    if first == second:
        second, sign = (first + 1, "less") if first < 99 else (first - 1, "more")
    a, b = f"{first / 100:.2f}", f"{second / 100:.2f}"
    return Lesson("compare", f"Compare {a} and {b}.", f"{a} is {sign} than {b}.")


def _word(draw: random.Random) -> str:
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice(SYNTAX)
    if kind == 1:
        return draw.choice(_WORDS)
    if kind == 2:
        return f"{draw.randint(0, 100) / 100:.2f}"
    return f"the {draw.choice(list(COLOURS))} {draw.choice(SHAPES)}"


def regions_of(scene: Scene, *, with_depth: bool = True) -> list[Region]:
    """Return the box of each object and the mean depth in it, rounded as in chains."""
    boxes = round_boxes(scene.boxes, DECIMALS)
    depths = scene.depth_reference.mean(boxes).tolist() if with_depth else [None] * len(boxes)
    return [
        Region(tuple(box), None if mean is None else round(mean, DECIMALS))
        for box, mean in zip(boxes.tolist(), depths, strict=True)
    ]


def _description(thing: Object) -> str:
    stripes = "stripes" if thing.striped else "no stripes"
    dot = f"a {thing.dot} dot" if thing.dot else "no dot"
    return f"A {thing.size} {thing.name} with {stripes} and {dot}."
