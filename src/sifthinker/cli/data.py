"""`sif data`: chains of thought from questions with boxes; datasets checked, shown, counted and exported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifthinker.cli.terminal import (
    FAILED,
    SOME_REJECTED,
    bar,
    describe_usage,
    keep_inputs,
    quiet_libraries,
    resumable,
    say_counts,
)

if TYPE_CHECKING:
    from sifthinker.engine.estimators import DepthSource
    from sifthinker.engine.folder import Counts
    from sifthinker.engine.recipe import Recipe
    from sifthinker.engine.teachers import Teacher


@click.group()
def data() -> None:
    """Build chains of thought from questions with boxes."""


# The names of `depth_files.Encoding`, which `--help` is too quick to import; a test compares them.
DEPTH_ENCODINGS = ("auto", "sif", "grey8", "spectral", "npy", "metres", "millimetres", "inverse")


def depth_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How depth files are read."""
    for option in reversed(
        [
            click.option(
                "--depth-encoding",
                default="auto",
                show_default=True,
                type=click.Choice(DEPTH_ENCODINGS),
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

    from sifthinker.engine.expansion import Expansion, expand, path_row
    from sifthinker.engine.folder import Counts
    from sifthinker.engine.sources import read_source
    from sifthinker.files import write_jsonl
    from sifthinker.records import Record

    named = output.with_suffix(".rejects.jsonl")
    keep_inputs((output, named), Path(file))
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
    say_counts(counts, rejects, named)
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
@depth_options
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
    from sifthinker.engine.estimators import GivenDepth, ModelDepth, NoDepth
    from sifthinker.engine.expansion import Expansion
    from sifthinker.engine.ray import Cluster
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
    with bar("chains", None) as advance:

        def progress(counts: Counts) -> None:
            words = f"{counts.accepted} accepted, {counts.rejected.total()} rejected, {counts.corrected} corrected"
            advance(counts.done, f"{words}{describe_usage(counts.usage)}", left.expected)

        with resumable():
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
    say_counts(counts, (row for _, row in read_jsonl(output / "rejects.jsonl")), output / "rejects.jsonl")
    if known and counts.settled:
        click.echo("  it was built before, and what was rejected then is not tried again; --fresh builds it anew", err=True)
    if counts.usage.requests:
        used = counts.usage
        asked = f"{used.requests} requests, {used.retries} retries, {used.failures} failures"
        click.echo(f"teacher: {asked}{describe_usage(used)}", err=True)
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
    from sifthinker.endpoint import Endpoint
    from sifthinker.engine.teachers import LocalTeacher, OpenAITeacher, offered_teacher
    from sifthinker.errors import ConfigError

    if teacher not in ("openai", "local"):
        return offered_teacher(teacher)
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

    from sifthinker.engine.checks import FINDINGS, Finding, check_dataset
    from sifthinker.engine.stats import Stats
    from sifthinker.files import write_jsonl

    keep_inputs((output,), dataset)
    stats, counts = Stats(), Counter[str]()
    findings: list[Finding] = []
    with bar("examples", None) as advance:
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
    from sifthinker.show.viewer import write_viewer

    with bar("examples", None) as advance:
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

    from sifthinker.engine.checks import check_dataset
    from sifthinker.engine.stats import Stats, reject_counts
    from sifthinker.errors import RecordError
    from sifthinker.files import make_folder
    from sifthinker.show.report import stats_page, write_page

    if output:
        keep_inputs((output,), dataset)
        make_folder(output.parent)
    stats = Stats()
    with bar("examples", None) as advance:
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
    quiet_libraries()
    from sifthinker.engine.exports import FORMS, export

    count = export(dataset, output, to)
    click.echo(f"{count} examples; open with {FORMS[to].replace('FOLDER', str(output))}", err=True)
    click.echo(output)
