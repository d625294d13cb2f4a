"""What a task of lmms-eval is given: the bare answer, its letter, the boxes of the last area, or the whole completion."""

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
    """The boxes of a chain's last area, as JSON: `[x1, y1, x2, y2]`, or a list of these where there are several.

    Args:
        row: of a chain, or of a structured reply.
        size: (width, height) of its picture.
        numbers: what the numbers are to be.
        resizer: for `resized`; Qwen2.5-VL's by default.
    Returns:
        "" where the last area cannot be read.
    """
    boxes = last_area(row.completion, with_depth=row.depth is not None, frame=row.frame)
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
    """The letter of the option of a question that an answer is; the answer as it is where it is none of them.

    Example:
        >>> letter_of("blue", "Which?\\nA. red\\nB. blue"), letter_of("green", "Which?\\nA. red\\nB. blue")
        ('B', 'green')
    """
    options = options_in(question)
    index = options_of(options).index_of(read(answer)) if options else None
    return answer if index is None else ascii_uppercase[index]


# ------------------------------------------------------------------------------------------------- whole completions


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion, and all that is needed to read it again.

    Args:
        text: what the model wrote.
        protocol: how it was asked.
        frame: what the numbers of its boxes stand for.
        depth: whether it saw depth: none, that of the question, or estimated.
        complete: whether it ended by itself.
        error: why it could not be asked; "" where it was.
    """

    text: str
    protocol: ThinkProtocol = "direct"
    frame: Frame = UNIT
    depth: str = "none"
    complete: bool = True
    error: str = ""

    @classmethod
    def of_row(cls, row: Row, protocol: ThinkProtocol, *, estimated: bool) -> Reply:
        """Of a row of an evaluation; `estimated`: whether the depth is not the question's own."""
        depth = "none" if row.depth is None else "estimated" if estimated else "given"
        text = row.reply if protocol == "structured" else row.completion
        return cls(text, protocol, row.frame, depth, row.complete, row.error)

    def to_text(self) -> str:
        """As one text, which tasks of ours take for an answer."""
        about = {"protocol": self.protocol, "depth": self.depth, "complete": self.complete}
        error = {"error": self.error} if self.error else {}
        return json.dumps({"completion": self.text, **self.frame.columns(), **about, **error}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Reply:
        """What `to_text` wrote; or what another model said: a chain in fractions where it has tags of one, else an answer.

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
    """Says again what was said, and keeps the thought that it comes to."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.thought: Thought | None = None
        self.coordinates = self.native_coordinates = reply.frame.space

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """Any: the frame is known."""

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
            depth = DepthMap(np.full((image.height, image.width), 0.5))  # so that stated depths can be read
        task, said = (image, question, depth), self.reply
        self.thought = thought_of(task, protocol, said.frame, said.text, complete=said.complete)
        return [self.thought]


def row_of(question: Question, reply: Reply, benchmark: Benchmark, root: Path) -> Row:
    """The row of a question that was answered elsewhere: the one that `sif eval` makes of the same completion.

    Depth that was estimated is not kept, so that such a row has no depth consistency.

    Args:
        question: of the benchmark.
        reply: to it.
        benchmark: whose own values the row has too.
        root: folder that the names of images are relative to.
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
        nothing: dict[str, Any] = {
            "completion": "",
            "answer": None,
            "verdict": None,
            "problems": (),
            "values": dict.fromkeys(METRICS),
        }
        return replace(row, **nothing, error=reply.error or row.error)
    values = {**row.values, **{metric.name: metric.value(said.thought, question) for metric in benchmark.metrics}}
    if reply.depth == "estimated":
        values["depth consistency"] = None
    return replace(row, values=values)
