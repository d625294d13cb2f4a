"""Our export as verl reads and scores it: `verl_dataset.py PARQUET MODEL COMPLETIONS`, a completion for each row."""

import asyncio
import json
import os
import sys

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from verl import DataProto
from verl.trainer.ppo.reward import get_custom_reward_fn, load_reward_manager
from verl.utils import hf_processor, hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

parquet, model, completions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def configure(key):
    """verl's settings as main_ppo reads them, our function named under a key."""
    overrides = [
        f"{key}.path=pkg://sifthinker.scoring.verl",
        f"{key}.name=compute_score",
        f"data.train_files={parquet}",
        "data.filter_overlong_prompts_workers=1",
        f"+data.cache_dir={os.path.dirname(parquet)}/cache",
    ]
    with initialize_config_dir(os.path.join(os.path.dirname(verl.__file__), "trainer", "config"), version_base=None):
        return compose("ppo_trainer", overrides=overrides)


async def score(manager, tokenizer, row, text):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    columns = {name: np.array([row[name]], object) for name in ("data_source", "reward_model", "extra_info")}
    tensors = {"responses": ids, "attention_mask": torch.ones_like(ids)}
    return await manager.run_single(DataProto.from_dict(tensors=tensors, non_tensors=columns))


async def main():
    config = configure("reward.custom_reward_function")
    tokenizer, processor = hf_tokenizer(model), hf_processor(model)
    dataset = RLHFDataset([parquet], tokenizer, config.data, processor)
    rows = [dataset[number] for number in range(len(dataset))]
    collate_fn(rows)
    images, _ = await RLHFDataset.process_vision_info(rows[0]["raw_prompt"], 14, config.data)
    prompt = processor.apply_chat_template(rows[0]["raw_prompt"], add_generation_prompt=True, tokenize=False)
    tensors = processor(text=[prompt], images=images, return_tensors="pt")
    manager = load_reward_manager(config, tokenizer)
    found = {
        "rows": len(rows),
        "processor": type(processor).__name__,
        "kinds": [part["type"] for part in rows[0]["raw_prompt"][0]["content"]],
        "sizes": [image.size for image in images],
        "image_tokens": int((tensors["input_ids"] == processor.image_token_id).sum()),
        "scores": [await score(manager, tokenizer, row, text) for row, text in zip(rows, completions, strict=True)],
        "rubbish": await score(manager, tokenizer, rows[0], "rubbish"),
        "old_key_is_read": get_custom_reward_fn(configure("custom_reward_function")) is not None,
    }
    print(json.dumps(found))


asyncio.run(main())
