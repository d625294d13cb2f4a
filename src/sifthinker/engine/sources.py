"""Sources: anyone's questions with boxes become Records, and what cannot be read becomes a Reject with its reason."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from sifthinker.boxes import Space
from sifthinker.engine import published
from sifthinker.engine.rows import FAULTS, OutsideBoxes, records, reject, rows, to_unit
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import atomic_write, inside, sha256
from sifthinker.images import BROKEN_IMAGE, image_size, what_is_wrong
from sifthinker.records import Record, Reject

SourceFormat = Literal["auto", "jsonl", "table", "viscot", "viscot-conversation", "refcoco", "coco", "tallyqa"]
BoxForm = Literal["xyxy", "xywh"]

HUB = "hf://"  # before the name of a Hugging Face dataset, with its split after a colon

# What a table's columns may be mapped to: the fields of a record that a table can hold, and the image's two sides.
COLUMNS = ("id", "image", "question", "answer", "boxes", "dataset", "split", "depth", "choices", "family", "width", "height")


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
) -> Iterator[Record | Reject]:
    """Read records in file order.

    Formats: `jsonl`, plain records (see `Record`); `table`, a CSV or Parquet file, a folder that `datasets` saved, or
    `hf://owner/name:split`; `viscot`, VisCoT's metadata JSONL (`bboxs` in pixels, `width`, `height`); `viscot-conversation`,
    VisCoT's conversation JSON, whose answers hold boxes as fractions of the padded square: it states no image size, so it
    needs the images; `refcoco`, JSON lines of expressions; `coco`, instances as counting questions; `tallyqa`, counting
    questions whose boxes come from COCO instances.

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
        format = "table" if _is_table(os.fspath(path)) else _guess(where)
    if format != "table" and (columns or box_form != "xyxy"):
        raise ConfigError(f"{path} is read as {format}; columns and a box form are for tables (.csv, .parquet, datasets)")
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
        found = published.coco(where, root, outside)
    elif format == "tallyqa":
        found = published.tallyqa(where, None if instances is None else Path(instances), root, outside)
    else:
        base = root or where.parent
        if format == "jsonl":
            lines: Iterator[Line] = rows(where)
        else:
            lines = _table(os.fspath(path), columns or {}, box_form, root)
        found = _plain(lines, base, outside, box_space)
    seen: dict[str, str] = {}
    for item in found:
        if isinstance(item, Record):
            if item.id in seen:
                reason = f"{item.source}: id {item.id!r} stands at {seen[item.id]} already"
                yield Reject(item.source, item.id, "duplicate_id", reason)
                continue
            seen[item.id] = item.source
        yield item


def _is_table(name: str) -> bool:
    return name.startswith(HUB) or name.lower().endswith((".csv", ".parquet")) or (Path(name) / "state.json").is_file()


def _guess(path: Path) -> SourceFormat:
    """By the first line that is not blank, however long it is."""
    try:
        with open(path, "rb") as stream:
            start = next((line for line in stream if line.strip()), b"").removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    if start.startswith(b"["):
        return _guess_list(path)
    try:
        row = json.loads(start)
    except (ValueError, RecursionError):
        raise RecordError(
            f"{path}: the first line is not JSON; wanted JSON lines, a JSON list of conversations, a table (.csv, .parquet) "
            "or another --format",
            "not_json",
        ) from None
    if not isinstance(row, dict):
        return "jsonl"
    if "bboxs" in row:
        return "viscot"
    if "annotations" in row and "categories" in row:
        return "coco"
    return "refcoco" if "expression" in row and "bbox" in row else "jsonl"


def _guess_list(path: Path) -> SourceFormat:
    """Of a JSON list, by the keys that stand near its beginning."""
    with open(path, "rb") as stream:
        start = stream.read(1 << 16)
    if b'"conversations"' in start:
        return "viscot-conversation"
    if b'"issimple"' in start:
        return "tallyqa"
    raise RecordError(
        f"{path}: a JSON list, but neither of VisCoT's conversations nor of TallyQA; plain records stand one on a line",
        "not_json",
    )


Line = tuple[str, Any] | Reject  # where a row stands, and the row


def _plain(lines: Iterator[Line], base: Path, outside: OutsideBoxes, space: Space) -> Iterator[Record | Reject]:
    def record(index: int, place: str, row: Any) -> Record:
        if isinstance(row, dict) and "boxes" in row:
            stated = row.get("size")
            size = (stated[0], stated[1]) if isinstance(stated, list) and len(stated) == 2 else None
            if size is None and space not in ("unit", "per_mille"):
                size = image_size(inside(base, str(row.get("image", ""))))
            boxes, notes = to_unit(row["boxes"], space, size, outside, place)
            row = {**row, "boxes": boxes.tolist(), "notes": [*row.get("notes", ()), *notes]}
        return Record.from_json(row, place)

    return records(lines, record)


