"""`sif think`: one question about one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sifthinker.ask_settings import DepthFiles, ThinkSettings
from sifthinker.cli.flags import Command, click_options
from sifthinker.cli.terminal import (
    keep_inputs,
    quiet_libraries,
)


@click.command("think", short_help="Answer a question about an image", cls=Command)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click_options(
    ThinkSettings,
    {
        "": ["model", "direct", "output"],
        "Depth": ["depth", *DepthFiles.model_fields],
        "The model": ["max_new_tokens", "max_pixels", "dtype"],
    },
)
def think(image: Path, question: str, given: dict[str, Any]) -> None:
    """Answer QUESTION about IMAGE: print the steps and the answer, and write them as a page.

    Without --model the embedded model answers, where the package has one, and directly: it knows the scenes of `sif world
    build` and nothing else, and has not learnt to think in steps.
    """
    from sifthinker.files import make_folder
    from sifthinker.images import load_image

    if not question.strip():
        raise click.UsageError("the question is blank")
    settings = ThinkSettings.from_values(given)
    page = settings.output or Path(f"{image.stem}.thought.html")
    keep_inputs((page,), image, *([Path(settings.depth)] if settings.depth else []))
    make_folder(page.parent)  # before minutes are spent on what could not be written
    if page.is_dir():
        raise click.UsageError(f"-o {page} is a folder; name a file, .html or .png")
    picture = load_image(image)
    model, direct = (settings.model, settings.direct) if settings.model else (_embedded_model(image), True)
    depth_source = settings.depth
    if depth_source is None:
        from sifthinker.engine.estimators import BESIDE

        beside = any(Path(f"{image.with_suffix('')}{suffix}").is_file() for suffix in BESIDE)
        depth_source = "given" if beside else "none"
        if depth_source == "none":
            click.echo("no depth file beside the image: RGB only (see --depth)", err=True)
    depth = _depth_for(image, picture, depth_source, settings)

    quiet_libraries()
    from sifthinker.show.report import write_thought
    from sifthinker.thinker import Thinker

    thinker = Thinker.load(
        model, dtype=settings.dtype, max_pixels=settings.max_pixels, max_new_tokens=settings.max_new_tokens
    )
    thought = thinker.think(picture, question, depth, direct=direct)
    for number, (regions, words) in enumerate(thought.steps, 1):
        places = "; ".join(
            f"[{', '.join(f'{side:.2f}' for side in region.box)}]"
            + ("" if region.depth is None else f" depth {region.depth:.2f}")
            for region in regions
        )
        click.echo(f"{number}. {places}\n   {words or '(no words)'}")
    if thought.reading.problems and not direct:
        click.echo(f"not a valid chain: {thought.reading.problems[0]}", err=True)
    if not thought.complete:
        click.echo("the model ran out of tokens before it ended; see --max-new-tokens", err=True)
    click.echo(f"answer: {thought.answer if thought.answer is not None else '(none)'}")
    write_thought(page, thought, note=f"model {model}, depth {depth_source}")
    click.echo(page)


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


def _depth_for(image: Path, picture: Any, source: str, files: DepthFiles) -> Any:
    """The depth map that `sif think` was asked to use; None for RGB only."""
    from sifthinker.engine.estimators import ModelDepth, given_depth
    from sifthinker.records import Record

    if source == "none":
        return None
    named = Path(source) if source != "given" and Path(source).is_file() else None
    record = Record(
        id="image",
        image=image.name,
        question="?",
        answer="?",
        boxes=((0.0, 0.0, 1.0, 1.0),),
        depth=None if named is None else named.name,
    )
    root = image.parent if named is None else named.parent
    if source == "given" or named is not None:
        return given_depth(files).depth(record, root, picture)
    return ModelDepth(source).depth(record, root, picture)
