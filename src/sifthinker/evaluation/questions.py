"""What a model is asked when it is measured: questions of our datasets, and of plain files of questions."""

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
from sifthinker.files import check_keys, inside, read_jsonl, sha256, to_json
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
    """A depth model, as `engine.estimators.ModelDepth`."""

    name: str

    def estimate(self, image: Image.Image) -> DepthMap:
        """The depth of an upright RGB image, of its size."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image, with what is known about its answer.

    Args:
        id: unique among the questions that are asked together.
        image: the image file, or the image itself, upright RGB.
        question: the question.
        answers: the right answers; an answer that equals one of them is right. None where nothing is known.
        choices: the possible answers of a closed question.
        boxes: the regions that answer it, unit xyxy; none where nothing is known.
        depth: the depth file, or the map itself; None where there is none.
        dataset: where it comes from, "" where unknown.
        split: train, val or test, "" where unknown.
        family: kind of question, "" where unknown.
        tags: further groups that results are shown by: what is grouped → its group.
        reading: how the depth file is read.
        source: file and line, for messages.
        frame: what the numbers of boxes stand for in chains that answer it: those of its dataset. `boxes` are unit in any
            case.
        estimator: estimates the depth from the image where there is none, see `thinking.with_depth`.
    Raises:
        RecordError: a field is blank or a box is wrong.

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
                    raise RecordError(f"{where}: {name} is {shown(text)}; wanted text that is not blank", f"blank_{name}")
        for name in ("answers", "choices"):
            if isinstance(getattr(self, name), str):
                raise RecordError(f"{where}: {name} is {shown(getattr(self, name))}, wanted several texts", "bad_record")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        texts = (self.id, self.question, *self.answers, *self.choices, self.dataset, self.split, self.family)
        for text in (*texts, *self.tags, *self.tags.values()):
            refuse_half_pairs(text, where)
        placeholder = find_placeholder(self.question)
        if placeholder:
            raise RecordError(
                f"{where}: the question holds {placeholder}, which models take for an image or a control token; leave it "
                "out, the image is shown before the question anyway",
                "bad_text",
            )
        object.__setattr__(self, "boxes", as_unit_tuples(self.boxes, where))

    @classmethod
    def from_example(cls, example: Example, source: str = "") -> Question:
        """The question of a training sample, as `read_examples` gives it; `source` is its file and line, for messages."""
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
        """The image, upright RGB, and its depth.

        Args:
            with_depth: whether the depth is wanted; None is returned in its place where it is not, or where there is none.
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
        """The image, upright RGB; see `load`."""
        return self.image if isinstance(self.image, Image.Image) else load_image(self.image)

    @property
    def has_depth(self) -> bool:
        """Whether it comes with depth, or with what estimates it."""
        return self.depth is not None or self.estimator is not None

    def image_name(self, root: Path) -> str:
        """The image's path relative to the folder of the images; "" where it is no file."""
        return relative_name(self.image, root) if isinstance(self.image, Path) else ""

    def depth_name(self, root: Path) -> str | None:
        """The depth file's path likewise; None where there is no depth."""
        if self.depth is None:
            return None if self.estimator is None else f"estimated by {self.estimator.name}"
        return relative_name(self.depth, root) if isinstance(self.depth, Path) else ""

    def identity(self, root: Path) -> list[Any]:
        """What makes it another question, plain values. Of files this is their name; see `file_sizes`."""
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
        """Whether its image is a file that is not there, unopened; False of a subclass that loads its own way."""
        mine = type(self).load is Question.load and type(self).picture is Question.picture
        return mine and isinstance(self.image, Path) and not self.image.is_file()

    def file_sizes(self) -> tuple[int | None, int | None]:
        """Bytes of the image file and of the depth file as they are now; None for one that is not there, or is no file."""
        files = (self.image, self.depth)
        image, depth = (f.stat().st_size if isinstance(f, Path) and f.is_file() else None for f in files)
        return image, depth


