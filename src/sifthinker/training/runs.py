"""What both stages do with a run's folder: adapters, checkpoints to go on from, the finished model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sifthinker.models import load_model
from sifthinker.training.config import TrainConfig


class RestoresWeights:
    """Mixin for transformers' Trainer: a full model's weights come back from a checkpoint under the names they have now.

    Vision-language checkpoints are written under their architecture's published parameter names, which differ from the
    module's own (`language_model.model…` for `model.language_model…`). Trainer (seen in transformers 5.23) loads the file
    by the module's names, finds none, warns, and trains on from the weights it started with. `from_pretrained` knows both.
    """

    model: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        whole = (Path(resume_from_checkpoint) / "config.json").is_file()
        if not whole or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            # Adapters and sharded states keep the module's own names.
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        restored = load_model(resume_from_checkpoint, dtype=str(model.dtype).removeprefix("torch."))
        model.load_state_dict(restored.state_dict())


def lora_config(config: TrainConfig) -> Any:
    """PEFT's config of the run, or None for full training."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    # "all-linear" means the frozen parts too, unless told otherwise: adapters there would train what was to stay.
    frozen = "|".join(re.escape(name) for name in config.freeze)
    target = config.lora.target if isinstance(config.lora.target, str) else list(config.lora.target)
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=target,
        exclude_modules=rf"(.*\.)?({frozen})(\..*)?" if frozen else None,
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
