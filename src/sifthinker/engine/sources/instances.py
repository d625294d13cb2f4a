"""COCO and LVIS instances: the boxes of each image, and counting questions built from them.

A count is only as good as its annotations. Anything that may make a count wrong turns the question into a reject: an
unusable annotation, an image that is listed twice, or a category that is not annotated exhaustively.
"""

from __future__ import annotations

import functools
import posixpath
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sifthinker.engine.sources.rows import FAULTS, field_of, image_below, read_json, reject, size_of, text_of, to_unit
from sifthinker.errors import RecordError
from sifthinker.literals import OutsideBoxes
from sifthinker.records import Record, Reject, as_number, as_whole, shown

MOST_INSTANCES = 20  # counting questions with more objects teach a model little about looking

# "1", 1 and 1.0 are one id; "01" is another.
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.0+)?", re.ASCII)
# Names of flags as `_plain_key` makes them: COCO's iscrowd and ignore, Open Images' IsGroupOf.
_CROWD = frozenset(("iscrowd", "crowd", "ignore", "isignore", "ignored", "isignored", "isgroupof", "groupof", "isgroup"))
# detectron2 states the box format as a number or name of BoxMode; other tools use words.
_MODE = frozenset(("bboxmode", "boxmode", "bboxformat", "boxformat"))
_MODES = {
    **dict.fromkeys(("0", "xyxyabs", "xyxy", "pascalvoc"), "xyxy"),
    **dict.fromkeys(("1", "xywhabs", "xywh", "coco"), "xywh"),
}
_MOST_OF_ONE_ID = 20  # an id with more categories than this may stand for any category
_YES_NO = {"0": False, "false": False, "no": False, "": False, "1": True, "true": True, "yes": True}

Id = int | str
Category = str  # a category name after `_spoken`; names that differ only in case or underscores are equal


@dataclass(frozen=True, slots=True)
class Marked:
    """The box of an object.

    Args:
        corners: x1, y1, x2, y2 in pixels.
        place: place of its annotation in the instances file.
        id: id of the annotation, None if it has none.
        stated: the box in the annotation: four numbers, x, y, width, height or two corners.
        is_corners: whether it is two corners.
    """

    corners: list[float]
    place: str
    id: Any
    stated: Any
    is_corners: bool

    @property
    def words(self) -> str:
        """The box as the file states it."""
        return f"bbox {shown(self.stated)}" + (f" of annotation {shown(self.id)}" if self.id is not None else "")


@dataclass(slots=True)
class Picture:
    """The annotations of one image.

    Args:
        file: file name.
        size: (width, height) in pixels.
        place: place in the instances file.
        boxes: category → boxes of its objects, in file order, without crowds.
        spoilt: category → (code, reason) why its objects cannot be counted here; `None` stands for every category.
    """

    file: str
    size: tuple[int, int]
    place: str
    boxes: dict[Category, list[Marked]] = field(default_factory=dict)
    spoilt: dict[Category | None, tuple[str, str]] = field(default_factory=dict)

    def spoil(self, category: Category | None, code: str, reason: str) -> None:
        """Mark a category as not countable in this image. The first reason is kept."""
        self.spoilt.setdefault(category, (code, reason))

    def fault(self, category: Category) -> tuple[str, str] | None:
        """Return (code, reason) why a category cannot be counted in this image, or None."""
        found = self.spoilt.get(category) or self.spoilt.get(None)
        boxes = self.boxes.get(category, [])
        if found is None and len(boxes) > MOST_INSTANCES:
            return "too_many_boxes", f"the image has {len(boxes)} of them, more than {MOST_INSTANCES}"
        if found is None:
            first: dict[tuple[float, ...], str] = {}
            for box in boxes:
                other = first.setdefault(tuple(box.corners), box.place)
                if other != box.place:
                    words = f"{other} and {box.place} have the same box {box.corners}, which may be counted twice"
                    return "bad_annotation", words
        return found

    def pixels(self, category: Category) -> list[list[float]]:
        """Return the (N, 4) pixel boxes of a category."""
        return [box.corners for box in self.boxes.get(category, [])]


@dataclass(slots=True)
class Instances:
    """The content of an instances file.

    Args:
        pictures: images in file order.
        names: category → its name as written in the file.
        rejects: unusable entries.
    """

    pictures: list[Picture]
    names: dict[Category, str]
    rejects: list[Reject]


