from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker import json_reply
from sifthinker.json_reply import find_objects, without_reasoning

KEYS = ("thoughts", "answer")
GOOD = '{"thoughts": ["a", "b"], "answer": "blue"}'
OTHER = '{"thoughts": ["c", "d"], "answer": "red"}'
WANTED = {"thoughts": ["a", "b"], "answer": "blue"}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\ufeff{GOOD}",
        f"[{GOOD}]",
        json.dumps(GOOD),
        f'{{"result": {GOOD}}}',
        f'{{"a": [1, {{"b": {GOOD}}}]}}',
        f"Here it is:\n\n```json\n{GOOD}\n```\nDo you need more {{of it}}?",
        f"```JSON\n{GOOD}\n```",
        f"~~~\n{GOOD}\n~~~",
        f"    {GOOD}\n\nThe end.",
        f"{GOOD}\n{GOOD}",
        f"<think>\n</think>\n\n{GOOD}",
        f"<think>Perhaps {OTHER}?</think>{GOOD}",
        f"<thinking>Perhaps {OTHER}?</thinking>{GOOD}",
        f"[THINK]{OTHER}[/THINK]{GOOD}",
        f"Perhaps {OTHER}?\n</think>\n{GOOD}",
        f"<think>I must write it.\n{GOOD}",
        f'<think>I begin: {{"thoughts": ["first…</think>{GOOD}',
        f'<think>The form is {{"thoughts": […], "answer": "…"}}.</think>{GOOD}',
        f'It says "{{" and {{"x": "{{{GOOD}',
        f'{{"note": {GOOD} and then it broke off',
        f'"Well," it said, {GOOD}',
    ],
)
def test_the_one_object_is_found(text: str) -> None:
    assert find_objects(text, KEYS) == [WANTED]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "[1]",
        "null",
        '{"thoughts": ["a"]}',
        GOOD[:-1],
        GOOD.replace(",", ",,", 1),
        GOOD.replace('"answer"', '"answer": "red", "answer"'),  # which of the two?
        GOOD.replace('"blue"', "NaN"),
        GOOD.replace('"blue"', "9" * 5000),
        "{" * 1000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
)
def test_no_object(text: str) -> None:
    assert find_objects(text, KEYS) == []


def test_two_different_objects_are_both_found() -> None:
    assert find_objects(f"{OTHER} or rather {GOOD}", KEYS) == [json.loads(OTHER), WANTED]


def test_strings_may_hold_raw_control_characters() -> None:
    (found,) = find_objects('{"thoughts": ["a\nb\tc\x07"], "answer": "x\r\ny"}', KEYS)
    assert found == {"thoughts": ["a\nb\tc\x07"], "answer": "x\r\ny"}


def test_a_mark_of_reasoning_inside_a_string_ends_none() -> None:
    text = '{"thoughts": ["the sign says </think>"], "answer": "blue"}'
    assert find_objects(text, KEYS) == [json.loads(text)]


def test_without_reasoning() -> None:
    assert without_reasoning("<think>0 or 1?</think> 1") == " 1"
    assert without_reasoning("<|channel|>analysis<|message|>0?<|channel|>final<|message|>1") == "1"
    assert without_reasoning("1") == "1"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_stands_in_the_object(answer: Any) -> None:
    text = f"Well: {json.dumps({'thoughts': [], 'answer': answer}, ensure_ascii=False)}."
    assert find_objects(text, KEYS)[0]["thoughts"] == []


class Counted:
    """A pattern that counts the characters it is matched against."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self.characters = 0

    def match(self, text: str, position: int) -> re.Match[str] | None:
        found = self.pattern.match(text, position)
        self.characters += found.end() - position if found else 1
        return found


def hostile() -> list[str]:
    n = 1_000_000
    units = [
        "{",
        '{"',
        '{"a":',
        '{"a":[',
        '{"a":1,',
        '[{"a":',
        '{"a":{},',
        '{"a":"\\"',
        '{"a":"{"b":"',
        '{"thoughts":[],"answer":',
        "</think>",
    ]
    texts = [unit * (n // len(unit)) for unit in units]
    texts += ['{"a":' * 1000 + '"b",' + "1," * (n // 2), '{"thoughts":["' + '{"' * (n // 2), '"' + "{" * n, '{"' + "\\" * n]
    draw = random.Random(0)
    pieces = ["{", '"', '{"', "}", ":", "[", "]", ",", "a", "\\", "1", '"a":']
    return texts + ["".join(draw.choices(pieces, k=300)) for _ in range(2000)]


def test_the_time_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(json_reply._TOKEN)
    monkeypatch.setattr(json_reply, "_TOKEN", counted)
    for text in hostile():
        counted.characters = 0
        find_objects(text, KEYS)
        assert counted.characters <= 3 * len(text), text[:60]
