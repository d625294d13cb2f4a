"""Shared output of all commands: messages, progress bars, tables, exit statuses, and guards against overwriting inputs."""

from __future__ import annotations

import re
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
SOME_REJECTED = 3  # exit status of a command that finished, but rejected records or failed on some questions


def keep_inputs(outputs: Iterable[Path | None], *inputs: Path) -> None:
    """Raise `ConfigError` if an output would overwrite an input."""
    from sifthinker.errors import ConfigError

    written = {output.resolve() for output in outputs if output is not None}
    for given in inputs:
        for file in (given, *(given / name for name in ("examples.jsonl", "rejects.jsonl", "manifest.json"))):
            if file.resolve() in written:
                raise ConfigError(f"{file} is an input and would be overwritten. Choose another output")


def no_model() -> click.UsageError:
    """Return the error for a missing --model when the package contains no embedded model."""
    return click.UsageError(
        "this installation contains no embedded model. Specify one with --model: a folder written by `sif train` or, with "
        "--direct, a name such as Qwen/Qwen2.5-VL-7B-Instruct"
    )


def printable(text: str) -> str:
    """Replace the control characters in a text from a model or from data: they could control the terminal."""
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in text)


def number_of(number: int, thing: str) -> str:
    """Return a count with its noun: `1 finding`, `2 findings`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_usage(usage: Usage) -> str:
    """Return tokens and cost as text, "" if both are 0."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    return (f", {tokens:,} tokens" if tokens else "") + (f", cost {usage.cost:.2f}" if usage.cost else "")


_MOST_FORMS = 3  # messages of one reason code
# What differs between messages of one form: quoted texts, brackets, words with a digit, a slash or a dot inside, and their
# lists.
_NAMES = re.compile(r"""('[^']*'|"[^"]*"|\[[^\]]*\]|[^\s,;:()]*(?:\d|\w[/.]\w)[^\s,;:()]*)""")


def say_counts(counts: Counts, rejects: Iterable[dict[str, Any]], named: Path) -> None:
    """Print how many records were accepted and rejected. For each reason code, print its count and its first messages.

    Messages that differ only in names and numbers count as one.
    """
    from sifthinker.records import without_place

    click.echo(f"{counts.accepted} accepted, {counts.clipped} of them clipped, {counts.rejected.total()} rejected", err=True)
    first: dict[str, dict[str, str]] = {}  # code → form of the message → the first such message
    for row in rejects:
        # Builds of earlier versions wrote the place into the reason too.
        reason = without_place(row["reason"], row["source"])
        first.setdefault(row["code"], {}).setdefault(_NAMES.sub("…", reason), f"{row['source']}: {reason}")
    for code, number in sorted(counts.rejected.items()):
        shown, *others = first[code].values()
        click.echo(f"  {number} × {code}; the first: {shown}", err=True)
        for other in others[: _MOST_FORMS - 1]:
            click.echo(f"    also {other}", err=True)
        if len(others) >= _MOST_FORMS:
            click.echo(f"    … and {number_of(len(others) - _MOST_FORMS + 1, 'more form')}; see {named}", err=True)
    if first:
        click.echo(f"  complete list: {named}", err=True)


_COLUMNS = 3  # results side by side
_MOST_GROUPS = 18


def print_metrics_of_groups(what: str, groups: Mapping[str, Any], metrics: Sequence[str] | Mapping[str, Any]) -> None:
    """Print tables of metrics by group, a few groups per table, and at most the first `_MOST_GROUPS` groups.

    Args:
        what: the name of the grouping, such as `family`.
        groups: group → results.
        metrics: names of the metrics, in order.
    """
    shown = list(groups.items())[:_MOST_GROUPS]
    for start in range(0, len(shown), _COLUMNS):
        columns = {name or "(not stated)": found for name, found in shown[start : start + _COLUMNS]}
        print_metrics(columns, metrics, title=f"by {what}")
    if len(groups) > len(shown):
        click.echo(f"and {len(groups) - len(shown)} more groups; see the JSON file", err=True)


def _cell(result: Result | None, *, narrow: bool) -> str:
    """Return a result as one line, or as two short lines: three such columns fit into 80 characters."""
    if result is None:
        return "–"
    mean, interval, count = f"{result.mean:.3f}", f"[{result.low:.3f}, {result.high:.3f}]", f"({result.count})"
    return f"{mean} {count}\n{interval}" if narrow else f"{mean} {interval} {count}"


def print_metrics(models: Mapping[str, Any], metrics: Iterable[str], title: str = "") -> None:
    """Print a table of metrics: one row per metric, one column per set of results.

    A metric that no set has is left out. A dash marks a metric that a set lacks.
    """
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
    """Let an interruption of the work in this block say how to resume it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("to resume, repeat the command") from None


def quiet_libraries() -> None:
    """Hide the progress bars and deprecation notices of other libraries. Their errors and warnings about data still show.

    For a library that is not imported yet, this sets environment variables. Importing it would take seconds, and models on
    a server do not need it.
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
    """Show a title with a spinner on standard error, for work of unknown length."""
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error, with words below it; yields advance(done, words, expected)."""
    from rich.console import Console, RenderableType
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
    from rich.table import Column
    from rich.text import Text

    class WithWords(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            yield from (Text(task.fields["words"]) for task in self.tasks if task.fields["words"])

    class Speed(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.speed:,.{0 if task.speed >= 10 else 2}f}/s" if task.speed else ""

    console = Console(stderr=True)
    # The bar takes what the words and numbers leave of the line. Rich would cut them to make room for the bar.
    drawn = [BarColumn(None, table_column=Column(ratio=1, min_width=4))] if console.width >= 80 else []
    columns = (
        TextColumn("{task.description}"),
        *drawn,
        MofNCompleteColumn(),
        Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with WithWords(*columns, console=console, expand=bool(drawn)) as progress:
        task = progress.add_task(title, total=total, words="")

        def advance(done: int, words: str = "", expected: int | None = total) -> None:
            progress.update(task, completed=done, words=words, total=expected)

        try:
            yield advance
        except BaseException:
            # Nothing was done: leave only the error on the screen.
            if not progress.tasks[task].completed:
                progress.live.transient, console.quiet = True, not console.is_interactive
            raise
        if progress.tasks[task].total is None:
            progress.update(task, total=progress.tasks[task].completed)
