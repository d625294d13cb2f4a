"""Readers against spoilt input: small valid files of every form, with seeded faults put in.

Whatever stands in a file, a reader raises none but the project's own errors, and every row of it becomes one record or one
reject. Of instances, every annotation is a box of a record of its image and category, or a reject names it, or one names its
category in its image. What is accepted is sound: unit boxes, ids used once, a count that is the number of the boxes.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.boxes import as_unit_boxes
from sifthinker.engine.expansion import expand
from sifthinker.engine.sources import read_source
from sifthinker.errors import SIFError
from sifthinker.records import Record, Reject, as_text, find_placeholder

CASES = 150  # of each form in the default run
MANY = 2_500  # of each form under the slow mark: ten forms, 25,000 files

NAN, INF = float("nan"), float("inf")
DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]
JUNK: list[Any] = [
    None, True, False, 0, 1, 2, -1, 1.0, 1.5, -0.0, 5e-324, 1e308, -1e308, 2**63, 10**400, NAN, INF, -INF,
    "", " ", "0", "1", "1.0", "01", "nan", "None", "true", "dog", "cat", "a.jpg", "./a.jpg", "../x", "x" * 400,
    "\0", "/etc/passwd", "\ud800", "\u0661", "💥\u202e", "é", "<image>", "<|im_end|>", "<answer>", "###", "[1, 2, 3, 4]",
    "[[", "{}", "10 10 60 30", [], {}, [[]], [None], [1], ["dog"], [1, 2, 3, 4], [[0, 0, 1, 1]], ["1", "2", "3", "4"],
    [NAN] * 4, {"a": 1}, {"id": 1}, DEEP,
]  # fmt: skip

# No message of ours; what Python says when a reader took a value for another kind of value.
BUILT_IN = re.compile(
    r"NoneType|subscriptable|unhashable|no attribute|index out of range|could not convert|invalid literal|not iterable"
    r"|unpack|argument must be|unsupported operand|Traceback|got an unexpected"
)

PLAIN = [
    {"id": f"r{n}", "image": "a.jpg", "question": "q?", "answer": "red", "boxes": [[0.1, 0.1, 0.5, 0.5]],
     "choices": ["red", "blue"], "size": [100, 50], "extra": {"k": 1}, "notes": ["n"], "family": "f", "depth": "a.png"}
    for n in range(4)
]  # fmt: skip
VISCOT = [
    {"question": "q", "answer": "a", "image": "a.jpg", "width": 100, "height": 50, "bboxs": [[10, 10, 60, 30]],
     "dataset": "v", "split": "train"}
] * 4  # fmt: skip
REFCOCO = [
    {"img_path": "a.jpg", "expression": "dog", "bbox": [10, 10, 60, 30], "width": 100, "height": 50, "dataset_name": "x/r",
     "sent_id": n, "split": "val"}
    for n in range(4)
]  # fmt: skip
CONVERSATIONS = [
    {"question_id": n, "image": ["a.jpg", "a.jpg###[10, 10, 60, 30]"], "dataset": "v", "split": "val",
     "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "[0.1, 0.35, 0.6, 0.55]"},
                       {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a dog"}]}
    for n in range(3)
]  # fmt: skip
COCO = {
    "images": [{"id": n, "file_name": f"{n % 2}/{n // 2}.jpg", "width": 100, "height": 50, "not_exhaustive_category_ids": []}
               for n in range(4)],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [{"id": n, "image_id": n % 4, "category_id": 1 + n % 3 % 2, "bbox": [n, n, 5, 5], "iscrowd": 0}
                    for n in range(9)],
}  # fmt: skip
TALLYQA = [
    {"image": f"{n % 2}/{n // 2}.jpg", "question": f"How many {'dogs' if n % 2 else 'cats'}?", "answer": 1, "question_id": n,
     "issimple": True}
    for n in range(4)
]  # fmt: skip
TABLE = [
    {"id": f"t{n}", "image": "a.jpg", "question": "q", "answer": "2.0", "boxes": "[[10, 10, 60, 30]]",
     "choices": "['a', 'b']", "width": "100", "height": "50", "dataset": "d", "split": "train"}
    for n in range(4)
]  # fmt: skip


def spoil(value: Any, draw: random.Random) -> Any:
    """One fault somewhere in a JSON value, which may be changed in place."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return copy.deepcopy(draw.choice(JUNK))
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    kind = draw.randrange(10)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.insert(draw.randrange(len(value) + 1), copy.deepcopy(value[key]))
    elif kind == 2:
        value[key] = draw.choice(([value[key]], {"value": value[key]}, str(value[key]), [value[key]] * 2))
    elif kind == 3:
        other = draw.choice(keys)
        value[key], value[other] = value[other], value[key]
    elif kind == 4 and isinstance(value, dict):
        value[draw.choice(("surprise", "id", "boxes", "iscrowd", "ignore", "coco_url"))] = copy.deepcopy(draw.choice(JUNK))
    else:
        value[key] = spoil(value[key], draw)
    return value


