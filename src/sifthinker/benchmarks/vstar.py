"""V*Bench: attributes of small objects, and how two of them lie to each other, in large photographs.

Wu and Xie, "V*" (arXiv 2312.14135); files at https://huggingface.co/datasets/craigwu/vstar_bench. Two kinds, each a folder:
`direct_attributes/` (115 questions) and `relative_position/` (76), an image and a JSON file of the same name for each, with
`target_object`, `bbox` ([x, y, width, height] in pixels, one an object), `question` and `options`, the first of which is the
right one; and `test_questions.jsonl`, the same questions as text with lettered options, with `image`, `text`, `category`,
`label`, which is read where it is there. Options of the JSON files are put in an order that the question's name decides, or
else saying "A" would score 100 %. Other folders of the dataset (GPT4V-hard, OCR) are not part of the benchmark. Not checked
against the published files themselves, only against the scripts that read them.

The authors' script takes the option of least loss, which needs the model itself; here the model answers. The lenient numbers
count as SIFThinker's release does (evaluation/vstar): right where the letter stands anywhere in the answer.
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
_ABOUT = "the letter of the right option stands anywhere in the answer, as a capital, also inside words or beside others"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[Question]:
    """See `benchmark.Reader`. `data` may also be the file of questions."""
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
    """Questions of the file that holds them as texts with lettered options; the boxes are in the files beside the images.

    Where the images lie in a folder of their own, those files may have stayed beside the questions.
    """
    for number, row in read_jsonl(path):
        place = f"{path.name}:{number}"
        name, kind = text_of(row, "image", place), text_of(row, "category", place)
        image = file_in(root, name, place)
        asked, options = split_options(text_of(row, "text", place))
        if not options:
            raise RecordError(f"{place}: text is {shown(row['text'])}, wanted a question with options (A) … (B) …")
        index = index_of_letter(text_of(row, "label", place), options, place)
        boxes = Path(name).with_suffix(".json").as_posix()
        beside = file_in(root, boxes, place)
        if not beside.is_file():
            beside = file_in(path.parent, boxes, place)
        told = read_json(beside) if beside.is_file() else {}
        yield _question(image, name, kind, asked, options, index, _boxes(told, image, str(beside)), split, place)


def _of_folders(folder: Path, root: Path, split: str) -> Iterator[Question]:
    """Questions of the JSON files beside the images, kind by kind and in the order of their names."""
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
                raise RecordError(f"{place}: options is {shown(options)}, wanted a list of two texts or more")
            options = [option.strip() for option in options]
            if len(set(options)) < len(options):
                raise RecordError(f"{place}: options is {shown(options)}, two of which are the same")
            images = (file_in(root, f"{kind}/{path.stem}{end}", place) for end in _IMAGES)
            image = next((found for found in images if found.is_file()), None)
            if image is None:
                raise RecordError(
                    f"{place}: there is no image of that name beside it ({', '.join(_IMAGES)})", "missing_image"
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
        raise RecordError(f"{place}: category is {shown(kind)}, wanted {' or '.join(_KINDS)}")
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
    """The boxes of the objects that a question is about, [x, y, width, height] in pixels, as fractions of the image."""
    boxes = row.get("bbox") if isinstance(row, Mapping) else None
    if not boxes:
        return ()
    try:
        size = image_size(image)
    except ImageError:
        return ()  # the question cannot be asked, which it says itself
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
                hiou("HIoU", "hierarchical IoU of the last area with the target objects, 0 where that one cannot be read"),
                needs=frozenset(_KINDS),
                parts=_kinds,
            ),
        ),
        metrics=(Metric(_LENIENT, _ABOUT, _lenient), *HIOU_METRICS),
    )
}
