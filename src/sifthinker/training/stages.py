"""The two stages by name, for those who do not care how each is trained."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from sifthinker.training.settings import Stage, TrainSettings, check_stage


def train(settings: TrainSettings, stage: Stage) -> Path:
    """Train a model. A run that was interrupted goes on from its newest checkpoint; one that is finished does nothing.

    Args:
        settings: of the run.
        stage: `sft` learns chains by imitation, `grpo` improves them by the rewards of GRPO-SIF.
    Returns:
        The output folder, which holds the model, its processor, checkpoints and the history.
    Raises:
        ConfigError: no such stage, settings that are none or do not fit it, a plan with problems, or a folder that holds
            another run.
        ModelError, RecordError: the model or the data cannot be loaded.
    Example:
        >>> chains = TrainSettings(model="nano", data="runs/chains", output="runs/sft", training={"max_steps": 100})
        >>> train(chains, "sft")  # doctest: +SKIP
        PosixPath('runs/sft')
    """
    TrainSettings.expect(settings)
    check_stage(stage)
    # Imported here: trainers need torch, settings do not.
    module = importlib.import_module(f"sifthinker.training.{stage}")
    getattr(module, f"train_{stage}")(settings)
    return Path(settings.output)


def defaults(stage: Stage) -> dict[str, Any]:
    """Our defaults for fields of TRL's config, where they differ from TRL's own."""
    check_stage(stage)
    found: dict[str, Any] = importlib.import_module(f"sifthinker.training.{stage}").DEFAULTS
    return found
