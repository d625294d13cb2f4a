"""Chains of thought with images: `<think>` of areas and texts in turn, then an `<answer>`.

    <think>
    <area>[{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.583}]</area>
    <text>The whole scene.</text>
    <area>[{"bbox_2d":[0.656,0.138,0.938,0.521],"depth":0.829}]</area>
    <text>The mug stands here.</text>
    </think>
    <answer>
    red
    </answer>

`parse_chain` is strict and raises, `check_chain` is as strict and lists the problems, `find_regions` is lenient and never
raises; `read_completion` is all of these in one pass, for a chain as a chat template frames it. Each takes time linear in
the text, whatever the text. In RGB-only work (`with_depth=False`) a region carries no depth and a stated depth is a problem.
The numbers of a text may be other coordinates than fractions (`frame`); the regions that are read are unit in any case.
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
    "missing_tag": "a tag of the format is not where it must stand",
    "stray_text": "something other than white space stands between the tags or outside think and answer",
    "no_step": "think holds no area and text",
    "nested_tag": "a tag stands inside an area, a text or the answer",
    "blank_text": "a text is blank",
    "blank_answer": "the answer is blank",
    "bad_json": "an area is not JSON",
    "not_a_list": "an area is not a JSON list",
    "no_region": "an area is an empty list",
    "not_a_region": "a region is not a JSON object",
    "duplicate_key": "a region states a key twice",
    "missing_key": "a region lacks bbox_2d or depth",
    "unknown_key": "a region has another key than bbox_2d and depth",
    "bad_box": "bbox_2d is not a list of four numbers",
    "box_range": "a coordinate is outside [0, 1], 0 to 1000, or the resized image",
    "box_order": "a box has x1 >= x2 or y1 >= y2",
    "bad_depth": "depth is not a number",
    "depth_range": "a depth is outside [0, 1]",
    "number_form": "a number has an exponent, a sign or more than 3 decimals (whole numbers: any), or is NaN or infinite",
}

TAG = re.compile(r"<(/?)(think|area|text|answer)>")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]+")
# What tokenizers write for the end of a turn and for padding, at the end of a text; NUL is what some decode padding to.
_END_TOKEN = re.compile(
    r"(?:<\|[\w.:-]+\|>|<[\w.:-]+\|>|<\uff5c[^<>]+\uff5c>|</s>|[\0\ufeff]+"
    r"|<(?:eo[acdhmstu]|end|pad|end_of_\w+|end_?of_?text|turn_end)>|\[(?:EO[DMST]|END|PAD|SEP|/INST)\])\s*\Z",
    re.IGNORECASE,
)
_LONGEST_END_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Region:
    """A box and the mean depth in it.

    Values are rounded to 3 decimals when the region is made, so that a region equals the one read back from its text. A
    region read from whole numbers (see `coordinates.Frame`) keeps its box exactly; `Region.within` makes one of these.

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
            raise ChainError("box_range", 0, f"box {self.box} is not four fractions in [0, 1]")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ChainError("box_order", 0, f"box {self.box} has no area at {DECIMALS} decimals")
        object.__setattr__(self, "box", box)
        if self.depth is not None:
            depth = round(float(self.depth), DECIMALS) + 0.0
            if not 0 <= depth <= 1:
                raise ChainError("depth_range", 0, f"depth {self.depth} is outside [0, 1]")
            object.__setattr__(self, "depth", depth)

    @classmethod
    def within(cls, frame: Frame, box: Sequence[float], depth: float | None = None) -> Region:
        """A region as a text in that frame states it: its box on the frame's grid, not rounded to 3 decimals.

        Args:
            frame: of the text.
            box: x1, y1, x2, y2 as fractions of width and height.
            depth: mean depth in the box; None in RGB-only chains.
        Raises:
            ChainError: see `Region`; its box may be as thin as it likes, but not empty.
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
    """One focus and what is seen there.

    Args:
        regions: at least one region.
        text: words, kept without the white space around them.
    Raises:
        ChainError: no region, or a text that is blank or holds a tag of the format.
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
    """Steps of focusing, then the answer.

    Args:
        steps: at least one step.
        answer: words, kept without the white space around them.
    Raises:
        ChainError: no step, or an answer that is blank or holds a tag of the format.
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
    """Something that keeps a text from being a chain: reason code, character offset, and what it is in words."""

    code: str
    position: int
    message: str

    def __str__(self) -> str:
        return f"character {self.position}: {self.message} [{self.code}]"


def parse_chain(text: str, *, with_depth: bool = True, frame: Frame = UNIT) -> Chain:
    """Read a chain strictly.

    Args:
        text: the whole completion.
        with_depth: whether regions state their depth; False for RGB-only chains.
        frame: what the numbers of its boxes stand for.
    Returns:
        The chain; `render_chain` writes it in canonical form.
    Raises:
        ChainError: the first problem of the text.
    """
    scan = _Scan(text, with_depth, frame=frame)
    if scan.problems:
        first = scan.problems[0]
        raise ChainError(first.code, first.position, first.message)
    return Chain(tuple(scan.steps), scan.answer)


def check_chain(text: str, *, with_depth: bool = True, frame: Frame = UNIT) -> list[Problem]:
    """Every problem of a text in order, empty when `parse_chain` would read it.

    A broken tag structure ends the search, since what follows it has no meaning; problems inside areas, texts and the
    answer are all listed.
    """
    return _Scan(text, with_depth, frame=frame).problems


def render_chain(chain: Chain, *, decimals: int = DECIMALS, depth_decimals: int | None = None, frame: Frame = UNIT) -> str:
    """Write a chain in canonical form; `parse_chain(render_chain(chain)) == chain` at 3 decimals.

    Args:
        chain: the chain.
        decimals: digits after the point, at most 3. Fewer round the numbers (the nano model's tokens have 2).
        depth_decimals: the same for depths, where they need more than boxes do.
        frame: what the numbers of its boxes are to stand for. Whole numbers are the nearest ones, and no side vanishes;
            regions of `Region.within` are read back as they are.
    Raises:
        ChainError: a box has no area at so few decimals.
    """
    lines = ["<think>"]
    for step in chain.steps:
        area = render_regions(step.regions, decimals=decimals, depth_decimals=depth_decimals, frame=frame)
        lines.append(f"<area>{area}</area>")
        lines.append(f"<text>{step.text}</text>")
    lines += ["</think>", "<answer>", chain.answer, "</answer>"]
    return "\n".join(lines)


_MOST_STEPS, _MOST_REGIONS = 16, 32  # of a grammar, so that a model that repeats itself comes to an end


def chain_pattern(*, with_depth: bool = True, frame: Frame = UNIT) -> str:
    """A regular expression of chains, for servers that hold a model to a grammar while it decodes.

    What it matches is a chain to `check_chain`, but for boxes without area, blank words, and pixels past the border. It
    matches the chains that `render_chain` writes, but for very long ones, and for words in which `<` stands before `<`, `/`,
    `t` or `a`, as it does in tags, or at the end. It uses no more than literals, classes, groups and repetition, which all
    such servers know.

    Args:
        with_depth: whether regions state their depth.
        frame: what the numbers of boxes stand for.
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
    """The JSON list of an area in canonical form, see `render_chain`."""
    digits = decimals if depth_decimals is None else depth_decimals
    if not (1 <= decimals <= DECIMALS and 1 <= digits <= DECIMALS):
        raise ValueError(f"decimals must be 1 to {DECIMALS}, got {decimals} and {digits} for depths")
    check_frame(frame)
    parts = []
    for region in regions:
        unit = frame.space == "unit"
        sides = [f"{side:.{decimals}f}" for side in region.box] if unit else frame.write(region.box)
        if sides[0] == sides[2] or sides[1] == sides[3]:
            raise ChainError("box_order", 0, f"box {region.box} has no area at {decimals} decimals")
        depth = "" if region.depth is None else f',"depth":{region.depth:.{digits}f}'
        parts.append(f'{{"bbox_2d":[{",".join(sides)}]{depth}}}')
    return f"[{','.join(parts)}]"


@dataclass(frozen=True, slots=True)
class Reading:
    """All that can be read off a completion, valid or not.

    Args:
        problems: as `check_chain` gives them; empty for a valid chain.
        steps: (regions, words) as `find_steps` gives them.
        answer: as `find_answer` gives it.
    """

    problems: tuple[Problem, ...]
    steps: tuple[tuple[tuple[Region, ...], str], ...]
    answer: str | None

    @property
    def areas(self) -> tuple[tuple[Region, ...], ...]:
        """The regions of each step, as `find_regions` gives them."""
        return tuple(regions for regions, _ in self.steps)


def read_completion(
    text: str, *, with_depth: bool | None = True, opened: bool | None = None, frame: Frame = UNIT
) -> Reading:
    """Read a completion, for everything that scores or shows it. Never raises on what a model wrote.

    The last few hundred readings are kept, so that four rewards, a trainer's logs and a page parse a completion once.

    A completion is a chain as a chat template frames it. Some templates write `<think>` themselves, so that the completion
    begins after it. A decoder may leave end tokens such as `<|im_end|>` behind the chain, or a byte order mark before it.
    None of these is a problem.

    Args:
        text: what the model wrote.
        with_depth: whether regions state their depth; None where each may or may not.
        opened: whether the template wrote `<think>`; None where the caller does not know: it did if an area comes first.
        frame: what the numbers of its boxes stand for.
    Raises:
        BoxError: a frame that is none.
    Example:
        >>> text = '<area>[{"bbox_2d":[0,0,1,1]}]</area><text>A.</text></think><answer>a</answer><|im_end|>'
        >>> read_completion(text, with_depth=False).problems
        ()
    """
    check_frame(frame)
    # A space, so that every position in a problem is one of the text.
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


_LONGEST_KEPT = 1 << 16  # characters of a text whose reading is kept; a chain of 2,048 tokens has some 6,000
_read_cached = lru_cache(maxsize=512)(_read)


def _end_of_words(text: str) -> int:
    """Where a completion ends when end and padding tokens are left out."""
    end, words = len(text.rstrip()), len(text)
    while last := _END_TOKEN.search(text, max(0, end - _LONGEST_END_TOKEN), end):
        end = words = last.start()
    return words


def find_regions(text: str, *, with_depth: bool | None = True, frame: Frame = UNIT) -> list[tuple[Region, ...]]:
    """The regions of every well-formed area in order, whatever else in the text is broken.

    An area is an `<area>` whose next tag is `</area>`, with a valid region list between. Never raises.
    """
    return [regions for regions, _ in find_steps(text, with_depth=with_depth, frame=frame)]


def find_steps(text: str, *, with_depth: bool | None = True, frame: Frame = UNIT) -> list[tuple[tuple[Region, ...], str]]:
    """Every well-formed area in order with the words that follow it, "" where no complete `<text>` does. Never raises."""
    check_frame(frame)
    steps: list[tuple[tuple[Region, ...], str]] = []
    opened: tuple[str, int] | None = None  # the tag that awaits its end, and where its content starts
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
    """What the numbers of boxes in a text look like that cannot be those of its frame, in words.

    Args:
        text: a chain or completion; what is no list of regions in it is passed over.
        frame: what they are said to stand for.
    Returns:
        "" where nothing looks wrong. One box that does not fit is a slip, most of them are another space.
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
    """The numbers of every area whose content is a JSON list, whatever their form, order and range. Never raises.

    For scorers that are more lenient than the format; `find_regions` holds to it. `NaN` and `Infinity` are numbers here, as
    they are to Python's reader.

    Yields:
        Of each region the four numbers of its `bbox_2d` as they are written; None where it has no four numbers.
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
        with contextlib.suppress(OverflowError):  # an integer that no float holds
            x1, y1, x2, y2 = map(float, box)
            return x1, y1, x2, y2
    return None


def find_answer(text: str) -> str | None:
    """What stands in the last complete `<answer>` that is not blank, stripped; None when there is none."""
    answer: str | None = None
    start: int | None = None
    for tag in TAG.finditer(text):
        if tag[2] == "answer" and tag[1] and start is not None:
            answer = text[start : tag.start()].strip() or answer
        start = tag.end() if tag[2] == "answer" and not tag[1] else None
    return answer


def region_boxes(regions: Sequence[Region]) -> Boxes:
    """The boxes of an area: (N, 4) unit xyxy."""
    return np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4)


