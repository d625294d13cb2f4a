"""`sif eval` and `sif rewards`: how good a model or its completions are."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sifthinker.ask_settings import SERVER_FIELDS, DepthFiles
from sifthinker.benchmarks import NAMES
from sifthinker.cli.flags import Command, click_options, direct_option
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
    """`sif eval DATASET` and `sif eval BENCHMARK`, beside `sif eval compare` and, where the package has the embedded world,
    `sif eval world`.

    What is neither a command nor a benchmark is a dataset; one that is called like one of them is written ./world.
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
        with formatter.section("Benchmarks, each with a help page of its own"):
            formatter.write_text(", ".join(NAMES))
        self.format_commands(ctx, formatter)


@click.group("eval", cls=_Evaluation, context_settings={"ignore_unknown_options": True})
def evaluation() -> None:
    """Measure a model on a dataset, a file of questions or a published benchmark.

    Writes a JSON file of every answer and a page that shows the wrong ones first. An interrupted evaluation goes on when the
    command is repeated. A file of questions has one JSON object a line: image, question, and what is known of answer (or
    answers), choices, boxes, depth, id, dataset, split and family. A dataset named like a command is written ./compare.
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
    """A decorator for the options that both kinds of evaluation have beside those of their settings."""
    about = EvalSettings.model_fields["model"].description or ""
    for option in (
        click.option("--fresh", is_flag=True, help="Start over instead of going on."),
        click.option("--most", default=60, show_default=True, type=click.IntRange(min=1), help="Answers on the page."),
        direct_option,
        click.option("--model", "models", multiple=True, help=f"{' '.join(about.split())} Repeatable: one after the other."),
    ):
        function = option(function)
    return function


@click.command("DATASET", cls=Command)
@click.argument("data", metavar="DATASET")
@click_options(
    EvalSettings,
    {
        "": ("completions", "output", "limit"),
        "Asking": _ASKING,
        "A model on a server": SERVER_FIELDS,
        "Files of questions": ("images", "box_space", "depth_encoding", "depth_near", "depth_hole"),
    },
)
@_answering
def dataset(data: str, given: dict[str, Any], models: Sequence[str], most: int, fresh: bool) -> None:
    """Measure a model on DATASET: a dataset folder of ours, its examples file, or a file of questions."""
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
@click.option(
    "--data",
    metavar="FOLDER|FILE|NAME",
    help="Its files as published: a local folder or file, or a Hugging Face name [default: its own name there].",
)
@click_options(
    EvalSettings,
    {
        "": ("split", "images", "completions", "output", "limit"),
        "Asking": _ASKING,
        "A model on a server": SERVER_FIELDS,
    },
)
@_answering
@click.option("-h", "--help", "shows_help", is_flag=True, help="Show this message and exit.")
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
    """Measure a model on a published benchmark: its own numbers, strictly scored, and as its official scorer counts."""
    from sifthinker.benchmarks import benchmark, place_of, read_benchmark

    name = str(ctx.info_name)
    found = benchmark(name)
    if shows_help:
        click.echo(f"{ctx.get_help()}\n\n{found.title}:\n")
        lines = [found.source, f"Splits: {found.splits_said}"]
        lines += [f"{headline.name}: {headline.about}" for headline in found.headlines]
        lenient = dict.fromkeys(headline.lenient_about for headline in found.headlines if headline.lenient_about)
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


def _refuse_mistyped(data: str) -> None:
    """Refuse what is no file, but nearly the name of a benchmark or a command.

    Raises:
        ConfigError: names the nearest.
    """
    from sifthinker.errors import ConfigError
    from sifthinker.files import nearest

    if Path(data).exists() or Path(data).name != data or Path(data).suffix:
        return
    if data in NAMES:
        raise ConfigError(f"{data}: the benchmark comes first: sif eval {data} …")
    near = nearest(data.lower(), [*NAMES, *evaluation.list_commands(click.get_current_context())])
    if near is not None:
        raise ConfigError(f"{data}: no such file or folder, and no benchmark is called so; did you mean {near!r}?")


def _for_each_model(values: dict[str, Any], models: Sequence[str], *, stem: str | None = None) -> Iterator[EvalSettings]:
    """The settings of the evaluation of each model, with its output.

    All settings are checked before the first evaluation. An output is chosen when its turn comes: names of models may end
    alike, and then the second one sees what the first has written.
    """
    if len(models) > 1 and "output" in values:
        raise click.UsageError("-o names one file and there are several models; leave it out, or evaluate one at a time")
    found = [
        EvalSettings.from_values({**values, **({} if model is None else {"model": model})}) for model in models or (None,)
    ]
    for settings in found:
        yield settings if settings.output else settings.replace(output=str(_default_output(settings, stem)))


def _depth_cache(settings: EvalSettings) -> Path:
    """Where the maps of a depth model are kept, for all evaluations there."""
    return Path(str(settings.output)).parent / ".depth_cache"


def _finish(found: Mapping[str, Evaluation]) -> None:
    """Show several models side by side, and end the process with `SOME_REJECTED` where questions could not be asked."""
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


_UNFIT = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # what the names of files on some systems cannot hold


def _default_output(settings: EvalSettings, stem: str | None = None) -> Path:
    """`runs/eval/` and the last part of the names of data and model; where another evaluation has that name, a hash too.

    Args:
        settings: of the evaluation.
        stem: stands for the name of the data.
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
    """Where data and model lie; a name of the hub as it is."""
    names = [settings.get(name) or "" for name in ("data", "model", "completions")]
    return [str(Path(name).resolve()) if name and Path(name).exists() else name for name in names]