def _table(name: str, columns: Mapping[str, str], form: BoxForm, images: Path | None) -> Iterator[Line]:
    """The rows of a table as plain records."""
    unknown = sorted(columns.keys() - set(COLUMNS))
    if unknown:
        raise ConfigError(f"column {unknown[0]!r} is none of a record's: {', '.join(COLUMNS)}")
    opened, names = _open_table(name)
    chosen = {ours: columns.get(ours, ours) for ours in COLUMNS if ours in columns or ours in names}
    absent = sorted({theirs for theirs in chosen.values() if theirs not in names})
    lacking = [ours for ours in ("image", "question", "answer", "boxes") if ours not in chosen]
    if absent or lacking:
        wrong = f"has no column {absent[0]!r}" if absent else f"says nowhere which column is the {lacking[0]}"
        raise ConfigError(f"{name} {wrong}; it has {', '.join(sorted(names))}. Map them: columns: {{question: …, boxes: …}}")
    stem = Path(name.removeprefix(HUB).partition(":")[0]).stem
    index = 0
    try:
        for row in opened():
            place = f"{name}[{index}]"
            try:
                yield place, _table_row(row, chosen, form, images, f"{stem}-{index:06d}", stem, place)
            except FAULTS as error:
                yield reject(place, row, error)
            index += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{name}: cannot read past row {index}: {error}", "missing_file") from None


def _table_row(
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    form: BoxForm,
    images: Path | None,
    identity: str,
    dataset: str,
    place: str,
) -> dict[str, Any]:
    values = {ours: row[theirs] for ours, theirs in columns.items() if row.get(theirs) is not None}
    for name in ("id", "dataset", "split", "family", "depth", "width", "height"):
        if values.get(name) == "":  # all that CSV has to say that there is nothing
            del values[name]
    width, height = values.pop("width", None), values.pop("height", None)
    if width is not None and height is not None:
        values["size"] = [int(float(width)), int(float(height))]  # pandas writes 640 as 640.0 where cells are empty
    for name in ("boxes", "choices"):  # CSV has nothing but text
        if isinstance(values.get(name), str):
            values[name] = json.loads(values[name]) if values[name].strip() else []
    boxes = values.get("boxes")
    if isinstance(boxes, Sequence) and boxes and not isinstance(boxes[0], Sequence):
        boxes = [boxes]
    if form == "xywh" and isinstance(boxes, Sequence):
        boxes = [[x, y, x + across, y + down] for x, y, across, down in boxes]
    values["boxes"] = boxes
    for name in ("id", "question", "dataset", "split", "family"):
        if isinstance(values.get(name), int | float):
            values[name] = str(values[name])
    if not isinstance(values.get("image"), str):
        values["image"] = _kept(values.get("image"), images, place)
    return {"id": identity, "dataset": dataset, **values}


def _kept(image: Any, folder: Path | None, place: str) -> str:
    """Write an image that stands in the table itself into the folder, named by content."""
    data = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(data, bytes):
        raise RecordError(f"{place}: image is neither a path nor an image's bytes", "missing_image")
    if folder is None:
        raise RecordError(
            f"{place}: the table holds its images; name a folder for them as the image root", "missing_image_root"
        )
    try:
        with Image.open(io.BytesIO(data)) as opened:
            suffix = (opened.format or "png").lower()
    except BROKEN_IMAGE as error:
        raise RecordError(f"{place}: the image is broken: {what_is_wrong(error)}", "broken_image") from None
    name = f"{sha256(data)[:24]}.{suffix}"
    if not (folder / name).is_file():
        atomic_write(folder / name, data)
    return name


def _open_table(name: str) -> tuple[Callable[[], Iterator[Mapping[str, Any]]], list[str]]:
    """How to go through a table's rows, a few at a time, and its columns.

    Raises:
        RecordError: missing, or of no form that is known.
    """
    if name.lower().endswith(".csv"):
        try:
            with open(name, newline="", encoding="utf-8-sig") as stream:
                header = next(csv.reader(stream), [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise RecordError(f"{name}: cannot read: {error}", "missing_file") from None

        def lines() -> Iterator[Mapping[str, Any]]:
            with open(name, newline="", encoding="utf-8-sig") as stream:
                yield from csv.DictReader(stream)

        return lines, header
    if name.lower().endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(name)
        except (OSError, pyarrow.ArrowException) as error:
            raise RecordError(f"{name}: cannot read: {error}", "missing_file") from None

        def batches() -> Iterator[Mapping[str, Any]]:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()

        return batches, list(file.schema_arrow.names)
    return _open_dataset(name)


def _open_dataset(name: str) -> tuple[Callable[[], Iterator[Mapping[str, Any]]], list[str]]:
    """A dataset of the hub, or a folder that `Dataset.save_to_disk` wrote."""
    import datasets

    dataset: Any
    try:
        if name.startswith(HUB):
            where, _, split = name.removeprefix(HUB).partition(":")
            dataset = datasets.load_dataset(where, split=split or "train", streaming=True)
        else:
            dataset = datasets.load_from_disk(name)
    except (OSError, ValueError, ConnectionError) as error:
        raise RecordError(f"{name}: cannot open the dataset: {str(error).splitlines()[0]}", "missing_file") from None
    names: Any = dataset.column_names
    if isinstance(names, dict):
        raise ConfigError(f"{name} has the splits {', '.join(names)}; name the folder of one of them")
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):  # the bytes as they are stored, not decoded pictures
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return lambda: iter(dataset), list(names or next(iter(dataset), {}))
