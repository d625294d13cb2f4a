"""The `sif` command: arguments to calls. The only module that prints to the terminal or ends the process.

Every command imports what it needs when it runs, so that `sif --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifthinker import __version__
from sifthinker.errors import EXTRAS, MissingExtraError, SIFError

if TYPE_CHECKING:
    from sifthinker.endpoint import Usage
    from sifthinker.engine.build import Counts
    from sifthinker.engine.estimators import DepthSource
    from sifthinker.engine.recipe import Recipe
    from sifthinker.engine.teachers import Teacher
    from sifthinker.evaluation.completions import Scored
    from sifthinker.rewards import Scores

FAILED = 2  # exit status of an error
SOME_REJECTED = 3  # exit status of a build that finished, but left records out


class _Sif(click.Group):
    """Turns our errors into one line and an exit status, and an interruption into what to do next."""

    def invoke(self, ctx: click.Context) -> Any:
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


@click.group(cls=_Sif, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sif")
def main() -> None:
    """Teach vision-language models to think with images.

    \b
    sif demo                 everything at once, in minutes, on a laptop
    sif data build FILE      questions with boxes → chains of thought
    sif train sft|grpo FILE  chains → a model that thinks with images
    sif think IMAGE "…"      the model's steps, as a page
    sif eval world           how good is it?
    """


# ---------------------------------------------------------------------------------------------------------------- data


@main.group()
def data() -> None:
    """Build chains of thought from questions with boxes."""


# The names of `depth_files.Encoding`, which `--help` is too quick to import; a test compares them.
_DEPTH_ENCODINGS = ("auto", "sif", "grey8", "spectral", "npy", "metres", "millimetres", "inverse")


def _depth_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How depth files are read."""
    for option in reversed(
        [
            click.option(
                "--depth-encoding",
                default="auto",
                show_default=True,
                type=click.Choice(_DEPTH_ENCODINGS),
                help="What the numbers in depth files are: depth in [0, 1] (sif, grey8, spectral, npy), distances in any "
                "unit (metres, millimetres), or disparity or inverse depth in any unit (inverse).",
            ),
            click.option("--depth-near", type=click.Choice(["low", "high"]), help="Which end of the numbers is near."),
            click.option(
                "--depth-hole",
                multiple=True,
                type=float,
                metavar="NUMBER",
                help="A number in depth files that stands for 'no reading', such as 10000 or -1. Repeatable.",
            ),
        ]
    ):
        command = option(command)
    return command


