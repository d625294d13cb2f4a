"""Find the requested JSON object in a model's reply among reasoning, prose and code fences."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

# End of reasoning in published models: </think> in DeepSeek, Qwen and GLM, [/THINK] in Magistral, ◁/think▷ in Kimi-VL, and
# the start of the channel `final` in gpt-oss.
_REASONING_ENDS = re.compile(
    r"</(?:\w+:)?(?:think(?:ing)?|reasoning|thought)>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
# Strings can contain raw line breaks and tabs, because models often do not escape them.
_TOKEN = re.compile(
    r'\s*(?:(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[{}\[\],:])'
    r"|(?P<scalar>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null))",
    re.DOTALL,
)
_OPEN = re.compile(r'\{(?=\s*")')


def find_objects(text: str, keys: Collection[str]) -> list[dict[str, Any]]:
    """Return the JSON objects in a text that have all of these keys, in order and without duplicates.

    Reasoning that ends in `</think>` or another model's mark is ignored. An object can be in prose, in a code fence, in a
    list or inside another object, or the complete text can be a JSON string with the object. Strings can contain raw control
    characters. Truncated objects and objects with a repeated key do not count.

    Args:
        text: any text; the time is linear in its length.
        keys: required keys; an object can have others.
    """
    if text.lstrip().startswith('"'):
        with contextlib.suppress(ValueError):
            quoted = json.loads(text, strict=False)
            text = quoted if isinstance(quoted, str) else text
    found = list(_spans(text))
    end = _end_of_reasoning(text, [(start, end) for start, end, _ in found])
    after = [value for start, _, value in found if start >= end]
    distinct: dict[str, dict[str, Any]] = {}
    for value in after:
        for candidate in _with_keys(value, keys):
            with contextlib.suppress(RecursionError):  # nested too deeply to be the requested object
                distinct.setdefault(json.dumps(candidate, sort_keys=True), candidate)
    return list(distinct.values())


def without_reasoning(text: str) -> str:
    """Return the part of a reply after the reasoning; the complete text if no reasoning ends in it."""
    return text[_end_of_reasoning(text, []) :]


def _end_of_reasoning(text: str, spans: list[tuple[int, int]]) -> int:
    """Return the end of the last end-of-reasoning mark outside these spans; 0 if there is none."""
    last, ahead = 0, iter(spans)
    span = next(ahead, None)
    for mark in _REASONING_ENDS.finditer(text):
        while span is not None and span[1] <= mark.start():
            span = next(ahead, None)
        if span is None or mark.start() < span[0]:
            last = mark.end()
    return last


def _spans(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (start, end, value) of each complete object that is not part of another complete object, in order.

    Every brace is tried as the start of an object at most once. A brace that was read as a value in a failed attempt would
    fail at the same place. A brace that is tried later was inside a string of the failed attempts, so it sees the quotes
    inverted. Therefore no character is read more than twice.
    """
    tried: set[int] = set()
    past = 0
    for brace in _OPEN.finditer(text):
        start = brace.start()
        if start < past or start in tried:
            continue
        whole = _read(text, start, tried)
        for begin, end in whole:
            if begin < past:
                continue
            value = _decoded(text[begin:end])
            if value is not None:
                past = end
                yield begin, end, value


def _read(text: str, start: int, tried: set[int]) -> list[tuple[int, int]]:
    """Read JSON from a brace. Return the spans of the outermost complete objects, in order, and add the braces to `tried`.

    If the object at the brace is complete, return only its span.
    """
    whole: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []  # open brackets and their positions
    wanted = "value"  # or "key", "colon", "comma": the token expected here; "first" is a value, a key or a closing bracket
    position = start
    while token := _TOKEN.match(text, position):
        position = token.end()
        mark = token["mark"]
        if mark in ("{", "["):
            if wanted not in ("value", "first") or (wanted == "first" and stack[-1][0] == "{"):
                break
            if mark == "{":
                tried.add(position - 1)
            stack.append((mark, position - 1))
            wanted = "first"
        elif mark in ("}", "]"):
            if wanted not in ("comma", "first") or (mark == "}") != (stack[-1][0] == "{"):
                break
            _, opened = stack.pop()
            if mark == "}":
                while whole and whole[-1][0] > opened:
                    whole.pop()
                whole.append((opened, position))
            if not stack:
                break
            wanted = "comma"
        elif mark == ",":
            if wanted != "comma":
                break
            wanted = "key" if stack[-1][0] == "{" else "value"
        elif mark == ":":
            if wanted != "colon":
                break
            wanted = "value"
        elif wanted == "key" or (wanted == "first" and stack[-1][0] == "{"):
            if not token["string"]:
                break
            wanted = "colon"
        elif wanted in ("value", "first"):
            wanted = "comma"
        else:
            break
    return whole


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, strict=False, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _with_keys(value: dict[str, Any], keys: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the outermost objects in a value, including itself, that have all of these keys."""
    waiting: list[Any] = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict) and all(key in here for key in keys):
            yield here
        else:
            parts = here.values() if isinstance(here, dict) else here if isinstance(here, list) else ()
            waiting.extend(reversed(list(parts)))
