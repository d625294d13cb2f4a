"""V*Bench: both published forms, boxes, options in an order of their own, strict letters and letters anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.choices import right_letter, split_options
from sifthinker.errors import RecordError

from .answered import chain, lenient, numbers_of, strict
from .published import write_vstar

VSTAR = benchmark("vstar")
IDS = [f"direct_attributes/sa_{n}" for n in range(6)] + [f"relative_position/sa_{n}" for n in range(6, 10)]


@pytest.mark.parametrize("lines", [False, True])
def test_both_forms_give_the_same_questions(lines: bool, tmp_path: Path) -> None:
    found = VSTAR.read(write_vstar(tmp_path / "vstar", lines=lines), "test", images=None, limit=None)
    assert [question.id for question in found] == IDS
    assert [question.answers[0].rstrip(".") for question in found] == ["red"] * 6 + ["It is on the left"] * 4
    assert {question.family for question in found} == {"direct_attributes", "relative_position"}
    assert found[0].question == "What of glove 0?"
    # [8, 4, 16, 8] of 80 by 40 pixels: x 8/80 to 24/80, y 4/40 to 12/40.
    assert found[0].boxes == ((0.1, 0.1, 0.3, 0.3),)
    assert found[0].load()[0].size == (80, 40)
    assert len(VSTAR.read(tmp_path / "vstar", "test", images=None, limit=3)) == 3


@pytest.mark.parametrize("beside_images", [True, False])
def test_boxes_lie_beside_the_images_or_the_questions(beside_images: bool, tmp_path: Path) -> None:
    """Where images lie in a folder of their own, a box lost without a word would leave HIoU without questions."""
    write_vstar(tmp_path / "all", lines=True)
    lines = tmp_path / "questions" / "test_questions.jsonl"
    lines.parent.mkdir()
    (tmp_path / "all" / lines.name).rename(lines)
    if not beside_images:
        for told in list((tmp_path / "all").glob("*/*.json")):
            place = lines.parent / told.relative_to(tmp_path / "all")
            place.parent.mkdir(exist_ok=True)
            told.rename(place)
    for data in (lines.parent, lines):
        found = VSTAR.read(data, "test", images=tmp_path / "all", limit=None)
        assert [question.boxes for question in found] == [((0.1, 0.1, 0.3, 0.3),)] * 10


def test_options_of_the_folders_are_shuffled_and_always_in_the_same_way(tmp_path: Path) -> None:
    """The first option of every file is right: whoever says A would be right on all."""
    read = [VSTAR.read(write_vstar(tmp_path / name), "test", images=None, limit=None) for name in ("a", "b")]
    assert [question.choices for question in read[0]] == [question.choices for question in read[1]]
    letters = [right_letter(question) for question in read[0]]
    assert letters == ["A", "D", "D", "A", "C", "D", "A", "B", "B", "A"]
    numbers = numbers_of(VSTAR, read[0], ["A"] * 10, tmp_path, direct=True)
    assert strict(numbers)["Overall"] == 0.4


def test_the_published_order_of_the_lettered_file_stays(tmp_path: Path) -> None:
    found = VSTAR.read(write_vstar(tmp_path / "vstar", lines=True), "test", images=None, limit=None)
    assert found[0].choices == ("blue", "green", "white", "red")
    assert [right_letter(question) for question in found] == ["D"] * 6 + ["B"] * 4
    file = VSTAR.read(tmp_path / "vstar" / "test_questions.jsonl", "test", images=None, limit=None)
    assert [question.id for question in file] == IDS


# Of the lettered file, where D is right of the first six and B of the rest: answer, strict, and letter anywhere.
VERDICTS: list[tuple[str, int, int]] = [
    ("(D) red", 1, 1),
    ("Red", 1, 0),
    ("A or D", 0, 1),
    ("It Depends", 0, 1),
    ("d", 1, 0),
    ("", 0, 0),
    ("B", 1, 1),
    ("It is on the left.", 1, 0),
    ("Both A and B", 0, 1),
    ("A", 0, 0),
]


def test_strict_and_lenient_numbers_of_ten_answers(tmp_path: Path) -> None:
    questions = VSTAR.read(write_vstar(tmp_path / "vstar", lines=True), "test", images=None, limit=None)
    numbers = numbers_of(VSTAR, questions, [answer for answer, _, _ in VERDICTS], tmp_path, direct=True)
    # Attributes 1 1 0 0 1 0, positions 1 1 0 0; the whole is the mean over questions, 5 of 10, not of the two kinds.
    assert strict(numbers) == {"Overall": 0.5, "Attribute": 0.5, "Spatial": 0.5}
    # Anywhere: 1 0 1 1 0 0 and 1 0 1 0.
    assert lenient(numbers) == {"Overall": 0.5, "Attribute": 0.5, "Spatial": 0.5}


@pytest.mark.parametrize("index", range(len(VERDICTS)))
def test_the_verdict_of_each_answer(index: int, tmp_path: Path) -> None:
    answer, right, counted = VERDICTS[index]
    questions = VSTAR.read(write_vstar(tmp_path / "vstar", lines=True), "test", images=None, limit=None)
    numbers = numbers_of(VSTAR, [questions[index]], [answer], tmp_path, direct=True)
    kind = "Attribute" if index < 6 else "Spatial"
    assert (strict(numbers)[kind], lenient(numbers)[kind]) == (right, counted)
    assert "Overall" not in numbers  # one of the two kinds is no whole


def test_a_chain_is_scored_by_its_answer_and_its_last_area(tmp_path: Path) -> None:
    questions = VSTAR.read(write_vstar(tmp_path / "vstar", lines=True), "test", images=None, limit=None)[::6]
    # The target is (0.1, 0.1, 0.3, 0.3): once met exactly, once missed; the words before the answer do not count.
    completions = [chain([(0.1, 0.1, 0.3, 0.3)], "D"), chain([(0.5, 0.5, 0.9, 0.9)], "A")]
    numbers = numbers_of(VSTAR, questions, completions, tmp_path)
    assert strict(numbers) == {"Overall": 0.5, "Attribute": 1, "Spatial": 0, "HIoU": 0.5}
    without = numbers_of(VSTAR, questions, [text.partition("<answer>")[0] for text in completions], tmp_path)
    assert (strict(without)["Overall"], lenient(without)["Overall"]) == (0.0, 0.0)


def test_gold_answers_score_100_percent(tmp_path: Path) -> None:
    for lines in (False, True):
        questions = VSTAR.read(write_vstar(tmp_path / str(lines), lines=lines), "test", images=None, limit=None)
        words = [question.answers[0] for question in questions]
        letters = [right_letter(question) for question in questions]
        assert set(strict(numbers_of(VSTAR, questions, words, tmp_path, direct=True)).values()) == {1.0}
        numbers = numbers_of(VSTAR, questions, letters, tmp_path, direct=True)
        assert set(strict(numbers).values()) | set(lenient(numbers).values()) == {1.0}


def test_guessing_scores_chance(tmp_path: Path) -> None:
    questions = VSTAR.read(write_vstar(tmp_path / "vstar"), "test", images=None, limit=None)
    draw = random.Random(0)
    found = []
    for _ in range(40):
        guesses = [draw.choice(ascii_uppercase[: len(question.choices)]) for question in questions]
        found.append(strict(numbers_of(VSTAR, questions, guesses, tmp_path, direct=True)))
    # One of four and one of two; four standard deviations of 240 and of 160 guesses.
    assert abs(sum(each["Attribute"] for each in found) / 40 - 0.25) < 0.112
    assert abs(sum(each["Spatial"] for each in found) / 40 - 0.5) < 0.159


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: changed(file, options=["red"]), "options must be a list of two or more texts"),
        (lambda file: changed(file, options=["red", "red"]), "options must be different, got"),
        (lambda file: changed(file, options="red"), "options must be a list of two or more texts, got 'red'"),
        (lambda file: changed(file, question=""), "question"),
        (lambda file: changed(file, bbox=[[1, 2, 3]]), "a box must be four finite numbers, got [1, 2, 3]"),
        (lambda file: changed(file, bbox=[[8, 4, 0, 8]]), "has no area"),
        (lambda file: changed(file, bbox=[[800, 4, 9, 8]]), "lies wholly outside"),
        (lambda file: file.with_suffix(".jpg").unlink(), "no image of the same name"),
        (lambda file: file.write_text("{"), "not JSON"),
        (lambda file: file.write_text("[]"), "expected a JSON object"),
    ],
)
def test_a_malformed_file_is_an_error_with_its_place(spoil: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    spoil(write_vstar(tmp_path / "vstar") / "direct_attributes" / "sa_2.json")
    with pytest.raises(RecordError, match=r"direct_attributes/sa_2\.json") as caught:
        VSTAR.read(tmp_path / "vstar", "test", images=None, limit=None)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "E"}, "right answer must be a letter of the 4 options, got 'E'"),
        ({"label": None}, "label"),
        ({"text": "What of it?"}, "text must be a question with options"),
        ({"category": "OCR"}, "category must be direct_attributes or relative_position, got 'OCR'"),
        ({"image": "../elsewhere.jpg"}, "leads outside"),
        ({"image": "/etc/passwd"}, "leads outside"),
        ({"image": "direct_attributes/sa_0.jpg"}, "is already used at test_questions.jsonl:1"),
    ],
)
def test_a_malformed_line_is_an_error_with_its_place(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write_vstar(tmp_path / "vstar", lines=True) / "test_questions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1] |= changes
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecordError, match=r"test_questions\.jsonl:2") as caught:
        VSTAR.read(tmp_path / "vstar", "test", images=None, limit=None)
    assert said in str(caught.value)


def test_a_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"contains no question; expected test_questions\.jsonl, or the folders direct"):
        VSTAR.read(tmp_path, "test", images=None, limit=None)


def test_options_in_a_row_and_on_lines() -> None:
    lines = "Which?\n(A) red.\n(B) blue\nAnswer with the option's letter from the given choices directly."
    assert split_options(lines) == split_options("Which? (A) red (B) blue.") == ("Which?", ("red", "blue"))
    assert split_options("Which? Answer with the option's letter. (A) red (B) blue") == ("Which?", ("red", "blue"))
    assert split_options("Which?\nA. red.\nB. blue\nAnswer with the option's letter.") == ("Which?", ("red", "blue"))
    assert (
        split_options("Which?\n A) red\n B) blue") == split_options("Which?\nA: red\nB: blue") == ("Which?", ("red", "blue"))
    )
    assert split_options("Whose?\nB. blue\nC. green") == ("Whose?\nB. blue\nC. green", ())
    assert split_options("Is plan A. or B. better?") == ("Is plan A. or B. better?", ())
    assert split_options("A. red\nB. blue") == ("A. red\nB. blue", ())
    assert split_options("(A) red (B) blue") == ("(A) red (B) blue", ())
    assert split_options("Is it on (B) or (C)?") == ("Is it on (B) or (C)?", ())
    # A question that speaks of things by letters has its options behind it; an option that does so begins none.
    asked = "What is the colour of (A) or (B) sign?"
    assert split_options(f"{asked} (A) red (B) blue") == (asked, ("red", "blue"))
    assert split_options("Is (B) above (C)?\n(A) yes\n(B) no") == ("Is (B) above (C)?", ("yes", "no"))
    assert split_options("Which? (A) red (B) blue (C) both (A) and (B) are")[0] == "Which?"
    assert split_options("Which? (A) red (B) blue (B) green") == ("Which?", ("red", "blue", "green"))