def _source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads records."""
    for option in reversed(
        [
            click.argument("file"),
            click.option(
                "--images",
                type=click.Path(path_type=Path),
                help="Image folder [default: the file's]. Where the images go of a table that holds them.",
            ),
            click.option(
                "--format",
                "source_format",
                default="auto",
                show_default=True,
                type=click.Choice(["auto", "jsonl", "table", "viscot", "viscot-conversation", "refcoco", "coco", "tallyqa"]),
                help="Form of FILE.",
            ),
            click.option("--columns", metavar="OURS=THEIRS,…", help="Columns of a table: question=ask,boxes=bbox,…"),
            click.option("--instances", type=click.Path(path_type=Path), help="COCO instances with TallyQA's boxes."),
            click.option(
                "--box-form",
                default="xyxy",
                show_default=True,
                type=click.Choice(["xyxy", "xywh"]),
                help="Boxes of a table: two corners, or corner and size.",
            ),
            click.option(
                "--boxes",
                "outside",
                default="clip",
                show_default=True,
                type=click.Choice(["clip", "strict"]),
                help="What to do with boxes past the image's border.",
            ),
            click.option(
                "--box-space",
                default="unit",
                show_default=True,
                type=click.Choice(["unit", "pixel", "per_mille", "resized", "padded_square"]),
                help="Coordinates of plain records.",
            ),
            click.option("--limit", type=click.IntRange(min=1), help="Read the first so many records."),
            click.option("--seed", default=0, show_default=True, help="Of the focus paths."),
            click.option("--alpha", default=1 / 3, show_default="1/3", help="How far each side is expanded."),
            click.option("--distractor", default=0.5, show_default=True, help="Probability of a distractor."),
            click.option("--decimals", default=3, show_default=True, type=click.IntRange(2, 3), help="Of coordinates."),
        ]
    ):
        command = option(command)
    return command


@data.command("paths")
@_source_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="JSONL to write.")
def data_paths(file: str, output: Path, seed: int, alpha: float, distractor: float, decimals: int, **source: Any) -> None:
    """Write the focus path of every record of FILE; images are not needed unless FILE states no sizes.

    One JSON line a record: id, question, answer, boxes (fractions of the image), path. Records that cannot be read go to
    OUTPUT's neighbour with .rejects.jsonl.
    """
    from itertools import islice

    from sifthinker.engine.build import Counts, path_row
    from sifthinker.engine.expansion import Expansion, expand
    from sifthinker.engine.sources import read_source
    from sifthinker.files import write_jsonl
    from sifthinker.records import Record

    named = output.with_suffix(".rejects.jsonl")
    _keep_inputs((output, named), Path(file))
    _keep_foreign_rejects(named)
    settings = Expansion(alpha=alpha, distractor=distractor, decimals=decimals)
    counts, rows, rejects = Counts(), [], []
    limit = source.pop("limit")
    for item in islice(read_source(file, **_reading(**source)), limit):
        if isinstance(item, Record):
            counts.accepted += 1
            counts.clipped += bool(item.notes)
            rows.append(path_row(item, expand(item, seed=seed, settings=settings)))
            for note in item.notes:
                rejects.append({"source": item.source, "id": item.id, "code": "clipped", "reason": note, "kept": True})
        else:
            counts.rejected[item.code] += 1
            rejects.append({**item.to_json(), "kept": False})
    write_jsonl(output, rows)
    write_jsonl(named, rejects)
    _say_counts(counts, rejects, named)
    click.echo(output)
    if not counts.accepted:
        sys.exit(FAILED)


@data.command("build")
@click.pass_context
@_source_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Dataset folder to write.")
@click.option(
    "--depth",
    "depth_source",
    default="given",
    show_default=True,
    metavar="given|none|MODEL",
    help="Depth files beside the images, RGB only, or a depth model's folder or Hugging Face name.",
)
@_depth_options
@click.option(
    "--teacher",
    default="openai",
    show_default=True,
    type=click.Choice(["openai", "local", "scripted"]),
    help="Who explains the focus paths: an OpenAI-compatible server, a model in this process, or the embedded world's own.",
)
@click.option("--base-url", default="https://api.openai.com/v1", show_default=True, help="Of the teacher's server.")
@click.option("--model", help="The teacher's name on its server; for a local one its folder or Hugging Face name.")
@click.option("--api-key-env", default="OPENAI_API_KEY", show_default=True, help="Variable that holds the key.")
@click.option(
    "--timeout",
    "timeout_s",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for one request.",
)
@click.option(
    "--retries", default=5, show_default=True, type=click.IntRange(min=0), help="Further tries of a failed request."
)
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(min=1), help="Records under way at once.")
@click.option("--max-side", default=1024, show_default=True, type=click.IntRange(min=28), help="Of images to the teacher.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest reply of the teacher [default: its server's bound].")
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Most requests to the teacher in a minute.")
@click.option(
    "--prompt-price", default=0.0, type=click.FloatRange(min=0), help="Of a million tokens that the teacher reads."
)
@click.option("--completion-price", default=0.0, type=click.FloatRange(min=0), help="Of a million tokens from it.")
@click.option(
    "--budget", type=click.FloatRange(min=0), help="Stop before the teacher has cost more, in the prices' currency."
)
@click.option(
    "--engine",
    "runner",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="Work in this process, or in many with Ray.",
)
@click.option("--ray-address", help="Of a running Ray cluster [default: Ray on this machine alone].")
@click.option("--workers", type=click.IntRange(min=1), help="Ray's processes [default: one a CPU].")
@click.option("--worker-gpus", default=0.0, type=click.FloatRange(min=0), help="GPUs of one of Ray's processes.")
@click.option("--cap", type=click.IntRange(min=1), help="Most records of each dataset, chosen at random by the seed.")
@click.option(
    "--exclude",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Images that must not be used: a folder, or a list of names or SHA-256 hashes, one a line. Repeatable.",
)
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
@click.option("--allow-rejects", is_flag=True, help=f"Exit with 0, not {SOME_REJECTED}, when records were left out.")
def data_build(
    ctx: click.Context,
    file: str,
    output: Path,
    fresh: bool,
    allow_rejects: bool,
    budget: float | None,
    runner: str,
    ray_address: str | None,
    workers: int | None,
    worker_gpus: float,
    **options: Any,
) -> None:
    """Build training examples from FILE: a file of records, a table, or a recipe of several sources (.yaml).

    An interrupted build goes on when the command is repeated. Options given here come before the recipe's.
    """
    from sifthinker.engine.build import Engine, work_here
    from sifthinker.engine.cluster import Cluster
    from sifthinker.engine.estimators import GivenDepth, ModelDepth, NoDepth
    from sifthinker.engine.expansion import Expansion
    from sifthinker.engine.recipe import Left, fingerprint, read_recipe
    from sifthinker.errors import ConfigError
    from sifthinker.files import atomic_write, read_jsonl

    recipe, options = _recipe(ctx, file, options)
    priced = options["prompt_price"] or options["completion_price"]
    if budget is not None and (options["teacher"] != "openai" or not priced):
        raise ConfigError("--budget needs --teacher openai and its --prompt-price and --completion-price")
    if runner == "ray" and options["rpm"]:
        if workers is None:
            raise ConfigError("--rpm is shared among Ray's processes: say how many with --workers")
        options["rpm"] /= workers
    depth: DepthSource
    if options["depth_source"] == "none":
        depth = NoDepth()
    elif options["depth_source"] == "given":
        depth = GivenDepth(options["depth_encoding"], options["depth_near"], options["depth_hole"])
    else:
        depth = ModelDepth(options["depth_source"], cache=output.absolute() / ".depth_cache")
    shaping = {name: options[name] for name in ("depth_encoding", "depth_near", "depth_hole")} | fingerprint(recipe)
    inputs = shaping.pop("inputs")
    left = Left()
    teacher = _teacher(**options)
    engine = Engine(
        root=recipe.images,
        depth=depth,
        teacher=teacher,
        expansion=Expansion(alpha=options["alpha"], distractor=options["distractor"], decimals=options["decimals"]),
        seed=recipe.seed,
        concurrency=options["concurrency"],
        exclude=recipe.excluded.hashes,
    )
    known = (output / "manifest.json").is_file() and not fresh
    with _bar("chains", None) as advance:

        def progress(counts: Counts) -> None:
            words = f"{counts.accepted} accepted, {counts.rejected.total()} rejected, {counts.corrected} corrected"
            advance(counts.done, f"{words}{_used(counts.usage)}", left.expected)

        with _resumable():
            counts = engine.build(
                lambda: read_recipe(recipe, left=left),
                output,
                inputs=inputs,
                options=shaping,
                fresh=fresh,
                progress=progress,
                budget=budget,
                runner=Cluster(ray_address, workers, worker_gpus) if runner == "ray" else work_here,
            )
    _say_counts(counts, (row for _, row in read_jsonl(output / "rejects.jsonl")), output / "rejects.jsonl")
    if known and counts.settled:
        click.echo("  it was built before, and what was rejected then is not tried again; --fresh builds it anew", err=True)
    if counts.usage.requests:
        used = counts.usage
        asked = f"{used.requests} requests, {used.retries} retries, {used.failures} failures"
        click.echo(f"teacher: {asked}{_used(used)}", err=True)
    for title, found in (("filtered", left.filtered), ("over the cap", left.over_cap)):
        for dataset, number in sorted(found.items()):
            click.echo(f"  {number} of {dataset} {title}", err=True)
    if left.whole:
        for warning in recipe.excluded.warnings(row for _, row in read_jsonl(output / "rejects.jsonl")):
            click.echo(f"warning: {warning}", err=True)
        unmatched = "".join(f"{line}\t{line.text}\n" for line in recipe.excluded.unmatched())
        if unmatched:
            atomic_write(output / "exclude_unmatched.txt", unmatched)
            click.echo(f"  every line that matched no image: {output / 'exclude_unmatched.txt'}", err=True)
        else:
            (output / "exclude_unmatched.txt").unlink(missing_ok=True)
    click.echo(output)
    if not counts.accepted or (counts.rejected and not allow_rejects):
        sys.exit(SOME_REJECTED)


# Options of `sif data build` that a recipe may set: its key → the option.
_RECIPE_SETTINGS = {
    "depth": "depth_source",
    "timeout": "timeout_s",
    **{
        name: name
        for name in (
            "depth_encoding", "depth_near", "depth_hole", "teacher", "base_url", "model", "api_key_env", "retries",
            "concurrency", "rpm", "max_side", "max_tokens", "prompt_price", "completion_price", "alpha", "distractor",
            "decimals",
        )
    },
}  # fmt: skip


def _recipe(ctx: click.Context, file: str, options: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """What to build from, and how: a recipe's settings where the command line says nothing."""
    from dataclasses import replace

    from sifthinker.engine.recipe import Recipe, Source, load_recipe
    from sifthinker.engine.sources import HUB
    from sifthinker.errors import ConfigError

    given = {name for name in options if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    if not file.lower().endswith((".yaml", ".yml")):
        reading = _reading(**{name: options[name] for name in _READING})
        if file.startswith(HUB) and reading["images"] is None:
            raise ConfigError(f"{file}: a dataset of the hub needs --images FOLDER, where its images are kept")
        images = reading.pop("images") or Path(file).parent
        source = Source(
            str(Path(file).absolute()) if Path(file).exists() else file,
            format=reading["format"],
            columns=reading["columns"] or {},
            box_space=reading["box_space"],
            box_form=reading["box_form"],
            boxes=reading["outside"],
            instances=None if reading["instances"] is None else str(reading["instances"].absolute()),
            limit=options["limit"],
        )
        recipe = Recipe([source], Path(), images, options["cap"], options["seed"], list(options["exclude"]))
        return recipe, options
    misplaced = sorted(given & {*_READING, "limit"} - {"images"})
    if misplaced:
        raise ConfigError(f"--{misplaced[0].replace('_', '-')} is for a single file; a recipe says it for each source")
    recipe = load_recipe(file, list(_RECIPE_SETTINGS))
    for name, value in recipe.settings.items():
        option = _RECIPE_SETTINGS[name]
        if option in given:
            continue
        if value is None:
            raise ConfigError(f"{file}: {name} has no value; leave the key out, or write one")
        parameter = next(parameter for parameter in ctx.command.params if parameter.name == option)
        try:
            single = parameter.multiple and not isinstance(value, list)
            options[option] = parameter.type_cast_value(ctx, [value] if single else value)
        except click.BadParameter as error:
            raise ConfigError(f"{file}: {name}: {error.message}") from None
    return replace(
        recipe,
        images=options["images"] or recipe.images,
        cap=options["cap"] or recipe.cap,
        seed=options["seed"] if "seed" in given else recipe.seed,
        exclude=[*recipe.exclude, *options["exclude"]],
    ), options


_READING = ("images", "source_format", "outside", "box_space", "box_form", "columns", "instances")


def _reading(
    images: Path | None,
    source_format: Any,
    outside: Any,
    box_space: Any,
    box_form: Any,
    columns: str | None,
    instances: Path | None,
) -> dict[str, Any]:
    """The arguments of `sources.read_source` from the options."""
    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    if not all(theirs for _, _, theirs in pairs):
        raise click.UsageError(f"--columns {columns!r}: wanted OURS=THEIRS with commas between")
    return {
        "images": images,
        "format": source_format,
        "outside": outside,
        "box_space": box_space,
        "box_form": box_form,
        "columns": {ours.strip(): theirs.strip() for ours, _, theirs in pairs},
        "instances": instances,
    }


def _keep_inputs(outputs: Iterable[Path | None], *inputs: Path) -> None:
    """Refuse to write over what a command reads."""
    from sifthinker.errors import ConfigError

    written = {output.resolve() for output in outputs if output is not None}
    for given in inputs:
        for file in (given, *(given / name for name in ("examples.jsonl", "rejects.jsonl", "manifest.json"))):
            if file.resolve() in written:
                raise ConfigError(f"{file} would be written over; choose another -o")


def _keep_foreign_rejects(path: Path) -> None:
    """Refuse to replace a file that `data paths` did not write: the name of its rejects is derived, not the user's choice.

    Raises:
        ConfigError: a line of it is no reject, or it cannot be read.
    """
    from sifthinker.errors import ConfigError, RecordError
    from sifthinker.files import read_jsonl

    try:
        ours = not path.is_file() or all(
            isinstance(row, dict) and {"source", "id", "code", "reason", "kept"} <= row.keys() for _, row in read_jsonl(path)
        )
    except RecordError:
        ours = False
    if not ours:
        raise ConfigError(
            f"{path} is where the rejects go, but it was not written by `sif data paths` and would be overwritten; move it, "
            "or choose another -o"
        )


def _teacher(
    *,
    teacher: str,
    base_url: str,
    model: str | None,
    api_key_env: str,
    timeout_s: float,
    retries: int,
    concurrency: int,
    rpm: float | None,
    prompt_price: float,
    completion_price: float,
    max_side: int,
    max_tokens: int | None,
    **_: Any,
) -> Teacher:
    if teacher == "scripted":
        from sifthinker.world.questions import ScriptedTeacher

        return ScriptedTeacher()
    from sifthinker.endpoint import Endpoint
    from sifthinker.engine.teachers import LocalTeacher, OpenAITeacher
    from sifthinker.errors import ConfigError

    if not model:
        raise ConfigError(f"--teacher {teacher} needs --model NAME")
    if teacher == "local":
        return LocalTeacher(model, batch_size=concurrency, max_side=max_side, max_new_tokens=max_tokens or 1024)
    return OpenAITeacher(
        Endpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            max_retries=retries,
            concurrency=concurrency,
            requests_per_minute=rpm,
            prompt_price=prompt_price,
            completion_price=completion_price,
        ),
        max_side=max_side,
        max_tokens=max_tokens,
    )