def relative_name(path: Path, root: Path) -> str:
    """A path as seen from a folder, with slashes; as it is where it lies elsewhere."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        try:
            return path.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            return str(path)


def questions_root(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Path:
    """The folder that the image paths of a file of questions are relative to."""
    return Path(images) if images is not None else Path(path) if Path(path).is_dir() else Path(path).parent


def read_questions(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    images: str | os.PathLike[str] | None = None,
    box_space: Space = "unit",
    reading: DepthReading | None = None,
) -> list[Question]:
    """Questions of a dataset of ours, or of a plain file.

    A plain file holds JSON lines, or one JSON list. Each question has `image` and `question`, and what is known of `id`
    (its number in the file by default), `answer` (a text) or `answers` (several right ones), `choices`, `boxes`, `box_space`
    and `size` (see `boxes.convert`), `depth` (a file), `dataset`, `split`, `family`, and `tags` (an object: what else the
    results are grouped by → group). `extra`, `notes` and `source` are passed over, as a file of records has them.

    Args:
        path: dataset folder, its examples file, or a plain file.
        limit: the first so many; None for all.
        images: folder that image and depth paths of a plain file are relative to; the file's by default.
        box_space: space of boxes in a plain file that name none.
        reading: how depth files of a plain file are read; `auto` by default.
    Returns:
        At least one; images are not opened, unless their size is needed for boxes that are no fractions.
    Raises:
        RecordError: no file, no question in it, a malformed one, one whose id was there before, or a path that leaves the
            folder; says where.
    """
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
                f"{question.source}: the id {question.id[:100]!r} was there before, at {first[question.id]}; every question "
                "needs its own",
                "duplicate_id",
            )
        first[question.id] = question.source
        found.append(question)
    if not found:
        raise RecordError(f"{where}: holds no question", "no_example")
    return found


def _of_examples(path: Path) -> Iterator[Question]:
    for number, example in enumerate(read_examples(path), 1):
        yield Question.from_example(example, f"{path}, example {number}")


def _of_plain(path: Path, root: Path, box_space: Space, reading: DepthReading) -> Iterator[Question]:
    for number, (where, row) in enumerate(_rows(path), 1):
        yield _plain(row, where, str(number), root, box_space, reading)


def _holds_examples(path: Path) -> bool:
    """Whether the first row of a file is a training sample of ours: those alone hold messages."""
    return any(isinstance(row, dict) and "messages" in row for _, row in islice(_rows(path), 1))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every JSON line, or of every item of a JSON list."""
    if not _is_list(path):
        for number, row in read_jsonl(path):
            yield f"{path}:{number}", row
        return
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: begins as a JSON list, but is none: {error}", "not_json") from None
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
        raise RecordError(f"{where}: wanted a JSON object, got {shown(row)}", "not_an_object")
    try:
        check_keys(row, _KEYS, where)
    except ValueError as error:
        form = _other_form(row)
        if form:
            raise RecordError(
                f"{where}: looks like {form}; `sif eval` reads questions (image, question, answer, …) and datasets of "
                "ours. Build one from this file with `sif data build`",
                "unknown_key",
            ) from None
        end = "" if str(error).endswith("?") else "."
        raise RecordError(f"{error}{end} Other data goes under 'extra'", "unknown_key") from None
    missing = [name for name in ("image", "question") if row.get(name) is None]
    if missing:
        raise RecordError(f"{where}: lacks {', '.join(missing)}", "missing_key")
    if row.get("answer") is not None and row.get("answers") is not None:
        raise RecordError(f"{where}: has both answer and answers; wanted one of them", "bad_record")
    answers: Any = row.get("answers")
    if answers is None:
        answers = [] if row.get("answer") is None else [_single(row["answer"], where)]
    if not isinstance(answers, list):
        raise RecordError(f"{where}: answers is {shown(answers)}, wanted a list of right answers", "bad_record")
    if row.get("answers") == []:
        raise RecordError(f"{where}: answers is empty; where the right answer is not known, leave it out", "bad_record")
    if isinstance(row.get("choices"), str) and not row["choices"].lstrip().startswith("["):
        raise RecordError(f"{where}: choices is {shown(row['choices'])}, one text; wanted a list of texts", "bad_record")
    try:
        choices = read_choices(row.get("choices"))
    except ValueError as error:
        raise RecordError(f"{where}: {error}", "bad_record") from None
    groups: dict[str, Any] = {name: row.get(name) or "" for name in ("dataset", "split", "family")}
    for name in groups:
        if not isinstance(row.get(name), str | None):
            raise RecordError(f"{where}: {name} is {shown(row[name])}, wanted a text", "bad_record")
    tags = row.get("tags") or {}
    if not isinstance(tags, dict):
        raise RecordError(f"{where}: tags is {shown(tags)}, wanted an object of texts", "bad_record")
    image = _file(row["image"], "image", where, root)
    depth = None if row.get("depth") is None else _file(row["depth"], "depth", where, root)
    texts = tuple(as_text(answer, "answer", where) for answer in answers)
    if choices and texts and all(options_of(choices).index_of(read(text)) is None for text in texts):
        raise RecordError(
            f"{where}: the right answer {' / '.join(map(shown, texts))} is none of the choices {shown(list(choices))}; "
            "wanted one of them, or its letter",
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
            f"{where}: answer is {shown(answer)}; wanted one text. Several right answers go under 'answers'", "bad_record"
        )
    return answer


