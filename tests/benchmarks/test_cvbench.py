"""CV-Bench: its tables, what is strict and what Cambrian-1's scripts count, 2D as the mean of its sources."""

from __future__ import annotations

import json
import random
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.cvbench import cambrian_letter
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings

from .answered import chain, lenient, numbers_of, strict
from .published import CV_ROWS, cv_row, picture, write_cv_bench

CV = benchmark("cv-bench")
SOURCES = {"ADE20K": 4, "COCO": 2, "Omni3D": 4}


def test_the_published_folder_is_read(tmp_path: Path) -> None:
    found = CV.read(write_cv_bench(tmp_path / "cv"), "test", images=None, limit=None)
    assert [question.id for question in found] == [f"{row['type']}-{row['task']}-{row['idx']}" for row in CV_ROWS]
    first = found[0]
    assert (first.question, first.answers, first.choices) == ("Question 0?", ("3",), ("1", "0", "3", "2"))
    assert (first.dataset, first.split, first.family) == ("CV-Bench", "test", "Count")
    assert first.tags == {"type": "2D", "source": "ADE20K"}
    image, depth = first.load()
    assert (image.size, image.getpixel((0, 0)), depth) == ((40, 20), (255, 0, 0), None)
    assert [question.id for question in CV.read(tmp_path / "cv", "test", images=None, limit=2)] == [
        "2D-Count-0",
        "2D-Count-1",
    ]
    only = CV.read(tmp_path / "cv" / "test_3d.parquet", "test", images=None, limit=None)
    assert [question.id for question in only] == ["3D-Depth-6", "3D-Depth-7", "3D-Distance-8", "3D-Distance-9"]


# Of each question: an answer, whether it is right, and whether Cambrian-1's scripts count it.
VERDICTS: list[tuple[str, int, int]] = [
    ("(C)", 1, 1),  # 0: C is right
    ("4", 1, 0),  # 1: A is right; the words of the option, which the scripts take for a letter
    ("Although it is hard to say, I cannot tell.", 0, 1),  # 2: A is right; the scripts read the first letter
    ("The answer is (B).", 1, 1),  # 3: B is right
    ("B or A", 0, 1),  # 4: B is right; two are named
    ("B", 0, 0),  # 5: A is right
    ("the chair", 1, 0),  # 6: A is right; "t" for the scripts
    ("Answer: B", 1, 1),  # 7: B is right
    ("", 0, 0),  # 8
    ("(A) desk", 0, 1),  # 9: A is the bed; letter and words name two
]


def test_strict_and_lenient_numbers_of_ten_answers(tmp_path: Path) -> None:
    questions = CV.read(write_cv_bench(tmp_path / "cv"), "test", images=None, limit=None)
    answers = [answer for answer, _, _ in VERDICTS]
    numbers = numbers_of(CV, questions, answers, tmp_path, direct=True)
    # Strict. ADE20K: 1 1 0 1 = 3/4; COCO: 0 0; 2D = (0.75 + 0) / 2; Omni3D: 1 1 0 0 = 1/2; all = (0.375 + 0.5) / 2.
    assert strict(numbers) == {
        "CV-Bench": 0.4375,
        "2D": 0.375,
        "3D": 0.5,
        "Count": round(2 / 3, 4),  # 0, 1 and 4
        "Relation": round(1 / 3, 4),  # 2, 3 and 5
        "Depth": 1.0,
        "Distance": 0.0,
    }
    # Lenient. ADE20K: 1 0 1 1 = 3/4; COCO: 1 0 = 1/2; 2D = 0.625; Omni3D: 0 1 0 1 = 1/2; all = 0.5625.
    assert lenient(numbers) == {
        "CV-Bench": 0.5625,
        "2D": 0.625,
        "3D": 0.5,
        "Count": round(2 / 3, 4),
        "Relation": round(2 / 3, 4),
        "Depth": 0.5,
        "Distance": 0.5,
    }
    assert numbers["CV-Bench"].strict.count == 10
    assert numbers["CV-Bench"].strict.low < 0.4375 < numbers["CV-Bench"].strict.high


@pytest.mark.parametrize("index", range(len(VERDICTS)))
def test_the_verdict_of_each_answer(index: int, tmp_path: Path) -> None:
    answer, right, counted = VERDICTS[index]
    questions = CV.read(write_cv_bench(tmp_path / "cv", [CV_ROWS[index]]), "test", images=None, limit=None)
    for completion, direct in ((answer, True), (chain([(0.1, 0.1, 0.5, 0.5)], answer), False)):
        numbers = numbers_of(CV, questions, [completion], tmp_path, direct=direct)
        task = CV_ROWS[index]["task"]
        assert (strict(numbers)[task], lenient(numbers)[task]) == (right, counted), completion
        assert "CV-Bench" not in numbers  # one source is no whole


