"""verl: its dataset reads our export, its reward manager scores by our rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sifthinker.engine.exports import export
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import REWARDS, reference_from, score_completion

from .environments import Environment, prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def verl() -> Environment:
    return prepare("verl")


def test_dataset_and_rewards(verl: Environment, chains: Path, real_model: Callable[[str], Path], tmp_path: Path) -> None:
    """RLHFDataset reads our export with a Qwen2.5-VL processor, the reward manager scores by `pkg://sifthinker.scoring.verl`."""
    examples = list(read_examples(chains))
    export(chains, tmp_path / "data", "verl")
    gold = json.dumps([example.chain for example in examples])
    found = verl.run("verl_dataset", tmp_path / "data" / "train.parquet", real_model("qwen2_5_vl"), gold, cwd=tmp_path)
    assert (found["rows"], found["processor"]) == (len(examples), "Qwen2_5_VLProcessor")
    assert found["kinds"] == ["image", "image", "text"]
    # 64 pixels are brought to 56, a multiple of 28, which is 4 patches of 14; two by two patches are a token: 4 an image.
    assert found["image_tokens"] == 8
    for example, scored in zip(examples, found["scores"], strict=True):
        truth = {name: getattr(example, name) for name in ("answer", "boxes", "choices", "depth")}
        scores = score_completion(example.chain, reference_from(truth))
        assert scored["reward_score"] == pytest.approx(scores.total)
        for name in REWARDS:
            assert scored["reward_extra_info"][name] == pytest.approx(getattr(scores, name).value)
        assert scored["reward_score"] >= 4
    assert found["rubbish"]["reward_score"] == 0
    # The older key, without `reward.` before it, is still in verl's settings, and nothing reads it.
    assert not found["old_key_is_read"]
