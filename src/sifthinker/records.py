"""Records (the questions that come in) and Examples (the training samples that go out)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from sifthinker.boxes import TO_FRACTIONS, as_unit_boxes
from sifthinker.chain import TAG
from sifthinker.coordinates import Frame, frame_of
from sifthinker.errors import BoxError, RecordError
from sifthinker.files import inside, read_jsonl, to_json, unknown_key, with_advice
from sifthinker.literals import Coordinates

Box = tuple[float, float, float, float]

# Possessive quantifiers read a long run of digits only once.
_NUMBER = re.compile(r"\s*+[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?\s*+", re.ASCII)
_MOST_DIGITS = 300  # of a whole number written without an exponent
_WHOLE = re.compile(r"\s*+([-+]?\d{1,300}+)(?:\.0*+)?\s*+", re.ASCII)

# Candidates for a placeholder or control token: <|…|> with one bar or both (DeepSeek's are wide), <name>, <name 1>,
# [NAME] or [NAME_1].
_MARKUP = re.compile(
    r"<[|｜][^\s<>|｜]{1,64}[|｜]?>|<[^\s<>|｜]{1,64}[|｜]>"
    r"|</?(?P<name>[A-Za-z_][\w-]{0,63})(?: ?\d{1,3})? ?/?>"
    r"|\[/?(?P<bracketed>[A-Za-z][A-Za-z_]{1,31}\d{0,4})\]"
)
# The words of a <name>. <image_soft_token>, <IMG_CONTEXT>, <ImageHere> and <video1> each contain a word for a medium.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MEDIA = re.compile(r"image|img|video|audio|vision|media", re.IGNORECASE)
# Names in angle brackets: start, end and padding of sequences, turns, image patches, boxes and locations of Llama, Mistral,
# Gemma, PaliGemma, Florence, Kosmos, InternVL, Qwen, MiniCPM, Idefics, GLM and LLaVA.
_CONTROL = re.compile(
    r"s|bos|eos|pad|unk|mask|sep|cls|unused\d+|start_of_turn|end_of_turn|end_of_utterance|im_(?:start|end|patch|col|row)"
    r"|imgpad|imagepad|imageplaceholder|imagehere|ref|box|quad|slice(?:_(?:start|end))?|loc_?\d+|seg\d+|extra_id_\d+"
    r"|patch_index_\d+|row_\d+_col_\d+|grounding|sop|eop|eot|eoa|eoh|reserved_\d+|tool_call|tool_response",
    re.IGNORECASE,
)
# Names in square brackets: Mistral's tokens in capitals, GLM's, BERT's and InternVL's.
_BRACKETED = re.compile(
    r"IMG(?:_BREAK|_END)?|INST|(?:BEGIN_)?AUDIO|SYSTEM_PROMPT|TOOL_(?:CALLS|RESULTS|CONTENT)|AVAILABLE_TOOLS"
    r"|[gs]?MASK|CLS|PAD|UNK|(?:UNUSED_TOKEN_|unused)\d+"
)


def find_placeholder(text: str) -> str | None:
    """Return the first image placeholder or control token of vision-language models in a text, or None.

    Tokenizers, and trainers that find images in text (LLaMA-Factory, verl), read `<image>`, `<|image_pad|>`, `<|im_end|>`,
    `<IMG_CONTEXT>` or `[IMG]` anywhere in a text as an image or as the end of a turn. Ordinary angle brackets ("<3",
    "a < b > c", `<b>`, `<img src="a.png">`) are not placeholders.

    Args:
        text: any length; the time is linear in it.
    Returns:
        The token, without invisible characters.
    Example:
        >>> find_placeholder("![figure 3](<image>)")
        '<image>'
    Source: the added tokens of published tokenizers; LLaMA-Factory's `<image>`, `<video>` and `<audio>`.
    """
    # Readers do not see a zero-width space, and the normalisers of tokenizers drop it.
    visible = text if text.isascii() else "".join(c for c in text if unicodedata.category(c) != "Cf")
    for found in _MARKUP.finditer(visible):
        name, bracketed = found["name"], found["bracketed"]
        if bracketed:
            is_token = _BRACKETED.fullmatch(bracketed) is not None
        elif name:
            is_token = _CONTROL.fullmatch(name) is not None or any(map(_MEDIA.fullmatch, _WORD.findall(name)))
        else:
            is_token = True
        if is_token:
            return found[0]
    return None


# The first bytes of JPEG, PNG, GIF, WebP, TIFF and BMP in base64, long enough to rule out a path.
_BASE64_IMAGE = re.compile(
    r"\s*(?:data:|(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|Qk[0-9A-Za-z+/]{4}AAAA)[A-Za-z0-9+/\s]{40})", re.I
)


def is_base64_image(text: str) -> bool:
    """Whether a text that should be an image path is an image itself: a `data:` URL or base64."""
    return _BASE64_IMAGE.match(text) is not None


# Invisible characters that Unicode does not count as blank: fillers of Korean, Khmer and Braille, and variation selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or has only blanks, control characters and format characters.

    Example:
        >>> is_blank(" \\u200b"), is_blank("0")
        (True, False)
    Source: the Unicode categories Z, Cc and Cf.
    """
    return all(
        letter in _INVISIBLE or unicodedata.category(letter)[0] == "Z" or unicodedata.category(letter) in ("Cc", "Cf")
        for letter in text
    )


