"""The `sif` command: a table of commands and their files. A file is imported when its command is used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from sifthinker import __version__
from sifthinker.cli.terminal import FAILED
from sifthinker.errors import EXTRAS, MissingExtraError, SIFError

# Command → (file, name in the file, short help). `sif --help` uses this table because importing the files is slow.
# If a file is missing, its commands are missing too.
_COMMANDS = {
    "demo": ("lab", "demo", "Run the complete pipeline on a CPU"),
    "data": ("data", "data", "Build, check and browse chains of thought"),
    "train": ("train", "train_command", "Train a model with SFT or GRPO-SIF"),
    "plan": ("train", "plan", "Show what a training run needs, and check its config"),
    "model": ("train", "model", "Merge LoRA adapters into models"),
    "think": ("think", "think_command", "Answer questions about images"),
    "app": ("app", "app_command", "Ask a model in the browser"),
    "eval": ("evaluate", "evaluation", "Measure a model on questions or benchmarks"),
    "rewards": ("evaluate", "rewards", "Score completions with the rewards of GRPO-SIF"),
    "world": ("lab", "world", "Embedded world: scenes, questions and a tiny model"),
}


class _Labelled(logging.Handler):
    """Prints log records with a label: `note: …` or `warning: …`."""

    def emit(self, record: logging.LogRecord) -> None:
        label = "note" if record.levelno == logging.INFO else record.levelname.lower()
        click.echo(f"{label}: {record.getMessage()}", err=True)


@contextmanager
def _shown_log() -> Iterator[None]:
    """Print what the package logs while a command runs. Python itself would print warnings alone, without a label."""
    logger, handler = logging.getLogger("sifthinker"), _Labelled()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Sif(click.Group):
    """The group of all commands. Turns a `SIFError` into one line on standard error and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a typical workflow."""
        return [name for name, (file, *_) in _COMMANDS.items() if find_spec(f"sifthinker.cli.{file}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a command and return the command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        file, name, _ = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"sifthinker.cli.{file}"), name)
        return found

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without the lines of missing commands."""
        gone = tuple(f"sif {name} " for name in _COMMANDS if name not in self.list_commands(ctx))
        self.help = "\n".join(line for line in (self.help or "").splitlines() if not line.lstrip().startswith(gone))
        super().format_help_text(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end it with a message and an exit status on an error or an interruption."""
        try:
            with _shown_log():
                return super().invoke(ctx)
        except SIFError as error:
            click.echo(f"sif: {error}", err=True)
            ctx.exit(FAILED)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if name not in EXTRAS:
                raise
            click.echo(f"sif: {MissingExtraError('this command', name)}", err=True)
            ctx.exit(FAILED)
        except KeyboardInterrupt as interruption:
            click.echo("\n" + "; ".join(["sif: interrupted", *map(str, interruption.args)]), err=True)
            ctx.exit(130)


@click.group(cls=Sif, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sif")
def main() -> None:
    """Teach vision-language models to think with images.

    \b
    sif demo                 run the complete pipeline on a laptop
    sif data build FILE      build chains of thought from questions with boxes
    sif train sft|grpo FILE  train a model on chains, as a config file describes
    sif think IMAGE "…"      answer a question and write the steps as a page
    sif app                  ask a model in the browser
    sif eval DATASET         measure a model

    `sif COMMAND --help` describes a command and its options.
    """


if __name__ == "__main__":
    main()
