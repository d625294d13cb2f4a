"""VisCoT's benchmark: questions from twelve datasets about images, each with the region that answers it.

The Visual-CoT repository publishes it in two forms (viscot_benchmark/), with one file per dataset and the same order of
rows. benchmark/ contains conversations: question, box as fractions of the padded square, answer, and the box in whole
pixels. benchmark_det/ contains the exact box in pixels with the size of the image, and no answer. If both exist, they are
read together: answers and exact boxes, without opening an image. Conversations alone need the images for their sizes;
benchmark_det/ alone has no answers. The format of the training data (`question, answer, image, width, height, bboxs,
dataset, split`; NAME_cot_val.jsonl) is read too. The reader was checked against VSR's files, and against the first lines of
the files of eight other datasets.

Some boxes are empty or outside their image: 530 of the 11,735 in DUDE's training file. Their questions are kept without a
box, and a warning gives their number.

The authors score answers with a language model (GPT-3.5) from 0 to 1, and boxes by accuracy at IoU 0.5. That judge is not a
rule, so answers have no official lenient number here. The rules of `scoring.answers` decide whether an answer is right.
`answer score` also gives partial credit (token F1) for free text. Neither is comparable with a judge's score.

Source: Shao et al., "Visual CoT", NeurIPS 2024 (Datasets and Benchmarks).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sifthinker.benchmarks.last_area import HIOU_METRICS, LENIENT, METRICS, hiou
from sifthinker.benchmarks.listed import check_split, listed, sound
from sifthinker.engine.sources.published import asked_in, image_and_box, turns_of
from sifthinker.engine.sources.rows import field_of, list_or_lines, name_of, path_of, rows, size_of, text_of, to_unit
from sifthinker.errors import ImageError, RecordError
from sifthinker.evaluation.benchmark import Benchmark, Headline, Metric, Unit, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.files import inside
from sifthinker.images import image_size
from sifthinker.records import Box

logger = logging.getLogger(__name__)

_DATASETS = (
    "docvqa", "textcap", "textvqa", "dude", "sroie", "infographicsvqa", "flickr30k", "gqa", "openimages", "vsr", "cub",
    "visual7w",
)  # fmt: skip
# The repository also has emotic, which is not in the paper's table. It is a split of its own and not part of "all".
_SPLITS = ("all", *_DATASETS, "emotic")


def _read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
) -> list[Question]:
    """Read the questions, see `Reader`.

    Raises:
        ConfigError: no such split.
        RecordError: a file is missing, or a row is not in the published layout.
    """
    check_split("viscot", split, _SPLITS)
    path = Path(data)
    faults: list[str] = []
    root = Path(images) if images is not None else path if path.is_dir() else path.parent
    if path.is_file():
        wanted = None if split == "all" else split
        return _warned(listed(_of_file(path, wanted, root, faults), limit, str(path)), faults)
    found = [(name, file) for name in (_DATASETS if split == "all" else (split,)) if (file := _file_of(path, name))]
    if not found:
        raise RecordError(
            f"{path}: contains no file of {'the benchmark' if split == 'all' else split} (such as benchmark/vsr.json, "
            "benchmark_det/vsr.jsonl). The files are in viscot_benchmark/ of github.com/deepcs233/Visual-CoT",
            "missing_file",
        )
    questions = chain.from_iterable(_of_file(file, name, root, faults) for name, file in found)
    return _warned(listed(questions, limit, str(path)), faults)


def _warned(questions: list[Question], faults: Sequence[str]) -> list[Question]:
    """Return the questions unchanged, and warn about invalid published boxes."""
    if faults:
        logger.warning(
            "%d of %d questions have no usable target box and are asked without one. The first: %s",
            len(faults),
            len(questions),
            faults[0],
        )
    return questions


def _file_of(folder: Path, name: str) -> Path | None:
    """Return the file of a dataset, preferably one with answers."""
    places = (folder, folder / "viscot_benchmark")
    published = (f"benchmark/{name}.json", f"{name}.json", f"benchmark_det/{name}.jsonl", f"{name}.jsonl")
    trained = (f"{name}_cot_val.jsonl", f"metadata/{name}_cot_val.jsonl")
    return next((place / file for file in (*published, *trained) for place in places if (place / file).is_file()), None)


def _of_file(file: Path, wanted: str | None, root: Path, faults: list[str]) -> Iterator[Question]:
    """Yield the questions of a file. Its first row decides which form it has.

    Args:
        file: file to read.
        wanted: required dataset of its rows; None for any.
        root: folder of the images.
        faults: list that collects messages about unusable target boxes.
    """
    items = sound(list_or_lines(file))
    begun = list(islice(items, 1))
    row = begun[0][1] if begun else {}
    items = chain(begun, items)
    keys = row.keys() if isinstance(row, dict) else ()
    if "conversations" in keys:
        boxes = file.parent.parent / "benchmark_det" / f"{file.stem}.jsonl"
        yield from _of_conversations(items, boxes if boxes.is_file() else None, wanted, root, faults)
    elif "bboxs" in keys:
        yield from _of_metadata(items, wanted, root, faults)
    else:
        yield from _of_boxes(items, wanted or file.stem, root, faults)


def _of_conversations(
    items: Iterable[tuple[str, Any]], boxes: Path | None, wanted: str | None, root: Path, faults: list[str]
) -> Iterator[Question]:
    """Yield the questions of conversations, with the exact boxes of benchmark_det/ if they exist."""
    twins = None if boxes is None else sound(rows(boxes))
    for index, (place, row) in enumerate(items):
        name, pixels = image_and_box(field_of(row, "image", place, "a list of an image and its marked box"), place)
        asked, _, told = turns_of(field_of(row, "conversations", place, "a list of four turns"), place)
        dataset = _dataset(row, wanted, place)
        image = _image(root, dataset, name, place)
        size: tuple[int, int] | None
        stated: Any = pixels
        if twins is not None:
            twin = next(twins, None)
            if twin is None or _identity(twin[1], index) != _identity(row, index):
                there = "has no row for this question" if twin is None else f"has another question at {twin[0]}"
                raise RecordError(f"{place}: {boxes} {there}; expected the same questions in the same order", "bad_record")
            size, stated = size_of(twin[1], twin[0]), [field_of(twin[1], "bbox", twin[0], "a pixel box")]
        else:
            try:
                size = image_size(image)
            except ImageError:
                size = None  # the question cannot be asked, so it needs no box
        yield Question(
            id=f"{dataset}-{_identity(row, index)}",
            image=image,
            question=asked_in(asked),
            answers=(told.strip(),),
            boxes=_boxes(stated, size, place, faults),
            dataset=dataset,
            split=text_of(row, "split", place),
            source=place,
        )
    if twins is not None and (left := next(twins, None)) is not None:
        raise RecordError(f"{left[0]}: has no conversation; expected the same questions in the same order", "bad_record")


def _of_boxes(items: Iterable[tuple[str, Any]], dataset: str, root: Path, faults: list[str]) -> Iterator[Question]:
    """Yield the questions of benchmark_det/, which have no answers."""
    for index, (place, row) in enumerate(items):
        yield Question(
            id=f"{dataset}-{_identity(row, index)}",
            image=_image(root, dataset, path_of(row, "img_path", place), place),
            question=text_of(row, "expression", place),
            boxes=_boxes([field_of(row, "bbox", place, "a pixel box")], size_of(row, place), place, faults),
            dataset=dataset,
            split=text_of(row, "split", place),
            source=place,
        )


def _of_metadata(items: Iterable[tuple[str, Any]], wanted: str | None, root: Path, faults: list[str]) -> Iterator[Question]:
    """Yield the questions of a file in the training data format, whose rows have no ids."""
    for index, (place, row) in enumerate(items):
        dataset, split = _dataset(row, wanted, place), text_of(row, "split", place)
        yield Question(
            id=f"{dataset}-{split}-{index:06d}",
            image=_image(root, dataset, path_of(row, "image", place), place),
            question=text_of(row, "question", place),
            answers=(text_of(row, "answer", place),),
            boxes=_boxes(field_of(row, "bboxs", place, "a list of pixel boxes"), size_of(row, place), place, faults),
            dataset=dataset,
            split=split,
            source=place,
        )


def _identity(row: Any, index: int) -> str:
    return name_of(row, ("question_id",), index) if isinstance(row, dict) else str(index)


def _dataset(row: Any, wanted: str | None, place: str) -> str:
    dataset = text_of(row, "dataset", place)
    if wanted is not None and dataset != wanted:
        raise RecordError(f"{place}: expected a row of the dataset {wanted!r}, got {dataset!r}", "bad_record")
    return dataset


def _image(root: Path, dataset: str, name: str, place: str) -> Path:
    """Return the image path of a row. Several places of its dataset's folder are tried; the first one is the default."""
    bare = name.removeprefix("cot/")
    names = (name, f"cot_image_data/{bare}", bare, f"{dataset}/{bare}", f"cot/{dataset}/{bare}")
    try:
        paths = [inside(root, each) for each in names]
    except RecordError as error:
        raise RecordError(f"{place}: image: {error}", error.code) from None
    return next((path for path in paths if path.is_file()), paths[0])


