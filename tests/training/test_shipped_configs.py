"""Every config in the repository, loaded and dry-run with a tiny model put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.training.config import load_config

pytest.importorskip("trl")

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.yaml") if path.name != "sif50k.yaml")


def test_there_are_configs() -> None:
    assert len(CONFIGS) == 8


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.name
)
def test_accelerate_reads_its_configs(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_takes_a_step(path: Path, nano: Path, world_chains: Path, tmp_path: Path) -> None:
    stage = "grpo" if "grpo" in path.stem else "sft"
    overrides = [f"model={nano}", f"data={world_chains}", f"output={tmp_path / 'run'}", "dtype=float32", "limit=12"]
    overrides += ["max_steps=1", "bf16=false", "save_strategy=no", "gradient_accumulation_steps=1"]
    if stage == "grpo":
        overrides += ["max_completion_length=12", "num_generations=4", "per_device_train_batch_size=4"]
    config = load_config(path, stage, overrides)
    if config.freeze:
        config = load_config(path, stage, [*overrides, "freeze=vision_tower"])  # Qwen calls it visual
    if stage == "sft":
        from sifthinker.training.sft import sft_trainer as trainer
    else:
        from sifthinker.training.grpo import grpo_trainer as trainer
    made = trainer(config)
    assert made.args.learning_rate == float(config.training["learning_rate"])
    if config.lora:
        trained = [name for name, p in made.model.named_parameters() if p.requires_grad]
        assert trained
        assert all("lora" in name for name in trained)
        assert not (config.freeze and any("vision_tower" in name for name in trained))
    made.train()
    assert made.state.global_step == 1