def is_whole_image(regions: Sequence[Region]) -> bool:
    """Whether an area is the whole image and nothing else."""
    return len(regions) == 1 and regions[0].box == WHOLE_IMAGE


_State = Literal["start", "think", "after_area", "after_think", "end"]

# state → what must come next
_EXPECTED: dict[str, str] = {
    "start": "<think>",
    "think": "<area>",
    "after_area": "<text>",
    "after_think": "<answer>",
    "end": "the end of the text",
}


class _Scan:
    """One pass over a text: its steps, its answer, and every problem on the way."""

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
                wanted = _EXPECTED[state]
                if state == "think" and self._steps_seen:
                    wanted = "<area> or </think>"
                self._add("missing_tag", tag.start(), f"wanted {wanted}, got {name}")
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
            wanted = "<area> or </think>" if state == "think" and self._steps_seen else _EXPECTED[state]
            self._add("missing_tag", len(self._text), f"wanted {wanted}, got the end of the text")

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
        self._add("stray_text", end - len(stripped), f"wanted a tag, got {_excerpt(stripped)}")
        return False

    def _add(self, code: str, position: int, message: str) -> None:
        self.problems.append(Problem(code, position, message))


class _Number(str):
    """A JSON number as it was written."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written, duplicate keys included."""


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
    """The regions of an area and its problems; the regions count only when there are no problems."""
    try:
        value = _DECODER.decode(content)
    except _ConstantError as constant:
        return (), [Problem("number_form", position, f"{constant} is not a number of this format")]
    except json.JSONDecodeError as error:
        return (), [Problem("bad_json", position + error.pos, f"the area is not JSON: {error.msg}")]
    except RecursionError:
        return (), [Problem("bad_json", position, "the area is nested too deeply")]
    if isinstance(value, _Pairs) or not isinstance(value, list):
        return (), [Problem("not_a_list", position, f"wanted a list of regions, got {_excerpt(content.strip())}")]
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
    """A region, or (reason code, message)."""
    if not isinstance(item, _Pairs):
        return "not_a_region", "wanted a JSON object with bbox_2d and depth"
    fields = dict(item)
    if len(fields) != len(item):
        return "duplicate_key", "a key is stated twice"
    if with_depth is None:
        with_depth = "depth" in fields
    wanted = {"bbox_2d", "depth"} if with_depth else {"bbox_2d"}
    if wanted - fields.keys():
        return "missing_key", f"lacks {', '.join(sorted(wanted - fields.keys()))}"
    if fields.keys() - wanted:
        return "unknown_key", f"has {_excerpt(', '.join(sorted(fields.keys() - wanted)))}"
    box = fields["bbox_2d"]
    if isinstance(box, _Pairs) or not isinstance(box, list) or len(box) != 4:
        return "bad_box", "bbox_2d must be a list of four numbers"
    unit = frame is UNIT or frame.space == "unit"
    form = _NUMBER if unit else _WHOLE
    sides = []
    for side in box:
        if not isinstance(side, _Number):
            return "bad_box", f"bbox_2d holds {_kind(side)}, which is not a number"
        if not form.fullmatch(side):
            return "number_form", f"bbox_2d holds {_excerpt(side)}; wanted {frame.wanted}"
        sides.append(float(side))
    if unit:
        if max(sides) > 1:
            return "box_range", f"bbox_2d {sides} is outside [0, 1]"
    else:
        width, height = frame.scale
        if max(sides[0], sides[2]) > width or max(sides[1], sides[3]) > height:
            return "box_range", f"bbox_2d {sides}: wanted {frame.wanted}"
    if not (sides[0] < sides[2] and sides[1] < sides[3]):
        return "box_order", f"bbox_2d {sides} needs x1 < x2 and y1 < y2"
    stated: float | None = None
    if with_depth:
        if not isinstance(fields["depth"], _Number):
            return "bad_depth", f"depth is {_kind(fields['depth'])}, which is not a number"
        stated = _to_float(fields["depth"])
        if stated is None:
            return "number_form", f"depth is {_excerpt(fields['depth'])}; wanted at most {DECIMALS} decimals"
        if stated > 1:
            return "depth_range", f"depth {stated} is outside [0, 1]"
    found = cast("tuple[float, float, float, float]", tuple(sides))
    return _trusted_region(found if unit else frame.read(found), stated)


def _trusted_region(box: tuple[float, float, float, float], depth: float | None) -> Region:
    # The reader has checked everything that Region.__post_init__ would check again; rewards read 10⁵ regions a second.
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
    """What a JSON value is, in a word. Its text would take a recursion that deep nesting breaks."""
    if isinstance(value, _Pairs):
        return "an object"
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "something else")


def _excerpt(text: str, limit: int = 40) -> str:
    shown = text[: limit - 1] + "…" if len(text) > limit else text
    return repr(shown)
