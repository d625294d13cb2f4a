"""Rewards of completions that state boxes from 0 to 1000, or in pixels of the resized image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.coordinates import UNIT, Frame
from sifthinker.depth import DepthMap
from sifthinker.errors import BoxError, ConfigError
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import Reference, reference_from, score_completion
from sifthinker.scoring.swift import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding
from sifthinker.scoring.trl import AnswerReward, answer_reward, depth_reward, format_reward, grounding_reward
from sifthinker.scoring.verl import compute_score

HALF = DepthMap(np.full((10, 10), 0.5))
RESIZED = Frame("resized", (2000, 500))  # every 0.05 is a whole pixel
FRAMES = [UNIT, Frame("per_mille"), RESIZED]
# Corners of any box, in twentieths.
CORNERS = st.tuples(st.integers(0, 19), st.integers(0, 19), st.integers(1, 19), st.integers(1, 19)).map(
    lambda b: (b[0] / 20, b[1] / 20, min(20, b[0] + b[2]) / 20, min(20, b[1] + b[3]) / 20)
)


def chain(frame: Frame, *boxes: tuple[float, ...], depth: float | None = 0.5) -> str:
    steps = tuple(Step((Region.within(frame, box, depth),), "seen") for box in boxes)
    return render_chain(Chain(steps, "cat"), frame=frame)


@given(st.lists(CORNERS, min_size=1, max_size=4), CORNERS)
def test_the_same_boxes_earn_the_same_in_any_space(boxes: list[tuple[float, ...]], truth: tuple[float, ...]) -> None:
    found = []
    for frame in FRAMES:
        scores = score_completion(chain(frame, *boxes), Reference("cat", [truth], HALF, frame=frame))
        assert scores.format.value == scores.depth.value == 1
        found.append(scores.grounding.value)
    assert found == pytest.approx([found[0]] * 3)


@pytest.mark.parametrize("stated", FRAMES, ids=str)
@pytest.mark.parametrize("said", FRAMES, ids=str)
def test_a_completion_in_another_space_earns_nothing_for_its_boxes(stated: Frame, said: Frame) -> None:
    box = (0.25, 0.25, 0.75, 0.75)
    scores = score_completion(chain(stated, box), Reference("cat", [box], HALF, frame=said))
    assert scores.answer.value == 1
    if stated == said:
        assert scores.total == 4
    else:
        # 0.250 is no whole number; 250 of 1000 is 250 of 2000 across, and 750 is past 500 down.
        assert (scores.format.value, scores.grounding.value, scores.depth.value) == (0, 0, 0) or said == Frame("per_mille")
        assert scores.total < 4


@pytest.mark.parametrize("space", ["unit", "per_mille", "resized"])
def test_gold_chains_earn_everything_wherever_rewards_are_taken(space: str, chains_in: Callable[[str], Path]) -> None:
    examples = list(read_examples(chains_in(space)))
    columns: dict[str, Any] = {name: [getattr(e, name) for e in examples] for name in ("id", "answer", "boxes", "depth")}
    columns["choices"] = [list(example.choices) for example in examples]
    if space != "unit":
        columns["coordinates"] = [example.coordinates for example in examples]
        columns["resized"] = [example.resized for example in examples]
    texts = [example.chain for example in examples]
    for reward in (
        format_reward, answer_reward, AnswerReward(), depth_reward, SwiftFormat(), SwiftAnswer(), SwiftDepth(),
    ):  # fmt: skip
        assert reward(texts, **columns) == [1] * 6
    for reward in (grounding_reward, SwiftGrounding()):
        assert min(reward(texts, **columns)) >= 1
    for example in examples:
        assert score_completion(example.chain, reference_from(asdict(example))).total >= 4
        truth = json.dumps({**asdict(example), "provenance": None})
        assert compute_score("sif", example.chain, truth)["score"] >= 4


def test_rows_of_several_spaces_are_each_read_in_their_own() -> None:
    texts = [chain(frame, (0, 0, 0.5, 1)) for frame in FRAMES]
    columns = {
        "boxes": [[(0, 0, 0.5, 1)]] * 3,
        "coordinates": ["unit", "per_mille", "resized"],
        "resized": [None, None, [2000, 500]],
    }
    assert format_reward(texts, **columns) == grounding_reward(texts, **columns) == [1, 1, 1]
    assert format_reward(texts, coordinates=[None, "per_mille", "per_mille"]) == [1, 1, 1]
    assert format_reward(texts) == [1, 0, 0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"coordinates": "pixel"}, "coordinates must be one of unit, per_mille, resized, got 'pixel'"),
        ({"coordinates": "resized"}, r"must be the \[width, height\]"),
        ({"resized": [28, 28]}, "resized is .* but coordinates unit need no image size. Remove it"),
    ],
)
def test_columns_that_are_no_frame_are_misuse(row: dict[str, Any], words: str) -> None:
    with pytest.raises(BoxError, match=words):
        format_reward([chain(UNIT, (0, 0, 1, 1))], **{name: [value] for name, value in row.items()})
    with pytest.raises(BoxError, match=words):
        reference_from({"answer": "cat", "boxes": [[0, 0, 1, 1]], **row})


def test_repeated_readings_of_one_text_in_two_spaces_stay_apart() -> None:
    """The readings of a text are kept; a text of 0 and 1 alone is valid in every space."""
    text = chain(UNIT, (0, 0, 1, 1)).replace("0.000", "0").replace("1.000", "1")
    truth = [(0, 0, 1, 1)]
    for _ in range(2):
        found = [score_completion(text, Reference("cat", truth, HALF, frame=frame)).grounding.value for frame in FRAMES]
        assert found == pytest.approx([1, 1e-6, 1 / (2000 * 500)])


class TestColumns:
    """What rewards of a batch are given beside its completions."""

    TEXTS = [chain(Frame("per_mille"), (0.25, 0.25, 0.75, 0.75))] * 2
    COLUMNS: dict[str, Any] = {
        "id": ["a", "b"], "answer": ["cat"] * 2, "boxes": [[[0.25, 0.25, 0.75, 0.75]]] * 2, "depth": [HALF] * 2,
    }  # fmt: skip
    REWARDS = [format_reward, answer_reward, AnswerReward(), grounding_reward, depth_reward]

    @pytest.mark.parametrize("reward", REWARDS)
    def test_one_text_says_the_coordinates_of_all(self, reward: Any) -> None:
        assert min(reward(self.TEXTS, **self.COLUMNS, coordinates="per_mille")) >= 1

    @pytest.mark.parametrize("reward", REWARDS)
    @pytest.mark.parametrize("name", ["coordinates", "resized", "depth"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_a_column_of_another_length(self, reward: Any, name: str, count: int) -> None:
        with pytest.raises(ConfigError, match=f"{name} must have one value for each of the 2 completions, got {count}"):
            reward(self.TEXTS, **{**self.COLUMNS, name: [None] * count})

    @pytest.mark.parametrize(
        ("reward", "name"),
        [
            (answer_reward, "answer"), (answer_reward, "choices"), (grounding_reward, "boxes"), (grounding_reward, "id"),
            *((AnswerReward(), name) for name in ("id", "answer", "choices", "problem")),
        ],
    )  # fmt: skip
    def test_its_own_columns_too(self, reward: Any, name: str) -> None:
        with pytest.raises(ConfigError, match=f"{name} must have one value for each of the 2 completions, got 1"):
            reward(self.TEXTS, **{**self.COLUMNS, name: ["cat"]})
        with pytest.raises(
            ConfigError, match=f"{name} must be a list with one value for each of the 2 completions, got 'of'"
        ):
            reward(self.TEXTS, **{**self.COLUMNS, name: "of"})
        with pytest.raises(ConfigError, match=f"{name} must be a list .*, got 7"):
            reward(self.TEXTS, **{**self.COLUMNS, name: 7})

    def test_boxes_of_a_reference_are_fractions(self) -> None:
        """There is no option to say what else they are."""
        reference = Reference("cat", [(250, 250, 750, 750)], frame=Frame("per_mille"))
        with pytest.raises(BoxError, match=r"is outside the image.*thousandths by 1000") as told:
            score_completion(self.TEXTS[0], reference)
        assert "box_space" not in str(told.value)
        assert "--" not in str(told.value)

    def test_a_reference_wants_a_frame(self) -> None:
        with pytest.raises(BoxError, match=r"frame must be a Frame, .*, got 'per_mille'"):
            Reference("cat", [(0, 0, 1, 1)], frame="per_mille")  # type: ignore[arg-type]
