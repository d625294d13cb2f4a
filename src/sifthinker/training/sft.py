"""SFT warm-up: TRL's SFTTrainer on the chains of Examples, for any image-text-to-text model."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from sifthinker.coordinates import record_coordinates
from sifthinker.errors import ConfigError
from sifthinker.files import check_folder
from sifthinker.models import freeze, load_model, load_processor
from sifthinker.training.data import load_examples, sft_dataset
from sifthinker.training.held_out import held_out
from sifthinker.training.plan import plan_run, report_problems
from sifthinker.training.runs import OurTrainer, claim, lora_config, record, run
from sifthinker.training.settings import TrainSettings, trainer_arguments
from sifthinker.training.sharding import prepare_for_sharding

# max_length is None, because truncation could cut off image tokens and break the prompt.
DEFAULTS: dict[str, Any] = {
    "max_length": None,
    "logging_steps": 10,
    "report_to": "none",
}


class SIFSFTTrainer(OurTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT trainer, with correct resuming of vision-language models."""


def sft_trainer(config: TrainSettings) -> SIFSFTTrainer:
    """Return the trainer of a run, not started.

    Raises:
        ConfigError, ModelError, RecordError: the config, the model or the data is faulty.
        SIFError: the output folder cannot be written.
    """
    check_folder(config.output)
    arguments = trainer_arguments(config, "sft", DEFAULTS)
    examples = load_examples(config.data, config.limit, config.sample)
    processor = load_processor(config.model, max_pixels=config.max_pixels)
    if not config.answers_only:
        record_coordinates(processor.tokenizer, examples[0].coordinates)
    questions = held_out(config, examples, arguments, processor)
    plan = plan_run(config, "sft", arguments, examples, processor)
    report_problems(plan)
    model = load_model(config.model, dtype=config.dtype, attn_implementation=config.attention)
    frozen = freeze(model, tuple(config.freeze))
    prepare_for_sharding(model)
    try:
        trainer = SIFSFTTrainer(
            model=model,
            args=arguments,
            train_dataset=sft_dataset(examples, answers_only=config.answers_only, end=plan.end),
            # Trainer needs a dataset to evaluate on. `OurTrainer.evaluate` uses the held-out questions instead.
            eval_dataset=None if questions is None else sft_dataset(examples[:1]),
            processing_class=processor,
            peft_config=lora_config(config, frozen),
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"training: {error}") from error
    trainer.muon_lr, trainer.held_out = config.muon_lr, questions
    return trainer


def train_sft(config: TrainSettings) -> SIFSFTTrainer | None:
    """Run SFT, see `runs.run`. Return the finished trainer, or None if the run was already finished.

    Raises:
        ConfigError: the output folder contains another run, see `runs.claim`.
        ConfigError, ModelError, RecordError: see `sft_trainer`.
    """
    config = config.for_stage("sft")
    identity = claim(config, "sft")
    if identity is None:
        return None
    trainer = sft_trainer(config)
    record(config, identity)
    run(trainer, config, "SFT")
    return trainer
