"""OVDEval: find all objects that match a description, and recognise descriptions that match none.

Each sub-dataset is a JSON file in COCO's layout: `categories` (id, name), `annotations` (bbox in pixels, x y width height;
category_id, image_id) and `images` (file_name, id, width, height, and the labels of the image: `text` for present ones,
`neg_text` for hard negatives). On the Hugging Face Hub the files are beside archives of images (celebrity.json,
celebrity.tar.gz), which must be unpacked. The authors' instructions put them into annotations/ and images/NAME/. Both
layouts are found. The reader was checked against the authors' description and scripts, not against the files. The hub has
eight of the paper's nine sub-datasets; the ninth, COCO's objects, is read if its coco.json exists. As in the authors'
script, an image of celebrity, landmark, logo or coco is asked about every category of its file, other images about their own
labels.

One question asks about one label of one image: whether it is there (yes or no). The last area must mark all its objects.

**Detections.** In the strict numbers, the answer yes detects the boxes of the last area, which must be readable, and no
detects none. An answer that states neither detects nothing if the label is there, and is one false detection if it is not.

**NMS-AP.** Before AP is computed, one box is kept for each ground-truth box. Candidates are all boxes of all labels of the
image with an IoU above 0.5; the one with the highest confidence stays. A model that reports every object under the right and
under a wrong label gains nothing from that. Text has no confidences, so all boxes are equal. The strict numbers then prefer
a box with a wrong label, and otherwise keep the first one. The authors' script keeps the last one in the list of results.

**AP** is COCO's. For each category with a ground-truth box, it is the mean over 101 recalls from 0 to 1 of the highest
precision at this recall or a higher one, then the mean over IoU thresholds from 0.50 to 0.95 and over categories. At most
100 boxes per image and category count. In the strict numbers, boxes of equal confidence are detected together: they have one
precision P and one recall R, and AP is P times the share of the 101 recalls that R reaches. COCO's code takes the order of
the list as the order of confidence. Its curve has a precision for every prefix of the list, so its AP is higher.

Source: Yao et al., "How to Evaluate the Generalization of Detection? A Benchmark for Comprehensive Open-Vocabulary
Detection", AAAI 2024; Lin et al., COCO (2014).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifthinker.benchmarks.hub import folder_of
from sifthinker.benchmarks.last_area import last_area, last_readable_area
from sifthinker.benchmarks.listed import check_split, file_of, listed
from sifthinker.boxes import Boxes, as_boxes, pairwise_iou
from sifthinker.engine.sources.rows import field_of, numbers_of, read_json, size_of, text_of, to_unit, whole_of
from sifthinker.errors import RecordError
from sifthinker.evaluation.benchmark import Asked, Benchmark, Estimate, Headline, Metric, Units, mean_of
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.records import Box, shown
from sifthinker.scoring.reading import decide, polars_in, read
from sifthinker.thinker import Thought

_NAMES = ("celebrity", "landmark", "logo", "color", "material", "position", "relationship", "negation")
_OBJECTS = "coco"
_SPLITS = ("all", *_NAMES, _OBJECTS)
_ASKED_ABOUT_ALL = frozenset((_OBJECTS, "celebrity", "logo", "landmark"))
_HUB = "omlab/OVDEval"
_ASKED = (
    'Is this in the image: "{}"? Answer yes if it is, and end with an area of one box on each of them and no other box. '
    "Answer no if it is not."
)

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_OVERLAP = 0.5  # boxes above this IoU compete for a ground-truth box
_NOISE = 1e-9  # rounding error of fractions; pixels are exact
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # boxes that count per image and category


# -------------------------------------------------------------------------------------------------------------- files


def _read(
    data: str | os.PathLike[str], split: str, *, images: str | os.PathLike[str] | None, limit: int | None
) -> list[Question]:
    """Read the questions, see `Reader`.

    Raises:
        ConfigError: no such split.
        RecordError: a file is missing or not in the published layout, or the images are not unpacked.
    """
    check_split("ovdeval", split, _SPLITS)
    path = Path(data)
    if path.is_file():
        name = path.stem if split == "all" else split
        check_split("ovdeval", name, _SPLITS)
        return listed(_questions(path, name, path.parent, images), limit, str(path))
    wanted = (*_NAMES, _OBJECTS) if split == "all" else (split,)
    folder = folder_of(data, patterns=[f"{name}.json" for name in wanted])
    places = (folder, folder / "annotations")
    found = [
        (name, file)
        for name in wanted
        if (file := next((place / f"{name}.json" for place in places if (place / f"{name}.json").is_file()), None))
    ]
    if not found:
        raise RecordError(
            f"{folder}: expected at least one of {', '.join(f'{name}.json' for name in wanted)}, got none", "missing_file"
        )
    questions = chain.from_iterable(_questions(file, name, folder, images) for name, file in found)
    return listed(questions, limit, str(folder))


def _root(name: str, folder: Path, images: str | os.PathLike[str] | None) -> Path:
    """Return the image folder of a sub-dataset."""
    base = folder if images is None else Path(images)
    places = (base / "images" / name, base.parent / "images" / name, base / name)
    found = next((place for place in places if place.is_dir()), base if images is not None and base.is_dir() else None)
    if found is None:
        raise RecordError(
            f"{base}: has no folder {name} or images/{name}. Unpack {name}.tar.gz, and set --images to its folder",
            "missing_image_root",
        )
    return found


def _questions(file: Path, name: str, folder: Path, images: str | os.PathLike[str] | None) -> Iterator[Question]:
    """Yield one question per image and label, in the order of the file."""
    root = _root(name, folder, images)
    body = read_json(file)
    pictures = _by_id(_list(body, "images", file), f"{file.name}: images")
    named = _by_id(_list(body, "categories", file), f"{file.name}: categories")
    categories = {key: text_of(row, "name", place) for key, (place, row) in named.items()}
    ids = _ids(categories, file)
    boxes = _true_boxes(_list(body, "annotations", file), pictures, categories, f"{file.name}: annotations")
    for key, (place, row) in pictures.items():
        image = file_of(row, "file_name", place, root)
        truth = boxes.get(key, {})
        for category in _asked_about(row, name, ids, truth, place):
            yield Question(
                id=_id(name, key, category),
                image=image,
                question=_ASKED.format(categories[category]),
                answers=("yes" if category in truth else "no",),
                boxes=tuple(truth.get(category, ())),
                dataset="ovdeval",
                split="test",
                family=name,
                source=f"{place}, {shown(categories[category])}",
            )


def _list(body: Any, name: str, file: Path) -> list[Any]:
    found = field_of(body, name, str(file), "a list")
    if not isinstance(found, list):
        raise RecordError(f"{file}: {name} must be a list, got {shown(found)}", "bad_record")
    return found


def _by_id(items: Sequence[Any], where: str) -> dict[int, tuple[str, Any]]:
    """Return id → (place, row)."""
    found: dict[int, tuple[str, Any]] = {}
    for index, row in enumerate(items):
        place = f"{where}[{index}]"
        key = whole_of(row, "id", place)
        if key < 0:
            raise RecordError(f"{place}: id must be 0 or more, got {key}", "bad_record")
        if key in found:
            raise RecordError(f"{place}: the id {key} is already used at {found[key][0]}", "duplicate_id")
        found[key] = place, row
    return found


def _ids(categories: Mapping[int, str], file: Path) -> dict[str, int]:
    """Return label → category id."""
    found: dict[str, int] = {}
    for key, label in categories.items():
        if label in found:
            raise RecordError(f"{file}: categories {found[label]} and {key} have the same name {shown(label)}", "bad_record")
        found[label] = key
    return found


def _true_boxes(
    items: Sequence[Any], pictures: Mapping[int, tuple[str, Any]], categories: Mapping[int, str], where: str
) -> dict[int, dict[int, list[Box]]]:
    """Return image → category → its boxes, unit xyxy, clipped to the image."""
    found: dict[int, dict[int, list[Box]]] = {}
    for index, row in enumerate(items):
        place = f"{where}[{index}]"
        picture, category = whole_of(row, "image_id", place), whole_of(row, "category_id", place)
        for key, known, what in ((picture, pictures, "images"), (category, categories, "categories")):
            if key not in known:
                raise RecordError(f"{place}: {key} is not an id in {what}", "bad_record")
        if row.get("iscrowd"):
            raise RecordError(f"{place}: expected a single object, got a crowd (iscrowd)", "bad_record")
        x, y, width, height = numbers_of([field_of(row, "bbox", place, "x, y, width, height")], place)[0].tolist()
        image_place, image = pictures[picture]
        size = size_of(image, image_place)
        unit, _ = to_unit([[x, y, x + width, y + height]], "pixel", size, "clip", place)
        x1, y1, x2, y2 = unit[0].tolist()
        found.setdefault(picture, {}).setdefault(category, []).append((x1, y1, x2, y2))
    return found


def _asked_about(row: Any, name: str, ids: Mapping[str, int], truth: Mapping[int, Sequence[Box]], place: str) -> list[int]:
    """Return the categories that an image is asked about, without duplicates: labels, negative labels, other annotations."""
    if name in _ASKED_ABOUT_ALL:
        return list(ids.values())
    labels = [label for key in ("text", "neg_text") for label in _labels(row, key, place)]
    unknown = next((label for label in labels if label not in ids), None)
    if unknown is not None:
        raise RecordError(f"{place}: {shown(unknown)} is not the name of a category", "bad_record")
    return list(dict.fromkeys([*(ids[label] for label in labels), *truth]))


def _labels(row: Any, key: str, place: str) -> list[str]:
    labels = field_of(row, key, place, "a list of labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RecordError(f"{place}: {key} must be a list of labels, got {shown(labels)}", "bad_record")
    return [label.strip() for label in labels]


def _id(name: str, picture: int, category: int) -> str:
    return f"ovdeval-{name}-{picture}-{category}"


def _keys(identity: str) -> tuple[str, int]:
    """Split an id from `_id` into (name and image, category)."""
    picture, _, category = identity.rpartition("-")
    return picture, int(category)


# ---------------------------------------------------------------------------------------------------------- detections


@lru_cache(maxsize=4096)  # nearly all answers are yes or no
def said_polar(answer: str | None) -> str | None:
    """Return "yes" or "no" as an answer states it; None if it states neither or both."""
    if answer is None:
        return None
    said = read(answer)
    stated = decide(said, polars_in(said))
    return None if stated is None else str(stated)


def strictly_found(row: Row) -> tuple[Boxes, int]:
    """Return the boxes that an answer detects, (N, 4), and the number of additional false detections."""
    stated = said_polar(row.answer)
    if stated is None:
        return np.zeros((0, 4)), 0 if row.boxes else 1
    if stated == "no":
        return np.zeros((0, 4)), 0
    boxes = last_area(row.completion, frame=row.frame)[:_MOST]
    return boxes, 0 if len(boxes) or row.boxes else 1  # a wrong yes without a box


def leniently_found(row: Row) -> tuple[Boxes, int]:
    """Return the boxes of the last readable area; none if the answer is no."""
    if said_polar(row.answer) == "no":
        return np.zeros((0, 4)), 0
    return last_readable_area(row.completion, frame=row.frame)[:_MOST], 0


def kept(boxes: Boxes, labels: NDArray[np.int64], truth: Boxes, of: NDArray[np.int64], *, strict: bool) -> NDArray[np.bool_]:
    """Return which boxes of an image NMS-AP's suppression keeps, with equal confidences.

    Args:
        boxes: (N, 4), in the stated order.
        labels: (N,) categories of the boxes.
        truth: (M, 4) ground-truth boxes.
        of: (M,) categories of the ground-truth boxes.
        strict: keep a box with a wrong label before one with the right label; otherwise keep the last box, as the authors'
            script does.
    Returns:
        (N,) booleans.
    Example:
        >>> left = [[0, 0, 0.5, 1]]
        >>> kept(as_boxes(left * 2), np.array([7, 8]), as_boxes(left), np.array([7]), strict=True)
        array([False,  True])
    """
    if not len(boxes) or not len(truth):
        return np.ones(len(boxes), dtype=np.bool_)
    chosen: set[int] = set()
    others: set[int] = set()
    for column, label in zip(pairwise_iou(boxes, truth).T, of.tolist(), strict=True):
        rivals = np.flatnonzero(column > _OVERLAP + _NOISE).tolist()
        if rivals:
            wrong = [index for index in rivals if labels[index] != label]
            best = (wrong or rivals)[0] if strict else rivals[-1]
            chosen.add(best)
            others |= {index for index in rivals if index != best}
    return np.array([index in chosen or index not in others for index in range(len(boxes))], dtype=np.bool_)


def hits(boxes: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Match boxes to ground-truth boxes as COCO does: each box in turn takes the free one that it overlaps most.

    Args:
        boxes: (N, 4) boxes of one image and category.
        truth: (M, 4) ground-truth boxes of the same image and category.
    Returns:
        (N, 10) booleans: whether the box has a match, for IoU thresholds from 0.50 to 0.95.
    """
    found = np.zeros((len(boxes), len(THRESHOLDS)), dtype=np.bool_)
    if not len(boxes) or not len(truth):
        return found
    overlaps = pairwise_iou(boxes, truth)
    for column, threshold in enumerate(THRESHOLDS):
        left = list(range(len(truth)))
        for row in range(len(boxes)):
            best = max(left, key=lambda index: (overlaps[row, index], index), default=None)
            if best is not None and overlaps[row, best] >= threshold - _NOISE:
                left.remove(best)
                found[row, column] = True
    return found


