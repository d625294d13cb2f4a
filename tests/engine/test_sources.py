from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.boxes import convert, pairwise_iou
from sifthinker.engine.sources import read_rows, read_source
from sifthinker.errors import ConfigError, RecordError
from sifthinker.records import Record, Reject

VISCOT = {
    "question": "q?", "answer": "a", "image": "i.jpg", "width": 100, "height": 50, "bboxs": [[10, 10, 60, 30]],
    "dataset": "vsr", "split": "train",
}  # fmt: skip


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\r\n" for row in rows))  # Windows line ends, as published
    return path


def conversation(fractions: str, pixels: str, image: str = "cot/i.jpg") -> dict:
    request = "Please provide the bounding box coordinate of the region that can help you answer the question better."
    return {
        "dataset": "vsr",
        "split": "val",
        "question_id": 3,
        "image": [image, f"{image}###{pixels}"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is it? {request}"},
            {"from": "gpt", "value": fractions},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "a dog"},
        ],
    }


class TestVisCoT:
    def test_pixels_become_fractions(self, tmp_path: Path) -> None:
        (record,) = read_source(write(tmp_path / "v.jsonl", [VISCOT]))
        assert isinstance(record, Record)
        np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.6, 0.6]])
        assert (record.id, record.size, record.source) == ("vsr-train-000000", (100, 50), "v.jsonl:1")

    @pytest.mark.parametrize(
        ("boxes", "code"),
        [
            ([[10, 10, 10, 30]], "degenerate_box"),
            ([[60, 10, 10, 30]], "degenerate_box"),
            ([[0, 0, 10, 10], [5, 5, 5, 5]], "degenerate_box"),
            ([[110, 10, 120, 30]], "box_outside"),
            ([], "no_box"),
            ([[1, 2, 3]], "bad_box"),
            (["a"], "bad_box"),
            ([[0, 0, None, 3]], "bad_box"),
        ],
    )
    def test_boxes_that_cannot_be_used(self, tmp_path: Path, boxes: list, code: str) -> None:
        (reject,) = read_source(write(tmp_path / "v.jsonl", [{**VISCOT, "bboxs": boxes}]))
        assert isinstance(reject, Reject)
        assert reject.code == code
        assert reject.source == "v.jsonl:1"
        assert "v.jsonl:1" not in reject.reason

    def test_boxes_past_the_border(self, tmp_path: Path) -> None:
        path = write(tmp_path / "v.jsonl", [{**VISCOT, "bboxs": [[10, 20, 105, 90]]}])
        (record,) = read_source(path)
        np.testing.assert_allclose(record.boxes, [[0.1, 0.4, 1, 1]])
        assert record.notes == (
            "v.jsonl:1: box [10.0, 20.0, 105.0, 90.0] ends past the image (width 100, height 50); clipped",
        )
        (reject,) = read_source(path, outside="strict")
        assert reject.code == "box_outside"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"question": None}, "blank_question"),
            ({"answer": None}, "blank_answer"),
            ({"answer": True}, "bad_record"),
            ({"image": 5.5e300, "question": ["q"]}, "bad_record"),
            ({"width": float("inf")}, "bad_record"),
            ({"bboxs": [[0, 0, 10**400, 5]]}, "bad_box"),
            ({"question": "half \ud800"}, "bad_text"),
        ],
    )
    def test_values_of_the_wrong_kind_are_rejects(self, tmp_path: Path, change: dict, code: str) -> None:
        (reject,) = read_source(write(tmp_path / "v.jsonl", [{**VISCOT, **change}]))
        assert isinstance(reject, Reject)
        assert reject.code == code

    def test_long_first_lines_and_byte_order_marks(self, tmp_path: Path) -> None:
        row = {**VISCOT, "question": "q\u2028" + "x" * 100_000}
        (tmp_path / "v.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode())
        (record,) = read_source(tmp_path / "v.jsonl")
        assert isinstance(record, Record)

    def test_broken_lines_do_not_end_the_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "v.jsonl"
        path.write_text(json.dumps(VISCOT) + "\nrubbish\n\n" + json.dumps({"bboxs": 1}) + "\n" + json.dumps(VISCOT))
        found = list(read_source(path))
        assert [getattr(item, "code", "record") for item in found] == ["record", "not_json", "missing_key", "record"]

    def test_conversations_hold_fractions_of_the_padded_square(self, tmp_path: Path) -> None:
        folder = tmp_path / "images" / "cot"
        folder.mkdir(parents=True)
        Image.new("RGB", (100, 50)).save(folder / "i.jpg")
        # The square is 100 wide with 25 pixels above: (10, 10, 60, 30) → y (35, 55).
        path = tmp_path / "c.json"
        path.write_text(json.dumps([conversation("[0.100, 0.350, 0.600, 0.550]", "[10, 10, 60, 30]")]))
        (record,) = read_source(path, images=tmp_path / "images")
        np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.6, 0.6]])
        assert (record.id, record.question, record.answer) == ("vsr-val-3", "What is it?", "a dog")

    def test_conversations_without_images_name_what_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        path.write_text(json.dumps([conversation("[0.1, 0.35, 0.6, 0.55]", "[10, 10, 60, 30]")]))
        (reject,) = read_source(path)
        assert (reject.code, "--images" in reject.reason) == ("missing_image_root", True)
        (tmp_path / "images").mkdir()
        (reject,) = read_source(path, images=tmp_path / "images")
        assert (reject.code, "cot/i.jpg" in reject.reason) == ("missing_image", True)

    @pytest.mark.parametrize(
        ("fractions", "pixels", "image", "code"),
        [
            ("[0.1, 0.35, 0.6, 0.55]", "[80, 1, 99, 5]", "cot/i.jpg", "boxes_disagree"),
            ("[0.1, 0.35, 0.6, 0.55]", "[10, 10]", "cot/i.jpg", "bad_box"),
            ("[0.1, 0.35, 0.6, 0.55]", "[null, 10, 60, 30]", "cot/i.jpg", "bad_box"),
            (None, "[10, 10, 60, 30]", "cot/i.jpg", "blank_field"),
            ("somewhere", "[10, 10, 60, 30]", "cot/i.jpg", "bad_record"),
            ("[0.1, 0.35, 0.6, 0.55]", "[10, 10, 60, 30]", "../../etc/i.jpg", "path_outside_root"),
        ],
    )
    def test_dirty_conversations(self, tmp_path: Path, fractions: str, pixels: str, image: str, code: str) -> None:
        (tmp_path / "images" / "cot").mkdir(parents=True)
        Image.new("RGB", (100, 50)).save(tmp_path / "images" / "cot" / "i.jpg")
        path = tmp_path / "c.json"
        path.write_text(json.dumps([conversation(fractions, pixels, image), {"image": 5}]))
        first, second = read_source(path, images=tmp_path / "images")
        assert (first.code, second.code) == (code, "bad_record")


