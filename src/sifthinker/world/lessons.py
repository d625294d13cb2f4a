"""What nano is taught before it sees a chain: what there is, where and how far, and short answers.

Lessons are questions with replies about one scene. None holds a chain or its tags; a model that learnt them stands where a
general VLM stands before SIF.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region, render_regions
from sifthinker.world.questions import DECIMALS, FAMILIES, ask, is_novel
from sifthinker.world.scenes import Object, Scene


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question and the reply to learn. `kind`: list, locate, describe, compare or direct."""

    kind: str
    question: str
    reply: str


LIST_QUESTION = "List all objects from left to right."


def locate_question(names: Sequence[str]) -> str:
    """The question for the boxes of named objects, which are told in the order of the names."""
    return f"Where is the {names[0]}?" if len(names) == 1 else f"Where are {' and '.join(f'the {name}' for name in names)}?"


Course = Literal["see", "find"]


def lessons(scene: Scene, scene_seed: int, level: str, *, depth: bool = True, course: Course = "see") -> Iterator[Lesson]:
    """The lessons of one scene, the same for the same arguments.

    Both courses locate named objects alone and in pairs, describe one at a place, compare numbers now and then, and answer a
    question directly. `see` mostly lists all objects, which teaches to see them; `find` locates many, also by kind and by
    place, which teaches to bind a name to the object that it names and comes much later in training by itself.

    Args:
        scene: what they are about.
        scene_seed: of the scene.
        level: of the scene.
        depth: whether boxes come with depths.
        course: what is taught most.
    """
    draw = random.Random(f"sifthinker lessons {level} {scene_seed}")
    places = regions_of(scene, depth=depth)
    order = sorted(range(len(places)), key=lambda index: places[index].box[0])
    if draw.random() < (0.75 if course == "see" else 0.2):
        lines = [f"{_written([places[index]])} {scene.objects[index].name}" for index in order]
        yield Lesson("list", LIST_QUESTION, "\n".join(lines))
    together = (1, 2) if course == "see" else (1, 1, 1, 2, 3)
    alone = draw.sample(range(len(places)), min(len(places), together.count(1)))
    for picked in [[index] for index in alone] + [
        draw.sample(range(len(places)), count) for count in together if 1 < count <= len(places)
    ]:
        names = [scene.objects[index].name for index in picked]
        yield Lesson("locate", locate_question(names), _written([places[index] for index in picked]))
    if course == "find":
        yield from _by_place_and_kind(scene, places, order, draw)
    index = draw.randrange(len(places))
    yield Lesson("describe", f"What is at {_written([places[index]])}?", _description(scene.objects[index]))
    first, second = (draw.randint(10, 99) / 100, draw.randint(10, 99) / 100)
    if first != second and draw.random() < 0.3:
        sign = "less" if first < second else "more"
        yield Lesson("compare", f"Compare {first:.2f} and {second:.2f}.", f"{first:.2f} is {sign} than {second:.2f}.")
    for family in draw.sample(list(FAMILIES), len(FAMILIES)):
        question = ask(scene_seed, family, level, slot=draw.randrange(12))
        if question is not None and not is_novel(question):
            yield Lesson("direct", question.text, question.answer)
            return


def _by_place_and_kind(
    scene: Scene, places: Sequence[Region], order: Sequence[int], draw: random.Random
) -> Iterator[Lesson]:
    if draw.random() < 0.5:
        by_distance = sorted(range(len(places)), key=lambda index: float(scene.distances[index]))
        place = draw.choice(("leftmost", "rightmost", "nearest", "farthest"))
        chosen = {"leftmost": order[0], "rightmost": order[-1], "nearest": by_distance[0], "farthest": by_distance[-1]}[
            place
        ]
        yield Lesson("locate", f"Where is the {place} object?", _written([places[chosen]]))
    if draw.random() < 0.5:
        thing = draw.choice(scene.objects)
        by_shape = draw.random() < 0.5
        kind = f"{thing.shape}s" if by_shape else f"{thing.colour} objects"
        same = [
            index
            for index in order
            if (scene.objects[index].shape == thing.shape if by_shape else scene.objects[index].colour == thing.colour)
        ]
        yield Lesson("locate", f"Where are the {kind}?", _written([places[index] for index in same]))


def regions_of(scene: Scene, *, depth: bool = True) -> list[Region]:
    """Each object's box and the box's mean depth, as chains state them."""
    boxes = round_boxes(scene.boxes, DECIMALS)
    depths = scene.depth_reference.mean(boxes).tolist() if depth else [None] * len(boxes)
    return [
        Region(tuple(box), None if mean is None else round(mean, DECIMALS))
        for box, mean in zip(boxes.tolist(), depths, strict=True)
    ]


def _written(regions: Sequence[Region]) -> str:
    return render_regions(regions, decimals=DECIMALS)


def _description(thing: Object) -> str:
    stripes = "with stripes" if thing.striped else "without stripes"
    dot = f"a {thing.dot} dot" if thing.dot else "no dot"
    return f"A {thing.size} {thing.name} {stripes} and {dot}."
