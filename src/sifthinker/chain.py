"""Chains of thought with images: a `<think>` block of alternating areas and texts, then an `<answer>`.

    <think>
    <area>[{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.583}]</area>
    <text>The whole scene.</text>
    <area>[{"bbox_2d":[0.656,0.138,0.938,0.521],"depth":0.829}]</area>
    <text>The mug stands here.</text>
    </think>
    <answer>
    red
    </answer>

`parse_chain` is strict and raises. `check_chain` is equally strict and lists the problems. `find_regions` is lenient and
never raises. `read_completion` does all of this in one pass, for a chain as a chat template frames it. Each takes linear
time for any text. In RGB-only chains (`with_depth=False`) a region has no depth, and a stated depth is a problem.
A text can use other coordinates than fractions (`frame`). The regions read from it are always unit.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np

from sifthinker.boxes import WHOLE_IMAGE, Boxes
from sifthinker.coordinates import DECIMALS, UNIT, Frame, check_frame
from sifthinker.errors import BoxError, ChainError

REASONS: dict[str, str] = {
    "missing_tag": "a required tag is missing, or another tag is in its place",
    "stray_text": "there is text between the tags, or outside `<think>` and `<answer>`",
    "no_step": "`<think>` contains no area with a text",
    "nested_tag": "there is a tag inside an area, a text or the answer",
    "blank_text": "a text is blank",
    "blank_answer": "the answer is blank",
    "bad_json": "an area is not JSON",
    "not_a_list": "an area is not a JSON list",
    "no_region": "an area is an empty list",
    "not_a_region": "a region is not a JSON object",
    "duplicate_key": "a region has a key twice",
    "missing_key": "a region has no `bbox_2d` or no `depth`",
    "unknown_key": "a region has a key other than `bbox_2d` and `depth`",
    "bad_box": "`bbox_2d` is not a list of four numbers",
    "box_range": "a coordinate is outside its range: [0, 1], 0 to 1000, or the size of the resized image",
    "box_order": "a box has x1 >= x2 or y1 >= y2",
    "bad_depth": "`depth` is not a number",
    "depth_range": "a depth is outside [0, 1]",
    "number_form": "a number has an exponent, a sign, more than 3 decimals (in whole numbers: any), or is NaN or infinite",
}

TAG = re.compile(r"<(/?)(think|area|text|answer)>")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]+")
# End-of-turn and padding tokens at the end of a text. Some tokenizers decode padding to NUL.
_END_TOKEN = re.compile(
    r"(?:<\|[\w.:-]+\|>|<[\w.:-]+\|>|<\uff5c[^<>]+\uff5c>|</s>|[\0\ufeff]+"
    r"|<(?:eo[acdhmstu]|end|pad|end_of_\w+|end_?of_?text|turn_end)>|\[(?:EO[DMST]|END|PAD|SEP|/INST)\])\s*\Z",
    re.IGNORECASE,
)
_LONGEST_END_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Region:
    """A box and the mean depth in it.

    Values are rounded to 3 decimals, so a region equals the one read back from its text. A region read from whole numbers
    (see `coordinates.Frame`) keeps its exact box. `Region.within` makes such a region.

    Args:
        box: x1, y1, x2, y2 as fractions of width and height.
        depth: mean depth in the box, 0 nearest and 1 farthest; None in RGB-only chains.
    Raises:
        ChainError: a value is outside [0, 1], or the box has no area after rounding.
    """

    box: tuple[float, float, float, float]
    depth: float | None = None

    def __post_init__(self) -> None:
        box = tuple(round(float(side), DECIMALS) + 0.0 for side in self.box)
        if len(box) != 4 or not all(0 <= side <= 1 for side in box):
            raise ChainError("box_range", 0, f"box must be four fractions in [0, 1], got {self.box}")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ChainError("box_order", 0, f"box {self.box} has no area at {DECIMALS} decimals; expected x1 < x2, y1 < y2")
        object.__setattr__(self, "box", box)
        if self.depth is not None:
            depth = round(float(self.depth), DECIMALS) + 0.0
            if not 0 <= depth <= 1:
                raise ChainError("depth_range", 0, f"depth must be in [0, 1], got {self.depth}")
            object.__setattr__(self, "depth", depth)

    @classmethod
    def within(cls, frame: Frame, box: Sequence[float], depth: float | None = None) -> Region:
        """Return a region as a text in this frame states it: its box on the frame's grid, not rounded to 3 decimals.

        Args:
            frame: coordinates of the text.
            box: x1, y1, x2, y2 as fractions of width and height.
            depth: mean depth in the box; None in RGB-only chains.
        Raises:
            ChainError: see `Region`. The box can be of any width, but not empty.
        Example:
            >>> Region.within(Frame("resized", (644, 476)), (0.25, 0, 0.5, 0.333)).box[3] * 476
            159.0
        """
        check_frame(frame)
        if frame.space == "unit":
            return cls(cast("tuple[float, float, float, float]", tuple(box)), depth)
        region = cls(WHOLE_IMAGE, depth)
        try:
            object.__setattr__(region, "box", frame.snap(box))
        except BoxError as error:
            raise ChainError("bad_box", 0, str(error)) from None
        return region


@dataclass(frozen=True, slots=True)
class Step:
    """One focus and a description of what is there.

    Args:
        regions: at least one region.
        text: words; surrounding white space is removed.
    Raises:
        ChainError: there is no region, or the text is blank or contains a tag of the format.
    """

    regions: tuple[Region, ...]
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions:
            raise ChainError("no_region", 0, "a step needs at least one region")
        object.__setattr__(self, "text", _words(self.text, "blank_text", "text"))


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps, then the answer.

    Args:
        steps: at least one step.
        answer: words; surrounding white space is removed.
    Raises:
        ChainError: there is no step, or the answer is blank or contains a tag of the format.
    """

    steps: tuple[Step, ...]
    answer: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ChainError("no_step", 0, "a chain needs at least one step")
        object.__setattr__(self, "answer", _words(self.answer, "blank_answer", "answer"))


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why a text is not a valid chain: reason code, character offset and message."""

    code: str
    position: int
    message: str

    def __str__(self) -> str:
        return f"character {self.position}: {self.message} [{self.code}]"


def parse_chain(text: str, *, with_depth: bool = True, frame: Frame = UNIT) -> Chain:
    """Read a chain strictly.

    Args:
        text: the complete completion.
        with_depth: whether every region must have a depth. Use False for RGB-only chains, whose regions have none.
        frame: coordinates of the boxes.
    Returns:
        The chain. `render_chain` writes it in canonical form.
    Raises:
        ChainError: the first problem of the text. With the default `with_depth=True`, an RGB-only chain raises
            `missing_key`.
    Example:
        >>> area = '<area>[{"bbox_2d": [0.1, 0.2, 0.6, 0.8]}]</area>'
        >>> text = f"<think>{area}<text>I see a cat.</text></think><answer>cat</answer>"
        >>> parse_chain(text, with_depth=False).answer
        'cat'
    """
    scan = _Scan(text, with_depth, frame=frame)
    if scan.problems:
        first = scan.problems[0]
        raise ChainError(first.code, first.position, first.message)
    return Chain(tuple(scan.steps), scan.answer)


def check_chain(text: str, *, with_depth: bool = True, frame: Frame = UNIT) -> list[Problem]:
    """Return every problem of a text in order; empty if `parse_chain` can read it.

    A broken tag structure ends the search, because the rest of the text has no meaning then. All problems inside areas,
    texts and the answer are listed.
    """
    return _Scan(text, with_depth, frame=frame).problems


def render_chain(chain: Chain, *, decimals: int = DECIMALS, depth_decimals: int | None = None, frame: Frame = UNIT) -> str:
    """Return a chain as text in canonical form. At 3 decimals, `parse_chain(render_chain(chain)) == chain`.

    Args:
        chain: the chain.
        decimals: decimal places, at most 3. Fewer decimals round the numbers (the nano model's tokens have 2).
        depth_decimals: decimal places of depths, if they need more than boxes.
        frame: coordinates of the boxes. Whole numbers are rounded to the nearest, and no side vanishes. Regions made by
            `Region.within` are read back unchanged.
    Raises:
        ChainError: a box has no area with this few decimals.
    """
    lines = ["<think>"]
    for step in chain.steps:
        area = render_regions(step.regions, decimals=decimals, depth_decimals=depth_decimals, frame=frame)
        lines.append(f"<area>{area}</area>")
        lines.append(f"<text>{step.text}</text>")
    lines += ["</think>", "<answer>", chain.answer, "</answer>"]
    return "\n".join(lines)


_MOST_STEPS, _MOST_REGIONS = 16, 32  # limits of the grammar; they stop a model that repeats itself


def chain_pattern(*, with_depth: bool = True, frame: Frame = UNIT) -> str:
    """Return a regular expression for chains, for servers that constrain decoding to a grammar.

    Every match is a chain to `check_chain`, except that boxes may have no area, words may be blank, and pixels may lie past
    the border. The expression matches the chains that `render_chain` writes, with two exceptions: very long chains, and
    words in which `<` is the last character or stands before `<`, `/`, `t` or `a`, as in tags. It uses only literals,
    classes, groups and repetition, which all such servers support.

    Args:
        with_depth: whether regions have a depth.
        frame: coordinates of the boxes.
    Example:
        >>> bool(re.fullmatch(chain_pattern(with_depth=False), render_chain(chain)))  # doctest: +SKIP
        True
    """
    check_frame(frame)
    unit = r"(0(\.[0-9]{1,3})?|1(\.0{1,3})?)"
    side = {"unit": unit, "per_mille": "(0|[1-9][0-9]{0,2}|1000)", "resized": "(0|[1-9][0-9]{0,4})"}[frame.space]
    words = "([^<]|<[^</ta])+"
    depth = f',"depth":{unit}' if with_depth else ""
    region = rf'\{{"bbox_2d":\[{side},{side},{side},{side}\]{depth}\}}'
    area = rf"<area>\[{region}(,{region}){{0,{_MOST_REGIONS - 1}}}\]</area>"
    step = rf"{area}\n?<text>{words}</text>\n?"
    return rf"<think>\n?({step}){{1,{_MOST_STEPS}}}</think>\n?<answer>{words}</answer>"


def render_regions(
    regions: Sequence[Region], *, decimals: int = DECIMALS, depth_decimals: int | None = None, frame: Frame = UNIT
) -> str:
    """Return the JSON list of an area in canonical form, see `render_chain`."""
    digits = decimals if depth_decimals is None else depth_decimals
    if not (1 <= decimals <= DECIMALS and 1 <= digits <= DECIMALS):
        raise ValueError(f"decimals must be 1 to {DECIMALS}, got {decimals} and {digits} for depths")
    check_frame(frame)
    parts = []
    for region in regions:
        unit = frame.space == "unit"
        sides = [f"{side:.{decimals}f}" for side in region.box] if unit else frame.write(region.box)
        if sides[0] == sides[2] or sides[1] == sides[3]:
            raise ChainError("box_order", 0, f"box {region.box} has no area at {decimals} decimals. Use more decimals")
        depth = "" if region.depth is None else f',"depth":{region.depth:.{digits}f}'
        parts.append(f'{{"bbox_2d":[{",".join(sides)}]{depth}}}')
    return f"[{','.join(parts)}]"


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that can be read from a completion, valid or not.

    Args:
        problems: see `check_chain`; empty for a valid chain.
        steps: (regions, words), see `find_steps`.
        answer: see `find_answer`.
    """

    problems: tuple[Problem, ...]
    steps: tuple[tuple[tuple[Region, ...], str], ...]
    answer: str | None

    @property
    def areas(self) -> tuple[tuple[Region, ...], ...]:
        """Regions of each step, see `find_regions`."""
        return tuple(regions for regions, _ in self.steps)


def read_completion(
    text: str, *, with_depth: bool | None = True, opened: bool | None = None, frame: Frame = UNIT
) -> Reading:
    """Read a completion for scoring or display. Never raises on model output.

    The last few hundred readings are cached, so four rewards, a trainer's logs and a page parse a completion only once.

    A completion is a chain as a chat template frames it. Some templates write `<think>` themselves, and the completion then
    begins after it. A decoder can leave end tokens such as `<|im_end|>` after the chain, or a byte order mark before it.
    None of these is a problem.

    Args:
        text: model output.
        with_depth: whether regions have a depth; None if each may or may not.
        opened: whether the template wrote `<think>`; None if unknown. Then it did if the first tag is an area.
        frame: coordinates of the boxes.
    Raises:
        BoxError: `frame` is not a `Frame`.
    Example:
        >>> text = '<area>[{"bbox_2d":[0,0,1,1]}]</area><text>A.</text></think><answer>a</answer><|im_end|>'
        >>> read_completion(text, with_depth=False).problems
        ()
    """
    check_frame(frame)
    # A space in its place keeps the positions in problems correct.
    text = " " + text[1:] if text.startswith("\ufeff") else text
    if opened is None:
        first = TAG.search(text)
        opened = first is not None and first[0] == "<area>"
    read = _read_cached if len(text) <= _LONGEST_KEPT else _read
    return read(text, with_depth, opened, frame)


def _read(text: str, with_depth: bool | None, opened: bool, frame: Frame) -> Reading:
    scan = _Scan(text[: _end_of_words(text)], with_depth, opened, frame)
    if not scan.problems:
        return Reading((), tuple((step.regions, step.text) for step in scan.steps), scan.answer)
    steps = tuple(find_steps(text, with_depth=with_depth, frame=frame))
    return Reading(tuple(scan.problems), steps, find_answer(text))


_LONGEST_KEPT = 1 << 16  # characters of a text whose reading is cached; a chain of 2,048 tokens has about 6,000
_read_cached = lru_cache(maxsize=512)(_read)


def _end_of_words(text: str) -> int:
    """Return where a completion ends without its end and padding tokens."""
    end, words = len(text.rstrip()), len(text)
    while last := _END_TOKEN.search(text, max(0, end - _LONGEST_END_TOKEN), end):
        end = words = last.start()
    return words


def find_regions(text: str, *, with_depth: bool | None = True, frame: Frame = UNIT) -> list[tuple[Region, ...]]:
    """Return the regions of every well-formed area in order, even if other parts of the text are broken. Never raises.

    An area is an `<area>` whose next tag is `</area>`, with a valid region list between them. By default, a region is valid
    only if it has a depth. The result for an RGB-only chain is then an empty list, without an error.

    Args:
        text: a chain or a completion.
        with_depth: True for chains with depth, False for RGB-only chains, None for either.
        frame: coordinates of the boxes.
    Returns:
        The regions of each area.
    Example:
        >>> text = '<area>[{"bbox_2d": [0.1, 0.2, 0.6, 0.8]}]</area>'
        >>> find_regions(text)
        []
        >>> find_regions(text, with_depth=False)
        [(Region(box=(0.1, 0.2, 0.6, 0.8), depth=None),)]
    """
    return [regions for regions, _ in find_steps(text, with_depth=with_depth, frame=frame)]


def find_steps(text: str, *, with_depth: bool | None = True, frame: Frame = UNIT) -> list[tuple[tuple[Region, ...], str]]:
    """Return every well-formed area in order with its text; "" if no complete `<text>` follows. Never raises."""
    check_frame(frame)
    steps: list[tuple[tuple[Region, ...], str]] = []
    opened: tuple[str, int] | None = None  # the open tag, and where its content starts
    fresh = False  # whether the last complete element was a well-formed area
    for tag in TAG.finditer(text):
        name = tag[2]
        if not tag[1]:
            opened = (name, tag.end())
            fresh = fresh and name == "text"
            continue
        if opened is not None and opened[0] == name:
            content = text[opened[1] : tag.start()]
            if name == "area":
                regions, problems = _read_area(content, opened[1], with_depth, frame)
                if not problems:
                    steps.append((regions, ""))
                fresh = not problems
            elif name == "text" and fresh:
                steps[-1] = (steps[-1][0], content.strip())
                fresh = False
        else:
            fresh = False
        opened = None
    return steps


def other_coordinates(text: str, frame: Frame = UNIT) -> str:
    """Describe the coordinates of boxes in a text that do not fit its frame.

    Args:
        text: a chain or completion. Anything in it that is not a list of regions is ignored.
        frame: the stated coordinates.
    Returns:
        The likely coordinates in words; "" if nothing looks wrong. A few boxes that do not fit count as mistakes. If most do
        not fit, they are in another space.
    Example:
        >>> other_coordinates('<area>[{"bbox_2d":[0,0,1000,1000]}]</area><area>[{"bbox_2d":[500,20,600,90]}]</area>')
        'whole numbers from 0 to 1000 (per_mille)'
    """
    check_frame(frame)
    boxes = [box for area in stated_areas(text) for box in area if box is not None]
    greatest = [max(box) for box in boxes]
    if frame.space == "unit":
        wrong = sum(most > 1 for most in greatest)
    else:
        width, height = frame.scale
        past = sum(max(x1, x2) > width or max(y1, y2) > height for x1, y1, x2, y2 in boxes)
        small = sum(min(box) >= 0 and max(box) <= 1 for box in boxes)
        wrong = max(past, small)
    if not boxes or 2 * wrong <= len(boxes):
        return ""
    if max(greatest) <= 1:
        return "fractions of the image (unit)"
    pixels = "pixels of another size" if frame.space == "resized" else "pixels (resized)"
    if max(greatest) > 1000:
        return pixels
    # Nearly every chain begins with the whole image.
    return "whole numbers from 0 to 1000 (per_mille)" + ("" if max(greatest) == 1000 else f" or {pixels}")


def stated_areas(text: str) -> Iterator[list[tuple[float, float, float, float] | None]]:
    """Yield the numbers of every area whose content is a JSON list, in any form, order and range. Never raises.

    For scorers that are more lenient than the format; `find_regions` follows the format. `NaN` and `Infinity` are numbers
    here, as in Python's JSON reader.

    Yields:
        For each region the four numbers of its `bbox_2d` as written; None if it does not have four numbers.
    Example:
        >>> list(stated_areas('<area>[{"bbox_2d":[0,-1,0.12345,9]},{"bbox_2d":[1]}]</area><area>[</area>'))
        [[(0.0, -1.0, 0.12345, 9.0), None]]
    """
    opened: int | None = None
    for tag in TAG.finditer(text):
        if tag[0] == "</area>" and opened is not None:
            try:
                regions = json.loads(text[opened : tag.start()])
            except (ValueError, RecursionError):
                regions = None
            if isinstance(regions, list):
                yield [_four_numbers(region) for region in regions]
        opened = tag.end() if tag[0] == "<area>" else None


def _four_numbers(region: object) -> tuple[float, float, float, float] | None:
    box = region.get("bbox_2d") if isinstance(region, dict) else None
    if isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            x1, y1, x2, y2 = map(float, box)
            return x1, y1, x2, y2
    return None


def find_answer(text: str) -> str | None:
    """Return the stripped content of the last complete `<answer>` that is not blank; None if there is none."""
    answer: str | None = None
    start: int | None = None
    for tag in TAG.finditer(text):
        if tag[2] == "answer" and tag[1] and start is not None:
            answer = text[start : tag.start()].strip() or answer
        start = tag.end() if tag[2] == "answer" and not tag[1] else None
    return answer


def region_boxes(regions: Sequence[Region]) -> Boxes:
    """Return the boxes of an area: (N, 4) unit xyxy."""
    return np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4)


