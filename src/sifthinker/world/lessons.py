"""What nano is taught before it sees a chain: what there is, where and how far, to copy, to conclude, and short answers.

Lessons are questions with replies about one scene. None holds a chain; a model that learnt them stands where a general VLM
stands before SIF.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region, find_regions, render_regions
from sifthinker.world.questions import DECIMALS, FAMILIES, Question, ask, is_novel, join_names
from sifthinker.world.scenes import COLOURS, SHAPES, Object, Scene


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question and the reply to learn. `kind`: list, locate, name, describe, compare, repeat, read, conclude or direct."""

    kind: str
    question: str
    reply: str


LIST_QUESTION = "List all objects from left to right."

# Pieces of the syntax that chains will be written in. Repeating them makes them known words, not a known form.
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
    """Name and place of each object in a reply to `LIST_QUESTION`; lines of another form are left out."""
    found = []
    for line in reply.split("\n"):
        written, _, name = line.rpartition("}] ")
        areas = find_regions(f"<area>{written}}}]</area>")
        if areas and len(areas[0]) == 1:
            found.append((name, areas[0][0]))
    return found


def locate_question(names: Sequence[str]) -> str:
    """The question for the boxes of named objects, which are told in the order of the names."""
    verb = "is" if len(names) == 1 else "are"
    return f"Where {verb} {join_names(names)}?"


Course = Literal["see", "find", "conclude"]


def lessons(scene: Scene, scene_seed: int, level: str, *, depth: bool = True, course: Course = "see") -> Iterator[Lesson]:
    """The lessons of one scene, the same for the same arguments.

    `see` lists all objects from left to right, locates two by name and describes one: dense targets teach to see several
    times faster than one box a sample. `find` locates many by name, by place and by kind, which binds names to what they
    name; answers a question from a sentence that says the answer; compares numbers or repeats words; and lists and describes
    now and then, so that this is not forgotten. `conclude` takes questions apart: where is what answers one, and what
    follows from what is found there. All three answer some questions directly.

    Args:
        scene: what they are about.
        scene_seed: of the scene.
        level: of the scene.
        depth: whether boxes come with depths.
        course: what is taught.
    """
    draw = random.Random(f"sifthinker lessons {course} {level} {scene_seed}")
    places = regions_of(scene, depth=depth)
    indices = range(len(places))
    order = sorted(indices, key=lambda index: places[index].box[0])

    def written(chosen: Sequence[int]) -> str:
        return render_regions([places[index] for index in chosen], decimals=DECIMALS)

    def names(chosen: Sequence[int]) -> list[str]:
        return [scene.objects[index].name for index in chosen]

    def listed(chosen: Sequence[int], form: str) -> str:
        return "\n".join(form.format(name=scene.objects[index].name, region=written([index])) for index in chosen)

    if course == "see" or draw.random() < 0.4:
        yield Lesson("list", LIST_QUESTION, listed(order, "{region} {name}"))
    together = draw.sample(indices, draw.randint(2, min(3, len(places))))
    if draw.random() < 0.5:
        index = draw.randrange(len(places))
        yield Lesson("describe", f"What is at {written([index])}?", _description(scene.objects[index]))
    if course == "see":
        yield Lesson("locate", locate_question(names(together[:2])), written(together[:2]))
        if draw.random() < 0.15 and (question := _question(scene_seed, level, draw)):
            yield Lesson("direct", question.text, question.answer)
        return
    single = [draw.randrange(len(places))]
    yield Lesson("locate", locate_question(names(single)), written(single))
    if course == "conclude":
        index = draw.randrange(len(places))
        yield Lesson("describe", f"What is the {scene.objects[index].name}?", _description(scene.objects[index]))
        yield Lesson("locate", f"I look for {join_names(names(together))}.", written(together))
        yield _by_kind(scene, order, draw, written)
        for question in _questions(scene_seed, level, draw, 2):
            yield Lesson("locate", f"{question.text} Where is that?", written(question.targets))
            named = listed(question.targets, "The {name}: {region}")
            yield _conclusion(question, draw, places, named=named, written=written(question.targets))
            if draw.random() < 0.2:
                yield Lesson("direct", question.text, question.answer)
        return
    yield Lesson("locate", locate_question(names(together)), written(together))
    chosen = draw.sample(indices, 2)
    yield Lesson("name", f"Find {join_names(names(chosen))}.", listed(chosen, "The {name}: {region}"))
    if draw.random() < 0.5:
        yield _by_place(scene, order, draw, written)
    else:
        yield _by_kind(scene, order, draw, written)
    if question := _question(scene_seed, level, draw):
        yield Lesson("read", f"{question.plain} {question.text}", question.answer)
    if draw.random() < 0.5:
        yield _comparison(draw)
    else:
        words = " ".join(_word(draw) for _ in range(draw.randint(2, 7)))
        yield Lesson("repeat", f"Repeat: {words}", words)
    if draw.random() < 0.5 and (question := _question(scene_seed, level, draw)):
        yield Lesson("direct", question.text, question.answer)


