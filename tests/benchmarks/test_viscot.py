"""VisCoT: its published forms, answers by rules, boxes by IoU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.questions import Question

from .answered import chain, is_valid, lenient, numbers_of, rows_of, strict

VISCOT = benchmark("viscot")
WIDTH, HEIGHT = 200, 100
# The target of every question: the left half. In whole pixels [0, 0, 99, 100]; in fractions of the padded square, whose
# side is 200 and which holds the image from y = 50 on, [0, 0.25, 0.5, 0.75].
LEFT = (0.0, 0.0, 0.5, 1.0)
REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."
Rows = list[dict[str, Any]]


def conversations(answers: list[str], dataset: str = "vsr", question: str = "Is the dog left of the cat?") -> Rows:
    return [
        {
            "dataset": dataset,
            "split": "val",
            "question_id": 3 * number,
            "image": [f"cot/{dataset}/1.jpg", f"cot/{dataset}/1.jpg###[0, 0, 99, 100]"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{question} {REQUEST}"},
                {"from": "gpt", "value": "[0.000, 0.250, 0.500, 0.750]"},
                {"from": "human", "value": "<image>"},
                {"from": "gpt", "value": answer},
            ],
        }
        for number, answer in enumerate(answers)
    ]


def boxes(count: int, dataset: str = "vsr", bbox: Any = (0.0, 0.0, 100.0, 100.0)) -> Rows:
    return [
        {
            "img_path": f"cot/{dataset}/1.jpg",
            "expression": "Is the dog left of the cat?",
            "bbox": list(bbox),
            "height": HEIGHT,
            "width": WIDTH,
            "question_id": 3 * number,
            "split": "val",
        }
        for number in range(count)
    ]


def write(folder: Path, said: Rows | None = None, seen: Rows | None = None, dataset: str = "vsr") -> Path:
    """The files of one dataset as published, and its image."""
    (folder / "cot" / dataset).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(folder / "cot" / dataset / "1.jpg")
    if said is not None:
        (folder / "benchmark").mkdir(exist_ok=True)
        (folder / "benchmark" / f"{dataset}.json").write_text(json.dumps(said, indent=1))
    if seen is not None:
        (folder / "benchmark_det").mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in seen)
        (folder / "benchmark_det" / f"{dataset}.jsonl").write_text(lines)
    return folder


def read(path: Path, split: str = "all", **how: Any) -> list[Question]:
    return VISCOT.read(str(path), split, **{"images": None, "limit": None, **how})


def test_both_forms_are_read_together(tmp_path: Path) -> None:
    write(tmp_path, conversations(["yes", "no"]), boxes(2))
    first, second = read(tmp_path)
    assert (first.id, second.id) == ("vsr-0", "vsr-3")
    assert first.question == "Is the dog left of the cat?"
    assert (first.answers, second.answers) == (("yes",), ("no",))
    assert first.boxes == (LEFT,)  # the exact box; the conversation's ends a pixel before
    assert first.image == tmp_path / "cot" / "vsr" / "1.jpg"
    assert (first.dataset, first.split) == ("vsr", "val")
    # The same from the dataset's file and from a clone of the repository; the image's path is relative to --images.
    assert read(tmp_path / "benchmark" / "vsr.json", images=tmp_path) == [first, second]
    clone = tmp_path / "clone"
    write(clone / "viscot_benchmark", conversations(["yes"]), boxes(1))
    assert read(clone, images=tmp_path)[0] == first
    assert len(read(tmp_path, limit=1)) == 1


def test_conversations_alone_take_the_size_from_the_image(tmp_path: Path) -> None:
    write(tmp_path, conversations(["yes"]))
    (asked,) = read(tmp_path)
    assert asked.boxes == ((0.0, 0.0, 99 / 200, 1.0),)
    (tmp_path / "cot" / "vsr" / "1.jpg").unlink()
    assert read(tmp_path)[0].boxes == ()  # it cannot be asked anyway; asking it says why


def test_boxes_alone_have_no_answers(tmp_path: Path) -> None:
    write(tmp_path, None, boxes(2))
    asked = read(tmp_path)
    assert [question.id for question in asked] == ["vsr-0", "vsr-3"]
    assert asked[0].answers == ()
    assert asked[0].boxes == (LEFT,)
    numbers = numbers_of(VISCOT, asked, [chain([LEFT], "yes")] * 2, tmp_path)
    assert strict(numbers) == {"HIoU": 1, "box accuracy": 1, "vsr HIoU": 1}


def test_the_form_of_the_training_data_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    row = {"question": "Where?", "answer": "left", "image": "1.jpg", "width": WIDTH, "height": HEIGHT, "dataset": "vsr"}
    row |= {"split": "val", "bboxs": [[0, 0, 50, 100], [50, 0, 100, 100]]}
    (tmp_path / "vsr_cot_val.jsonl").write_text(json.dumps(row) + "\n")
    (asked,) = read(tmp_path)
    assert (asked.id, asked.answers) == ("vsr-val-000000", ("left",))
    assert asked.boxes == ((0.0, 0.0, 0.25, 1.0), (0.25, 0.0, 0.5, 1.0))
    assert asked.image == tmp_path / "cot" / "vsr" / "1.jpg"  # found in its dataset's folder


def test_splits_are_datasets_and_all_are_the_papers_twelve(tmp_path: Path) -> None:
    write(tmp_path, conversations(["yes"], "gqa"), dataset="gqa")
    write(tmp_path, conversations(["no"]))
    write(tmp_path, conversations(["happy"], "emotic"), dataset="emotic")
    assert [asked.dataset for asked in read(tmp_path)] == ["gqa", "vsr"]
    assert [asked.dataset for asked in read(tmp_path, "vsr")] == ["vsr"]
    assert [asked.dataset for asked in read(tmp_path, "emotic")] == ["emotic"]
    with pytest.raises(RecordError, match="contains no file of cub"):
        read(tmp_path, "cub")
    with pytest.raises(RecordError, match="expected a row of the dataset 'vsr', got 'gqa'"):
        read(tmp_path / "benchmark" / "gqa.json", "vsr")
    with pytest.raises(ConfigError, match="no split 'val'; expected one of all, docvqa"):
        read(tmp_path, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="contains no file of the benchmark"):
        read(tmp_path / "empty")


def test_a_question_whose_box_is_none_stays_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = boxes(3)
    rows[0]["bbox"], rows[1]["bbox"] = [50, 0, 50, 100], [300, 0, 400, 100]  # no area; outside of 200 pixels
    write(tmp_path, conversations(["yes"] * 3), rows)
    with caplog.at_level(logging.WARNING):
        asked = read(tmp_path)
    assert [question.boxes for question in asked] == [(), (), (LEFT,)]
    (message,) = caplog.messages
    assert message.startswith("2 of 3 questions have no usable target box and are asked without one")
    assert "vsr.json[0]" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said, seen: said[0]["conversations"].pop(), "got 3 turns, so the answer is missing"),
        (lambda said, seen: said[0]["conversations"][0].pop("value"), "lacks 'value'"),
        (lambda said, seen: said[0]["image"].pop(), "got an entry without a box"),
        (lambda said, seen: said[0].update(image=["../1.jpg", "../1.jpg###[0, 0, 1, 1]"]), "leads outside"),
        (lambda said, seen: said[0].pop("split"), "lacks 'split'"),
        (lambda said, seen: said[0]["conversations"][3].update(value=" "), "answers must be text that is not blank, got ''"),
        (lambda said, seen: said[1].update(question_id=0), "has another question at"),
        (lambda said, seen: (said[1].update(question_id=0), seen[1].update(question_id=0)), "is already used"),
        (lambda said, seen: seen.pop(), "has no row for this question"),
        (lambda said, seen: said.pop(), "has no conversation"),
        (lambda said, seen: seen[0].update(bbox=[1, 2, 3]), "a box must be four finite numbers, got "),
        (lambda said, seen: seen[0].update(width=0), "must be an image size in pixels"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(change: Any, message: str, tmp_path: Path) -> None:
    said, seen = conversations(["yes", "no"]), boxes(2)
    change(said, seen)
    with pytest.raises(RecordError, match=message) as caught:
        read(write(tmp_path, said, seen))
    assert "vsr.json" in str(caught.value)  # vsr.json[0] or vsr.jsonl:1


def test_the_real_files_are_read(shared: Path) -> None:
    asked = read(shared / "data" / "viscot")
    assert len(asked) == 404
    assert all(question.boxes and question.answers for question in asked)


# ------------------------------------------------------------------------------------------------------------- scoring

ANSWERS = [
    # truth, completion, right, HIoU, single box right, box around right
    ("yes", chain([LEFT], "Yes."), 1, 1.0, 1, 1),
    ("yes", chain([LEFT], "yes and no"), 0, 1.0, 1, 1),
    ("no", chain([(0, 0, 0.2, 1)], "No, it is right of it."), 1, 0.4, 0, 0),
    ("dog", chain([(0, 0, 1, 1)], "a dog"), 1, 0.5, 1, 1),
    ("dog", chain([(0, 0, 1, 1)], "dog or cat"), 0, 0.5, 1, 1),
    # Two boxes that make up the target: set IoU 1, paired IoU 0.5 / 2.
    ("two", chain([(0, 0, 0.5, 0.5), (0, 0.5, 0.5, 1)], "2"), 1, 0.625, 0, 1),
    ("red", chain([(0.5, 0, 1, 1)], "blue"), 0, 0.0, 0, 0),
    ("red", chain([LEFT], "red").replace("</answer>", ""), 0, 1.0, 1, 1),  # an answer that never ends cannot be read
    ("red", "It is red.", 0, 0.0, 0, 0),  # no chain, no answer
    ("red", "", 0, 0.0, 0, 0),
]


def test_hand_worked_verdicts(tmp_path: Path) -> None:
    asked = read(write(tmp_path, conversations([truth for truth, *_ in ANSWERS]), boxes(10)))
    rows = rows_of(VISCOT, asked, [said for _, said, *_ in ANSWERS], tmp_path)
    names = ("answer accuracy", "final HIoU", "box accuracy", "lenient box accuracy")
    for row, (_, said, *expected) in zip(rows, ANSWERS, strict=True):
        assert [row.values[name] for name in names] == pytest.approx([float(value) for value in expected]), said
    numbers = VISCOT.numbers(rows)
    found = strict(numbers)
    assert (found["answers"], found["vsr"], found["box accuracy"]) == (0.4, 0.4, 0.5)
    assert lenient(numbers) == {"HIoU": found["HIoU"], "box accuracy": 0.6, "vsr HIoU": found["HIoU"]}
    assert found["HIoU"] == found["vsr HIoU"] == pytest.approx((3 * 1 + 0.4 + 2 * 0.5 + 0.625) / 10)
    assert "gqa" not in found  # nothing of it was asked


def test_free_text_that_is_right_in_part_has_part_of_a_point_beside(tmp_path: Path) -> None:
    asked = read(write(tmp_path, conversations(["a red mug", "a red mug"], question="What is it?"), boxes(2)))
    # Of "red mug" the answer has one of two words and no other: precision 1, recall 1/2, F1 2/3.
    numbers = numbers_of(VISCOT, asked, [chain([LEFT], "a mug"), "no chain"], tmp_path)
    assert strict(numbers)["answers"] == 0
    assert numbers["answer score"].strict.mean == pytest.approx((2 / 3 + 0) / 2)
    assert numbers["answers"].lenient is None


def test_each_dataset_counts_alike(tmp_path: Path) -> None:
    write(tmp_path, conversations(["yes"] * 8), boxes(8))
    write(tmp_path, conversations(["no"] * 2, "gqa"), boxes(2, "gqa"), "gqa")
    asked = read(tmp_path)
    assert len(asked) == 10
    said = [chain([LEFT], "yes") for _ in asked]  # right about all of vsr's, wrong about all of gqa's
    found = strict(numbers_of(VISCOT, asked, said, tmp_path))
    assert (found["vsr"], found["gqa"], found["answers"]) == (1, 0, 0.5)


def test_right_answers_score_all(tmp_path: Path) -> None:
    truths = ["yes", "no", "dog", "two", "a red mug", "on the table", "12:30", "£5", "Johnson & Johnson", "blue and white"]
    asked = read(write(tmp_path, conversations(truths), boxes(10)))
    said = [chain(question.boxes, question.answers[0]) for question in asked]
    assert all(map(is_valid, said))
    numbers = numbers_of(VISCOT, asked, said, tmp_path)
    names = ("answers", "answer score", "HIoU", "box accuracy", "vsr", "vsr HIoU")
    assert strict(numbers) == dict.fromkeys(names, 1.0)


def test_guessing_yes_or_no_scores_a_half(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    words = ("yes", "no")
    asked = read(write(tmp_path, conversations([words[draw.integers(2)] for _ in range(400)]), boxes(400)))
    said = [words[draw.integers(2)] for _ in asked]
    numbers = numbers_of(VISCOT, asked, said, tmp_path, direct=True)
    assert numbers["answers"].strict.mean == pytest.approx(0.5, abs=0.08)  # three standard deviations of 400 guesses
    assert set(strict(numbers)) == {"answers", "answer score", "vsr"}  # a direct answer has no boxes
