"""`sif think`: ask one question about one image or about every image in a folder, or the questions in a question file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifthinker.ask_settings import SERVER_FIELDS, DepthFiles, ThinkSettings
from sifthinker.cli.flags import Command, click_options, direct_option, option
from sifthinker.cli.terminal import (
    SOME_REJECTED,
    bar,
    keep_inputs,
    no_model,
    number_of,
    printable,
    quiet_libraries,
    resumable,
)
from sifthinker.evaluation.settings import EvalSettings

if TYPE_CHECKING:
    from sifthinker.evaluation.questions import Question
    from sifthinker.thinker import Thought

_QUESTIONS = (".jsonl", ".json")  # endings of question files
_MOST_NAMED = 20  # files in a message


@click.command("think", cls=Command)
@click.argument("image", type=click.Path(path_type=Path), metavar="IMAGE|FOLDER|FILE.jsonl")
@click.argument("question", required=False)
@click_options(
    ThinkSettings,
    {
        "": ["model", "protocol", "coordinates", "output"],
        "Depth": ["depth", *DepthFiles.model_fields],
        "Model": ["max_new_tokens", "max_pixels", "dtype"],
        "Model on a server": SERVER_FIELDS,
    },
)
@click_options(
    EvalSettings,
    {"Many questions": ["limit", "batch_size", "show_choices", "images", "box_space"]},
    into="many",
)
@direct_option
@option("--json", "as_json", is_flag=True, help="Print only the thoughts, one JSON line each.")
@option("--fresh", is_flag=True, help="Start over instead of resuming (many questions).")
def think_command(
    image: Path, question: str | None, given: dict[str, Any], many: dict[str, Any], as_json: bool, fresh: bool
) -> None:
    """Answer QUESTION about IMAGE. Prints the steps and the answer, and writes them as a web page.

    With FOLDER, the question is asked about every image in the folder. FILE.jsonl and dataset folders contain their own
    questions; for the format see `sif eval`. Both write thoughts as JSON lines, and beside them a page and an
    evaluation file (.eval.json). To resume an interrupted command, repeat it.

    Without --model, the embedded model answers, without steps. It knows only the scenes of `sif world build`.

    \b
    Examples:
      sif think kitchen.jpg "What colour is the mug?" --model runs/grpo
      sif think kitchen.jpg "What colour is the mug?" \\
          --model Qwen/Qwen2.5-VL-7B-Instruct --direct
      sif think photos/ "How many people are there?" \\
          --model runs/grpo -o people.jsonl
    """
    if question is not None and not question.strip():
        raise click.UsageError("QUESTION is blank. Write a question")
    settings = ThinkSettings.from_values(given)
    of_questions = image.suffix.lower() in _QUESTIONS and not image.is_dir()
    if of_questions and question is not None:
        raise click.UsageError(f"{image} contains its own questions. Leave QUESTION out")
    if of_questions or image.is_dir():
        _think_many(image, question, settings, many, as_json, fresh)
        return
    if question is None:
        raise click.UsageError(f'QUESTION is missing. Write: sif think {image} "What is …?"')
    if many or fresh:
        name = next(iter(many), "fresh").replace("_", "-")
        raise click.UsageError(f"--{name} applies only to many questions: a folder of images or a question file")
    if settings.budget is not None:
        raise click.UsageError("--budget applies only to many questions. Leave it out")
    _think_one(image, question, settings, as_json)


def _think_one(image: Path, question: str, settings: ThinkSettings, as_json: bool) -> None:
    from sifthinker.ask_settings import names_thought
    from sifthinker.files import make_folder, to_json
    from sifthinker.images import load_image
    from sifthinker.thinking import has_depth_beside

    page = settings.output or (None if as_json else Path(f"{image.stem}.thought.html"))
    if page is not None:
        keep_inputs((page,), image, *([Path(settings.depth)] if settings.depth else []))
        make_folder(page.parent)  # fail before the model runs for minutes
        if page.is_dir():
            raise click.UsageError(f"-o {page} is a folder. Specify a file that ends in .html or .png")
        if not names_thought(page):
            raise click.UsageError(
                f"-o {page}: JSON lines are only for many questions. Specify a file that ends in .html or .png"
            )
    load_image(image)  # report a broken image before the model is loaded
    if settings.model is None:
        settings = settings.replace(model=_embedded_model([image]), protocol="direct")
    if settings.depth is None:
        settings = settings.replace(depth="given" if has_depth_beside(image) else "none")
        if settings.depth == "none":
            click.echo("no depth file beside the image: RGB only (see --depth)", err=True)

    quiet_libraries()
    from sifthinker.results import thought_to_json
    from sifthinker.show.report import write_thought
    from sifthinker.thinking import think

    thought = think(settings, image, question)
    if not as_json:
        _print_steps(thought)
    _say_problems(thought, settings.model)
    if as_json:
        click.echo(to_json(thought_to_json(thought, file=str(image))))
    else:
        click.echo(f"answer: {printable(thought.answer) if thought.answer is not None else '(none)'}")
    if page is not None:
        write_thought(page, thought, note=f"model {settings.model}, depth {settings.depth}")
        click.echo(page, err=as_json)


def _print_steps(thought: Thought) -> None:
    for number, (regions, words) in enumerate(thought.steps, 1):
        places = "; ".join(
            f"[{', '.join(f'{side:.2f}' for side in region.box)}]"
            + ("" if region.depth is None else f" depth {region.depth:.2f}")
            for region in regions
        )
        click.echo(f"{number}. {places}\n   {printable(words) or '(no words)'}")


def _say_problems(thought: Thought, model: str | None) -> None:
    """Print the problems of a thought on standard error."""
    from sifthinker.chain import other_coordinates
    from sifthinker.coordinates import default_for
    from sifthinker.thinker import problems_of

    faults, problems = thought.faults, problems_of(thought)
    for fault in faults:
        click.echo(printable(f"problem: {fault.message} [{fault.code}]"), err=True)
    if len(problems) > len(faults):
        click.echo(printable(f"not a valid chain: {problems[len(faults)]}"), err=True)
    if problems and thought.protocol == "chain":
        looks = other_coordinates(thought.text, thought.frame)
        if looks:
            family = default_for(_type_or_name(model))
            known = "" if family == "unit" else f" (published models of its family write {family})"
            click.echo(
                f"the boxes look like {looks}; set --coordinates to the format that the model was trained on{known}",
                err=True,
            )
    if thought.protocol == "structured" and any(fault.code in ("box_range", "box_order") for fault in faults):
        family = default_for(_type_or_name(model))
        click.echo(
            f"the prompt asks for boxes in {family} by default; set --coordinates to the format that the model writes",
            err=True,
        )
    if not thought.complete and all(fault.code != "cut_off" for fault in faults):
        click.echo("the reply reached the token limit before its end; increase --max-new-tokens", err=True)


def _think_many(
    source: Path, question: str | None, settings: ThinkSettings, many: dict[str, Any], as_json: bool, fresh: bool
) -> None:
    from sifthinker.files import make_folder

    output = settings.output or Path(f"{source.resolve().stem or 'images'}.thoughts.jsonl")
    if output.suffix.lower() != ".jsonl" or output.is_dir():
        raise click.UsageError(
            f"-o {output}: thoughts about many questions are JSON lines. Specify a file that ends in .jsonl"
        )
    quiet_libraries()
    from sifthinker.show.report import evaluation_page, refuse_foreign_page, write_page
    from sifthinker.thinking import evaluation_path, think_many

    evaluation, page = evaluation_path(output), output.with_suffix(".html")
    keep_inputs((output, evaluation, page), source)
    refuse_foreign_page(page)
    questions = _questions(source, question, settings, many)
    if settings.model is None:
        settings = settings.replace(model=_embedded_model([q.image for q in questions]), protocol="direct")
    make_folder(output.parent)
    with bar("questions", None) as advance, resumable():
        found, gone = think_many(
            settings,
            questions,
            output,
            data=source,
            progress=lambda done, total: advance(done, "", total),
            fresh=fresh,
            **many,
        )
    if found.known:
        click.echo("all questions were already answered; --fresh asks them again", err=True)
    asked = [row for row in found.rows if not row.error]
    if settings.depth is None and not any(row.depth is not None for row in asked):
        click.echo("no depth files: RGB only (see --depth)", err=True)
    flawed = [row for row in asked if row.problems]
    if flawed and not settings.direct:
        first, said = flawed[0], f"{len(flawed)} of {number_of(len(asked), 'thought')} have problems"
        click.echo(f"{said}; the first, {first.id!r}: {', '.join(first.problems)}", err=True)
    unfinished = sum(not row.complete for row in asked)
    if unfinished:
        click.echo(f"replies that reached the token limit: {unfinished}; increase --max-new-tokens", err=True)
    _name("thoughts without pixels or ground-truth depth", (f"{name}: {why}" for name, why in gone.items()))
    _name("questions that could not be asked", (f"{row.id}: {row.error}" for row in found.rows if row.error))
    write_page(page, evaluation_page(found, title=f"Thoughts: {source.name or source}"))
    if as_json:
        with open(output, encoding="utf-8") as stream:
            for line in stream:
                click.echo(line, nl=False)
    for path in (output, evaluation, page):
        click.echo(path, err=as_json)
    if found.errors:
        sys.exit(SOME_REJECTED)


def _questions(source: Path, question: str | None, settings: ThinkSettings, many: dict[str, Any]) -> Sequence[Question]:
    """Return the questions to ask. Prints which files of a folder are left out."""
    from sifthinker.depth import DepthReading
    from sifthinker.evaluation.questions import read_questions
    from sifthinker.records import EXAMPLES
    from sifthinker.thinking import questions_about

    reading = DepthReading.of(settings)
    limit = many.get("limit")
    if question is None:
        if source.is_dir() and not (source / EXAMPLES).is_file():
            raise click.UsageError(
                f'{source} is a folder of images, and QUESTION is missing. Write: sif think {source} "What is …?"'
            )
        kept = {name: many[name] for name in ("images", "box_space") if name in many}
        return read_questions(source, limit=limit, reading=reading, **kept)
    for name in ("images", "box_space", "show_choices"):
        if name in many:
            raise click.UsageError(f"--{name.replace('_', '-')} applies only to a question file")
    found = questions_about(source, question, reading)
    _name("files left out", found.left.values())
    beside = [number_of(found.depths, "depth file")] if found.depths else []
    beside += [f"{number_of(found.folders, 'subfolder')} skipped"] if found.folders else []
    words = f" ({', '.join(beside)})" if beside else ""
    click.echo(f"{number_of(len(found.questions), 'image')} in {source}{words}", err=True)
    return found.questions[:limit]


def _name(what: str, lines: Iterable[str]) -> None:
    """Print a count and one line per item on standard error."""
    found = list(lines)
    if found:
        click.echo(f"{what}: {len(found)}", err=True)
    for line in found[:_MOST_NAMED]:
        click.echo(f"  {line}", err=True)
    if len(found) > _MOST_NAMED:
        click.echo(f"  and {len(found) - _MOST_NAMED} more", err=True)


def _type_or_name(model: str | None) -> str:
    """Return the text that identifies a model's family: the type in its config.json, else its name."""
    try:
        config = json.loads((Path(model or "") / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return model or ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def _embedded_model(images: Sequence[Any]) -> str:
    """Return the name of the embedded model. Print that it answers, or warn if it cannot know an image.

    Args:
        images: paths. Any other kind of image counts as unknown to the model.
    """
    from sifthinker.embedded import EMBEDDED
    from sifthinker.errors import ImageError
    from sifthinker.images import bears_mark

    def known(image: Any, mark: str) -> bool:
        try:
            return isinstance(image, Path) and bears_mark(image, mark)
        except ImageError:
            return False  # the question about this image reports the error

    for name, model in EMBEDDED.items():
        strange = next((image for image in images if not known(image, model.mark)), None)
        if strange is None:
            click.echo(
                f"no --model given: using {name}, the embedded model (three million parameters, answers without steps)",
                err=True,
            )
        else:
            called = strange.name if isinstance(strange, Path) else "such images"
            click.echo(
                f"warning: no --model given. The embedded model {name} knows only the scenes of `sif world build`; its "
                f"answer about {called} is meaningless. For photographs: sif think IMAGE QUESTION --model "
                "Qwen/Qwen2.5-VL-7B-Instruct --direct, or a model of `sif train` without --direct",
                err=True,
            )
        return name
    raise no_model()
