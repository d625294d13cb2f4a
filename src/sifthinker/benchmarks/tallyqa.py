"""TallyQA: counting, simple questions ("How many dogs?") and complex ones ("How many brown dogs are lying down?").

`test.json`, a JSON list: `image, question, answer` (a whole number), `question_id, image_id, issimple, data_source`. Checked
against the authors' description of the files, not against the files. `train.json` lacks `issimple`, as programs
that read it say: its questions then are neither simple nor complex. Images of Visual Genome and COCO, named with their
folders (VG_100K_2/2410408.jpg), so that --images is the folder that holds these.

The authors' models choose one of the numbers 0 to 15. They are measured by accuracy and by the root of the mean squared
error, of simple and complex questions apart. A text is read strictly: it must state one number. The error of an answer that
states none is that of the number from 0 to 15 which is farthest from the truth.

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
        RecordError: a file or a row that is not as published.
    """
    check_split("tallyqa", split, _SPLITS)
    path = Path(data)
    file = path / f"{split}.json" if path.is_dir() else path
    if not file.is_file():
        raise RecordError(
            f"{file}: no such file; wanted {split}.json out of tallyqa.zip (github.com/manoja328/tallyqa), or its folder",
            "missing_file",
        )
    root = file.parent if images is None else Path(images)
    return listed(_questions(file, split, root), limit, str(file))


def _questions(file: Path, split: str, root: Path) -> Iterator[Question]:
    for index, (place, row) in enumerate(sound(list_or_lines(file))):
        answer = whole_of(row, "answer", place)
        if answer < 0:
            raise RecordError(f"{place}: answer is {answer}, wanted a number of things", "bad_record")
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
    """simple, complex, or "" for a row of the training file, which says nothing of it."""
    if split == "train" and isinstance(row, dict) and "issimple" not in row:
        return ""
    simple = field_of(row, "issimple", place, "true or false")
    if not isinstance(simple, bool):
        raise RecordError(f"{place}: issimple is {shown(simple)}, wanted true or false", "bad_record")
    return "simple" if simple else "complex"


# ------------------------------------------------------------------------------------------------------------- numbers


def stated_count(answer: str | None) -> float | None:
    """The one number that an answer states; None where it states none, or two.

    Example:
        >>> stated_count("There are three dogs."), stated_count("2 or 3")
        (3.0, None)
    """
    if answer is None:
        return None
    said = read(answer)
    return as_number(decide(said, numbers_in(said)))


def first_count(answer: str | None) -> float | None:
    """The first number in an answer, whatever is said about it; what it states where it holds none ("no dogs").

    Example:
        >>> first_count("2 or 3")
        2.0
    """
    numbers = (as_number(item.key) for item in read(answer or "").items if item.kind == "number")
    return next((number for number in numbers if number is not None), stated_count(answer))


def _first_is_right(thought: Thought, question: Question) -> float:
    return float(first_count(thought.answer) == _truth(question.answers))


def _squared_error(count: Callable[[str | None], float | None], thought: Thought, question: Question) -> float:
    """Squared distance of a count from the truth. The largest number of the data stands for any larger one."""
    truth, stated = _truth(question.answers), count(thought.answer)
    if stated is None:
        return float(max(truth, _MOST - truth)) ** 2
    return (min(max(stated, 0.0), max(_MOST, truth)) - truth) ** 2


def _truth(answers: Sequence[str]) -> int:
    return int(answers[0])


def _root_mean(metric: str, family: str, rows: Sequence[Row]) -> Estimate | None:
    """The root of the mean of squares, over the questions of a family."""
    found = [error for row in rows if row.family == family and (error := row.values.get(metric)) is not None]
    squares = np.array(found, dtype=np.float64)

    def root(times: NDArray[np.int64]) -> float:
        return math.sqrt(float(squares @ times) / float(times.sum()))

    return Estimate(len(squares), root) if found else None


def _is(family: str) -> Callable[[Row], bool]:
    return lambda row: row.family == family


def _kinds(row: Row) -> Sequence[str]:
    """The kinds that a row stands for: one of the training file, which does not tell, stands for both."""
    return [row.family] if row.family else _KINDS


_FIRST = (
    "the first number in the answer, whatever else it says, as harnesses for language models read it; the authors' models "
    "choose a number and write no text"
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
        ("simple", "simple questions whose answer states the right number and no other", _is("simple")),
        ("complex", "likewise, complex questions", _is("complex")),
        ("all", "likewise, all questions", None),
    )
)
_ERRORS = tuple(
    Headline(
        f"{family} RMSE",
        f"root of the mean squared error of {family} questions, lower is better",
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
            Metric("first number", "answers whose first number is right", _first_is_right),
            Metric("squared error", "of the number that is stated", partial(_squared_error, stated_count)),
            Metric("first squared error", "of the first number", partial(_squared_error, first_count)),
        ),
    )
}