class TestPlain:
    ROW = {"id": "a", "image": "i.png", "question": "q", "answer": "a", "boxes": [[10, 5, 60, 25]]}

    def test_box_spaces(self, tmp_path: Path) -> None:
        Image.new("RGB", (100, 50)).save(tmp_path / "i.png")
        for space in ("pixel", "per_mille", "resized", "padded_square"):
            boxes = convert([[0.1, 0.1, 0.6, 0.5]], source="unit", target=space, size=(100, 50)).tolist()
            (record,) = read_source(write(tmp_path / "r.jsonl", [{**self.ROW, "boxes": boxes}]), box_space=space)
            np.testing.assert_allclose(record.boxes, [[0.1, 0.1, 0.6, 0.5]], atol=1e-12)

    def test_two_records_with_one_id(self, tmp_path: Path) -> None:
        row = {**self.ROW, "boxes": [[0, 0, 1, 1]]}
        _, reject = read_source(write(tmp_path / "r.jsonl", [row, row]))
        assert (reject.code, "r.jsonl:1" in reject.reason) == ("duplicate_id", True)

    def test_a_question_that_holds_an_images_place(self, tmp_path: Path) -> None:
        (reject,) = read_source(
            write(tmp_path / "r.jsonl", [{**self.ROW, "question": "What is <image>?", "boxes": [[0, 0, 1, 1]]}])
        )
        assert (reject.code, "<image>" in reject.reason) == ("bad_text", True)

    def test_pixels_without_the_image(self, tmp_path: Path) -> None:
        (reject,) = read_source(write(tmp_path / "r.jsonl", [self.ROW]), box_space="pixel")
        assert reject.code == "missing_image"

    def test_misuse(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.jsonl", [self.ROW])
        with pytest.raises(ConfigError, match="csv"):
            list(read_source(path, format="csv"))
        with pytest.raises(RecordError, match="image folder"):
            list(read_source(path, images=tmp_path / "none"))
        with pytest.raises(RecordError, match="cannot read"):
            list(read_source(tmp_path / "none.jsonl"))
        for options in ({"box_form": "xywh"}, {"columns": {"question": "q"}}):
            with pytest.raises(ConfigError, match="apply only to tables"):
                list(read_source(path, **options))
        (tmp_path / "text.jsonl").write_text("hello")
        with pytest.raises(RecordError, match="JSON"):
            list(read_source(tmp_path / "text.jsonl"))


class TestPublishedFiles:
    """VisCoT's own files, where they are at hand."""

    def test_vsr_metadata(self, shared: Path) -> None:
        path = shared / "data/viscot/vsr_cot_train.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = list(read_source(path))
        assert len(found) == len(rows) == 3376
        assert all(isinstance(item, Record) for item in found)
        for record, row in zip(found, rows, strict=True):
            pixels = convert(record.boxes, source="unit", target="pixel", size=(row["width"], row["height"]))
            np.testing.assert_allclose(pixels, row["bboxs"], atol=0.02 * max(row["width"], row["height"]))

    def test_dirty_metadata(self, shared: Path) -> None:
        found = list(read_source(shared / "data/viscot/dude_cot_train.jsonl"))
        assert len(found) == 11735
        clipped = sum(bool(item.notes) for item in found if isinstance(item, Record))
        rejects = Counter(item.code for item in found if isinstance(item, Reject))
        assert rejects["degenerate_box"] == 4
        assert clipped + rejects["box_outside"] == 832
        assert set(rejects) <= {"degenerate_box", "box_outside"}

    def test_vsr_conversations(self, shared: Path, tmp_path: Path) -> None:
        truth = [json.loads(line) for line in (shared / "data/viscot/benchmark_det/vsr.jsonl").read_text().splitlines()]
        for row in truth:
            image = tmp_path / row["img_path"]
            if not image.exists():
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("1", (row["width"], row["height"])).save(image)
        path = shared / "data/viscot/benchmark/vsr.json"
        found = list(read_source(path, images=tmp_path))
        assert all(isinstance(item, Record) for item in found)
        values = []
        for record, row in zip(found, truth, strict=True):
            box = convert([row["bbox"]], source="pixel", target="unit", size=(row["width"], row["height"]))
            values.append(pairwise_iou(record.boxes, box)[0, 0])
            assert record.question == row["expression"]
        assert np.mean(values) >= 0.995
        without = list(read_source(path))
        assert {item.code for item in without} == {"missing_image_root"}


class TestFilesOfJSON:
    """Files of JSON as editors, `jq`, pandas, PowerShell and spreadsheets write them."""

    ROWS = [
        {"id": f"é{n}", "image": "i.png", "question": "q\u2028?", "answer": "a", "boxes": [[0, 0, 1, 1]]} for n in range(3)
    ]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    @pytest.mark.parametrize("form", ["lines", "crlf", "list", "indented list", "objects", "one line"])
    @pytest.mark.parametrize("ascii_only", [True, False])
    def test_forms_and_encodings(self, tmp_path: Path, encoding: str, form: str, ascii_only: bool) -> None:
        rows = [json.dumps(row, ensure_ascii=ascii_only) for row in self.ROWS]
        text = {
            "lines": "\n".join(rows),
            "crlf": "\r\n".join(["", *rows, "", ""]),
            "list": json.dumps(self.ROWS, ensure_ascii=ascii_only),
            "indented list": json.dumps(self.ROWS, indent=2, ensure_ascii=ascii_only),
            "objects": "\n".join(json.dumps(row, indent=2, ensure_ascii=ascii_only) for row in self.ROWS),
            "one line": " ".join(rows),
        }[form]
        path = tmp_path / "r.json"
        path.write_bytes(text.encode(encoding))
        assert [(item.id, item.question) for item in read_source(path)] == [(f"é{n}", "q\u2028?") for n in range(3)]

    @pytest.mark.parametrize(
        "value",
        [
            [VISCOT],
            [{"img_path": "a.jpg", "expression": "dog", "bbox": [10, 10, 60, 30], "width": 100, "height": 50}],
            [{"id": "a", "image": "i.png", "question": "q", "answer": "a", "boxes": [[0.1, 0.2, 0.6, 0.6]]}],
            {"id": "a", "image": "i.png", "question": "q", "answer": "a", "boxes": [[0.1, 0.2, 0.6, 0.6]]},
        ],
    )
    def test_every_form_may_be_indented(self, tmp_path: Path, value: object) -> None:
        (tmp_path / "r.json").write_text(json.dumps(value, indent=2))
        (record,) = read_source(tmp_path / "r.json")
        np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.6, 0.6]])

    @pytest.mark.parametrize("first", ["rubbish", '{"id": "a", "im', "[1, 2", "[1]", "\xff", "5"])
    def test_a_bad_first_line_is_one_reject(self, tmp_path: Path, first: str) -> None:
        (tmp_path / "r.jsonl").write_bytes("\n".join((first, *map(json.dumps, self.ROWS))).encode("latin-1"))
        found = list(read_source(tmp_path / "r.jsonl"))
        assert [isinstance(item, Record) for item in found] == [False, True, True, True]

    def test_a_line_in_another_encoding_is_one_reject(self, tmp_path: Path) -> None:
        lines = [json.dumps(row, ensure_ascii=False).encode("latin-1" if n == 1 else "utf-8")
                 for n, row in enumerate([{**row, "question": "q"} for row in self.ROWS])]  # fmt: skip
        (tmp_path / "r.jsonl").write_bytes(b"\n".join(lines))
        found = list(read_source(tmp_path / "r.jsonl"))
        assert [getattr(item, "code", "ok") for item in found] == ["ok", "not_json", "ok"]
        assert found[1].reason == "not UTF-8. Save the file as UTF-8"

    def test_utf_16_that_breaks_off(self, tmp_path: Path) -> None:
        (tmp_path / "r.jsonl").write_bytes("\n".join(map(json.dumps, self.ROWS)).encode("utf-16")[:-1])
        assert [getattr(item, "code", "ok") for item in read_source(tmp_path / "r.jsonl")] == ["ok", "ok", "not_json"]

    @pytest.mark.parametrize("name", ["coco", "tallyqa", "viscot-conversation"])
    def test_a_whole_file_in_another_encoding_is_one_error(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "r.json").write_bytes('[{"question": "é"}]'.encode("latin-1"))
        with pytest.raises(RecordError, match=r"r\.json: not UTF-8 at byte 15. Save the file as UTF-8"):
            list(read_source(tmp_path / "r.json", format=name, instances=tmp_path / "r.json"))

    @pytest.mark.parametrize("indent", [None, 1])
    def test_a_list_that_breaks_off_is_one_error(self, tmp_path: Path, indent: int | None) -> None:
        (tmp_path / "r.json").write_text(json.dumps(self.ROWS, indent=indent)[:-4])
        with pytest.raises(RecordError, match=r"r\.json: the JSON list is incomplete"):
            list(read_source(tmp_path / "r.json"))


