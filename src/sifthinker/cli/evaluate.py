"""`sif eval` and `sif rewards`: measure models and score completions."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sifthinker.ask_settings import SERVER_FIELDS, DepthFiles
from sifthinker.benchmarks import NAMES
from sifthinker.cli.flags import Command, click_options, direct_option, option
from sifthinker.cli.terminal import (
    SOME_REJECTED,
    bar,
    keep_inputs,
    number_of,
    print_metrics,
    print_metrics_of_groups,
    quiet_libraries,
    resumable,
)
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.literals import ThoughtForm

if TYPE_CHECKING:
    from sifthinker.evaluation.benchmark import Benchmark
    from sifthinker.evaluation.compare import Difference, HeadlineDifference
    from sifthinker.evaluation.completions import Scored
    from sifthinker.evaluation.questions import Question
    from sifthinker.evaluation.run import Evaluation
    from sifthinker.scoring.rewards import Scores


class _Evaluation(click.Group):
    """The group `sif eval`: takes a command, the name of a benchmark, or else a dataset.

    `sif eval world` exists only if the package contains the embedded world. A dataset with the name of a command or a
    benchmark is written with its folder, such as ./world.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *(["world"] if find_spec("sifthinker.cli.lab") else [])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "world" or "world" not in self.list_commands(ctx):
            return super().get_command(ctx, cmd_name)
        found: click.Command = import_module("sifthinker.cli.lab").eval_world
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        if args[0] in NAMES:
            return args[0], published, args[1:]
        return None, dataset, args

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] DATASET", prefix="Usage: ")
        formatter.write_usage(ctx.command_path, "BENCHMARK [--data FOLDER|NAME] [OPTIONS]", prefix="   or: ")
        formatter.write_usage(ctx.command_path, "COMMAND …", prefix="   or: ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        dataset.format_options(ctx, formatter)
        with formatter.section("Benchmarks (help: sif eval BENCHMARK --help)"):
            formatter.write_text(", ".join(NAMES))
        self.format_commands(ctx, formatter)


@click.group("eval", cls=_Evaluation, context_settings={"ignore_unknown_options": True})
def evaluation() -> None:
    """Measure a model on a dataset, a question file or a published benchmark.

    Writes a JSON file with every answer, and a page that shows the wrong answers first. To resume an interrupted evaluation,
    repeat the command.

    A question file has one JSON object per line. Required keys: image, question. Optional keys: answer (or answers),
    choices, boxes, box_space, size, depth, id, dataset, split, family, tags. If a dataset has the name of a command, write
    it with its folder: ./compare.

    \b
    Examples:
      sif eval questions.jsonl --model runs/grpo
      sif eval cv-bench --model Qwen/Qwen2.5-VL-7B-Instruct --protocol structured
      sif eval compare runs/eval/first.json runs/eval/second.json
    """


_ASKING = (
    "protocol",
    "coordinates",
    "rgb_only",
    "depth",
    "show_choices",
    "batch_size",
    "max_new_tokens",
    "max_pixels",
    "dtype",
)


def _answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that datasets and benchmarks share and that are not settings."""
    about = EvalSettings.model_fields["model"].description or ""
    for add in (
        option("--fresh", is_flag=True, help="Start over instead of resuming."),
        option(
            "--most",
            default=60,
            show_default=True,
            type=click.IntRange(min=1),
            help="Maximum number of answers on the page.",
        ),
        direct_option,
        option("--model", "models", multiple=True, help=f"{' '.join(about.split())} Repeatable."),
    ):
        function = add(function)
    return function


class _DatasetContext(click.Context):
    """The context of the command without a name."""

    @property
    def command_path(self) -> str:
        return super().command_path.rstrip()


class _Dataset(Command):
    context_class = _DatasetContext


@click.command("DATASET", cls=_Dataset)
@click.argument("data", metavar="DATASET")
@click_options(
    EvalSettings,
    {
        "": ("completions", "output", "limit"),
        "Prompt and model": _ASKING,
        "Model on a server": SERVER_FIELDS,
        "Reading a question file": ("images", "box_space", "depth_encoding", "depth_near", "depth_hole"),
    },
)
@_answering
def dataset(data: str, given: dict[str, Any], models: Sequence[str], most: int, fresh: bool) -> None:
    """Measure a model on DATASET: a dataset folder, its examples file, or a question file."""
    _refuse_mistyped(data)
    found = {}
    for settings in _for_each_model({"data": data, **given}, models):
        questions = None
        if settings.depth is not None:
            from sifthinker.depth import DepthReading
            from sifthinker.evaluation.questions import read_questions
            from sifthinker.thinking import with_depth

            reading = DepthReading.of(settings)
            read = read_questions(
                data, limit=settings.limit, images=settings.images, box_space=settings.box_space, reading=reading
            )
            questions = with_depth(read, settings.depth, cache=_depth_cache(settings))
        found[settings.model or "completions"] = run_evaluation(settings, questions=questions, most=most, fresh=fresh)
    _finish(found)


@click.command("BENCHMARK", cls=Command, add_help_option=False)
@option(
    "--data",
    metavar="FOLDER|FILE|NAME",
    help="Published files of the benchmark: a local folder or file, or a Hugging Face name [default: the benchmark's own].",
)
@click_options(
    EvalSettings,
    {
        "": ("split", "images", "completions", "output", "limit"),
        "Prompt and model": _ASKING,
        "Model on a server": SERVER_FIELDS,
    },
    helps={
        "split": "Split of the benchmark [default: the first split in the benchmark's help].",
        "images": "Folder of the benchmark's images, if they are not beside its files.",
    },
)
@_answering
@option("-h", "--help", "shows_help", is_flag=True, help="Show this message and exit.")
@click.pass_context
def published(
    ctx: click.Context,
    data: str | None,
    given: dict[str, Any],
    models: Sequence[str],
    most: int,
    fresh: bool,
    shows_help: bool,
) -> None:
    """Measure a model on a published benchmark.

    Prints the benchmark's own metrics twice: with strict scoring, and as the official scorer counts (lenient).
    """
    from sifthinker.benchmarks import benchmark, place_of, read_benchmark
    from sifthinker.evaluation.benchmark import describe_lenient

    name = str(ctx.info_name)
    found = benchmark(name)
    if shows_help:
        described = click.Context(_with_default_split(found.splits[0]), info_name=name, parent=ctx.parent)
        click.echo(f"{described.get_help()}\n\n{found.title}:\n")
        lines = [found.source, f"Splits: {found.splits_said}"]
        lines += [f"{headline.name}: {headline.about}" for headline in found.headlines]
        lenient = describe_lenient((headline.name, headline.lenient_about) for headline in found.headlines)
        lines += [f"Lenient: {about}" for about in lenient]
        click.echo("\n".join(click.wrap_text(line, 78, "  ", "    ") for line in lines))
        return
    quiet_libraries()
    values = {"data": data or place_of(name), "show_choices": found.show_choices, **given}
    results = {}
    for settings in _for_each_model(values, models, stem=f"{name}-{given['split']}" if "split" in given else name):
        questions = read_benchmark(name, settings.data, split=settings.split, images=settings.images, limit=settings.limit)
        if settings.depth is not None:
            from sifthinker.thinking import with_depth

            questions = with_depth(questions, settings.depth, cache=_depth_cache(settings))
        results[settings.model or "completions"] = run_evaluation(
            settings, questions=questions, benchmark=found, most=most, fresh=fresh
        )
    _finish(results)


def _with_default_split(split: str) -> click.Command:
    """Return the command for benchmarks with a help that states the default split."""
    command = copy(published)
    command.params = [copy(parameter) for parameter in published.params]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name == "split":
            parameter.help = f"Split of the benchmark [default: {split}]."
    return command


def _refuse_mistyped(data: str) -> None:
    """Refuse a word that is not a file, but looks like a mistyped benchmark or command.

    Raises:
        ConfigError: with the nearest name.
    """
    from sifthinker.errors import ConfigError
    from sifthinker.files import nearest

    if Path(data).exists() or Path(data).name != data or Path(data).suffix:
        return
    if data in NAMES:
        raise ConfigError(f"{data}: a benchmark must be the first argument. Write: sif eval {data} …")
    near = nearest(data.lower(), [*NAMES, *evaluation.list_commands(click.get_current_context())])
    if near is not None:
        raise ConfigError(f"{data}: no file, folder, benchmark or command has this name. Did you mean {near!r}?")


def _for_each_model(values: dict[str, Any], models: Sequence[str], *, stem: str | None = None) -> Iterator[EvalSettings]:
    """Yield the settings for each model, with its output file.

    All settings are checked before the first evaluation. Each output is chosen only after the evaluation before it: two
    models may lead to the same file name, and the second must see the file of the first.
    """
    if len(models) > 1 and "output" in values:
        raise click.UsageError(
            "-o is one file, but --model is given several times. Leave -o out, or evaluate one model at a time"
        )
    found = [
        EvalSettings.from_values({**values, **({} if model is None else {"model": model})}) for model in models or (None,)
    ]
    for settings in found:
        yield settings if settings.output else settings.replace(output=str(_default_output(settings, stem)))


def _depth_cache(settings: EvalSettings) -> Path:
    """Return the folder that caches the maps of a depth model, shared by all evaluations in the output folder."""
    return Path(str(settings.output)).parent / ".depth_cache"


def _finish(found: Mapping[str, Evaluation]) -> None:
    """Print a table that compares several models. Exit with `SOME_REJECTED` if questions could not be asked."""
    if len(found) > 1:
        tables = {model: evaluation.table for model, evaluation in found.items()}
        names = list(dict.fromkeys(name for table in tables.values() for name in table))
        if names:
            strict = {model: {name: table[name].strict for name in table} for model, table in tables.items()}
            print_metrics(strict, names, title="strict")
        else:
            metrics = dict.fromkeys(name for evaluation in found.values() for name in evaluation.results)
            print_metrics({model: evaluation.results for model, evaluation in found.items()}, metrics, title="all questions")
    if any(evaluation.errors for evaluation in found.values()):
        sys.exit(SOME_REJECTED)


_UNFIT = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # characters that some systems forbid in file names


def _default_output(settings: EvalSettings, stem: str | None = None) -> Path:
    """Return the default output: `runs/eval/DATA-MODEL.json`, with a hash if another evaluation has that file.

    Args:
        settings: settings of the evaluation.
        stem: name to use in place of the data's.
    """
    from sifthinker.files import sha256

    who = settings.model or settings.completions or "model"
    asked = (stem or settings.data, who)
    names = (Path(name).resolve().name if Path(name).exists() else name.rpartition("/")[2] for name in asked)
    stem = "-".join(name.removesuffix(".jsonl").removesuffix(".json") for name in names)
    stem = _UNFIT.sub("_", stem)
    plain = Path("runs/eval") / f"{stem}.json"
    places = _places(settings.model_dump())
    if _evaluated(plain) in (None, places):
        return plain
    return plain.with_name(f"{stem}-{sha256(repr(places).encode())[:8]}.json")


def _places(settings: Mapping[str, Any]) -> list[str]:
    """Return the absolute paths of data, model and completions. Hub names stay as they are."""
    names = [settings.get(name) or "" for name in ("data", "model", "completions")]
    return [str(Path(name).resolve()) if name and Path(name).exists() else name for name in names]


def _evaluated(output: Path) -> list[str] | None:
    """Return the `_places` of the evaluation in an output file or its journal; None if both are missing or broken."""
    from sifthinker.evaluation.run import journal_path

    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return _places(json.loads(output.read_text(encoding="utf-8"))["settings"])
    with suppress(OSError, ValueError, TypeError, AttributeError), open(journal_path(output), encoding="utf-8") as stream:
        return _places(json.loads(stream.readline()))
    return None


def run_evaluation(
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    benchmark: Benchmark | None = None,
    most: int = 60,
    fresh: bool = False,
) -> Evaluation:
    """Run an evaluation and print its tables. With an output, also write the JSON file and the page."""
    quiet_libraries()
    from sifthinker.evaluation.run import evaluate
    from sifthinker.files import make_folder
    from sifthinker.show.report import evaluation_page, refuse_foreign_page, write_page

    output = None if settings.output is None else Path(settings.output)
    page = None if output is None else output.with_suffix(".html")
    if output is not None:
        read = [Path(name) for name in (settings.data, settings.completions) if name is not None]
        keep_inputs((output, page), *read)
        assert page is not None
        refuse_foreign_page(page)
        make_folder(output.parent)
    with bar("questions", None) as advance, resumable():
        found = evaluate(
            settings,
            questions=questions,
            benchmark=benchmark,
            progress=lambda done, total: advance(done, "", total),
            fresh=fresh,
        )
    if found.known:
        click.echo("this evaluation was already complete; --fresh repeats it", err=True)
    if settings.base_url is not None:
        asked, written = (sum(row.tokens[n] for row in found.rows if row.tokens) for n in (0, 1))
        cost = (asked * settings.prompt_price + written * settings.completion_price) / 1e6
        click.echo(
            f"{asked:,} prompt tokens, {written:,} completion tokens" + (f", cost {cost:.2f}" if cost else ""), err=True
        )
    if found.table:
        columns = {"strict": {name: number.strict for name, number in found.table.items()}}
        lenient = {name: number.lenient for name, number in found.table.items() if number.lenient is not None}
        print_metrics(columns | ({"official, lenient": lenient} if lenient else {}), found.table, title=settings.model or "")
    print_metrics({"all": found.results}, found.metrics, title="all questions")
    for what, groups in found.groups.items():
        if len(groups) > 1 and not found.table:  # the table of a benchmark shows its groups already
            print_metrics_of_groups(what, groups, found.metrics)
    if found.errors:
        first = next(row for row in found.rows if row.error)
        click.echo(f"questions that could not be asked: {found.errors}; the first, {first.id!r}: {first.error}", err=True)
    if page is not None:
        write_page(page, evaluation_page(found, title=f"Evaluation: {output.stem}" if output else "Evaluation", most=most))
        click.echo(output)
        click.echo(page)
    return found


@evaluation.command("compare", short_help="Compare two evaluations")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@option("-o", "--output", type=click.Path(path_type=Path), help="JSON file for the differences.")
def compare_command(first: Path, second: Path, output: Path | None) -> None:
    """Compare two JSON files of evaluations: SECOND minus FIRST, question by question, with 95 % intervals.

    Questions that only one evaluation asked are left out and counted. For a benchmark, its own strict metrics come first.
    Metrics that are not means are shown side by side, without a difference.

    \b
    Example:
      sif eval compare runs/eval/sft.json runs/eval/grpo.json
    """
    from sifthinker.benchmarks import benchmark
    from sifthinker.evaluation.compare import compare
    from sifthinker.evaluation.run import Evaluation
    from sifthinker.files import atomic_write

    if output:
        keep_inputs((output,), first, second)
    read = [Evaluation.read(path) for path in (first, second)]
    of = {(one.benchmark or {}).get("name") for one in read}
    known = benchmark(name) if len(of) == 1 and (name := of.pop()) in NAMES else None
    found = compare(*read, benchmark=known)
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    families = found.families if len(found.families) > 1 else {}
    parts: dict[str, Mapping[str, Difference | HeadlineDifference]] = {"all questions": found.results}
    if known is not None:
        parts = {f"{known.title}, strict": found.table, **parts}
    parts |= {f"family {name}" if name else "no family stated": of_family for name, of_family in families.items()}
    for name, differences in parts.items():
        columns = {
            names[0]: {metric: of.first for metric, of in differences.items()},
            names[1]: {metric: of.second for metric, of in differences.items()},
            "difference": {metric: of.difference for metric, of in differences.items()},
        }
        if differences:
            print_metrics(columns, differences, title=name)
    if not any(parts.values()):
        click.echo("nothing to compare: no question has a metric in both evaluations", err=True)
    for path, only in ((first, found.only_first), (second, found.only_second)):
        if only:
            click.echo(f"questions only in {path}, left out: {only}", err=True)
    click.echo(f"questions in both: {found.questions}", err=True)
    if output:
        atomic_write(output, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
        click.echo(output)


@evaluation.command("card", short_help="Write results as a model card and as JSON")
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("-o", "--output", type=click.Path(path_type=Path), help="Model card to create or update, such as README.md.")
@option("--numbers", type=click.Path(path_type=Path), help="JSON file for the results.")
@option("--name", help="Name of the model in the metadata of the card [default: the name in the first evaluation].")
def card_command(results: Sequence[Path], output: Path | None, numbers: Path | None, name: str | None) -> None:
    """Write the results of evaluations for publication.

    RESULTS are JSON files of `sif eval`, all of one model, each with different questions or prompts. The card lists strict
    and official lenient scores with intervals, the SHA-256 of weights and questions, and the prompt settings. Without -o and
    --numbers, this section of the card is printed.

    An existing card keeps its text, its line endings, its metadata (without comments), and earlier results on other
    questions.

    \b
    Example:
      sif eval card runs/eval/cv-bench-grpo.json -o runs/grpo/README.md
    """
    from sifthinker.evaluation.card import card_section, write_card, write_numbers
    from sifthinker.evaluation.run import Evaluation

    keep_inputs((output, numbers), *results)
    found = [Evaluation.read(path) for path in results]
    called = [str(path) for path in results]
    if output is not None:
        write_card(output, found, model=name, names=called)
        click.echo(output)
    if numbers is not None:
        write_numbers(numbers, found)
        click.echo(numbers)
    if output is None and numbers is None:
        click.echo(card_section(found, model=name, names=called))


@evaluation.command("export", short_help="Convert thoughts to JSON lines, COCO or Label Studio", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@option("--to", required=True, type=click.Choice(get_args(ThoughtForm)), help="Target format.")
@option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.")
@option("--prefix", metavar="URL", help="Prefix of image paths for Label Studio [default: the URL of its local files].")
@click_options(EvalSettings, ("images", *DepthFiles.model_fields))
def export_command(file: Path, to: str, output: Path, prefix: str | None, given: dict[str, Any]) -> None:
    """Convert the thoughts in FILE for other tools.

    FILE is a JSON file of `sif eval`, or the .eval.json of `sif think`. Image paths are relative to --images [default: the
    folder of the questions]. Depth files are read as in the evaluation, unless an option overrides that. For Label Studio, a
    labelling interface is written beside OUTPUT, with the ending .xml.

    \b
    Example:
      sif eval export runs/eval/chains-grpo.json --to coco -o thoughts.json
    """
    from sifthinker.evaluation.questions import questions_root
    from sifthinker.evaluation.run import Evaluation, reading_of
    from sifthinker.files import atomic_write, make_folder, to_json, write_jsonl
    from sifthinker.results import (
        LABEL_STUDIO_FILES,
        evaluation_to_json,
        label_studio_config,
        to_coco,
        to_label_studio,
        with_questions,
    )

    if prefix is not None and to != "label-studio":
        raise click.UsageError("--prefix applies only to --to label-studio")
    interface = output.with_suffix(".xml") if to == "label-studio" else None
    keep_inputs((output, interface), file)
    make_folder(output.parent)
    found = Evaluation.read(file)
    read = reading_of({**found.settings, **given})
    root = questions_root(str(found.settings.get("data", "")), given.get("images"))
    gone: dict[str, str] = {}
    blind: list[str] = []  # without pixels

    def told() -> Iterator[dict[str, Any]]:
        for thought in evaluation_to_json(with_questions(found, root, read), gone):
            if thought["image"]["width"] is None and thought["id"] in gone:
                blind.append(thought["id"])
            yield thought

    thoughts = told()
    if to == "jsonl":
        write_jsonl(output, thoughts)
    elif to == "coco":
        atomic_write(output, to_json(to_coco(thoughts)) + "\n")
    else:
        model = str(found.settings.get("model") or found.settings.get("completions") or "model")
        tasks = to_label_studio(thoughts, prefix=LABEL_STUDIO_FILES if prefix is None else prefix, model=model)
        atomic_write(output, to_json(tasks) + "\n")
        assert interface is not None
        atomic_write(interface, label_studio_config(tasks))
        click.echo(interface)
    click.echo(output)
    for names, lack, hint in (
        (blind, "pixels", ". Set --images to the folder of the images"),
        ([name for name in gone if name not in blind], "ground-truth depth", ""),
    ):
        if names:
            what = f"{len(names)} of {number_of(len(found.rows), 'thought')} without {lack}; the first, {names[0]!r}"
            click.echo(f"{what}: {gone[names[0]]}{hint}", err=True)
    if gone:
        sys.exit(SOME_REJECTED)


@click.command("rewards")
@click.argument("file", type=click.Path(path_type=Path))
@option("--data", type=click.Path(path_type=Path), help="Dataset that contains the examples with these ids.")
@option("-o", "--output", type=click.Path(path_type=Path), help="Web page to write: completions with their boxes drawn.")
@option(
    "--most", default=60, show_default=True, type=click.IntRange(min=1), help="Maximum number of completions on the page."
)
def rewards(file: Path, data: Path | None, output: Path | None, most: int) -> None:
    """Score the completions in FILE (JSON lines) with the four rewards of GRPO-SIF.

    With --data, each line has `completion` and `id`, the id of an example. Without it, each line has `completion`, `answer`
    and `boxes`, and optionally `depth`, `choices` and `images`. Both kinds may state the box format: `coordinates`, with
    `resized` for pixels.

    \b
    Example:
      sif rewards completions.jsonl --data chains -o rewards.html
    """
    from rich.console import Console
    from rich.table import Table

    from sifthinker.errors import RecordError
    from sifthinker.evaluation.completions import score_file, summarise_scores
    from sifthinker.files import make_folder

    if output:
        keep_inputs((output,), file, *([data] if data else []))
        make_folder(output.parent)
    shown: list[Scored] = []
    total = 0
    with bar("completions", None) as advance:

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
        raise RecordError(f"{file}: contains no completions")
    table = Table(title=f"{total} completions")
    for heading in ("reward", "count", "mean", "std", "min", "max"):
        table.add_column(heading, justify="left" if heading == "reward" else "right")
    table.add_column("reasons")
    for name, found in summary.items():
        numbers = (f"{value:.3f}" for value in (found.mean, found.std, found.low, found.high))
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
        table.add_row(name, str(found.count), *numbers, reasons)
    Console().print(table)
    if output:
        from sifthinker.show.report import scored_page, write_page

        write_page(output, scored_page(shown, title=f"Rewards of {file.name}", total=total))
        click.echo(output)