def spoilt(value: Any, draw: random.Random) -> Any:
    found = copy.deepcopy(value)
    for _ in range(draw.randrange(1, 5)):
        found = spoil(found, draw)
    return found


def spoilt_rows(rows: list[Any], draw: random.Random) -> list[Any]:
    """Faults in the rows of a list, never in how many there are."""
    return [spoilt(row, draw) if draw.random() < 0.6 else copy.deepcopy(row) for row in rows]


def bytes_of(text: str, draw: random.Random) -> bytes:
    """Whole, or cut off, or with a few bytes changed."""
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    kind = draw.randrange(4)
    if kind == 0:
        del data[draw.randrange(len(data) + 1) :]
    elif kind == 1:
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.choice(
                (0xFF, 0x80, ord('"'), ord("{"), ord("]"), ord(","), 0x0A, 0x20, 0x00)
            )
    return bytes(data)


taken: Counter[str] = Counter()  # files that were not refused as a whole, and records that were not rejected


def read(path: Path, **options: Any) -> list[Record | Reject] | None:
    """All items, each of them sound; None where the file is refused as a whole."""
    found: list[Record | Reject] = []
    try:
        for item in read_source(path, **options):
            found.append(item)
        refused = ""
    except SIFError as error:
        refused = str(error)
    if refused:
        assert not BUILT_IN.search(refused), refused
        return None
    records = [item for item in found if isinstance(item, Record)]
    taken.update(files=1, records=len(records))
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert as_unit_boxes(record.boxes).shape == (len(record.boxes), 4)
        assert all(text.strip() and not find_placeholder(text) for text in (record.question, record.answer, *record.choices))
        expand(record)
        json.dumps(record.to_json())
    for reject in (item for item in found if isinstance(item, Reject)):
        assert not reject.reason.startswith(reject.source or " "), reject
        assert not BUILT_IN.search(reject.reason), reject
        json.dumps(reject.to_json())
    return found


# ------------------------------------------------------------------------------------------------------------ forms


def lines(rows: list[Any], name: str) -> Callable[[Path, random.Random], None]:
    """One item for every line that is not blank."""

    def check(folder: Path, draw: random.Random) -> None:
        path = folder / "r.jsonl"
        data = bytes_of("\n".join(map(json.dumps, spoilt_rows(rows, draw))), draw)
        path.write_bytes(data)
        options = {"box_space": draw.choice(("unit", "pixel", "padded_square"))} if name == "jsonl" else {}
        found = read(path, format=name, outside=draw.choice(("clip", "strict")), **options)
        first = next((line for line in data.split(b"\n") if line.strip()), b"")
        if found is not None and json.detect_encoding(data[:4]) == "utf-8" and is_object(first):
            wanted = sum(1 for line in data.split(b"\n") if line.decode("utf-8", "replace").strip())
            assert len(found) == wanted

    return check


