"""verl: its dataset reads our export, its reward manager scores by our rewards."""

from __future__ import annotations

import json

import pytest

from ..scoring.test_rewards import LEFT, RIGHT, WHOLE, chain
from .environments import Environment, prepare

pytestmark = pytest.mark.integration

GOLD = chain(WHOLE, RIGHT, LEFT).replace(',"depth":0.500', "")
TRUTH = {"answer": "cat", "boxes": [[0, 0, 0.5, 1]], "choices": '["cat","dog"]'}


@pytest.fixture(scope="module")
def verl() -> Environment:
    return prepare("verl")


def test_the_reward_manager(verl: Environment) -> None:
    """The reward manager scores completions by `pkg://sifthinker.scoring.verl`."""
    found = verl.run("verl_check", json.dumps([GOLD, "rubbish"]), json.dumps(TRUTH))
    # Format 1, answer 1, grounding 1 + 1 of correction; without a depth map there is no fourth.
    assert found["scores"] == [4, 0]
