"""An evaluation from its questions to its file: resumable, the same rows however often it was interrupted."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from PIL import Image

from sifthinker import __version__
from sifthinker.chain import TAG
from sifthinker.coordinates import UNIT, Frame, frame_stated, learnt_by
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.errors import BoxError, ConfigError, DepthError, ImageError, ModelError, RecordError
from sifthinker.evaluation.completions import Looks
from sifthinker.evaluation.metrics import Result, Row, all_groups, measure, summarise
from sifthinker.evaluation.questions import Question, identity_of, questions_root, read_questions
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.files import atomic_write, make_folder, read_jsonl, sha256, to_json
from sifthinker.fingerprint import model_fingerprint
from sifthinker.journal import Journal, check_same
from sifthinker.literals import Coordinates
from sifthinker.loops import in_thread
from sifthinker.prompts import PROMPT_VERSION, user_prompt, with_choices
from sifthinker.records import as_text
from sifthinker.thinker import Thinker, Thought

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
    """

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    questions: Mapping[str, Question] = field(default_factory=dict)
    known: bool = False

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
            raise ConfigError(f"{path}: not JSON; wanted the file of an evaluation, see `sif eval`") from None
        try:
            return cls(body["settings"], tuple(Row.from_json(row, str(path)) for row in body["rows"]), known=True)
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"{path}: not an evaluation of this version ({error}); evaluate again with --fresh") from None


