"""Every config in the repository takes a step as it is shipped, with a tiny model of its family and short completions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.training.settings import load_config

pytest.importorskip("trl")

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.yaml") if path.name != "sif50k.yaml")
# What a test must change: where things are, how long it takes, and that there is no accelerator for bfloat16 weights.
CHANGED = {"max_steps", "num_train_epochs", "max_completion_length", "save_strategy", "warmup_steps", "max_length"}


def test_there_are_configs() -> None:
    assert len(CONFIGS) == 9


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.name
)
def test_accelerate_reads_its_configs(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_takes_a_step(
    path: Path, tiny_vlm: Path, real_model: Callable[[str], Path], chains: Path, tmp_path: Path
) -> None:
    stage = "grpo" if "grpo" in path.stem else "sft"
    shipped: dict[str, Any] = yaml.safe_load(path.read_text())
    nano, third = path.stem.startswith("nano"), path.stem.startswith("qwen3")
    model = tiny_vlm if nano else real_model("qwen3_vl" if third else "qwen2_5_vl")
    overrides = [f"model={model}", f"data={chains}", f"output={tmp_path / 'run'}", "max_steps=1", "save_strategy=no"]
    if stage == "grpo":
        overrides.append("max_completion_length=12")
    kept = dict(shipped["training"])
    if path.stem.endswith("-paper"):  # one process does the work of its eight
        kept["gradient_accumulation_steps"] *= 8
        overrides.append(f"gradient_accumulation_steps={kept['gradient_accumulation_steps']}")
    config = load_config(path, stage, overrides)
    if stage == "sft":
        from sifthinker.training.sft import sft_trainer as trainer
    else:
        from sifthinker.training.grpo import grpo_trainer as trainer
    made = trainer(config)
    for name in kept.keys() - CHANGED:
        assert getattr(made.args, name) == pytest.approx(kept[name]) or str(getattr(made.args, name)) == kept[name], name
    assert str(made.model.dtype).removeprefix("torch.") == shipped.get("dtype", "float32")
    if "lora" in shipped:
        adapter = made.model.peft_config["default"]
        dropout = shipped["lora"].get("dropout", 0)
        stated = (shipped["lora"]["r"], shipped["lora"]["alpha"], dropout)
        assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == stated
        trained = [name for name, parameter in made.model.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("lora" in name for name in trained)
        assert any("visual" in name for name in trained) == ("freeze" not in shipped)
    if stage == "grpo":
        assert len(made.reward_funcs) == 4
    made.train()
    assert made.state.global_step == 1


def test_the_papers_schedule_sees_each_example_once_and_the_others_more_often() -> None:
    """The progress term of the answer reward compares with the last visit."""
    epochs = {path.stem: yaml.safe_load(path.read_text())["training"].get("num_train_epochs") for path in CONFIGS}
    practised = {name: number for name, number in epochs.items() if "grpo" in name and number is not None}
    assert {name for name, number in practised.items() if number < 2} == {"qwen2.5-vl-7b-grpo-paper"}
