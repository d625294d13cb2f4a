"""Questions of an evaluation, read from sifthinker datasets and from question files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sifthinker.boxes import as_boxes, convert, other_names, other_space
from sifthinker.coordinates import UNIT, Frame
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.errors import BoxError, ImageError, RecordError
from sifthinker.files import check_images, check_keys, inside, json_fault, read_jsonl, sha256, to_json, with_advice
from sifthinker.images import image_size, load_image, same_shape
from sifthinker.literals import Space
from sifthinker.records import (
    Box,
    Example,
    as_text,
    as_unit_tuples,
    as_whole,
    examples_file,
    find_placeholder,
    is_base64_image,
    is_blank,
    read_choices,
    read_examples,
    refuse_half_pairs,
    shown,
)
from sifthinker.scoring.options import options_of
from sifthinker.scoring.reading import read


class Estimator(Protocol):
    """A depth model, for example `engine.estimators.ModelDepth`."""

    name: str

    def estimate(self, image: Image.Image) -> DepthMap:
        """Return the depth map of an upright RGB image, in the image's size."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image, with what is known about its answer.

    Args:
        id: unique among the questions of a run.
        image: the image file, or the image itself, upright RGB.
        question: the question.
        answers: the right answers; an answer that matches one of them is right. Empty if unknown.
        choices: the possible answers of a closed question.
        boxes: the regions that answer it, unit xyxy; empty if unknown.
        depth: the depth file, or the map itself; None if there is none.
        dataset: name of its dataset; "" if unknown.
        split: train, val or test; "" if unknown.
        family: kind of question; "" if unknown.
        tags: further groups for the results: grouping → its group.
        reading: how to read the depth file.
        source: file and line, for messages.
        frame: what the numbers of boxes in its chains stand for, as in its dataset. `boxes` are always unit.
        estimator: depth model for a question without depth, see `thinking.with_depth`.
    Raises:
        RecordError: a field is blank or a box is invalid.

    Example:
        >>> asked = Question("1", Path("kitchen.jpg"), "What is left of the sink?", answers=("a kettle",))
    """

    id: str
    image: Path | Image.Image
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    depth: Path | DepthMap | None = None
    dataset: str = ""
    split: str = ""
    family: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    reading: DepthReading = field(default_factory=DepthReading)
    source: str = ""
    frame: Frame = UNIT
    estimator: Estimator | None = None

    def __post_init__(self) -> None:
        where = self.source or f"question {self.id!r}"
        for name, texts in (("id", (self.id,)), ("question", (self.question,)), ("answers", self.answers)):
            for text in texts:
                if not isinstance(text, str) or is_blank(text):
                    raise RecordError(f"{where}: {name} must be text that is not blank, got {shown(text)}", f"blank_{name}")
        for name in ("answers", "choices"):
            if isinstance(getattr(self, name), str):
                raise RecordError(
                    f"{where}: {name} must be a list of texts, got one text {shown(getattr(self, name))}", "bad_record"
                )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        texts = (self.id, self.question, *self.answers, *self.choices, self.dataset, self.split, self.family)
        for text in (*texts, *self.tags, *self.tags.values()):
            refuse_half_pairs(text, where)
        placeholder = find_placeholder(self.question)
        if placeholder:
            raise RecordError(
                f"{where}: the question contains {placeholder}, which models read as an image or a control token. Remove "
                "it; the image is shown before the question anyway",
                "bad_text",
            )
        object.__setattr__(self, "boxes", as_unit_tuples(self.boxes, where))

    @classmethod
    def from_example(cls, example: Example, source: str = "") -> Question:
        """Return the question of an example of a dataset. `source` is its file and line, for messages."""
        return cls(
            id=example.id,
            image=Path(example.images[0]),
            question=example.problem,
            answers=(example.answer,),
            choices=example.choices,
            boxes=example.boxes,
            depth=None if example.depth is None else Path(example.depth),
            dataset=example.dataset,
            split=example.split,
            family=example.family,
            reading=DepthReading("sif"),
            source=source,
            frame=example.frame,
        )

    def load(self, *, with_depth: bool = True) -> tuple[Image.Image, DepthMap | None]:
        """Load the image, upright RGB, and its depth.

        Args:
            with_depth: whether to load the depth. Without it, or for a question without depth, the depth is None.
        Raises:
            ImageError: the image is missing or cannot be read.
            DepthError: the depth file is missing, cannot be read, or has another size than the image.
        """
        image = self.picture()
        if not with_depth or not self.has_depth:
            return image, None
        if self.depth is None:
            assert self.estimator is not None
            return image, self.estimator.estimate(image)
        if isinstance(self.depth, DepthMap):
            return image, self.depth
        return image, self.reading.read(self.depth, image.size)

    def picture(self) -> Image.Image:
        """Load the image, upright RGB; see `load`."""
        return self.image if isinstance(self.image, Image.Image) else load_image(self.image)

    @property
    def has_depth(self) -> bool:
        """Whether the question has depth, or a depth model."""
        return self.depth is not None or self.estimator is not None

    def image_name(self, root: Path) -> str:
        """Return the image's path relative to the folder of the images; "" if it is not a file."""
        return relative_name(self.image, root) if isinstance(self.image, Path) else ""

    def depth_name(self, root: Path) -> str | None:
        """Return the depth file's path relative to the folder of the images; None if there is no depth."""
        if self.depth is None:
            return None if self.estimator is None else f"estimated by {self.estimator.name}"
        return relative_name(self.depth, root) if isinstance(self.depth, Path) else ""

    def identity(self, root: Path) -> list[Any]:
        """Return the plain values that identify the question. Files count by name; see `file_sizes`."""
        picture: Any = None
        if isinstance(self.image, Image.Image):
            picture = [*self.image.size, sha256(self.image.tobytes())]
        depth = self.depth.digest() if isinstance(self.depth, DepthMap) else None
        files = [relative_name(path, root) for path in (self.image, self.depth) if isinstance(path, Path)]
        how = [self.reading.encoding, self.reading.near, list(self.reading.holes)]
        told = [list(self.answers), list(self.choices), [list(box) for box in self.boxes]]
        groups = [self.dataset, self.split, self.family, dict(self.tags)]
        framed = [self.frame.columns()] if self.frame != UNIT else []
        estimated = [f"estimated by {self.estimator.name}"] if self.depth is None and self.estimator is not None else []
        return [self.id, self.question, *told, *groups, files, picture, depth, how, *framed, *estimated]

    def lacks_image(self) -> bool:
        """Return whether its image file is missing, without opening it; False for a subclass that loads images itself."""
        mine = type(self).load is Question.load and type(self).picture is Question.picture
        return mine and isinstance(self.image, Path) and not self.image.is_file()

    def file_sizes(self) -> tuple[int | None, int | None]:
        """Return the current sizes of the image and depth files in bytes; None for one that is missing or not a file."""
        files = (self.image, self.depth)
        image, depth = (f.stat().st_size if isinstance(f, Path) and f.is_file() else None for f in files)
        return image, depth


