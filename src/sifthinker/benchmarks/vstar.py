"""V*Bench: attributes and relative positions of small objects in large photographs.

Wu and Xie, "V*" (arXiv 2312.14135); files at https://huggingface.co/datasets/craigwu/vstar_bench. It has two kinds, each in
a folder: `direct_attributes/` (115 questions) and `relative_position/` (76). Each question has an image and a JSON file of
the same name with `target_object`, `bbox` ([x, y, width, height] in pixels, one per object), `question` and `options`, of
which the first is right. `test_questions.jsonl` has the same questions as text with lettered options (`image`, `text`,
`category`, `label`), and is preferred if it exists. The options of the JSON files are reordered depending on the question's
name; otherwise always answering "A" would score 100 %. Other folders of the dataset (GPT4V-hard, OCR) are not part of the
benchmark. The reader was checked against scripts that read the files, not against the published files.

The authors' script takes the option with the lowest loss, which needs the model itself. Here the model answers. The lenient
numbers follow SIFThinker's release (evaluation/vstar): an answer is right if it contains the letter anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sifthinker.benchmarks.choices import (
    in_seeded_order,
    index_of_letter,
    right_answer,
    right_letter,
    split_options,
)
from sifthinker.benchmarks.hub import file_in, folder_of
from sifthinker.benchmarks.last_area import HIOU_METRICS, hiou
from sifthinker.benchmarks.listed import listed
from sifthinker.engine.sources.rows import field_of, numbers_of, read_json, text_of, to_unit
from sifthinker.errors import ImageError, RecordError
from sifthinker.evaluation.benchmark import Benchmark, Headline, Metric, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.files import read_jsonl
from sifthinker.images import image_size
from sifthinker.records import Box, as_unit_tuples, shown
from sifthinker.thinker import Thought

_KINDS = {"direct_attributes": "Attribute", "relative_position": "Spatial"}
_QUESTIONS = "test_questions.jsonl"
_STRICT, _LENIENT = "answer accuracy", "accuracy by letter anywhere"
_ABOUT = "right if the answer contains the capital letter of the right option anywhere, even inside a word or beside others"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[Question]:
    """See `benchmark.Reader`. `data` may also be the question file."""
    path = Path(data)
    if path.is_file():
        found = _of_lines(path, Path(images) if images is not None else path.parent, split)
    else:
        folder = folder_of(data, patterns=[_QUESTIONS, *(f"{kind}/*" for kind in _KINDS)])
        root = Path(images) if images is not None else folder
        lines = folder / _QUESTIONS
        found = _of_lines(lines, root, split) if lines.is_file() else _of_folders(folder, root, split)
    return listed(found, limit, os.fspath(data), f"{_QUESTIONS}, or the folders {' and '.join(_KINDS)}")


def _of_lines(path: Path, root: Path, split: str) -> Iterator[Question]:
    """Yield the questions of `test_questions.jsonl`. Their boxes are in the JSON files beside the images.

    If the images are in another folder, the JSON files may still be beside the question file.
    """
    for number, row in read_jsonl(path):
        place = f"{path.name}:{number}"
        name, kind = text_of(row, "image", place), text_of(row, "category", place)
        image = file_in(root, name, place)
        asked, options = split_options(text_of(row, "text", place))
        if not options:
            raise RecordError(f"{place}: text must be a question with options (A) … (B) …, got {shown(row['text'])}")
        index = index_of_letter(text_of(row, "label", place), options, place)
        boxes = Path(name).with_suffix(".json").as_posix()
        beside = file_in(root, boxes, place)
        if not beside.is_file():
            beside = file_in(path.parent, boxes, place)
        told = read_json(beside) if beside.is_file() else {}
        yield _question(image, name, kind, asked, options, index, _boxes(told, image, str(beside)), split, place)


def _of_folders(folder: Path, root: Path, split: str) -> Iterator[Question]:
    """Yield the questions of the JSON files beside the images, by kind and file name."""
    for kind in _KINDS:
        for path in sorted((folder / kind).glob("*.json")):
            place = f"{kind}/{path.name}"
            row = read_json(path)
            options = field_of(row, "options", place, "a list of texts")
            if (
                not isinstance(options, list)
                or len(options) < 2
                or not all(isinstance(o, str) and o.strip() for o in options)
            ):
                raise RecordError(f"{place}: options must be a list of two or more texts, got {shown(options)}")
            options = [option.strip() for option in options]
            if len(set(options)) < len(options):
                raise RecordError(f"{place}: options must be different, got {shown(options)}")
            images = (file_in(root, f"{kind}/{path.stem}{end}", place) for end in _IMAGES)
            image = next((found for found in images if found.is_file()), None)
            if image is None:
                raise RecordError(
                    f"{place}: no image of the same name ({', '.join(_IMAGES)}) beside this file", "missing_image"
                )
            order = in_seeded_order(options, f"{kind}/{path.stem}")
            asked = text_of(row, "question", place)
            boxes = _boxes(row, image, place)
            yield _question(image, f"{kind}/{image.name}", kind, asked, order, order.index(options[0]), boxes, split, place)


def _question(
    image: Path,
    name: str,
    kind: str,
    asked: str,
    options: tuple[str, ...],
    index: int,
    boxes: tuple[Box, ...],
    split: str,
    place: str,
) -> Question:
    if kind not in _KINDS:
        raise RecordError(f"{place}: category must be {' or '.join(_KINDS)}, got {shown(kind)}")
    return Question(
        id=Path(name).with_suffix("").as_posix(),
        image=image,
        question=asked,
        answers=(right_answer(options, index),),
        choices=options,
        boxes=boxes,
        dataset="V*Bench",
        split=split,
        family=kind,
        source=place,
    )


def _boxes(row: Any, image: Path, place: str) -> tuple[Box, ...]:
    """Return the boxes of a question's objects ([x, y, width, height] in pixels) as unit boxes."""
    boxes = row.get("bbox") if isinstance(row, Mapping) else None
    if not boxes:
        return ()
    try:
        size = image_size(image)
    except ImageError:
        return ()  # the question reports the broken image when it is asked
    corners = numbers_of(boxes, place)
    corners[:, 2:] += corners[:, :2]
    unit, _ = to_unit(corners, "pixel", size, "clip", place)
    return as_unit_tuples(unit.tolist(), place)


