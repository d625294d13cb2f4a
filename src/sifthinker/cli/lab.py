"""`sif world`, `sif eval world` and `sif demo`: the embedded world. The only command file that imports `lab`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sifthinker.ask_settings import SERVER_FIELDS
from sifthinker.cli.evaluate import run_evaluation
from sifthinker.cli.flags import Command, click_options, direct_option, option
from sifthinker.cli.terminal import (
    SOME_REJECTED,
    bar,
    print_metrics,
    quiet_libraries,
    resumable,
)
from sifthinker.evaluation.settings import EvalSettings


@click.group()
def world() -> None:
    """The embedded world: generated scenes, questions, and a model small enough for a CPU."""


@world.command("build", short_help="Render scenes and questions")
@option(
    "-n", "--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Number of questions, one per scene."
)
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@option(
    "--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]), help="Split of the scenes."
)
@option("--seed", default=0, show_default=True, help="Random seed of the scenes.")
@option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Image width and height, in pixels.")
def world_build(count: int, output: Path, split: str, seed: int, size: int) -> None:
    """Render scenes with exact depth, and write questions about them to `records.jsonl` for `sif data build`.

    \b
    Example:
      sif world build -n 100 -o world
    """
    from sifthinker.lab.questions import write_world

    with bar("scenes", count) as advance:
        records = write_world(output, count, split=split, seed=seed, size=size, progress=advance)
    click.echo(records)


@world.command("nano", short_help="Write an untrained nano model")
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@option("--seed", default=0, show_default=True, help="Random seed of the weights.")
def world_nano(output: Path, seed: int) -> None:
    """Write an untrained nano model with its processor."""
    from sifthinker.lab.nano import write_nano

    write_nano(output, seed=seed)
    click.echo(output)


@world.command("baselines", short_help="Print what guessing scores")
@option("-n", "--count", default=1080, show_default=True, type=click.IntRange(min=1), help="Number of questions.")
@option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]), help="Split of the scenes."
)
@option("--seed", default=0, show_default=True, help="Random seed of the scenes.")
def world_baselines(count: int, split: str, seed: int) -> None:
    """Print what guessing scores.

    Guessing means answering the world's questions without looking at the image. The scores are accuracies by family.
    """
    from rich.console import Console
    from rich.table import Table

    from sifthinker.lab.benchmark import BASELINES, baselines

    table = Table(title="answer accuracy without the image", caption="; ".join(f"{k}: {v}" for k, v in BASELINES.items()))
    for heading in ("family", "questions", *BASELINES):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for family, found in baselines(count, split=split, seed=seed).items():
        accuracies = [f"{accuracy:.3f}" for accuracy, _ in found.values()]
        table.add_row(family, str(next(iter(found.values()))[1]), *accuracies)
    Console().print(table)


@world.command("pretrain", short_help="Train nano from random weights")
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the run and the model.")
@option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Factor on the number of scenes.",
)
@option("--batch-size", default=48, show_default=True, type=click.IntRange(min=1), help="Scenes per training step.")
@option("--seed", default=0, show_default=True, help="Random seed of the weights.")
def world_pretrain(output: Path, scale: float, batch_size: int, seed: int) -> None:
    """Train a nano model from random weights.

    The model learns to recognise the objects in a scene, their boxes and their depth, and to draw conclusions from what it
    found. It never sees a chain. Training takes about an hour on two CPU cores. To resume an interrupted run, repeat the
    command.

    The nano model in the package was trained with this recipe, except for two differences. Its scores differ a little from
    those of this command. See docs/lab/nano.md.
    """
    quiet_libraries()
    from dataclasses import replace

    from sifthinker.lab.pretrain import CURRICULUM, pretrain

    with resumable():
        curriculum = [replace(part, scenes=max(1, round(part.scenes * scale))) for part in CURRICULUM]
        pretrain(output, curriculum=curriculum, batch_size=batch_size, seed=seed)
    click.echo(output)


@world.command("pack", short_help="Pack a nano model for the package")
@click.argument("model", type=click.Path(path_type=Path))
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@option("--about", required=True, help="Introduction of the model card: what the model is and how it was made.")
@option(
    "--questions",
    default=1080,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of test questions to evaluate on.",
)
@option(
    "--scenes", default=270, show_default=True, type=click.IntRange(min=1), help="Number of test scenes to find objects in."
)
def world_pack(model: Path, output: Path, about: str, questions: int, scenes: int) -> None:
    """Convert a nano MODEL to the form in the package: weights in bfloat16, measured results, and a model card."""
    quiet_libraries()
    from sifthinker.lab.benchmark import card
    from sifthinker.lab.nano import pack

    pack(model, output)
    card(output, about, questions=questions, scenes=scenes, progress=lambda text: click.echo(text, err=True))
    click.echo(output)


@world.command("study", short_help="Measure the effect of each part of the method")
@option(
    "-o",
    "--output",
    default=Path("runs/study"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for runs and results.",
)
@option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Number of seeds per arm.")
@option("--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="First seed.")
@option("--arms", help="Names of arms, separated by commas [default: all].")
@option("--base", default="nano", show_default=True, help="Model to start from.")
@option("--short", is_flag=True, help="Run only a few steps of each part, as a quick test.")
@option("--fresh", is_flag=True, help="Start over instead of resuming.")
def world_study(output: Path, seeds: int, first_seed: int, arms: str | None, base: str, short: bool, fresh: bool) -> None:
    """Measure the effect of each part of the method: train every arm on the embedded world, with several seeds.

    Takes hours. To resume an interrupted study, repeat the command. After every arm it writes study.json and study.html with
    all results in the folder. Several processes may share one folder, each with its own seeds (--first-seed).
    """
    quiet_libraries()
    from sifthinker.lab.study import ARMS, SHORT, STUDY, run_study

    with resumable():
        page = run_study(
            output,
            arms=arms.split(",") if arms else list(ARMS),
            seeds=range(first_seed, first_seed + seeds),
            schedule=SHORT if short else STUDY,
            bar=bar,
            say=lambda text: click.echo(text, err=True),
            base=base,
            fresh=fresh,
        )
    click.echo(page)


@click.command("demo")
@option(
    "-o",
    "--output",
    default=Path("runs/demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for datasets, runs and the report.",
)
@option("--short", is_flag=True, help="Run only a few steps of each part, as a quick test.")
@option("--fresh", is_flag=True, help="Start over instead of resuming.")
def demo(output: Path, short: bool, fresh: bool) -> None:
    """Run the complete pipeline on a CPU: scenes, chains, SFT, GRPO-SIF, evaluation and report."""
    quiet_libraries()
    from sifthinker.evaluation.metrics import METRICS
    from sifthinker.lab.demo import run_demo

    with resumable():
        report, results = run_demo(output, short=short, fresh=fresh, bar=bar, say=lambda text: click.echo(text, err=True))
    print_metrics(results, METRICS)
    click.echo(report)


@click.command("world", cls=Command, short_help="Measure a model on the embedded world")
@click_options(EvalSettings, ("model", "output", "protocol", "rgb_only", *SERVER_FIELDS))
@direct_option
@option(
    "-n",
    "--count",
    default=324,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of questions, spread evenly over families and levels.",
)
@option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]), help="Split of the scenes."
)
@option("--seed", default=0, show_default=True, help="Random seed of the scenes.")
@option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Image width and height, in pixels.")
@option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Questions per batch.")
@option(
    "--max-new-tokens",
    default=400,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum length of an answer, in tokens.",
)
@option("--fresh", is_flag=True, help="Start over instead of resuming.")
def eval_world(
    given: dict[str, Any],
    count: int,
    split: str,
    seed: int,
    size: int,
    batch_size: int,
    max_new_tokens: int,
    fresh: bool,
) -> None:
    """Measure a model on held-out scenes of the embedded world: every metric, by family, with intervals."""
    if "model" not in given:
        raise click.UsageError("--model is missing. Specify the model to measure")
    from sifthinker.lab.benchmark import world_questions

    data = f"world, split {split}, seed {seed}, size {size}"
    values = {"data": data, "batch_size": batch_size, "max_new_tokens": max_new_tokens, **given}
    settings = EvalSettings.from_values(values)
    questions = list(world_questions(count, split=split, seed=seed, size=size))
    if run_evaluation(settings, questions=questions, fresh=fresh).errors:
        sys.exit(SOME_REJECTED)
