"""RefCOCO-style lines, COCO instances, TallyQA, and tables, by hand and where published files are at hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.engine.sources import read_source
from sifthinker.errors import ConfigError, RecordError
from sifthinker.records import Record, Reject

REFCOCO = {
    "img_path": "a.jpg", "expression": "left dog", "bbox": [10, 10, 60, 30], "width": 100, "height": 50,
    "dataset_name": "x/refcoco", "sent_id": 7, "split": "testB",
}  # fmt: skip

COCO = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
        {"id": 2, "file_name": "b.jpg", "width": 10, "height": 10},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 6, "name": "person"}, {"id": 7, "name": "hot dog"}],
    "annotations": [
        {"image_id": 1, "category_id": 5, "bbox": [10, 10, 50, 20], "iscrowd": 0},
        {"image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10], "iscrowd": 0},
        {"image_id": 1, "category_id": 6, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 0},
    ],
}  # fmt: skip


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def codes(items: list[Record | Reject]) -> list[str]:
    return [item.code if isinstance(item, Reject) else "ok" for item in items]


class TestRefCOCO:
    def test_pixels_become_fractions(self, tmp_path: Path) -> None:
        (record,) = read_source(write(tmp_path / "r.jsonl", REFCOCO))
        assert isinstance(record, Record)
        np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.6, 0.6]])
        assert (record.id, record.question, record.answer) == ("refcoco-testB-7", 'Where is "left dog"?', "left dog")

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"bbox": [60, 10, 10, 30]}, "degenerate_box"),
            ({"bbox": None}, "bad_box"),
            ({"width": "wide"}, "bad_record"),
            ({"expression": " "}, "blank_question"),
            ({"img_path": None}, "blank_field"),
        ],
    )
    def test_faults_are_rejects(self, tmp_path: Path, change: dict, code: str) -> None:
        (found,) = read_source(write(tmp_path / "r.jsonl", {**REFCOCO, **change}), format="refcoco")
        assert codes([found]) == [code]

    def test_the_published_file(self, shared: Path) -> None:
        found = list(read_source(shared / "data" / "refcoco" / "REC_refcoco_unc_testB.jsonl"))
        assert len(found) > 5000
        assert codes(found).count("ok") == len(found)


class TestCOCO:
    def test_categories_become_counting_questions(self, tmp_path: Path) -> None:
        found = list(read_source(write(tmp_path / "instances.json", COCO)))
        assert codes(found) == ["ok", "crowd", "ok"]
        dogs = found[0]
        assert isinstance(dogs, Record)
        assert (dogs.id, dogs.question, dogs.answer) == ("coco-a-dog", "How many are there: dog?", "2")
        np.testing.assert_allclose(dogs.boxes, [[0.1, 0.2, 0.6, 0.6], [0, 0, 0.1, 0.2]])

    def test_more_than_anybody_counts(self, tmp_path: Path) -> None:
        many = {**COCO, "annotations": [COCO["annotations"][0]] * 21}
        assert codes(list(read_source(write(tmp_path / "i.json", many)))) == ["too_many_boxes"]

    @pytest.mark.parametrize("value", [{**COCO, "images": 5}, {"images": [], "annotations": []}, [], 5])
    def test_other_json_is_refused(self, tmp_path: Path, value: object) -> None:
        with pytest.raises(RecordError, match=r"i\.json: expected COCO instances with a list of (images|categories), got "):
            list(read_source(write(tmp_path / "i.json", value), format="coco"))


class TestTallyQA:
    def ask(self, tmp_path: Path, *rows: dict) -> list[Record | Reject]:
        asked = [{"image": "train2014/a.jpg", "question_id": n, "issimple": True, **row} for n, row in enumerate(rows)]
        instances = write(tmp_path / "i.json", COCO)
        return list(read_source(write(tmp_path / "t.json", asked), instances=instances))

    def test_boxes_come_from_the_instances(self, tmp_path: Path) -> None:
        (record,) = self.ask(tmp_path, {"question": "How many dogs sit beside the person?", "answer": 2})
        assert isinstance(record, Record)
        assert (record.image, record.answer, len(record.boxes)) == ("train2014/a.jpg", "2", 2)

    def test_what_cannot_be_boxed_says_why(self, tmp_path: Path) -> None:
        found = self.ask(
            tmp_path,
            {"question": "How many dogs?", "answer": 3},
            {"question": "How many people?", "answer": 1},
            {"question": "How many giraffes?", "answer": 1},
            {"question": "How many dogs?", "answer": 2, "image": "VG_100K/9.jpg"},
            {"question": "How many hot dogs?", "answer": 0},
            {"question": "How many dogs?", "answer": "two"},
            {"question": "How many dogs?"},
        )
        wanted = ["count_mismatch", "count_mismatch", "no_category", "no_instances", "no_box", "bad_record", "missing_key"]
        assert codes(found) == wanted
        assert "has a crowd" not in found[0].reason
        assert "is a crowd region" in found[1].reason

    def test_without_instances(self, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match="with --instances"):
            list(read_source(write(tmp_path / "t.json", []), format="tallyqa"))


COLUMNS = {"question": "q", "answer": "a", "image": "file", "boxes": "bbox"}


class TestTables:
    ROWS = [
        {"q": "What?", "a": "cat", "file": "a.png", "bbox": [10, 10, 50, 20], "width": 100, "height": 50},
        {"q": "How many?", "a": 2, "file": "b.png", "bbox": [[0, 0, 10, 10], [20, 20, 5, 5]], "width": 100, "height": 50},
    ]

    def check(self, found: list[Record | Reject]) -> None:
        assert codes(found) == ["ok", "ok"], found
        first, second = found
        np.testing.assert_allclose(first.boxes, [[0.1, 0.2, 0.6, 0.6]])
        np.testing.assert_allclose(second.boxes, [[0, 0, 0.1, 0.2], [0.2, 0.4, 0.25, 0.5]])
        assert (first.answer, second.answer, first.dataset, first.id) == ("cat", "2", "t", "t-000000")

    def test_csv(self, tmp_path: Path) -> None:
        with open(tmp_path / "t.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.ROWS[0]))
            writer.writeheader()
            writer.writerows({**row, "bbox": json.dumps(row["bbox"])} for row in self.ROWS)
        self.check(list(read_source(tmp_path / "t.csv", columns=COLUMNS, box_space="pixel", box_form="xywh")))

    def test_parquet_and_a_saved_dataset(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        rows = [{**row, "a": str(row["a"]), "bbox": np.atleast_2d(row["bbox"]).tolist()} for row in self.ROWS]
        table = datasets.Dataset.from_list(rows)
        table.to_parquet(tmp_path / "t.parquet")
        table.save_to_disk(tmp_path / "t")
        for name in ("t.parquet", "t"):
            self.check(list(read_source(tmp_path / name, columns=COLUMNS, box_space="pixel", box_form="xywh")))

    def test_images_in_the_table_are_kept_once(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        picture = Image.new("RGB", (100, 50), "red")
        rows = {"image": [picture, picture], "question": ["a?", "b?"], "answer": ["x", "y"], "boxes": [[[0, 0, 1, 1]]] * 2}
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "question": datasets.Value("string"),
                "answer": datasets.Value("string"),
                "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
            }
        )
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "t")
        found = list(read_source(tmp_path / "t", images=tmp_path / "kept"))
        assert codes(found) == ["ok", "ok"], found
        assert len(list((tmp_path / "kept").iterdir())) == 1
        assert Image.open(tmp_path / "kept" / found[0].image).size == (100, 50)
        assert codes(list(read_source(tmp_path / "t"))) == ["missing_image_root"] * 2

    def test_columns_that_are_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("q,a\n1,2\n")
        for columns, words in (
            ({}, "no column for the field image"),
            ({**COLUMNS, "question": "ask"}, "no column 'ask'"),
            ({"colour": "q"}, "columns: unknown field 'colour'"),
        ):
            with pytest.raises(ConfigError, match=words):
                list(read_source(tmp_path / "t.csv", columns=columns))

    def test_rows_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text('question,answer,image,boxes\nq,a,i.png,"[["\nq,a,i.png,\n,a,i.png,"[0,0,1,1]"\n')
        assert codes(list(read_source(tmp_path / "t.csv"))) == ["bad_box", "no_box", "blank_question"]

    def test_empty_cells_are_nothing(self, tmp_path: Path) -> None:
        lines = [
            "id,question,answer,image,boxes,depth,width,height,family",
            ',q,a,i.png,"[[1,1,5,5]]",,10.0,10.0,',
            'x,q,a,i.png,"[[1,1,5,5]]",d.png,,,f',
        ]
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        first, second = read_source(tmp_path / "t.csv", box_space="pixel")
        assert (first.id, first.depth, first.family, first.size) == ("t-000000", None, "", (10, 10))
        assert (second.id, second.code) == ("x", "missing_image")  # its size must come from the image

    def test_missing_files(self, tmp_path: Path) -> None:
        for name in ("no.csv", "no.parquet"):
            with pytest.raises(RecordError, match="cannot read"):
                list(read_source(tmp_path / name))
