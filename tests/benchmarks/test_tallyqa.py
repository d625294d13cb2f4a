"""TallyQA: its file, and counts read strictly and leniently."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.tallyqa import first_count, stated_count
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.questions import Question

from .answered import lenient, numbers_of, rows_of, strict

TALLYQA = benchmark("tallyqa")


def write(folder: Path, answers: list[int], complex_from: int = 5, **changes: Any) -> Path:
    """Questions as published, simple ones first, with their image."""
    (folder / "VG_100K_2").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), (30, 90, 120)).save(folder / "VG_100K_2" / "2410408.jpg")
    rows = [
        {
            "answer": answer,
            "data_source": "imported_genome",
            "image": "VG_100K_2/2410408.jpg",
            "image_id": 92410408,
            "issimple": number < complex_from,
            "question": "How many dogs are there?",
            "question_id": 30095774 + number,
            **changes,
        }
        for number, answer in enumerate(answers)
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"


def read(path: Path, split: str = "test", **how: Any) -> list[Question]:
    return TALLYQA.read(str(path), split, **{"images": None, "limit": None, **how})


def test_questions_are_read_as_published(tmp_path: Path) -> None:
    file = write(tmp_path, [4] * 10)
    asked = read(file)
    assert asked == read(tmp_path)  # the folder
    first, last = asked[0], asked[-1]
    assert (first.id, first.question, first.answers) == ("tallyqa-test-30095774", "How many dogs are there?", ("4",))
    assert first.image == tmp_path / "VG_100K_2" / "2410408.jpg"
    assert (first.family, last.family, first.split) == ("simple", "complex", "test")
    assert first.tags == {"source": "imported_genome"}
    assert len(read(file, limit=3)) == 3
    assert read(file, images=tmp_path / "photos")[0].image == tmp_path / "photos" / "VG_100K_2" / "2410408.jpg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "some"}, "answer must be a whole number, got 'some'"),
        ({"answer": -1}, "answer must be 0 or more, got -1"),
        ({"issimple": "yes"}, "issimple must be true or false, got 'yes'"),
        ({"issimple": None}, "issimple must be true or false, got null"),
        ({"image": "/etc/passwd"}, "leads outside"),
        ({"image": None}, "image must be the path of an image, got null"),
        ({"question": ""}, "question must be text that is not blank, got ''"),
        ({"question_id": 7}, "is already used"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, [1, 2], **changes)
    with pytest.raises(RecordError, match=message) as caught:
        read(tmp_path)
    assert "test.json[" in str(caught.value)


def test_the_training_file_does_not_tell_the_kind(tmp_path: Path) -> None:
    rows = json.loads(write(tmp_path, [1, 2]).read_text())
    for row in rows:
        del row["issimple"]
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    asked = read(tmp_path, "train")
    assert [question.family for question in asked] == ["", ""]
    assert strict(numbers_of(TALLYQA, asked, ["1", "1"], tmp_path, direct=True)) == {"all": 0.5}
    with pytest.raises(RecordError, match="lacks 'issimple'"):
        read(tmp_path, "test")


def test_simple_questions_alone_are_not_all(tmp_path: Path) -> None:
    asked = read(write(tmp_path, [1, 2]))
    assert strict(numbers_of(TALLYQA, asked, ["1", "1"], tmp_path, direct=True)).keys() == {"simple", "simple RMSE"}


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"test.json: no such file; give test.json from tallyqa.zip"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no split 'val'; expected one of test, train"):
        read(tmp_path, "val")
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(RecordError, match="contains no question"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("answer", "stated", "first"),
    [
        ("3", 3, 3),
        ("three", 3, 3),
        ("There are three dogs.", 3, 3),
        ("No dogs.", 0, 0),
        ("2 or 3", None, 2),
        ("3 dogs on 2 beds", None, 3),
        ("one of the 3 dogs", None, 1),
        ("a few", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_counts_are_read(answer: str | None, stated: int | None, first: int | None) -> None:
    assert stated_count(answer) == stated
    assert first_count(answer) == first


# The truth, an answer, and whether it is right strictly and by its first number. Five simple questions, five complex ones.
ANSWERS = [
    (3, "3", 1, 1),
    (2, "There are two.", 1, 1),
    (3, "3 dogs on 2 beds", 0, 1),  # which of the two?
    (0, "none", 1, 1),
    (4, "5", 0, 0),
    (2, "2 or 3", 0, 1),
    (1, "one of the 3 dogs", 0, 1),
    (6, "6", 1, 1),
    (7, "many", 0, 0),
    (12, "I cannot tell.", 0, 0),
]


def test_hand_worked_verdicts(tmp_path: Path) -> None:
    asked = read(write(tmp_path, [truth for truth, *_ in ANSWERS]))
    rows = rows_of(TALLYQA, asked, [said for _, said, _, _ in ANSWERS], tmp_path, direct=True)
    for row, (_, said, right, first) in zip(rows, ANSWERS, strict=True):
        assert (row.values["answer accuracy"], row.values["first number"]) == (right, first), said
    numbers = TALLYQA.numbers(rows)
    found = strict(numbers)
    assert (found["simple"], found["complex"], found["all"]) == (0.6, 0.2, 0.4)
    found = lenient(numbers)
    assert (found["simple"], found["complex"], found["all"]) == (0.8, 0.6, 0.7)
    # Simple: 0, 0, no one number where the truth is 3 (15 is farthest, 12 away), 0, 1.
    assert numbers["simple RMSE"].strict.mean == pytest.approx(math.sqrt((12**2 + 1) / 5))
    # Complex: truths 2, 1, 7 and 12 without a number: 13, 14, 8 and 12 away; 6 is right.
    assert numbers["complex RMSE"].strict.mean == pytest.approx(math.sqrt((13**2 + 14**2 + 8**2 + 12**2) / 5))
    leniently = {name: number.lenient.mean for name, number in numbers.items() if number.lenient is not None}
    assert leniently["simple RMSE"] == pytest.approx(math.sqrt(1 / 5))
    assert leniently["complex RMSE"] == pytest.approx(math.sqrt((8**2 + 12**2) / 5))
    assert [numbers[name].strict.count for name in ("simple", "complex", "all", "simple RMSE")] == [5, 5, 10, 5]
    spread = numbers["complex RMSE"].strict
    assert 0 <= spread.low < spread.mean < spread.high


def test_a_number_past_the_datas_counts_as_its_largest(tmp_path: Path) -> None:
    asked = read(write(tmp_path, [3]))
    (row,) = rows_of(TALLYQA, asked, ["1000000"], tmp_path, direct=True)
    assert row.values["squared error"] == (15 - 3) ** 2


def test_right_answers_score_all(tmp_path: Path) -> None:
    asked = read(write(tmp_path, list(range(10))))
    numbers = numbers_of(TALLYQA, asked, [question.answers[0] for question in asked], tmp_path, direct=True)
    assert strict(numbers) == {"simple": 1, "complex": 1, "all": 1, "simple RMSE": 0, "complex RMSE": 0}
    assert lenient(numbers) == strict(numbers)


def test_guessing_one_of_four_scores_a_quarter(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    asked = read(write(tmp_path, [int(draw.integers(4)) for _ in range(400)], complex_from=200))
    said = [str(draw.integers(4)) for _ in asked]
    numbers = numbers_of(TALLYQA, asked, said, tmp_path, direct=True)
    assert numbers["all"].strict.mean == pytest.approx(0.25, abs=0.07)  # three standard deviations of 400 guesses
    # Two independent numbers of 0 to 3 differ by 0, 1, 2, 3 in 4, 6, 4, 2 of 16 cases: 6 + 4·4 + 2·9 = 40 of 16.
    assert numbers["simple RMSE"].strict.mean == pytest.approx(math.sqrt(40 / 16), abs=0.2)
