"""Sources: anyone's questions with boxes become Records, and what cannot be read becomes a Reject with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from sifthinker.boxes import other_names
from sifthinker.coordinates import Resizer
from sifthinker.engine.sources import published
from sifthinker.engine.sources.instances import coco, coco_relative
from sifthinker.engine.sources.rows import path_of, read_json, records, rows, to_unit
from sifthinker.engine.sources.tables import COLUMNS, HUB, Line, is_table, table
from sifthinker.engine.sources.tallyqa import tallyqa
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import inside
from sifthinker.images import image_size
from sifthinker.literals import BoxForm, OutsideBoxes, SourceFormat, Space
from sifthinker.records import LONGEST_SIDE, Record, Reject, as_whole, shown

__all__ = ["COLUMNS", "HUB", "read_rows", "read_source"]


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
) -> Iterator[Record | Reject]:
    """Read records in file order.

    Formats: `jsonl`, plain records (see `Record`), one on a line or in a JSON list; `table`, a CSV, TSV or Parquet file, a
    folder that `datasets` saved, or `hf://owner/name:split`; `viscot`, VisCoT's metadata JSONL (`bboxs` in pixels, `width`,
    `height`); `viscot-conversation`, VisCoT's conversations, whose answers hold boxes as fractions of the padded square:
    they state no image size, so they need the images; `refcoco`, JSON lines of expressions; `coco`, COCO and LVIS instances
    as counting questions; `tallyqa`, counting questions whose boxes come from COCO instances.

    Args:
        path: the file, folder or name.
        images: image root; plain records and tables default to the file's folder. A table that holds its images itself has
            them written there, named by content.
        format: `auto` goes by the file's ending and first record.
        outside: `clip` boxes that leave the image, noting it, or reject the record (`strict`).
        box_space: space of the boxes in plain records and tables.
        box_form: of a table's boxes: two corners, or corner and size.
        columns: of a table: our name (one of `COLUMNS`) → the table's. Names that are not given are the table's own.
        instances: COCO instances, for `tallyqa`.
        resizer: for box space `resized`, how large the images were made; as Qwen2.5-VL's published bounds make them by
            default, see `Resizer`.
    Yields:
        A record, or a reject that says where and why. An id seen before is a reject too.
    Raises:
        RecordError: the file is missing or its beginning is of no known format.
        ConfigError: an unknown format, or columns that the table lacks.
    """
    if format not in get_args(SourceFormat):
        raise ConfigError(f"unknown source format {format!r}; wanted one of {', '.join(get_args(SourceFormat))}")
    where = Path(path)
    if format == "auto":
        format = "table" if is_table(os.fspath(path)) else _guess(where)
    if format != "table" and (columns or box_form != "xyxy"):
        raise ConfigError(
            f"{path} is read as {format}; columns and a box form are for tables (.csv, .tsv, .parquet, datasets)"
        )
    if resizer is not None and box_space != "resized":
        raise ConfigError(f"a resizer is for box space resized, got {box_space}; leave it out")
    if format not in ("table", "jsonl") and box_space != "unit":
        raise ConfigError(f"{path} is read as {format}, which has a box space of its own; leave it out")
    root = Path(images) if images is not None else None
    if root is not None and not root.is_dir() and format != "table":
        raise RecordError(f"{root}: no such image folder", "missing_file")
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
        advice = f"read as {box_space}; say what they are with --box-space {other_names(box_space)} (in a recipe: box_space)"
        found = _plain(lines, base, outside, box_space, advice, resizer)
    seen: dict[str, str] = {}
    for item in found:
        if isinstance(item, Record):
            if item.id in seen:
                reason = f"{item.source}: id {shown(item.id)} stands at {seen[item.id]} already"
                yield Reject(item.source, item.id, "duplicate_id", reason)
                continue
            seen[item.id] = item.source
        yield item


def read_rows(
    rows: Iterable[Record | Mapping[str, Any]], images: str | os.PathLike[str], name: str = "records"
) -> Iterator[Record | Reject]:
    """Read records that are in memory, in their order.

    Args:
        rows: records, or plain ones as a line of JSON holds them, boxes unit xyxy: see `Record`.
        images: image root.
        name: what to call the place of a row, which has a number from 1 beside it.
    Yields:
        A record, or a reject that says where and why. Records are passed on as they are.
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


def _guess(path: Path) -> SourceFormat:
    """By the keys of the first items that are JSON objects."""
    if path.is_dir():
        raise RecordError(
            f"{path}: is a folder; wanted a file, or a folder that `Dataset.save_to_disk` wrote (with a state.json)",
            "missing_file",
        )
    first = None
    for item in islice(rows(path), _LOOKED_AT):
        row = None if isinstance(item, Reject) else item[1]
        first = item if first is None else first
        if not isinstance(row, dict):
            continue
        if relative := coco_relative(row):
            raise RecordError(f"{path}: this is {relative}", "not_coco")
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
    if isinstance(first, Reject):
        wanted = (
            "wanted JSON lines, a JSON list, a table (.csv, .tsv, .parquet; others with --format table) or another --format"
        )
        try:
            read_json(path)
        except RecordError as error:
            raise RecordError(f"{error}; {wanted}", error.code) from None
    return "jsonl"


_LOOKED_AT = 1000  # lines that are no records may stand before the first that is


def _plain(
    lines: Iterator[Line],
    base: Path,
    outside: OutsideBoxes,
    space: Space,
    advice: str = "",
    resizer: Resizer | None = None,
) -> Iterator[Record | Reject]:
    """Records of plain rows; see `rows.to_unit` for `advice` and `resizer`."""

    def record(index: int, place: str, row: Any) -> Record:
        if isinstance(row, dict) and "boxes" in row:
            stated = row.get("size")
            sides = [as_whole(side) or 0 for side in stated] if isinstance(stated, list) else []
            # The record itself rejects an impossible size.
            size = (sides[0], sides[1]) if len(sides) == 2 and all(0 < side <= LONGEST_SIDE for side in sides) else None
            if size is None and space not in ("unit", "per_mille"):
                size = image_size(inside(base, path_of(row, "image", place)))
            boxes, notes = to_unit(row["boxes"], space, size, outside, place, advice, resizer)
            if notes and isinstance(row.get("notes"), list | None):
                row = {**row, "notes": [*(row.get("notes") or ()), *notes]}
            row = {**row, "boxes": boxes.tolist()}
        return Record.from_json(row, place)

    return records(lines, record)