def _evaluated(output: Path) -> list[str] | None:
    """What an output file holds an evaluation of, or its journal; None where there is neither, or they are broken."""
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
    """Evaluate, show the tables, and write the JSON file and the page where there is an output."""
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
        click.echo("this evaluation was finished before; --fresh does it again", err=True)
    if settings.base_url is not None:
        asked, written = (sum(row.tokens[n] for row in found.rows if row.tokens) for n in (0, 1))
        cost = (asked * settings.prompt_price + written * settings.completion_price) / 1e6
        click.echo(f"{asked:,} tokens read, {written:,} written" + (f", cost {cost:.2f}" if cost else ""), err=True)
    if found.table:
        columns = {"strict": {name: number.strict for name, number in found.table.items()}}
        lenient = {name: number.lenient for name, number in found.table.items() if number.lenient is not None}
        print_metrics(columns | ({"official, lenient": lenient} if lenient else {}), found.table, title=settings.model or "")
    print_metrics({"all": found.results}, found.metrics, title="all questions")
    for what, groups in found.groups.items():
        if len(groups) > 1 and not found.table:  # a benchmark's table has its groups; the page has all of them
            print_metrics_of_groups(what, groups, found.metrics)
    if found.errors:
        first = next(row for row in found.rows if row.error)
        click.echo(f"questions that could not be asked: {found.errors}; the first, {first.id!r}: {first.error}", err=True)
    if page is not None:
        write_page(page, evaluation_page(found, title=f"Evaluation: {output.stem}" if output else "Evaluation", most=most))
        click.echo(output)
        click.echo(page)
    return found


@evaluation.command("compare", short_help="Differences of two evaluations")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file for the differences.")
def compare_command(first: Path, second: Path, output: Path | None) -> None:
    """Compare two JSON files of evaluations: SECOND less FIRST, question by question, with 95 % intervals.

    Both must have asked the same questions; those that only one of them asked are left out and counted. Of a benchmark, its
    own numbers come first, strict; those that are no means stand beside each other without a difference.
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
        click.echo("no question has a metric in both evaluations, so that there is nothing to compare", err=True)
    for path, only in ((first, found.only_first), (second, found.only_second)):
        if only:
            click.echo(f"questions asked in {path} alone, left out here: {only}", err=True)
    click.echo(f"questions asked in both: {found.questions}", err=True)
    if output:
        atomic_write(output, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
        click.echo(output)


@evaluation.command("card", short_help="Numbers to publish, as JSON and in a model card")
@click.argument("results", metavar="RESULTS", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Model card to write or to add to: README.md.")
@click.option("--numbers", type=click.Path(path_type=Path), help="JSON file for the numbers.")
@click.option("--name", help="The model's name in the card's metadata [default: that of the first evaluation].")
def card_command(results: Sequence[Path], output: Path | None, numbers: Path | None, name: str | None) -> None:
    """Write the numbers of the evaluations RESULTS for others: strict and official lenient, with intervals, the SHA-256 of
    weights and questions, and how the model was asked. Without -o and --numbers, the card's section is printed.

    All are of one model, and no two of the same questions asked in the same way. A card that is there keeps its words, its
    line ends, the keys and values of its metadata (not comments among them), and what an earlier call wrote of other
    questions.
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


@evaluation.command("export", short_help="Thoughts as JSON lines, COCO or Label Studio", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(get_args(ThoughtForm)), help="Whose form.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--prefix", metavar="URL", help="What stands before image paths for Label Studio [default: its local files].")
@click_options(EvalSettings, ("images", *DepthFiles.model_fields))
def export_command(file: Path, to: str, output: Path, prefix: str | None, given: dict[str, Any]) -> None:
    """Write the thoughts in FILE, a JSON file of an evaluation or the .eval.json of `sif think`, for other tools.

    Images are looked for in --images, by default in the folder of the questions that FILE names. For Label Studio an
    interface is written beside OUTPUT, with the ending .xml. Depth files are read as they were for the evaluation, unless an
    option says otherwise.
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
        raise click.UsageError("--prefix is for --to label-studio")
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
        (blind, "pixels", "; --images names the folder of the images"),
        ([name for name in gone if name not in blind], "true depths", ""),
    ):
        if names:
            what = f"{len(names)} of {number_of(len(found.rows), 'thought')} without {lack}; the first, {names[0]!r}"
            click.echo(f"{what}: {gone[names[0]]}{hint}", err=True)
    if gone:
        sys.exit(SOME_REJECTED)


@click.command("rewards")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Dataset whose examples the completions' ids name.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Page to write: completions with their boxes drawn.")
@click.option("--most", default=60, show_default=True, type=click.IntRange(min=1), help="Completions on the page.")
def rewards(file: Path, data: Path | None, output: Path | None, most: int) -> None:
    """Score the completions of FILE, JSON lines, by the four rewards of GRPO-SIF.

    Each line has `completion` and `id`, the id of an example of --data; or `completion`, `answer`, `boxes`, and perhaps
    `depth`, `choices` and `images`. Either may say what its boxes are: `coordinates`, and `resized` for pixels.
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
        from sifthinker.show.report import scored_page, write_page

        write_page(output, scored_page(shown, title=f"Rewards of {file.name}", total=total))
        click.echo(output)
