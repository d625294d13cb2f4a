"""TallyQA: which thing a question counts, and which image it is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sifthinker.engine.sources import read_source
from sifthinker.engine.sources.tallyqa import counted_category, spoken
from sifthinker.errors import RecordError
from sifthinker.records import Record, Reject

from .test_published import codes, write

FORMS = spoken(
    ["dog", "person", "hot dog", "orange", "sheep", "wine glass", "bus", "car", "tennis racket", "bed", "mouse", "knife",
     "potted plant", "skis", "tv", "bear", "truck", "horse", "bow (weapon)"]
)  # fmt: skip


class TestQuestions:
    @pytest.mark.parametrize("question", ["How many dogs " + "do " * 50_000, "How many dogs" + " can" * 50_000])
    def test_a_long_one_is_refused_at_once(self, question: str) -> None:
        with pytest.raises(RecordError, match="at most 1,000 characters") as caught:
            counted_category(question, FORMS, "t")
        assert caught.value.code == "ambiguous_question"

    @pytest.mark.parametrize(
        ("question", "category"),
        [
            ("How many dogs are on the bed?", "dog"),
            ("How many dogs sit beside the person?", "dog"),
            ("how many dog are there", "dog"),
            ("How many dog(s) are there?", "dog"),
            ("How many people are wearing hats?", "person"),
            ("How many people on motorcycles?", "person"),
            ("How many persons?", "person"),
            ("How many people can be seen in the photo?", "person"),
            ("How many of the people are sitting?", "person"),
            ("What number of dogs are there?", "dog"),
            ("What is the number of dogs?", "dog"),
            ("How many dogs do you have in the picture?", "dog"),
            ("How many cars does the picture have?", "car"),
            ("How many cars are on the road?", "car"),
            ("Count the dogs.", "dog"),
            ("Count all of the dogs", "dog"),
            ("In the picture, how many dogs are there?", "dog"),
            ("How many red cars are parked?", "car"),
            ("How many black and white dogs can you see?", "dog"),
            ("How many tennis rackets are there?", "tennis racket"),
            ("How many hot dogs are on the plate?", "hot dog"),
            ("How many wine glasses?", "wine glass"),
            ("How many orange dogs?", "dog"),
            ("How many oranges are in the bowl?", "orange"),
            ("How many sheep are grazing?", "sheep"),
            ("How many mice?", "mouse"),
            ("How many knives are on the bed?", "knife"),
            ("How many buses are there?", "bus"),
            ("How many TVs are on?", "tv"),
            ("How many potted_plants are there?", "potted plant"),
        ],
    )
    def test_what_is_counted(self, question: str, category: str) -> None:
        assert counted_category(question, FORMS, "t") == category

    @pytest.mark.parametrize(
        "question",
        [
            # another thing, named before the category
            "How many legs does the dog have?",
            "How many wheels are on the bus?",
            "How many colors are on the bus?",
            "How many slices of orange are there?",
            "How many pairs of skis are there?",
            "How many kinds of dogs are there?",
            # the category is part of another name
            "How many dog bowls are there?",
            "How many dogs' bowls are there?",
            "How many people's hats are red?",
            "How many people-movers are there?",
            "How many orange juices are there?",
            "How many teddy bears are there?",
            "How many toy cars are there?",
            "How many rocking horses are there?",
            "How many dogs heads are there?",
            "How many cars does the train have?",
            "How many cars on the train?",
            "How many cars are attached to the locomotive?",
            "How many dogs does the man have?",
            "How many beds do the trucks have?",
            # more than the category
            "How many dogs and cats are there?",
            "How many dogs or cats are there?",
            "How many dogs, cats?",
            "How many dogs are there and how many people?",
            # another number
            "How many people can sit on the bench?",
            "How many people does the bus hold?",
            "How many oranges are in each bowl?",
            "How many more dogs than people are there?",
            "How many people are there besides the man?",
            "If a dog leaves, how many dogs are left?",
            "What is the number of the bus?",
            "Are there many dogs?",
        ],
    )
    def test_what_is_not_clearly_counted(self, question: str) -> None:
        with pytest.raises(RecordError, match="does not clearly ask for their number") as caught:
            counted_category(question, FORMS, "t")
        assert caught.value.code == "ambiguous_question"

    @pytest.mark.parametrize("question", ["How many giraffes?", "How many dogsleds?", "How many bows?"])
    def test_what_is_no_category(self, question: str) -> None:
        with pytest.raises(RecordError) as caught:
            counted_category(question, FORMS, "t")
        assert caught.value.code == "no_category"

    def test_categories_without_objects_count_as_names(self, tmp_path: Path) -> None:
        # "hot dog" is in the list of categories alone; read as "dog", the question would be about the boxed dog.
        value = instances("a.jpg")
        value["categories"].append({"id": 2, "name": "hot dog"})
        (reject,) = ask(tmp_path, value, {"image": "a.jpg", "question": "How many hot dogs?", "answer": 1})
        assert reject.code == "count_mismatch"

    def test_a_restriction_holds_for_all_where_the_count_agrees(self, tmp_path: Path) -> None:
        rows = [{"image": "a.jpg", "question": "How many brown dogs?", "answer": answer} for answer in (0, 1)]
        assert codes(ask(tmp_path, instances("a.jpg"), *rows)) == ["count_mismatch", "ok"]


def instances(*files: str) -> dict:
    """One dog in each image."""
    return {
        "images": [{"id": n, "file_name": file, "width": 100, "height": 50} for n, file in enumerate(files)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": [0, 0, 10 + n, 10]} for n in range(len(files))],
    }


def ask(tmp_path: Path, boxed: dict, *rows: dict) -> list[Record | Reject]:
    asked = write(
        tmp_path / "t.json", [{"question": "How many dogs?", "answer": 1, "issimple": True, **row} for row in rows]
    )
    found = list(read_source(asked, instances=write(tmp_path / "i.json", boxed)))
    assert len(found) == len(rows)
    return found


class TestImages:
    @pytest.mark.parametrize(
        ("files", "image", "result"),
        [
            (["a.jpg"], "train2014/a.jpg", 0.1),
            (["train2014/a.jpg"], "a.jpg", 0.1),
            (["coco\\train2014\\a.jpg"], "train2014/a.jpg", 0.1),
            (["train2014/a.jpg", "val2014/a.jpg"], "val2014/a.jpg", 0.11),
            (["train2014/a.jpg", "val2014/a.jpg"], "a.jpg", "ambiguous_image"),
            (["train2014/a.jpg", "val2014/a.jpg"], "VG_100K/a.jpg", "no_instances"),
            (["train2014/a.jpg"], "val2014/a.jpg", "no_instances"),
            (["a.jpg", "val2014/a.jpg"], "val2014/a.jpg", 0.11),
            (["a.jpg", "a.jpg"], "a.jpg", "ambiguous_image"),
            (["train2014/xa.jpg"], "a.jpg", "no_instances"),
        ],
    )
    def test_compare_by_the_tails_of_their_paths(self, tmp_path: Path, files: list, image: str, result: object) -> None:
        (found,) = ask(tmp_path, instances(*files), {"image": image})
        assert (found.boxes[0][2] if isinstance(found, Record) else found.code) == result

    def test_two_images_that_are_asked_about_cannot_both_be_the_boxed_one(self, tmp_path: Path) -> None:
        rows = [{"image": image, "question_id": n} for n, image in enumerate(("train2014/a.jpg", "VG_100K/a.jpg"))]
        first, second = ask(tmp_path, instances("a.jpg"), *rows)
        assert (first.code, second.code) == ("ambiguous_image", "ambiguous_image")
        assert "fits both train2014/a.jpg and VG_100K/a.jpg" in first.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "two"}, "answer must be a whole number, got 'two'"),
        ({"answer": True}, "answer must be a whole number, got true"),
        ({"answer": 1.5}, "answer must be a whole number, got 1.5"),
        ({"answer": float("nan")}, "answer must be a whole number, got nan"),
        ({"answer": [1]}, "answer must be a whole number, got [1]"),
        ({"image": None}, "image must be the path of an image, got null"),
        ({"question": ["q", "r"]}, "question must be one text, got a list of 2"),
    ],
)
def test_faults_name_the_field(tmp_path: Path, change: dict, words: str) -> None:
    (found,) = ask(tmp_path, instances("a.jpg"), {"image": "a.jpg", **change})
    assert words in found.reason


@pytest.mark.parametrize("answer", [1, 1.0, "1", "1.0"])
def test_numbers_however_they_are_written(tmp_path: Path, answer: object) -> None:
    (record,) = ask(tmp_path, instances("a.jpg"), {"image": "a.jpg", "answer": answer, "question_id": 7.0})
    assert (record.id, record.answer) == ("tallyqa-7", "1")


def test_a_spoilt_count_is_no_answer(tmp_path: Path) -> None:
    boxed = instances("a.jpg")
    boxed["annotations"].append({"image_id": 0, "category_id": 1, "bbox": []})
    (reject,) = ask(tmp_path, boxed, {"image": "a.jpg"})
    assert (
        reject.code,
        "i.json:annotations[1]: bbox must be four numbers [x, y, width, height], got []" in reject.reason,
    ) == ("bad_annotation", True)


def test_a_box_without_area_is_named_as_the_instances_state_it(tmp_path: Path) -> None:
    boxed = instances("a.jpg")
    boxed["annotations"][0] |= {"id": 4, "bbox": [10, 10, 50, 0]}
    (reject,) = ask(tmp_path, boxed, {"image": "a.jpg"})
    assert (reject.code, reject.reason.startswith("bbox [10, 10, 50, 0] of annotation 4 has no area")) == (
        "degenerate_box",
        True,
    )


def test_questions_may_be_json_lines(tmp_path: Path) -> None:
    instances = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 20]}],
    }
    row = json.dumps({"image": "a.jpg", "question": "How many dogs?", "answer": 1, "question_id": 7, "issimple": True})
    (tmp_path / "q.jsonl").write_text(f"{row}\nrubbish\n")
    found = list(read_source(tmp_path / "q.jsonl", instances=write(tmp_path / "i.json", instances)))
    assert [getattr(item, "code", "") or item.id for item in found] == ["tallyqa-7", "not_json"]


def test_many_images_of_one_file_name_take_linear_time(tmp_path: Path) -> None:
    many = 20_000  # frames of as many films; quadratic time would be minutes
    files = [f"film{n}/0.jpg" for n in range(many)]
    instances = {
        "images": [{"id": n, "file_name": file, "width": 100, "height": 50} for n, file in enumerate(files)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": [10, 10, 50, 20]} for n in range(many)],
    }
    asked = [{"image": f"root/{file}", "question": "How many dogs?", "answer": 1, "question_id": n, "issimple": True}
             for n, file in enumerate(files)]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "i.json").write_text(json.dumps(instances))
    found = list(read_source(tmp_path / "q.json", instances=tmp_path / "i.json"))
    assert sum(isinstance(item, Record) for item in found) == many