def refuse_half_pairs(text: str, where: str) -> None:
    """Check that a text can be written as UTF-8.

    Raises:
        RecordError: `bad_text`: the text contains a character that is not valid Unicode (half a surrogate pair).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(
            f"{where}: a text contains a character that is not valid Unicode (half a surrogate pair): {text[:200]!a}. "
            "Remove it",
            "bad_text",
        ) from None


def shown(value: Any) -> str:
    """Return the start of a value from data for a message, with its type if that is not obvious."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:79] + "…")
    if isinstance(value, Mapping):
        return f"an object with the keys {', '.join(map(str, list(value)[:6]))}"[:120] if value else "an empty object"
    if isinstance(value, list | tuple):
        return _BRIEF.repr(list(value[:7]))  # as the file wrote it
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, int) and abs(value) > 10**40:
        return "an integer of more than 40 digits"
    return f"{value}"[:80] if isinstance(value, int | float) else f"{value} ({type(value).__name__})"[:120]


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxtuple, _BRIEF.maxdict, _BRIEF.maxstring, _BRIEF.maxlong = 3, 6, 6, 3, 60, 40


def as_number(value: Any) -> float | None:
    """Return a finite number, or the text of one ("10", "-2.5", "1e3"), as a float; None for anything else or a boolean."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_whole(value: Any) -> int | None:
    """Return a whole number, however it is written (2, 2.0, "2", "2.0"); None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (digits := _WHOLE.fullmatch(value)):
        return int(digits[1])  # exact; a float has too few digits
    number = as_number(value)
    return int(number) if number is not None and number.is_integer() else None