def _lenient(thought: Thought, question: Question) -> float:
    return float(right_letter(question) in (thought.answer or ""))


def _kinds(row: Row) -> tuple[str, ...]:
    return (row.family,)


def _is(kind: str) -> Callable[[Row], bool]:
    return lambda row: row.family == kind


BENCHMARKS = {
    "vstar": Benchmark(
        name="vstar",
        title="V*Bench",
        source="Wu and Xie, V*, arXiv 2312.14135; https://huggingface.co/datasets/craigwu/vstar_bench",
        hub="craigwu/vstar_bench",
        splits=("test",),
        read=read,
        headlines=(
            Headline(
                "Overall",
                "accuracy over all questions",
                mean_of(_STRICT),
                mean_of(_LENIENT),
                _ABOUT,
                needs=frozenset(_KINDS),
                parts=_kinds,
            ),
            *(
                Headline(title, f"accuracy, {kind}", mean_of(_STRICT, _is(kind)), mean_of(_LENIENT, _is(kind)), _ABOUT)
                for kind, title in _KINDS.items()
            ),
            replace(
                hiou("HIoU", "hierarchical IoU of the last area with the target objects, 0 if the area is unreadable"),
                needs=frozenset(_KINDS),
                parts=_kinds,
            ),
        ),
        metrics=(Metric(_LENIENT, _ABOUT, _lenient), *HIOU_METRICS),
    )
}