class TestWords:
    """What a reject says: the field, what was got, what was wanted; never a built-in error's words."""

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"width": None}, "width must be a whole number, got null"),
            ({"width": 0}, "width and height must be an image size in pixels, got 0 × 50"),
            ({"height": "tall"}, "height must be a whole number, got 'tall'"),
            ({"bboxs": None}, "boxes must be a list of [x1, y1, x2, y2], got null"),
            ({"bboxs": {"x": 1}}, "boxes must be a list of [x1, y1, x2, y2], got an object with the keys x"),
            ({"bboxs": [1, 2, 3, 4]}, "a box must be four finite numbers, got 1. Put a single box in a list"),
            ({"bboxs": [[True, 2, 3, 4]]}, "a box must be four finite numbers, got [True, 2, 3, 4]"),
            ({"image": ["a.jpg", "b.jpg"]}, "image must be the path of an image, got ['a.jpg', 'b.jpg']"),
            ({"dataset": None}, "dataset must be text or a number, got null"),
            ({"split": float("nan")}, "split must be text or a number, got nan"),
            ({"answer": ["blue", "navy"]}, "answer must be one text, got a list of 2: ['blue', 'navy']. Put"),
            ({"answer": {"text": "blue"}}, "answer must be one text, got an object with the keys text"),
            ({"answer": []}, "answer must be one text, got []"),
            ({"answer": False}, 'answer must be one text such as "yes" or "no", got false'),
            ({"answer": 10**5000}, "answer must be text, got an integer of more than 40 digits"),
        ],
    )
    def test_of_metadata(self, tmp_path: Path, change: dict, words: str) -> None:
        text = json.dumps({**VISCOT, **change}) if change.get("answer") != 10**5000 else json.dumps({**VISCOT, "answer": 0})
        (tmp_path / "v.jsonl").write_text(text)
        if change.get("answer") == 10**5000:  # JSON of so many digits cannot be read at all; Parquet and Python can hold it
            with pytest.raises(RecordError, match=words):
                Record.from_json({**TestPlain.ROW, **change})
            return
        (reject,) = read_source(tmp_path / "v.jsonl")
        assert words in reject.reason
        assert (reject.source, "v.jsonl:1" in reject.reason) == ("v.jsonl:1", False)

    @pytest.mark.parametrize("name", sorted(VISCOT))
    def test_of_missing_keys(self, tmp_path: Path, name: str) -> None:
        row = {key: value for key, value in VISCOT.items() if key != name}
        (reject,) = read_source(write(tmp_path / "v.jsonl", [row]), format="viscot")
        assert (reject.code, f"lacks '{name}'" in reject.reason) == ("missing_key", True)

    @pytest.mark.parametrize("row", [5, None, [1], "text", True])
    @pytest.mark.parametrize("name", ["viscot", "viscot-conversation", "refcoco", "jsonl", "tallyqa"])
    def test_of_rows_that_are_no_objects(self, tmp_path: Path, name: str, row: object) -> None:
        (tmp_path / "r.json").write_text(json.dumps([row, row]))
        empty = tmp_path / "i.json"
        empty.write_text('{"images": [], "annotations": [], "categories": []}')
        found = list(read_source(tmp_path / "r.json", format=name, instances=empty if name == "tallyqa" else None))
        assert [item.code for item in found] == ["not_an_object"] * 2
        assert "expected a JSON object, got" in found[0].reason

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"image": "a.jpg"}, "no_box", "got an entry without a box: 'a.jpg'"),
            ({"image": ["a.jpg"]}, "no_box", "got an entry without a box: ['a.jpg']"),
            ({"image": []}, "bad_record", "image must be [image, 'image###[x1, y1, x2, y2]'], got []"),
            ({"image": ["a.jpg", 5]}, "bad_record", "image must be [image, 'image###[x1, y1, x2, y2]'], got ['a.jpg', 5]"),
            ({"image": ["a.jpg", "b.jpg###[1, 2, 3, 4]"]}, "bad_record", "got 'b.jpg###[1, 2, 3, 4]'"),
            (
                {"image": ["a.jpg", "a.jpg###here"]},
                "bad_box",
                "the box of the second image must be [x1, y1, x2, y2], got 'here'",
            ),
            ({"image": None}, "bad_record", "image must be [image, 'image###[x1, y1, x2, y2]'], got null"),
            (
                {"conversations": None},
                "bad_record",
                "conversations must be four turns: question, box, image, answer; got null",
            ),
            (
                {"conversations": 3},
                "missing_key",
                "must be four turns: question, box, image, answer; got 3 turns, so the answer is missing",
            ),
            ({"conversations": 1}, "missing_key", "must be four turns: question, box, image, answer; got 1 turns"),
            ({"conversations": 6}, "bad_record", "must be four turns: question, box, image, answer; got 6 turns"),
            ({"turn 4": "a dog"}, "bad_record", "turn 4 must be from 'gpt' and have a value, got 'a dog'"),
            (
                {"turn 4": {"from": "human", "value": "x"}},
                "bad_record",
                "turn 4 must be from 'gpt' and have a value, got an object",
            ),
            ({"turn 4": {"from": "gpt"}}, "missing_key", "turn 4: lacks 'value'"),
            (
                {"turn 2": {"from": "gpt", "value": "A dog."}},
                "bad_record",
                "the second turn must be [x1, y1, x2, y2], got 'A dog.'",
            ),
            (
                {"turn 2": {"from": "gpt", "value": "[0.1, 0.2]"}},
                "bad_box",
                "a box must be four finite numbers, got [0.1, 0.2]",
            ),
            ({"turn 2": {"from": "gpt", "value": "[0.6, 0.35, 0.1, 0.55]"}}, "bad_box", "has no area"),
            (
                {"turn 4": {"from": "gpt", "value": ["a", "b"]}},
                "bad_record",
                "turn 4: value must be one text, got a list of 2",
            ),
            ({"turn 1": {"from": "human", "value": "What is <image> here?"}}, "bad_text", "question contains <image>"),
            ({"dataset": None}, "blank_dataset", "dataset is null"),
        ],
    )
    def test_of_conversations(self, tmp_path: Path, change: dict, code: str, words: str) -> None:
        Image.new("RGB", (100, 50)).save(tmp_path / "a.jpg")
        row = conversation("[0.1, 0.35, 0.6, 0.55]", "[10, 10, 60, 30]", "a.jpg")
        turns = row["conversations"]
        for name, value in change.items():
            if name.startswith("turn"):
                turns[int(name[-1]) - 1] = value
            elif isinstance(value, int):
                row[name] = (turns * 2)[:value]
            else:
                row[name] = value
        good = conversation("[0.1, 0.35, 0.6, 0.55]", "[10, 10, 60, 30]", "a.jpg")
        (tmp_path / "c.json").write_text(json.dumps([row, good], indent=1))
        reject, record = read_source(tmp_path / "c.json", images=tmp_path)
        assert isinstance(record, Record)
        assert reject.code == code
        assert words in reject.reason
        assert (reject.source, "c.json[0]" in reject.reason) == ("c.json[0]", False)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"notes": None}, None),
            ({"notes": [5]}, "notes must be a list of texts, got [5]"),
            ({"source": 5}, "source must be text, got 5"),
            ({"size": [100.0, 50.0]}, None),
            ({"size": [100.5, 50]}, "size must be [width, height] in pixels, got [100.5, 50]"),
            ({"size": 5}, "size must be a list, got 5"),
            ({"size": [True, True]}, "size must be [width, height] in pixels, got [True, True]"),
            ({"choices": [1.0, 2]}, None),
            ({"choices": ["a", None]}, "choices must be text or a number, got null"),
            ({"family": None}, "family must be text, got null"),
            ({"depth": float("nan")}, "depth must be text, got nan"),
            ({"id": float("nan")}, "id must be text or a number, got nan"),
            ({"id": ["a", "b"]}, "id must be one text, got a list of 2"),
            ({"image": float("nan")}, "image must be text that is not blank, got nan"),
            ({"question": {"q": 1}}, "question must be one text, got an object with the keys q"),
            ({"answer": [{"answer": "a", "answer_confidence": "yes"}] * 10}, "answer must be one text, got a list of 10"),
            ({"boxes": [0, 0, 1, 1]}, "a box must be four finite numbers, got 0. Put a single box in a list"),
            ({"boxes": "[[0, 0, 1, 1]]"}, "boxes must be a list of [x1, y1, x2, y2], got '[[0, 0, 1, 1]]'"),
            ({"image": "../i.png"}, None),
        ],
    )
    def test_of_plain_records(self, tmp_path: Path, change: dict, words: str | None) -> None:
        (found,) = read_source(write(tmp_path / "r.jsonl", [{**TestPlain.ROW, "boxes": [[0, 0, 1, 1]], **change}]))
        if words is None:
            assert isinstance(found, Record)
        else:
            assert words in found.reason