def _text(value: Any, name: str, where: str) -> str:
    return "" if value is None else as_text(value, name, where)


def _file(value: Any, name: str, where: str, root: Path) -> Path:
    if not isinstance(value, str) or is_blank(value):
        raise RecordError(f"{where}: {name} is {shown(value)}, wanted the path of a file", "bad_path")
    if is_base64_image(value):
        raise RecordError(f"{where}: {name} is base64; wanted the path of a file", "bad_path")
    try:
        return inside(root, value)
    except RecordError as error:
        hint = "; --images names the folder that paths are relative to" if error.code == "path_outside_root" else ""
        raise RecordError(f"{where}: {name}: {error}{hint}", error.code) from None


def _other_form(row: Mapping[str, Any]) -> str:
    """Whose published form a row has that is no question of ours; "" where none is known."""
    if "bboxs" in row or "conversations" in row:
        return "VisCoT"
    if "expression" in row or ("bbox" in row and "ref_id" in row):
        return "RefCOCO"
    return "COCO" if "annotations" in row and "categories" in row else ""


def _size(row: Mapping[str, Any], where: str, image: Path) -> tuple[int, int] | None:
    """The size that a question states for its image, which it must be where the image can be read."""
    size = row.get("size")
    if size is None:
        return None
    sides = [as_whole(side) or 0 for side in size] if isinstance(size, list) else []
    if len(sides) != 2 or not all(side > 0 for side in sides):
        raise RecordError(f"{where}: size is {shown(size)}, wanted [width, height] in pixels", "bad_record")
    stated = sides[0], sides[1]
    try:
        found = image_size(image)
    except ImageError:
        return stated
    if not same_shape(stated, found):
        raise RecordError(
            f"{where}: size is {stated[0]}×{stated[1]}, but {image.name} is {found[0]}×{found[1]}; is it the right image?",
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
            raise RecordError(f"{where}: {fault}; read as {space}; say what they are with {others}", "bad_box")
        inside_image = np.clip(unit, 0, 1)
        # A billionth is the noise of the division, not a box past the border.
        past = np.asarray((np.abs(unit - inside_image) > 1e-9).any(axis=1))
        if past.any():
            border = f"width {size[0]}, height {size[1]}" if size else "0 to 1"
            advice = f"where it is in another space, say which with {others}" if space == "unit" else "correct it"
            raise RecordError(
                f"{where}: box {array[int(np.argmax(past))].tolist()} is outside the image ({border}), read as {space}; "
                f"{advice}",
                "bad_box",
            )
        return as_unit_tuples(inside_image.tolist(), where)
    except ImageError:
        return ()  # `load` will say what is wrong with the image: the question cannot be asked, and needs no boxes
    except (BoxError, TypeError) as error:
        raise RecordError(f"{where}: boxes: {error}", "bad_box") from None


def identity_of(questions: Sequence[Question], root: Path) -> str:
    """SHA-256 of what makes these questions others, in their order; see `Question.identity`."""
    return sha256("\n".join(to_json(question.identity(root)) for question in questions).encode())
