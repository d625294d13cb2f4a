"""`sif think`: one question about one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifthinker.cli.data import depth_options
from sifthinker.cli.terminal import (
    keep_inputs,
    quiet_libraries,
)

if TYPE_CHECKING:
    pass


@click.command("think")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--model", help="Model folder or Hugging Face name [default: the embedded model, where there is one].")
@click.option(
    "--depth",
    "depth_source",
    metavar="given|none|FILE|MODEL",
    help="The depth file beside the image, RGB only, a depth file, or a depth model. [default: the file if there is one]",
)
@depth_options
@click.option("--direct", is_flag=True, help="Ask for the answer alone, as of a model that knows no chains.")
@click.option("--max-new-tokens", default=1024, show_default=True, type=click.IntRange(min=1))
@click.option("--max-pixels", type=click.IntRange(min=1), help="Greatest area of an image, for models that resize by area.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Page to write, or with the ending .png one picture [default: IMAGE's name .thought.html].",
)
def think(
    image: Path,
    question: str,
    model: str | None,
    depth_source: str | None,
    depth_encoding: Any,
    depth_near: Any,
    depth_hole: tuple[float, ...],
    direct: bool,
    max_new_tokens: int,
    max_pixels: int | None,
    output: Path | None,
) -> None:
    """Answer QUESTION about IMAGE: print the steps and the answer, and write them as a page.

    Without --model the embedded model answers, where the package has one, and directly: it knows the scenes of `sif world
    build` and nothing else, and has not learnt to think in steps.
    """
    from sifthinker.files import make_folder
    from sifthinker.images import load_image

    if not question.strip():
        raise click.UsageError("the question is blank")
    page = output or Path(f"{image.stem}.thought.html")
    keep_inputs((page,), image, *([Path(depth_source)] if depth_source else []))
    make_folder(page.parent)  # before minutes are spent on what could not be written
    if page.is_dir():
        raise click.UsageError(f"-o {page} is a folder; name a file, .html or .png")
    picture = load_image(image)
    if model is None:
        model, direct = _embedded_model(image), True
    if depth_source is None:
        from sifthinker.engine.estimators import BESIDE

        beside = any(Path(f"{image.with_suffix('')}{suffix}").is_file() for suffix in BESIDE)
        depth_source = "given" if beside else "none"
        if depth_source == "none":
            click.echo("no depth file beside the image: RGB only (see --depth)", err=True)
    depth = _depth_for(image, picture, depth_source, (depth_encoding, depth_near, depth_hole))

    quiet_libraries()
    from sifthinker.show.report import Card, thought_page, write_page, write_picture
    from sifthinker.thinker import Thinker

    thinker = Thinker.load(model, max_new_tokens=max_new_tokens, max_pixels=max_pixels)
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
    if page.suffix.lower() == ".png":
        write_picture(page, Card(thought))
    else:
        write_page(page, thought_page(thought, note=f"model {model}, depth {depth_source}"))
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


def _depth_for(image: Path, picture: Any, source: str, reading: tuple[Any, Any, tuple[float, ...]]) -> Any:
    """The depth map that `sif think` was asked to use; None for RGB only. `reading` is what `GivenDepth` takes."""
    from sifthinker.engine.estimators import GivenDepth, ModelDepth
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
        return GivenDepth(*reading).depth(record, root, picture)
    return ModelDepth(source).depth(record, root, picture)