def test_gold_answers_score_100_percent(tmp_path: Path) -> None:
    questions = CV.read(write_cv_bench(tmp_path / "cv"), "test", images=None, limit=None)
    for gold in ([question.answers[0] for question in questions], [row["answer"] for row in CV_ROWS]):
        assert set(strict(numbers_of(CV, questions, gold, tmp_path, direct=True)).values()) == {1.0}
    assert set(lenient(numbers_of(CV, questions, gold, tmp_path, direct=True)).values()) == {1.0}  # the letters


def test_guessing_scores_chance(tmp_path: Path) -> None:
    rows = [cv_row(n, "Count", ("ADE20K", "COCO")[n % 2], "(B)", ["1", "2", "3", "4"]) for n in range(400)]
    rows += [cv_row(n, "Depth", "Omni3D", "(A)", ["chair", "table"]) for n in range(400, 800)]
    questions = CV.read(write_cv_bench(tmp_path / "cv", rows), "test", images=None, limit=None)
    draw = random.Random(0)
    guesses = [f"({draw.choice(ascii_uppercase[: len(question.choices)])})" for question in questions]
    numbers = numbers_of(CV, questions, guesses, tmp_path, direct=True)
    # One of four, and one of two; four standard deviations of 400 guesses: 4 · 0.0217 and 4 · 0.025.
    for found in (strict(numbers), lenient(numbers)):
        assert abs(found["2D"] - 0.25) < 0.087
        assert abs(found["3D"] - 0.5) < 0.1
        assert abs(found["CV-Bench"] - 0.375) < 0.094


def test_a_part_does_not_stand_under_the_name_of_the_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_cv_bench(tmp_path / "cv")
    asked = CV.read(data / "test_2d.parquet", "test", images=None, limit=None)
    assert list(numbers_of(CV, asked, ["B"] * 6, tmp_path, direct=True)) == ["2D", "Count", "Relation"]
    assert "CV-Bench: not in the table: CV-Bench, because no question of Omni3D has a value" in caplog.text
    coco = [question for question in asked if question.tags["source"] == "COCO"]
    found = strict(numbers_of(CV, coco, ["B", "B"], tmp_path, direct=True))
    assert found == {"Count": 1.0, "Relation": 0.0}


def test_intervals_lie_where_numbers_can(tmp_path: Path) -> None:
    """Of the percentiles of other draws; the number is 2/3, and no draw comes to more than 1."""
    rows = [row for row in CV_ROWS if row["idx"] in (0, 1, 4, 5, 6, 7, 8)]
    asked = CV.read(write_cv_bench(tmp_path / "cv", rows), "test", images=None, limit=None)
    right = [question.answers[0] for question in asked]
    numbers = numbers_of(CV, asked, [*right[:-2], "none", right[-1]], tmp_path, direct=True)
    for number in numbers.values():
        for result in (number.strict, number.lenient):
            assert result is not None
            assert 0 <= result.low <= result.mean <= result.high <= 1
    assert numbers["CV-Bench"].strict.mean == pytest.approx((1 + 2 / 3) / 2)
    assert numbers["CV-Bench"].strict.high == 1