def is_whole_image(regions: Sequence[Region]) -> bool:
    """Whether an area is the whole image and nothing else."""
    return len(regions) == 1 and regions[0].box == WHOLE_IMAGE


_State = Literal["start", "think", "after_area", "after_think", "end"]

# state → required next tag
_EXPECTED: dict[str, str] = {
    "start": "<think>",
    "think": "<area>",
    "after_area": "<text>",
    "after_think": "<answer>",
    "end": "the end of the text",
}


class _Scan:
    """One pass over a text that collects its steps, its answer and every problem."""

    def __init__(self, text: str, with_depth: bool | None, opened: bool = False, frame: Frame = UNIT) -> None:
        check_frame(frame)
        self.steps: list[Step] = []
        self.answer = ""
        self.problems: list[Problem] = []
        self._text = text
        self._depth = with_depth
        self._frame = frame
        self._regions: tuple[Region, ...] = ()
        self._steps_seen = 0
        self._run("think" if opened else "start")

    def _run(self, state: _State) -> None:
        position = 0
        tags = TAG.finditer(self._text)
        for tag in tags:
            if not self._blank(position, tag.start()):
                return
            name = tag[0]
            if state == "think" and name == "</think>":
                if not self._steps_seen:
                    self._add("no_step", tag.start(), "</think> before any <area>")
                    return
                state, position = "after_think", tag.end()
                continue
            if name != _EXPECTED[state]:
                expected = _EXPECTED[state]
                if state == "think" and self._steps_seen:
                    expected = "<area> or </think>"
                self._add("missing_tag", tag.start(), f"expected {expected}, got {name}")
                return
            if name == "<think>":
                state, position = "think", tag.end()
                continue
            closing = next(tags, None)
            if closing is None:
                self._add("missing_tag", len(self._text), f"{name} is never closed")
                return
            if closing[0] != f"</{tag[2]}>":
                self._add("nested_tag", closing.start(), f"{closing[0]} inside {name}")
                return
            self._content(tag[2], tag.end(), closing.start())
            state = {"area": "after_area", "text": "think", "answer": "end"}[tag[2]]  # type: ignore[assignment]
            position = closing.end()
        if self._blank(position, len(self._text)) and state != "end":
            expected = "<area> or </think>" if state == "think" and self._steps_seen else _EXPECTED[state]
            self._add("missing_tag", len(self._text), f"expected {expected}, got the end of the text")

    def _content(self, name: str, start: int, end: int) -> None:
        content = self._text[start:end]
        if name == "area":
            self._regions, problems = _read_area(content, start, self._depth, self._frame)
            self.problems += problems
            return
        words = content.strip()
        if not words:
            self._add(f"blank_{name}", start, f"the {name} is blank")
        if name == "answer":
            self.answer = words
            return
        self._steps_seen += 1
        if not self.problems:
            self.steps.append(Step(self._regions, words))

    def _blank(self, start: int, end: int) -> bool:
        between = self._text[start:end]
        if not between or between.isspace():
            return True
        stripped = between.lstrip()
        self._add("stray_text", end - len(stripped), f"expected a tag, got {_excerpt(stripped)}")
        return False

    def _add(self, code: str, position: int, message: str) -> None:
        self.problems.append(Problem(code, position, message))


