"""What is measured of a thought, by hand, and the statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError
from sifthinker.evaluation.metrics import METRICS, Row, all_groups, measure, paired_difference, summarise
from sifthinker.evaluation.questions import Question
from sifthinker.thinker import Thought

IMAGE = Image.new("RGB", (8, 8))
HALF = DepthMap(np.full((8, 8), 0.5))
LEFT = (0.0, 0.0, 0.5, 1.0)


def chain(*areas: str, answer: str = "cat") -> str:
    steps = "".join(f"<area>[{area}]</area><text>I look.</text>" for area in areas)
    return f"<think>{steps}</think><answer>{answer}</answer>"


def area(box: Any, depth: float | None = 0.5) -> str:
    stated = "" if depth is None else f',"depth":{depth}'
    return f'{{"bbox_2d":[{",".join(map(str, box))}]{stated}}}'


def thought(text: str, depth: DepthMap | None = HALF, *, protocol: Any = "chain") -> Thought:
    return Thought("q", IMAGE, depth, text, protocol=protocol)


def asked(**known: Any) -> Question:
    return Question("q", IMAGE, "What is it?", **{"answers": ("cat",), "boxes": (LEFT,), **known})


def row(value: float | None, **known: Any) -> Row:
    fields = {"id": "i", "dataset": "", "split": "", "family": "", "tags": {}, **known}
    return Row(
        **fields, question="q", answers=(), choices=(), boxes=(), image="", depth=None, prompt="",
        values=dict.fromkeys(METRICS, value),
    )  # fmt: skip


def test_a_chain_by_hand() -> None:
    # The right half first, which shares nothing with the left one; its depth is off by a fifth.
    values, verdict = measure(thought(chain(area((0.5, 0, 1, 1), 0.6), area(LEFT))), asked())
    assert values == {
        "answer accuracy": 1, "final HIoU": 1, "first HIoU": 0, "correction gain": 1, "depth consistency": 0.5,
        "valid format": 1,
    }  # fmt: skip
    assert list(values) == list(METRICS)
    assert verdict.rule == "exact"


@pytest.mark.parametrize(
    ("known", "depth", "missing"),
    [
        ({"boxes": ()}, HALF, {"final HIoU", "first HIoU", "correction gain"}),
        ({"answers": ()}, HALF, {"answer accuracy"}),
        ({}, None, {"depth consistency"}),
        ({"boxes": (), "answers": ()}, None, set(METRICS) - {"valid format"}),
    ],
)
def test_a_metric_that_a_question_cannot_have_is_left_out(known: dict[str, Any], depth: Any, missing: set[str]) -> None:
    text = chain(area(LEFT, None if depth is None else 0.5))
    values, verdict = measure(thought(text, depth), asked(**known))
    assert {name for name, value in values.items() if value is None} == missing
    assert {value for value in values.values() if value is not None} <= {0, 1}
    assert (verdict is None) == ("answer accuracy" in missing)
    nothing, _ = measure(thought("no chain", depth), asked(**known))
    of_areas = {"first HIoU", "correction gain", "depth consistency"}
    assert {name for name, value in nothing.items() if value is None} == missing | of_areas
    assert {value for value in nothing.values() if value is not None} == {0}


def test_an_answer_is_right_or_wrong() -> None:
    """The judge gives "left turn" two thirds for "left"; as an answer it is wrong."""
    for text, right in (("left", 1), ("Left.", 1), ("left turn", 0), ("right", 0)):
        values, _ = measure(thought(text, None, protocol="direct"), asked(answers=("left",)))
        assert values == {**dict.fromkeys(METRICS), "answer accuracy": right}


def test_one_of_several_right_answers_is_right() -> None:
    question = asked(answers=("sofa", "couch"))
    for text, right in (("couch", 1), ("sofa", 1), ("chair", 0)):
        values, verdict = measure(thought(text, None, protocol="direct"), question)
        assert (values["answer accuracy"], verdict.score) == (right, right)
    assert measure(thought(" ", None, protocol="direct"), question).values["answer accuracy"] == 0
    assert measure(thought("B", None, protocol="direct"), asked(choices=("dog", "cat"))).values["answer accuracy"] == 1


def test_intervals_by_hand() -> None:
    same = summarise([row(0.5)] * 10)["final HIoU"]
    assert (same.mean, same.low, same.high, same.count) == (0.5, 0.5, 0.5, 10)
    mixed = summarise([row(1.0)] * 50 + [row(0.0)] * 50 + [row(None)] * 7)["final HIoU"]
    assert (mixed.mean, mixed.count) == (0.5, 100)
    # The standard error is 0.05, and 95 % lie within 1.96 of it: 0.402 to 0.598.
    assert (mixed.low, mixed.high) == (pytest.approx(0.402, abs=0.01), pytest.approx(0.598, abs=0.01))
    assert summarise([]) == {}


def test_paired_differences_by_hand() -> None:
    """Hard and easy questions, each answered a tenth better: the difference is certain, though the means are not."""
    theirs = {str(number): float(number % 2) * 0.9 for number in range(100)}
    ours = {name: value + 0.1 for name, value in theirs.items()}
    found = paired_difference(ours, theirs)
    assert (found.mean, found.low, found.high, found.count) == (*[pytest.approx(0.1)] * 3, 100)
    # Only what both have: 1 − 0 and 0 − 1, not the 5.
    some = paired_difference({"a": 1.0, "b": 0.0, "c": 5.0, "d": None}, {"b": 1.0, "a": 0.0, "c": None, "d": 1.0, "e": 1.0})
    assert (some.mean, some.count) == (0, 2)
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_groups_by_all_that_rows_state() -> None:
    rows = [
        row(1.0, dataset="a", family="x", tags={"level": "easy"}),
        row(0.0, dataset="b", family="y", tags={"level": "hard"}),
        row(0.0, dataset="a", family="y"),
    ]
    groups = all_groups(rows)
    assert {name: {group: len(found) for group, found in of.items()} for name, of in groups.items()} == {
        "dataset": {"a": 2, "b": 1}, "family": {"x": 1, "y": 2}, "level": {"easy": 1, "hard": 1, "": 1},
    }  # fmt: skip


def test_rows_survive_their_file() -> None:
    first = row(0.5, tags={"level": "easy"})
    assert Row.from_json(first.to_json()) == first
    with pytest.raises(ConfigError, match="unknown key 'valeus'"):
        Row.from_json({**first.to_json(), "valeus": 1})
