"""SAT: spatial relations in one image (static), and motion between two images (dynamic).

Ray et al., "SAT: Dynamic Spatial Aptitude Training for Multimodal Language Models" (arXiv 2412.07755); files at
https://huggingface.co/datasets/array/SAT. The layout follows its card: `SAT_train.parquet`, `SAT_static.parquet`,
`SAT_val.parquet` and `SAT_test.parquet`, with `image_bytes` (a list of one or two images), `question`, `answers`,
`correct_answer`, `question_type`. `array/SAT-v2` and its copies are read too; their image column is `images`. SIFThinker's
table calls the split `static` (single images only) SAT-Static; according to the card it was made for training. The reader
was checked against the card and scripts that read the files, not against the published files.

A chain refers to one image. Several images are therefore joined from left to right, and the question says so. Boxes are then
fractions of the joined image. The order of the options depends on the number of the question. The card asks for that, or for
all orders ("circular"). The paper's numbers on `test` are circular, these are not.

The lenient numbers follow SIFThinker's release (evaluation/sat): the first option whose text occurs anywhere in the answer
counts, and a chain without an answer is right. The release shows no letters. A letter as the answer counts as in the strict
number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sifthinker.benchmarks.choices import in_seeded_order, right_answer
from sifthinker.benchmarks.hub import TableQuestion, TableRow, hub_name, table_rows
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Benchmark, Headline, Metric, mean_of
from sifthinker.evaluation.metrics import Row, measure
from sifthinker.evaluation.questions import Question
from sifthinker.prompts import with_several_images
from sifthinker.records import shown
from sifthinker.thinker import Thought

_HUB = "array/SAT"
_SPLITS = ("test", "static", "val", "train")
_COLUMNS = ("image_bytes", "images")
_STRICT, _LENIENT = "answer accuracy", "accuracy by words anywhere"
_ABOUT = (
    "right if the first option whose text occurs anywhere in the answer is the right one; a chain without an answer counts "
    "as right"
)


def read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[Question]:
    """See `benchmark.Reader`. `images` is ignored, because the table contains the images."""
    file = f"SAT_{split}.parquet"
    files = None
    named = next((known for known in _SPLITS if Path(data).name == f"SAT_{known}.parquet"), split)
    if named != split:
        raise RecordError(
            f"{os.fspath(data)}: expected a file of the split {split}, got the split {named}; set --split {named}",
            "bad_record",
        )
    if (Path(data) / file).is_file():
        data = Path(data) / file
    elif not Path(data).exists() and hub_name(os.fspath(data)) == _HUB:
        files = {split: file}  # otherwise all splits are downloaded, several GB
    return [_question(row, split) for row in table_rows(data, split, pictures=_COLUMNS, files=files, limit=limit)]


def _question(row: TableRow, split: str) -> Question:
    pictures = next((row.pictures[column] for column in _COLUMNS if row.pictures.get(column)), ())
    if not pictures:
        raise RecordError(
            f"{row.place}: expected one or more images in column {' or '.join(_COLUMNS)}, got none", "missing_image"
        )
    options, right = row.texts("answers"), row.text("correct_answer")
    if len(options) < 2 or len(set(options)) < len(options):
        raise RecordError(f"{row.place}: expected two or more different answers, got {shown(list(options))}")
    if right not in options:
        raise RecordError(
            f"{row.place}: correct_answer must be one of the answers {shown(list(options))}, got {shown(right)}"
        )
    name = f"{split}-{row.index:06d}"
    order = in_seeded_order(options, f"SAT {name}")
    return TableQuestion(
        id=name,
        image=Path(name),
        question=with_several_images(row.text("question"), len(pictures)),
        answers=(right_answer(order, order.index(right)),),
        choices=order,
        dataset="SAT",
        split=split,
        family=row.text("question_type"),
        tags={"images": "single" if len(pictures) == 1 else "several"},
        source=row.place,
        pictures=pictures,
    )


def _lenient(thought: Thought, question: Question) -> float:
    if thought.answer is None:
        return float(not thought.direct)
    if measure(thought, question).values[_STRICT] == 1:
        return 1.0
    said = thought.answer.lower()
    return float(next((option for option in question.choices if option.lower() in said), None) in question.answers)


def _of(name: str, about: str, keep: Callable[[Row], bool]) -> Headline:
    return Headline(name, about, mean_of(_STRICT, keep), mean_of(_LENIENT, keep), _ABOUT)


BENCHMARKS = {
    "sat": Benchmark(
        name="sat",
        title="SAT",
        source=f"Ray et al., SAT, arXiv 2412.07755; https://huggingface.co/datasets/{_HUB}",
        hub=_HUB,
        splits=_SPLITS,
        read=read,
        headlines=(
            replace(
                _of("SAT", "accuracy over all questions", lambda row: row.split != "static"),
                needs=frozenset(("single", "several")),
                parts=lambda row: [row.tags["images"]],
            ),
            _of("SAT-Static", "accuracy over the static subset", lambda row: row.split == "static"),
            _of(
                "single image",
                "accuracy over questions about one image",
                lambda row: row.split != "static" and row.tags["images"] == "single",
            ),
            _of(
                "several images",
                "accuracy over questions about several images",
                lambda row: row.split != "static" and row.tags["images"] == "several",
            ),
        ),
        metrics=(Metric(_LENIENT, _ABOUT, _lenient),),
    )
}