def test_the_letter_that_the_scripts_read() -> None:
    table = {
        "(B)": "b",
        "b.": "b",
        "Answer: (C)": "c",
        "The answer is D.": "d",
        "The answer is A. No, answer is B": "b",
        "": "",
    }
    assert {text: cambrian_letter(text) for text in table} == table


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": "(E)"}, "right answer must be a letter of the 2 options, got '(E)'"),
        ({"answer": ""}, "answer must be text that is not blank, got ''"),
        ({"answer": None}, "lacks 'answer'"),
        ({"choices": ["left"]}, "expected two or more choices"),
        ({"choices": ["left", " "]}, "choices must be a list of texts that are not blank"),
        ({"type": "3D"}, "type '3D', task 'Relation'"),
        ({"source": "NYU"}, "source 'NYU'"),
        ({"question": "  "}, "question must be text that is not blank"),
        ({"question": "What is <image>?"}, "contains <image>"),
        ({"image": None}, "expected one image in column image, got 0"),
        ({"idx": 0}, "is already used"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_place(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    import datasets

    from .published import write_table

    rows = [cv_row(n, "Relation", "COCO", "(A)", ["left", "right"]) for n in range(2)]
    rows[1] |= changes
    file = write_table(tmp_path / "test_2d.parquet", rows, image=datasets.Image())
    with pytest.raises(RecordError) as caught:
        CV.read(file, "test", images=None, limit=None)
    assert said in str(caught.value)
    assert "test_2d.parquet test[1]" in str(caught.value)


def test_options_of_the_same_words_are_told_apart_by_letter(tmp_path: Path) -> None:
    rows = [cv_row(0, "Count", "COCO", "(B)", ["two", "Two", "3"])]
    (question,) = CV.read(write_cv_bench(tmp_path / "cv", rows), "test", images=None, limit=None)
    assert question.answers == ("(B)",)
    for answer, right in (("B", 1.0), ("A", 0.0), ("C", 0.0)):
        numbers = numbers_of(CV, [question], [answer], tmp_path, direct=True)
        assert (strict(numbers)["Count"], lenient(numbers)["Count"]) == (right, right)


def test_a_broken_picture_is_found_when_it_is_asked_about(tmp_path: Path) -> None:
    from sifthinker.errors import ImageError

    rows = [cv_row(0, "Count", "COCO", "(B)", ["1", "2"], image={"bytes": b"no picture", "path": None})]
    (question,) = CV.read(write_cv_bench(tmp_path / "cv", rows), "test", images=None, limit=None)
    with pytest.raises(ImageError, match=r"test\[0\]\.image"):
        question.load()


def test_a_picture_that_is_not_there_costs_its_own_question_alone(tmp_path: Path) -> None:
    (tmp_path / "gone.png").write_bytes(picture("red"))  # whoever wrote the table had it
    gone = {**CV_ROWS[5], "image": {"bytes": None, "path": str(tmp_path / "gone.png")}}
    data = write_cv_bench(tmp_path / "cv", [*CV_ROWS[:5], gone, *CV_ROWS[6:]])
    asked = CV.read(data, "test", images=None, limit=None)
    (tmp_path / "said.jsonl").write_text(
        "".join(json.dumps({"id": question.id, "completion": question.answers[0]}) + "\n" for question in asked)
    )
    settings = EvalSettings(data="cv", completions=str(tmp_path / "said.jsonl"), direct=True)
    found = evaluate(settings, questions=asked, benchmark=CV)
    assert [bool(row.error) for row in found.rows] == [number == 5 for number in range(10)]
    assert "test[5]: image has the path" in found.rows[5].error
    assert "and no bytes; expected the bytes of the image" in found.rows[5].error
    assert found.table["CV-Bench"].strict.mean == 1
    assert found.table["CV-Bench"].strict.count == 9


def test_another_picture_is_another_question(tmp_path: Path) -> None:
    found = []
    for colour in ("red", "blue"):
        image = Image.new("RGB", (4, 4), colour)
        rows = [cv_row(0, "Count", "COCO", "(B)", ["1", "2"])]
        image.save(tmp_path / "x.png")
        rows[0]["image"] = {"bytes": (tmp_path / "x.png").read_bytes(), "path": None}
        (question,) = CV.read(write_cv_bench(tmp_path / colour, rows), "test", images=None, limit=None)
        found.append(question.identity(tmp_path))
    assert found[0] != found[1]
    assert found[0][:-1] == found[1][:-1]


def test_a_finished_evaluation_is_known_again_and_another_picture_is_another_one(tmp_path: Path) -> None:
    saved = tmp_path / "completions.jsonl"
    saved.write_text(
        "".join(f'{{"id": "{row["type"]}-{row["task"]}-{row["idx"]}", "completion": "A"}}\n' for row in CV_ROWS)
    )
    settings = EvalSettings(data="cv", completions=str(saved), output=str(tmp_path / "cv.json"), direct=True)
    questions = CV.read(write_cv_bench(tmp_path / "cv"), "test", images=None, limit=None)
    first = evaluate(settings, questions=questions)
    assert (first.known, first.errors) == (False, 0)
    assert first.rows[0].file_sizes == (len(picture("red")), None)
    again = evaluate(settings, questions=CV.read(tmp_path / "cv", "test", images=None, limit=None))
    assert (again.known, again.rows) == (True, first.rows)
    rows = [{**CV_ROWS[0], "image": {"bytes": picture("blue"), "path": None}}, *CV_ROWS[1:]]
    other = CV.read(write_cv_bench(tmp_path / "other", rows), "test", images=None, limit=None)
    with pytest.raises(ConfigError, match="questions"):
        evaluate(settings, questions=other)
