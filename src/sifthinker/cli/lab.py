"""`sif world` and `sif demo`: the embedded world. The only command file that imports `lab`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sifthinker.ask_settings import SERVER_FIELDS
from sifthinker.cli.evaluate import run_evaluation
from sifthinker.cli.flags import Command, click_options, direct_option
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
    """The embedded world: scenes, questions, and a model small enough for a CPU."""


@world.command("build", short_help="Render scenes and questions")
@click.option("-n", "--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Questions, one a scene.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Moves to other scenes.")
@click.option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Side of the pictures in pixels.")
def world_build(count: int, output: Path, split: str, seed: int, size: int) -> None:
    """Render scenes with exact depth, and questions about them: `records.jsonl` for `sif data build`."""
    from sifthinker.lab.questions import write_world

    with bar("scenes", count) as advance:
        records = write_world(output, count, split=split, seed=seed, size=size, progress=advance)
    click.echo(records)


@world.command("nano", short_help="An untrained nano model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def world_nano(output: Path, seed: int) -> None:
    """Write an untrained nano model with its processor."""
    from sifthinker.lab.nano import write_nano

    write_nano(output, seed=seed)
    click.echo(output)


@world.command("baselines", short_help="Scores of guessing")
@click.option("-n", "--count", default=1080, show_default=True, type=click.IntRange(min=1), help="Questions.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Moves to other scenes.")
def world_baselines(count: int, split: str, seed: int) -> None:
    """Say what is scored on the world's questions without looking at a picture."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.lab.benchmark import BASELINES, baselines

    table = Table(title="answer accuracy without looking", caption="; ".join(f"{k}: {v}" for k, v in BASELINES.items()))
    for heading in ("family", "questions", *BASELINES):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for family, found in baselines(count, split=split, seed=seed).items():
        accuracies = [f"{accuracy:.3f}" for accuracy, _ in found.values()]
        table.add_row(family, str(next(iter(found.values()))[1]), *accuracies)
    Console().print(table)


@world.command("pretrain", short_help="Train nano from random weights")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run and of the model.")
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Of all scenes.")
@click.option("--batch-size", default=48, show_default=True, type=click.IntRange(min=1), help="Scenes a step.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def world_pretrain(output: Path, scale: float, batch_size: int, seed: int) -> None:
    """Teach a nano model from random weights what there is in scenes, where, and how far: about an hour on two CPU cores.

    The result is the base model that the package carries. It has never seen a chain. An interrupted run goes on.
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
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--about", required=True, help="What the model is and how it was made: the opening of its card.")
@click.option("--questions", default=1080, show_default=True, type=click.IntRange(min=1), help="Test questions to measure.")
@click.option("--scenes", default=270, show_default=True, type=click.IntRange(min=1), help="Test scenes to find objects in.")
def world_pack(model: Path, output: Path, about: str, questions: int, scenes: int) -> None:
    """Write a nano MODEL as the package carries it, measured, with its card: weights in bfloat16."""
    quiet_libraries()
    from sifthinker.lab.benchmark import card
    from sifthinker.lab.nano import pack

    pack(model, output)
    card(output, about, questions=questions, scenes=scenes, progress=lambda text: click.echo(text, err=True))
    click.echo(output)


@world.command("study", short_help="Measure what each part of the method does")
@click.option("-o", "--output", default=Path("runs/study"), show_default=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="How many seeds of every arm.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them.")
@click.option("--arms", help="Names with commas between them [default: all].")
@click.option("--base", default="nano", show_default=True, help="Model to start from.")
@click.option("--short", is_flag=True, help="A few steps of everything, to see that it works.")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
def world_study(output: Path, seeds: int, first_seed: int, arms: str | None, base: str, short: bool, fresh: bool) -> None:
    """Measure what each part of the method does: arms of training on the embedded world, with several seeds.

    Takes hours; what is finished is kept, and the same command goes on. Writes study.json and study.html after every arm, of
    all that the folder holds: several processes may fill one folder, each with other seeds (--first-seed).
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
@click.option("-o", "--output", default=Path("runs/demo"), show_default=True, type=click.Path(path_type=Path))
@click.option("--short", is_flag=True, help="A few steps of everything, to see that it works.")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
def demo(output: Path, short: bool, fresh: bool) -> None:
    """Scenes → chains → SFT → GRPO-SIF → evaluation → report, in minutes on a CPU."""
    quiet_libraries()
    from sifthinker.evaluation.metrics import METRICS
    from sifthinker.lab.demo import run_demo

    with resumable():
        report, results = run_demo(output, short=short, fresh=fresh, bar=bar, say=lambda text: click.echo(text, err=True))
    print_metrics(results, METRICS)
    click.echo(report)


@click.command("world", cls=Command, short_help="The embedded world's questions")
@click_options(EvalSettings, ("model", "output", "protocol", "rgb_only", *SERVER_FIELDS))
@direct_option
@click.option(
    "-n",
    "--count",
    default=324,
    show_default=True,
    type=click.IntRange(min=1),
    help="Questions, in turn of each family and level.",
)
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Random seed of the scenes.")
@click.option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Side of the pictures in pixels.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Questions at once.")
@click.option(
    "--max-new-tokens", default=400, show_default=True, type=click.IntRange(min=1), help="Longest answer, in tokens."
)
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
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
    """Ask a model questions about held-out scenes of the embedded world: every metric, by family, with intervals."""
    if "model" not in given:
        raise click.UsageError("name a model with --model")
    from sifthinker.lab.benchmark import world_questions

    data = f"world, split {split}, seed {seed}, size {size}"
    values = {"data": data, "batch_size": batch_size, "max_new_tokens": max_new_tokens, **given}
    settings = EvalSettings.from_values(values)
    questions = list(world_questions(count, split=split, seed=seed, size=size))
    if run_evaluation(settings, questions=questions, fresh=fresh).errors:
        sys.exit(SOME_REJECTED)
