"""COCO and LVIS instances that other tools write: nothing vanishes, and no count is wrong because an entry was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sifthinker.engine.sources import read_source
from sifthinker.records import Record, Reject

from .test_published import write

DOG, CAT = [10, 10, 50, 20], [0, 0, 5, 5]  # x, y, width, height of 100 × 50: dog [0.1, 0.2, 0.6, 0.6]


def one_dog(file: str = "a.jpg") -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": file, "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": list(DOG), "iscrowd": 0}],
    }


def read(tmp_path: Path, value: dict[str, Any]) -> tuple[dict[str, str], list[Reject]]:
    """id → answer of the records, and the rejects."""
    found = list(read_source(write(tmp_path / "i.json", value), format="coco"))
    records = [item for item in found if isinstance(item, Record)]
    assert all(int(record.answer) == len(record.boxes) for record in records)
    answers = {record.id: record.answer for record in records}
    assert len(answers) == len(records)
    return answers, [item for item in found if isinstance(item, Reject)]


class TestIdentity:
    def test_images_of_one_stem_are_several_images(self, tmp_path: Path) -> None:
        files = ["train/f.png", "val/f.png", "train/f.jpg", "g.png"]
        value = one_dog()
        value["images"] = [{"id": n, "file_name": file, "width": 100, "height": 50} for n, file in enumerate(files)]
        value["annotations"] = [{"image_id": n, "category_id": 1, "bbox": [0, 0, 10 + n, 10]} for n in range(4)]
        found = list(read_source(write(tmp_path / "i.json", value)))
        # A stem that is one image's alone stays its id.
        wanted = ["coco-train/f.png-dog", "coco-val/f.png-dog", "coco-train/f.jpg-dog", "coco-g-dog"]
        assert [item.id for item in found] == wanted
        assert [(item.image, item.boxes[0][2]) for item in found] == list(zip(files, [0.1, 0.11, 0.12, 0.13], strict=True))

    def test_a_stem_and_a_category_that_make_one_id(self, tmp_path: Path) -> None:
        value = one_dog()
        value["images"] = [{"id": n, "file_name": f, "width": 100, "height": 50} for n, f in ((1, "a.jpg"), (2, "a-b.jpg"))]
        value["categories"] = [{"id": 1, "name": "b-c"}, {"id": 2, "name": "c"}]
        value["annotations"] = [{"image_id": n, "category_id": n, "bbox": DOG} for n in (1, 2)]
        assert read(tmp_path, value) == ({"coco-a-b-c": "1", "coco-a-b-c-2": "1"}, [])

    @pytest.mark.parametrize("image", [1, "1", 1.0, "1.0", " 1 "])
    @pytest.mark.parametrize("category", [1, "1", 1.0])
    def test_ids_compare_as_what_they_name(self, tmp_path: Path, image: object, category: object) -> None:
        value = one_dog()
        value["annotations"][0] |= {"image_id": image, "category_id": category}
        assert read(tmp_path, value) == ({"coco-a-dog": "1"}, [])

    def test_ids_of_words_and_of_many_digits(self, tmp_path: Path) -> None:
        # As floats, both of these are 9007199254740992.
        value = one_dog()
        value["images"] = [
            {"id": str(n), "file_name": f"{n}.jpg", "width": 100, "height": 50} for n in (9007199254740992, 9007199254740993)
        ] + [{"id": "01", "file_name": "one.jpg", "width": 100, "height": 50}]
        value["annotations"] = [
            {"image_id": image, "category_id": 1, "bbox": DOG} for image in (9007199254740992, "9007199254740993", "01")
        ]
        answers, rejects = read(tmp_path, value)
        assert (len(answers), rejects) == (3, [])

    def test_categories_of_one_name_are_counted_together(self, tmp_path: Path) -> None:
        value = one_dog()
        value["categories"] = [
            {"id": n, "name": name} for n, name in ((1, "traffic_light"), (2, "Traffic Light"), (3, "cat"))
        ]
        value["annotations"] = [{"image_id": 1, "category_id": n, "bbox": [n, 0, 9, 9]} for n in (1, 2, 3)]
        cat, light = read_source(write(tmp_path / "i.json", value))
        assert (cat.answer, light.answer, light.question) == ("1", "2", "How many are there: traffic light?")


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """One dog in a.jpg, one cat in b.jpg, and the change."""
    value = one_dog()
    value["images"].append({"id": 2, "file_name": "b.jpg", "width": 100, "height": 50})
    value["annotations"].append({"id": 2, "image_id": 2, "category_id": 2, "bbox": list(CAT), "iscrowd": 0})
    change(value)
    return value


def annotation(**change: object) -> Callable[[dict[str, Any]], None]:
    """One more annotation, of a dog in a.jpg but for the change; None takes a key away."""
    row = {"id": 3, "image_id": 1, "category_id": 1, "bbox": [60, 0, 9, 9], **change}
    return lambda value: value["annotations"].append({key: item for key, item in row.items() if item is not None})


def entry(name: str, /, **row: object) -> Callable[[dict[str, Any]], None]:
    return lambda value: value[name].append(row)


NAN = float("nan")
BOTH, DOG_ALONE, CAT_ALONE = {"coco-a-dog", "coco-b-cat"}, {"coco-a-dog"}, {"coco-b-cat"}


class TestBadEntries:
    @pytest.mark.parametrize(
        ("change", "kept", "codes", "words"),
        [
            # Orphans belong to no count.
            (annotation(image_id=99), BOTH, ["bad_annotation"], "no entry of images has the image_id 99"),
            (annotation(category_id=99), BOTH, ["bad_annotation"], "no usable entry of categories has the category_id 99"),
            (annotation(image_id=None), BOTH, ["missing_key"], "lacks 'image_id'"),
            (annotation(image_id=NAN), BOTH, ["bad_record"], "image_id must be a number or text, got nan"),
            (annotation(image_id=True), BOTH, ["bad_record"], "image_id must be a number or text, got true"),
            # A dog that cannot be boxed makes two dogs of one: neither number is right.
            (annotation(bbox=[]), CAT_ALONE, ["bad_box", "bad_annotation"], "four numbers [x, y, width, height], got []"),
            (annotation(bbox=None), CAT_ALONE, ["missing_key", "bad_annotation"], "lacks 'bbox'"),
            (annotation(bbox=[1, 2, 3]), CAT_ALONE, ["bad_box", "bad_annotation"], "got [1, 2, 3]"),
            (annotation(bbox=[1, 2, 3, NAN]), CAT_ALONE, ["bad_box", "bad_annotation"], "got [1, 2, 3, nan]"),
            (annotation(bbox=[1, 2, True, 4]), CAT_ALONE, ["bad_box", "bad_annotation"], "must be four numbers"),
            (annotation(bbox=["1", "x", "3", "4"]), CAT_ALONE, ["bad_box", "bad_annotation"], "must be four numbers"),
            (annotation(bbox={"x": 1}), CAT_ALONE, ["bad_box", "bad_annotation"], "an object with the keys x"),
            (annotation(iscrowd=2), CAT_ALONE, ["bad_record", "bad_annotation"], "iscrowd must be 0 or 1, got 2"),
            (annotation(iscrowd="maybe"), CAT_ALONE, ["bad_record", "bad_annotation"], "must be 0 or 1, got 'maybe'"),
            (annotation(bbox=[60, 0, 0, 9]), CAT_ALONE, ["degenerate_box"], "has no area"),
            (annotation(bbox=[160, 0, 9, 9]), CAT_ALONE, ["box_outside"], "wholly outside"),
            (annotation(bbox=[1e308, 0, 1e308, 9]), CAT_ALONE, ["bad_box"], "four finite numbers"),
            # One without a category may be a dog.
            (annotation(category_id=None), CAT_ALONE, ["missing_key", "bad_annotation"], "lacks 'category_id'"),
            (annotation(bbox=DOG), CAT_ALONE, ["bad_annotation"], "have the same box"),
            (lambda value: value["annotations"].append(5), BOTH, ["not_an_object"], "expected a JSON object, got 5"),
            # Images.
            (entry("images", id=3, width=5, height=5), BOTH, ["blank_image"], "got no file_name and coco_url null"),
            (entry("images", id=3, file_name="c.jpg", width=5), BOTH, ["missing_key"], "lacks 'height'"),
            (entry("images", id=3, file_name="c.jpg", width=0, height=9), BOTH, ["bad_record"], "got 0 × 9"),
            (entry("images", id=3, file_name="c.jpg", width=5.5, height=9), BOTH, ["bad_record"], "a whole number, got 5.5"),
            (entry("images", file_name="c.jpg", width=5, height=9), BOTH, ["missing_key"], "lacks 'id'"),
            (entry("images", id=3, file_name=7, width=5, height=9), BOTH, ["bad_record"], "got file_name 7"),
            (lambda value: value["images"].append("c.jpg"), BOTH, ["not_an_object"], "got 'c.jpg'"),
            # The same id again, or the same file, leaves it open whose boxes they are.
            (entry("images", id=1, file_name="c.jpg", width=9, height=9), CAT_ALONE,
             ["ambiguous_image"], "several images have the image_id 1"),
            (entry("images", id=3, file_name="./a.jpg", width=9, height=9), CAT_ALONE,
             ["ambiguous_image"], "have the same file, a.jpg"),
            (entry("images", id=3, file_name="a.jpg"), CAT_ALONE, ["missing_key", "ambiguous_image"], "lacks 'width'"),
            (entry("images", id=1, width=9, height=9), CAT_ALONE, ["blank_image", "ambiguous_image"], "got no file_name"),
            (entry("images", id="1", file_name="a.jpg", width="100", height=50.0), BOTH, [], ""),
            # Categories.
            (entry("categories", id=3), BOTH, ["missing_key"], "lacks 'name'"),
            (entry("categories", id=3, name=" "), BOTH, ["blank_field"], "must be the name of the category"),
            (entry("categories", name="cow"), BOTH, ["missing_key"], "lacks 'id'"),
            (entry("categories", id=1, name="cow"), CAT_ALONE,
             ["duplicate_id", "bad_annotation"], "several categories have the id 1: 'dog' and 'cow'"),
            (entry("categories", id=1), CAT_ALONE, ["missing_key", "bad_annotation"], "lacks 'name'"),
            (entry("categories", id="1", name="dog"), BOTH, [], ""),
        ],
    )  # fmt: skip
    def test_one_is_one_reject_and_what_it_may_have_changed_is_another(
        self, tmp_path: Path, change: Callable[[dict[str, Any]], None], kept: set[str], codes: list[str], words: str
    ) -> None:
        answers, rejects = read(tmp_path, changed(change))
        assert answers == dict.fromkeys(kept, "1")
        assert [reject.code for reject in rejects] == codes
        assert words in " ".join(reject.reason for reject in rejects)
        assert all(reject.source.startswith("i.json:") for reject in rejects)

    def test_annotations_of_a_bad_image_are_named(self, tmp_path: Path) -> None:
        value = changed(lambda value: value["images"][0].pop("width"))
        answers, (image, dog) = read(tmp_path, value)
        assert set(answers) == CAT_ALONE
        assert (image.source, image.reason) == ("i.json:images[0]", "lacks 'width' (a whole number)")
        assert (dog.source, dog.reason) == ("i.json:annotations[0]", "no usable entry of images has the image_id 1")
        assert dog.id == "1"

    @pytest.mark.parametrize(
        ("bbox", "change", "words"),
        [
            (
                [35, 20, -4, 22],
                {},
                "bbox [35, 20, -4, 22] of annotation 4 has no area (x1, y1, x2, y2 are [35.0, 20.0, 31.0, 42.0]); width and "
                "height must be above 0",
            ),
            (
                [35, 20, 31, 42],
                {"bbox_mode": 0},
                "bbox [35, 20, 31, 42] of annotation 4 has no area (x1, y1, x2, y2 are [35.0, 20.0, 31.0, 42.0]); expected "
                "x1 < x2 and y1 < y2",
            ),
            (
                [110, 20, 4, 5],
                {"id": "n"},
                "box [110.0, 20.0, 114.0, 25.0] lies wholly outside the image (width 100, height 50); the file states bbox "
                "[110, 20, 4, 5] of annotation 'n'",
            ),
        ],
    )
    def test_a_bad_box_is_named_as_the_file_states_it(self, tmp_path: Path, bbox: list, change: dict, words: str) -> None:
        value = one_dog()
        value["annotations"].append({"id": 4, "image_id": 1, "category_id": 2, "bbox": bbox, **change})
        _, (reject,) = read(tmp_path, value)
        assert (reject.source, reject.reason) == ("i.json:a.jpg:cat", words)


class TestCrowds:
    @pytest.mark.parametrize("flag", [0, 0.0, False, "0", "false", "False", "", None])
    def test_no_crowd(self, tmp_path: Path, flag: object) -> None:
        value = one_dog()
        value["annotations"][0] |= {"iscrowd": flag, "bbox": ["10", "10", "50", "20"]}
        (record,) = read_source(write(tmp_path / "i.json", value))
        np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.6, 0.6]])

    @pytest.mark.parametrize("flag", [1, 1.0, True, "1", "true"])
    @pytest.mark.parametrize("name", ["iscrowd", "ignore"])
    def test_a_crowd(self, tmp_path: Path, flag: object, name: str) -> None:
        value = changed(annotation(**{name: flag}))
        answers, (reject,) = read(tmp_path, value)
        assert (set(answers), reject.code) == (CAT_ALONE, "crowd")
        assert "i.json:annotations[2] is a crowd region" in reject.reason


class TestLVIS:
    def test_images_are_named_by_their_address(self, tmp_path: Path) -> None:
        value = one_dog()
        del value["images"][0]["file_name"]
        value["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000042.jpg"
        (record,) = read_source(write(tmp_path / "i.json", value))
        assert (record.id, record.image) == ("coco-000000000042-dog", "train2017/000000000042.jpg")

    @pytest.mark.parametrize("listed", [[1], ["1"], [1.0, 99]])
    def test_what_is_not_boxed_throughout_is_not_counted(self, tmp_path: Path, listed: list) -> None:
        value = changed(lambda value: value["images"][0].update(not_exhaustive_category_ids=listed, neg_category_ids=[2]))
        answers, (reject,) = read(tmp_path, value)
        assert (set(answers), reject.code) == (CAT_ALONE, "crowd")
        assert "not_exhaustive_category_ids" in reject.reason

    @pytest.mark.parametrize("listed", [[], None, [2]])
    def test_the_rest_is(self, tmp_path: Path, listed: list | None) -> None:
        value = changed(lambda value: value["images"][0].update(not_exhaustive_category_ids=listed))
        assert set(read(tmp_path, value)[0]) == BOTH


def test_the_same_file_gives_the_same_records(tmp_path: Path) -> None:
    value = changed(annotation(bbox=[]))
    first, second = (list(read_source(write(tmp_path / "i.json", copy.deepcopy(value)))) for _ in range(2))
    assert first == second


def test_an_indented_file(tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    path.write_text(json.dumps(one_dog(), indent=2))
    (record,) = read_source(path)  # its form is seen as well
    assert (record.id, record.answer) == ("coco-a-dog", "1")


class TestOtherTools:
    @pytest.mark.parametrize(
        "flag",
        [
            {"IsGroupOf": True}, {"isgroupof": 1}, {"is_group": "true"}, {"is_group_of": 1.0}, {"is_crowd": 1},
            {"isCrowd": True},
            {"crowd": "yes"}, {"ignored": 1}, {"attributes": {"is_crowd": True}}, {"extra": {"ignore": 1}},
        ],
    )  # fmt: skip
    def test_a_group_is_not_one_object(self, tmp_path: Path, flag: dict[str, object]) -> None:
        answers, rejects = read(tmp_path, changed(annotation(**flag)))
        assert (answers.keys(), [reject.code for reject in rejects]) == (CAT_ALONE, ["crowd"])

    @pytest.mark.parametrize(
        "flag", [{"IsGroupOf": False}, {"is_group": 0}, {"attributes": {"occluded": True}}, {"extra": "x"}]
    )
    def test_one_object_is(self, tmp_path: Path, flag: dict[str, object]) -> None:
        assert read(tmp_path, changed(annotation(**flag))) == ({"coco-a-dog": "2", "coco-b-cat": "1"}, [])

    @pytest.mark.parametrize(
        ("mode", "right"),
        # (20, 10, 50, 30): corners end at 50 of 100 pixels, corner and size at 70.
        [({"bbox_mode": 0}, 0.5), ({"bbox_mode": "BoxMode.XYXY_ABS"}, 0.5), ({"bbox_mode": "XYXY_ABS"}, 0.5),
         ({"bbox_format": "xyxy"}, 0.5), ({"bbox_mode": 1}, 0.7), ({"bbox_mode": "XYWH_ABS"}, 0.7),
         ({"bbox_mode": None}, 0.7),
         ({}, 0.7)],
    )  # fmt: skip
    def test_the_form_of_a_box_is_what_it_says(self, tmp_path: Path, mode: dict[str, object], right: float) -> None:
        value = one_dog()
        value["annotations"][0] |= {"bbox": [20, 10, 50, 30], **mode}
        (record,) = read_source(write(tmp_path / "i.json", value))
        np.testing.assert_allclose(record.boxes, [[0.2, 0.2, right, 0.6 if right == 0.5 else 0.8]])

    @pytest.mark.parametrize("mode", [2, 3, 4, "XYWHA_ABS", "cxcywh", True, [0]])
    def test_another_form_spoils_the_count(self, tmp_path: Path, mode: object) -> None:
        answers, rejects = read(tmp_path, changed(annotation(bbox_mode=mode)))
        assert (answers.keys(), [reject.code for reject in rejects]) == (CAT_ALONE, ["bad_box", "bad_annotation"])
        assert "must be 0 (XYXY_ABS, two corners) or 1 (XYWH_ABS, corner and size)" in rejects[0].reason

    def test_fractions_are_no_pixels(self, tmp_path: Path) -> None:
        value = one_dog()
        value["annotations"][0]["bbox"] = [0.1, 0.2, 0.4, 0.4]
        answers, (reject,) = read(tmp_path, value)
        assert (answers, reject.code) == ({}, "bad_box")
        assert (
            "looks like fractions of the image, expected pixels; multiply by the image's width and height" in reject.reason
        )


class TestManyOfOneId:
    MANY = 20_000  # quadratic time would be minutes

    def test_categories(self, tmp_path: Path) -> None:
        value = one_dog()
        value["categories"] = [{"id": 1, "name": f"c{n}"} for n in range(self.MANY)] + [{"id": 2, "name": "cat"}]
        value["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": DOG}] * self.MANY
        answers, rejects = read(tmp_path, value)
        assert answers == {}
        assert len(rejects) == self.MANY - 1 + self.MANY
        assert max(len(reject.reason) for reject in rejects) < 200

    def test_images(self, tmp_path: Path) -> None:
        value = one_dog()
        value["images"] = [{"id": 1, "file_name": f"{n}.jpg", "width": 9, "height": 9} for n in range(self.MANY)]
        value["images"] += [{"id": 1, "file_name": "0.jpg", "width": 0, "height": 9}] * self.MANY
        value["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": DOG}] * self.MANY
        answers, rejects = read(tmp_path, value)
        assert (answers, len(rejects)) == ({}, 2 * self.MANY)