def as_text(value: Any, name: str, where: str) -> str:
    """Return the value of a text field as text.

    Numbers become text. Whole floats lose their ".0", because tables turn 2 into 2.0 if a cell of the column is empty. A
    list of one item stands for that item.

    Args:
        value: the value in the file.
        name: field name, for messages.
        where: file and line, for messages.
    Raises:
        RecordError: `blank_…` for null, NaN and infinity; `bad_record` for a boolean, an object or a list of several items.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and len(value) == 1 and not isinstance(value[0], list | tuple):
        return as_text(value[0], name, where)
    if isinstance(value, list | tuple) and value:
        raise RecordError(
            f"{where}: {name} must be one text, got a list of {len(value)}: {_BRIEF.repr(value)}. Put the one to train on "
            f"into a separate field or column, and read that as {name}",
            "bad_record",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # Python refuses to write integers of several thousand digits
            raise RecordError(f"{where}: {name} must be text, got {shown(value)}", "bad_record") from None
    if isinstance(value, float | Decimal) and math.isfinite(value):
        if isinstance(value, Decimal) and value == value.to_integral_value() and value.adjusted() < _MOST_DIGITS:
            return str(int(value))
        # From 1e16 on, a float stands for many whole numbers. Its own notation shows that.
        return str(float(value) or 0.0).removesuffix(".0")
    if value is None or isinstance(value, float | Decimal):
        code = f"blank_{name}" if f"blank_{name}" in REJECTS else "blank_field"
        raise RecordError(f"{where}: {name} must be text or a number, got {shown(value)}", code)
    hint = ' such as "yes" or "no"' if isinstance(value, bool) and name == "answer" else ""
    raise RecordError(f"{where}: {name} must be one text{hint}, got {shown(value)}", "bad_record")


@dataclass(frozen=True, slots=True)
class Record:
    """A question about an image, with the regions that answer it.

    Args:
        id: unique in the dataset; part of the random seed of the focus path.
        image: path relative to the image root.
        question: the question.
        answer: the right answer.
        boxes: at least one, unit xyxy.
        dataset: name of the dataset it comes from.
        split: train, val or test.
        depth: depth file relative to the image root, or None.
        choices: the possible answers of a closed question.
        family: kind of question; "" if unknown.
        size: (width, height) in pixels as stated by the source, or None.
        extra: further data of the source, for its own teacher.
        notes: repairs made while reading, for example a clipped box.
        source: file and line.
    Raises:
        RecordError: a field is blank or a box is wrong. The code gives the reason.
    """

    id: str
    image: str
    question: str
    answer: str
    boxes: tuple[Box, ...]
    dataset: str = "custom"
    split: str = "train"
    depth: str | None = None
    choices: tuple[str, ...] = ()
    family: str = ""
    size: tuple[int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        where = self.source or f"record {str(self.id)[:100]!r}"
        for name in ("id", "image", "question", "answer", "dataset", "split"):
            value = getattr(self, name)
            if not isinstance(value, str) or is_blank(value):
                raise RecordError(f"{where}: {name} must be text that is not blank, got {shown(value)}", f"blank_{name}")
        for name, value in (("family", self.family), ("depth", self.depth)):
            if not isinstance(value, str) and not (name == "depth" and value is None):
                raise RecordError(f"{where}: {name} must be text, got {shown(value)}", "bad_record")
        choices: Any = self.choices
        if isinstance(choices, str) or not all(isinstance(choice, str) and not is_blank(choice) for choice in choices):
            raise RecordError(
                f"{where}: choices must be a list of texts that are not blank, got {shown(choices)}", "bad_record"
            )
        if is_base64_image(self.image):
            raise RecordError(
                f"{where}: image must be the path of a file, got {len(self.image):,} characters of base64: "
                f"{shown(self.image[:40])}. Only tables (CSV, Parquet) can contain images",
                "bad_path",
            )
        if not isinstance(self.extra, Mapping):
            raise RecordError(f"{where}: extra must be an object, got {shown(self.extra)}", "bad_record")
        if self.size is not None and not (
            len(self.size) == 2 and all(type(side) is int and 0 < side <= LONGEST_SIDE for side in self.size)
        ):
            raise RecordError(f"{where}: size must be [width, height] in pixels, got {shown(self.size)}", "bad_record")
        for text in (self.id, self.image, self.question, self.answer, self.dataset, self.split, self.family, *self.choices):
            refuse_half_pairs(text, where)
        for name, text in (("question", self.question), ("answer", self.answer), *(("choices", c) for c in self.choices)):
            placeholder = find_placeholder(text)
            if placeholder:
                raise RecordError(
                    f"{where}: {name} contains {placeholder}, which trainers and tokenizers read as an image or a control "
                    "token. Reword it",
                    "bad_text",
                )
        if TAG.search(self.answer):
            raise RecordError(
                f"{where}: the answer contains a tag of the chain format: {shown(self.answer)}. Reword it", "tag_in_answer"
            )
        object.__setattr__(self, "boxes", _as_tuples(self.boxes, where))
        object.__setattr__(self, "choices", tuple(self.choices))

    @classmethod
    def from_json(cls, row: Any, source: str = "") -> Record:
        """Return a record from the JSON object of a plain JSONL line.

        Raises:
            RecordError: not an object, an unknown key, a missing key or a wrong value.
        """
        if not isinstance(row, dict):
            raise RecordError(f"{source}: expected a JSON object, got {shown(row)}", "not_an_object")
        known = {item.name for item in fields(cls)}
        unknown = sorted(map(str, row.keys() - known))
        if unknown:
            words = "; ".join(unknown_key(key[:100], sorted(known)) for key in unknown[:5])
            raise RecordError(
                with_advice(f"{source}: {words.replace('?;', '?')}", "Put other data under 'extra'"),
                "unknown_key",
            )
        missing = [name for name in ("id", "image", "question", "answer", "boxes") if name not in row]
        if missing:
            raise RecordError(f"{source}: lacks {', '.join(missing)}", "missing_key")
        values: dict[str, Any] = {**row, "source": source if row.get("source") is None else row["source"]}
        if not isinstance(values["source"], str):
            raise RecordError(f"{source}: source must be text, got {shown(values['source'])}", "bad_record")
        for name in ("id", "question", "answer"):
            values[name] = as_text(values[name], name, source)
        for name in _TUPLES:
            value = values.get(name)
            if value is not None and not isinstance(value, list | tuple):
                raise RecordError(f"{source}: {name} must be a list, got {shown(value)}", "bad_record")
            values[name] = tuple(value) if value else None if name == "size" else ()
        values["choices"] = tuple(as_text(choice, "choices", source) for choice in values["choices"])
        if values["size"] is not None:  # tables can turn 640 into 640.0
            values["size"] = tuple(side if as_whole(side) is None else as_whole(side) for side in values["size"])
        if not all(isinstance(note, str) for note in values["notes"]):
            raise RecordError(f"{source}: notes must be a list of texts, got {shown(values['notes'])}", "bad_record")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a plain JSONL line, without empty fields."""
        row = asdict(self)
        row["boxes"] = [list(box) for box in self.boxes]
        row["extra"] = dict(self.extra)
        return {key: value for key, value in row.items() if value not in (None, "", (), {})}


