"""`sif train`, `sif plan` and `sif model`: train models on chains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sifthinker.cli.flags import option
from sifthinker.cli.terminal import (
    FAILED,
    quiet_libraries,
    resumable,
    spinner,
)

_SMALL_GIB = 0.1  # smaller amounts of memory are printed in MiB


@click.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("stage", type=click.Choice(["sft", "grpo"]))
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def train_command(stage: Any, config: Path, overrides: tuple[str, ...]) -> None:
    """Train a model as described in CONFIG, a YAML file.

    Required keys of CONFIG: model, data, output. Other important keys: limit, sample, max_pixels, lora, freeze,
    eval_data; for GRPO also rewards, reward_terms, judge. The fields of TRL's SFTConfig or GRPOConfig are keys under
    training. The page docs/reference/settings.md describes every key. `sif plan CONFIG` checks the file without
    training.

    To resume an interrupted run, repeat the command. It continues from the newest checkpoint. OVERRIDES replace keys of
    CONFIG and are written --key value. Fields of TRL's config need no prefix: `--learning_rate 1e-5` is short for
    `--training.learning_rate 1e-5`.

    \b
    Examples:
      sif train sft configs/nano-sft.yaml
      sif train grpo configs/nano-grpo.yaml --output runs/b --learning_rate 1e-5
    """
    quiet_libraries()
    from sifthinker.training.settings import load_config
    from sifthinker.training.stages import train

    settings = load_config(config, stage, list(_overrides(overrides)))
    with resumable():
        click.echo(train(settings, stage))


@click.command("plan", context_settings={"ignore_unknown_options": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@option(
    "--gpu",
    "gpu_gib",
    type=click.FloatRange(min=0, min_open=True),
    help="Plan for a GPU with this memory, in GiB [default: plan for this machine].",
)
@option("--stage", type=click.Choice(["sft", "grpo"]), help="Training stage [default: the stage whose keys CONFIG has].")
def plan(config: Path, overrides: tuple[str, ...], gpu_gib: float | None, stage: Any) -> None:
    """Print what a training run of CONFIG will do and need, and what is wrong with CONFIG. Loads no weights.

    OVERRIDES replace keys of CONFIG, as in `sif train`.

    \b
    Example:
      sif plan configs/one-24gb-gpu-sft.yaml --gpu 24
    """
    quiet_libraries()
    from sifthinker.training.plan import make_plan
    from sifthinker.training.settings import guess_stage, load_config
    from sifthinker.training.stages import defaults

    replaced = list(_overrides(overrides))
    stage = stage or guess_stage(config, replaced)
    settings = load_config(config, stage, replaced)
    with spinner("counting tokens and estimating memory; many or large images take minutes"):
        made = make_plan(settings, stage, defaults(stage), gpu_gib=gpu_gib)
    click.echo(f"stage: {stage}")
    for name, fact in made.facts.items():
        click.echo(f"{name}: {fact}")
    click.echo(f"memory per process, about {made.total_gib:.1f} GiB:")
    for name, gib in made.memory_gib.items():
        click.echo(f"  {name}: {gib:.2f} GiB" if gib >= _SMALL_GIB else f"  {name}: {gib * 1024:.1f} MiB")
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    for problem in made.problems:
        click.echo(f"problem: {problem}", err=True)
    if made.problems:
        sys.exit(FAILED)


@click.group()
def model() -> None:
    """Merge LoRA adapters into models."""


@model.command("merge", short_help="Merge a LoRA adapter into its base model")
@click.argument("adapter", type=click.Path(path_type=Path))
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@option("--base", help="Base model [default: the one recorded in the adapter].")
def model_merge(adapter: Path, output: Path, base: str | None) -> None:
    """Merge a LoRA ADAPTER, such as a checkpoint of a run, into its base model.

    \b
    Example:
      sif model merge runs/sft/checkpoint-500 -o runs/sft-merged
    """
    quiet_libraries()
    from sifthinker.models import merge_adapter

    merge_adapter(adapter, output, base=base)
    click.echo(output)


def _overrides(words: tuple[str, ...]) -> Iterator[str]:
    """Convert `--key value` to `--key=value`, as `--key=value` is."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise click.UsageError(f"unexpected argument {word!r}. Write overrides as --key value")
        if "=" in word:
            yield word
            continue
        value = next(rest, None)
        if value is None:
            raise click.UsageError(f"{word} has no value. Write {word} VALUE")
        yield f"{word}={value}"
