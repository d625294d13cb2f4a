"""`sif app`: a page in the browser that asks a model."""

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
        "The model": ["max_new_tokens", "max_pixels", "dtype"],
        "A model on a server": [*SERVER_FIELDS[:1], "compare_base_url", *SERVER_FIELDS[1:]],
        "The page": ["host", "port", "max_upload"],
    },
)
@direct_option
def app_command(given: dict[str, Any]) -> None:
    """Open a page on which a model is asked about photographs, step by step.

    Send a photograph, with its depth if there is one, and ask. The steps appear as the model writes them, drawn over image
    and depth. With --data the questions of a dataset can be browsed and asked, with --compare two models at once.

    Without --model the embedded model answers, where the package has one, and directly.
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
        click.echo(f"warning: who reaches {settings.host} can use the page; it asks for no password", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # from here on there is a folder to delete
    with serving(settings, askers, questions=questions, depth=depth) as url:
        click.echo(url)
        click.echo("Ctrl-C ends it", err=True)
        _wait()


def _wait() -> None:
    """Until somebody ends the command; then what it holds is cleaned up."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("", err=True)


def _embedded(settings: AppSettings) -> tuple[AppSettings, str]:
    """The settings with the embedded model, asked directly, and what it can do."""
    from sifthinker.embedded import EMBEDDED

    for name, model in EMBEDDED.items():
        click.echo(
            f"no --model was named: {name} answers, directly. It knows only the scenes of `sif world build`; what it says "
            "about photographs means nothing",
            err=True,
        )
        return settings.replace(model=name, protocol="direct"), model.about
    raise no_model()