def _question(scene_seed: int, level: str, draw: random.Random) -> Question | None:
    return next(iter(_questions(scene_seed, level, draw, 1)), None)


def _questions(scene_seed: int, level: str, draw: random.Random, most: int) -> list[Question]:
    """Questions of different families, of no combination that is kept for the test split."""
    found: list[Question] = []
    for family in draw.sample(list(FAMILIES), len(FAMILIES)):
        question = ask(scene_seed, family, level, slot=draw.randrange(12))
        if question is not None and not is_novel(question):
            found.append(question)
        if len(found) == most:
            break
    return found


def _conclusion(question: Question, draw: random.Random, places: Sequence[Region], *, named: str, written: str) -> Lesson:
    """What follows from the targets' places (`named`: with their names, `written`: without) or from half of the reason."""
    numbers = [f"{places[index].depth:.{DECIMALS}f}" for index in question.targets if places[index].depth is not None]
    reason = question.reason.format(*numbers) if numbers else question.plain
    evidence, sign, rest = re.split(r"(\. |, so |: |$)", reason, maxsplit=1)[:3]
    form = draw.random()
    if form < 0.4:
        return Lesson("conclude", f"{question.text}\n{written}", reason)
    if form < 0.7 or not rest or (question.plain != question.reason and not numbers):
        return Lesson("conclude", f"{named}\n{question.text}", question.answer)
    if form < 0.85:
        return Lesson("conclude", f"{evidence}. {question.text}", question.answer)
    return Lesson("conclude", f"{question.text} {evidence}.", (sign + rest).lstrip(".,: "))


def _by_place(scene: Scene, order: Sequence[int], draw: random.Random, written: Callable[[Sequence[int]], str]) -> Lesson:
    by_distance = sorted(order, key=lambda index: float(scene.distances[index]))
    ends = {"leftmost": order[0], "rightmost": order[-1], "nearest": by_distance[0], "farthest": by_distance[-1]}
    place = draw.choice(list(ends))
    return Lesson("locate", f"Where is the {place} object?", written([ends[place]]))


def _by_kind(scene: Scene, order: Sequence[int], draw: random.Random, written: Callable[[Sequence[int]], str]) -> Lesson:
    thing = draw.choice(scene.objects)
    kinds: dict[str, Callable[[Object], bool]] = {
        f"{thing.shape}s": lambda other: other.shape == thing.shape,
        f"{thing.colour} objects": lambda other: other.colour == thing.colour,
        "objects with stripes" if thing.striped else "objects with no stripes": lambda other: other.striped == thing.striped,
        "objects with a dot" if thing.dot else "objects with no dot": lambda other: bool(other.dot) == bool(thing.dot),
    }
    kind = draw.choice(list(kinds))
    return Lesson("locate", f"Where are the {kind}?", written([i for i in order if kinds[kind](scene.objects[i])]))


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


def regions_of(scene: Scene, *, depth: bool = True) -> list[Region]:
    """Each object's box and the box's mean depth, as chains state them."""
    boxes = round_boxes(scene.boxes, DECIMALS)
    depths = scene.depth_reference.mean(boxes).tolist() if depth else [None] * len(boxes)
    return [
        Region(tuple(box), None if mean is None else round(mean, DECIMALS))
        for box, mean in zip(boxes.tolist(), depths, strict=True)
    ]


def _description(thing: Object) -> str:
    stripes = "stripes" if thing.striped else "no stripes"
    dot = f"a {thing.dot} dot" if thing.dot else "no dot"
    return f"A {thing.size} {thing.name} with {stripes} and {dot}."