def relative_name(path: Path, root: Path) -> str:
    """Return a path relative to a folder, with forward slashes; unchanged if it is outside the folder."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        try:
            return path.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            return str(path)


def questions_root(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that image paths in a question file are relative to."""
    return Path(images) if images is not None else Path(path) if Path(path).is_dir() else Path(path).parent


def read_questions(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    images: str | os.PathLike[str] | None = None,
    box_space: Space = "unit",
    reading: DepthReading | None = None,
) -> list[Question]:
    """Read the questions of a sifthinker dataset or of a question file.

    A question file contains JSON lines, or one JSON list. Each question needs `image` and `question`. Optional keys are `id`
    (default: its number in the file), `answer` (a text) or `answers` (several right ones), `choices`, `boxes`, `box_space`
    and `size` (see `boxes.convert`), `depth` (a file), `dataset`, `split`, `family`, and `tags` (an object: further
    grouping of results → group). `extra`, `notes` and `source` are ignored, because files of records have them.

    Args:
        path: dataset folder, its examples file, or a question file.
        limit: number of questions to read from the start; None for all.
        images: folder that image and depth paths in a question file are relative to; by default the folder of the file.
        box_space: space of boxes in a question file without `box_space`.
        reading: how to read the depth files of a question file; `auto` by default.
    Returns:
        At least one question. Images are opened only if boxes in pixels need their size.
    Raises:
        RecordError: the file is missing or has no question, a question is malformed, an id is repeated, or a path leaves
            the folder; the message gives the place.
    """
    if images is not None:
        check_images(Path(images))
    where = examples_file(path) if Path(path).is_dir() else Path(path)
    found: list[Question] = []
    first: dict[str, str] = {}
    questions = (
        _of_examples(where)
        if _holds_examples(where)
        else _of_plain(where, questions_root(where, images), box_space, reading or DepthReading())
    )
    for question in islice(questions, None if limit is None else min(limit, sys.maxsize)):
        if question.id in first:
            raise RecordError(
                f"{question.source}: the id {question.id[:100]!r} is already used at {first[question.id]}. Give every "
                "question its own id",
                "duplicate_id",
            )
        first[question.id] = question.source
        found.append(question)
    if not found:
        raise RecordError(f"{where}: contains no question", "no_example")
    return found


