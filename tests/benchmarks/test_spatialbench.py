"""SpatialBench: pairs, points and counts as SpatialBot scores them, and its depth."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.spatialbench import count_score
from sifthinker.errors import RecordError

from .answered import chain, lenient, numbers_of, rows_of, strict
from .published import SPATIAL_ROWS, write_spatialbench

BENCH = benchmark("spatialbench")
GOLD = ["Yes", "No", "4", "2", "A", "B", "Yes", "No", "No", "Yes"]


def test_the_five_files_are_read(tmp_path: Path) -> None:
    found = BENCH.read(write_spatialbench(tmp_path / "sb"), "all", images=None, limit=None)
    names = ("existence", "counting", "positional", "size", "reach")
    assert [question.id for question in found] == [f"{name}-000{n}" for name in names for n in range(2)]
    assert [question.answers[0] for question in found] == GOLD
    assert (found[4].question, found[4].choices) == ("Which is nearer?", ("the cup", "the box"))
    image, depth = found[0].load()
    assert image.size == (40, 20)
    assert depth is not None
    # 1 m at the left is the nearest, 2 m at the right the farthest.
    assert depth.mean([(0, 0, 0.025, 1), (0.975, 0, 1, 1)]).tolist() == [0.0, 1.0]
    (tmp_path / "sb" / "existence_d" / "0.png").unlink()
    assert BENCH.read(tmp_path / "sb", "existence", images=None, limit=1)[0].depth is None
    assert len(BENCH.read(tmp_path / "sb", "reach", images=None, limit=None)) == 2
    file = BENCH.read(tmp_path / "sb" / "size.json", "all", images=None, limit=None)
    assert [question.id for question in file] == ["size-0000", "size-0001"]


def test_gold_answers_score_100_percent(tmp_path: Path) -> None:
    questions = BENCH.read(write_spatialbench(tmp_path / "sb"), "all", images=None, limit=None)
    numbers = numbers_of(BENCH, questions, GOLD, tmp_path, direct=True)
    assert set(strict(numbers).values()) | set(lenient(numbers).values()) == {1.0}
    assert list(strict(numbers)) == ["SpatialBench", "Existence", "Counting", "Position", "Size", "Reach"]


def test_strict_and_lenient_numbers_of_ten_answers(tmp_path: Path) -> None:
    questions = BENCH.read(write_spatialbench(tmp_path / "sb"), "all", images=None, limit=None)
    answers = [
        *("Yes", "Nothing says No, and nothing says Yes."),  # the second states none; "No" stands in it
        *("three", "5"),  # 1 - 1/4 and 1 - 3/2
        *("A", "A or B"),
        *("Yes", "Yes"),  # one right: 1 point of 3
        *("no", "yes, it has"),  # both right: 3 points; in other letters than "No" and "Yes"
    ]
    numbers = numbers_of(BENCH, questions, answers, tmp_path, direct=True)
    # Existence: the pair fails; counting (0.75 - 0.5) / 2; position 1/2; size 1/3; reach 3/3.
    assert strict(numbers) == {
        "SpatialBench": round((0 + 0.125 + 0.5 + 1 / 3 + 1) / 5, 4),
        "Existence": 0.0,
        "Counting": 0.125,
        "Position": 0.5,
        "Size": round(1 / 3, 4),
        "Reach": 1.0,
    }
    assert lenient(numbers) == {
        "SpatialBench": round((1 + 0.125 + 1 + 1 / 3 + 0) / 5, 4),
        "Existence": 1.0,
        "Counting": 0.125,
        "Position": 1.0,
        "Size": round(1 / 3, 4),
        "Reach": 0.0,
    }
    assert (numbers["Existence"].strict.count, numbers["SpatialBench"].strict.count) == (1, 1 + 2 + 2 + 1 + 1)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("4", "4", 1.0),
        ("There are four of them.", "4", 1.0),
        ("3", "4", 0.75),
        ("8", "4", 0.0),
        ("12", "4", -1.0),
        ("none", "4", 0.0),
        ("3 or 4", "4", 0.0),
        ("many", "4", 0.0),
        (None, "4", 0.0),
    ],
)
def test_a_count_earns_one_less_its_relative_error(answer: str | None, truth: str, score: float) -> None:
    assert count_score(answer, truth) == score


def test_a_chain_without_an_answer_is_wrong_and_right_for_the_release(tmp_path: Path) -> None:
    questions = BENCH.read(write_spatialbench(tmp_path / "sb"), "all", images=None, limit=None)
    broken = chain([(0.1, 0.1, 0.5, 0.5)], "x").partition("<answer>")[0]
    numbers = numbers_of(BENCH, questions, [broken] * 10, tmp_path)
    assert set(strict(numbers).values()) == {0.0}
    assert set(lenient(numbers).values()) == {1.0}
    silent = numbers_of(BENCH, questions, [""] * 10, tmp_path, direct=True)
    assert set(strict(silent).values()) | set(lenient(silent).values()) == {0.0}


def test_guessing_scores_chance(tmp_path: Path) -> None:
    rows = {name: list(pair) * (1 if name == "counting" else 150) for name, pair in SPATIAL_ROWS.items()}
    folder = write_spatialbench(tmp_path / "sb", rows, depth=False)
    questions = BENCH.read(folder, "all", images=None, limit=None)
    draw = random.Random(0)
    guesses = [
        draw.choice("AB") if question.family == "positional" else draw.choice(("Yes", "No")) for question in questions
    ]
    found = strict(numbers_of(BENCH, questions, guesses, tmp_path, direct=True))
    # Both of a pair: 1/4; points of three: (1/2 + 1/2 + 1/4) / 3 = 5/12, whose values are 0, 1/3, 1/3 and 1. Four standard
    # deviations of 150 pairs: 4 · √(0.1875 / 150), 4 · √(0.1320 / 150); of 300 questions: 4 · √(0.25 / 300).
    assert abs(found["Existence"] - 1 / 4) < 0.142
    assert abs(found["Position"] - 1 / 2) < 0.116
    assert abs(found["Size"] - 5 / 12) < 0.119
    assert abs(found["Reach"] - 5 / 12) < 0.119
    assert found["Counting"] == 0  # "Yes" is no number


def test_a_pair_that_is_cut_in_two_has_no_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_spatialbench(tmp_path / "sb")
    questions = BENCH.read(folder, "all", images=None, limit=1)
    assert BENCH.numbers(rows_of(BENCH, questions, ["Yes"], tmp_path, direct=True)) == {}
    assert (
        "SpatialBench: 1 of 1 questions do not count in any number of the table. The first is 'existence-0000'. Each value "
        "comes from a question, or a pair of questions that were both asked"
    ) in caplog.text
    questions = BENCH.read(folder, "all", images=None, limit=None)
    rows = rows_of(BENCH, questions, GOLD, tmp_path, direct=True)
    without = [row for row in rows if row.id not in ("size-0000", "counting-0000")]
    found = BENCH.numbers(without)
    assert list(found) == ["Existence", "Counting", "Position", "Reach"]  # without sizes, there is no mean of the five
    assert found["Counting"].strict.count == 1
    table, without_part = BENCH.left_out(without)
    assert table == "not in the table: SpatialBench, Size, because no question of size has a value"
    assert without_part.startswith("1 of 8 questions do not count in any number of the table")
    assert BENCH.left_out(rows) == []


def test_what_is_left_of_a_pair_is_not_paired_with_the_next(tmp_path: Path) -> None:
    rows = {**SPATIAL_ROWS, "existence": list(SPATIAL_ROWS["existence"]) * 2}
    questions = BENCH.read(write_spatialbench(tmp_path / "sb", rows), "existence", images=None, limit=None)
    answered = rows_of(BENCH, questions, ["Yes", "Yes", "Yes", "No"], tmp_path, direct=True)
    assert strict(BENCH.numbers(answered)) == {"Existence": 0.5}
    # Without the first question its pair has no part: of the second, both are right.
    assert strict(BENCH.numbers(answered[1:])) == {"Existence": 1.0}


def test_options_on_lines_are_read(tmp_path: Path) -> None:
    rows = {**SPATIAL_ROWS, "positional": [("Is the cup nearer?\nA. Yes\nB. No", "A"), ("Is it not?\nA. Yes\nB. No", "No")]}
    asked = BENCH.read(write_spatialbench(tmp_path / "sb", rows), "positional", images=None, limit=None)
    assert [(question.question, question.choices) for question in asked] == [
        ("Is the cup nearer?", ("Yes", "No")),
        ("Is it not?", ("Yes", "No")),
    ]
    numbers = numbers_of(BENCH, asked, ["Yes", "B"], tmp_path, direct=True)
    assert strict(numbers) == {"Position": 1.0}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("counting", {"answer": "several"}, "answer must be an integer above 0"),
        ("counting", {"answer": "0"}, "answer must be an integer above 0"),
        ("positional", {"answer": "C"}, "answer must be one of the options"),
        ("existence", {"answer": None}, "answer must be text or a number, got null"),
        ("existence", {"image": "../x.jpg"}, "leads outside"),
        ("existence", {"image": ["existence/0.jpg", "existence/1.jpg"]}, "image must be the path of one image"),
        ("existence", {"question": " "}, "question"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_place(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write_spatialbench(tmp_path / "sb") / f"{name}.json"
    rows = json.loads(file.read_text())
    rows[1] |= changes
    file.write_text(json.dumps(rows))
    with pytest.raises(RecordError, match=rf"{name}\.json\[1\]") as caught:
        BENCH.read(tmp_path / "sb", "all", images=None, limit=None)
    assert said in str(caught.value)


def test_a_malformed_file_is_an_error(tmp_path: Path) -> None:
    folder = write_spatialbench(tmp_path / "sb")
    file = folder / "existence.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:1]))
    with pytest.raises(
        RecordError, match=r"existence\.json: expected consecutive pairs of questions, got an odd number of questions .1."
    ):
        BENCH.read(folder, "all", images=None, limit=None)
    file.write_text("{}")
    with pytest.raises(RecordError, match=r"existence\.json: expected a JSON list"):
        BENCH.read(folder, "all", images=None, limit=None)
    file.unlink()
    with pytest.raises(RecordError, match=r"existence\.json: cannot read"):
        BENCH.read(folder, "all", images=None, limit=None)
    with pytest.raises(RecordError, match=r"expected one of the files existence\.json"):
        BENCH.read(folder / "existence" / "0.jpg", "all", images=None, limit=None)
