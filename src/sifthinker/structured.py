"""Steps of thinking as JSON, for models that have not learnt chains: the schema, and the chain that a reply comes to.

A model is asked for `{"steps": [{"regions": [{"bbox_2d": [x1, y1, x2, y2], "depth": d}], "text": "…"}], "answer": "…"}` by
`prompts.user_prompt(…, protocol="structured")`, and where its server can, held to `response_format`. The chain is written
here, in fractions, so that everything which reads, scores and shows chains takes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sifthinker.chain import REASONS, TAG, Problem, Region, render_regions
from sifthinker.coordinates import Frame
from sifthinker.errors import ChainError
from sifthinker.json_reply import find_objects

# Reason codes of replies, beside those of chains.
FAULTS: dict[str, str] = {
    "not_json": "the reply does not hold the JSON object that was asked for",
    "ambiguous": "the reply holds two different JSON objects of the form asked for",
    "bad_steps": "steps is not a list of objects with regions and text",
    "bad_answer": "the answer is not text",
    "cut_off": "the reply reached the longest length",
    "refused": "the model refused, or its server filtered the reply",
    "no_content": "the reply has no content, only reasoning or a tool call",
    "not_constrained": "the server was asked to hold the reply to the grammar of chains, and did not",
}

_MOST_PROBLEMS = 100  # named of the steps of one reply; a broken one may have very many

Steps = list[tuple[tuple[Region, ...], str]]


def response_format(*, with_depth: bool) -> dict[str, Any]:
    """The field `response_format` of a chat-completions request: the schema of a structured reply.

    Args:
        with_depth: whether the model is shown a depth image; without it regions have no depth.
    Example:
        >>> response_format(with_depth=False)["json_schema"]["schema"]["required"]
        ['steps', 'answer']
    """
    # The length of the list stands in the prompt: some servers refuse minItems and maxItems above 1.
    region: dict[str, Any] = {"bbox_2d": {"type": "array", "items": {"type": "number"}}}
    if with_depth:
        region["depth"] = {"type": ["number", "null"]}
    step = {"regions": {"type": "array", "items": _object(region)}, "text": {"type": "string"}}
    schema = _object({"steps": {"type": "array", "items": _object(step)}, "answer": {"type": "string"}})
    return {"type": "json_schema", "json_schema": {"name": "steps", "schema": schema, "strict": True}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def compose(reply: str, frame: Frame, *, with_depth: bool) -> tuple[str, tuple[Problem, ...]]:
    """The chain that a structured reply comes to.

    What cannot be read is left out and named, as the lenient reader of chains does: a step with a wrong region is not
    there, a reply without its object has nothing. Nothing is guessed or repaired. A chain whose last step is left out ends
    on an empty area, so that no scorer takes the one before for what the model ended on.

    Args:
        reply: of the model, whatever stands around its JSON object.
        frame: what the numbers of its boxes stand for.
        with_depth: whether its regions may state a depth. One that states none is no problem, and agrees with no truth.
    Returns:
        (chain in fractions, problems). The text is canonical where there are no problems, and the reply as it stands where
        no object can be read.
    Example:
        >>> reply = '{"steps":[{"regions":[{"bbox_2d":[0,0,500,1000]}],"text":"Left."}],"answer":"yes"}'
        >>> print(compose(reply, Frame("per_mille"), with_depth=False)[0])
        <think>
        <area>[{"bbox_2d":[0.000,0.000,0.500,1.000]}]</area>
        <text>Left.</text>
        </think>
        <answer>
        yes
        </answer>
    """
    found = find_objects(reply, ("steps", "answer"))
    # A model that repeats the schema it was given writes an object with these keys too.
    found = [body for body in found if isinstance(body["steps"], list)] or found
    if len(found) != 1:
        code = "ambiguous" if found else "not_json"
        return reply, (Problem(code, 0, FAULTS[code]),)
    steps, problems = _read_steps(found[0]["steps"], frame, with_depth)
    answer, fault = _read_answer(found[0]["answer"])
    problems = [*problems[:_MOST_PROBLEMS], *([] if fault is None else [fault])]
    return write(steps, answer), tuple(problems)


def compose_part(reply: str, frame: Frame, *, with_depth: bool) -> str:
    """The chain of a reply that is still being written: the steps that are whole, without an answer."""
    parts = find_objects(reply, ("regions", "text"))
    return write(_read_steps(parts, frame, with_depth)[0], None)


def write(steps: Sequence[tuple[Sequence[Region], str]], answer: str | None) -> str:
    """Steps and an answer as a chain in fractions, whole or not: None leaves the answer out."""
    lines = ["<think>"]
    for regions, words in steps:
        lines += [f"<area>{render_regions(regions)}</area>", *([f"<text>{words}</text>"] if words else [])]
    return "\n".join([*lines, "</think>", *([] if answer is None else ["<answer>", answer, "</answer>"])])


def _read_steps(steps: Any, frame: Frame, with_depth: bool) -> tuple[Steps, list[Problem]]:
    if not isinstance(steps, list):
        return [], [Problem("bad_steps", 0, f"steps is {_kind(steps)}, wanted a list")]
    problems = [] if steps else [Problem("no_step", 0, "steps is an empty list")]
    found: Steps = []
    lost = False  # whether the last step is left out
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict):
            problems.append(Problem("bad_steps", 0, f"step {number} is {_kind(step)}, wanted an object"))
            lost = True
            continue
        regions, faults = _read_regions(step.get("regions"), frame, with_depth)
        words, wrong = _words(step.get("text"), "blank_text", "text")
        problems += [Problem(code, 0, f"step {number}: {message}") for code, message in (*faults, *wrong)]
        lost = bool(faults)
        if not faults:
            found.append((regions, words))
    if lost:
        found.append(((), ""))
    return found, problems


def _read_regions(regions: Any, frame: Frame, with_depth: bool) -> tuple[tuple[Region, ...], list[tuple[str, str]]]:
    if not isinstance(regions, list):
        return (), [("not_a_list", f"regions is {_kind(regions)}, wanted a list")]
    if not regions:
        return (), [("no_region", REASONS["no_region"])]
    read = [_read_region(region, frame, with_depth) for region in regions]
    faults = [found for found in read if isinstance(found, tuple)]
    return tuple(found for found in read if isinstance(found, Region)), faults


def _read_region(region: Any, frame: Frame, with_depth: bool) -> Region | tuple[str, str]:
    """A region, or (reason code, message)."""
    if not isinstance(region, dict):
        return "not_a_region", f"a region is {_kind(region)}, wanted an object"
    box = region.get("bbox_2d")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bad_box", f"bbox_2d is {_kind(box)}, wanted a list of four numbers"
    unit = frame.read(box)
    if frame.space != "unit" and max(map(abs, box)) <= 1 and any(side != int(side) for side in box):
        return "box_range", f"bbox_2d {box} are fractions: wanted {frame.wanted}"
    if not all(0 <= side <= 1 for side in unit):
        return "box_range", f"bbox_2d {box}: wanted {frame.wanted}"
    depth = region.get("depth") if with_depth else None
    if depth is not None and not _is_number(depth):
        return "bad_depth", f"depth is {_kind(depth)}, which is not a number"
    if depth is not None and not 0 <= depth <= 1:
        return "depth_range", f"depth {depth} is outside [0, 1]"
    try:
        return Region(unit, depth)
    except ChainError as error:
        return error.code, f"bbox_2d {box} has no area"


def _read_answer(answer: Any) -> tuple[str | None, Problem | None]:
    said = str(answer) if _is_number(answer) else answer
    if not isinstance(said, str):
        return None, Problem("bad_answer", 0, f"answer is {_kind(answer)}, wanted text")
    words, wrong = _words(said, "blank_answer", "answer")
    return words or None, Problem(wrong[0][0], 0, wrong[0][1]) if wrong else None


def _words(said: Any, blank: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    """Words that a chain can hold, and what was wrong with them."""
    if not isinstance(said, str) or not said.strip():
        return "", [(blank, f"the {name} is {'blank' if isinstance(said, str) else _kind(said)}")]
    if not TAG.search(said):
        return said.strip(), []
    return TAG.sub(" ", said).strip(), [("nested_tag", f"a tag of the chain format stands in the {name}")]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer that no float holds
        return False


def _kind(value: Any) -> str:
    """What a JSON value is, in a word or two."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    kinds: dict[type, str] = {dict: "an object", str: "text", bool: "true or false", type(None): "missing or null"}
    return kinds.get(type(value), "a number")
