"""Replies to tasks of lmms-eval: the bare answer, its letter, the boxes of the last area, or the complete completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, get_args

import numpy as np

from sifthinker.benchmarks.last_area import last_area
from sifthinker.boxes import Boxes
from sifthinker.chain import TAG
from sifthinker.coordinates import UNIT, Frame, Resizer, frame_of
from sifthinker.depth import DepthMap
from sifthinker.errors import BoxError
from sifthinker.evaluation.benchmark import Benchmark
from sifthinker.evaluation.metrics import METRICS, Row
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import ask
from sifthinker.literals import Coordinates, ThinkProtocol
from sifthinker.lmms.requests import options_in
from sifthinker.lmms.settings import BoxNumbers
from sifthinker.scoring.options import options_of
from sifthinker.scoring.reading import read
from sifthinker.thinker import Task, Thinker, Thought, thought_of

_DECIMALS = 3  # of fractions
_PIXEL_DECIMALS = 1


def boxes_of(row: Row, size: tuple[int, int], numbers: BoxNumbers, resizer: Resizer | None = None) -> str:
    """Return the boxes of a chain's last area as JSON: `[x1, y1, x2, y2]`, or a list of several boxes.

    Args:
        row: row of a chain or a structured reply.
        size: (width, height) of its image.
        numbers: coordinates of the boxes.
        resizer: resizer for `resized`; Qwen2.5-VL's by default.
    Returns:
        The JSON text; "" if the last area is unreadable.
    """
    boxes = last_area(row.completion, frame=row.frame)
    found = _scaled(boxes, size, numbers, resizer or Resizer())
    return "" if not found else json.dumps(found[0] if len(found) == 1 else found)


def _scaled(boxes: Boxes, size: tuple[int, int], numbers: BoxNumbers, resizer: Resizer) -> list[list[float]]:
    if numbers == "unit":
        return [[round(side, _DECIMALS) for side in box] for box in boxes.tolist()]
    sides = {"per_mille": (1000, 1000), "pixel": size}.get(numbers) or resizer.size(size)
    scaled = (boxes * np.array(sides * 2)).tolist()
    if numbers == "pixel":
        return [[round(side, _PIXEL_DECIMALS) for side in box] for box in scaled]
    return [[round(side) for side in box] for box in scaled]


def letter_of(answer: str, question: str) -> str:
    """Return the letter of the option that an answer matches; the unchanged answer if it matches none.

    Example:
        >>> letter_of("blue", "Which?\\nA. red\\nB. blue"), letter_of("green", "Which?\\nA. red\\nB. blue")
        ('B', 'green')
    """
    options = options_in(question)
    index = options_of(options).index_of(read(answer)) if options else None
    return answer if index is None else ascii_uppercase[index]


# ---------------------------------------------------------------------------------------------- complete completions


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion with everything needed to read it again.

    Args:
        text: the model's text.
        protocol: protocol that the model was asked with.
        frame: what the numbers of its boxes stand for.
        depth: depth that the model saw: `none`, `given` (the question's own) or `estimated`.
        complete: whether the model ended by itself.
        error: why the question could not be asked; "" if it was.
    """

    text: str
    protocol: ThinkProtocol = "direct"
    frame: Frame = UNIT
    depth: str = "none"
    complete: bool = True
    error: str = ""

    @classmethod
    def of_row(cls, row: Row, protocol: ThinkProtocol, *, estimated: bool) -> Reply:
        """Return the reply of an evaluation row. `estimated` tells whether its depth was estimated."""
        depth = "none" if row.depth is None else "estimated" if estimated else "given"
        text = row.reply if protocol == "structured" else row.completion
        return cls(text, protocol, row.frame, depth, row.complete, row.error)

    def to_text(self) -> str:
        """Return the reply as one text, which sifthinker tasks accept as an answer."""
        about = {"protocol": self.protocol, "depth": self.depth, "complete": self.complete}
        error = {"error": self.error} if self.error else {}
        return json.dumps({"completion": self.text, **self.frame.columns(), **about, **error}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Reply:
        """Read a text from `to_text`, or of a third-party model: a chain in fractions if it has tags, else a direct answer.

        Example:
            >>> Reply.from_text("two").protocol, Reply.from_text("<think></think><answer>two</answer>").protocol
            ('direct', 'chain')
        """
        found = _object(text)
        if found is None or not isinstance(found.get("completion"), str):
            return cls(text, "chain" if TAG.search(text) else "direct")
        try:
            frame = frame_of(found.get("coordinates"), found.get("resized"))
        except BoxError:
            return cls(text)
        protocol: ThinkProtocol = next((name for name in get_args(ThinkProtocol) if name == found.get("protocol")), "direct")
        depth, error = str(found.get("depth", "none")), str(found.get("error", ""))
        return cls(found["completion"], protocol, frame, depth, found.get("complete") is not False, error)


def _object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Said(Thinker):
    """A thinker that repeats a saved reply and keeps the resulting thought."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.thought: Thought | None = None
        self.coordinates = self.native_coordinates = reply.frame.space

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """Accept any coordinates, because the frame is known."""

    def think_all(
        self,
        tasks: Sequence[Task],
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> list[Thought]:
        ((image, question, depth),) = tasks
        if self.reply.depth == "estimated":
            depth = DepthMap(np.full((image.height, image.width), 0.5))  # without a map, stated depths are invalid
        task, said = (image, question, depth), self.reply
        self.thought = thought_of(task, protocol, said.frame, said.text, complete=said.complete)
        return [self.thought]


def row_of(question: Question, reply: Reply, benchmark: Benchmark, root: Path) -> Row:
    """Return the row that `sif eval` would write for a reply from lmms-eval.

    Estimated depth is not stored, so a row with estimated depth has no depth consistency.

    Args:
        question: question of the benchmark.
        reply: reply to the question.
        benchmark: benchmark whose own metrics are added.
        root: folder that image names are relative to.
    """
    said = _Said(reply)
    (row,) = ask(
        said,
        [question],
        root,
        protocol=reply.protocol,
        coordinates=reply.frame.space,
        rgb_only=reply.depth != "given",
        show_choices=benchmark.show_choices,
    )
    if reply.error or said.thought is None:
        return replace(
            row,
            completion="",
            answer=None,
            verdict=None,
            problems=(),
            values=dict.fromkeys(METRICS),
            error=reply.error or row.error,
        )
    values = {**row.values, **{metric.name: metric.value(said.thought, question) for metric in benchmark.metrics}}
    if reply.depth == "estimated":
        values["depth consistency"] = None
    return replace(row, values=values)
