"""The `sif` command: which command lies in which file. A file is imported when its command is used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from sifthinker import __version__
from sifthinker.cli.terminal import FAILED
from sifthinker.errors import EXTRAS, MissingExtraError, SIFError

# Command → (its file, its name there, what it does). The help lists them without importing a file, to answer at once.
# A file that is not there takes its commands with it.
_COMMANDS = {
    "demo": ("lab", "demo", "Everything at once, in minutes, on a CPU"),
    "data": ("data", "data", "Build, check and browse chains of thought"),
    "train": ("train", "train_command", "Train a model: SFT or GRPO-SIF"),
    "plan": ("train", "plan", "What a run will need, and what is wrong with it"),
    "model": ("train", "model", "Merge adapters into models"),
    "think": ("think", "think_command", "Answer a question about an image"),
    "app": ("app", "app_command", "A page in the browser that asks a model"),
    "eval": ("evaluate", "evaluation", "Measure a model"),
    "rewards": ("evaluate", "rewards", "Score completions by the rewards of GRPO-SIF"),
    "world": ("lab", "world", "The embedded world: scenes, questions, a tiny model"),
}


class Sif(click.Group):
    """Finds commands in their files; turns our errors into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which people meet them."""
        return [name for name, (file, *_) in _COMMANDS.items() if find_spec(f"sifthinker.cli.{file}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, its file imported."""
        if cmd_name not in self.list_commands(ctx):
            return None
        file, name, _ = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"sifthinker.cli.{file}"), name)
        return found

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without the lines of commands that are not there."""
        gone = tuple(f"sif {name} " for name in _COMMANDS if name not in self.list_commands(ctx))
        self.help = "\n".join(line for line in (self.help or "").splitlines() if not line.lstrip().startswith(gone))
        super().format_help_text(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors end it with a message, an interruption with what to do next."""
        try:
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
        except KeyboardInterrupt:
            click.echo("\nsif: interrupted", err=True)
            ctx.exit(130)


@click.group(cls=Sif, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sif")
def main() -> None:
    """Teach vision-language models to think with images.

    \b
    sif demo                 everything at once, in minutes, on a laptop
    sif data build FILE      questions with boxes → chains of thought
    sif train sft|grpo FILE  chains → a model that thinks with images
    sif think IMAGE "…"      the model's steps, as a page
    sif app                  the same in the browser, step by step
    sif eval DATASET         how good is it?
    """


if __name__ == "__main__":
    main()
