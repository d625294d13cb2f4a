"""Steps of thinking as JSON, for models that are not trained on chains: the schema, and the conversion to a chain.

`prompts.user_prompt(…, protocol="structured")` asks the model for
`{"steps": [{"regions": [{"bbox_2d": [x1, y1, x2, y2], "depth": d}], "text": "…"}], "answer": "…"}`. Servers that can
enforce `response_format`. This module writes the reply as a chain in fractions. All code that reads, scores and shows
chains can then use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sifthinker.chain import REASONS, TAG, Problem, Region, render_regions
from sifthinker.coordinates import Frame
from sifthinker.errors import ChainError
from sifthinker.json_reply import find_objects

# Reason codes of replies, in addition to those of chains.
FAULTS: dict[str, str] = {
    "not_json": "the reply does not contain the requested JSON object",
    "ambiguous": "the reply contains several different JSON objects of the requested form",
    "bad_steps": "`steps` is not a list of objects with `regions` and `text`",
    "bad_answer": "the answer is not text",
    "cut_off": "the reply reached the token limit",
    "refused": "the model refused to answer, or its server filtered the reply",
    "no_content": "the reply has no content, only reasoning or a tool call",
    "not_constrained": "the server did not apply the chain grammar to the reply",
}

_MOST_PROBLEMS = 100  # maximum number of reported problems in one reply

Steps = list[tuple[tuple[Region, ...], str]]


def response_format(*, with_depth: bool) -> dict[str, Any]:
    """Return the field `response_format` of a chat-completions request: the schema of a structured reply.

    Args:
        with_depth: whether the model sees a depth image; without one, regions have no depth.
    Example:
        >>> response_format(with_depth=False)["json_schema"]["schema"]["required"]
        ['steps', 'answer']
    """
    # The prompt states the length of the list, because some servers refuse minItems and maxItems above 1.
    region: dict[str, Any] = {"bbox_2d": {"type": "array", "items": {"type": "number"}}}
    if with_depth:
        region["depth"] = {"type": ["number", "null"]}
    step = {"regions": {"type": "array", "items": _object(region)}, "text": {"type": "string"}}
    schema = _object({"steps": {"type": "array", "items": _object(step)}, "answer": {"type": "string"}})
    return {"type": "json_schema", "json_schema": {"name": "steps", "schema": schema, "strict": True}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def compose(reply: str, frame: Frame, *, with_depth: bool) -> tuple[str, tuple[Problem, ...]]:
    """Convert a structured reply to a chain.

    Unreadable parts are left out and reported as problems, as in the lenient reader of chains: a step with a wrong region is
    dropped; a reply without its JSON object gives nothing. Nothing is guessed or repaired. If the last step is dropped, the
    chain ends with an empty area. Otherwise a scorer would take the step before for the last one.

    Args:
        reply: reply of the model; text around the JSON object is allowed.
        frame: meaning of the numbers in its boxes.
        with_depth: whether regions may state a depth. A region without a depth is not a problem, but scores as wrong.
    Returns:
        (chain in fractions, problems). The chain is canonical if there are no problems. It is the unchanged reply if there
        is no readable JSON object.
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
    # A model that repeats the schema from its prompt writes an object with these keys too.
    found = [body for body in found if isinstance(body["steps"], list)] or found
    if len(found) != 1:
        code = "ambiguous" if found else "not_json"
        return reply, (Problem(code, 0, FAULTS[code]),)
    steps, problems = _read_steps(found[0]["steps"], frame, with_depth)
    answer, fault = _read_answer(found[0]["answer"])
    problems = [*problems[:_MOST_PROBLEMS], *([] if fault is None else [fault])]
    return write(steps, answer), tuple(problems)


def compose_part(reply: str, frame: Frame, *, with_depth: bool) -> str:
    """Convert an unfinished reply to a chain: its complete steps, without an answer."""
    parts = find_objects(reply, ("regions", "text"))
    return write(_read_steps(parts, frame, with_depth)[0], None)


def write(steps: Sequence[tuple[Sequence[Region], str]], answer: str | None) -> str:
    """Write steps and an answer as a chain in fractions; None leaves the answer out."""
    lines = ["<think>"]
    for regions, words in steps:
        lines += [f"<area>{render_regions(regions)}</area>", *([f"<text>{words}</text>"] if words else [])]
    return "\n".join([*lines, "</think>", *([] if answer is None else ["<answer>", answer, "</answer>"])])


def _read_steps(steps: Any, frame: Frame, with_depth: bool) -> tuple[Steps, list[Problem]]:
    if not isinstance(steps, list):
        return [], [Problem("bad_steps", 0, f"steps must be a list, got {_kind(steps)}")]
    problems = [] if steps else [Problem("no_step", 0, "steps is an empty list")]
    found: Steps = []
    lost = False  # whether the last step was dropped
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict):
            problems.append(Problem("bad_steps", 0, f"step {number} must be an object, got {_kind(step)}"))
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
        return (), [("not_a_list", f"regions must be a list, got {_kind(regions)}")]
    if not regions:
        return (), [("no_region", REASONS["no_region"])]
    read = [_read_region(region, frame, with_depth) for region in regions]
    faults = [found for found in read if isinstance(found, tuple)]
    return tuple(found for found in read if isinstance(found, Region)), faults


def _read_region(region: Any, frame: Frame, with_depth: bool) -> Region | tuple[str, str]:
    """Return a region, or (reason code, message)."""
    if not isinstance(region, dict):
        return "not_a_region", f"a region must be an object, got {_kind(region)}"
    box = region.get("bbox_2d")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bad_box", f"bbox_2d must be a list of four numbers, got {_kind(box)}"
    unit = frame.read(box)
    if frame.space != "unit" and max(map(abs, box)) <= 1 and any(side != int(side) for side in box):
        return "box_range", f"bbox_2d: expected {frame.numbers}, got fractions: {box}"
    if not all(0 <= side <= 1 for side in unit):
        return "box_range", f"bbox_2d: expected {frame.numbers}, got {box}"
    depth = region.get("depth") if with_depth else None
    if depth is not None and not _is_number(depth):
        return "bad_depth", f"depth must be a number, got {_kind(depth)}"
    if depth is not None and not 0 <= depth <= 1:
        return "depth_range", f"depth {depth} is outside [0, 1]"
    try:
        return Region(unit, depth)
    except ChainError as error:
        return error.code, f"bbox_2d {box} has no area"


def _read_answer(answer: Any) -> tuple[str | None, Problem | None]:
    said = str(answer) if _is_number(answer) else answer
    if not isinstance(said, str):
        return None, Problem("bad_answer", 0, f"answer must be text, got {_kind(answer)}")
    words, wrong = _words(said, "blank_answer", "answer")
    return words or None, Problem(wrong[0][0], 0, wrong[0][1]) if wrong else None


def _words(said: Any, blank: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the words without tags, and their problems as (reason code, message)."""
    if not isinstance(said, str) or not said.strip():
        return "", [(blank, f"the {name} is {'blank' if isinstance(said, str) else _kind(said)}")]
    if not TAG.search(said):
        return said.strip(), []
    return TAG.sub(" ", said).strip(), [("nested_tag", f"the {name} contains a tag of the chain format")]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer too large for a float
        return False


def _kind(value: Any) -> str:
    """Return the type of a JSON value in words."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    kinds: dict[type, str] = {dict: "an object", str: "text", bool: "true or false", type(None): "missing or null"}
    return kinds.get(type(value), "a number")