def _boxes(pixels: Any, size: tuple[int, int] | None, place: str, faults: list[str]) -> tuple[Box, ...]:
    """Convert pixel boxes to unit boxes; none if a published box is empty or outside the image."""
    if size is None:
        return ()
    try:
        found, _ = to_unit(pixels, "pixel", size, "clip", place)
    except RecordError as error:
        if error.code not in ("degenerate_box", "box_outside"):
            raise
        faults.append(str(error))
        return ()
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in found.tolist())


# ------------------------------------------------------------------------------------------------------------- numbers


def _by_dataset(row: Row) -> str:
    return row.dataset


def _is(dataset: str) -> Callable[[Row], bool]:
    return lambda row: row.dataset == dataset


def _scores(rows: Sequence[Row]) -> Iterable[Unit]:
    """Yield scores of verdicts with partial credit; 0 for an unreadable answer."""
    for row in rows:
        if row.values.get("answer accuracy") is not None:
            yield Unit(row.dataset, float(row.verdict["score"]) if row.verdict else 0.0, (row.id,))


def _of_chains(metric: Metric) -> Metric:
    """Return a box metric that does not apply to direct answers, because these are words."""
    value = metric.value
    return Metric(metric.name, metric.about, lambda thought, question: None if thought.direct else value(thought, question))


