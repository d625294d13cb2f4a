from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.boxes import convert, pairwise_iou
from sifthinker.engine.sources import read_source
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
        assert "v.jsonl:1" in reject.reason

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
        "change",
        [
            {"question": None},
            {"answer": None},
            {"answer": True},
            {"image": 5.5e300, "question": ["q"]},
            {"width": float("inf")},
            {"bboxs": [[0, 0, 10**400, 5]]},
            {"question": "half \ud800"},
        ],
    )
    def test_values_of_the_wrong_kind_are_rejects(self, tmp_path: Path, change: dict) -> None:
        (reject,) = read_source(write(tmp_path / "v.jsonl", [{**VISCOT, **change}]))
        assert isinstance(reject, Reject)

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
        assert first.code == code
        assert second.code in ("missing_key", "bad_record")


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
            with pytest.raises(ConfigError, match="are for tables"):
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