# ------------------------------------------------------------------------------------------------------------------ AP


def average_precisions(
    right: NDArray[np.float64], wrong: NDArray[np.float64], of: NDArray[np.int64], truths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AP of each category, with its detections in order. Each detection has a weight, 0 or more.

    Args:
        right: (N, K) weight of each detection as a right one, at K IoU thresholds.
        wrong: (N, K) weight of each detection as a wrong one.
        of: (N,) category number of each detection, in ascending order.
        truths: (C,) number of ground-truth boxes of each category, above 0.
    Returns:
        (C, K) means over 101 recalls of the highest precision at this recall or a higher one.
    Example:
        >>> wrong_then_right = np.array([[0.0], [1.0]])
        >>> average_precisions(wrong_then_right, 1 - wrong_then_right, np.array([0, 0]), np.array([1.0]))
        array([[0.5]])
    """
    begins = np.searchsorted(of, np.arange(len(truths)))  # index of each category's first detection
    true, false = (_sums_within(counts, of, begins) for counts in (right, wrong))
    precision = true / np.maximum(true + false, 1)  # counts are whole numbers
    # Running maximum from the end of each category. Offsets of 2 separate categories, because precisions are below 2.
    apart = 2.0 * (len(truths) - of)[:, None]
    highest = np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
    reached = np.searchsorted(_RECALLS, true / truths[of][:, None], side="right")
    newly = np.diff(reached, axis=0, prepend=0)
    first = np.diff(of, prepend=-1) > 0
    newly[first] = reached[first]
    found = np.zeros((len(truths), right.shape[1]))
    np.add.at(found, of, highest * newly)
    return found / len(_RECALLS)


def _sums_within(counts: NDArray[np.float64], of: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (N, K) running sums that restart with each category."""
    sums = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    within: NDArray[np.float64] = sums[1:] - sums[begins[of]]
    return within


@dataclass(frozen=True, slots=True)
class _Found:
    """All detections and ground-truth boxes, ordered by category and then by question.

    Args:
        names: (C,) number of each category's sub-dataset.
        truth: (T, 2) category number and image number of each ground-truth box.
        boxes: (N, 2) category number and image number of each detection.
        hits: (N, 10) result of `hits` for each detection.
    """

    names: NDArray[np.int64]
    truth: NDArray[np.int64]
    boxes: NDArray[np.int64]
    hits: NDArray[np.bool_]

    def mean(self, times: NDArray[np.int64], thresholds: int, strict: bool) -> float | None:
        """Return the mean AP of the sub-datasets over the first thresholds; None without a ground-truth box.

        Args:
            times: (images,) weight of each image.
            thresholds: number of `THRESHOLDS` to use.
            strict: count detections together; otherwise in their order.
        """
        truths = np.bincount(self.truth[:, 0], times[self.truth[:, 1]], len(self.names)).astype(np.float64)
        known = truths > 0
        if not known.any():
            return None
        taken = known[self.boxes[:, 0]] & (times[self.boxes[:, 1]] > 0)
        boxes = self.boxes[taken]
        of = np.cumsum(known)[boxes[:, 0]] - 1  # renumbers the known categories
        truths, names = truths[known], self.names[known]
        weights = times[boxes[:, 1]].astype(np.float64)[:, None]
        right = self.hits[taken, :thresholds] * weights
        wrong = weights - right
        if strict:
            right, wrong = (_sums_by(counts, of, len(truths)) for counts in (right, wrong))
            of = np.arange(len(truths))
        each = average_precisions(right, wrong, of, truths).mean(axis=1)
        return float(np.mean([each[names == name].mean() for name in np.unique(names)]))


def _sums_by(counts: NDArray[np.float64], of: NDArray[np.int64], categories: int) -> NDArray[np.float64]:
    """Return the (C, K) sums of (N, K) counts by category."""
    return np.stack([np.bincount(of, column, categories) for column in counts.T], axis=1)


def _nms_ap(names: Sequence[str], thresholds: int, strict: bool, rows: Sequence[Row]) -> Estimate | None:
    """Return NMS-AP, the mean of the sub-datasets. The bootstrap resamples images with all their questions."""
    find = strictly_found if strict else leniently_found
    pictures: dict[str, list[Row]] = {}
    families: dict[str, str] = {}
    for row in rows:
        if row.family in names and row.values.get("valid format") is not None:
            picture = _keys(row.id)[0]
            pictures.setdefault(picture, []).append(row)
            families[picture] = row.family
    if not pictures:
        return None
    numbers: dict[tuple[str, int], int] = {}  # (sub-dataset, category) → category number
    truth: list[tuple[int, int]] = []
    boxes: list[tuple[int, int]] = []
    marks: list[NDArray[np.bool_]] = []
    known = rows.known if isinstance(rows, Asked) else {}
    for part, (picture, asked) in enumerate(pictures.items()):
        if (picture, strict) not in known:
            known[picture, strict] = list(_of_picture(asked, find, strict))
        for category, count, found in known[picture, strict]:
            number = numbers.setdefault((families[picture], category), len(numbers))
            truth += [(number, part)] * count
            boxes += [(number, part)] * len(found)
            marks.append(found)
    stated = np.array(boxes, dtype=np.int64).reshape(-1, 2)
    order = np.argsort(stated[:, 0], kind="stable")
    everything = _Found(
        np.array([names.index(family) for family, _ in numbers], dtype=np.int64),
        np.array(truth, dtype=np.int64).reshape(-1, 2),
        stated[order],
        np.concatenate(marks)[order],
    )
    return Estimate(len(pictures), partial(everything.mean, thresholds=thresholds, strict=strict), biased=True)


def _of_picture(
    rows: Sequence[Row], find: Callable[[Row], tuple[Boxes, int]], strict: bool
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Yield (category, number of ground-truth boxes, hits of its detections) for every question about one image."""
    found = [find(row) for row in rows]
    categories = [_keys(row.id)[1] for row in rows]
    truth = [as_boxes(row.boxes) for row in rows]
    labels = np.repeat(np.array(categories, dtype=np.int64), [len(boxes) for boxes, _ in found])
    of = np.repeat(np.array(categories, dtype=np.int64), [len(boxes) for boxes in truth])
    left = kept(np.concatenate([boxes for boxes, _ in found]), labels, np.concatenate(truth), of, strict=strict)
    start = 0
    for (boxes, false), category, true in zip(found, categories, truth, strict=True):
        marks = hits(boxes[left[start : start + len(boxes)]], true)
        start += len(boxes)
        yield category, len(true), np.concatenate([marks, np.zeros((false, len(THRESHOLDS)), dtype=np.bool_)])


def _presence(thought: Thought, question: Question) -> float:
    """Return 1 if an answer states rightly whether the label is there, else 0."""
    return float(said_polar(thought.answer) == question.answers[0])


def _asked_of(names: Sequence[str]) -> Units:
    """Return units for the questions of a number; only chains count."""
    return mean_of("valid format", keep=lambda row: row.family in names, by=lambda row: row.family)


_LENIENT = (
    "follows the authors' script with equal confidences: it keeps the last of competing boxes, and COCO's code takes the "
    "order of the list as the order of confidence. The boxes of the last readable area count unless the answer is no"
)


def _headline(name: str, about: str, names: Sequence[str], thresholds: int = len(THRESHOLDS)) -> Headline:
    return Headline(
        name,
        about,
        _asked_of(names),
        lenient=_asked_of(names),
        lenient_about=_LENIENT,
        statistic=partial(_nms_ap, names, thresholds, True),
        lenient_statistic=partial(_nms_ap, names, thresholds, False),
        mean_over=frozenset(_NAMES if len(names) > 1 else names),  # without coco, which the hub lacks
    )


_HEADLINES = (
    _headline("NMS-AP", "average precision over IoU 0.50 to 0.95 after NMS, mean of the sub-datasets", _SPLITS[1:]),
    _headline("NMS-AP at 0.5", "NMS-AP at IoU 0.5, mean of the sub-datasets", _SPLITS[1:], 1),
    *(_headline(name, f"NMS-AP of {name}", (name,)) for name in _SPLITS[1:]),
    Headline(
        "presence",
        "share of right yes or no answers, mean of the sub-datasets",
        mean_of("presence", by=lambda row: row.family),
        mean_over=frozenset(_NAMES),
    ),
)

BENCHMARKS = {
    "ovdeval": Benchmark(
        name="ovdeval",
        title="OVDEval",
        source=f"Yao et al. 2024; hf.co/datasets/{_HUB}",
        hub=_HUB,
        splits=_SPLITS,
        splits_about="all: every sub-dataset whose file exists",
        read=_read,
        headlines=_HEADLINES,
        metrics=(Metric("presence", "share of right yes or no answers", _presence),),
    )
}