def _used(usage: Usage) -> str:
    """Tokens and cost in a few words, "" where there are none."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    return (f", {tokens:,} tokens" if tokens else "") + (f", cost {usage.cost:.2f}" if usage.cost else "")


def _say_counts(counts: Counts, rejects: Iterable[dict[str, Any]], named: Path) -> None:
    """Say how many records came through, and for each reason how many did not and what the first of them was."""
    click.echo(f"{counts.accepted} accepted, {counts.clipped} of them clipped, {counts.rejected.total()} rejected", err=True)
    first: dict[str, str] = {}
    for row in rejects:
        first.setdefault(row["code"], row["reason"])
    for code, number in sorted(counts.rejected.items()):
        click.echo(f"  {number} × {code}, the first: {first[code]}", err=True)
    if first:
        click.echo(f"  every one is named in {named}", err=True)


@data.command("check")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--no-files", is_flag=True, help="Do not open images and depth maps.")
@click.option("--most", default=20, show_default=True, type=click.IntRange(min=1), help="Findings to show.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSONL for all findings.")
def data_check(dataset: Path, no_files: bool, most: int, output: Path | None) -> None:
    """Hold every line of DATASET against its images, its depths and itself.

    DATASET is a folder or examples file of ours, whoever made it, or a JSON file of the paper's release. Exits with 3 when
    something is wrong.
    """
    from collections import Counter
    from dataclasses import asdict

    from sifthinker.engine.checks import FINDINGS, Finding, Stats, check_dataset
    from sifthinker.files import write_jsonl

    _keep_inputs((output,), dataset)
    stats, counts = Stats(), Counter[str]()
    findings: list[Finding] = []
    with _bar("examples", None) as advance:
        for finding in check_dataset(dataset, files=not no_files, stats=stats):
            counts[finding.code] += 1
            if output or len(findings) < most:
                findings.append(finding)
            advance(stats.examples)
        advance(stats.examples)
    for finding in findings[:most]:
        click.echo(f"{finding.where}: {finding.code}: {finding.message}")
    if counts.total() > most:
        click.echo(f"and {counts.total() - most} more; -o FILE keeps them all")
    if output:
        write_jsonl(output, [asdict(finding) for finding in findings])
        click.echo(output)
    for code, number in counts.most_common():
        click.echo(f"{number} × {code}: {FINDINGS.get(code, '')}", err=True)
    click.echo(f"{stats.examples} examples, {counts.total()} findings", err=True)
    if counts:
        sys.exit(SOME_REJECTED)


@data.command("show")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the pages.")
@click.option("--embed", is_flag=True, help="Put the images into the pages, so that the folder can be sent to somebody.")
def data_show(dataset: Path, output: Path, embed: bool) -> None:
    """Make pages to look through DATASET: filters, every chain drawn step by step, what was left out and why."""
    from sifthinker.viewer import write_viewer

    with _bar("examples", None) as advance:
        examples, rejects = write_viewer(dataset, output, embed=embed, progress=advance)
    click.echo(f"{examples:,} examples, {rejects:,} rejects", err=True)
    click.echo(output / "index.html")


@data.command("stats")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Page with plots to write.")
def data_stats(dataset: Path, output: Path | None) -> None:
    """Say what DATASET holds: counts, boxes, sizes, chain lengths, depths, and why records were left out."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.engine.checks import Stats, check_dataset, reject_counts
    from sifthinker.errors import RecordError
    from sifthinker.files import make_folder
    from sifthinker.report import stats_page, write_page

    if output:
        _keep_inputs((output,), dataset)
        make_folder(output.parent)
    stats = Stats()
    with _bar("examples", None) as advance:
        for _ in check_dataset(dataset, stats=stats):
            advance(stats.examples)
        advance(stats.examples)
    if not stats.examples:
        raise RecordError(f"{dataset}: holds no example")
    rejects = reject_counts(dataset)
    console = Console()
    for title, counted in stats.tables(rejects).items():
        table = Table(title=title, show_header=False)
        for name, number in counted:
            table.add_row(name, number)
        console.print(table)
    if output:
        write_page(output, stats_page(str(dataset), stats.tables(rejects), stats.histograms()))
        click.echo(output)


