"""TallyQA: counting, simple questions ("How many dogs?") and complex ones ("How many brown dogs are lying down?").

`test.json` is a JSON list with `image, question, answer` (an integer), `question_id, image_id, issimple, data_source`. The
reader was checked against the authors' description of the files, not against the files. According to programs that read it,
`train.json` lacks `issimple`; its questions are then neither simple nor complex. Images are from Visual Genome and COCO, and
their paths include the folder (VG_100K_2/2410408.jpg). --images is the folder that contains these folders.

The authors' models choose a number from 0 to 15. They report accuracy and root mean squared error (RMSE), separately for
simple and complex questions. Text is read strictly: it must state exactly one number. An answer without a number has the
largest possible error, that of the number from 0 to 15 farthest from the truth.

Source: Acharya, Kafle & Kanan, "TallyQA: Answering Complex Counting Questions", AAAI 2019.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifthinker.benchmarks.listed import check_split, file_of, listed, sound
from sifthinker.engine.sources.rows import field_of, list_or_lines, name_of, text_of, whole_of
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Benchmark, Estimate, Headline, Metric, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.records import as_number, shown
from sifthinker.scoring.reading import decide, numbers_in, read
from sifthinker.thinker import Thought

_SPLITS = ("test", "train")
_KINDS = ("simple", "complex")
_MOST = 15  # the largest answer of the data


def _read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
) -> list[Question]:
    """Read the questions, see `Reader`.

    Raises:
        ConfigError: no such split.
        RecordError: a file or row is not in the published layout.
    """
    check_split("tallyqa", split, _SPLITS)
    path = Path(data)
    file = path / f"{split}.json" if path.is_dir() else path
    if not file.is_file():
        raise RecordError(
            f"{file}: no such file; give {split}.json from tallyqa.zip (github.com/manoja328/tallyqa), or its folder",
            "missing_file",
        )
    root = file.parent if images is None else Path(images)
    return listed(_questions(file, split, root), limit, str(file))


def _questions(file: Path, split: str, root: Path) -> Iterator[Question]:
    for index, (place, row) in enumerate(sound(list_or_lines(file))):
        answer = whole_of(row, "answer", place)
        if answer < 0:
            raise RecordError(f"{place}: answer must be 0 or more, got {answer}", "bad_record")
        yield Question(
            id=f"tallyqa-{split}-{name_of(row, ('question_id',), index)}",
            image=file_of(row, "image", place, root),
            question=text_of(row, "question", place),
            answers=(str(answer),),
            dataset="tallyqa",
            split=split,
            family=_kind(row, split, place),
            tags={"source": text_of(row, "data_source", place)} if row.get("data_source") is not None else {},
            source=place,
        )


def _kind(row: Any, split: str, place: str) -> str:
    """Return "simple", "complex", or "" for a row of the training file without `issimple`."""
    if split == "train" and isinstance(row, dict) and "issimple" not in row:
        return ""
    simple = field_of(row, "issimple", place, "true or false")
    if not isinstance(simple, bool):
        raise RecordError(f"{place}: issimple must be true or false, got {shown(simple)}", "bad_record")
    return "simple" if simple else "complex"


# ------------------------------------------------------------------------------------------------------------- numbers


def stated_count(answer: str | None) -> float | None:
    """Return the number that an answer states; None if it states none or several.

    Example:
        >>> stated_count("There are three dogs."), stated_count("2 or 3")
        (3.0, None)
    """
    if answer is None:
        return None
    said = read(answer)
    return as_number(decide(said, numbers_in(said)))


def first_count(answer: str | None) -> float | None:
    """Return the first number in an answer, whatever the rest says; without one, the stated count ("no dogs" is 0).

    Example:
        >>> first_count("2 or 3")
        2.0
    """
    numbers = (as_number(item.key) for item in read(answer or "").items if item.kind == "number")
    return next((number for number in numbers if number is not None), stated_count(answer))


def _first_is_right(thought: Thought, question: Question) -> float:
    return float(first_count(thought.answer) == _truth(question.answers))


def _squared_error(count: Callable[[str | None], float | None], thought: Thought, question: Question) -> float:
    """Return the squared error of a count. Counts above the largest answer of the data are reduced to it."""
    truth, stated = _truth(question.answers), count(thought.answer)
    if stated is None:
        return float(max(truth, _MOST - truth)) ** 2
    return (min(max(stated, 0.0), max(_MOST, truth)) - truth) ** 2


def _truth(answers: Sequence[str]) -> int:
    return int(answers[0])


def _root_mean(metric: str, family: str, rows: Sequence[Row]) -> Estimate | None:
    """Return the root of the mean of squared errors over the questions of a family."""
    found = [error for row in rows if row.family == family and (error := row.values.get(metric)) is not None]
    squares = np.array(found, dtype=np.float64)

    def root(times: NDArray[np.int64]) -> float:
        return math.sqrt(float(squares @ times) / float(times.sum()))

    return Estimate(len(squares), root) if found else None


def _is(family: str) -> Callable[[Row], bool]:
    return lambda row: row.family == family


def _kinds(row: Row) -> Sequence[str]:
    """Return the kinds that a row belongs to; both for a row of the training file, which has no kind."""
    return [row.family] if row.family else _KINDS


_FIRST = (
    "counts the first number in the answer and ignores the rest, as language model harnesses do; the authors' models choose "
    "a number and write no text"
)

_ACCURACIES = tuple(
    Headline(
        name,
        about,
        mean_of("answer accuracy", keep),
        lenient=mean_of("first number", keep),
        lenient_about=_FIRST,
        needs=frozenset(_KINDS if keep is None else ()),
        parts=_kinds,
    )
    for name, about, keep in (
        ("simple", "share of simple questions whose answer states the right number and no other", _is("simple")),
        ("complex", "the same for complex questions", _is("complex")),
        ("all", "the same for all questions", None),
    )
)
_ERRORS = tuple(
    Headline(
        f"{family} RMSE",
        f"root mean squared error on {family} questions; lower is better",
        mean_of("squared error", _is(family)),
        lenient=mean_of("first squared error", _is(family)),
        lenient_about=_FIRST,
        statistic=partial(_root_mean, "squared error", family),
        lenient_statistic=partial(_root_mean, "first squared error", family),
    )
    for family in ("simple", "complex")
)

BENCHMARKS = {
    "tallyqa": Benchmark(
        name="tallyqa",
        title="TallyQA",
        source="Acharya, Kafle & Kanan 2019; tallyqa.zip of github.com/manoja328/tallyqa",
        hub="",
        splits=_SPLITS,
        read=_read,
        headlines=(*_ACCURACIES, *_ERRORS),
        metrics=(
            Metric("first number", "share of answers whose first number is right", _first_is_right),
            Metric("squared error", "squared error of the stated number", partial(_squared_error, stated_count)),
            Metric("first squared error", "squared error of the first number", partial(_squared_error, first_count)),
        ),
    )
}