BENCHMARKS = {
    "viscot": Benchmark(
        name="viscot",
        title="VisCoT",
        source="Shao et al. 2024; viscot_benchmark/ of github.com/deepcs233/Visual-CoT",
        hub="",
        splits=_SPLITS,
        splits_about="all: the twelve datasets of the paper's table, without emotic",
        read=_read,
        headlines=(
            Headline(
                "answers",
                "accuracy of answers, judged by rules, mean of the datasets",
                mean_of("answer accuracy", by=_by_dataset),
                mean_over=frozenset(_DATASETS),
            ),
            Headline(
                "answer score",
                "the same, with partial credit for free text",
                _scores,
                mean_over=frozenset(_DATASETS),
            ),
            replace(
                hiou(
                    "HIoU",
                    "hierarchical IoU of the last area, 0 if it is unreadable, mean of the datasets",
                    by=_by_dataset,
                ),
                mean_over=frozenset(_DATASETS),
            ),
            Headline(
                "box accuracy",
                "share of chains whose last area is one box with an IoU of at least 0.5, mean of the datasets",
                mean_of("box accuracy", by=_by_dataset),
                lenient=mean_of("lenient box accuracy", by=_by_dataset),
                lenient_about=LENIENT,
                mean_over=frozenset(_DATASETS),
            ),
            *(
                headline
                for name in (*_DATASETS, "emotic")
                for headline in (
                    Headline(name, f"accuracy of answers on {name}, judged by rules", mean_of("answer accuracy", _is(name))),
                    hiou(f"{name} HIoU", f"hierarchical IoU of the last area on {name}", keep=_is(name)),
                )
            ),
        ),
        metrics=(*map(_of_chains, METRICS), *HIOU_METRICS),
    )
}