@data.command("export")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(["trl", "llamafactory", "verl", "hf"]), help="Whose form.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder to write.")
def data_export(dataset: Path, to: Any, output: Path) -> None:
    """Write DATASET in the form that TRL, LLaMA-Factory, verl or the Hugging Face hub loads."""
    _quiet_libraries()
    from sifthinker.engine.exports import FORMS, export

    count = export(dataset, output, to)
    click.echo(f"{count} examples; open with {FORMS[to].replace('FOLDER', str(output))}", err=True)
    click.echo(output)


# --------------------------------------------------------------------------------------------------------------- world


@main.group()
def world() -> None:
    """The embedded world: scenes, questions, and a model small enough for a CPU."""


@world.command("build")
@click.option("-n", "--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Questions, one a scene.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Moves to other scenes.")
@click.option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Side of the pictures in pixels.")
def world_build(count: int, output: Path, split: str, seed: int, size: int) -> None:
    """Render scenes with exact depth, and questions about them: `records.jsonl` for `sif data build`."""
    from sifthinker.world.questions import write_world

    with _bar("scenes", count) as advance:
        records = write_world(output, count, split=split, seed=seed, size=size, progress=advance)
    click.echo(records)


@world.command("nano")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def world_nano(output: Path, seed: int) -> None:
    """Write an untrained nano model with its processor."""
    from sifthinker.world.nano import write_nano

    write_nano(output, seed=seed)
    click.echo(output)