def is_object(line: bytes) -> bool:
    """Whether the file is one of lines for certain: its first is a JSON object by itself."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except ValueError:
        return False


def listed(rows: list[Any], name: str, **files: Any) -> Callable[[Path, random.Random], None]:
    """One item for every item of a JSON list."""

    def check(folder: Path, draw: random.Random) -> None:
        path = folder / "r.json"
        asked = spoilt_rows(rows, draw)
        data = bytes_of(json.dumps(asked, indent=draw.choice((None, 1))), draw)
        path.write_bytes(data)
        options: dict[str, Any] = {}
        if name == "tallyqa":
            options["instances"] = folder / "i.json"
            options["instances"].write_text(json.dumps(spoilt(COCO, draw) if draw.random() < 0.5 else COCO))
        elif draw.random() < 0.9:
            options["images"] = folder
        found = read(path, format=name, **options)
        try:
            intact = json.loads(data)
        except ValueError:  # refused as a whole, or read as lines, none of which is a record
            assert not any(isinstance(item, Record) for item in found or ())
        else:
            assert found is None or len(found) == len(intact)

    return check


def coco(folder: Path, draw: random.Random) -> None:
    """Every annotation is a box of its category's record in its image, or a reject names it or that record."""
    value = spoilt(COCO, draw)
    path = folder / "i.json"
    path.write_text(json.dumps(value))
    found = read(path, format="coco")
    if found is None:
        return
    named = {item.source for item in found if isinstance(item, Reject)}
    records = {item.source: item for item in found if isinstance(item, Record)}
    used = dict.fromkeys(records, 0)
    for index, annotation in enumerate(value["annotations"]):
        rejected = f"i.json:annotations[{index}]" in named
        if rejected and not (isinstance(annotation, dict) and annotation.keys() >= {"image_id", "category_id"}):
            continue
        files = [entry for entry in value["images"] if same_id(entry, "id", annotation, "image_id")]
        names = [entry.get("name") for entry in value["categories"] if same_id(entry, "id", annotation, "category_id")]
        places = {
            f"i.json:{str(entry.get('file_name')).strip()}:{spelt}": entry
            for entry in files
            for spelt in spellings(names, value)
        }
        if rejected:  # a count without it would be wrong
            assert not places.keys() & records.keys()
            continue
        if places.keys() & named:
            continue
        (place,) = places.keys() & records.keys()
        x, y, width, height = map(float, annotation["bbox"])
        size = [float(places[place]["width"]), float(places[place]["height"])] * 2
        box = np.clip(np.array([x, y, x + width, y + height]) / size, 0, 1)
        assert np.abs(np.array(records[place].boxes) - box).max(axis=1).min() < 1e-9
        used[place] += 1
    for place, record in records.items():
        assert used[place] == len(record.boxes) == int(record.answer)


def same_id(one: Any, name: str, other: Any, other_name: str) -> bool:
    return isinstance(one, dict) and name in one and plain(one[name]) == plain(other[other_name])