def _of_examples(path: Path) -> Iterator[Question]:
    for number, example in enumerate(read_examples(path), 1):
        yield Question.from_example(example, f"{path}, example {number}")


def _of_plain(path: Path, root: Path, box_space: Space, reading: DepthReading) -> Iterator[Question]:
    for number, (where, row) in enumerate(_rows(path), 1):
        yield _plain(row, where, str(number), root, box_space, reading)


def _holds_examples(path: Path) -> bool:
    """Return whether the first row of a file is a sifthinker example: only examples have `messages`."""
    return any(isinstance(row, dict) and "messages" in row for _, row in islice(_rows(path), 1))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of every JSON line, or of every item of a JSON list."""
    if not _is_list(path):
        for number, row in read_jsonl(path):
            yield f"{path}:{number}", row
        return
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path}: starts like a JSON list, but is not valid JSON: {json_fault(error)}", "not_json"
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, item {number}", row


def _is_list(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


_KEYS = (
    "id", "image", "question", "answer", "answers", "choices", "boxes", "box_space", "size", "depth", "dataset", "split",
    "family", "tags", "extra", "notes", "source",
)  # fmt: skip


def _plain(row: Any, where: str, number: str, root: Path, box_space: Space, reading: DepthReading) -> Question:
    if not isinstance(row, dict):
        raise RecordError(f"{where}: expected a JSON object, got {shown(row)}", "not_an_object")
    try:
        check_keys(row, _KEYS, where)
    except ValueError as error:
        form = _other_form(row)
        if form:
            raise RecordError(
                f"{where}: looks like {form}. `sif eval` reads question files (image, question, answer, …) and sifthinker "
                "datasets. Build a dataset from this file with `sif data build`",
                "unknown_key",
            ) from None
        raise RecordError(with_advice(str(error), "Put other data under 'extra'"), "unknown_key") from None
    missing = [name for name in ("image", "question") if row.get(name) is None]
    if missing:
        raise RecordError(f"{where}: lacks {', '.join(missing)}", "missing_key")
    if row.get("answer") is not None and row.get("answers") is not None:
        raise RecordError(f"{where}: has both answer and answers; expected only one of them", "bad_record")
    answers: Any = row.get("answers")
    if answers is None:
        answers = [] if row.get("answer") is None else [_single(row["answer"], where)]
    if not isinstance(answers, list):
        raise RecordError(f"{where}: answers must be a list of right answers, got {shown(answers)}", "bad_record")
    if row.get("answers") == []:
        raise RecordError(f"{where}: answers is empty; leave it out if the right answer is unknown", "bad_record")
    if isinstance(row.get("choices"), str) and not row["choices"].lstrip().startswith("["):
        raise RecordError(f"{where}: choices must be a list of texts, got one text {shown(row['choices'])}", "bad_record")
    try:
        choices = read_choices(row.get("choices"))
    except ValueError as error:
        raise RecordError(f"{where}: {error}", "bad_record") from None
    groups: dict[str, Any] = {name: row.get(name) or "" for name in ("dataset", "split", "family")}
    for name in groups:
        if not isinstance(row.get(name), str | None):
            raise RecordError(f"{where}: {name} must be text, got {shown(row[name])}", "bad_record")
    tags = row.get("tags") or {}
    if not isinstance(tags, dict):
        raise RecordError(f"{where}: tags must be an object of texts, got {shown(tags)}", "bad_record")
    image = _file(row["image"], "image", where, root)
    depth = None if row.get("depth") is None else _file(row["depth"], "depth", where, root)
    texts = tuple(as_text(answer, "answer", where) for answer in answers)
    if choices and texts and all(options_of(choices).index_of(read(text)) is None for text in texts):
        raise RecordError(
            f"{where}: expected one of the choices {shown(list(choices))} or its letter as the right answer, got "
            f"{' / '.join(map(shown, texts))}",
            "bad_record",
        )
    return Question(
        id=number if row.get("id") is None else as_text(row["id"], "id", where),
        image=image,
        question=as_text(row["question"], "question", where),
        answers=texts,
        choices=choices,
        boxes=_boxes(row, where, image, box_space),
        depth=depth,
        tags={str(name): _text(value, f"tags.{name}", where) for name, value in tags.items()},
        reading=reading,
        source=where,
        **groups,
    )


def _single(answer: Any, where: str) -> Any:
    if isinstance(answer, list) and len(answer) != 1:
        raise RecordError(
            f"{where}: answer must be one text, got {shown(answer)}. Put several right answers under 'answers'",
            "bad_record",
        )
    return answer


def _text(value: Any, name: str, where: str) -> str:
    return "" if value is None else as_text(value, name, where)


def _file(value: Any, name: str, where: str, root: Path) -> Path:
    if not isinstance(value, str) or is_blank(value):
        raise RecordError(f"{where}: {name} must be a file path, got {shown(value)}", "bad_path")
    if is_base64_image(value):
        raise RecordError(f"{where}: {name} must be a file path, got base64", "bad_path")
    try:
        return inside(root, value)
    except RecordError as error:
        hint = "; set --images to the folder that paths are relative to" if error.code == "path_outside_root" else ""
        raise RecordError(f"{where}: {name}: {error}{hint}", error.code) from None


def _other_form(row: Mapping[str, Any]) -> str:
    """Return the published format that a row looks like; "" if it looks like none."""
    if "bboxs" in row or "conversations" in row:
        return "VisCoT"
    if "expression" in row or ("bbox" in row and "ref_id" in row):
        return "RefCOCO"
    return "COCO" if "annotations" in row and "categories" in row else ""


def _size(row: Mapping[str, Any], where: str, image: Path) -> tuple[int, int] | None:
    """Return the stated image size of a question. It must match the image if that can be read."""
    size = row.get("size")
    if size is None:
        return None
    sides = [as_whole(side) or 0 for side in size] if isinstance(size, list) else []
    if len(sides) != 2 or not all(side > 0 for side in sides):
        raise RecordError(f"{where}: size must be [width, height] in pixels, got {shown(size)}", "bad_record")
    stated = sides[0], sides[1]
    try:
        found = image_size(image)
    except ImageError:
        return stated
    if not same_shape(stated, found):
        raise RecordError(
            f"{where}: size is {stated[0]}×{stated[1]}, but {image.name} is {found[0]}×{found[1]}; check that it is the "
            "right image",
            "size_mismatch",
        )
    return stated


def _boxes(row: Mapping[str, Any], where: str, image: Path, default: Space) -> tuple[Box, ...]:
    boxes, space = row.get("boxes"), row.get("box_space") or default
    size = _size(row, where, image)
    if not boxes:
        return ()
    try:
        if size is None and space not in ("unit", "per_mille"):
            size = image_size(image)
        array = as_boxes(boxes)
        unit = convert(array, source=space, target="unit", size=size)
        others = f"--box-space {other_names(space)}, or the key box_space"
        fault, _ = other_space(array, space, size)
        if fault:
            raise RecordError(f"{where}: {fault}; read as {space}. Set another space with {others}", "bad_box")
        inside_image = np.clip(unit, 0, 1)
        # An excess of up to 1e-9 is rounding noise, not a box past the border.
        past = np.asarray((np.abs(unit - inside_image) > 1e-9).any(axis=1))
        if past.any():
            border = f"width {size[0]}, height {size[1]}" if size else "0 to 1"
            advice = f"If it is in another space, set that with {others}" if space == "unit" else "Correct the box"
            raise RecordError(
                f"{where}: box {array[int(np.argmax(past))].tolist()} is outside the image ({border}), read as {space}. "
                f"{advice}",
                "bad_box",
            )
        return as_unit_tuples(inside_image.tolist(), where)
    except ImageError:
        return ()  # `load` reports the broken image. The question cannot be asked, so it needs no boxes
    except (BoxError, TypeError) as error:
        raise RecordError(f"{where}: boxes: {error}", "bad_box") from None


def identity_of(questions: Sequence[Question], root: Path) -> str:
    """Return the SHA-256 of the identities of questions, in order; see `Question.identity`."""
    return sha256("\n".join(to_json(question.identity(root)) for question in questions).encode())
