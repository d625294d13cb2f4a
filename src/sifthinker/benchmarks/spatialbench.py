"""SpatialBench: existence, counting, position, size and reach, with depth.

Cai et al., "SpatialBot" (arXiv 2406.13642); files at https://huggingface.co/datasets/RussRobin/SpatialBench, whose terms
must be accepted. Each of the five parts has a JSON list (`existence.json`, `counting.json`, `positional.json`, `size.json`,
`reach.json`) with `image`, `question` and `answer`. Images are in folders of these names. Their depth is in `existence_d/`
and so on, as 16-bit PNG files in millimetres. `grounding.json`, which is not in the paper's table, is not read. Options in a
question's text are read as "(A) …", and as "A. …" on separate lines. The reader was checked against scripts that read the
files, not against the published files. These scripts do not show the format of options.

Each part has its own score, as in SpatialBot's bunny/eval/eval_spatialbench.py. Existence, size and reach have pairs of
questions in consecutive rows. An existence pair counts if both answers are right. A size or reach pair has three points: one
for each right answer, and one for both. Position is accuracy. Counting is 1 less the relative error, which is below 0 if the
count is more than twice the right one; an answer without a number counts as 0. The total is the mean of the five. Pairs that
are incomplete because of `--limit` or a broken image are left out.

The lenient numbers follow SIFThinker's release (evaluation/spatialbot), which changes that script in one point: an answer is
right if it contains the published answer anywhere, and a chain without an answer is right too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sifthinker.benchmarks.choices import split_options
from sifthinker.benchmarks.hub import file_in, folder_of
from sifthinker.benchmarks.listed import listed
from sifthinker.depth import DepthReading
from sifthinker.engine.sources.rows import field_of, read_json, text_of
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Benchmark, Headline, Metric, Unit, Units
from sifthinker.evaluation.metrics import Row, measure
from sifthinker.evaluation.questions import Question
from sifthinker.records import as_whole, shown
from sifthinker.scoring.options import options_of
from sifthinker.scoring.reading import decide, numbers_in
from sifthinker.scoring.reading import read as read_answer
from sifthinker.thinker import Thought

_PAIRS = ("existence", "size", "reach")
_FIVE = ("existence", "counting", "positional", "size", "reach")
_TITLES = {name: name.capitalize() for name in _FIVE} | {"positional": "Position"}
_RULES = {
    "existence": "share of pairs with two right answers",
    "counting": "1 less the relative error of the count",
    "positional": "accuracy",
    "size": "share of three points per pair: one for each right answer, one for both",
    "reach": "share of three points per pair: one for each right answer, one for both",
}
_ALL = "all"
_STRICT, _LENIENT = "SpatialBench score", "SpatialBench score by text anywhere"
_ABOUT = "right if the answer contains the published answer anywhere, or if a chain has no answer"


def read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[Question]:
    """See `benchmark.Reader`. `data` may also be one of the five files."""
    path = Path(data)
    if path.is_file():
        if path.stem not in _FIVE:
            raise RecordError(
                f"{path}: expected one of the files {', '.join(f'{name}.json' for name in _FIVE)}", "missing_file"
            )
        folder = path.parent
        names: tuple[str, ...] = (path.stem,)
    else:
        names = _FIVE if split == _ALL else (split,)
        patterns = [pattern for name in names for pattern in (f"{name}.json", f"{name}/*", f"{name}_d/*")]
        folder = folder_of(data, patterns=patterns)
    root = Path(images) if images is not None else folder
    found = (question for name in names for question in _of_file(folder / f"{name}.json", name, root))
    return listed(found, limit, os.fspath(data))


def _of_file(path: Path, name: str, root: Path) -> Iterator[Question]:
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise RecordError(f"{path}: expected a JSON list of questions, got {shown(rows)}", "no_example")
    if name in _PAIRS and len(rows) % 2:
        raise RecordError(f"{path}: expected consecutive pairs of questions, got an odd number of questions ({len(rows)})")
    for index, row in enumerate(rows):
        yield _question(row, index, name, root, f"{path.name}[{index}]")


def _question(row: Any, index: int, name: str, root: Path, place: str) -> Question:
    image = field_of(row, "image", place, "a path")
    listed = image if isinstance(image, list) else [image]
    if len(listed) != 1 or not isinstance(listed[0], str):
        raise RecordError(f"{place}: image must be the path of one image, got {shown(image)}")
    picture = file_in(root, listed[0], place)
    folder, _, _ = listed[0].partition("/")
    depth = file_in(root, f"{folder}_d/{Path(listed[0]).name.partition('.')[0]}.png", place)
    asked, choices = split_options(text_of(row, "question", place))
    answer = text_of(row, "answer", place)
    if name == "counting" and (as_whole(answer) or 0) <= 0:
        raise RecordError(
            f"{place}: answer must be an integer above 0, because the error is divided by it, got {shown(answer)}"
        )
    if choices and options_of(choices).index_of(read_answer(answer)) is None:
        raise RecordError(f"{place}: answer must be one of the options {shown(list(choices))}, got {shown(answer)}")
    return Question(
        id=_id(name, index),
        image=picture,
        question=asked,
        answers=(answer,),
        choices=choices,
        depth=depth if depth.is_file() else None,
        dataset="SpatialBench",
        split="test",
        family=name,
        reading=DepthReading("millimetres"),
        source=place,
    )


def _stated_count(answer: str) -> float | None:
    """Return the number that an answer states; None if it states none or several."""
    reading = read_answer(answer)
    try:
        return float(decide(reading, numbers_in(reading)) or "")
    except ValueError:
        return None


def count_score(answer: str | None, truth: str) -> float:
    """Return 1 less the relative error of a count. An answer without a number counts as 0, which scores 0.

    Args:
        answer: the model's answer.
        truth: an integer above 0.
    Example:
        >>> count_score("There are three.", "4"), count_score("12", "4"), count_score("many", "4")
        (0.75, -1.0, 0.0)
    """
    wanted = float(truth)
    stated = _stated_count(answer) if answer is not None else None
    return 1 - abs((stated or 0.0) - wanted) / wanted


def _strict(thought: Thought, question: Question) -> float | None:
    if question.family == "counting":
        return count_score(thought.answer, question.answers[0])
    return measure(thought, question).values["answer accuracy"]


def _lenient(thought: Thought, question: Question) -> float | None:
    if thought.answer is None and not thought.direct:
        return 1.0
    if question.family == "counting":  # the release fails on an answer that is not a bare number
        return count_score(thought.answer, question.answers[0])
    return float(question.answers[0] in (thought.answer or ""))


def _pairs(name: str, values: Mapping[str, float]) -> Iterator[Unit]:
    """Yield the scores of complete pairs of questions from the values of single questions."""
    for first, one in values.items():
        index = int(first.rpartition("-")[2])
        other = values.get(second := _id(name, index + 1))
        if index % 2 or other is None:
            continue
        both = one * other
        yield Unit(name, both if name == "existence" else (one + other + both) / 3, (first, second))


def _units(metric: str, names: Iterable[str]) -> Units:
    def units(rows: Sequence[Row]) -> Iterator[Unit]:
        for name in names:
            found = ((row.id, row.values.get(metric)) for row in rows if row.family == name)
            values = {key: value for key, value in found if value is not None}
            if name in _PAIRS:
                yield from _pairs(name, values)
            else:
                yield from (Unit(name, value, (key,)) for key, value in values.items())

    return units


def _of(title: str, about: str, names: tuple[str, ...]) -> Headline:
    return Headline(title, about, _units(_STRICT, names), _units(_LENIENT, names), _ABOUT, needs=frozenset(names))


def _id(name: str, index: int) -> str:
    return f"{name}-{index:04d}"


BENCHMARKS = {
    "spatialbench": Benchmark(
        name="spatialbench",
        title="SpatialBench",
        source="Cai et al., SpatialBot, arXiv 2406.13642; https://huggingface.co/datasets/RussRobin/SpatialBench",
        hub="RussRobin/SpatialBench",
        splits=(_ALL, *_FIVE),
        read=read,
        headlines=(
            _of("SpatialBench", "mean of the five parts", _FIVE),
            *(_of(_TITLES[name], _RULES[name], (name,)) for name in _FIVE),
        ),
        metrics=(
            Metric(_STRICT, "1 for a right answer; for a count, 1 less its relative error", _strict),
            Metric(_LENIENT, _ABOUT, _lenient),
        ),
        unit="a question, or a pair of questions that were both asked",
    )
}