class TestOtherFilesOfCOCO:
    @pytest.mark.parametrize("format", ["auto", "coco"])
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a list of COCO results"),
            (
                {"images": [], "categories": [], "annotations": [{"image_id": 1, "segments_info": []}]},
                "COCO panoptic segments",
            ),
            ({"images": [], "categories": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "COCO captions"),
            ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "COCO captions"),
            ({"info": {}, "images": [{"id": 1}], "categories": []}, "COCO image information without annotations"),
        ],
    )
    def test_are_named(self, tmp_path: Path, value: object, words: str, format: Any) -> None:
        (tmp_path / "r.json").write_text(json.dumps(value))
        with pytest.raises(RecordError, match=words) as caught:
            list(read_source(tmp_path / "r.json", format=format))
        assert caught.value.code == "not_coco"


def test_conversations_may_be_json_lines(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "cot"
    folder.mkdir(parents=True)
    Image.new("RGB", (100, 50)).save(folder / "i.jpg")
    good = conversation("[0.1, 0.35, 0.6, 0.55]", "[10, 10, 60, 30]")
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join((json.dumps(good), "rubbish", json.dumps({**good, "question_id": 4}))))
    found = list(read_source(path, images=tmp_path / "images"))
    assert [getattr(item, "code", "") or item.id for item in found] == ["vsr-val-3", "not_json", "vsr-val-4"]