_TUPLES = ("choices", "notes", "size")
LONGEST_SIDE = 10**9  # of an image, in pixels; no image file is larger


# Reasons for leaving out a record. A refused teacher reply has the code `teacher_` plus a code of `engine.teachers.CHECKS`.
REJECTS: dict[str, str] = {
    "not_json": "the line is not JSON",
    "not_an_object": "the line is JSON, but not a JSON object",
    "missing_key": "a required field is missing",
    "unknown_key": "the record has an unknown field",
    "bad_record": "a field has a value of the wrong type",
    "bad_text": "a text contains a character that is not valid Unicode, an image placeholder, or a control token",
    "tag_in_answer": "the answer contains a tag of the chain format",
    **{f"blank_{name}": f"the {name} is blank" for name in ("id", "image", "question", "answer", "dataset", "split")},
    "blank_field": "a text field of the source is empty",
    "no_box": "the record has no box",
    "bad_box": "a box is not four finite numbers, or its numbers look like another box space",
    "degenerate_box": "a box has no area",
    "box_outside": "a box lies outside the image, or extends past its border and the setting `boxes` is `strict`",
    "boxes_disagree": "the source states a box twice, and the two differ",
    "too_many_boxes": "the image has too many objects of the category for a counting question",
    "crowd": "the source marks a crowd as one region, or has boxes for only some of the objects",
    "bad_annotation": "an annotation refers to an unknown image or category, or makes the count of its category unreliable",
    "ambiguous_image": "several images share a file name or an id, so the boxes cannot be matched to one image",
    "count_mismatch": "the answer differs from the number of boxes in the source",
    "no_category": "the question names no category of the COCO instances file",
    "ambiguous_question": "the question names a category, but does not clearly ask for its number of objects",
    "no_instances": "the COCO instances file does not contain the image",
    "duplicate_id": "an earlier record has the same id",
    "duplicate": "an earlier record has the same image content, question and boxes",
    "excluded": "the image is excluded by the setting `exclude`",
    "bad_path": "the path cannot be used as a file path",
    "path_outside_root": "the path leads outside the image folder",
    "too_narrow": "one side of the image is more than 200 times the other; Qwen-VL processors cannot resize it",
    "missing_image_root": "the source needs an image folder, and none is set",
    "missing_image": "the image is missing",
    "broken_image": "the image cannot be read",
    "size_mismatch": "the shape of the image differs from the size in the source",
    "bad_depth": "the depth is missing, cannot be read, or differs in size from the image",
    "depth_hole": "a region has no depth reading",
    "depth_too_near": "a region is so near that no depth with 3 decimals is within a tenth of the true mean",
    "bad_chain": "no valid chain can be built from the record",
}


