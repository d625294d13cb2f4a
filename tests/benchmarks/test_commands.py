"""`sif eval NAME` from published files to the benchmark's table, for each benchmark: ten questions, numbers by hand.

Every second answer is right. The others state nothing that can be read strictly, and something that a lenient scorer reads.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sifthinker.benchmarks import NAMES, benchmark, read_benchmark
from sifthinker.benchmarks.choices import right_letter
from sifthinker.cli.main import main
from sifthinker.evaluation.questions import Question

from ..stand_in import serve
from . import test_ovdeval, test_refcoco, test_tallyqa, test_viscot
from .answered import chain
from .published import write_cv_bench, write_sat, write_spatialbench, write_vstar

pytest.importorskip("datasets")


def _viscot(folder: Path) -> Path:
    folder.mkdir()
    return test_viscot.write(folder, test_viscot.conversations(["Yes"] * 5 + ["No"] * 5), test_viscot.boxes(10))


def _refcoco(folder: Path) -> Path:
    folder.mkdir()
    return test_refcoco.write(folder)


def _ovdeval(folder: Path) -> Path:
    folder.mkdir()
    return test_ovdeval.write(folder)


def _tallyqa(folder: Path) -> Path:
    folder.mkdir()
    return test_tallyqa.write(folder, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def _letter(question: Question) -> str:
    return right_letter(question) or question.answers[0]


def _box(question: Question) -> str:
    return chain(question.boxes or [(0, 0, 1, 1)], question.answers[0] if question.answers else "it")


Numbers = dict[str, tuple[float, float | None]]  # headline → (strict, lenient)
# name: (files, right answer, other answer, numbers). Right are those of the questions 0, 2, 4, 6 and 8.
CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Question], str], Callable[[Question], str], Numbers]] = {
    # Right letters C A A B B A A B B A; ADE20K has the first four, COCO two, Omni3D four. The first letter of "B, or A" is
    # B, which is right of the questions 3 and 7.
    "cv-bench": (
        write_cv_bench,
        _letter,
        lambda _: "B, or A",
        {
            "CV-Bench": ((0.5 + 0.5) / 2, (0.625 + 0.75) / 2),
            "2D": ((2 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 2) / 2),
            "3D": (2 / 4, 3 / 4),
            "Count": (2 / 3, 2 / 3),
            "Relation": (1 / 3, 2 / 3),
            "Depth": (1 / 2, 2 / 2),
            "Distance": (1 / 2, 1 / 2),
        },
    ),
    # D is right of the first six, B of the other four; both letters stand in "B, or D".
    "vstar": (
        lambda folder: write_vstar(folder, lines=True),
        _letter,
        lambda _: "B, or D",
        {"Overall": (0.5, 1), "Attribute": (0.5, 1), "Spatial": (0.5, 1)},
    ),
    # The first six have several images. The first option in their order is right of the questions 1 and 3.
    "sat": (
        write_sat,
        lambda question: question.answers[0],
        lambda question: " or ".join(question.choices),
        {"SAT": (5 / 10, 7 / 10), "single image": (2 / 4, 2 / 4), "several images": (3 / 6, 5 / 6)},
    ),
    # Two of each kind, of which the first is right: half a pair of existence earns nothing, half a pair of size or reach one
    # of three points. The right answer stands in the other one, but a count must be the answer.
    "spatialbench": (
        write_spatialbench,
        lambda question: question.answers[0],
        lambda question: f"{question.answers[0]}, or not",
        {
            "SpatialBench": ((0 + 1 / 2 + 1 / 2 + 1 / 3 + 1 / 3) / 5, (1 + 1 / 2 + 1 + 1 + 1) / 5),
            "Existence": (0, 1),
            "Counting": ((1 + 0) / 2, (1 + 0) / 2),
            "Position": (1 / 2, 1),
            "Size": (1 / 3, 1),
            "Reach": (1 / 3, 1),
        },
    ),
    # Answers have no official rule.
    "viscot": (
        _viscot,
        lambda question: question.answers[0],
        lambda _: "Yes or no",
        {"answers": (0.5, None), "answer score": (0.5, None), "vsr": (0.5, None)},
    ),
    # Counts 1 to 10, the first five simple. What states two numbers is off by the most there can be from 0 to 15: of 2 and 4
    # by 13 and 11, of 6, 8 and 10 by 9, 8 and 10.
    "tallyqa": (
        _tallyqa,
        lambda question: question.answers[0],
        lambda question: f"{question.answers[0]} or 12",
        {
            "simple": (3 / 5, 1),
            "complex": (2 / 5, 1),
            "all": (5 / 10, 1),
            "simple RMSE": (((13**2 + 11**2) / 5) ** 0.5, 0),
            "complex RMSE": (((9**2 + 8**2 + 10**2) / 5) ** 0.5, 0),
        },
    ),
    # The right box twice is two boxes, around which the right one lies; of these HIoU pays (1 + 1/2) / 2.
    "refcoco": (
        _refcoco,
        _box,
        lambda question: chain([*question.boxes, question.boxes[0]], "it"),
        {"accuracy at IoU 0.5": (0.5, 1), "mean IoU": (0.5, 1), "HIoU": ((1 + 0.75) / 2, (1 + 0.75) / 2)},
    ),
    # Every label that is there is found (4 red, 2 blue boxes); of each that is not (2 red, 3 blue), a false box. With equal
    # confidences the precisions are 4/6 and 2/5. In COCO's order of images the false red ones come last, and cost nothing.
    "ovdeval": (
        _ovdeval,
        _box,
        lambda _: chain([(0, 0, 1, 1)], "I cannot say"),
        {
            "NMS-AP": ((4 / 6 + 2 / 5) / 2, (1 + 2 / 5) / 2),
            "NMS-AP at 0.5": ((4 / 6 + 2 / 5) / 2, (1 + 2 / 5) / 2),
            "color": ((4 / 6 + 2 / 5) / 2, (1 + 2 / 5) / 2),
            "presence": (5 / 10, None),
        },
    ),
}


def sif(*words: Any) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, words)])


def run(name: str, tmp_path: Path) -> tuple[dict[str, Any], Result]:
    files, right, wrong, _ = CASES[name]
    data = files(tmp_path / "data")
    asked = read_benchmark(name, data, split="all" if name in ("viscot", "ovdeval") else None)
    assert len(asked) == 10
    said = [{"id": q.id, "completion": (wrong if n % 2 else right)(q)} for n, q in enumerate(asked)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    direct = [] if right is _box else ["--direct"]
    output = tmp_path / "e.json"
    result = sif(name, "--data", data, "--completions", tmp_path / "said.jsonl", "-o", output, *direct)
    assert result.exit_code == 0, result.output
    body: dict[str, Any] = json.loads(output.read_text())
    return body, result


@pytest.mark.parametrize("name", CASES)
def test_the_table_of_ten_questions(name: str, tmp_path: Path) -> None:
    body, result = run(name, tmp_path)
    wanted = CASES[name][3]
    table = body["benchmark"]["table"]
    assert list(table) == list(wanted)
    for headline, (strict, lenient) in wanted.items():
        assert table[headline]["strict"]["mean"] == pytest.approx(strict, abs=2e-3 if name == "ovdeval" else 1e-9), headline
        found = table[headline]["lenient"]
        if lenient is None:
            assert found is None, headline
        else:
            assert found["mean"] == pytest.approx(lenient, abs=2e-3 if name == "ovdeval" else 1e-9), headline
        assert f"{strict:.3f}" in result.stdout
    # What every question came to is in the file, and its page shows the table.
    assert [row["error"] for row in body["rows"]] == [""] * 10
    assert all(row["completion"] for row in body["rows"])
    assert body["benchmark"]["title"] in (tmp_path / "e.html").read_text()


def compared(name: str, tmp_path: Path, first: str, second: str) -> tuple[dict[str, Any], Result]:
    """Two models compared: "right" is right of all ten questions, "half" of every second, "wrong" of none."""
    files, right, wrong, _ = CASES[name]
    data = files(tmp_path / "data")
    asked = read_benchmark(name, data, split="all" if name in ("viscot", "ovdeval") else None)
    says = {
        "right": [right(q) for q in asked],
        "half": [(wrong if n % 2 else right)(q) for n, q in enumerate(asked)],
        "wrong": [wrong(q) for q in asked],
    }
    direct = [] if right is _box else ["--direct"]
    for who in (first, second):
        rows = [{"id": q.id, "completion": text} for q, text in zip(asked, says[who], strict=True)]
        saved = tmp_path / f"{who}.jsonl"
        saved.write_text("".join(json.dumps(line) + "\n" for line in rows))
        result = sif(name, "--data", data, "--completions", saved, "-o", tmp_path / f"{who}.json", *direct)
        assert result.exit_code == 0, result.output
    result = sif("compare", *(tmp_path / f"{who}.json" for who in (first, second)), "-o", tmp_path / "d.json")
    assert result.exit_code == 0, result.output
    return json.loads((tmp_path / "d.json").read_text()), result


def test_a_comparison_has_the_numbers_of_the_benchmark(tmp_path: Path) -> None:
    found, result = compared("refcoco", tmp_path, "half", "right")
    accuracy = found["table"]["accuracy at IoU 0.5"]
    assert [accuracy[part]["mean"] for part in ("first", "second", "difference")] == [0.5, 1, 0.5]
    assert accuracy["difference"]["count"] == 10
    assert 0 < accuracy["difference"]["low"] < 0.5 < accuracy["difference"]["high"] < 1
    # The wrong one says the right box twice, of which HIoU pays 0.75: on five of ten questions a quarter more.
    assert found["table"]["HIoU"]["difference"]["mean"] == pytest.approx(0.125)
    # Its own metrics are compared like the general ones.
    assert found["results"]["box accuracy"]["difference"]["mean"] == 0.5
    assert "RefCOCO, strict: mean" in result.stdout
    assert "box accuracy" in result.stdout


def test_a_number_that_is_no_mean_stands_beside_the_other(tmp_path: Path) -> None:
    found, result = compared("cv-bench", tmp_path, "half", "right")
    whole = found["table"]["CV-Bench"]
    assert ([whole[part]["mean"] for part in ("first", "second")], whole["difference"]) == ([0.5, 1], None)
    # ADE20K's four questions have 2 and 4 right, COCO's two 1 and 2: groups count alike.
    assert found["table"]["2D"]["difference"]["mean"] == pytest.approx(((4 - 2) / 4 + (2 - 1) / 2) / 2)
    # Of three counts, the first and the last are right; the difference is of one question in three.
    assert found["table"]["Count"]["difference"]["mean"] == pytest.approx(1 / 3)
    assert "Distance" in result.stdout


def test_pairs_of_questions_are_compared_as_pairs(tmp_path: Path) -> None:
    found, _ = compared("spatialbench", tmp_path, "half", "right")
    size = found["table"]["Size"]
    assert (size["first"]["mean"], size["second"]["mean"], size["difference"]["count"]) == (pytest.approx(1 / 3), 1, 1)
    assert size["difference"]["mean"] == pytest.approx(2 / 3)


def test_a_served_model_is_asked_with_the_choices_and_goes_on(tmp_path: Path) -> None:
    """Two models, one after the other; the second time nothing is asked."""
    data = write_cv_bench(tmp_path / "cv")

    def answer(request: dict[str, Any], number: int) -> str:
        return "(A)" if request["model"] == "first" else "(B)"

    with serve(answer) as (address, requests):
        words = ["cv-bench", "--data", data, "--base-url", address, "--model", "first", "--model", "second", "--direct"]
        with working_in(tmp_path):
            result = sif(*words)
            again = sif(*words)
    assert result.exit_code == again.exit_code == 0, result.output + again.output
    assert len(requests) == 20
    prompts = [request["messages"][0]["content"][-1]["text"] for request in requests]
    assert any(prompt.endswith("Question: Question 0?\n(A) 1\n(B) 0\n(C) 3\n(D) 2") for prompt in prompts)  # in any order
    # A is right of 1, 2, 5, 6 and 9; B of 3, 4, 7 and 8: (2/4 + 1/2) / 2 with 2/4, and (1/4 + 1/2) / 2 with 2/4.
    assert "0.500" in result.stdout.split("strict: mean")[1]
    assert f"{((1 / 4 + 1 / 2) / 2 + 2 / 4) / 2:.3f}" in result.stdout.split("strict: mean")[1]
    found = [json.loads((tmp_path / f"runs/eval/cv-bench-{name}.json").read_text()) for name in ("first", "second")]
    assert [one["benchmark"]["table"]["CV-Bench"]["strict"]["mean"] for one in found] == [0.5, 0.4375]


def test_choices_are_left_out_on_request(tmp_path: Path) -> None:
    data = write_cv_bench(tmp_path / "cv")
    with serve(lambda request, number: "1") as (address, requests), working_in(tmp_path):
        words = ["cv-bench", "--data", data, "--base-url", address, "--model", "m", "--direct", "--limit", 1]
        result = sif(*words, "--no-show-choices")
        assert result.exit_code == 0, result.output
    assert requests[0]["messages"][0]["content"][-1]["text"].endswith("Question: Question 0?")


def test_models_whose_names_end_alike_are_evaluated_beside_each_other(tmp_path: Path) -> None:
    data = write_cv_bench(tmp_path / "cv")
    with serve(lambda request, number: "(A)" if request["model"] == "a/x:7b" else "(B)") as (address, requests):
        words = ["cv-bench", "--data", data, "--base-url", address, "--model", "a/x:7b", "--model", "b/x:7b", "--direct"]
        with working_in(tmp_path):
            results = [sif(*words) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    assert len(requests) == 20  # the second call finds both files again
    files = sorted((tmp_path / "runs/eval").glob("*.json"))
    models = [json.loads(file.read_text())["settings"]["model"] for file in files]
    assert sorted(models) == ["a/x:7b", "b/x:7b"]
    # Windows and some shares refuse colons in names.
    assert [file.name[:14] for file in files] == ["cv-bench-x_7b-", "cv-bench-x_7b."]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("viscot", "VisCoT: answers, answer score: only vsr, a part of the benchmark"),
        ("ovdeval", "OVDEval: NMS-AP, NMS-AP at 0.5, presence: only color, a part of the benchmark"),
    ],
)
def test_a_mean_of_some_datasets_says_of_which(
    name: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = run(name, tmp_path)[0]["benchmark"]["table"]
    assert said in caplog.text
    (part,) = {"vsr", "color"} & set(table)
    assert not table[part]["about"].endswith(f"(here only {part})")
    others = [headline["about"] for of, headline in table.items() if of != part]
    assert others
    assert all(about.endswith(f"(here only {part})") for about in others)


@contextlib.contextmanager
def working_in(path: Path) -> Iterator[None]:
    """Inside another working folder, where results go by default."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cv-bench", "--model", "m", "--split", "val"), "cv-bench has no split 'val'; expected one of test"),
        (("tallyqa", "--model", "m"), "tallyqa has no default data. Download its files ("),
        (("cv-bench", "--data", "nowhere", "--model", "m"), "no such file or folder"),
        (("cv-bench", "--model", "a", "--model", "b", "-o", "x.json"), "-o is one file, but --model is given several times"),
        (("vstarr", "--model", "m"), "vstarr: no file, folder, benchmark or command has this name. Did you mean 'vstar'?"),
        (("CV-Bench",), "Did you mean 'cv-bench'?"),
        (("vstar.jsonl", "--model", "m"), "vstar.jsonl: cannot read"),
    ],
)
def test_what_is_wrong_is_a_sentence(words: tuple[str, ...], said: str) -> None:
    result = sif(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_help_page(name: str) -> None:
    result = sif(name, "--help")
    assert result.exit_code == 0, result.output
    assert sif(name, "-h").output == result.output
    found = benchmark(name)
    assert found.title in result.stdout
    assert all(f"{headline.name}:" in result.stdout for headline in found.headlines)
    words = " ".join(result.stdout.split())
    assert f"Splits: {found.splits_said}" in words
    assert f"Split of the benchmark [default: {found.splits[0]}]." in words
    assert "question file" not in words


def test_the_split_is_noted_and_the_usual_one_is_the_same_as_none(tmp_path: Path) -> None:
    data = write_cv_bench(tmp_path / "cv")
    asked = read_benchmark("cv-bench", data)
    said = "".join(json.dumps({"id": q.id, "completion": _letter(q)}) + "\n" for q in asked)
    (tmp_path / "said.jsonl").write_text(said)
    words = ["cv-bench", "--data", data, "--completions", tmp_path / "said.jsonl", "-o", tmp_path / "e.json", "--direct"]
    assert sif(*words, "--split", "test").exit_code == 0
    assert json.loads((tmp_path / "e.json").read_text())["settings"]["split"] == "test"
    again = sif(*words)
    assert (again.exit_code, "already complete" in again.stderr) == (0, True), again.stderr


def test_viscot_says_what_all_leaves_out() -> None:
    said = " ".join(sif("viscot", "--help").stdout.split())
    assert "visual7w, emotic (all: the twelve datasets of the paper's table, without emotic)" in said