def read_instances(path: Path) -> Instances:
    """Read COCO or LVIS instances entry by entry. A bad entry becomes a reject and affects only counts that depend on it.

    Raises:
        RecordError: the file is missing, not JSON, or has no list of images, annotations or categories.
    """
    found = read_json(path)
    for name in ("images", "annotations", "categories"):
        if not isinstance(found, Mapping) or not isinstance(found.get(name), list):
            got = shown(found) if not isinstance(found, Mapping) or name not in found else f"{name} {shown(found[name])}"
            got = coco_relative(found[0] if isinstance(found, list) and found else found) or got
            raise RecordError(f"{path}: expected COCO instances with a list of {name}, got {got}", "not_coco")
    relative = coco_relative(found)
    if relative:
        raise RecordError(f"{path}: expected COCO instances, got {relative}", "not_coco")
    rejects: list[Reject] = []
    categories, names = _categories(found["categories"], path.name, rejects)
    images, pictures = _images(found["images"], categories, path.name, rejects)
    for index, annotation in enumerate(found["annotations"]):
        place = f"{path.name}:annotations[{index}]"
        try:
            _annotate(annotation, images, categories, place)
        except FAULTS as error:
            rejects.append(reject(place, annotation, error))
    return Instances(pictures, names, rejects)


_Meanings = dict[Id, set[Category | None]]


def coco_relative(value: Any) -> str:
    """Describe a file of the COCO family that contains no instance boxes; "" for any other file.

    Args:
        value: the JSON object of the file, or the first item of its list.
    """
    if not isinstance(value, Mapping):
        return ""
    if {"image_id", "category_id", "score"} <= value.keys() or {"image_id", "caption"} == value.keys():
        return "a list of COCO results (model output without images and categories). Use the instances_….json file"
    annotations = value.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, Mapping) and "bbox" not in first:
        if "segments_info" in first:
            return "COCO panoptic segments. Use the instances_….json file of the same images"
        if "caption" in first:
            return "COCO captions. Use the instances_….json file of the same images"
    if "images" in value and "annotations" not in value and ("categories" in value or "info" in value):
        return "COCO image information without annotations, as published for the test images. Use a file with annotations"
    if "questions" in value and "info" in value:
        return "VQA questions without boxes. Use a file with boxes"
    return ""


def _categories(entries: list[Any], file: str, rejects: list[Reject]) -> tuple[_Meanings, dict[Category, str]]:
    """Return id → categories that it may stand for, and category → name.

    An id stands for one category unless it is used twice. "" is a category with an unusable entry; None is any category.
    """
    categories: _Meanings = {}
    first: dict[Id, str] = {}  # name
    names: dict[Category, str] = {}
    for index, entry in enumerate(entries):
        place = f"{file}:categories[{index}]"
        key: Id | None = None
        try:
            key = _id(field_of(entry, "id", place), "id", place)
            name = text_of(entry, "name", place)
            if not _spoken(name):
                raise RecordError(f"{place}: name must be the name of the category, got {shown(name)}", "blank_field")
            known = categories.setdefault(key, set())
            if None not in known:
                known.add(_spoken(name))
            if len(known) > _MOST_OF_ONE_ID:
                categories[key] = known = {None}
            names.setdefault(_spoken(name), name)
            if len(known) > 1 or None in known:
                before = f"{shown(first[key])} and {shown(name)}" if key in first else shown(name)
                raise RecordError(f"{place}: several categories have the id {shown(key)}: {before}", "duplicate_id")
            first.setdefault(key, name)
        except FAULTS as error:
            if key is not None:
                known = categories.setdefault(key, set())
                if None not in known:
                    known.add("")
            rejects.append(reject(place, entry, error))
    return categories, names


def _images(
    entries: list[Any], categories: _Meanings, file: str, rejects: list[Reject]
) -> tuple[dict[Id, list[Picture]], list[Picture]]:
    """Return id → images that it may stand for (none if the entry is unusable), and all images."""
    images: dict[Id, list[Picture]] = {}
    of_file: dict[str, list[Picture]] = {}
    entered: dict[tuple[Id, str, tuple[int, int]], Picture] = {}
    bad: list[tuple[str, Id | None, str | None]] = []  # place, id and file of unusable entries
    for index, entry in enumerate(entries):
        place, key, name = f"{file}:images[{index}]", None, None
        try:
            key = _id(field_of(entry, "id", place), "id", place)
            known = images.setdefault(key, [])
            name = _file_name(entry, place)
            picture = Picture(name, size_of(entry, place), place)
            for category in _not_exhaustive(entry, categories, place):
                picture.spoil(category, "crowd", f"{place}: some objects have no box (not_exhaustive_category_ids)")
            same = of_file.setdefault(_normal(name), [])
            twin = entered.setdefault((key, _normal(name), picture.size), picture)
            if twin is not picture:  # a repetition of the same entry
                twin.spoilt |= picture.spoilt
            else:
                known.append(picture)
                same.append(picture)
        except FAULTS as error:
            bad.append((place, key, name))
            rejects.append(reject(place, entry, error))
    for key, known in images.items():
        _ambiguous(known, f"have the same id, {key!r}")
    for known in of_file.values():
        _ambiguous(known, f"have the same file, {known[0].file}")
    doubted: dict[tuple[str, Id], str] = {}  # id or file → its first unusable entry
    for place, key, name in bad:
        if key is not None:
            doubted.setdefault(("id", key), place)
        if name is not None:
            doubted.setdefault(("file", _normal(name)), place)
    for (what, value), place in doubted.items():
        for picture in images.get(value, []) if what == "id" else of_file.get(str(value), []):
            picture.spoil(None, "ambiguous_image", f"the unusable entry {place} has the same id or file")
    return images, [picture for known in of_file.values() for picture in known]