class TestSpaces:
    ROW = {"id": "a", "image": "i.png", "question": "q", "answer": "a", "size": [100, 50]}

    @pytest.mark.parametrize(
        ("space", "box", "words"),
        [
            ("pixel", [0.1, 0.2, 0.6, 0.6],
             "looks like fractions of the image, expected pixels; read as pixel. "
             "Set --box-space unit (in a recipe: box_space)"),
            ("pixel", [0, 0, 1, 1], "looks like fractions"),
            ("per_mille", [0.1, 0.2, 0.6, 0.6], "looks like fractions of the image, expected thousandths"),
            ("unit", [0, 0, 60, 30],
             "looks like pixels or thousandths, expected fractions from 0 to 1; read as unit. "
             "Set --box-space pixel or per_mille"),
            ("padded_square", [0, 0, 60, 30],
             "looks like pixels or thousandths, expected fractions from 0 to 1; read as padded_square. "
             "Set --box-space pixel or per_mille"),
        ],
    )  # fmt: skip
    def test_another_space_is_refused(self, tmp_path: Path, space: Any, box: list[float], words: str) -> None:
        (reject,) = read_source(write(tmp_path / "r.jsonl", [{**self.ROW, "boxes": [box]}]), box_space=space)
        assert reject.code == "bad_box"
        assert words in reject.reason

    @pytest.mark.parametrize(
        ("space", "size", "box", "wanted"),
        [
            ("pixel", [100, 50], [0.5, 0.5, 2, 1], [0.005, 0.01, 0.02, 0.02]),
            ("pixel", [4, 2], [0, 0, 1, 1], [0, 0, 0.25, 0.5]),
            ("unit", [100, 50], [0.5, 0.5, 1.2, 1], [0.5, 0.5, 1, 1]),
        ],
    )
    def test_small_boxes_and_boxes_past_the_border_are_not(
        self, tmp_path: Path, space: Any, size: list[int], box: list[float], wanted: list[float]
    ) -> None:
        (record,) = read_source(write(tmp_path / "r.jsonl", [{**self.ROW, "size": size, "boxes": [box]}]), box_space=space)
        np.testing.assert_allclose(record.boxes, [wanted])

    def test_records_in_memory_have_no_option_to_say_it(self) -> None:
        (reject,) = read_rows([{**self.ROW, "boxes": [[0, 0, 600, 300]]}], "photos")
        assert reject.reason.endswith("divide pixels by the image's width and height, and thousandths by 1000")

    def test_published_forms_are_told_to_multiply(self, tmp_path: Path) -> None:
        (reject,) = read_source(write(tmp_path / "v.jsonl", [{**VISCOT, "bboxs": [[0.1, 0.2, 0.6, 0.6]]}]))
        assert reject.reason.endswith("expected pixels; multiply by the image's width and height")


def test_an_image_in_base64_is_a_short_reject(tmp_path: Path) -> None:
    row = {"id": "a", "question": "q", "answer": "a", "boxes": [[0, 0, 1, 1]]}
    images = ["data:image/png;base64," + "A" * 9000, "/9j/4AAQSkZJRg" + "A" * 9000]
    found = list(read_source(write(tmp_path / "r.jsonl", [{**row, "id": image[:3], "image": image} for image in images])))
    assert [item.code for item in found] == ["bad_path"] * 2
    assert all("image must be the path of a file, got 9,0" in item.reason and len(item.reason) < 250 for item in found)
