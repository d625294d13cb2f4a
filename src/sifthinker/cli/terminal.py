"""What every command says and shows: messages, progress bars, tables, exit statuses, and guards of what it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sifthinker.endpoint import Usage
    from sifthinker.engine.folder import Counts
    from sifthinker.evaluation.metrics import Result

FAILED = 2  # exit status of an error
SOME_REJECTED = 3  # exit status of a build that finished, but left records out


def keep_inputs(outputs: Iterable[Path | None], *inputs: Path) -> None:
    """Refuse to write over what a command reads."""
    from sifthinker.errors import ConfigError

    written = {output.resolve() for output in outputs if output is not None}
    for given in inputs:
        for file in (given, *(given / name for name in ("examples.jsonl", "rejects.jsonl", "manifest.json"))):
            if file.resolve() in written:
                raise ConfigError(f"{file} would be written over; choose another -o")


def no_model() -> click.UsageError:
    """What is wrong where no model was named and the package carries none."""
    return click.UsageError(
        "this installation carries no model; name one with --model: a folder of `sif train`, or with --direct a name such "
        "as Qwen/Qwen2.5-VL-7B-Instruct"
    )


def printable(text: str) -> str:
    """A text of a model or of data as a terminal may be sent it: control characters, which could steer it, are replaced."""
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in text)


def number_of(number: int, thing: str) -> str:
    """`1 finding`, `2 findings`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_usage(usage: Usage) -> str:
    """Tokens and cost in a few words, "" where there are none."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    return (f", {tokens:,} tokens" if tokens else "") + (f", cost {usage.cost:.2f}" if usage.cost else "")


def say_counts(counts: Counts, rejects: Iterable[dict[str, Any]], named: Path) -> None:
    """Say how many records came through, and for each reason how many did not and what the first of them was."""
    click.echo(f"{counts.accepted} accepted, {counts.clipped} of them clipped, {counts.rejected.total()} rejected", err=True)
    first: dict[str, str] = {}
    for row in rejects:
        first.setdefault(row["code"], row["reason"])
    for code, number in sorted(counts.rejected.items()):
        click.echo(f"  {number} × {code}, the first: {first[code]}", err=True)
    if first:
        click.echo(f"  every one is named in {named}", err=True)


_COLUMNS = 3  # results side by side
_MOST_GROUPS = 18


def print_metrics_of_groups(what: str, groups: Mapping[str, Any], metrics: Sequence[str] | Mapping[str, Any]) -> None:
    """Tables of metrics by group, a few columns each; of very many groups the first. `what` is what they are grouped by."""
    shown = list(groups.items())[:_MOST_GROUPS]
    for start in range(0, len(shown), _COLUMNS):
        columns = {name or "(not stated)": found for name, found in shown[start : start + _COLUMNS]}
        print_metrics(columns, metrics, title=f"by {what}")
    if len(groups) > len(shown):
        click.echo(f"and {len(groups) - len(shown)} groups more, in the JSON file", err=True)


def _cell(result: Result | None, *, narrow: bool) -> str:
    """A result in one line; in two narrow ones, of which three columns fit a terminal of 80 characters."""
    if result is None:
        return "–"
    mean, interval, count = f"{result.mean:.3f}", f"[{result.low:.3f}, {result.high:.3f}]", f"({result.count})"
    return f"{mean} {count}\n{interval}" if narrow else f"{mean} {interval} {count}"


def print_metrics(models: Mapping[str, Any], metrics: Iterable[str], title: str = "") -> None:
    """A table of metrics: a row each, a column for each set of results; a metric that no set has is left out, and one that
    a set lacks is a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{f'{title}: ' if title else ''}mean [95 % interval] (count)")
    table.add_column("metric")
    for name in models:
        table.add_column(name, justify="right")
    for metric in metrics:
        if not any(metric in results for results in models.values()):
            continue
        table.add_row(metric, *(_cell(results.get(metric), narrow=len(models) > 2) for results in models.values()))
    Console().print(table)


@contextmanager
def resumable() -> Iterator[None]:
    """Around work that a repeated command goes on with."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nsif: the same command goes on where this one stopped", err=True)
        raise


def quiet_libraries() -> None:
    """Keep other libraries' bars and deprecation notices out of ours. Their errors and warnings about data still show.

    Where they are not imported yet they are told by the environment: importing them takes seconds, which a model on a server
    does not need.
    """
    import os
    import sys
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")  # Pillow's; ours is an error
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """A line on standard error while something is worked out of which nobody knows how long it takes."""
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; yields advance(done, words)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Speed(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.speed:,.{0 if task.speed >= 10 else 2}f}/s" if task.speed else ""

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, words="")

        def advance(done: int, words: str = "", expected: int | None = total) -> None:
            progress.update(task, completed=done, words=words, total=expected)

        yield advance