def _not_exhaustive(entry: Mapping[str, Any], categories: _Meanings, place: str) -> Iterator[Category | None]:
    listed = entry.get("not_exhaustive_category_ids")
    if listed is not None and not isinstance(listed, list):
        raise RecordError(f"{place}: not_exhaustive_category_ids must be a list of category ids, got {shown(listed)}")
    for item in listed or ():
        yield from categories.get(_id(item, "a category id of not_exhaustive_category_ids", place), ())


def _ambiguous(pictures: list[Picture], what: str) -> None:
    if len(pictures) > 1:
        more = f" and {len(pictures) - 5:,} more" * (len(pictures) > 5)
        reason = f"{' and '.join(other.place for other in pictures[:5])}{more} {what}"
        for picture in pictures:
            picture.spoil(None, "ambiguous_image", reason)


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _file_name(entry: Mapping[str, Any], place: str) -> str:
    """Return `file_name`. LVIS v1 has none; then return the folder and file of `coco_url`."""
    name, url = entry.get("file_name"), entry.get("coco_url")
    if isinstance(name, str) and name.strip():
        return name.strip()
    if name is None and isinstance(url, str):
        tail = [part for part in urllib.parse.unquote(url).split("?")[0].split("/") if part][-2:]
        if len(tail) == 2:
            return "/".join(tail)
    got = f"file_name {shown(name)}" if "file_name" in entry else f"no file_name and coco_url {shown(url)}"
    raise RecordError(
        f"{place}: expected the image's path in file_name, or LVIS's coco_url, got {got}",
        "blank_image" if not name else "bad_record",
    )


def _annotate(annotation: Any, images: Mapping[Id, list[Picture]], categories: _Meanings, place: str) -> None:
    """Add an annotation's box to its image. If it is unusable, mark the counts that it might change.

    Raises:
        RecordError: the annotation is unusable.
    """
    image = _id(field_of(annotation, "image_id", place), "image_id", place)
    pictures = images.get(image, [])
    if not pictures:
        why = "no usable entry" if image in images else "no entry"
        raise RecordError(f"{place}: {why} of images has the image_id {image!r}", "bad_annotation")
    named: set[Category | None] | None = None  # an annotation without a category may belong to any category of the image
    try:
        key = _id(field_of(annotation, "category_id", place), "category_id", place)
        named = categories.get(key, set())
        if not named - {""}:
            raise RecordError(f"{place}: no usable entry of categories has the category_id {key!r}", "bad_annotation")
        if len(named) > 1 or None in named:
            raise RecordError(f"{place}: several categories have the category_id {key!r}", "bad_annotation")
        if len(pictures) > 1:
            raise RecordError(f"{place}: several images have the image_id {image!r}", "ambiguous_image")
        crowd = _is_crowd(annotation, place)
        box = None if crowd else _marked(annotation, place)
    except FAULTS as error:
        # Images that share an id are already marked.
        for picture in pictures if len(pictures) == 1 else ():
            for category in [None] if named is None else named:
                picture.spoil(category, "bad_annotation", f"{error}. A count without it may be wrong")
        raise
    (picture,), (category,) = pictures, named
    if category is None:  # refused above
        return
    found = picture.boxes.setdefault(category, [])
    if box is None:
        picture.spoil(category, "crowd", f"{place} is a crowd region, so its objects are not counted")
    else:
        found.append(box)


def _is_crowd(annotation: Mapping[str, Any], place: str) -> bool:
    """Whether an annotation marks a group or must be ignored: COCO's `iscrowd`, and its names in other tools."""
    crowd = False
    for row in (annotation, *(annotation.get(name) for name in ("attributes", "extra"))):  # CVAT's, CrowdHuman's
        for name, value in row.items() if isinstance(row, Mapping) else ():
            crowd |= _plain_key(str(name)) in _CROWD and _flag(value, name, place)
    return crowd


@functools.lru_cache(maxsize=1024)  # a file's annotations have the same few keys
def _plain_key(text: str) -> str:
    return re.sub(r"[\W_]+", "", text[:80]).lower()


