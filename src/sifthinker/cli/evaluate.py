"""`sif eval` and `sif rewards`: how good a model or its completions are."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifthinker.cli.terminal import (
    bar,
    keep_inputs,
)

if TYPE_CHECKING:
    from sifthinker.evaluation.completions import Scored
    from sifthinker.scoring.rewards import Scores


class _Evaluation(click.Group):
    """`sif eval`, with the embedded world's benchmark where the package has one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *(["world"] if find_spec("sifthinker.cli.lab") else [])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "world" or "world" not in self.list_commands(ctx):
            return super().get_command(ctx, cmd_name)
        found: click.Command = import_module("sifthinker.cli.lab").eval_world
        return found


@click.group("eval", cls=_Evaluation, short_help="Measure a model")
def evaluation() -> None:
    """Measure a model."""


@click.command("rewards", short_help="Score completions by the rewards of GRPO-SIF")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset whose examples the completions' ids name.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Page to write: completions with their boxes drawn.")
@click.option("--most", default=60, show_default=True, type=click.IntRange(min=1), help="Completions on the page.")
def rewards(file: Path, data: Path | None, output: Path | None, most: int) -> None:
    """Score the completions of FILE, JSON lines, by the four rewards of GRPO-SIF.

    Each line has `completion` and `id`, the id of an example of --data; or `completion`, `answer`, `boxes`, and perhaps
    `depth`, `choices` and `images`.
    """
    from rich.console import Console
    from rich.table import Table

    from sifthinker.errors import RecordError
    from sifthinker.evaluation.completions import score_file, summarise_scores
    from sifthinker.files import make_folder

    if output:
        keep_inputs((output,), file, *([data] if data else []))
        make_folder(output.parent)
    shown: list[Scored] = []
    total = 0
    with bar("completions", None) as advance:

        def scores() -> Iterator[Scores]:
            nonlocal total
            for item in score_file(file, data):
                total += 1
                if len(shown) < most:
                    shown.append(item)
                if total % 100 == 0:
                    advance(total)
                yield item.scores

        summary = summarise_scores(scores())
        advance(total)
    if not total:
        raise RecordError(f"{file}: holds no completion")
    table = Table(title=f"{total} completions")
    for heading in ("reward", "count", "mean", "std", "least", "greatest"):
        table.add_column(heading, justify="left" if heading == "reward" else "right")
    table.add_column("reasons")
    for name, found in summary.items():
        numbers = (f"{value:.3f}" for value in (found.mean, found.std, found.low, found.high))
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
        table.add_row(name, str(found.count), *numbers, reasons)
    Console().print(table)
    if output:
        from sifthinker.show.report import scored_page, write_page

        write_page(output, scored_page(shown, title=f"Rewards of {file.name}", total=total))
        click.echo(output)
