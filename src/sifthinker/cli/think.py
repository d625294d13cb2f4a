"""`sif think`: one question about one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sifthinker.ask_settings import SERVER_FIELDS, DepthFiles, ThinkSettings
from sifthinker.cli.flags import Command, click_options, direct_option
from sifthinker.cli.terminal import (
    keep_inputs,
    quiet_libraries,
)


@click.command("think", cls=Command)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click_options(
    ThinkSettings,
    {
        "": ["model", "protocol", "coordinates", "output"],
        "Depth": ["depth", *DepthFiles.model_fields],
        "The model": ["max_new_tokens", "max_pixels", "dtype"],
        "A model on a server": SERVER_FIELDS,
    },
)
@direct_option
def think_command(image: Path, question: str, given: dict[str, Any]) -> None:
    """Answer QUESTION about IMAGE: print the steps and the answer, and write them as a page.

    Without --model the embedded model answers, where the package has one, and directly: it knows the scenes of `sif world
    build` and nothing else, and has not learnt to think in steps.
    """
    from sifthinker.files import make_folder
    from sifthinker.images import load_image
    from sifthinker.thinking import has_depth_beside

    if not question.strip():
        raise click.UsageError("the question is blank")
    settings = ThinkSettings.from_values(given)
    page = settings.output or Path(f"{image.stem}.thought.html")
    keep_inputs((page,), image, *([Path(settings.depth)] if settings.depth else []))
    make_folder(page.parent)  # before minutes are spent on what could not be written
    if page.is_dir():
        raise click.UsageError(f"-o {page} is a folder; name a file, .html or .png")
    load_image(image)  # what is wrong with it is said before a model is loaded
    if settings.model is None:
        settings = settings.replace(model=_embedded_model(image), protocol="direct")
    if settings.depth is None:
        settings = settings.replace(depth="given" if has_depth_beside(image) else "none")
        if settings.depth == "none":
            click.echo("no depth file beside the image: RGB only (see --depth)", err=True)

    quiet_libraries()
    from sifthinker.chain import other_coordinates
    from sifthinker.coordinates import default_for
    from sifthinker.show.report import write_thought
    from sifthinker.thinking import think

    thought = think(settings, image, question)
    for number, (regions, words) in enumerate(thought.steps, 1):
        places = "; ".join(
            f"[{', '.join(f'{side:.2f}' for side in region.box)}]"
            + ("" if region.depth is None else f" depth {region.depth:.2f}")
            for region in regions
        )
        click.echo(f"{number}. {places}\n   {words or '(no words)'}")
    if thought.reading.problems and not settings.direct:
        click.echo(f"not a valid chain: {thought.reading.problems[0]}", err=True)
        looks = other_coordinates(thought.text, thought.frame)
        if looks:
            family = default_for(_type_or_name(settings.model))
            known = "" if family == "unit" else f"; published models of its family write {family}"
            click.echo(f"its boxes look like {looks}; --coordinates says what the model has learnt{known}", err=True)
    if not thought.complete:
        click.echo("the model ran out of tokens before it ended; see --max-new-tokens", err=True)
    click.echo(f"answer: {thought.answer if thought.answer is not None else '(none)'}")
    write_thought(page, thought, note=f"model {settings.model}, depth {settings.depth}")
    click.echo(page)


def _type_or_name(model: str | None) -> str:
    """What tells a model's family: the type in its folder's config.json, else its name."""
    try:
        config = json.loads((Path(model or "") / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return model or ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def _embedded_model(image: Path) -> str:
    """The embedded model answers; say so, and warn where it cannot know what it is shown."""
    from sifthinker.embedded import EMBEDDED
    from sifthinker.images import bears_mark

    for name, model in EMBEDDED.items():
        if bears_mark(image, model.mark):
            click.echo(f"{name} answers: the embedded model of three million parameters, no steps; see --model", err=True)
        else:
            click.echo(
                f"warning: no --model was named, and {name}, the embedded model, knows only the scenes of `sif world "
                f"build`; what it says about {image.name} means nothing. For photographs: sif think IMAGE QUESTION "
                "--model Qwen/Qwen2.5-VL-7B-Instruct --direct, or without --direct a model of `sif train`",
                err=True,
            )
        return name
    raise click.UsageError(
        "this installation carries no model; name one with --model: a folder of `sif train`, or with --direct a name "
        "such as Qwen/Qwen2.5-VL-7B-Instruct"
    )
