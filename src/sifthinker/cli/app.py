"""`sif app`: ask a model in the browser."""

from __future__ import annotations

import signal
import threading
from typing import Any

import click

from sifthinker.ask_settings import SERVER_FIELDS, AppSettings, DepthFiles
from sifthinker.cli.flags import Command, click_options, direct_option
from sifthinker.cli.terminal import no_model, number_of, quiet_libraries, spinner

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("app", cls=Command)
@click_options(
    AppSettings,
    {
        "": ["model", "compare", "protocol", "coordinates"],
        "Questions": ["data", "images", "box_space", "show_choices"],
        "Depth": ["depth", *DepthFiles.model_fields],
        "Model": ["max_new_tokens", "max_pixels", "dtype"],
        "Model on a server": [*SERVER_FIELDS[:1], "compare_base_url", *SERVER_FIELDS[1:], "compare_api_key_env"],
        "Page": ["host", "port", "max_upload"],
    },
)
@direct_option
def app_command(given: dict[str, Any]) -> None:
    """Serve a web page that asks a model about images.

    Upload an image, with a depth file if you have one, and ask a question. The steps appear while the model writes them,
    drawn over image and depth. With --data, the page offers the questions of a dataset. With --compare, two models answer
    the same question.

    Without --model, the embedded model answers, without steps.

    \b
    Examples:
      sif app
      sif app --model runs/grpo --compare runs/sft --data chains
      sif app --model Qwen/Qwen2.5-VL-7B-Instruct \\
          --base-url http://127.0.0.1:8000/v1 --protocol structured
    """
    settings = AppSettings.from_values(given)
    from sifthinker.errors import need

    need("the app", "gradio")
    about = ""
    if settings.model is None:
        settings, about = _embedded(settings)
    quiet_libraries()
    from sifthinker.depth import DepthReading
    from sifthinker.evaluation.questions import read_questions
    from sifthinker.served import open_thinker
    from sifthinker.show.app import Asker, serving

    questions = []
    if settings.data is not None:
        reading = DepthReading.of(settings)
        questions = read_questions(settings.data, images=settings.images, box_space=settings.box_space, reading=reading)
        click.echo(f"{settings.data}: {number_of(len(questions), 'question')}", err=True)
    depth = None
    if settings.depth is not None:
        from sifthinker.engine.estimators import ModelDepth

        depth = ModelDepth(settings.depth)
    askers = []
    for asked in (settings, *([settings.second] if settings.compare is not None else [])):
        with spinner(f"loading {asked.model}"):
            askers.append(Asker(open_thinker(asked), asked, about if asked is settings else ""))
        click.echo(f"{asked.model}: {'ready' if asked.base_url is None else f'at {asked.base_url}'}", err=True)
    if settings.host not in _LOOPBACK:
        click.echo(f"warning: anyone who can reach {settings.host} can use the page; it has no password", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM must delete the page's folder too
    with serving(settings, askers, questions=questions, depth=depth) as url:
        click.echo(url)
        click.echo("Press Ctrl-C to stop", err=True)
        _wait()


def _wait() -> None:
    """Wait until the user stops the command. The caller then cleans up."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("", err=True)


def _embedded(settings: AppSettings) -> tuple[AppSettings, str]:
    """Return the settings with the embedded model and protocol direct, and a description of the model."""
    from sifthinker.embedded import EMBEDDED

    for name, model in EMBEDDED.items():
        click.echo(
            f"no --model given: using {name}, the embedded model, with --protocol direct. It knows only the scenes of "
            "`sif world build`; its answers about photographs are meaningless",
            err=True,
        )
        return settings.replace(model=name, protocol="direct"), model.about
    raise no_model()