def plain(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return object()
    text = "0" if value == 0 else str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def spellings(names: list[Any], value: dict[str, Any]) -> set[str]:
    """A category's name as any entry that means the same writes it"""

    def word(name: Any) -> str:
        try:
            return as_text(name, "name", "").strip()
        except SIFError:
            return ""

    words = {word(name).casefold() for name in names}
    entries = (word(entry.get("name")) for entry in value["categories"] if isinstance(entry, dict))
    return {name for name in entries if name.casefold() in words}


def csv_table(folder: Path, draw: random.Random) -> None:
    """One item for every row that Python's reader finds."""
    stream = io.StringIO()
    columns = list(TABLE[0])
    writer = csv.writer(stream)
    writer.writerow(columns)
    for row in TABLE:
        cells = [str(draw.choice(JUNK)) if draw.random() < 0.15 else row[name] for name in columns]
        writer.writerow(cells[: draw.choice((len(cells),) * 5 + (3,))] + ["more"] * draw.choice((0,) * 9 + (1,)))
    path = folder / "t.csv"
    path.write_bytes(bytes_of(stream.getvalue().replace("\0", "0"), draw))
    found = read(path, box_space=draw.choice(("unit", "pixel")), box_form=draw.choice(("xyxy", "xywh")), images=folder)
    if found is not None and json.detect_encoding(path.read_bytes()[:4]) == "utf-8":
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as opened:
            reader = csv.reader(opened)
            next((row for row in reader if row), None)
            lines = reader.line_num
            # A header that a stray quote joins with rows after it is a reject of its own.
            assert len(found) - sum(1 for row in reader if row) in ((0, 1) if lines > 1 else (0,))


def parquet_table(folder: Path, draw: random.Random) -> None:
    """One item for every row."""
    import pyarrow
    from pyarrow import parquet

    kinds: list[list[Any]] = [
        ["a", None, "", "nan", "<image>", "[10, 10, 60, 30]"], [1, None, -1, 2**62], [1.0, NAN, INF, None, 2.5],
        [True, None, False], [b"", b"rubbish", None, PNG], [[1.0, 2.0, 30.0, 40.0], [], None, [NAN] * 4],
        [[[1.0, 2.0, 30.0, 40.0]], [[]], None],
        [{"bytes": b"", "path": "a.jpg"}, {"bytes": PNG, "path": None}, None, {"bytes": None, "path": None}],
        [["a", "b"], [], None],
    ]  # fmt: skip
    data: dict[str, Any] = {name: [row[name] for row in TABLE] for name in TABLE[0]}
    for name in draw.sample(sorted(data), draw.randrange(5)):
        data[name] = draw.choices(draw.choice(kinds), k=len(TABLE))
    path = folder / "t.parquet"
    parquet.write_table(pyarrow.table(data), path)
    if draw.random() < 0.1:
        content = path.read_bytes()
        path.write_bytes(content[: draw.randrange(len(content))])
        assert read(path) is None
        return
    found = read(
        path, box_space=draw.choice(("unit", "pixel")), box_form=draw.choice(("xyxy", "xywh")), images=folder / "kept"
    )
    assert found is not None
    assert len(found) == len(TABLE)


def any_bytes(folder: Path, draw: random.Random) -> None:
    """A file of one form, or of none, whose form is not stated."""
    value = draw.choice((PLAIN, VISCOT, REFCOCO, CONVERSATIONS, COCO, TALLYQA))
    rows = spoilt_rows(value, draw) if isinstance(value, list) else [spoilt(value, draw)]
    text = json.dumps(rows, indent=1) if draw.random() < 0.5 else "\n".join(map(json.dumps, rows))
    data = bytes_of(text, draw)
    encoding = draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-le"))
    path = folder / "any.json"
    path.write_bytes(
        data if encoding == "utf-8" else data.decode("utf-8", "replace").encode(encoding)[: draw.choice((None, -1, -3))]
    )
    read(path, images=folder)


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (100, 50)).save(stream, "PNG")
    return stream.getvalue()


PNG = _png()
FORMS = {
    "plain": lines(PLAIN, "jsonl"),
    "viscot": lines(VISCOT, "viscot"),
    "refcoco": lines(REFCOCO, "refcoco"),
    "plain list": listed(PLAIN, "jsonl"),
    "conversations": listed(CONVERSATIONS, "viscot-conversation"),
    "tallyqa": listed(TALLYQA, "tallyqa"),
    "coco": coco,
    "csv": csv_table,
    "parquet": parquet_table,
    "any": any_bytes,
}


def run(name: str, folder: Path, numbers: range) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    Image.new("RGB", (100, 50)).save(folder / "a.jpg")
    taken.clear()
    for number in numbers:
        try:
            FORMS[name](folder, random.Random(f"{name} {number}"))
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {type(error).__name__}: {error}") from error
    # A reader that refused everything would pass all of the above.
    assert taken["files"] > len(numbers) / 4
    assert taken["records"] > len(numbers) / 4


@pytest.mark.parametrize("name", FORMS)
def test_spoilt_files(name: str, tmp_path: Path) -> None:
    run(name, tmp_path, range(CASES))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_many_spoilt_files(name: str, tmp_path: Path) -> None:
    run(name, tmp_path, range(CASES, CASES + MANY))