@world.command("baselines")
@click.option("-n", "--count", default=1080, show_default=True, type=click.IntRange(min=1), help="Questions.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Moves to other scenes.")
def world_baselines(count: int, split: str, seed: int) -> None:
    """Say what is scored on the world's questions without looking at a picture."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.evaluation.world import BASELINES, baselines

    table = Table(title="answer accuracy without looking", caption="; ".join(f"{k}: {v}" for k, v in BASELINES.items()))
    for heading in ("family", "questions", *BASELINES):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for family, found in baselines(count, split=split, seed=seed).items():
        accuracies = [f"{accuracy:.3f}" for accuracy, _ in found.values()]
        table.add_row(family, str(next(iter(found.values()))[1]), *accuracies)
    Console().print(table)


@world.command("pretrain")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run and of the model.")
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Of all scenes.")
@click.option("--batch-size", default=48, show_default=True, type=click.IntRange(min=1), help="Scenes a step.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def world_pretrain(output: Path, scale: float, batch_size: int, seed: int) -> None:
    """Teach a nano model from random weights what there is in scenes, where, and how far: about an hour on two CPU cores.

    The result is the base model that the package carries. It has never seen a chain. An interrupted run goes on.
    """
    _quiet_libraries()
    from dataclasses import replace

    from sifthinker.world.pretrain import RECIPE, pretrain

    with _resumable():
        recipe = [replace(part, scenes=max(1, round(part.scenes * scale))) for part in RECIPE]
        pretrain(output, recipe=recipe, batch_size=batch_size, seed=seed)
    click.echo(output)


@world.command("pack")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--about", required=True, help="What the model is and how it was made: the opening of its card.")
@click.option("--questions", default=1080, show_default=True, type=click.IntRange(min=1), help="Test questions to measure.")
@click.option("--scenes", default=270, show_default=True, type=click.IntRange(min=1), help="Test scenes to find objects in.")
def world_pack(model: Path, output: Path, about: str, questions: int, scenes: int) -> None:
    """Write a nano MODEL as the package carries it, measured, with its card: weights in bfloat16."""
    _quiet_libraries()
    from sifthinker.evaluation.world import card
    from sifthinker.world.nano import pack

    pack(model, output)
    card(output, about, questions=questions, scenes=scenes, progress=lambda text: click.echo(text, err=True))
    click.echo(output)


@world.command("study")
@click.option("-o", "--output", default=Path("runs/study"), show_default=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="How many seeds of every arm.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them.")
@click.option("--arms", help="Names with commas between them [default: all].")
@click.option("--base", default="nano", show_default=True, help="Model to start from.")
@click.option("--short", is_flag=True, help="A few steps of everything, to see that it works.")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
def world_study(output: Path, seeds: int, first_seed: int, arms: str | None, base: str, short: bool, fresh: bool) -> None:
    """Measure what each part of the method does: arms of training on the embedded world, with several seeds.

    Takes hours; what is finished is kept, and the same command goes on. Writes study.json and study.html after every arm, of
    all that the folder holds: several processes may fill one folder, each with other seeds (--first-seed).
    """
    _quiet_libraries()
    from sifthinker.study import ARMS, SHORT, STUDY, run_study

    with _resumable():
        page = run_study(
            output,
            arms=arms.split(",") if arms else list(ARMS),
            seeds=range(first_seed, first_seed + seeds),
            schedule=SHORT if short else STUDY,
            bar=_bar,
            say=lambda text: click.echo(text, err=True),
            base=base,
            fresh=fresh,
        )
    click.echo(page)


# --------------------------------------------------------------------------------------------------------------- train


@main.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("stage", type=click.Choice(["sft", "grpo"]))
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def train(stage: Any, config: Path, overrides: tuple[str, ...]) -> None:
    """Train a model as CONFIG, a YAML file, says; a run that was interrupted goes on from its newest checkpoint.

    Any key of the file can be overridden: `--output runs/b --training.learning_rate 1e-5`; a field of TRL's config needs no
    prefix: `--learning_rate 1e-5`.
    """
    _quiet_libraries()
    from sifthinker.training.config import load_config

    if stage == "sft":
        from sifthinker.training.sft import train_sft as run
    else:
        from sifthinker.training.grpo import train_grpo as run
    settings = load_config(config, stage, list(_overrides(overrides)))
    with _resumable():
        run(settings)
    click.echo(settings.output)


@main.command("plan", context_settings={"ignore_unknown_options": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option("--gpu", "gpu_gib", type=click.FloatRange(min=0, min_open=True), help="Memory of the GPU in GiB.")
@click.option("--stage", type=click.Choice(["sft", "grpo"]), help="[default: the one whose keys CONFIG has]")
def plan(config: Path, overrides: tuple[str, ...], gpu_gib: float | None, stage: Any) -> None:
    """Say what a run of CONFIG will do and need, and what is wrong with it, without loading weights."""
    _quiet_libraries()
    from sifthinker.training.config import guess_stage, load_config
    from sifthinker.training.plan import make_plan

    stage = stage or guess_stage(config)
    if stage == "sft":
        from sifthinker.training.sft import DEFAULTS
    else:
        from sifthinker.training.grpo import DEFAULTS
    made = make_plan(load_config(config, stage, list(_overrides(overrides))), stage, DEFAULTS, gpu_gib=gpu_gib)
    click.echo(f"stage: {stage}")
    for name, fact in made.facts.items():
        click.echo(f"{name}: {fact}")
    click.echo(f"memory a process, about {made.total_gib:.1f} GiB:")
    for name, gib in made.memory_gib.items():
        click.echo(f"  {name}: {gib:.2f} GiB")
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    for problem in made.problems:
        click.echo(f"problem: {problem}", err=True)
    if made.problems:
        sys.exit(FAILED)


@main.group()
def model() -> None:
    """Work on trained models."""


@model.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--base", help="Base model [default: the one the adapter names].")
def model_merge(adapter: Path, output: Path, base: str | None) -> None:
    """Merge a LoRA ADAPTER, for instance a checkpoint of a run, into its base model."""
    _quiet_libraries()
    from sifthinker.models import merge_adapter

    merge_adapter(adapter, output, base=base)
    click.echo(output)


def _overrides(words: tuple[str, ...]) -> Iterator[str]:
    """`--key value` and `--key=value` as `key=value`."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise click.UsageError(f"got {word!r}; overrides are written --key value")
        key = word[2:]
        if "=" in key:
            yield key
            continue
        value = next(rest, None)
        if value is None:
            raise click.UsageError(f"--{key} has no value")
        yield f"{key}={value}"


