"""Entry points for training: start either stage by its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from sifthinker.training.settings import Stage, TrainSettings, check_stage


def train(settings: TrainSettings, stage: Stage) -> Path:
    """Train a model. An interrupted run resumes from its newest checkpoint. A finished run is not repeated.

    Args:
        settings: settings of the run.
        stage: `sft` trains on ground-truth chains; `grpo` improves the chains with the rewards of GRPO-SIF.
    Returns:
        The output folder, with the model, its processor, checkpoints and the history.
    Raises:
        ConfigError: the stage is unknown, the settings are faulty or belong to the other stage, the run would learn nothing,
            or the folder contains another run.
        ModelError, RecordError: the model or the data cannot be loaded.
    Example:
        >>> chains = TrainSettings(model="nano", data="runs/chains", output="runs/sft", training={"max_steps": 100})
        >>> train(chains, "sft")  # doctest: +SKIP
        PosixPath('runs/sft')
    """
    TrainSettings.expect(settings)
    check_stage(stage)
    # Imported late: trainers need torch, but settings do not.
    module = importlib.import_module(f"sifthinker.training.{stage}")
    getattr(module, f"train_{stage}")(settings)
    return Path(settings.output)


def defaults(stage: Stage) -> dict[str, Any]:
    """Return our defaults for fields of TRL's config that differ from TRL's own."""
    check_stage(stage)
    found: dict[str, Any] = importlib.import_module(f"sifthinker.training.{stage}").DEFAULTS
    return found
