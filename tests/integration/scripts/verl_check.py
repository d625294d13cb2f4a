"""verl, on files that the test wrote: `verl_check.py COMPLETIONS TRUTH`; see test_verl.py."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import migrate_legacy_reward_impl
from verl.trainer.ppo.reward import load_reward_manager


class Letters:
    """One token a character."""

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))


async def scores(config: object, completions: list[str], truth: str) -> AsyncIterator[float]:
    manager = load_reward_manager(config, Letters())
    for text in completions:
        ids = torch.tensor([list(map(ord, text))])
        columns = {"data_source": "d", "reward_model": {"ground_truth": truth}, "extra_info": {}}
        row = DataProto.from_dict(
            tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
            non_tensors={name: np.array([value], object) for name, value in columns.items()},
        )
        yield (await manager.run_single(row))["reward_score"]


async def gather(*arguments: object) -> list[float]:
    return [value async for value in scores(*arguments)]


name = "reward.custom_reward_function"
overrides = [f"{name}.path=pkg://sifthinker.scoring.verl", f"{name}.name=compute_score"]
with initialize_config_dir(os.path.join(os.path.dirname(verl.__file__), "trainer", "config"), version_base=None):
    config = migrate_legacy_reward_impl(compose("ppo_trainer", overrides=overrides))
print(json.dumps({"scores": asyncio.run(gather(config, json.loads(sys.argv[1]), sys.argv[2]))}))
