"""RefCOCO, RefCOCO+ and RefCOCOg: find the object that an expression refers to. The answer is one box.

Two published formats are read. The first is the JSON lines of the Visual-CoT repository
(llava/eval/REC/REC_refcoco_unc_val.jsonl), one question per line: `img_path, expression, bbox` (pixels, x1 y1 x2 y2),
`width, height, sent_id, split, dataset_name`, with images from COCO's train2014. It was checked against RefCOCO's testB and
the first lines of a file of RefCOCO+ and of RefCOCOg. The second is lmms-lab's tables on the Hugging Face Hub:
`image, bbox` (pixels, x y width height), `answer` (the expressions of one object, each a question), `question_id`. It was
checked against the list of their columns, not against their rows. The original `refs(unc).p` is refused: it is a pickle,
which can run code when it is read.

A box is right at an IoU of at least 0.5 with the ground-truth box. In the strict number, the last area must have exactly one
box; several boxes or an unreadable last area are wrong.

Source: Kazemzadeh et al. 2014; Yu et al. 2016 (RefCOCO, RefCOCO+); Mao et al. 2016 (RefCOCOg, here with the umd split).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sifthinker.benchmarks.hub import TableQuestion, table_rows
from sifthinker.benchmarks.last_area import HIOU_METRICS, LENIENT, METRICS, hiou
from sifthinker.benchmarks.listed import check_split, file_of, listed, sound
from sifthinker.boxes import Boxes
from sifthinker.engine.sources.rows import field_of, name_of, numbers_of, rows, size_of, text_of, to_unit
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Benchmark, Headline, mean_of
from sifthinker.evaluation.questions import Question
from sifthinker.records import Box, shown

_TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
_HUBS = {"refcoco": "lmms-lab/RefCOCO", "refcoco+": "lmms-lab/RefCOCOplus", "refcocog": "lmms-lab/RefCOCOg"}
_SPLITS = {
    "refcoco": ("val", "testA", "testB", "test"),  # only the table has "test"
    "refcoco+": ("val", "testA", "testB"),
    "refcocog": ("val", "test"),
}
# Dataset names in rows, after the owner.
_NAMES = {"refcoco": "refcoco", "refcoco+": "refcoco+", "refcocoplus": "refcoco+", "refcocog": "refcocog"}
_SPLIT_NAMES = {"validation": "val"}  # the name in the rows of val files
# The prompt of Shikra, LLaVA and SIFThinker's release.
_ASKED = "Please provide the bounding box coordinate of the region this sentence describes: {}."
_PICKLES = (".p", ".pkl", ".pickle")


def _read(
    name: str, data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
) -> list[Question]:
    """Read one of the three benchmarks, see `Reader`.

    Raises:
        ConfigError: no such split.
        RecordError: a file or row is not in the published layout.
    """
    check_split(name, split, _SPLITS[name])
    file = _lines_file(Path(data), name, split)
    if file is None:
        return listed(_of_table(name, data, split), limit, os.fspath(data))
    root = file.parent if images is None else Path(images)
    return listed(_of_lines(name, file, split, root), limit, str(file))


def _lines_file(path: Path, name: str, split: str) -> Path | None:
    """Return the path of the JSON lines file; None for a table."""
    if path.is_file():
        if path.suffix in _PICKLES:
            raise _pickled(path, name)
        return None if path.suffix == ".parquet" else path
    published = f"REC_{name}_{'umd' if name == 'refcocog' else 'unc'}_{split}.jsonl"
    for folder in (path, path / "REC"):
        if (folder / published).is_file():
            return folder / published
    if path.is_dir():
        pickles = sorted(file for file in path.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise _pickled(pickles[0], name)
        others = sorted(file.name for folder in (path, path / "REC") for file in folder.glob("REC_*.jsonl"))
        if others:
            raise RecordError(f"{path}: lacks {published}; it has {', '.join(others)}", "missing_file")
    return None


def _pickled(path: Path, name: str) -> RecordError:
    return RecordError(
        f"{path}: pickle files are not read, because they can run code. Give JSON lines (img_path, expression, bbox, width, "
        f"height) or the table {_HUBS[name]}",
        "bad_record",
    )


def _of_lines(name: str, file: Path, split: str, root: Path) -> Iterator[Question]:
    for index, (place, row) in enumerate(sound(rows(file))):
        size = size_of(row, place)
        boxes, _ = to_unit([field_of(row, "bbox", place, "a pixel box")], "pixel", size, "clip", place)
        _check_same(row, name, split, place)
        yield Question(
            id=f"{name}-{split}-{name_of(row, ('sent_id',), index)}",
            image=file_of(row, "img_path", place, root),
            question=_ASKED.format(_expression(text_of(row, "expression", place), place)),
            boxes=_tuples(boxes),
            dataset=name,
            split=split,
            source=place,
        )


def _check_same(row: Any, name: str, split: str, place: str) -> None:
    """Check that a row belongs to the requested dataset and split, if it states them."""
    stated = row.get("split")
    if stated is not None and _SPLIT_NAMES.get(str(stated), stated) != split:
        raise RecordError(f"{place}: expected a row of the split {split!r}, got the split {shown(stated)}", "bad_record")
    dataset = row.get("dataset_name")
    known = _NAMES.get(dataset.rstrip("/").rpartition("/")[2].lower(), name) if isinstance(dataset, str) else name
    if known != name:
        raise RecordError(f"{place}: expected a row of {_TITLES[name]}, got a row of {_TITLES[known]}", "bad_record")


def _of_table(name: str, data: str | os.PathLike[str], split: str) -> Iterator[Question]:
    for row in table_rows(data, split, pictures=["image"]):
        pictures = row.pictures.get("image", ())
        if len(pictures) != 1:
            raise RecordError(f"{row.place}: expected one image in column image, got {len(pictures)}", "missing_image")
        x, y, width, height = numbers_of([row.value("bbox")], row.place)[0].tolist()
        corners = [[x, y, x + width, y + height]]
        boxes: Boxes | list[Box] = []  # a question without an image reports that itself when it is asked
        if not pictures[0].missing:
            boxes, _ = to_unit(corners, "pixel", pictures[0].size(), "clip", row.place)
        object_id = name_of(row.values, ("question_id",), row.index)
        expressions = row.texts("answer")
        if not expressions:
            raise RecordError(f"{row.place}: answer must list the expressions of the object, got none", "blank_field")
        for number, expression in enumerate(expressions):
            yield TableQuestion(
                id=f"{name}-{split}-{object_id}-{number}",
                image=Path(f"{object_id}"),
                question=_ASKED.format(expression),
                boxes=_tuples(boxes),
                dataset=name,
                split=split,
                source=row.place,
                pictures=pictures,
            )


def _expression(text: str, place: str) -> str:
    if not text:
        raise RecordError(f"{place}: expression must be text that is not blank", "blank_field")
    return text


def _tuples(boxes: Boxes | Sequence[Box]) -> tuple[Box, ...]:
    return tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in boxes)


_HEADLINES = (
    Headline(
        "accuracy at IoU 0.5",
        "share of expressions whose last area is one box with an IoU of at least 0.5",
        mean_of("box accuracy"),
        lenient=mean_of("lenient box accuracy"),
        lenient_about=LENIENT,
    ),
    Headline(
        "mean IoU",
        "IoU of the last area; 0 if it is not exactly one box",
        mean_of("box IoU"),
        lenient=mean_of("lenient box IoU"),
        lenient_about=LENIENT,
    ),
    hiou("HIoU", "hierarchical IoU of the last area, 0 if it is unreadable; only chains"),
)

BENCHMARKS = {
    name: Benchmark(
        name=name,
        title=title,
        source=(
            "Kazemzadeh et al. 2014, Yu et al. 2016, Mao et al. 2016; JSON lines of github.com/deepcs233/Visual-CoT "
            f"(llava/eval/REC) or hf.co/datasets/{_HUBS[name]}"
        ),
        hub=_HUBS[name],
        splits=_SPLITS[name],
        read=partial(_read, name),
        headlines=_HEADLINES,
        metrics=(*METRICS, *HIOU_METRICS),
    )
    for name, title in _TITLES.items()
}
