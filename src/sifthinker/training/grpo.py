"""GRPO-SIF: TRL's GRPOTrainer with the four rewards and the ledger of answer scores.

Where this differs from the paper's release: see docs/deviations.md. The ledger is saved in every checkpoint and restored on
resuming; it lives in one process for now, so several processes are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from sifthinker.errors import ConfigError
from sifthinker.files import atomic_write, make_folder, to_json
from sifthinker.models import freeze, load_model, load_processor
from sifthinker.rewards import AnswerReward, Ledger, depth_reward, format_reward, grounding_reward
from sifthinker.training.config import TrainConfig, trainer_arguments
from sifthinker.training.data import grpo_dataset, load_examples
from sifthinker.training.runs import RestoresWeights, lora_config, run

LEDGER = "ledger.json"

# The paper's: G 8, β 0.04, completions up to 2,048 tokens. Dropout is off in TRL's GRPO.
_DEFAULTS = {
    "num_generations": 8,
    "beta": 0.04,
    "max_completion_length": 2048,
    "logging_steps": 1,
    "report_to": "none",
}


class SIFGRPOTrainer(RestoresWeights, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer whose answer reward remembers, for each sample, how its group did the last time.

    Args:
        answer_reward: one of the reward functions, whose ledger is saved and restored with the checkpoints; None when the
            run has no answer reward.
        arguments: those of `trl.GRPOTrainer`.
    Raises:
        ConfigError: more than one process: the ledger is not shared yet.
    """

    def __init__(self, *arguments: Any, answer_reward: AnswerReward | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.answer_reward = answer_reward
        if answer_reward is not None and self.accelerator.num_processes > 1:
            raise ConfigError(
                "the ledger of the answer reward is not shared between processes yet; run on one, or leave the answer "
                "reward out with rewards.answer=0"
            )

    def _calculate_rewards(self, *arguments: Any, **named: Any) -> Any:
        if self.answer_reward is not None:
            self.answer_reward.recording = self.model.training
        return super()._calculate_rewards(*arguments, **named)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.answer_reward is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            atomic_write(folder / LEDGER, to_json(self.answer_reward.ledger.to_json()))

    def train(self, resume_from_checkpoint: str | None = None, **named: Any) -> Any:
        if resume_from_checkpoint and self.answer_reward is not None:
            saved = Path(resume_from_checkpoint) / LEDGER
            if not saved.is_file():
                raise ConfigError(f"{saved}: no ledger in the checkpoint; it is not one of GRPO-SIF")
            self.answer_reward.ledger = Ledger(json.loads(saved.read_text(encoding="utf-8")))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **named)


def grpo_trainer(config: TrainConfig) -> SIFGRPOTrainer:
    """A trainer for a run, not yet started.

    Raises:
        ConfigError, ModelError, RecordError: what is wrong with the config, the model or the data.
        SIFError: the output folder cannot be written.
    """
    make_folder(config.output)
    examples = load_examples(config.data, config.limit)
    weights = dict(config.rewards)
    if examples[0].depth is None:
        # RGB-only data has no depth to be right about.
        weights.pop("depth", None)
    answer = AnswerReward() if "answer" in weights else None
    functions = {"format": format_reward, "answer": answer, "grounding": grounding_reward, "depth": depth_reward}
    defaults = {**_DEFAULTS, "reward_weights": list(weights.values())}
    if "reward_weights" in config.training:
        raise ConfigError("training.reward_weights: weights are named under `rewards`")
    arguments = trainer_arguments(config, "grpo", defaults)
    processor = load_processor(config.model, max_pixels=config.max_pixels)
    model = load_model(config.model, dtype=config.dtype)
    freeze(model, tuple(config.freeze))
    try:
        return SIFGRPOTrainer(
            model=model,
            reward_funcs=[functions[name] for name in weights],
            args=arguments,
            train_dataset=grpo_dataset(examples),
            processing_class=processor,
            peft_config=lora_config(config),
            answer_reward=answer,
        )
    except ValueError as error:
        raise ConfigError(f"training: {error}") from None


def train_grpo(config: TrainConfig) -> SIFGRPOTrainer:
    """Run GRPO-SIF, see `runs.run`; returns the finished trainer.

    Raises:
        ConfigError, ModelError, RecordError: see `grpo_trainer`.
    """
    trainer = grpo_trainer(config)
    run(trainer, config, "GRPO-SIF")
    return trainer
