"""Sources: read questions with boxes from many formats as Records. Unreadable rows become Rejects with a reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from sifthinker.boxes import other_names
from sifthinker.coordinates import Resizer
from sifthinker.engine.sources import published
from sifthinker.engine.sources.instances import coco, coco_relative
from sifthinker.engine.sources.rows import image_below, path_of, read_json, records, rows, to_unit
from sifthinker.engine.sources.tables import COLUMNS, HUB, Line, is_table, table
from sifthinker.engine.sources.tallyqa import tallyqa
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import check_images
from sifthinker.images import image_size
from sifthinker.literals import BoxForm, OutsideBoxes, SourceFormat, Space
from sifthinker.records import LONGEST_SIDE, Record, Reject, as_whole, shown, without_place

__all__ = ["COLUMNS", "HUB", "LOOKED_AT", "format_of", "read_rows", "read_source"]


def read_source(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    format: SourceFormat = "auto",
    outside: OutsideBoxes = "clip",
    box_space: Space = "unit",
    box_form: BoxForm = "xyxy",
    columns: Mapping[str, str] | None = None,
    instances: str | os.PathLike[str] | None = None,
    resizer: Resizer | None = None,
    called: str | None = None,
) -> Iterator[Record | Reject]:
    """Read records in file order.

    Formats:

    - `jsonl`: plain records (see `Record`), one per line or in a JSON list.
    - `table`: a CSV, TSV or Parquet file, a folder saved by `datasets`, or `hf://owner/name:split`.
    - `viscot`: VisCoT's metadata JSONL (`bboxs` in pixels, `width`, `height`).
    - `viscot-conversation`: VisCoT's conversations. Their boxes are fractions of the padded square. They state no image
      size, so reading them needs the images.
    - `refcoco`: JSON lines of expressions.
    - `coco`: COCO and LVIS instances as counting questions.
    - `tallyqa`: counting questions with boxes from a COCO instances file.

    Args:
        path: the file, folder or name.
        images: image root. The default for plain records and tables is the file's folder. Images stored inside a table are
            written there, named by content.
        format: `auto` uses the file extension and the first record.
        outside: `clip` boxes that extend past the image and add a note, or reject the record (`strict`).
        box_space: space of the boxes in plain records and tables.
        box_form: box format in a table: two corners, or corner and size.
        columns: record field (one of `COLUMNS`) → column of the table. Other fields use columns of the same name.
        instances: COCO instances file, for `tallyqa`.
        resizer: for box space `resized`, the resizer of the images; by default Qwen2.5-VL's with its published bounds.
        called: what the places of records call the file; by default its name.
    Yields:
        A record, or a reject with place and reason. A repeated id is a reject too.
    Raises:
        RecordError: the file is missing, or its start has no known format.
        ConfigError: an unknown format, or a column that the table does not have.
    """
    if format not in get_args(SourceFormat):
        raise ConfigError(f"unknown source format {format!r}, expected one of {', '.join(get_args(SourceFormat))}")
    where = Path(path)
    if format == "auto":
        format = "table" if is_table(os.fspath(path)) else _guess(where)
    if format != "table" and (columns or box_form != "xyxy"):
        raise ConfigError(
            f"{path} is read as {format}, but columns and box_form apply only to tables (.csv, .tsv, .parquet, datasets)"
        )
    if resizer is not None and box_space != "resized":
        raise ConfigError(f"resizer needs box_space resized, got {box_space}. Remove resizer")
    if format not in ("table", "jsonl") and box_space != "unit":
        raise ConfigError(f"{path} is read as {format}, which has its own box space. Remove box_space {box_space}")
    root = Path(images) if images is not None else None
    if root is not None and format != "table":
        check_images(root)
    found: Iterator[Record | Reject]
    if format == "viscot":
        found = published.viscot(where, root, outside)
    elif format == "viscot-conversation":
        found = published.viscot_conversations(where, root, outside)
    elif format == "refcoco":
        found = published.refcoco(where, root, outside)
    elif format == "coco":
        found = coco(where, root, outside)
    elif format == "tallyqa":
        found = tallyqa(where, None if instances is None else Path(instances), root, outside)
    else:
        base = root or where.parent
        if format == "jsonl":
            lines: Iterator[Line] = rows(where)
        else:
            lines = table(os.fspath(path), columns or {}, box_form, root)
        advice = f"read as {box_space}. Set --box-space {other_names(box_space)} (in a recipe: box_space)"
        found = _plain(lines, base, outside, box_space, advice, resizer)
    seen: dict[str, str] = {}
    if called not in (None, where.name):
        found = map(partial(_at, name=where.name, called=str(called)), found)
    for item in found:
        if isinstance(item, Record):
            if item.id in seen:
                reason = f"the id {shown(item.id)} is already used at {seen[item.id]}"
                yield Reject(item.source, item.id, "duplicate_id", reason)
                continue
            seen[item.id] = item.source
        yield item


def _at(item: Record | Reject, name: str, called: str) -> Record | Reject:
    """Return an item whose place, such as `records.jsonl:2`, calls its file otherwise. A row may state another place."""
    if not item.source.startswith((f"{name}:", f"{name}[")):
        return item
    place = called + item.source.removeprefix(name)
    if isinstance(item, Reject):
        return replace(item, source=place)
    notes = (f"{place}: {without_place(note, item.source)}" if note.startswith(item.source) else note for note in item.notes)
    return replace(item, source=place, notes=tuple(notes))


def read_rows(
    rows: Iterable[Record | Mapping[str, Any]], images: str | os.PathLike[str], name: str = "records"
) -> Iterator[Record | Reject]:
    """Read records from memory, in order.

    Args:
        rows: records, or plain records as in JSON lines, boxes unit xyxy; see `Record`.
        images: image root.
        name: name for the place of a row, followed by its number from 1.
    Yields:
        A record, or a reject with place and reason. `Record` objects are passed on unchanged.
    Example:
        >>> row = {"id": "1", "image": "cat.png", "question": "What?", "answer": "cat", "boxes": [[0, 0, 1, 1]]}
        >>> next(read_rows([row], "photos")).answer
        'cat'
    """
    for number, row in enumerate(rows, 1):
        place = f"{name}:{number}"
        if isinstance(row, Record):
            yield row if row.source else replace(row, source=place)
        else:
            line = (place, dict(row) if isinstance(row, Mapping) else row)
            yield from _plain(iter([line]), Path(images), "clip", "unit")


LOOKED_AT = 1000  # lines searched for the first JSON object


def format_of(row: Mapping[str, Any]) -> SourceFormat:
    """Return the format of a JSON file by the keys of its first JSON object; `jsonl` if no other format has them."""
    if "bboxs" in row:
        return "viscot"
    if "annotations" in row and "categories" in row:
        return "coco"
    if "conversations" in row:
        return "viscot-conversation"
    if "expression" in row and "bbox" in row:
        return "refcoco"
    if "issimple" in row or ("data_source" in row and "boxes" not in row):
        return "tallyqa"
    return "jsonl"


def _guess(path: Path) -> SourceFormat:
    """Guess the format from the keys of the first JSON object."""
    if path.is_dir():
        raise RecordError(
            f"{path}: expected a file or a folder written by `Dataset.save_to_disk` (with a state.json), got another folder",
            "missing_file",
        )
    first = None
    for item in islice(rows(path), LOOKED_AT):
        row = None if isinstance(item, Reject) else item[1]
        first = item if first is None else first
        if not isinstance(row, dict):
            continue
        if relative := coco_relative(row):
            raise RecordError(f"{path}: expected records, got {relative}", "not_coco")
        return format_of(row)
    if isinstance(first, Reject):
        expected = "Expected JSON lines, a JSON list or a table (.csv, .tsv, .parquet). For other files, set --format"
        try:
            read_json(path)
        except RecordError as error:
            raise RecordError(f"{error}. {expected}", error.code) from None
    return "jsonl"


def _plain(
    lines: Iterator[Line],
    base: Path,
    outside: OutsideBoxes,
    space: Space,
    advice: str = "",
    resizer: Resizer | None = None,
) -> Iterator[Record | Reject]:
    """Yield records of plain rows; see `rows.to_unit` for `advice` and `resizer`."""

    def record(index: int, place: str, row: Any) -> Record:
        if isinstance(row, dict) and "boxes" in row:
            stated = row.get("size")
            sides = [as_whole(side) or 0 for side in stated] if isinstance(stated, list) else []
            # `Record` itself rejects an impossible size.
            size = (sides[0], sides[1]) if len(sides) == 2 and all(0 < side <= LONGEST_SIDE for side in sides) else None
            if size is None and space not in ("unit", "per_mille"):
                size = image_size(image_below(base, path_of(row, "image", place), exists=True))
            boxes, notes = to_unit(row["boxes"], space, size, outside, place, advice, resizer)
            if notes and isinstance(row.get("notes"), list | None):
                row = {**row, "notes": [*(row.get("notes") or ()), *notes]}
            row = {**row, "boxes": boxes.tolist()}
        return Record.from_json(row, place)

    return records(lines, record)
