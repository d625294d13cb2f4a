"""An evaluation from its questions to its file: resumable, the same rows however often it was interrupted."""

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
from sifthinker.coordinates import UNIT, Frame, frame_stated, learnt_by
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
from sifthinker.evaluation.benchmark import Benchmark, Number
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
from sifthinker.records import as_text
from sifthinker.served import ServedThinker, open_thinker
from sifthinker.thinker import LocalThinker, Task, Thinker, Thought, problems_of, thought_of

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# An evaluation that could ask none of so many questions is set up wrongly: another image folder, another kind of model.
FIRST_FAILURES = 10
_MOST_NAMED = 5  # ids in a message


@dataclass(frozen=True)
class Evaluation:
    """What a model made of questions, finished.

    Args:
        settings: all that makes it another one: model, questions, how they were asked, versions.
        rows: one a question, in order.
        questions: what was asked, by id; empty where the evaluation was read from its file.
        known: whether it had been finished before and nothing was asked.
        benchmark: of a published benchmark: its title, its own metrics, and the numbers of its table; plain values.
    """

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    questions: Mapping[str, Question] = field(default_factory=dict)
    known: bool = False
    benchmark: Mapping[str, Any] | None = None

    @property
    def protocol(self) -> ThinkProtocol:
        """How the model was asked."""
        return protocol_of(self.settings)

    @property
    def table(self) -> dict[str, Number]:
        """The benchmark's table: headline → number; empty where it is of none."""
        found = {}
        for name, number in (self.benchmark or {}).get("table", {}).items():
            lenient = None if number["lenient"] is None else Result(**number["lenient"])
            found[name] = Number(Result(**number["strict"]), lenient)
        return found

    @property
    def lenient_notes(self) -> list[str]:
        """In what the official scorer of the benchmark is more lenient, each said once."""
        table = (self.benchmark or {}).get("table", {})
        return list(dict.fromkeys(one["lenient_about"] for one in table.values() if one["lenient_about"]))

    @property
    def metrics(self) -> dict[str, str]:
        """Metric → what it is: the general ones, and the benchmark's own."""
        return {**METRICS, **(self.benchmark or {}).get("metrics", {})}

    @cached_property
    def results(self) -> dict[str, Result]:
        """Metric → result, over every row."""
        return summarise(self.rows)

    @cached_property
    def groups(self) -> dict[str, dict[str, dict[str, Result]]]:
        """What is grouped (dataset, split, family, tags) → group → metric → result."""
        return {
            name: {group: summarise(rows) for group, rows in found.items()} for name, found in all_groups(self.rows).items()
        }

    @property
    def errors(self) -> int:
        """How many questions could not be asked; no metric counts them."""
        return sum(bool(row.error) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Settings, counts, results, results by group, rows; plain values."""
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
        """Write the JSON file, whole or not at all.

        Raises:
            SIFError: the folder cannot be written.
        """
        atomic_write(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Evaluation:
        """An evaluation from its file.

        Raises:
            ConfigError: no such file, or not one that `write` wrote.
        """
        try:
            body = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"{path}: not JSON; wanted the file of an evaluation, {_hint(Path(path))}") from None
        try:
            rows = tuple(Row.from_json(row, str(path)) for row in body["rows"])
            return cls(body["settings"], rows, known=True, benchmark=body.get("benchmark"))
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            hint = _hint(Path(path), "evaluate again with --fresh")
            raise ConfigError(f"{path}: not an evaluation of this version ({error}); {hint}") from None


def _hint(path: Path, otherwise: str = "see `sif eval`") -> str:
    """What to do about a file that is no evaluation: the one behind the thoughts of `sif think`, where it is there."""
    beside = path.with_suffix(".eval.json")
    return f"use {beside}" if beside != path and beside.is_file() else otherwise


def protocol_of(settings: Mapping[str, Any]) -> ThinkProtocol:
    """How the model of an evaluation was asked; earlier versions noted no more than whether directly."""
    found: ThinkProtocol = settings.get("protocol", "direct" if settings.get("direct") else "chain")
    return found


def reading_of(settings: Mapping[str, Any]) -> DepthReading:
    """How the depth files of an evaluation were read.

    Raises:
        DepthError: settings that no file can be read by.
    """
    holes = tuple(float(hole) for hole in settings.get("depth_hole") or ())
    return DepthReading(settings.get("depth_encoding") or "auto", settings.get("depth_near"), holes)


_READING = ("depth_encoding", "depth_near", "depth_hole")
_OF_QUESTIONS = ("split", *_READING)  # what the hash of the questions covers, said in words too


def _told_reading(questions: Sequence[Question]) -> dict[str, Any]:
    """How the depth files of questions are read, as settings, where that does not follow from the files."""
    readings = list(dict.fromkeys(question.reading for question in questions))
    if len(readings) != 1 or readings[0] == DepthReading("sif"):  # which files of datasets say by themselves
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
    """Ask a model questions and measure its answers, or go on with an evaluation that was interrupted.

    Answers are greedy. With `settings.output`, each batch is kept in a journal beside it as soon as it is answered; whatever
    is there is not asked again. Batches are the same whether the evaluation was interrupted or not, so are rows: what
    shares a batch can change a model's last digits. A finished evaluation is read from its file.

    A question that cannot be asked, for instance because its image is broken, is a row with its error. It is asked again
    when the evaluation is repeated; what was answered stays.

    A model on a server is asked several questions at once, and each answer is kept as soon as it is there.

    Args:
        settings: what and how.
        questions: asked instead of those in `settings.data`, which then is no more than their name.
        thinker: asked instead of `settings.model`, which then is no more than its name.
        benchmark: whose questions these are, for its own metrics and its table; see `benchmarks.evaluate_benchmark`.
        progress: called with the number of questions done and of all.
        fresh: start over, even if the file is there.
    Raises:
        ConfigError: neither a model nor completions; the file holds another evaluation or something else; the image of a
            question that was answered has changed; or another process is at work on it.
        RecordError: what is wrong with the questions or the saved completions.
        ModelError: the model cannot be loaded, or none of the first questions could be asked.
        EndpointError: the server refuses every request alike, or went away; the same call goes on.
        BudgetError: the budget is spent; the same call with a greater one goes on.
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
    """`evaluate` for callers with an event loop, which goes on while the model thinks."""
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
    """Ask a model one batch of questions, greedily; a question that cannot be asked is a row with its error.

    Args:
        thinker: the model.
        batch: at least one question.
        root: folder that the names of images in rows are relative to.
        protocol: see `EvalSettings`.
        rgb_only: see `EvalSettings`.
        show_choices: see `EvalSettings`.
        coordinates: see `EvalSettings`.
        sampling: see `Thinker.think_all`.
    Returns:
        One row a question, in order.
    Raises:
        ConfigError: see `coordinates_of` and `Thinker.check_coordinates`.
    """
    chosen = coordinates or _learnt(thinker, None)
    if protocol == "chain":
        chosen = coordinates_of(batch, chosen)
    how = _How(protocol, rgb_only, show_choices, chosen)
    return _ask(lambda: thinker, batch, root, how, None, **sampling)


def coordinates_of(questions: Iterable[Question], chosen: Coordinates | None = None) -> Coordinates:
    """The coordinates that a model's chains about these questions state boxes in: the chosen ones, else the dataset's.

    Raises:
        ConfigError: none are chosen, and the questions are of datasets that differ.
    """
    if chosen is not None:
        return chosen
    found = sorted({question.frame.space for question in questions})
    if len(found) > 1:
        raise ConfigError(
            f"the chains of these questions' dataset state boxes in {' and '.join(found)}; say with coordinates "
            "(--coordinates) what the model has learnt"
        )
    return found[0] if found else "unit"


def _told_estimators(questions: Sequence[Question]) -> dict[str, Any]:
    """The depth models that estimate the depth of questions, as settings of an evaluation; none where there are none."""
    found = {question.estimator.name for question in questions if question.depth is None and question.estimator is not None}
    return {"depth": ", ".join(sorted(found))} if found else {}


def _learnt(thinker: Thinker | None, settings: EvalSettings | None) -> Coordinates | None:
    """The coordinates that a model has noted that it learnt: a loaded one's own, else those of the model that is named."""
    if thinker is not None:
        return learnt_by(thinker.processor.tokenizer) if isinstance(thinker, LocalThinker) else None
    if settings is None or settings.model is None or settings.base_url is not None:
        return None
    return learnt_by(settings.model)


@dataclass(frozen=True, slots=True)
class _How:
    """How questions are asked, see `EvalSettings`; coordinates None are those that the model states by itself."""

    protocol: ThinkProtocol
    rgb_only: bool
    show_choices: bool
    coordinates: Coordinates | None

    def text(self, question: Question) -> str:
        """The question as it is asked."""
        return with_choices(question.question, question.choices) if self.show_choices else question.question

    def prompt(self, text: str, *, with_depth: bool, coordinates: Coordinates) -> str:
        """All that is asked."""
        space: Coordinates = "unit" if self.protocol == "direct" else coordinates
        return user_prompt(text, with_depth=with_depth, protocol=self.protocol, coordinates=space)

    def space(self, thinker: Thinker) -> Coordinates:
        """The coordinates that a model is asked for."""
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
    """`ask` of a model that is loaded once a question of the batch can be asked."""
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
        thinker = load()  # outside of `try`: what it raises is about the model, not about a question
        given: dict[str, Any] = {"protocol": how.protocol, **sampling}
        if how.protocol != "direct":
            space = how.space(thinker)
            thinker.check_coordinates(space)
            given["coordinates"] = space
        try:
            thoughts |= zip(tasks, thinker.think_all(list(tasks.values()), **given), strict=True)
        except ValueError:
            # One that the model's processor or tokenizer refuses; which one shows when they are asked one by one.
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
    """The row of a question whose image or depth cannot be read."""
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
    """An evaluation under way. As a context it holds its journal, where it has an output and is not finished."""

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
            raise ConfigError("Give --model or --completions: a model that answers, or a file of saved completions")
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
                raise RecordError(f"the id {twice[0]!r} is there twice" if twice else "there is no question", "duplicate_id")
        self.root = questions_root(settings.data, settings.images)
        self._refuse_unheeded()
        learnt = _learnt(thinker, settings)
        self.coordinates: Coordinates = (settings.coordinates if settings.protocol == "structured" else None) or "unit"
        if settings.protocol == "chain":
            self.coordinates = coordinates_of(self.questions, settings.coordinates or learnt)
        asked = settings.coordinates if settings.protocol == "structured" else self.coordinates
        self.how = _How(settings.protocol, settings.rgb_only, settings.show_choices, asked)
        self.identity = self._identity()
        self._rows: dict[str, Row] = {}  # by id; of a question that was asked again, the last
        self._thinker = thinker
        if thinker is None and settings.base_url is not None:
            self._thinker = open_thinker(settings)  # an address that cannot be used is refused before it is noted anywhere
        self.served = isinstance(self._thinker, ServedThinker) and settings.completions is None
        self._progress = progress
        self._fresh = fresh
        self._asked = 0  # questions that are done with
        self._held: list[list[Row]] = []  # not yet in the journal: nothing was answered so far
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
                "%s: none of the %d completions is a chain; score plain answers with --direct",
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

    def _refuse_unheeded(self) -> None:
        """Refuse settings that only the command line acts on: it reads the questions by them.

        Raises:
            ConfigError: `depth` of questions that nobody has given an estimator, or `split` without a benchmark.
        """
        if self.settings.depth is not None and any(not question.has_depth for question in self.questions):
            raise ConfigError(
                f"depth {self.settings.depth}: questions come without depth; give `questions` of "
                "sifthinker.thinking.with_depth(read_questions(…), model)"
            )
        if self.settings.split is not None and self.benchmark is None:
            raise ConfigError(f"split {self.settings.split!r} is of a benchmark; see benchmarks.evaluate_benchmark")

    def _identity(self) -> dict[str, Any]:
        asked = self.settings
        found: dict[str, Any] = {"sifthinker": __version__, "data": asked.data}
        how = {
            **({} if self.benchmark is None else {"benchmark": self.benchmark.name}),
            **asked.model_dump(include={"limit", "protocol", "rgb_only"}),
            **({} if self.benchmark is None or asked.split is None else {"split": asked.split}),
            **_told_reading(self.questions),
            **_told_estimators(self.questions),
            "questions": identity_of(self.questions, self.root),  # behind the limit, which says better why they differ
        }
        if self.how.coordinates not in (None, "unit"):  # evaluations of chains in fractions stay as they were
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
        """The evaluation in the output file where every question was asked; rows of one that lacks some are taken over."""
        if self.output is None or not self.output.exists():
            return None
        found = Evaluation.read(self.output)  # somebody else's file is refused here
        if self._fresh:
            return None
        _check_same(str(self.output), self._grown(found.settings), self.identity)
        self._check_files(self.output, found.rows)
        if found.errors or len(found.rows) < len(self.questions):
            self._rows = {row.id: row for row in found.rows}
            return None
        return replace(found, questions=self._by_id())

    def _grown(self, theirs: Any) -> Any:
        """Settings of an evaluation of the first of these questions as those of this one, where that changes no answer.

        A server answers each question by itself. What a model here says may depend on what shares its batch.
        """
        limit = theirs.get("limit") if isinstance(theirs, dict) else None
        if not self.served or not isinstance(limit, int) or not 0 < limit < len(self.questions):
            return theirs
        if theirs.get("questions") != identity_of(self.questions[:limit], self.root):
            return theirs
        return {**theirs, **{name: self.identity[name] for name in ("limit", "questions")}}

    def _check_files(self, where: Path, rows: Iterable[Row]) -> None:
        """See that answered questions still have the files that they were asked about, as far as these are there."""
        questions = self._by_id()
        for row in rows:
            question = questions.get(row.id)
            if question is None or row.error:
                continue
            files = zip((row.image, row.depth), row.file_sizes, question.file_sizes(), strict=False)
            for name, was, now in files:
                if None not in (was, now) and was != now:
                    raise ConfigError(
                        f"{where} is of another run: {name} of question {row.id!r} had {was} bytes when it was answered, "
                        f"now {now}; name another output, or start over with --fresh"
                    )

    def _by_id(self) -> dict[str, Question]:
        return {question.id: question for question in self.questions}

    def __enter__(self) -> _Run:
        if self._journal is not None:
            self._journal.__enter__()
            try:
                if self._fresh and self.output is not None:
                    self.output.unlink(missing_ok=True)  # or, interrupted, the old file would pass for the new one
                self._finished = self._read_finished()  # by another process, meanwhile
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
        """Look for the image files before a model is loaded for them."""
        missing = [question for question in self.questions if self._is_open(question) and question.lacks_image()]
        if not missing:
            return
        first = self.questions[:FIRST_FAILURES]
        if not self._rows and [q.id for q in missing[: len(first)]] == [q.id for q in first]:
            raise ModelError(
                f"none of the first {len(first)} questions could be asked; the first, {first[0].id!r}: {first[0].image}: "
                "no such image; --images names the folder that paths are relative to"
            )
        logger.warning(
            "%d of %d questions cannot be asked, since their image is missing; the first, %r: %s",
            len(missing),
            len(self.questions),
            missing[0].id,
            missing[0].image,
        )

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            if not self._journal.holds_answers:
                self._journal.delete()  # a start that failed leaves nothing behind
            self._journal.__exit__()

    def _resume(self, journal: _Journal) -> None:
        path = journal_path(Path(str(self.output)))
        try:
            rows = [Row.from_json(row) for batch in journal.lines for row in batch]
        except (TypeError, KeyError, AttributeError, ConfigError):
            raise ConfigError(f"{path} is broken; start over with --fresh") from None
        self._check_files(path, rows)
        self._rows |= {row.id: row for row in rows}

    def _is_open(self, question: Question) -> bool:
        """Whether a question is still to be asked: it was not yet, or could not be."""
        row = self._rows.get(question.id)
        return row is None or bool(row.error)

    def left(self) -> Iterator[list[Question]]:
        """The batches that are still to be asked; of one that was asked before, those that could not be."""
        if self._finished is not None:
            return
        size = self.settings.batch_size
        for start in range(0, len(self.questions), size):
            batch = [question for question in self.questions[start : start + size] if self._is_open(question)]
            if batch:
                yield batch

    def ask(self, batch: Sequence[Question]) -> list[Row]:
        """One batch; loads the model when it is first needed."""
        if self._saved is not None:
            return [self._score(question, self._saved[question.id].text) for question in batch]
        return _ask(self._load, batch, self.root, self.how, self.benchmark)

    def _load(self) -> Thinker:
        if self._thinker is None:
            self._thinker = open_thinker(self.settings)
        return self._thinker

    async def ask_served(self) -> None:
        """Ask every question that is left, as many at once as the server is to be asked; each is kept when it is there.

        Raises:
            EndpointError: the server refuses every request alike, or does not answer any more.
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
                # Nothing may come between an answer and its place in the journal: the run may be stopped there.
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
                f"The answers cost {meter.cost:.4g} of {self.settings.budget:g}, and another may go beyond; {len(left)} "
                f"question{'s are' if len(left) > 1 else ' is'} left. The same command with a greater --budget goes on"
            )

    async def _ask_one(self, thinker: ServedThinker, question: Question) -> tuple[Row, Thought | Exception | None]:
        """The row of one question, and what asking came to; None where its image cannot be read and nobody was asked."""
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
            completion = "<think>" + completion  # opened by a chat template, and not kept
        try:
            image, depth = question.load(with_depth=not self.settings.rgb_only)
        except (ImageError, DepthError) as error:
            return _row(question, self.root, "", error)
        protocol, frame = self.settings.protocol, self._frames[question.id]
        thought = thought_of((image, question.question, depth), protocol, frame, completion)
        return _row(question, self.root, "", thought, self.benchmark)

    def _frame(self, question: Question) -> Frame:
        """What the numbers of boxes in a saved completion stand for: what its line says, else what is known of the question.

        Raises:
            ConfigError: pixels of an image whose size nothing tells.
            RecordError: a line whose `coordinates` and `resized` are none.
        """
        assert self._saved is not None
        saved = self._saved[question.id]
        if self.settings.direct:
            return UNIT
        asked = question.frame if question.frame.space == self.coordinates else None
        space = saved.columns.get("coordinates") or self.coordinates
        if space == "resized" and saved.columns.get("resized") is None and (asked is None or asked.space != "resized"):
            raise ConfigError(
                f"coordinates resized: {self.settings.completions} does not say how large the model saw the image of "
                f"question {question.id!r}; give its line `resized`, the [width, height], score against a dataset "
                "built with coordinates resized, or ask the model itself"
            )
        try:
            return frame_stated({**saved.columns, "coordinates": space}, asked or UNIT)
        except BoxError as error:
            raise RecordError(f"{saved.where}: {error}") from None

    def take(self, rows: list[Row]) -> None:
        """Take in what one batch came to."""
        self._rows |= {row.id: row for row in rows}
        self._held.append(rows)
        if all(row.error for row in self._rows.values()):
            if len(self._rows) >= min(FIRST_FAILURES, len(self.questions)):
                first = next(iter(self._rows.values()))
                raise ModelError(
                    f"none of the first {len(self._rows)} questions could be asked; the first, {first.id!r}: {first.error}"
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
        """The finished evaluation, written to its file."""
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
        """Warn where most chains are not what they are read as, so that their metrics mean nothing: they state boxes in
        another space, or depths where there are none.
        """
        if self.settings.direct:
            return
        asked = [row for row in rows if not row.error]
        if self.settings.protocol == "structured":
            # What does not fit is left out of what is composed, so that it cannot be looked at there.
            wrong = sum(not {"box_range", "box_order"}.isdisjoint(row.problems) for row in asked)
            if 2 * wrong > len(asked):
                logger.warning(
                    "%s: %d of %d replies hold boxes that are none in the coordinates that were asked for, the first in "
                    "question %r; --coordinates says what the model writes",
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
            lines = ", or `coordinates` in each line" if self.settings.completions else ""
            logger.warning("%s: %s; --coordinates%s says what the model has learnt", who, hint, lines)
        self._say_depths([row for row in asked if row.depth is None and "<area>" in row.completion])

    def _say_depths(self, chains: Sequence[Row]) -> None:
        """Warn where most chains about questions without depth state depths."""
        with_depths = [row for row in chains if "unknown_key" in row.problems and _states_depth(row)]
        if 2 * len(with_depths) > len(chains):
            logger.warning(
                "%s: %d of %d chains state depths, but %s, so that the valid format of these is 0; the first answers "
                "question %r. %s",
                self.settings.completions or self.settings.model or "the model",
                len(with_depths),
                len(chains),
                "--rgb-only leaves these out" if self.settings.rgb_only else "their questions have none",
                with_depths[0].id,
                "Score them without --rgb-only" if self.settings.rgb_only else "--depth MODEL estimates them",
            )


class _Meter:
    """What the answers of a server cost, and whether it still answers."""

    def __init__(self, settings: EvalSettings, usage: Usage, before: Iterable[tuple[int, ...]]) -> None:
        self._budget = settings.budget
        self._prices = settings.prompt_price, settings.completion_price
        self._usage = usage
        earlier = [tokens for tokens in before if any(tokens)]
        self._answers = len(earlier)  # whose cost is known
        # Of earlier processes, less what this one's server was asked for before.
        self._before = sum(map(self._cost_of, earlier)) - self._cost_of((usage.prompt_tokens, usage.completion_tokens))
        self._under_way = 0
        self._changed = asyncio.Condition()
        self._outages = 0  # in a row
        self._spent = False

    def _cost_of(self, tokens: Sequence[int]) -> float:
        return sum(number * price for number, price in zip(tokens, self._prices, strict=True)) / 1e6

    @property
    def cost(self) -> float:
        """Of all that was answered so far, looks at what the server offers included."""
        return self._before + self._cost_of((self._usage.prompt_tokens, self._usage.completion_tokens))

    async def may_start(self) -> bool:
        """Whether another question may be asked within the budget; waits until that is known."""
        if self._budget is None:
            return True
        async with self._changed:
            # While nobody knows what an answer costs, one at a time; and those under way may cost less than is likely.
            await self._changed.wait_for(lambda: self._spent or not self._under_way or (self._answers and self._fits()))
            if not self._spent and not self._fits():
                self._spent = True
                self._changed.notify_all()
            if not self._spent:
                self._under_way += 1
            return not self._spent

    def _fits(self) -> bool:
        """Whether one more would stay within the budget, if it and those under way cost what others did."""
        likely = self.cost / self._answers if self._answers else 0.0
        budget = self._budget or 0.0
        return budget > 0 and self.cost + (self._under_way + 1) * likely <= budget * (1 + 1e-9)

    async def ended(self, *, answered: bool = False) -> None:
        """One that was started has ended."""
        async with self._changed:
            self._under_way -= 1
            self._answers += answered
            self._changed.notify_all()

    def see_tokens(self, row: Row) -> None:
        """Take note of whether the server counts tokens.

        Raises:
            BudgetError: there is a budget, and it does not: nobody can tell what an answer costs.
        """
        if self._budget is not None and not row.error and not any(row.tokens):
            raise BudgetError(
                f"The server does not say how many tokens it read and wrote (question {row.id!r}), so that no budget can be "
                "kept. The same command without --budget goes on"
            )

    def see(self, outcome: Thought | Exception) -> None:
        """Take note of whether the server answered.

        Raises:
            EndpointError: it did not, several times in a row, each after every retry.
        """
        outage = outcome if isinstance(outcome, EndpointError) and outcome.kind == "outage" else None
        self._outages = self._outages + 1 if outage is not None else 0
        if outage is not None and self._outages >= FIRST_FAILURES:
            raise EndpointError(
                f"the server left {self._outages} questions in a row unanswered; the same command goes on. The last: "
                f"{outage}",
                "gave_up",
                outage.attempts,
                outage.kind,
            )


def journal_path(output: Path) -> Path:
    """Where an evaluation that is not finished keeps what is answered: beside its file."""
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
        for name in _OF_QUESTIONS:  # earlier versions did not say them in words
            was.pop(name, None)
            now.pop(name, None)
    check_same(where, was, now, contents)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where things lie, which content stands for: a dataset or a model that was moved is the same."""
    found = dict(json.loads(to_json(dict(settings))))
    found["protocol"] = protocol_of(found)
    found.pop("direct", None)  # as earlier versions called it
    found.setdefault("coordinates", "unit")  # which is not stated
    # A server that was started again may have another port, and its model is named anyway.
    aside = ["data", "completions", "base_url", *(["model"] if found.get("weights") is not None else [])]
    return {key: value for key, value in found.items() if key not in aside}


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A saved completion: its text, what its line says of its boxes, and where it stands."""

    text: str
    columns: Mapping[str, Any]
    where: str


def _completions(path: str, questions: Sequence[Question], limit: int | None) -> dict[str, _Saved]:
    """Question id → saved completion; where the questions were limited, of others too.

    Raises:
        RecordError: a malformed line, an id that is there twice or that no question has, or a question without completion.
    """
    found: dict[str, _Saved] = {}
    ids = {question.id for question in questions}
    unknown = []
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str) or row.get("id") is None:
            raise RecordError(f"{where}: wanted an object with `id` and the text `completion`")
        name = as_text(row["id"], "id", where)
        if name in found:
            raise RecordError(f"{where}: the id {name!r} was there before; wanted one completion a question", "duplicate_id")
        found[name] = _Saved(row["completion"], {key: row.get(key) for key in ("coordinates", "resized")}, where)
        if name not in ids and limit is None:
            unknown.append(name)
    missing = [question.id for question in questions if question.id not in found]
    for names, one, several in ((unknown, "is", "are of no question"), (missing, "has", "have no completion")):
        if names:
            listed = ", ".join(map(repr, names[:_MOST_NAMED])) + (", …" if len(names) > _MOST_NAMED else "")
            what = f"ids {several}" if len(names) > 1 else f"id {one} {several.partition(' ')[2]}"
            raise RecordError(f"{path}: {len(names)} {what}: {listed}")
    return found