def evaluate(
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    thinker: Thinker | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Ask a model questions and measure its answers, or go on with an evaluation that was interrupted.

    Answers are greedy. With `settings.output`, each batch is kept in a journal beside it as soon as it is answered; whatever
    is there is not asked again. Batches are the same whether the evaluation was interrupted or not, so are rows: what
    shares a batch can change a model's last digits. A finished evaluation is read from its file.

    A question that cannot be asked, for instance because its image is broken, is a row with its error. It is asked again
    when the evaluation is repeated; what was answered stays.

    Args:
        settings: what and how.
        questions: asked instead of those in `settings.data`, which then is no more than their name.
        thinker: asked instead of `settings.model`, which then is no more than its name.
        progress: called with the number of questions done and of all.
        fresh: start over, even if the file is there.
    Raises:
        ConfigError: neither a model nor completions; the file holds another evaluation or something else; the image of a
            question that was answered has changed; or another process is at work on it.
        RecordError: what is wrong with the questions or the saved completions.
        ModelError: the model cannot be loaded, or none of the first questions could be asked.
        SIFError: the file cannot be written.
    Example:
        >>> found = evaluate(EvalSettings(data="dataset", model="runs/sft", output="sft.json"))  # doctest: +SKIP
        >>> found.results["answer accuracy"].mean, found.errors  # doctest: +SKIP
        (0.71, 0)
    """
    with _Run(settings, questions, thinker, progress, fresh) as run:
        for batch in run.left():
            run.take(run.ask(batch))
        return run.finish()


async def evaluate_async(
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    thinker: Thinker | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
) -> Evaluation:
    """`evaluate` for callers with an event loop, which goes on while the model thinks."""
    run = await in_thread(_Run, settings, questions, thinker, progress, fresh)
    with run:
        for batch in run.left():
            run.take(await in_thread(run.ask, batch))
        return run.finish()


def ask(
    thinker: Thinker,
    batch: Sequence[Question],
    root: Path = Path(),
    *,
    direct: bool = False,
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
        direct: see `EvalSettings`.
        rgb_only: see `EvalSettings`.
        show_choices: see `EvalSettings`.
        coordinates: see `EvalSettings`.
        sampling: see `Thinker.think_all`.
    Returns:
        One row a question, in order.
    Raises:
        ConfigError: see `coordinates_of` and `Thinker.check_coordinates`.
    """
    how = {"direct": direct, "rgb_only": rgb_only, "show_choices": show_choices}
    chosen = coordinates or learnt_by(thinker.processor.tokenizer)
    return _ask(lambda: thinker, batch, root, coordinates=coordinates_of(batch, chosen), **how, **sampling)


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


def _ask(
    load: Callable[[], Thinker],
    batch: Sequence[Question],
    root: Path,
    *,
    direct: bool,
    rgb_only: bool,
    show_choices: bool,
    coordinates: Coordinates,
    **sampling: Any,
) -> list[Row]:
    """`ask` of a model that is loaded once a question of the batch can be asked."""

    def prompt(text: str, with_depth: bool) -> str:
        return user_prompt(text, with_depth=with_depth, direct=direct, coordinates=coordinates)

    rows: dict[int, Row] = {}
    tasks: dict[int, tuple[Image.Image, str, DepthMap | None]] = {}
    for index, question in enumerate(batch):
        text = with_choices(question.question, question.choices) if show_choices else question.question
        try:
            image, depth = question.load(with_depth=not rgb_only)
        except (ImageError, DepthError) as error:
            rows[index] = _row(question, root, prompt(text, _has_depth(question, rgb_only)), error)
        else:
            tasks[index] = image, text, depth
    thoughts: dict[int, Thought | ValueError] = {}
    if tasks:
        thinker = load()  # outside of `try`: what it raises is about the model, not about a question
        how = {"direct": direct, **sampling}
        if not direct:
            thinker.check_coordinates(coordinates)
            how["coordinates"] = coordinates
        try:
            thoughts |= zip(tasks, thinker.think_all(list(tasks.values()), **how), strict=True)
        except ValueError:
            # One that the model's processor or tokenizer refuses; which one shows when they are asked one by one.
            for index, task in tasks.items():
                try:
                    (thoughts[index],) = thinker.think_all([task], **how)
                except ValueError as error:
                    thoughts[index] = error
    for index, thought in thoughts.items():
        _, text, depth = tasks[index]
        rows[index] = _row(batch[index], root, prompt(text, depth is not None), thought)
    return [rows[index] for index in range(len(batch))]


def _has_depth(question: Question, rgb_only: bool) -> bool:
    return question.depth is not None and not rgb_only


def _row(question: Question, root: Path, prompt: str, outcome: Thought | Exception) -> Row:
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
    return replace(
        asked,
        depth=None if outcome.depth is None else asked.depth,
        completion=outcome.text,
        complete=outcome.complete,
        answer=outcome.answer,
        verdict=None if verdict is None else asdict(verdict),
        problems=() if outcome.direct else tuple(dict.fromkeys(problem.code for problem in outcome.reading.problems)),
        values=values,
        coordinates=outcome.frame.space,
        resized=outcome.frame.size,
    )


class _Run:
    """An evaluation under way. As a context it holds its journal, where it has an output and is not finished."""

    def __init__(
        self,
        settings: EvalSettings,
        questions: Sequence[Question] | None,
        thinker: Thinker | None,
        progress: Progress | None,
        fresh: bool,
    ) -> None:
        EvalSettings.expect(settings)
        if settings.model is None and settings.completions is None and thinker is None:
            raise ConfigError("Give --model or --completions: a model that answers, or a file of saved completions")
        self.settings = settings
        if questions is None:
            reading = DepthReading(settings.depth_encoding, settings.depth_near, settings.depth_hole)
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
        learnt = None if settings.model is None else learnt_by(settings.model)
        self.coordinates: Coordinates = (
            "unit" if settings.direct else coordinates_of(self.questions, settings.coordinates or learnt)
        )
        self.identity = self._identity()
        self._rows: dict[str, Row] = {}  # by id; of a question that was asked again, the last
        self._thinker = thinker
        self._progress = progress
        self._fresh = fresh
        self._asked = 0  # questions that are done with
        self._held: list[list[Row]] = []  # not yet in the journal: nothing was answered so far
        self._saved = (
            None if settings.completions is None else _completions(settings.completions, self.questions, settings.limit)
        )
        self._frames = {} if self._saved is None else {question.id: self._frame(question) for question in self.questions}
        if self._saved and not settings.direct and not any(TAG.search(saved.text) for saved in self._saved.values()):
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

    def _identity(self) -> dict[str, Any]:
        asked = self.settings
        found: dict[str, Any] = {"sifthinker": __version__, "data": asked.data}
        how = {
            **asked.model_dump(include={"limit", "direct", "rgb_only"}),
            "questions": identity_of(self.questions, self.root),  # behind the limit, which says better why they differ
        }
        if self.coordinates != "unit":  # evaluations of chains in fractions stay as they were
            how["coordinates"] = self.coordinates
        if asked.completions is not None:
            saved = sha256(_bytes(asked.completions))
            return {**found, **how, "completions": asked.completions, "completions_sha256": saved}
        return {
            **found,
            "prompt_version": PROMPT_VERSION,
            "model": asked.model,
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
        _check_same(str(self.output), found.settings, self.identity)
        self._check_files(self.output, found.rows)
        if found.errors:
            self._rows = {row.id: row for row in found.rows}
            return None
        return replace(found, questions=self._by_id())

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
        asked = self.settings
        how = asked.model_dump(include={"direct", "rgb_only", "show_choices"})
        return _ask(self._load, batch, self.root, coordinates=self.coordinates, **how)

    def _load(self) -> Thinker:
        if self._thinker is None:
            asked = self.settings
            assert asked.model is not None
            self._thinker = Thinker.load(
                asked.model, dtype=asked.dtype, max_pixels=asked.max_pixels, max_new_tokens=asked.max_new_tokens
            )
        return self._thinker

    def _score(self, question: Question, completion: str) -> Row:
        direct = self.settings.direct
        first = TAG.search(completion)
        if not direct and first is not None and first[0] == "<area>":
            completion = "<think>" + completion  # opened by a chat template, and not kept
        try:
            image, depth = question.load(with_depth=not self.settings.rgb_only)
        except (ImageError, DepthError) as error:
            return _row(question, self.root, "", error)
        thought = Thought(question.question, image, depth, completion, direct=direct, frame=self._frames[question.id])
        return _row(question, self.root, "", thought)

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
        found = Evaluation(self.identity, tuple(self._rows[question.id] for question in self.questions), self._by_id())
        self._say_looks(found.rows)
        if self.output is not None:
            found.write(self.output)
        if self._journal is not None:
            self._journal.delete()
        return found

    def _say_looks(self, rows: Iterable[Row]) -> None:
        """Warn where most chains state boxes in another space than they are read in: their metrics mean nothing."""
        if self.settings.direct:
            return
        looks = Looks()
        for row in rows:
            looks.add(row.completion, row.frame)
        if hint := looks.hint():
            who = self.settings.completions or self.settings.model or "the model"
            lines = ", or `coordinates` in each line" if self.settings.completions else ""
            logger.warning("%s: %s; --coordinates%s says what the model has learnt", who, hint, lines)


def journal_path(output: Path) -> Path:
    """Where an evaluation that is not finished keeps what is answered: beside its file."""
    return output.with_name(f"{output.name}.journal.jsonl")


class _Journal(Journal):
    """The journal of an evaluation: batches of rows."""

    holds_answers = False

    def check(self, header: Any) -> None:
        _check_same(str(self._path), header, self._header)

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
    check_same(where, _comparable(theirs) if isinstance(theirs, dict) else theirs, _comparable(ours), contents)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where things lie, which content stands for: a dataset or a model that was moved is the same."""
    found = dict(json.loads(to_json(dict(settings))))
    if "protocol" in found:  # as earlier versions called it
        found["direct"] = found.pop("protocol") == "direct"
    found.setdefault("coordinates", "unit")  # which is not stated
    aside = ["data", "completions", *(["model"] if found.get("weights") is not None else [])]
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