class _Number(str):
    """A JSON number as written."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written, including duplicate keys."""


class _ConstantError(Exception):
    pass


def _reject_constant(name: str) -> Any:
    raise _ConstantError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_float=_Number, parse_int=_Number, parse_constant=_reject_constant
)


def _read_area(
    content: str, position: int, with_depth: bool | None, frame: Frame
) -> tuple[tuple[Region, ...], list[Problem]]:
    """Return the regions of an area and its problems. The regions are valid only if there are no problems."""
    try:
        value = _DECODER.decode(content)
    except _ConstantError as constant:
        return (), [Problem("number_form", position, f"{constant} is not a number of this format")]
    except json.JSONDecodeError as error:
        return (), [Problem("bad_json", position + error.pos, f"the area is not JSON: {error.msg}")]
    except RecursionError:
        return (), [Problem("bad_json", position, "the area is nested too deeply")]
    if isinstance(value, _Pairs) or not isinstance(value, list):
        return (), [Problem("not_a_list", position, f"expected a list of regions, got {_excerpt(content.strip())}")]
    if not value:
        return (), [Problem("no_region", position, "the area is an empty list")]
    regions: list[Region] = []
    problems: list[Problem] = []
    for index, item in enumerate(value):
        found = _read_region(item, with_depth, frame)
        if isinstance(found, Region):
            regions.append(found)
        else:
            problems.append(Problem(found[0], position, f"region {index}: {found[1]}"))
    return tuple(regions), problems


