"""SAT: pictures side by side, answers in an order of their own, the static subset apart."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.choices import right_letter
from sifthinker.errors import RecordError
from sifthinker.prompts import with_several_images

from .answered import chain, lenient, numbers_of, strict
from .published import SAT_ROWS, picture, sat_row, write_sat, write_table

SAT = benchmark("sat")


def test_the_published_folder_is_read(tmp_path: Path) -> None:
    found = SAT.read(write_sat(tmp_path / "sat"), "test", images=None, limit=None)
    assert [question.id for question in found] == [f"test-00000{n}" for n in range(10)]
    assert (
        found[0].question
        == "The picture shows 2 images side by side, in order from left to right.\nWhich way did it turn, 0?"
    )
    assert found[9].question == "What is nearer, 3?"
    assert sorted(found[0].choices) == ["left", "right"]
    assert [question.answers for question in found] == [("left",)] * 6 + [("the bed",)] * 4
    assert [question.tags["images"] for question in found] == ["several"] * 6 + ["single"] * 4
    assert {question.family for question in found} == {"ego_movement", "perspective"}
    # Two of 40 by 20 pixels with a gap of 8; one alone is as it is.
    image, _ = found[0].load()
    assert image.size == (88, 20)
    assert [image.getpixel((x, 10)) for x in (0, 39, 40, 47, 48, 87)] == [
        *[(255, 0, 0)] * 2,
        *[(128, 128, 128)] * 2,
        *[(0, 0, 255)] * 2,
    ]
    assert found[9].load()[0].size == (40, 20)


def test_the_newer_layout_is_read(tmp_path: Path) -> None:
    import datasets

    rows = [{**row, "images": [{"bytes": data, "path": None} for data in row["image_bytes"]]} for row in SAT_ROWS]
    for row in rows:
        del row["image_bytes"]
    write_table(tmp_path / "data" / "val-00000-of-00001.parquet", rows, images=datasets.List(datasets.Image()))
    found = SAT.read(tmp_path, "val", images=None, limit=None)
    assert (len(found), found[0].split, found[0].load()[0].size) == (10, "val", (88, 20))


def test_a_prompt_says_how_many_images_there_are() -> None:
    assert with_several_images("What?", 1) == "What?"
    assert with_several_images("What?", 3).startswith("The picture shows 3 images side by side")


def test_answers_are_in_an_order_of_their_own(tmp_path: Path) -> None:
    """The right one is the first of these rows, or the last; saying A must earn neither all nor nothing."""
    rows = [sat_row(f"Q{n}?", ["left", "right"], "left", "x", "red") for n in range(200)]
    questions = SAT.read(write_sat(tmp_path / "sat", rows=rows), "test", images=None, limit=None)
    share = sum(right_letter(question) == "A" for question in questions) / 200
    assert abs(share - 0.5) < 0.142  # four standard deviations
    again = SAT.read(tmp_path / "sat" / "SAT_test.parquet", "test", images=None, limit=None)
    assert [question.choices for question in again] == [question.choices for question in questions]


VERDICTS: list[tuple[str, int, int]] = [
    ("left", 1, 1),
    ("It turned left.", 1, 1),
    ("not right but left", 1, 1),
    ("left or right", 0, -1),  # the release takes whichever option is listed first
    ("straight on", 0, 0),
    ("right", 0, 0),
    ("the bed", 1, 1),
    ("the bedside table", 0, 1),  # "the bed" stands in it
    ("", 0, 0),
    ("the chair", 0, 0),
]


def test_strict_and_lenient_numbers_of_ten_answers(tmp_path: Path) -> None:
    questions = SAT.read(write_sat(tmp_path / "sat"), "test", images=None, limit=None)
    counted = [found if found >= 0 else int(questions[n].choices[0] == "left") for n, (_, _, found) in enumerate(VERDICTS)]
    numbers = numbers_of(SAT, questions, [answer for answer, _, _ in VERDICTS], tmp_path, direct=True)
    # Several images 3 of 6, single ones 1 of 4.
    assert strict(numbers) == {"SAT": 0.4, "single image": 0.25, "several images": 0.5}
    assert lenient(numbers)["SAT"] == sum(counted) / 10
    assert lenient(numbers)["single image"] == 0.5
    for question, (answer, right, _), released in zip(questions, VERDICTS, counted, strict=True):
        one = numbers_of(SAT, [question], [answer], tmp_path, direct=True)
        kind = f"{question.tags['images']} image{'s' if question.tags['images'] == 'several' else ''}"
        assert (strict(one)[kind], lenient(one)[kind]) == (right, released), answer
        assert "SAT" not in one  # single images alone, or several, are no whole


def test_letters_count_in_both_numbers(tmp_path: Path) -> None:
    questions = SAT.read(write_sat(tmp_path / "sat"), "test", images=None, limit=None)
    numbers = numbers_of(SAT, questions, [right_letter(question) for question in questions], tmp_path, direct=True)
    assert set(strict(numbers).values()) | set(lenient(numbers).values()) == {1.0}


def test_a_chain_without_an_answer_is_wrong_and_right_for_the_release(tmp_path: Path) -> None:
    questions = SAT.read(write_sat(tmp_path / "sat"), "test", images=None, limit=None)
    broken = chain([(0.1, 0.1, 0.5, 0.5)], "left").partition("<answer>")[0]
    numbers = numbers_of(SAT, questions, [broken] * 10, tmp_path)
    assert (strict(numbers)["SAT"], lenient(numbers)["SAT"]) == (0.0, 1.0)


def test_the_static_subset_has_a_number_of_its_own(tmp_path: Path) -> None:
    rows = [row for row in SAT_ROWS if len(row["image_bytes"]) == 1]
    questions = SAT.read(write_sat(tmp_path / "sat", "static", rows), "static", images=None, limit=None)
    numbers = numbers_of(SAT, questions, ["the bed"] * 3 + ["the chair"], tmp_path, direct=True)
    assert strict(numbers) == {"SAT-Static": 0.75}


def test_gold_answers_score_100_percent(tmp_path: Path) -> None:
    questions = SAT.read(write_sat(tmp_path / "sat"), "test", images=None, limit=None)
    for completions, direct in (
        ([question.answers[0] for question in questions], True),
        ([chain([(0, 0, 0.5, 0.5)], question.answers[0]) for question in questions], False),
    ):
        numbers = numbers_of(SAT, questions, completions, tmp_path, direct=direct)
        assert set(strict(numbers).values()) | set(lenient(numbers).values()) == {1.0}


def test_guessing_scores_chance(tmp_path: Path) -> None:
    rows = [sat_row(f"Q{n}?", ["up", "down", "left", "right"], "up", "x", "red") for n in range(400)]
    questions = SAT.read(write_sat(tmp_path / "sat", rows=rows), "test", images=None, limit=None)
    draw = random.Random(0)
    for always in (False, True):
        guesses = ["A" if always else draw.choice("ABCD") for _ in questions]
        found = strict(numbers_of(SAT, questions, guesses, tmp_path, direct=True))
        assert abs(found["single image"] - 0.25) < 0.087  # four standard deviations


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"correct_answer": "up"}, "correct_answer must be one of the answers"),
        ({"correct_answer": None}, "lacks 'correct_answer'"),
        ({"answers": ["left"]}, "expected two or more different answers"),
        ({"answers": ["left", "left"]}, "expected two or more different answers"),
        ({"answers": ["left", ""]}, "answers must be a list of texts"),
        ({"question": ""}, "question must be text that is not blank, got ''"),
        ({"question_type": None}, "lacks 'question_type'"),
        ({"image_bytes": []}, "expected one or more images in column"),
        ({"image_bytes": None}, "expected one or more images in column"),
        ({"image_bytes": [picture("red"), b""]}, "must contain the bytes of an image"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_place(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    rows = [sat_row("Q?", ["left", "right"], "left", "x", "red") for _ in range(2)]
    rows[1] |= changes
    with pytest.raises(RecordError, match=r"SAT_test\.parquet test\[1\]") as caught:
        SAT.read(write_sat(tmp_path / "sat", rows=rows), "test", images=None, limit=None)
    assert said in str(caught.value)


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    file = write_sat(tmp_path / "sat", "static") / "SAT_static.parquet"
    with pytest.raises(RecordError, match="expected a file of the split test, got the split static; set --split static"):
        SAT.read(file, "test", images=None, limit=None)
    assert SAT.read(file, "static", images=None, limit=None)[0].split == "static"
