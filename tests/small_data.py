"""A small dataset of the tests' own: blocks before a wall with exact depth, questions about them, and who explains them.

The package's tests train on it and need nothing of the embedded world.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import DepthSource, GivenDepth
from sifthinker.engine.settings import Expansion
from sifthinker.engine.sources import read_source
from sifthinker.engine.teachers import Attempt, Task
from sifthinker.errors import ConfigError
from sifthinker.files import write_jsonl

SIDE = 64  # of the pictures, in pixels
WALL = (120, 120, 120)
WALL_DEPTH = 0.9
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 80, 220),
    "yellow": (230, 210, 50),
    "white": (240, 240, 240),
}
# So far apart that the wall's pixels at a rounded box's border change no order.
DEPTHS = (0.2, 0.4, 0.6, 0.8)
FAMILIES = ("nearer", "side", "count")


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of one colour and depth; `place` is its left, upper, right and lower side in pixels."""

    colour: str
    depth: float
    place: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"{self.colour} block"

    @property
    def box(self) -> tuple[float, ...]:
        return tuple(round(side / SIDE, 2) for side in self.place)


def _scene(draw: random.Random, colours: Sequence[str]) -> list[Block]:
    """A block of each colour, at different depths, each in a quarter of its own; the first two side by side."""
    row = draw.choice((0, 1))
    quarters = [(0, row), (1, row), *draw.sample([(0, 1 - row), (1, 1 - row)], 2)]
    first = quarters[:2]
    draw.shuffle(first)
    blocks = []
    for colour, depth, (column, row) in zip(
        colours, draw.sample(DEPTHS, len(colours)), [*first, *quarters[2:]], strict=False
    ):
        width, height = draw.randint(16, 28), draw.randint(16, 28)
        left = column * SIDE // 2 + draw.randint(0, SIDE // 2 - width)
        upper = row * SIDE // 2 + draw.randint(0, SIDE // 2 - height)
        blocks.append(Block(colour, depth, (left, upper, left + width, upper + height)))
    return blocks


def draw_scene(blocks: Sequence[Block]) -> tuple[Image.Image, DepthMap]:
    """The picture of some blocks, and how far each of its pixels is."""
    pixels = np.full((SIDE, SIDE, 3), WALL, dtype=np.uint8)
    depth = np.full((SIDE, SIDE), WALL_DEPTH)
    for block in blocks:
        left, upper, right, lower = block.place
        pixels[upper:lower, left:right] = COLOURS[block.colour]
        depth[upper:lower, left:right] = block.depth
    return Image.fromarray(pixels), DepthMap(depth)


def _ask(number: int, seed: int) -> tuple[list[Block], dict[str, Any]]:
    """A scene and the fields of the record about it; families and answers take turns."""
    draw = random.Random(f"blocks {seed} {number}")
    family, slot = FAMILIES[number % len(FAMILIES)], number // len(FAMILIES)
    if family == "count":
        colour, other = draw.sample(sorted(COLOURS), 2)
        count = slot % 3 + 1
        blocks = _scene(draw, [colour] * count + [other] * (3 - count))
        targets, answer, choices = blocks[:count], str(count), ["1", "2", "3"]
        subject, question = f"the {colour} blocks", f"How many {colour} blocks are there?"
        reason = f"I count {answer} of the {colour} blocks."
    else:
        blocks = _scene(draw, draw.sample(sorted(COLOURS), 3))
        targets = blocks[:2]
        key = (lambda block: block.depth) if family == "nearer" else (lambda block: block.place[0])
        low, high = sorted(targets, key=key)
        targets = [low, high] if slot % 2 == 0 else [high, low]
        one, two = (block.name for block in targets)
        subject = f"the {one} and the {two}"
        if family == "nearer":
            answer, choices = low.name, [one, two]
            question = f"Which is nearer to the camera, the {one} or the {two}?"
            left, right = ("{0}", "{1}") if slot % 2 == 0 else ("{1}", "{0}")
            reason = f"The {one} is at {{0}} and the {two} at {{1}}. {left} is less than {right}, so it is the {answer}."
        else:
            answer, choices = ("left", "right")[slot % 2], ["left", "right"]
            question = f"Is the {one} to the left or to the right of the {two}?"
            reason = f"The {one} is to the {answer} of the {two}."
    return blocks, {
        "id": f"blocks-{seed}-{number}",
        "question": question,
        "answer": answer,
        "choices": choices,
        "boxes": [list(block.box) for block in targets],
        "family": family,
        "extra": {"subject": subject, "reason": reason},
    }


def write_records(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Draw scenes with questions: `images/*.png`, `images/*.depth.png` and `records.jsonl`, which is returned."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        blocks, fields = _ask(number, seed)
        picture, depth = draw_scene(blocks)
        picture.save(folder / "images" / f"{number}.png")
        depth.write(folder / "images" / f"{number}.depth.png")
        place = f"images/{number}"
        rows.append({**fields, "image": f"{place}.png", "depth": f"{place}.depth.png", "dataset": "blocks"})
    write_jsonl(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


# What is said of each focus but the last.
THOUGHTS = {
    "whole": "I look for {subject}.",
    "distractor": "There is nothing here. This does not help.",
    "merged": "It is around here.",
    "expanded": "I look closer.",
}


class BlockTeacher:
    """Explains the records of `write_records` by what stands in them; deterministic, and free."""

    name = "blocks:1"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        extra = task.record.extra
        if "reason" not in extra:
            raise ConfigError(f"record {task.record.id!r} is not about blocks; their teacher knows no other")
        thoughts = []
        for kind, regions in zip(task.kinds, task.focuses, strict=True):
            depths = [f"{region.depth:.3f}" for region in regions if region.depth is not None]
            if kind == "target":
                thoughts.append(str(extra["reason"]).format(*depths) if depths else f"I see {extra['subject']}.")
            else:
                thoughts.append(THOUGHTS[kind].format(subject=extra["subject"]))
        return json.dumps({"thoughts": thoughts, "answer": task.record.answer})


def build_chains(source: Path, out: Path, *, depth: DepthSource | None = None, **options: Any) -> int:
    """Build a dataset from the file of `write_records` with the real engine; how many examples came out.

    Args:
        source: the file.
        out: dataset folder.
        depth: depth files beside the images by default.
        options: further fields of the engine, such as `coordinates`.
    """
    engine = Engine(source.parent, depth or GivenDepth(), BlockTeacher(), Expansion(decimals=2), **options)
    return engine.build(lambda: read_source(source), out).accepted


def sentences() -> Iterator[str]:
    """What is asked and said about blocks, for a tokenizer to learn its words from."""
    yield from THOUGHTS.values()
    for number in range(90):
        _, fields = _ask(number, seed=1)
        yield f"{fields['question']} {fields['extra']['reason']} {fields['answer']}"
        yield from fields["choices"]


if __name__ == "__main__":  # python -m tests.small_data RECORDS OUT, for tests that kill it
    build_chains(Path(sys.argv[1]), Path(sys.argv[2]))
