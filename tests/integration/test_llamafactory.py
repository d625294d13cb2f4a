"""LLaMA-Factory: SFT on our export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sifthinker.engine.exports import export

from .environments import Environment, prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def llamafactory() -> Environment:
    return prepare("llamafactory")


def test_sft(llamafactory: Environment, chains: Path, real_model: Callable[[str], Path], tmp_path: Path) -> None:
    """`llamafactory-cli train` takes two steps of SFT with a tiny Qwen2.5-VL on our export."""
    data, run, model = tmp_path / "data", tmp_path / "run", real_model("qwen2_5_vl")
    export(chains, data, "llamafactory")
    settings = {
        "model_name_or_path": str(model), "template": "qwen2_vl", "stage": "sft", "do_train": True, "dataset": "sif",
        "finetuning_type": "full", "dataset_dir": str(data), "media_dir": str(data), "output_dir": str(run),
        "cutoff_len": 2048, "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 2, "freeze_vision_tower": False, "bf16": False, "use_cpu": True,
        "report_to": "none", "preprocessing_num_workers": 1,
    }  # fmt: skip
    (tmp_path / "sft.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = llamafactory.folder / "bin" / "llamafactory-cli"
    done = llamafactory.command(command, "train", tmp_path / "sft.yaml", cwd=tmp_path, timeout_s=600)
    assert "Num examples = 18" in done.stderr, done.stderr[-2000:]
    losses = [row["loss"] for row in map(json.loads, (run / "trainer_log.jsonl").read_text().splitlines()) if "loss" in row]
    assert len(losses) == 2
    # Random weights: about as bad as a guess among all tokens.
    vocabulary = json.loads((model / "config.json").read_text())["text_config"]["vocab_size"]
    assert losses[0] == pytest.approx(math.log(vocabulary), rel=0.1)
    before, after = load_file(model / "model.safetensors"), load_file(run / "checkpoint-2" / "model.safetensors")
    assert any("visual" in name and not before[name].equal(after[name]) for name in before), "images reach the model"
