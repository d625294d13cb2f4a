"""What both stages do with a run's folder: adapters, checkpoints to go on from, the finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sifthinker.training.config import TrainConfig


def lora_config(config: TrainConfig) -> Any:
    """PEFT's config of the run, or None for full training."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    target = config.lora.target if isinstance(config.lora.target, str) else list(config.lora.target)
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=target,
        task_type="CAUSAL_LM",
    )


def last_checkpoint(output: str) -> str | None:
    """The newest checkpoint of a run's folder that is complete, or None."""
    from transformers.trainer_utils import get_last_checkpoint

    if not Path(output).is_dir():
        return None
    found: str | None = get_last_checkpoint(output)
    return found


def finish(trainer: Any, config: TrainConfig) -> None:
    """Write the final model, merged if it was trained with LoRA, and its processor to the run's folder."""
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is not None:
        model = model.merge_and_unload()
    model.save_pretrained(config.output)
    trainer.processing_class.save_pretrained(config.output)
