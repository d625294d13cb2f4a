"""`sif data`: build chains of thought from questions with boxes; check, show, count and export datasets."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import click

from sifthinker.ask_settings import DepthFiles
from sifthinker.cli.flags import Command, click_options, option
from sifthinker.cli.terminal import (
    SOME_REJECTED,
    bar,
    describe_usage,
    keep_inputs,
    number_of,
    quiet_libraries,
    resumable,
    say_counts,
)
from sifthinker.engine.settings import BuildSettings, Expansion, ResizedPixels, SourceSettings, TeacherSettings
from sifthinker.literals import ExportForm
from sifthinker.settings import Flag, Settings

if TYPE_CHECKING:
    from sifthinker.engine.folder import Counts


@click.group()
def data() -> None:
    """Build chains of thought from questions with boxes; check, browse and export them."""


# Options for reading FILE.
_SOURCE = ("format", "columns", "instances", "box_form", "boxes", "box_space", "limit")
# A build uses these options for the boxes in its chains too.
_PIXELS = tuple(ResizedPixels.model_fields)


_allow_rejects = option(
    "--allow-rejects",
    is_flag=True,
    help=f"Exit with 0 instead of {SOME_REJECTED} if some records, but not all, were rejected.",
)


class _PathsFile(Settings):
    output: Annotated[Path, Flag("-o", "--output")]
    """JSONL file to write."""


@data.command("paths", short_help="Write focus paths, without a teacher", cls=Command)
@click.argument("file")
@_allow_rejects
@click_options(BuildSettings, {"Images and output": ["images"]})
@click_options(_PathsFile, {"Images and output": ["output"]}, into="written")
@click_options(SourceSettings, {"Reading FILE": (*_SOURCE, *_PIXELS)}, into="source")
@click_options(Expansion, {"Focus paths": ["alpha", "jitter", "distractor", "decimals", "margin"]}, into="expansion")
@click_options(BuildSettings, {"Focus paths": ["seed"]}, into="choice", helps={"seed": "Random seed of the focus paths."})
def data_paths(
    file: str,
    allow_rejects: bool,
    given: dict[str, Any],
    written: dict[str, Any],
    source: dict[str, Any],
    expansion: dict[str, Any],
    choice: dict[str, Any],
) -> None:
    """Write the focus path of every record in FILE.

    The output has one JSON line per record: id, question, answer, boxes (fractions of the image), path. Unreadable and
    clipped records are listed in a second file beside it, with the ending .rejects.jsonl. Images are needed only if FILE
    does not contain their sizes.

    \b
    Example:
      sif data paths questions.jsonl -o paths.jsonl
    """
    from sifthinker.engine.expansion import expand, path_row
    from sifthinker.engine.folder import Counts
    from sifthinker.engine.recipe import open_source, resizer_of
    from sifthinker.files import write_jsonl
    from sifthinker.records import Record, without_place

    _refuse_recipe(file, "paths")
    settings = _single(file, source, {**given, **written, **expansion, **choice})
    named = settings.output.with_suffix(".rejects.jsonl")
    keep_inputs((settings.output, named), Path(file))
    _keep_foreign_rejects(named)
    counts, rows, rejects = Counts(), [], []
    (read,) = settings.sources
    for item in open_source(read, settings.folder, given.get("images"), resizer_of(read)):
        if isinstance(item, Record):
            counts.accepted += 1
            counts.clipped += bool(item.notes)
            rows.append(path_row(item, expand(item, seed=settings.seed, settings=settings.expansion)))
            for note in item.notes:
                reason = without_place(note, item.source)
                rejects.append({"source": item.source, "id": item.id, "code": "clipped", "reason": reason, "kept": True})
        else:
            counts.rejected[item.code] += 1
            rejects.append({**item.to_json(), "kept": False})
    write_jsonl(settings.output, rows)
    write_jsonl(named, rejects)
    say_counts(counts, rejects, named)
    click.echo(settings.output)
    _end(counts, allow_rejects)


@data.command("build", short_help="Build chains of thought from questions with boxes", cls=Command)
@click.argument("file")
@_allow_rejects
@click_options(
    BuildSettings,
    {
        "": ["output", "images", "cap", "seed", "exclude", "fresh"],
        "Depth": ["depth", *DepthFiles.model_fields],
        "Focus paths": [*Expansion.model_fields],
        "Coordinates of boxes in chains": ["coordinates", *_PIXELS],
        "Teacher": ["teacher", *(name for name in TeacherSettings.model_fields if name != "teacher"), "budget"],
        "Execution": ["engine", "ray_address", "workers", "worker_gpus"],
    },
)
@click_options(SourceSettings, {"Reading FILE (not for recipes)": _SOURCE}, into="source")
def data_build(file: str, allow_rejects: bool, given: dict[str, Any], source: dict[str, Any]) -> None:
    """Build training examples from FILE: a file of records, a table, or a recipe with several sources (.yaml).

    To resume an interrupted build, repeat the command. Options override the recipe.

    \b
    Examples:
      sif data build questions.jsonl -o chains --model gpt-4o
      sif data build configs/sif50k.yaml -o chains \\
          --budget 20 --prompt-price 2.5 --completion-price 10
    """
    from sifthinker.engine.build import UNMATCHED, build
    from sifthinker.engine.recipe import Left
    from sifthinker.files import read_jsonl

    settings = _recipe(file, source, given) if _is_recipe(file) else _single(file, source, given)
    output, left = settings.output, Left()
    known = (output / "manifest.json").is_file() and not settings.fresh
    with bar("chains", None) as advance, resumable():

        def progress(counts: Counts) -> None:
            words = f"{counts.accepted} accepted, {counts.rejected.total()} rejected, {counts.corrected} asked again"
            advance(counts.done, f"{words}{describe_usage(counts.usage)}", left.expected)

        counts = build(settings, progress=progress, left=left)
    say_counts(counts, (row for _, row in read_jsonl(output / "rejects.jsonl")), output / "rejects.jsonl")
    if known and counts.settled:
        click.echo(
            "  this dataset was built before; rejected records are not retried (--fresh rebuilds everything)", err=True
        )
    if counts.usage.requests:
        used = counts.usage
        asked = f"{used.requests} requests, {used.retries} retries, {used.failures} failures"
        click.echo(f"teacher: {asked}{describe_usage(used)}", err=True)
    for title, found in (("filtered", left.filtered), ("over the cap", left.over_cap)):
        for dataset, number in sorted(found.items()):
            click.echo(f"  {dataset}: {number} {title}", err=True)
    if left.whole and left.excluded is not None:
        for warning in left.excluded.warnings():
            click.echo(f"warning: {warning}", err=True)
        if (output / UNMATCHED).is_file():
            click.echo(f"  all lines that matched no image: {output / UNMATCHED}", err=True)
    click.echo(output)
    _end(counts, allow_rejects)


def _end(counts: Counts, allow_rejects: bool) -> None:
    """Exit with `SOME_REJECTED` if nothing was accepted, or if records were rejected and that is not allowed."""
    if not counts.accepted or (counts.rejected and not allow_rejects):
        sys.exit(SOME_REJECTED)


def _is_recipe(file: str | Path) -> bool:
    return str(file).lower().endswith((".yaml", ".yml"))


def _refuse_recipe(file: str | Path, command: str = "") -> None:
    """Refuse a recipe in a command that reads a single file, or (command "") a dataset.

    Raises:
        ConfigError: the file is a recipe.
    """
    from sifthinker.errors import ConfigError

    if not _is_recipe(file):
        return
    words = f"{file} is a recipe, and recipes are only for `sif data build`."
    if not command:
        raise ConfigError(f"{words} Build the dataset first: sif data build {file} -o FOLDER")
    first = "FILE"
    with contextlib.suppress(ConfigError):  # a recipe that is not valid
        settings = BuildSettings.from_yaml(file, given={"output": "."})
        first = next((str(settings.folder / source.file) for source in settings.sources), first)
    raise ConfigError(
        f"{words} Run `sif data {command}` on each of its files, for example {first}. Give the settings of the source as "
        "options, such as --format and --images"
    )


def _single(file: str, source: dict[str, Any], given: dict[str, Any]) -> BuildSettings:
    """Return the settings for a single file; its path is relative to the working directory."""
    from sifthinker.engine.sources import HUB

    stated = {"file": str(Path(file).absolute()) if Path(file).exists() else file, **source}
    if "instances" in stated:
        stated["instances"] = str(Path(stated["instances"]).absolute())
    images = {} if file.startswith(HUB) else {"images": Path(file).parent}
    return BuildSettings.from_values({"sources": [stated], **images, **given})


def _recipe(file: str, source: dict[str, Any], given: dict[str, Any]) -> BuildSettings:
    """Return the settings of a recipe, overridden by the command line. Exclusions of both are combined."""
    from sifthinker.errors import ConfigError

    if source:
        name = next(iter(source))
        raise ConfigError(
            f"--{name.replace('_', '-')} applies only to a single file, and {file} is a recipe. Set {name} in its sources"
        )
    excluded = given.pop("exclude", ())
    settings = BuildSettings.from_yaml(file, given=given)
    return settings.replace(exclude=(*settings.exclude, *excluded)) if excluded else settings


def _keep_foreign_rejects(path: Path) -> None:
    """Refuse to overwrite a file that `data paths` did not write. The user did not choose the name of this output.

    Raises:
        ConfigError: a line of the file is not a reject, or the file is unreadable.
    """
    from sifthinker.errors import ConfigError, RecordError
    from sifthinker.files import read_jsonl

    if not path.is_file() or not path.stat().st_size:
        return
    try:
        rows = [row for _, row in read_jsonl(path)]
    except RecordError:
        rows = []
    wanted = {"source", "id", "code", "reason", "kept"}
    if not rows or not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
        raise ConfigError(
            f"{path}: rejects go to this file, but it exists and is not from `sif data paths`. Move it, or choose another -o"
        )


@data.command("check", short_help="Check every line, its images and its depth maps", cls=Command)
@click.argument("dataset")
@option("--no-files", is_flag=True, help="Do not open images and depth maps.")
@option("--most", default=20, show_default=True, type=click.IntRange(min=1), help="Maximum number of findings to print.")
@option("-o", "--output", type=click.Path(path_type=Path), help="JSONL file for all findings.")
@click_options(BuildSettings, {"Reading DATASET (only for files of records)": ["images"]})
@click_options(SourceSettings, {"Reading DATASET (only for files of records)": (*_SOURCE, *_PIXELS)}, into="source")
def data_check(
    dataset: str, no_files: bool, most: int, output: Path | None, given: dict[str, Any], source: dict[str, Any]
) -> None:
    """Check every line of DATASET, its images and its depth maps.

    DATASET is a dataset folder, an examples file, or a JSON file of the paper's release. It can also be a file of
    records for `sif data build`. Then the command reports unreadable records, missing images, images whose shape
    differs from the stated one, and boxes that seem to be in another space than --box-space. It exits with 3 if there
    are findings; warnings do not count.

    \b
    Examples:
      sif data check chains
      sif data check questions.jsonl --box-space pixel
    """
    from collections import Counter
    from dataclasses import asdict

    from sifthinker.engine.checks import FINDINGS, Finding, check_dataset
    from sifthinker.engine.sources import HUB
    from sifthinker.engine.spaces import Records, check_records, holds_examples, holds_records
    from sifthinker.engine.stats import Stats
    from sifthinker.errors import ConfigError, RecordError
    from sifthinker.files import write_jsonl
    from sifthinker.records import EXAMPLES, REJECTS

    _refuse_recipe(dataset, "check")
    if not dataset.startswith(HUB) and not Path(dataset).exists():
        wanted = "Give a file of records, or a dataset folder of `sif data build`"
        raise RecordError(f"{dataset}: no such file or folder. {wanted}", "missing_file")
    keep_inputs((output,), Path(dataset))
    stated = [f"--{name.replace('_', '-')}" for name in (*given, *source)]
    if stated and holds_examples(Path(dataset)):
        raise ConfigError(
            f"{dataset} is a finished dataset, and these options apply only to files of records: {', '.join(stated)}. Leave "
            "them out"
        )
    of_records = bool(stated) or holds_records(dataset)
    stats, records, counts = Stats(), Records(), Counter[str]()
    findings: list[Finding] = []
    faulty: set[str] = set()  # places of lines with findings
    kind = "record" if of_records else "example" if holds_examples(Path(dataset)) else "line"
    with bar(f"{kind}s", None) as advance:
        if of_records:
            settings = _single(dataset, source, {"output": dataset, **given})
            found = check_records(settings.sources[0], settings.images, files=not no_files, gathered=records)
        else:
            found = check_dataset(dataset, files=not no_files, stats=stats)
        for finding in found:
            counts[finding.code] += 1
            if finding.where not in (EXAMPLES, Path(dataset).name):  # else it is about the complete file
                faulty.add(finding.where)
            if output or len(findings) < most:
                findings.append(finding)
            advance(stats.lines + records.read)
        advance(stats.lines + records.read)
    for finding in findings[:most]:
        click.echo(f"{finding.where}: {finding.code}: {finding.message}")
    if counts.total() > most:
        click.echo(f"and {counts.total() - most} more; write all findings to a file with -o FILE")
    if output:
        write_jsonl(output, [asdict(finding) for finding in findings])
        click.echo(output)
    for code, number in counts.most_common():
        click.echo(f"{number} × {code}: {(REJECTS if of_records else FINDINGS).get(code, '')}", err=True)
    for warning in records.warnings():
        click.echo(f"warning: {warning}", err=True)
    total = stats.lines + records.read
    if of_records and not total:
        raise RecordError(f"{dataset}: contains no records")
    said = number_of(counts.total(), "finding")
    said = f"{len(faulty):,} of them with findings ({said})" if faulty else said
    click.echo(f"{number_of(total, kind)}, {said}", err=True)
    if counts:
        sys.exit(SOME_REJECTED)


@data.command("show", short_help="Write web pages to browse a dataset")
@click.argument("dataset", type=click.Path(path_type=Path))
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the pages.")
@option("--embed", is_flag=True, help="Store the images inside the pages, to share the folder.")
def data_show(dataset: Path, output: Path, embed: bool) -> None:
    """Write web pages to browse DATASET: filters, every chain drawn step by step, and rejects with their reasons.

    \b
    Example:
      sif data show chains -o pages
    """
    from sifthinker.show.viewer import write_viewer

    _refuse_recipe(dataset)
    with bar("examples", None) as advance:
        examples, rejects = write_viewer(dataset, output, embed=embed, progress=advance)
    click.echo(f"{number_of(examples, 'example')}, {number_of(rejects, 'reject')}", err=True)
    click.echo(output / "index.html")


@data.command("stats", short_help="Print counts and distributions")
@click.argument("dataset", type=click.Path(path_type=Path))
@option("-o", "--output", type=click.Path(path_type=Path), help="Web page with plots to write.")
def data_stats(dataset: Path, output: Path | None) -> None:
    """Print statistics of DATASET: counts, boxes, sizes, chain lengths, depths, and reject reasons."""
    from rich.console import Console
    from rich.table import Table

    from sifthinker.engine.checks import check_dataset
    from sifthinker.engine.stats import Stats, reject_counts
    from sifthinker.files import make_folder
    from sifthinker.records import no_example
    from sifthinker.show.report import stats_page, write_page

    _refuse_recipe(dataset)
    if output:
        keep_inputs((output,), dataset)
        make_folder(output.parent)
    stats = Stats()
    with bar("examples", None) as advance:
        for _ in check_dataset(dataset, stats=stats):
            advance(stats.examples)
        advance(stats.examples)
    rejects = reject_counts(dataset)
    if not stats.examples and not rejects:
        raise no_example(dataset)
    console = Console()
    for title, counted in stats.tables(rejects).items():
        table = Table(title=title, show_header=False, min_width=len(title))
        for name, number in counted:
            table.add_row(name, number)
        console.print(table)
    if output:
        write_page(output, stats_page(str(dataset), stats.tables(rejects), stats.histograms()))
        click.echo(output)


@data.command("export", short_help="Convert a dataset for other trainers and tools")
@click.argument("dataset", type=click.Path(path_type=Path))
@option("--to", required=True, type=click.Choice(get_args(ExportForm)), help="Target format.")
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder to create.")
def data_export(dataset: Path, to: Any, output: Path) -> None:
    """Convert DATASET for TRL, LLaMA-Factory, verl, ms-swift, the Hugging Face Hub, COCO tools or Label Studio.

    \b
    Example:
      sif data export chains --to trl -o chains-trl
    """
    quiet_libraries()
    from sifthinker.engine.exports import FORMS, export

    _refuse_recipe(dataset)
    count = export(dataset, output, to)
    click.echo(f"{number_of(count, 'example')}; open with {FORMS[to].replace('FOLDER', str(output))}", err=True)
    click.echo(output)