def without_place(message: str, place: str) -> str:
    """Return a message without the place at its start, to store or print the two separately."""
    return message.removeprefix(f"{place}: ")


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was left out: its place, its id ("" if it has none), reason code, message and teacher attempts.

    A place at the start of the message is removed, because `source` already contains it.

    Raises:
        KeyError: the code is neither in `REJECTS` nor a teacher code.
    """

    source: str
    id: str
    code: str
    reason: str
    attempts: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.code.startswith("teacher_") and self.code not in REJECTS:
            raise KeyError(f"{self.code!r} is not a reason code. This is a bug in sifthinker")
        object.__setattr__(self, "reason", without_place(self.reason, self.source))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "attempts": [dict(attempt) for attempt in self.attempts]}


@dataclass(frozen=True, slots=True)
class Example:
    """One training example, one JSON line of a dataset.

    Image and depth paths are relative to the folder of the file. `read_examples` makes them absolute.

    Args:
        id: the record's id.
        dataset: the record's dataset.
        split: train, val or test.
        problem: the question.
        answer: the right answer.
        boxes: target boxes, unit xyxy, at the chain's decimals.
        images: [RGB image, depth image], or [RGB image] in RGB-only data. Both are ordinary 8-bit images.
        messages: one user turn and one assistant turn; the chain is the content of the assistant turn.
        depth: exact depth map for rewards, in sifthinker's own format; None in RGB-only data.
        choices: the possible answers of a closed question. `write_choices` writes them to a JSON line or table column.
        family: kind of question; "" if unknown.
        provenance: source, image hash, depth source, seed, teacher, prompt version, attempts.
        coordinates: coordinates of the boxes in the messages, see `coordinates.Frame`. `boxes` are always unit.
        resized: for `resized`, (width, height) of the RGB image after the model's processor has resized it.
    """

    id: str
    dataset: str
    split: str
    problem: str
    answer: str
    boxes: tuple[Box, ...]
    images: tuple[str, ...]
    messages: tuple[Mapping[str, str], ...]
    depth: str | None = None
    choices: tuple[str, ...] = ()
    family: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    coordinates: Coordinates = "unit"
    resized: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, row: Any, source: str = "") -> Example:
        """Return an example from its JSON object.

        Raises:
            RecordError: not an object, missing or unknown keys, or a value of the wrong type or shape.
        """
        known = {item.name for item in fields(cls)}
        if not isinstance(row, dict) or row.keys() - known or not row.keys() >= _REQUIRED_EXAMPLE:
            got = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
            raise RecordError(
                f"{source}: not an example: expected the keys {', '.join(sorted(_REQUIRED_EXAMPLE))}, got {got}. "
                "Build examples from records with `sif data build`",
                "not_an_example",
            )
        for name, value in row.items():
            if name not in _NOT_TEXT and not isinstance(value, str):
                raise RecordError(f"{source}: {name} must be text, got {type(value).__name__}", "not_an_example")
        if not isinstance(row.get("depth"), str | None) or not isinstance(row.get("provenance", {}), dict):
            raise RecordError(
                f"{source}: depth must be a path or null, and provenance an object, got {shown(row.get('depth'))} and "
                f"{shown(row.get('provenance'))}",
                "not_an_example",
            )
        try:
            choices = read_choices(row.get("choices"))
        except ValueError as error:
            raise RecordError(f"{source}: {error}", "not_an_example") from None
        try:
            frame = frame_of(row.get("coordinates"), row.get("resized"))
        except BoxError as error:
            raise RecordError(f"{source}: {error}", "not_an_example") from None
        messages = row["messages"]
        if (
            not isinstance(messages, list)
            or not all(isinstance(message, dict) for message in messages)
            or [message.get("role") for message in messages] != ["user", "assistant"]
            or not all(isinstance(message.get("content"), str) for message in messages)
        ):
            raise RecordError(
                f"{source}: messages must be one user turn and one assistant turn of text, got {shown(messages)}",
                "bad_messages",
            )
        images = row["images"]
        if not isinstance(images, list) or not 1 <= len(images) <= 2 or not all(isinstance(i, str) for i in images):
            raise RecordError(f"{source}: images must be [rgb] or [rgb, depth] paths, got {images!r}", "bad_images")
        return cls(
            **{
                **row,
                "boxes": _as_tuples(row["boxes"], source),
                "images": tuple(images),
                "messages": tuple(messages),
                "choices": choices,
                "coordinates": frame.space,
                "resized": frame.size,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of one line.

        Every line of a dataset has the same keys, and no list is empty, because table readers infer a column's type from the
        first megabytes of a file. Only datasets whose chains do not use fractions have `coordinates` and `resized`.
        """
        row = asdict(self)
        row["boxes"] = [list(box) for box in self.boxes]
        row["choices"] = write_choices(self.choices)
        del row["coordinates"], row["resized"]
        return {**row, **self.frame.columns()}

    @property
    def frame(self) -> Frame:
        """Coordinates of the boxes in the chain."""
        return frame_of(self.coordinates, self.resized)

    @property
    def prompt(self) -> str:
        """Text of the user turn."""
        return self.messages[0]["content"]

    @property
    def chain(self) -> str:
        """Text of the assistant turn."""
        return self.messages[1]["content"]


