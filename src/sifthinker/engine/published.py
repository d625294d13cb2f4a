"""Readers of published datasets: VisCoT in both forms, RefCOCO-style lines, COCO instances, TallyQA."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.boxes import Boxes, as_boxes, convert
from sifthinker.engine.rows import FAULTS, OutsideBoxes, read_json, records, reject, rows, text_of, to_unit
from sifthinker.errors import RecordError
from sifthinker.files import inside
from sifthinker.images import image_size
from sifthinker.records import Record, Reject

# A conversation file states each box twice; below this IoU the two contradict each other. Whole-pixel rounding of
# boxes a few pixels wide alone goes down to about 0.4 in VisCoT's own files.
_LEAST_AGREEMENT = 0.25

MOST_INSTANCES = 20  # counting questions about more objects than this teach nobody to look


def viscot(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    def record(index: int, place: str, row: Any) -> Record:
        size = int(row["width"]), int(row["height"])
        boxes, notes = to_unit(row["bboxs"], "pixel", size, outside, place)
        if root is not None:
            inside(root, str(row["image"]))
        return Record(
            id=f"{row['dataset']}-{row['split']}-{index:06d}",
            image=text_of(row, "image", place),
            question=text_of(row, "question", place),
            answer=text_of(row, "answer", place),
            boxes=tuple(tuple(box) for box in boxes.tolist()),
            dataset=str(row["dataset"]),
            split=str(row["split"]),
            size=size,
            notes=notes,
            source=place,
        )

    return records(rows(path), record)


def viscot_conversations(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    found = read_json(path)
    if not isinstance(found, list):
        raise RecordError(f"{path}: wanted a JSON list of conversations, got {type(found).__name__}", "not_json")
    lines = ((f"{path.name}[{index}]", row) for index, row in enumerate(found))
    yield from records(lines, lambda index, place, row: _conversation(row, index, root, outside, place))


def _conversation(row: Any, index: int, root: Path | None, outside: OutsideBoxes, place: str) -> Record:
    image, marked = row["image"][0], row["image"][1]
    if root is None:
        raise RecordError(
            f"{place}: this form states no image size, which its boxes need; give the image folder with --images",
            "missing_image_root",
        )
    name, _, pixels = marked.partition("###")
    if name != image or not pixels:
        raise RecordError(f"{place}: wanted 'image###[x1, y1, x2, y2]' as the second image, got {marked!r}")
    size = image_size(inside(root, image))
    asked, told = row["conversations"][0]["value"], row["conversations"][3]["value"]
    fractions = as_boxes([json.loads(row["conversations"][1]["value"])])
    square = convert(fractions, source="padded_square", target="pixel", size=size)
    _agree(square, json.loads(pixels), size, place)
    boxes, notes = to_unit(square, "pixel", size, outside, place)
    question = asked.replace("<image>", "").strip()
    question = question.removesuffix(_VISCOT_REQUEST).strip()
    return Record(
        id=f"{row['dataset']}-{row['split']}-{row.get('question_id', index)}",
        image=image,
        question=question,
        answer=text_of({"answer": told}, "answer", place),
        boxes=tuple(tuple(box) for box in boxes.tolist()),
        dataset=str(row["dataset"]),
        split=str(row["split"]),
        size=size,
        notes=notes,
        source=place,
    )


# VisCoT's own words, which ask for a box; ours ask for a chain.
_VISCOT_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."


def _agree(square: Boxes, pixels: list[float], size: tuple[int, int], place: str) -> None:
    """Hold the two boxes of a conversation against each other, each side within two pixels or a fair IoU."""
    stated = np.asarray([pixels], dtype=np.float64)
    if stated.shape != (1, 4) or not np.isfinite(stated).all():
        raise RecordError(f"{place}: the pixel box {pixels} has not four numbers", "bad_box")
    if np.abs(stated - square).max() <= 2 + 0.001 * max(size):
        return
    low, high = np.maximum(stated[0, :2], square[0, :2]), np.minimum(stated[0, 2:], square[0, 2:])
    shared = float(np.clip(high - low, 0, None).prod())
    areas = [float((box[0, 2:] - box[0, :2]).prod()) for box in (stated, square)]
    if shared < _LEAST_AGREEMENT * (sum(areas) - shared):
        raise RecordError(
            f"{place}: its pixel box {pixels} and its padded-square box {np.round(square[0], 1).tolist()} (in pixels of "
            f"an image of {size[0]}×{size[1]}) contradict each other; is this the right image?",
            "boxes_disagree",
        )


def refcoco(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """RefCOCO-style JSON lines: `img_path, expression, bbox` (pixels, x1 y1 x2 y2), `width, height`.

    The answer repeats the expression; what there is to learn is the box. Train on such data with `rewards: {answer: 0}`.
    """

    def record(index: int, place: str, row: Any) -> Record:
        size = int(row["width"]), int(row["height"])
        boxes, notes = to_unit([row["bbox"]], "pixel", size, outside, place)
        image, expression = text_of(row, "img_path", place), text_of(row, "expression", place)
        if root is not None:
            inside(root, image)
        dataset = str(row.get("dataset_name") or path.stem).rpartition("/")[2]
        split = str(row.get("split") or "train")
        return Record(
            id=f"{dataset}-{split}-{row.get('sent_id', index)}",
            image=image,
            question=f'Where is "{expression}"?',
            answer=expression,
            boxes=tuple(tuple(box) for box in boxes.tolist()),
            dataset=dataset,
            split=split,
            size=size,
            notes=notes,
            source=place,
        )

    return records(rows(path), record)


@dataclass(frozen=True, slots=True)
class _Picture:
    """What COCO instances say about one image.

    Args:
        file: its name.
        size: (width, height) in pixels.
        boxes: category → pixel boxes (x1 y1 x2 y2) of its objects, in the file's order.
        crowds: categories that have a region of uncounted objects there.
    """

    file: str
    size: tuple[int, int]
    boxes: dict[str, list[list[float]]]
    crowds: set[str]


def _instances(path: Path) -> dict[str, _Picture]:
    """COCO instances by image file name, in the file's order.

    Raises:
        RecordError: missing, not JSON, or not of COCO's form.
    """
    found = read_json(path)
    try:
        names = {category["id"]: str(category["name"]) for category in found["categories"]}
        pictures = {
            image["id"]: _Picture(str(image["file_name"]), (int(image["width"]), int(image["height"])), {}, set())
            for image in found["images"]
        }
        for annotation in found["annotations"]:
            picture, name = pictures[annotation["image_id"]], names[annotation["category_id"]]
            if annotation.get("iscrowd"):
                picture.crowds.add(name)
                continue
            x, y, width, height = map(float, annotation["bbox"])
            picture.boxes.setdefault(name, []).append([x, y, x + width, y + height])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path}: wanted COCO instances (images, annotations, categories); {type(error).__name__}: {error}", "not_coco"
        ) from None
    return {picture.file: picture for picture in pictures.values()}


def coco(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """COCO instances as counting questions, one for each category in each image.

    A category with a crowd region cannot be counted and is a reject, as is one with more than `MOST_INSTANCES` objects.
    """
    for picture in _instances(path).values():
        for category in sorted({*picture.boxes, *picture.crowds}):
            place = f"{path.name}:{picture.file}:{category}"
            boxes = picture.boxes.get(category, [])
            try:
                if category in picture.crowds:
                    raise RecordError(f"{place}: has a crowd region, whose objects nobody counted", "crowd")
                yield _counted(picture, category, f"How many are there: {category}?", boxes, root, outside, place, "coco")
            except FAULTS as error:
                yield reject(place, {}, error)


def _counted(
    picture: _Picture,
    category: str,
    question: str,
    boxes: list[list[float]],
    root: Path | None,
    outside: OutsideBoxes,
    place: str,
    dataset: str,
    identity: str = "",
    image: str = "",
) -> Record:
    if len(boxes) > MOST_INSTANCES:
        raise RecordError(f"{place}: {len(boxes)} objects are more than {MOST_INSTANCES}", "too_many_boxes")
    unit, notes = to_unit(boxes, "pixel", picture.size, outside, place)
    if root is not None:
        inside(root, image or picture.file)
    return Record(
        id=identity or f"{dataset}-{Path(picture.file).stem}-{category.replace(' ', '_')}",
        image=image or picture.file,
        question=question,
        answer=str(len(boxes)),
        boxes=tuple(tuple(box) for box in unit.tolist()),
        dataset=dataset,
        size=picture.size,
        notes=notes,
        family="count",
        source=place,
    )


def tallyqa(path: Path, instances: Path | None, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """TallyQA: counting questions without boxes, which COCO instances of the same images supply.

    A question is kept when it names one category of COCO and the image has as many of it as the answer says; every other
    one is a reject that says why.

    Args:
        path: TallyQA's JSON list: `image, question, answer, question_id, issimple, data_source`.
        instances: COCO instances that cover the images.
        root: image folder.
        outside: see `read_source`.
    """
    if instances is None:
        raise RecordError(f"{path}: TallyQA has no boxes; name COCO instances that cover its images", "no_instances")
    asked = read_json(path)
    if not isinstance(asked, list):
        raise RecordError(f"{path}: wanted TallyQA's JSON list, got {type(asked).__name__}", "not_json")
    pictures = _instances(instances)
    categories = {category for picture in pictures.values() for category in (*picture.boxes, *picture.crowds)}
    spoken = [(re.compile(rf"\b(?:{'|'.join(map(re.escape, _forms(name)))})\b"), name) for name in sorted(categories)]
    for index, row in enumerate(asked):
        place = f"{path.name}[{index}]"
        try:
            image, question = text_of(row, "image", place), text_of(row, "question", place)
            picture = pictures.get(Path(image).name)
            if picture is None:
                raise RecordError(f"{place}: {instances.name} has no image {Path(image).name}", "no_instances")
            hits = [(words.search(question.lower()), name) for words, name in spoken]
            named = [(hit.start(), -len(hit[0]), name) for hit, name in hits if hit]
            if not named:
                raise RecordError(f"{place}: names no category of {instances.name}: {question!r}", "no_category")
            category = min(named)[2]  # the first that is named is what is counted: "how many dogs are on the bed"
            boxes = picture.boxes.get(category, [])
            if category in picture.crowds or len(boxes) != int(row["answer"]):
                raise RecordError(
                    f"{place}: the answer is {row['answer']}, {instances.name} has {len(boxes)} of {category!r} there"
                    + (" and a crowd region" if category in picture.crowds else ""),
                    "count_mismatch",
                )
            identity = f"tallyqa-{row.get('question_id', index)}"
            yield _counted(picture, category, question, boxes, root, outside, place, "tallyqa", identity, image)
        except FAULTS as error:
            yield reject(place, row, error)


def _forms(name: str) -> list[str]:
    """A category as questions speak of one and of many."""
    irregular = {"person": "people", "mouse": "mice", "knife": "knives"}
    if name in irregular:
        return [name, irregular[name]]
    if name in ("sheep", "skis", "scissors"):
        return [name]
    if name.endswith(("s", "x", "sh", "ch")):
        return [name, f"{name}es"]
    if name.endswith("y") and name[-2] not in "aeiou":
        return [name, f"{name[:-1]}ies"]
    return [name, f"{name}s"]