# --------------------------------------------------------------------------------------------------------------- think


@main.command("think")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--model", help="Model folder or Hugging Face name [default: nano, which knows the embedded world].")
@click.option(
    "--depth",
    "depth_source",
    metavar="given|none|FILE|MODEL",
    help="The depth file beside the image, RGB only, a depth file, or a depth model. [default: the file if there is one]",
)
@_depth_options
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

    Without --model the embedded nano answers, directly: it knows the scenes of `sif world build` and nothing else, and has
    not learnt to think in steps.
    """
    from sifthinker.files import make_folder
    from sifthinker.images import load_image

    if not question.strip():
        raise click.UsageError("the question is blank")
    page = output or Path(f"{image.stem}.thought.html")
    _keep_inputs((page,), image, *([Path(depth_source)] if depth_source else []))
    make_folder(page.parent)  # before minutes are spent on what could not be written
    if page.is_dir():
        raise click.UsageError(f"-o {page} is a folder; name a file, .html or .png")
    picture = load_image(image)
    if model is None:
        model, direct = "nano", True
        _introduce_nano(image)
    if depth_source is None:
        from sifthinker.engine.estimators import BESIDE

        beside = any(Path(f"{image.with_suffix('')}{suffix}").is_file() for suffix in BESIDE)
        depth_source = "given" if beside else "none"
        if depth_source == "none":
            click.echo("no depth file beside the image: RGB only (see --depth)", err=True)
    depth = _depth_for(image, picture, depth_source, (depth_encoding, depth_near, depth_hole))

    _quiet_libraries()
    from sifthinker.report import Card, thought_page, write_page, write_picture
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


def _introduce_nano(image: Path) -> None:
    """Say who answers, and warn where it cannot know what it is shown."""
    from sifthinker.world.scenes import is_world_image

    if is_world_image(image):
        click.echo("nano answers: the embedded model of three million parameters, no steps; see --model", err=True)
        return
    click.echo(
        "warning: no --model was named, and nano, the embedded model, knows only the scenes of `sif world build`; what it "
        f"says about {image.name} means nothing. For photographs: sif think IMAGE QUESTION "
        "--model Qwen/Qwen2.5-VL-7B-Instruct --direct, or without --direct a model of `sif train`",
        err=True,
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


# ---------------------------------------------------------------------------------------------------------------- eval


@main.group("eval")
def evaluation() -> None:
    """Measure a model."""


@evaluation.command("world")
@click.option("--model", required=True, help="Model folder or Hugging Face name.")
@click.option(
    "-n",
    "--count",
    default=324,
    show_default=True,
    type=click.IntRange(min=1),
    help="Questions, in turn of each family and level.",
)
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--seed", default=0, show_default=True, help="Moves to other scenes.")
@click.option("--size", default=64, show_default=True, type=click.IntRange(16, 2048), help="Side of the pictures in pixels.")
@click.option("--rgb-only", is_flag=True, help="Show the model no depth.")
@click.option("--direct", is_flag=True, help="Ask for answers without steps, as of a model that knows no chains.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--max-new-tokens", default=400, show_default=True, type=click.IntRange(min=1))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON to write: results and every completion.")
def eval_world(
    model: str,
    count: int,
    split: str,
    seed: int,
    size: int,
    rgb_only: bool,
    direct: bool,
    batch_size: int,
    max_new_tokens: int,
    output: Path | None,
) -> None:
    """Ask a model questions about held-out scenes of the embedded world: every metric, by family, with intervals."""
    _quiet_libraries()
    from dataclasses import asdict

    from sifthinker.evaluation.metrics import group_by, summarise
    from sifthinker.evaluation.world import evaluate
    from sifthinker.files import atomic_write, make_folder
    from sifthinker.thinker import Thinker

    if output:
        make_folder(output.parent)
    thinker = Thinker.load(model, max_new_tokens=max_new_tokens)
    with _bar("questions", count) as advance:
        results, rows = evaluate(
            thinker,
            count,
            split=split,
            seed=seed,
            size=size,
            rgb_only=rgb_only,
            direct=direct,
            batch_size=batch_size,
            progress=advance,
        )
    families = {family: summarise(of_family) for family, of_family in group_by(rows, lambda row: row.family).items()}
    for start in range(0, len(families), 3):
        _print_table(dict(list(families.items())[start : start + 3]))
    _print_table({level: summarise(found) for level, found in group_by(rows, lambda row: row.tags["level"]).items()})
    known = group_by(rows, lambda row: f"{row.tags['combination']} combinations")
    _print_table({"all": results} | {name: summarise(found) for name, found in known.items()})
    if output:
        body = {"model": model, "split": split, "seed": seed, "size": size, "rgb_only": rgb_only, "direct": direct}
        body |= {"results": {name: asdict(result) for name, result in results.items()}}
        body |= {"families": {f: {name: asdict(r) for name, r in found.items()} for f, found in families.items()}}
        body |= {"rows": [row.to_json() for row in rows]}
        atomic_write(output, json.dumps(body, indent=1, ensure_ascii=False) + "\n")
        click.echo(output)


def _print_table(models: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sifthinker.evaluation.metrics import METRICS

    table = Table(title="mean [95 % interval] (count)")
    table.add_column("metric")
    for name in models:
        table.add_column(name, justify="right")
    for metric in METRICS:
        cells = []
        for results in models.values():
            found = results.get(metric)
            cells.append(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] ({found.count})" if found else "–")
        table.add_row(metric, *cells)
    Console().print(table)


# ------------------------------------------------------------------------------------------------------------- rewards


@main.command("rewards")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset whose examples the completions' ids name.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Page to write: completions with their boxes drawn.")
@click.option("--most", default=60, show_default=True, type=click.IntRange(min=1), help="Completions on the page.")
def rewards(file: Path, data: Path | None, output: Path | None, most: int) -> None:
    """Score the completions of FILE, JSON lines, by the four rewards of GRPO-SIF.

    Each line has `completion` and `id`, the id of an example of --data; or `completion`, `answer`, `boxes`, and perhaps
    `depth`, `choices` and `images`.
    """
    from rich.console import Console
    from rich.table import Table

    from sifthinker.errors import RecordError
    from sifthinker.evaluation.completions import score_file, summarise_scores
    from sifthinker.files import make_folder

    if output:
        _keep_inputs((output,), file, *([data] if data else []))
        make_folder(output.parent)
    shown: list[Scored] = []
    total = 0
    with _bar("completions", None) as advance:

        def scores() -> Iterator[Scores]:
            nonlocal total
            for item in score_file(file, data):
                total += 1
                if len(shown) < most:
                    shown.append(item)
                if total % 100 == 0:
                    advance(total)
                yield item.scores

        summary = summarise_scores(scores())
        advance(total)
    if not total:
        raise RecordError(f"{file}: holds no completion")
    table = Table(title=f"{total} completions")
    for heading in ("reward", "count", "mean", "std", "least", "greatest"):
        table.add_column(heading, justify="left" if heading == "reward" else "right")
    table.add_column("reasons")
    for name, found in summary.items():
        numbers = (f"{value:.3f}" for value in (found.mean, found.std, found.low, found.high))
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
        table.add_row(name, str(found.count), *numbers, reasons)
    Console().print(table)
    if output:
        from sifthinker.report import scored_page, write_page

        write_page(output, scored_page(shown, title=f"Rewards of {file.name}", total=total))
        click.echo(output)


# ---------------------------------------------------------------------------------------------------------------- demo


@main.command("demo")
@click.option("-o", "--output", default=Path("runs/demo"), show_default=True, type=click.Path(path_type=Path))
@click.option("--short", is_flag=True, help="A few steps of everything, to see that it works.")
@click.option("--fresh", is_flag=True, help="Start over instead of going on.")
def demo(output: Path, short: bool, fresh: bool) -> None:
    """Scenes → chains → SFT → GRPO-SIF → evaluation → report, in minutes on a CPU."""
    _quiet_libraries()
    from sifthinker.demo import run_demo

    with _resumable():
        report, results = run_demo(output, short=short, fresh=fresh, bar=_bar, say=lambda text: click.echo(text, err=True))
    _print_table(results)
    click.echo(report)


@contextmanager
def _resumable() -> Iterator[None]:
    """Around work that a repeated command goes on with."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nsif: the same command goes on where this one stopped", err=True)
        raise


def _quiet_libraries() -> None:
    """Keep other libraries' bars and deprecation notices out of ours. Their errors and warnings about data still show."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        import datasets
        import transformers
    except ImportError:
        return  # whoever needs them says so
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
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


if __name__ == "__main__":
    main()