def write_choices(choices: Sequence[str]) -> str:
    """Return the choices of a question as text for a table column: a JSON list, or "" for an open question.

    Every example has the same text column, with or without choices. A choice can contain a line break.

    Example:
        >>> write_choices(["red", "blue"])
        '["red","blue"]'
    """
    return to_json(list(choices)) if choices else ""


def read_choices(value: Any) -> tuple[str, ...]:
    """Read choices written by `write_choices`.

    Also accepts a list or array of texts or numbers, None, and the format of earlier versions: one choice per line of text.

    Raises:
        ValueError: the value is anything else.
    """
    if value is None:
        return ()
    found = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(found, str):
        listed: Any = None
        if found.startswith("["):
            with contextlib.suppress(ValueError, RecursionError):
                listed = json.loads(found)
        found = listed if isinstance(listed, list) else found.split("\n") if found else []
    if not isinstance(found, list | tuple) or not all(
        isinstance(choice, str | int | float) and not isinstance(choice, bool) for choice in found
    ):
        raise ValueError(f"choices must be a list of texts, or such a list as JSON text, got {str(value)[:100]!r}")
    return tuple(map(str, found))


_NOT_TEXT = ("boxes", "images", "messages", "provenance", "depth", "choices", "coordinates", "resized")
_REQUIRED_EXAMPLE = {"id", "dataset", "split", "problem", "answer", "boxes", "images", "messages"}


EXAMPLES = "examples.jsonl"  # of a dataset folder


def examples_file(path: str | os.PathLike[str]) -> Path:
    """Return the examples file for a path: the path itself, or `examples.jsonl` in a dataset folder.

    Raises:
        RecordError: the file does not exist.
    """
    where = Path(path)
    if where.is_dir():
        where = where / EXAMPLES
    if not where.is_file():
        raise RecordError(f"{where}: no such examples file. Write one with `sif data build`", "missing_file")
    return where


def no_example(path: str | os.PathLike[str]) -> RecordError:
    """Return the error for a dataset without examples."""
    return RecordError(f"{path}: contains no example{where_reasons_are(examples_file(path))}", "no_example")


def where_reasons_are(examples: Path) -> str:
    """Return the sentence about the rejects beside an examples file without examples, "" if there are none."""
    rejects = examples.with_name("rejects.jsonl")
    return f". The reasons are in {rejects}" if rejects.is_file() and rejects.stat().st_size else ""


def read_examples(path: str | os.PathLike[str]) -> Iterator[Example]:
    """Read examples and make their image and depth paths absolute.

    Args:
        path: a dataset folder or its JSONL file.
    Raises:
        RecordError: a line is malformed, or a path leads outside the folder.
    """
    where = examples_file(path)
    for number, row in read_jsonl(where):
        source = f"{where}:{number}"
        example = Example.from_json(row, source)
        try:
            images = tuple(str(inside(where.parent, image)) for image in example.images)
            depth = None if example.depth is None else str(inside(where.parent, example.depth))
        except RecordError as error:
            raise RecordError(f"{source}: {error}", error.code) from None
        yield replace(example, images=images, depth=depth)


def as_unit_tuples(boxes: Sequence[Sequence[float]], where: str) -> tuple[Box, ...]:
    """Return the unit boxes of a file as tuples. The list may be empty.

    Args:
        boxes: (N, 4) unit xyxy.
        where: file and line, for messages.
    Raises:
        RecordError: the boxes are malformed or not fractions of the image.
    """
    try:
        array = as_unit_boxes(boxes, advice=f"boxes are always fractions, whatever a chain uses: {TO_FRACTIONS}")
    except BoxError as error:
        raise RecordError(f"{where}: {error}", "bad_box") from None
    return tuple(tuple(row) for row in array.tolist())


def _as_tuples(boxes: Sequence[Sequence[float]], where: str) -> tuple[Box, ...]:
    found = as_unit_tuples(boxes, where)
    if not found:
        raise RecordError(f"{where}: boxes is empty, expected at least one box", "no_box")
    return found
