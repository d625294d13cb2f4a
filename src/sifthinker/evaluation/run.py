"""Run an evaluation, from its questions to its results file. A run can resume, and interruptions do not change its rows."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sifthinker import __version__
from sifthinker.chain import TAG, find_regions
from sifthinker.coordinates import UNIT, Frame, frame_stated, recorded_coordinates
from sifthinker.depth import DepthReading
from sifthinker.endpoint import Usage
from sifthinker.errors import (
    BoxError,
    BudgetError,
    ConfigError,
    DepthError,
    EndpointError,
    ImageError,
    ModelError,
    RecordError,
)
from sifthinker.evaluation.benchmark import Benchmark, Number, describe_lenient
from sifthinker.evaluation.completions import Looks
from sifthinker.evaluation.metrics import METRICS, Result, Row, all_groups, measure, summarise
from sifthinker.evaluation.questions import Question, identity_of, questions_root, read_questions
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.files import atomic_write, make_folder, read_jsonl, sha256, to_json
from sifthinker.fingerprint import model_fingerprint
from sifthinker.journal import Journal, check_same
from sifthinker.literals import Coordinates, ThinkProtocol
from sifthinker.loops import in_thread, run_coroutine, threads, together
from sifthinker.prompts import PROMPT_VERSION, user_prompt, with_choices
from sifthinker.records import as_text, shown
from sifthinker.served import ServedThinker, open_thinker
from sifthinker.thinker import LocalThinker, Task, Thinker, Thought, problems_of, thought_of

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# If none of the first questions can be asked, the setup is wrong: for example the image folder or the kind of model.
FIRST_FAILURES = 10
_MOST_NAMED = 5  # ids in a message


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Args:
        settings: everything that identifies the evaluation: model, questions, how they were asked, versions.
        rows: one row per question, in order.
        questions: the questions by id; empty if the evaluation was read from its file.
        known: whether the evaluation was already finished, so that no question was asked.
        benchmark: title, own metrics and table of a published benchmark, as plain values; None for other questions.
    """

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    questions: Mapping[str, Question] = field(default_factory=dict)
    known: bool = False
    benchmark: Mapping[str, Any] | None = None

    @property
    def protocol(self) -> ThinkProtocol:
        """The protocol that the model was asked with."""
        return protocol_of(self.settings)

    @property
    def table(self) -> dict[str, Number]:
        """The benchmark's table: headline → number; empty if there is no benchmark."""
        found = {}
        for name, number in (self.benchmark or {}).get("table", {}).items():
            lenient = None if number["lenient"] is None else Result(**number["lenient"])
            found[name] = Number(Result(**number["strict"]), lenient)
        return found

    @property
    def lenient_notes(self) -> list[str]:
        """How the benchmark's official scorer is more lenient; see `describe_lenient`."""
        table = (self.benchmark or {}).get("table", {})
        return describe_lenient((name, one["lenient_about"]) for name, one in table.items())

    @property
    def metrics(self) -> dict[str, str]:
        """Metric → description: the general metrics, then the benchmark's own."""
        return {**METRICS, **(self.benchmark or {}).get("metrics", {})}

    @cached_property
    def results(self) -> dict[str, Result]:
        """Metric → result over all rows."""
        return summarise(self.rows)

    @cached_property
    def groups(self) -> dict[str, dict[str, dict[str, Result]]]:
        """Grouping (dataset, split, family, or a tag) → group → metric → result."""
        return {
            name: {group: summarise(rows) for group, rows in found.items()} for name, found in all_groups(self.rows).items()
        }

    @property
    def errors(self) -> int:
        """Number of questions that could not be asked. No metric counts them."""
        return sum(bool(row.error) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return settings, counts, results, results by group and rows as plain values."""
        return {
            "settings": dict(self.settings),
            "questions": len(self.rows),
            "errors": self.errors,
            **({} if self.benchmark is None else {"benchmark": dict(self.benchmark)}),
            "results": {name: asdict(result) for name, result in self.results.items()},
            "groups": {
                name: {
                    group: {metric: asdict(result) for metric, result in of_group.items()}
                    for group, of_group in found.items()
                }
                for name, found in self.groups.items()
            },
            "rows": [row.to_json() for row in self.rows],
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file atomically.

        Raises:
            SIFError: the folder cannot be written.
        """
        atomic_write(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read an evaluation from its file.

        Raises:
            ConfigError: the file does not exist, or was not written by `write`.
        """
        try:
            body = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"{path}: not JSON, expected an evaluation file; {_hint(Path(path))}") from None
        try:
            rows = tuple(Row.from_json(row, str(path)) for row in body["rows"])
            return cls(body["settings"], rows, known=True, benchmark=body.get("benchmark"))
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            hint = _hint(Path(path), "evaluate again with --fresh")
            raise ConfigError(f"{path}: not an evaluation file of this version ({error}); {hint}") from None


def _hint(path: Path, otherwise: str = "see `sif eval`") -> str:
    """Return advice for a file that is not an evaluation: use the one that `sif think` wrote beside it, if it exists."""
    beside = path.with_suffix(".eval.json")
    return f"use {beside}" if beside != path and beside.is_file() else otherwise


def protocol_of(settings: Mapping[str, Any]) -> ThinkProtocol:
    """Return the protocol of an evaluation. Earlier versions recorded only whether it was direct."""
    found: ThinkProtocol = settings.get("protocol", "direct" if settings.get("direct") else "chain")
    return found


def reading_of(settings: Mapping[str, Any]) -> DepthReading:
    """Return how the depth files of an evaluation were read.

    Raises:
        DepthError: the settings contradict each other or are out of range.
    """
    holes = tuple(float(hole) for hole in settings.get("depth_hole") or ())
    return DepthReading(settings.get("depth_encoding") or "auto", settings.get("depth_near"), holes)


_READING = ("depth_encoding", "depth_near", "depth_hole")
_OF_QUESTIONS = ("split", *_READING)  # the hash of the questions covers these too


def _told_reading(questions: Sequence[Question]) -> dict[str, Any]:
    """Return how the depth files of questions are read, as settings; empty if the files themselves define it."""
    readings = list(dict.fromkeys(question.reading for question in questions))
    if len(readings) != 1 or readings[0] == DepthReading("sif"):  # files of our datasets define it themselves
        return {}
    values = (readings[0].encoding, readings[0].near, list(readings[0].holes))
    return {name: value for name, value in zip(_READING, values, strict=True) if value not in ("auto", None, [])}


def evaluate(
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    thinker: Thinker | None = None,
    benchmark: Benchmark | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Ask a model questions and measure its answers, or resume an interrupted evaluation.

    Decoding is greedy. With `settings.output`, a journal beside the output file stores each answered batch. A resumed run
    does not ask those questions again. The questions of a batch can change the last digits of a model's scores, so a resumed
    run keeps the batches, and with them the rows, of an uninterrupted run. A finished evaluation is read from its file.

    A question that cannot be asked, for example because its image is broken, becomes a row with an error. It is asked again
    when the evaluation is repeated. Answered questions are kept.

    A model on a server receives several questions at once. Each answer is stored as soon as it arrives.

    Args:
        settings: the evaluation.
        questions: asked instead of those in `settings.data`, which is then only their name.
        thinker: asked instead of `settings.model`, which is then only its name.
        benchmark: benchmark of the questions, for its own metrics and table; see `benchmarks.evaluate_benchmark`.
        progress: called with the number of finished questions and the total.
        fresh: start over, even if the file exists.
    Raises:
        ConfigError: neither a model nor completions are given; the file contains another evaluation or something else; the
            image of an answered question has changed; or another process is running the same evaluation.
        RecordError: the questions or the saved completions are malformed.
        ModelError: the model cannot be loaded, or none of the first questions could be asked.
        EndpointError: the server refuses every request, or has gone away; the same call resumes.
        BudgetError: the budget is spent; the same call with a larger budget resumes.
        SIFError: the file cannot be written.
    Example:
        >>> found = evaluate(EvalSettings(data="dataset", model="runs/sft", output="sft.json"))  # doctest: +SKIP
        >>> found.results["answer accuracy"].mean, found.errors  # doctest: +SKIP
        (0.71, 0)
    """
    with _Run(settings, questions, thinker, benchmark, progress, fresh) as run:
        if run.served:
            run_coroutine(run.ask_served())
        else:
            for batch in run.left():
                run.take(run.ask(batch))
        return run.finish()


async def evaluate_async(
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    thinker: Thinker | None = None,
    benchmark: Benchmark | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Run `evaluate` without blocking the caller's event loop."""
    run = await in_thread(_Run, settings, questions, thinker, benchmark, progress, fresh)
    with run:
        if run.served:
            await run.ask_served()
        else:
            for batch in run.left():
                run.take(await in_thread(run.ask, batch))
        return run.finish()


def ask(
    thinker: Thinker,
    batch: Sequence[Question],
    root: Path = Path(),
    *,
    protocol: ThinkProtocol = "chain",
    rgb_only: bool = False,
    show_choices: bool = False,
    coordinates: Coordinates | None = None,
    **sampling: Any,
) -> list[Row]:
    """Ask a model one batch of questions with greedy decoding. A question that cannot be asked becomes a row with an error.

    Args:
        thinker: the model.
        batch: at least one question.
        root: folder that image names in rows are relative to.
        protocol: see `EvalSettings`.
        rgb_only: see `EvalSettings`.
        show_choices: see `EvalSettings`.
        coordinates: see `EvalSettings`.
        sampling: see `Thinker.think_all`.
    Returns:
        One row per question, in order.
    Raises:
        ConfigError: see `coordinates_of` and `Thinker.check_coordinates`.
    """
    chosen = coordinates or _learnt(thinker, None)
    if protocol == "chain":
        chosen = coordinates_of(batch, chosen)
    how = _How(protocol, rgb_only, show_choices, chosen)
    return _ask(lambda: thinker, batch, root, how, None, **sampling)


def coordinates_of(questions: Iterable[Question], chosen: Coordinates | None = None) -> Coordinates:
    """Return the coordinates of boxes in chains about these questions: the chosen ones, else those of the dataset.

    Raises:
        ConfigError: none are chosen, and the datasets of the questions differ.
    """
    if chosen is not None:
        return chosen
    found = sorted({question.frame.space for question in questions})
    if len(found) > 1:
        raise ConfigError(
            f"the chains of these questions use different coordinates: {' and '.join(found)}. Set coordinates "
            "(--coordinates) to those that the model learned"
        )
    return found[0] if found else "unit"


def _told_estimators(questions: Sequence[Question]) -> dict[str, Any]:
    """Return the depth models that estimate the depth of questions, as settings; empty if there are none."""
    found = {question.estimator.name for question in questions if question.depth is None and question.estimator is not None}
    return {"depth": ", ".join(sorted(found))} if found else {}


def _learnt(thinker: Thinker | None, settings: EvalSettings | None) -> Coordinates | None:
    """Return the coordinates that a model's files record: those of the loaded model, else of the model in the settings."""
    if thinker is not None:
        return recorded_coordinates(thinker.processor.tokenizer) if isinstance(thinker, LocalThinker) else None
    if settings is None or settings.model is None or settings.base_url is not None:
        return None
    return recorded_coordinates(settings.model)


@dataclass(frozen=True, slots=True)
class _How:
    """How questions are asked, see `EvalSettings`. Coordinates None means those that the model uses by default."""

    protocol: ThinkProtocol
    rgb_only: bool
    show_choices: bool
    coordinates: Coordinates | None

    def text(self, question: Question) -> str:
        """Return the question as the model sees it."""
        return with_choices(question.question, question.choices) if self.show_choices else question.question

    def prompt(self, text: str, *, with_depth: bool, coordinates: Coordinates) -> str:
        """Return the complete user prompt."""
        space: Coordinates = "unit" if self.protocol == "direct" else coordinates
        return user_prompt(text, with_depth=with_depth, protocol=self.protocol, coordinates=space)

    def space(self, thinker: Thinker) -> Coordinates:
        """Return the coordinates to request from a model."""
        by_itself = thinker.native_coordinates if self.protocol == "structured" else thinker.coordinates
        return self.coordinates or by_itself


def _ask(
    load: Callable[[], Thinker],
    batch: Sequence[Question],
    root: Path,
    how: _How,
    benchmark: Benchmark | None,
    **sampling: Any,
) -> list[Row]:
    """Run `ask`, and load the model only once a question of the batch can be asked."""
    rows: dict[int, Row] = {}
    tasks: dict[int, Task] = {}
    for index, question in enumerate(batch):
        try:
            image, depth = question.load(with_depth=not how.rgb_only)
        except (ImageError, DepthError) as error:
            rows[index] = _unasked(question, root, how, error)
        else:
            tasks[index] = image, how.text(question), depth
    thoughts: dict[int, Thought | ValueError] = {}
    space: Coordinates = how.coordinates or "unit"
    if tasks:
        thinker = load()  # outside `try`: its errors are about the model, not about a question
        given: dict[str, Any] = {"protocol": how.protocol, **sampling}
        if how.protocol != "direct":
            space = how.space(thinker)
            thinker.check_coordinates(space)
            given["coordinates"] = space
        try:
            thoughts |= zip(tasks, thinker.think_all(list(tasks.values()), **given), strict=True)
        except ValueError:
            # The processor or tokenizer refuses one of the questions. Ask them one by one to find it.
            for index, task in tasks.items():
                try:
                    (thoughts[index],) = thinker.think_all([task], **given)
                except ValueError as error:
                    thoughts[index] = error
    for index, thought in thoughts.items():
        _, text, depth = tasks[index]
        prompt = how.prompt(text, with_depth=depth is not None, coordinates=space)
        rows[index] = _row(batch[index], root, prompt, thought, benchmark)
    return [rows[index] for index in range(len(batch))]


def _unasked(question: Question, root: Path, how: _How, error: Exception) -> Row:
    """Return the row of a question whose image or depth cannot be read."""
    with_depth = _has_depth(question, how.rgb_only)
    prompt = how.prompt(how.text(question), with_depth=with_depth, coordinates=how.coordinates or "unit")
    return _row(question, root, prompt, error)


def _has_depth(question: Question, rgb_only: bool) -> bool:
    return question.has_depth and not rgb_only


def _row(
    question: Question, root: Path, prompt: str, outcome: Thought | Exception, benchmark: Benchmark | None = None
) -> Row:
    asked = Row(
        id=question.id,
        dataset=question.dataset,
        split=question.split,
        family=question.family,
        tags=dict(question.tags),
        question=question.question,
        answers=question.answers,
        choices=question.choices,
        boxes=question.boxes,
        image=question.image_name(root),
        depth=question.depth_name(root),
        prompt=prompt,
        file_sizes=question.file_sizes(),
    )
    if isinstance(outcome, Exception):
        return replace(asked, error=str(outcome) or type(outcome).__name__)
    values, verdict = measure(outcome, question)
    for metric in benchmark.metrics if benchmark is not None else ():
        values[metric.name] = metric.value(outcome, question)
    return replace(
        asked,
        depth=None if outcome.depth is None else asked.depth,
        completion=outcome.text,
        complete=outcome.complete,
        answer=outcome.answer,
        verdict=None if verdict is None else asdict(verdict),
        problems=tuple(dict.fromkeys(problem.code for problem in problems_of(outcome))),
        values=values,
        coordinates=outcome.frame.space,
        resized=outcome.frame.size,
        reply=outcome.reply,
        faults=tuple((problem.code, problem.message) for problem in outcome.faults),
        tokens=outcome.tokens,
    )


def _states_depth(row: Row) -> bool:
    areas = find_regions(row.completion, with_depth=None, frame=row.frame)
    return any(region.depth is not None for regions in areas for region in regions)


class _Run:
    """A running evaluation. As a context manager, it keeps its journal open if it has an output and is not finished."""

    def __init__(
        self,
        settings: EvalSettings,
        questions: Sequence[Question] | None,
        thinker: Thinker | None,
        benchmark: Benchmark | None,
        progress: Progress | None,
        fresh: bool,
    ) -> None:
        EvalSettings.expect(settings)
        if settings.model is None and settings.completions is None and thinker is None:
            raise ConfigError("Give --model (a model to ask) or --completions (a file of saved completions)")
        self.settings = settings
        self.benchmark = benchmark
        if questions is None:
            reading = DepthReading.of(settings)
            self.questions = read_questions(
                settings.data,
                limit=settings.limit,
                images=settings.images,
                box_space=settings.box_space,
                reading=reading,
            )
        else:
            self.questions = list(questions)[: settings.limit]
            twice = [name for name, times in Counter(question.id for question in self.questions).items() if times > 1]
            if twice or not self.questions:
                message = f"several questions have the id {twice[0]!r}; every question needs its own" if twice else ""
                raise RecordError(message or "expected at least one question, got none", "duplicate_id")
        self.root = questions_root(settings.data, settings.images)
        self._refuse_unused()
        learnt = _learnt(thinker, settings)
        self.coordinates: Coordinates = (settings.coordinates if settings.protocol == "structured" else None) or "unit"
        if settings.protocol == "chain":
            self.coordinates = coordinates_of(self.questions, settings.coordinates or learnt)
        asked = settings.coordinates if settings.protocol == "structured" else self.coordinates
        self.how = _How(settings.protocol, settings.rgb_only, settings.show_choices, asked)
        self.identity = self._identity()
        self._rows: dict[str, Row] = {}  # by id; a repeated question replaces its earlier row
        self._thinker = thinker
        if thinker is None and settings.base_url is not None:
            self._thinker = open_thinker(settings)  # refuses an unusable address before anything is written
        self.served = isinstance(self._thinker, ServedThinker) and settings.completions is None
        self._progress = progress
        self._fresh = fresh
        self._asked = 0  # finished questions
        self._held: list[list[Row]] = []  # not in the journal yet, because no question has been answered
        self._saved = (
            None if settings.completions is None else _completions(settings.completions, self.questions, settings.limit)
        )
        self._frames = {} if self._saved is None else {question.id: self._frame(question) for question in self.questions}
        if (
            self._saved
            and settings.protocol == "chain"
            and not any(TAG.search(saved.text) for saved in self._saved.values())
        ):
            logger.warning(
                "%s: none of the %d completions is a chain. Use --direct to score plain answers",
                settings.completions,
                len(self._saved),
            )
        self.output = None if settings.output is None else Path(settings.output)
        self._finished = self._read_finished()
        self._journal: _Journal | None = None
        if self.output is not None and self._finished is None:
            make_folder(self.output.parent)
            if self._saved is None:
                self._journal = _Journal(journal_path(self.output), self.identity, fresh=fresh)
                self._journal.as_ours = self._grown

    def _refuse_unused(self) -> None:
        """Refuse settings that only the command line applies, when it reads the questions.

        Raises:
            ConfigError: `depth` is set but questions without depth have no estimator, or `split` without a benchmark.
        """
        if self.settings.depth is not None and any(not question.has_depth for question in self.questions):
            raise ConfigError(
                f"depth {self.settings.depth}: this call loads no depth model, and some questions have no depth. Pass "
                "questions=sifthinker.thinking.with_depth(read_questions(…), model)"
            )
        if self.settings.split is not None and self.benchmark is None:
            raise ConfigError(
                f"split {self.settings.split!r}: only benchmarks have splits; use benchmarks.evaluate_benchmark, or leave "
                "split out"
            )

    def _identity(self) -> dict[str, Any]:
        asked = self.settings
        found: dict[str, Any] = {"sifthinker": __version__, "data": asked.data}
        how = {
            **({} if self.benchmark is None else {"benchmark": self.benchmark.name}),
            **asked.model_dump(include={"limit", "protocol", "rgb_only"}),
            **({} if self.benchmark is None or asked.split is None else {"split": asked.split}),
            **_told_reading(self.questions),
            **_told_estimators(self.questions),
            "questions": identity_of(self.questions, self.root),  # after the limit, which explains a difference better
        }
        if self.how.coordinates not in (None, "unit"):  # keeps the identity of earlier evaluations in unit coordinates
            how["coordinates"] = self.how.coordinates
        if asked.completions is not None:
            saved = sha256(_bytes(asked.completions))
            return {**found, **how, "completions": asked.completions, "completions_sha256": saved}
        found |= {"prompt_version": PROMPT_VERSION, "model": asked.model}
        if asked.base_url is not None:
            sent = asked.model_dump(include={"show_choices", "max_new_tokens", "max_pixels", "image_format", "grammar"})
            return {**found, "base_url": asked.base_url, **how, **sent}
        return {
            **found,
            "weights": None if asked.model is None else model_fingerprint(asked.model),
            **how,
            **asked.model_dump(include={"show_choices", "batch_size", "max_new_tokens", "max_pixels", "dtype"}),
        }

    def _read_finished(self) -> Evaluation | None:
        """Return the evaluation in the output file if every question was asked; otherwise take over its rows."""
        if self.output is None or not self.output.exists():
            return None
        found = Evaluation.read(self.output)  # refuses any other file
        if self._fresh:
            return None
        _check_same(str(self.output), self._grown(found.settings), self.identity)
        self._check_files(self.output, found.rows)
        if found.errors or len(found.rows) < len(self.questions):
            self._rows = {row.id: row for row in found.rows}
            return None
        return replace(found, questions=self._by_id())

    def _grown(self, theirs: Any) -> Any:
        """Convert the settings of an evaluation with a smaller limit to those of this one, if that changes no answer.

        A server answers each question independently. The answers of a local model may depend on the rest of the batch.
        """
        limit = theirs.get("limit") if isinstance(theirs, dict) else None
        if not self.served or not isinstance(limit, int) or not 0 < limit < len(self.questions):
            return theirs
        if theirs.get("questions") != identity_of(self.questions[:limit], self.root):
            return theirs
        return {**theirs, **{name: self.identity[name] for name in ("limit", "questions")}}

    def _check_files(self, where: Path, rows: Iterable[Row]) -> None:
        """Check that the files of answered questions have not changed, as far as they still exist."""
        questions = self._by_id()
        for row in rows:
            question = questions.get(row.id)
            if question is None or row.error:
                continue
            files = zip((row.image, row.depth), row.file_sizes, question.file_sizes(), strict=False)
            for name, was, now in files:
                if None not in (was, now) and was != now:
                    raise ConfigError(
                        f"{where}: {name} of question {row.id!r} had {was} bytes when it was answered, and has {now} now. "
                        "Choose another output, or start over with --fresh"
                    )

    def _by_id(self) -> dict[str, Question]:
        return {question.id: question for question in self.questions}

    def __enter__(self) -> _Run:
        if self._journal is not None:
            self._journal.__enter__()
            try:
                if self._fresh and self.output is not None:
                    self.output.unlink(missing_ok=True)  # after an interruption, the old file would pass for the new one
                self._finished = self._read_finished()  # another process may have finished it meanwhile
                if self._finished is None:
                    self._resume(self._journal)
                    self._check_images()
            except BaseException:
                self.__exit__()
                raise
        elif self._finished is None:
            self._check_images()
        self._asked = len(self.questions)
        if self._finished is None:
            self._asked -= sum(map(self._is_open, self.questions))
        if self._progress:
            self._progress(self._asked, len(self.questions))
        return self

    def _check_images(self) -> None:
        """Check that the image files exist before the model is loaded."""
        missing = [question for question in self.questions if self._is_open(question) and question.lacks_image()]
        if not missing:
            return
        first = self.questions[:FIRST_FAILURES]
        if not self._rows and [q.id for q in missing[: len(first)]] == [q.id for q in first]:
            raise ModelError(
                f"none of the first {len(first)} questions could be asked. The first is {first[0].id!r}: "
                f"{first[0].image}: no such image. Set --images to the folder that image paths are relative to"
            )
        logger.warning(
            "%d of %d questions cannot be asked because their image is missing. The first is %r: %s",
            len(missing),
            len(self.questions),
            missing[0].id,
            missing[0].image,
        )

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            if not self._journal.holds_answers:
                self._journal.delete()  # a failed start leaves no file behind
            self._journal.__exit__()

    def _resume(self, journal: _Journal) -> None:
        path = journal_path(Path(str(self.output)))
        try:
            rows = [Row.from_json(row) for batch in journal.lines for row in batch]
        except (TypeError, KeyError, AttributeError, ConfigError):
            raise ConfigError(f"{path}: not a journal of this version; start over with --fresh") from None
        self._check_files(path, rows)
        self._rows |= {row.id: row for row in rows}

    def _is_open(self, question: Question) -> bool:
        """Return whether a question is still to be asked: it has no row, or a row with an error."""
        row = self._rows.get(question.id)
        return row is None or bool(row.error)

    def left(self) -> Iterator[list[Question]]:
        """Yield the batches that are still to be asked, without the questions that have an answer."""
        if self._finished is not None:
            return
        size = self.settings.batch_size
        for start in range(0, len(self.questions), size):
            batch = [question for question in self.questions[start : start + size] if self._is_open(question)]
            if batch:
                yield batch

    def ask(self, batch: Sequence[Question]) -> list[Row]:
        """Ask one batch. The first call loads the model."""
        if self._saved is not None:
            return [self._score(question, self._saved[question.id].text) for question in batch]
        return _ask(self._load, batch, self.root, self.how, self.benchmark)

    def _load(self) -> Thinker:
        if self._thinker is None:
            self._thinker = open_thinker(self.settings)
        return self._thinker

    async def ask_served(self) -> None:
        """Ask all remaining questions, several at once, and store each answer as it arrives.

        Raises:
            EndpointError: the server refuses every request, or no longer answers.
            BudgetError: the budget is spent.
        """
        left = [] if self._finished is not None else [question for question in self.questions if self._is_open(question)]
        left.reverse()
        thinker = self._load()
        assert isinstance(thinker, ServedThinker)
        meter = _Meter(self.settings, thinker.usage, (row.tokens for row in self._rows.values()))

        async def work() -> None:
            while left and await meter.may_start():
                if not left:  # another took the last one meanwhile
                    await meter.ended()
                    return
                row, outcome = await self._ask_one(thinker, left.pop())
                # No `await` between an answer and its journal entry: the run may be stopped there.
                if outcome is not None:
                    meter.see(outcome)
                self.take([row])
                meter.see_tokens(row)
                await meter.ended(answered=any(row.tokens))

        async with thinker:
            with threads(thinker.endpoint.concurrency):
                most = thinker.endpoint.concurrency
                await together((work() for _ in range(most)), most)
        if left:
            raise BudgetError(
                f"The answers so far cost {meter.cost:.4g} of the budget of {self.settings.budget:g}, and the next one may "
                f"exceed it. {len(left)} question{'s are' if len(left) > 1 else ' is'} left. Run the same command with a "
                "larger --budget to resume"
            )

    async def _ask_one(self, thinker: ServedThinker, question: Question) -> tuple[Row, Thought | Exception | None]:
        """Return the row of one question and the outcome of asking; None if its image or depth cannot be read."""
        try:
            image, depth = await in_thread(question.load, with_depth=not self.how.rgb_only)
        except (ImageError, DepthError) as error:
            return _unasked(question, self.root, self.how, error), None
        text, space = self.how.text(question), self.how.space(thinker)
        prompt = self.how.prompt(text, with_depth=depth is not None, coordinates=space)
        outcome: Thought | Exception
        try:
            outcome = await thinker.ask((image, text, depth), protocol=self.how.protocol, coordinates=space)
        except ConfigError:
            raise
        except ValueError as error:
            outcome = error
        except EndpointError as error:
            if error.kind == "setup":
                raise
            outcome = error
        return _row(question, self.root, prompt, outcome, self.benchmark), outcome

    def _score(self, question: Question, completion: str) -> Row:
        direct = self.settings.direct
        first = TAG.search(completion)
        if not direct and first is not None and first[0] == "<area>":
            completion = "<think>" + completion  # the chat template wrote the tag, and it was not saved
        try:
            image, depth = question.load(with_depth=not self.settings.rgb_only)
        except (ImageError, DepthError) as error:
            return _row(question, self.root, "", error)
        protocol, frame = self.settings.protocol, self._frames[question.id]
        thought = thought_of((image, question.question, depth), protocol, frame, completion)
        return _row(question, self.root, "", thought, self.benchmark)

    def _frame(self, question: Question) -> Frame:
        """Return what box numbers in a saved completion stand for: as its line states, else as for the question.

        Raises:
            ConfigError: the boxes are in pixels of an image of unknown size.
            RecordError: `coordinates` or `resized` of the line is invalid.
        """
        assert self._saved is not None
        saved = self._saved[question.id]
        if self.settings.direct:
            return UNIT
        asked = question.frame if question.frame.space == self.coordinates else None
        space = saved.columns.get("coordinates") or self.coordinates
        if space == "resized" and saved.columns.get("resized") is None and (asked is None or asked.space != "resized"):
            raise ConfigError(
                f"{self.settings.completions}: the line of question {question.id!r} has boxes in coordinates resized, but "
                "no image size. Add `resized`: [width, height] of the image as the model saw it, score against a dataset "
                "built with coordinates resized, or ask the model itself"
            )
        try:
            return frame_stated({**saved.columns, "coordinates": space}, asked or UNIT)
        except BoxError as error:
            raise RecordError(f"{saved.where}: {error}") from None

    def take(self, rows: list[Row]) -> None:
        """Add the rows of one batch, and store them in the journal."""
        self._rows |= {row.id: row for row in rows}
        self._held.append(rows)
        if all(row.error for row in self._rows.values()):
            if len(self._rows) >= min(FIRST_FAILURES, len(self.questions)):
                first = next(iter(self._rows.values()))
                raise ModelError(
                    f"none of the first {len(self._rows)} questions could be asked. The first is {first.id!r}: {first.error}"
                )
        else:
            if self._journal is not None:
                for held in self._held:
                    self._journal.add([row.to_json() for row in held])
            self._held.clear()
        self._asked += len(rows)
        if self._progress:
            self._progress(self._asked, len(self.questions))

    def finish(self) -> Evaluation:
        """Write the finished evaluation to its file, and return it."""
        if self._finished is not None:
            if self._journal is not None:
                self._journal.delete()
            return self._finished
        rows = tuple(self._rows[question.id] for question in self.questions)
        about = None if self.benchmark is None else self.benchmark.to_json(rows)
        found = Evaluation(self.identity, rows, self._by_id(), benchmark=about)
        self._say_looks(found.rows)
        if self.benchmark is not None:
            for sentence in self.benchmark.left_out(rows):
                logger.warning("%s: %s", self.benchmark.title, sentence)
        if self.output is not None:
            found.write(self.output)
        if self._journal is not None:
            self._journal.delete()
        return found

    def _say_looks(self, rows: Iterable[Row]) -> None:
        """Warn if most chains have boxes in another space, or depths without depth input: their metrics mean nothing."""
        if self.settings.direct:
            return
        asked = [row for row in rows if not row.error]
        if self.settings.protocol == "structured":
            # The composed chain leaves out boxes that do not fit, so they can only be found in the problems.
            wrong = sum(not {"box_range", "box_order"}.isdisjoint(row.problems) for row in asked)
            if 2 * wrong > len(asked):
                logger.warning(
                    "%s: %d of %d replies have boxes that do not fit the requested coordinates, the first in question %r. "
                    "Set --coordinates to those that the model writes",
                    self.settings.model or "the model",
                    wrong,
                    len(asked),
                    next(row.id for row in asked if not {"box_range", "box_order"}.isdisjoint(row.problems)),
                )
            return
        looks = Looks()
        for row in asked:
            looks.add(row.completion, row.frame)
        if hint := looks.hint():
            who = self.settings.completions or self.settings.model or "the model"
            lines = " (or `coordinates` in each line)" if self.settings.completions else ""
            logger.warning("%s: %s. Set --coordinates%s to those that the model learned", who, hint, lines)
        self._say_depths([row for row in asked if row.depth is None and "<area>" in row.completion])

    def _say_depths(self, chains: Sequence[Row]) -> None:
        """Warn if most chains about questions without depth state depths."""
        with_depths = [row for row in chains if "unknown_key" in row.problems and _states_depth(row)]
        if 2 * len(with_depths) > len(chains):
            logger.warning(
                "%s: %d of %d chains state depths, but %s. The valid format of these chains is 0. The first one answers "
                "question %r. %s",
                self.settings.completions or self.settings.model or "the model",
                len(with_depths),
                len(chains),
                "--rgb-only leaves depth out" if self.settings.rgb_only else "their questions have no depth",
                with_depths[0].id,
                "Score them without --rgb-only" if self.settings.rgb_only else "Use --depth MODEL to estimate depth",
            )


class _Meter:
    """Tracks what the answers of a server cost, and whether it still answers."""

    def __init__(self, settings: EvalSettings, usage: Usage, before: Iterable[tuple[int, ...]]) -> None:
        self._budget = settings.budget
        self._prices = settings.prompt_price, settings.completion_price
        self._usage = usage
        earlier = [tokens for tokens in before if any(tokens)]
        self._answers = len(earlier)  # answers of known cost
        # Cost of earlier processes, less what this process has already spent: `cost` adds that again.
        self._before = sum(map(self._cost_of, earlier)) - self._cost_of((usage.prompt_tokens, usage.completion_tokens))
        self._under_way = 0
        self._changed = asyncio.Condition()
        self._outages = 0  # in a row
        self._spent = False

    def _cost_of(self, tokens: Sequence[int]) -> float:
        return sum(number * price for number, price in zip(tokens, self._prices, strict=True)) / 1e6

    @property
    def cost(self) -> float:
        """Cost of all answers so far, including requests that probe what the server supports."""
        return self._before + self._cost_of((self._usage.prompt_tokens, self._usage.completion_tokens))

    async def may_start(self) -> bool:
        """Wait until it is known whether the budget allows another question, and return that."""
        if self._budget is None:
            return True
        async with self._changed:
            # Until the cost of an answer is known, ask one at a time. Pending answers may cost less than estimated.
            await self._changed.wait_for(lambda: self._spent or not self._under_way or (self._answers and self._fits()))
            if not self._spent and not self._fits():
                self._spent = True
                self._changed.notify_all()
            if not self._spent:
                self._under_way += 1
            return not self._spent

    def _fits(self) -> bool:
        """Return whether one more answer fits the budget, if it and the pending ones cost the average."""
        likely = self.cost / self._answers if self._answers else 0.0
        budget = self._budget or 0.0
        return budget > 0 and self.cost + (self._under_way + 1) * likely <= budget * (1 + 1e-9)

    async def ended(self, *, answered: bool = False) -> None:
        """Note that a started question has ended."""
        async with self._changed:
            self._under_way -= 1
            self._answers += answered
            self._changed.notify_all()

    def see_tokens(self, row: Row) -> None:
        """Check that the server reports tokens if there is a budget.

        Raises:
            BudgetError: it does not, so the cost of an answer is unknown.
        """
        if self._budget is not None and not row.error and not any(row.tokens):
            raise BudgetError(
                f"The server does not report how many tokens it read and wrote (question {row.id!r}), so --budget cannot be "
                "enforced. Run the same command without --budget to resume"
            )

    def see(self, outcome: Thought | Exception) -> None:
        """Check whether the server answered.

        Raises:
            EndpointError: it failed to answer several questions in a row, each after every retry.
        """
        outage = outcome if isinstance(outcome, EndpointError) and outcome.kind == "outage" else None
        self._outages = self._outages + 1 if outage is not None else 0
        if outage is not None and self._outages >= FIRST_FAILURES:
            raise EndpointError(
                f"the server did not answer {self._outages} questions in a row. Run the same command to resume. Last error: "
                f"{outage}",
                "gave_up",
                outage.attempts,
                outage.kind,
            )


def journal_path(output: Path) -> Path:
    """Return the path of the journal of an unfinished evaluation, beside its output file."""
    return output.with_name(f"{output.name}.journal.jsonl")


class _Journal(Journal):
    """The journal of an evaluation: batches of rows."""

    holds_answers = False
    as_ours: Callable[[Any], Any] = staticmethod(lambda header: header)

    def check(self, header: Any) -> None:
        _check_same(str(self._path), self.as_ours(header), self._header)

    def __enter__(self) -> Self:
        super().__enter__()
        self.holds_answers = bool(self.lines)
        return self

    def add(self, line: Any) -> None:
        super().add(line)
        self.holds_answers = True


def _check_same(where: str, theirs: Any, ours: Mapping[str, Any]) -> None:
    contents = {
        "questions": f"the questions in {ours['data']}",
        "completions_sha256": f"the completions in {ours.get('completions')}",
    }
    was, now = (_comparable(told) if isinstance(told, dict) else told for told in (theirs, dict(ours)))
    if isinstance(was, dict) and was.get("questions") == now.get("questions"):
        for name in _OF_QUESTIONS:  # earlier versions did not write them
            was.pop(name, None)
            now.pop(name, None)
    check_same(where, was, now, contents)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without paths. Hashes of the content replace them, so a moved dataset or model stays the same."""
    found = dict(json.loads(to_json(dict(settings))))
    found["protocol"] = protocol_of(found)
    found.pop("direct", None)  # the name in earlier versions
    found.setdefault("coordinates", "unit")  # the file leaves unit coordinates out
    # A restarted server may have another port, and `model` still identifies its model.
    aside = ["data", "completions", "base_url", *(["model"] if found.get("weights") is not None else [])]
    return {key: value for key, value in found.items() if key not in aside}


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A saved completion: its text, the columns of its line that define its boxes, and its place in the file."""

    text: str
    columns: Mapping[str, Any]
    where: str


def _completions(path: str, questions: Sequence[Question], limit: int | None) -> dict[str, _Saved]:
    """Return question id → saved completion. With a limit, this includes completions of questions beyond the limit.

    Raises:
        RecordError: a malformed line, a duplicate id, an id that no question has, or a question without completion.
    """
    found: dict[str, _Saved] = {}
    ids = {question.id for question in questions}
    unknown = []
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str) or row.get("id") is None:
            raise RecordError(f"{where}: expected an object with `id` and `completion` (text), got {shown(row)}")
        name = as_text(row["id"], "id", where)
        if name in found:
            raise RecordError(
                f"{where}: the id {name!r} is already used by {found[name].where}; expected one completion per question",
                "duplicate_id",
            )
        found[name] = _Saved(row["completion"], {key: row.get(key) for key in ("coordinates", "resized")}, where)
        if name not in ids and limit is None:
            unknown.append(name)
    missing = [question.id for question in questions if question.id not in found]
    for names, one, several in (
        (unknown, "id belongs to no question", "ids belong to no question"),
        (missing, "question has no completion", "questions have no completion"),
    ):
        if names:
            listed = ", ".join(map(repr, names[:_MOST_NAMED])) + (", …" if len(names) > _MOST_NAMED else "")
            raise RecordError(f"{path}: {len(names)} {several if len(names) > 1 else one}: {listed}")
    return found
