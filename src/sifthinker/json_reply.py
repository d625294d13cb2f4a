"""Find the JSON object that a model was asked for in what it wrote around it: reasoning, prose, code fences."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

# How the reasoning of published models ends: </think> in DeepSeek, Qwen and GLM, [/THINK] in Magistral, ◁/think▷ in Kimi-VL,
# the beginning of the channel `final` in gpt-oss.
_REASONING_ENDS = re.compile(
    r"</(?:\w+:)?(?:think(?:ing)?|reasoning|thought)>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
# Strings may hold raw line breaks and tabs, which models write without escaping them.
_TOKEN = re.compile(
    r'\s*(?:(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[{}\[\],:])'
    r"|(?P<scalar>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null))",
    re.DOTALL,
)
_OPEN = re.compile(r'\{(?=\s*")')


def find_objects(text: str, keys: Collection[str]) -> list[dict[str, Any]]:
    """The JSON objects in a text that have all of these keys, different ones in their order, equal ones once.

    Reasoning that ends in `</think>` or another model's mark is left out where an object follows it. An object may stand
    in prose, in a code fence, in a list, inside another object, or be a JSON string as a whole; its strings may hold raw
    control characters. What is cut off, or has a key twice, is no object.

    Args:
        text: of any length and content; the time is linear in it.
        keys: that an object must have; it may have others.
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
            with contextlib.suppress(RecursionError):  # nested too deeply to be what was asked for
                distinct.setdefault(json.dumps(candidate, sort_keys=True), candidate)
    return list(distinct.values())


def without_reasoning(text: str) -> str:
    """What follows a model's reasoning in its reply; the whole text where no reasoning ends."""
    return text[_end_of_reasoning(text, []) :]


def _end_of_reasoning(text: str, spans: list[tuple[int, int]]) -> int:
    """Where the last mark that ends reasoning, and stands in none of these spans, ends; 0 without one."""
    last, ahead = 0, iter(spans)
    span = next(ahead, None)
    for mark in _REASONING_ENDS.finditer(text):
        while span is not None and span[1] <= mark.start():
            span = next(ahead, None)
        if span is None or mark.start() < span[0]:
            last = mark.end()
    return last


def _spans(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(start, end, value) of each object in a text that is whole and no part of another whole one, in order.

    Every brace is read as the start of an object at most once: a brace that stood where a value may stand in an attempt
    that failed would fail at the same place. So one that is tried later stood in a string of the failed attempts; it sees
    the quotes the other way round, and no character is read more than twice.
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
    """Read JSON from a brace on. Returns the spans of the outermost objects that came to their end, in order: of the whole
    one alone if that did. Takes note of the braces that it met."""
    whole: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []  # open brackets and where they stand
    wanted = (
        "value"  # or "key", "colon", "comma": what may stand here; "first" is a value or key, or the end of what is empty
    )
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
        raise ValueError("a key stands twice")
    return value


def _with_keys(value: dict[str, Any], keys: Collection[str]) -> Iterator[dict[str, Any]]:
    """The outermost objects in a value, itself included, that have all of these keys."""
    waiting: list[Any] = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict) and all(key in here for key in keys):
            yield here
        else:
            parts = here.values() if isinstance(here, dict) else here if isinstance(here, list) else ()
            waiting.extend(reversed(list(parts)))