def _read_region(item: object, with_depth: bool | None, frame: Frame) -> Region | tuple[str, str]:
    """Return a region, or (reason code, message)."""
    if not isinstance(item, _Pairs):
        return "not_a_region", "expected a JSON object with bbox_2d and depth"
    fields = dict(item)
    if len(fields) != len(item):
        return "duplicate_key", "a key occurs twice"
    if with_depth is None:
        with_depth = "depth" in fields
    expected = {"bbox_2d", "depth"} if with_depth else {"bbox_2d"}
    if expected - fields.keys():
        return "missing_key", f"lacks {', '.join(sorted(expected - fields.keys()))}"
    if fields.keys() - expected:
        return "unknown_key", f"unknown key {_excerpt(', '.join(sorted(fields.keys() - expected)))}"
    box = fields["bbox_2d"]
    if isinstance(box, _Pairs) or not isinstance(box, list) or len(box) != 4:
        return "bad_box", "bbox_2d must be a list of four numbers"
    unit = frame is UNIT or frame.space == "unit"
    form = _NUMBER if unit else _WHOLE
    sides = []
    for side in box:
        if not isinstance(side, _Number):
            return "bad_box", f"bbox_2d must be four numbers, got {_kind(side)} in it"
        if not form.fullmatch(side):
            return "number_form", f"bbox_2d must have {frame.numbers}, got {_excerpt(side)}"
        sides.append(float(side))
    if unit:
        if max(sides) > 1:
            return "box_range", f"bbox_2d must be in [0, 1], got {sides}"
    else:
        width, height = frame.scale
        if max(sides[0], sides[2]) > width or max(sides[1], sides[3]) > height:
            return "box_range", f"bbox_2d must have {frame.numbers}, got {sides}"
    if not (sides[0] < sides[2] and sides[1] < sides[3]):
        return "box_order", f"bbox_2d must have x1 < x2 and y1 < y2, got {sides}"
    stated: float | None = None
    if with_depth:
        if not isinstance(fields["depth"], _Number):
            return "bad_depth", f"depth must be a number, got {_kind(fields['depth'])}"
        stated = _to_float(fields["depth"])
        if stated is None:
            return "number_form", f"depth must be 0 to 1 with at most {DECIMALS} decimals, got {_excerpt(fields['depth'])}"
        if stated > 1:
            return "depth_range", f"depth must be in [0, 1], got {stated}"
    found = cast("tuple[float, float, float, float]", tuple(sides))
    return _trusted_region(found if unit else frame.read(found), stated)


def _trusted_region(box: tuple[float, float, float, float], depth: float | None) -> Region:
    # The reader has made all the checks of Region.__post_init__. Rewards read 10⁵ regions a second, so do not repeat them.
    region = object.__new__(Region)
    object.__setattr__(region, "box", box)
    object.__setattr__(region, "depth", depth)
    return region


def _to_float(number: str) -> float | None:
    if not _NUMBER.fullmatch(number):
        return None
    return float(number)


def _words(text: str, code: str, name: str) -> str:
    words = text.strip()
    if not words:
        raise ChainError(code, 0, f"the {name} is blank")
    tag = TAG.search(words)
    if tag:
        raise ChainError("nested_tag", tag.start(), f"{tag[0]} inside the {name}")
    return words


def _kind(value: object) -> str:
    """Return the kind of a JSON value in words. Writing the value itself could exceed the recursion limit."""
    if isinstance(value, _Pairs):
        return "an object"
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "something else")


def _excerpt(text: str, limit: int = 40) -> str:
    shown = text[: limit - 1] + "…" if len(text) > limit else text
    return repr(shown)
