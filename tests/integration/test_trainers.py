"""The rewards inside the trainers of others, which need environments of their own.

Name the Python of each: SIF_PYTHON_SWIFT (ms-swift 4.6), SIF_PYTHON_VERL (verl 0.9). It needs the core dependencies of
sifthinker too. Run with `pytest -m integration`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sifthinker
from sifthinker.depth import DepthMap

from ..scoring.test_rewards import LEFT, RIGHT, WHOLE, chain

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GOLD = chain(WHOLE, RIGHT, LEFT)
COLUMNS = {"answer": "cat", "boxes": [[0, 0, 0.5, 1]], "choices": '["cat","dog"]'}


def run_in(variable: str, script: str, *arguments: str) -> dict:
    """Run a script with the Python that a variable names; what it prints last is JSON."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    source = str(Path(sifthinker.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


SWIFT = """
import json, sys
from types import SimpleNamespace
from swift.rewards import orms
from swift.utils import import_external_file

plugin, completions, columns = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
import_external_file(plugin)
rewards = {name: orms[name](args=SimpleNamespace()) for name in orms if name.startswith("sif_")}
print(json.dumps({name: reward(completions, **columns) for name, reward in rewards.items()}))
"""


def test_the_swift_plugin(tmp_path: Path) -> None:
    DepthMap(np.full((10, 10), 0.5)).write(tmp_path / "d.png")
    columns = {name: [value] * 2 for name, value in {**COLUMNS, "depth": str(tmp_path / "d.png")}.items()}
    plugin = str(ROOT / "examples" / "swift_plugin.py")
    found = run_in("SIF_PYTHON_SWIFT", SWIFT, plugin, json.dumps([GOLD, "rubbish"]), json.dumps(columns))
    assert found == {"sif_format": [1, 0], "sif_answer": [1, 0], "sif_grounding": [2, 0], "sif_depth": [1, 0]}


VERL = """
import asyncio, json, os, sys
import numpy as np, torch, verl
from hydra import compose, initialize_config_dir
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import migrate_legacy_reward_impl
from verl.trainer.ppo.reward import load_reward_manager

completions, truth = json.loads(sys.argv[1]), sys.argv[2]

class Letters:  # one token a character
    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))

folder = os.path.join(os.path.dirname(verl.__file__), "trainer", "config")
with initialize_config_dir(folder, version_base=None):
    name = "reward.custom_reward_function"
    config = compose("ppo_trainer", overrides=[f"{name}.path=pkg://sifthinker.scoring.verl", f"{name}.name=compute_score"])
async def score():
    manager = load_reward_manager(migrate_legacy_reward_impl(config), Letters())
    for text in completions:
        ids = torch.tensor([list(map(ord, text))])
        one = lambda value: np.array([value], object)
        row = DataProto.from_dict(
            tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
            non_tensors={"data_source": one("d"), "reward_model": one({"ground_truth": truth}), "extra_info": one({})},
        )
        yield (await manager.run_single(row))["reward_score"]


async def gathered():
    return [value async for value in score()]


scores = asyncio.run(gathered())
print(json.dumps({"scores": scores}))
"""


def test_verls_reward_manager() -> None:
    found = run_in("SIF_PYTHON_VERL", VERL, json.dumps([GOLD.replace(',"depth":0.500', ""), "rubbish"]), json.dumps(COLUMNS))
    # Format 1, answer 1, grounding 1 + 1 of correction; without a depth map there is no fourth.
    assert found["scores"] == [4, 0]