def _marked(annotation: Any, place: str) -> Marked:
    """Return `bbox`, which is x, y, width, height in pixels unless the annotation states another format."""
    form = "xywh"
    for name, value in annotation.items():
        if _plain_key(str(name)) in _MODE and value is not None:
            number = as_whole(value)
            stated_form = _plain_key(str(value if number is None else number)[:80]).removeprefix("boxmode")
            found = None if isinstance(value, list | Mapping) else _MODES.get(stated_form)
            if found is None:
                raise RecordError(
                    f"{place}: {name} must be 0 (XYXY_ABS, two corners) or 1 (XYWH_ABS, corner and size) in pixels, got "
                    f"{shown(value)}",
                    "bad_box",
                )
            form = found
    stated = field_of(annotation, "bbox", place, "[x, y, width, height]")
    numbers = [as_number(side) for side in stated] if isinstance(stated, list) else []
    if len(numbers) != 4 or None in numbers:
        raise RecordError(f"{place}: bbox must be four numbers [x, y, width, height], got {shown(stated)}", "bad_box")
    x, y, right, bottom = (number for number in numbers if number is not None)
    corners = [x, y, right, bottom] if form == "xyxy" else [x, y, x + right, y + bottom]
    return Marked(corners, place, annotation.get("id"), stated, form == "xyxy")


def _id(value: Any, name: str, place: str) -> Id:
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else text
    if isinstance(value, int | float) and not isinstance(value, bool) and as_number(value) is not None:
        return int(value) if value == int(value) else str(value)
    raise RecordError(f"{place}: {name} must be a number or text, got {shown(value)}", "bad_record")


def _flag(value: Any, name: str, place: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    number = as_number(value)
    if number in (0, 1):
        return bool(number)
    if isinstance(value, str) and value.strip().lower() in _YES_NO:
        return _YES_NO[value.strip().lower()]
    raise RecordError(f"{place}: {name} must be 0 or 1, got {shown(value)}")


def _spoken(name: str) -> Category:
    return " ".join(re.split(r"[\s_]+", name.casefold())).strip()


def coco(path: Path, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """Yield COCO or LVIS instances as counting questions, one per category in each image.

    A category that cannot be counted in an image becomes a reject: it has a crowd region, some of its objects have no box
    (LVIS), it has more than `MOST_INSTANCES` objects, or one of its annotations is unusable (a separate reject).
    """
    found = read_instances(path)
    yield from found.rejects
    stems = Counter(Path(picture.file).stem for picture in found.pictures)
    taken: dict[str, int] = {}
    for picture in found.pictures:
        stem = Path(picture.file).stem
        label = stem if stems[stem] == 1 else picture.file
        for category in sorted(picture.boxes):
            name = found.names[category]
            place = f"{path.name}:{picture.file}:{name}"
            identity = _free(f"coco-{label}-{name.replace(' ', '_')}", taken)
            question = f"How many are there: {name.replace('_', ' ')}?"
            try:
                yield counted(picture, category, question, root, outside, place, "coco", identity)
            except FAULTS as error:
                yield reject(place, {}, error)


def _free(identity: str, taken: dict[str, int]) -> str:
    """Return the id, with a number if it is taken. Image "a" with category "b-c" and image "a-b" with "c" have the same id.

    Args:
        identity: the preferred id.
        taken: id → its last number.
    """
    free = identity
    while free in taken:
        taken[identity] += 1
        free = f"{identity}-{taken[identity]}"
    taken[free] = 1
    return free


def counted(
    picture: Picture,
    category: Category,
    question: str,
    root: Path | None,
    outside: OutsideBoxes,
    place: str,
    dataset: str,
    identity: str,
    image: str = "",
) -> Record:
    """Return the record of a question about the number of a category's objects in an image.

    Raises:
        RecordError: the objects cannot be counted, or a box is wrong.
    """
    fault = picture.fault(category)
    if fault is not None:
        raise RecordError(f"{place}: the objects cannot be counted: {fault[1]}", fault[0])
    boxes, marked = picture.pixels(category), picture.boxes.get(category, [])
    for box in marked:
        x1, y1, x2, y2 = box.corners
        if x1 >= x2 or y1 >= y2:
            wanted = "expected x1 < x2 and y1 < y2" if box.is_corners else "width and height must be above 0"
            words = f"{box.words} has no area (x1, y1, x2, y2 are {box.corners}); {wanted}"
            raise RecordError(f"{place}: {words}", "degenerate_box")
    unit, notes = to_unit(
        boxes, "pixel", picture.size, outside, place, origin=lambda index: f"; the file states {marked[index].words}"
    )
    if root is not None:
        image_below(root, image or picture.file)
    return Record(
        id=identity,
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
