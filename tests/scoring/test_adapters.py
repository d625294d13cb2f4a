from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from sifthinker.depth import DepthMap
from sifthinker.scoring.swift import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding
from sifthinker.scoring.verl import compute_score

from .test_rewards import LEFT, RIGHT, WHOLE, chain

TRUTH = {"answer": "cat", "boxes": [[0, 0, 0.5, 1]], "choices": '["cat","dog"]'}
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def depth_file(tmp_path: Path) -> str:
    DepthMap(np.full((10, 10), 0.5)).write(tmp_path / "d.png")
    return str(tmp_path / "d.png")


class TestVerl:
    @pytest.mark.parametrize("as_text", [False, True])
    def test_score_and_parts(self, depth_file: str, as_text: bool) -> None:
        truth = {**TRUTH, "depth": depth_file}
        found = compute_score("d", chain(WHOLE, RIGHT, LEFT), json.dumps(truth) if as_text else truth, {"previous": 0.5})
        # format 1, answer 1 + 0.5 of progress, grounding 1 + 1 of correction, depth 1
        assert found == {"score": 5.5, "format": 1, "answer": 1.5, "grounding": 2, "depth": 1}

    def test_rgb_only_has_no_depth(self) -> None:
        found = compute_score("d", "rubbish", TRUTH)
        assert set(found) == {"score", "format", "answer", "grounding", "depth"}
        assert math.isnan(found["depth"])
        assert found["score"] == 0

    def test_the_example_runs(self, capsys: pytest.CaptureFixture) -> None:
        runpy.run_path(str(EXAMPLES / "verl_rewards.py"), run_name="__main__")
        assert "score: 3" in capsys.readouterr().out


class TestSwift:
    def test_each_reward(self, depth_file: str) -> None:
        completions = [chain(WHOLE, RIGHT, LEFT), "rubbish"]
        columns = {name: [value] * 2 for name, value in {**TRUTH, "depth": depth_file}.items()}
        assert SwiftFormat()(completions, **columns) == [1, 0]
        assert SwiftAnswer()(completions, **columns) == [1, 0]
        assert SwiftGrounding()(completions, **columns) == [2, 0]
        assert SwiftDepth()(completions, **columns) == [1, 0]
        # ms-swift leaves None out of the sum. It makes a reward with the trainer's arguments.
        assert SwiftDepth(args=object())(completions, depth=[None, None]) == [None, None]
