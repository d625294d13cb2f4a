"""`sif eval` as its users type it: photographs, kills, repeated commands, comparisons."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.evaluation.run import evaluate, journal_path
from sifthinker.evaluation.settings import EvalSettings

from .test_cli import lines, sif, write_rows


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six questions about three photographs, with boxes in pixels and without."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        pixels = noise.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    rows = []
    for number in range(6):
        row = {"id": f"q{number}", "image": f"{number % 3}.jpg", "question": f"What is it, {number}?", "answer": "nothing"}
        if number % 2:
            row |= {"boxes": [[32, 24, 160, 120]], "box_space": "pixel", "family": "found"}
        rows.append(row)
    return write_rows(folder / "questions.jsonl", rows)


def test_killed_and_resumed_it_writes_what_python_writes(tiny_vlm: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "cut.json"
    words = [str(photos), "--model", str(tiny_vlm), "--batch-size", "1", "--max-new-tokens", "40", "-o", str(output)]
    command = [sys.executable, "-m", "sifthinker.cli", "eval", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    journal = journal_path(output)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    answered = journal.read_bytes().count(b"\n") - 1
    assert 2 <= answered < 6
    assert not output.exists()
    result = sif("eval", *words)
    assert result.exit_code == 0, result.output
    assert f"{answered}/6" not in result.stdout
    whole = EvalSettings(
        data=str(photos), model=str(tiny_vlm), batch_size=1, max_new_tokens=40, output=str(tmp_path / "whole.json")
    )
    evaluate(whole)
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not journal.exists()
    body = json.loads(output.read_text())
    assert body["results"]["answer accuracy"]["count"] == 6
    assert body["results"]["final HIoU"]["count"] == 3  # those with boxes
    page = output.with_suffix(".html").read_text()
    assert "6 of 6 answers wrong" in page
    assert page.count("data:image/jpeg") == 6
    # The same command again shows the table and asks nothing.
    again = sif("eval", *words)
    assert again.exit_code == 0
    assert "already complete" in again.stderr
    assert "answer accuracy" in again.stdout
    # Options may come first; another evaluation is refused.
    other = sif("eval", "--model", str(tiny_vlm), "--direct", "-o", output, photos)
    assert other.exit_code == 2
    assert "batch_size was 1, now 8" in other.stderr or "protocol was 'chain', now 'direct'" in other.stderr


def test_completions_are_scored_and_failures_are_shown_first(photos: Path, tmp_path: Path) -> None:
    said = {"q0": "nothing", "q1": "nothing", "q2": "<b>something</b>", "q3": "nothing", "q4": "nothing", "q5": "x"}
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": name, "completion": text} for name, text in said.items()])
    result = sif("eval", photos, "--completions", saved, "--direct", "--most", 3, "-o", tmp_path / "e.json")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "e.html").read_text()
    assert "2 of 6 answers wrong" in page
    assert "3 of 6 answers, worst first: by answer accuracy" in page
    places = [page.index(f"<h3>{name}</h3>") for name in ("q2", "q5", "q0")]
    assert places == sorted(places)
    assert "<h3>q1</h3>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;something" in page
    assert "By family" in page
    assert "(not stated)" in page


def test_questions_that_cannot_be_asked_are_counted_in_words_and_status(photos: Path, tmp_path: Path) -> None:
    (photos.parent / "0.jpg").write_bytes(b"<i>")
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "nothing"} for n in range(6)])
    result = sif("eval", photos, "--completions", saved, "--direct", "-o", tmp_path / "e.json")
    assert result.exit_code == 3, result.output
    assert "questions that could not be asked: 2; the first, 'q0': " in result.stderr
    page = (tmp_path / "e.html").read_text()
    assert "2 could not be asked" in page
    assert "2 questions could not be asked." in page
    assert json.loads((tmp_path / "e.json").read_text())["results"]["answer accuracy"]["count"] == 4


def test_comparing(photos: Path, tmp_path: Path) -> None:
    for name, right in (("a", 2), ("b", 5)):
        rows = [{"id": f"q{n}", "completion": "nothing" if n < right else "x"} for n in range(6)]
        saved = write_rows(tmp_path / f"{name}.jsonl", rows)
        asked = 5 if name == "b" else 6
        words = ["--direct", "--limit", asked, "-o", tmp_path / f"{name}.json"]
        assert sif("eval", photos, "--completions", saved, *words).exit_code == 0
    result = sif("eval", "compare", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "d.json")
    assert result.exit_code == 0, result.output
    assert "0.600 (5)" in result.stdout  # of five questions, three more are right
    assert f"questions only in {tmp_path / 'a.json'}, left out: 1" in result.stderr
    assert json.loads((tmp_path / "d.json").read_text())["results"]["answer accuracy"]["difference"]["mean"] == 0.6
    assert sif("eval", "compare", tmp_path / "a.json", tmp_path / "a.jsonl").exit_code == 2


def test_a_comparison_of_nothing_says_so(photos: Path, tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "image": "0.jpg", "question": "What?"} for n in range(2)]  # no answer is known
    asked = write_rows(photos.parent / "open.jsonl", rows)
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "x"} for n in range(2)])
    assert sif("eval", asked, "--completions", saved, "--direct", "-o", tmp_path / "a.json").exit_code == 0
    result = sif("eval", "compare", tmp_path / "a.json", tmp_path / "a.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to compare: no question has a metric in both evaluations" in result.stderr


def test_where_results_go_by_default(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "x"} for n in range(6)])
    result = sif("eval", photos, "--completions", saved, "--direct")
    assert result.stdout.splitlines()[-2:] == ["runs/eval/questions-saved.json", "runs/eval/questions-saved.html"]
    assert len(json.loads(Path("runs/eval/questions-saved.json").read_text())["rows"]) == 6


def test_equal_names_in_other_folders_are_evaluated_beside_each_other(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "x"} for n in range(6)])
    other = Path(shutil.copytree(photos.parent, tmp_path / "other")) / photos.name
    other.write_text(other.read_text().replace("What is it", "What is this"))
    outputs = [sif("eval", data, "--completions", saved, "--direct").stdout.splitlines()[-2] for data in (photos, other) * 2]
    assert outputs[:2] == outputs[2:]  # each goes to its own file again
    assert outputs[0] == "runs/eval/questions-saved.json"
    assert re.fullmatch(r"runs/eval/questions-saved-[0-9a-f]{8}\.json", outputs[1])


def test_somebody_else_s_page_is_not_written_over(photos: Path, tmp_path: Path) -> None:
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "x"} for n in range(6)])
    words = ["eval", photos, "--completions", saved, "--direct", "-o", tmp_path / "e.json"]
    page = tmp_path / "e.html"
    page.write_text("<p>mine")
    result = sif(*words)
    said = "e.html: would be overwritten, but is not a sifthinker page"
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    assert page.read_text() == "<p>mine"
    assert not (tmp_path / "e.json").exists()
    page.unlink()
    assert [sif(*words).exit_code, sif(*words).exit_code] == [0, 0]  # ours is


def test_tables_say_what_they_are_by_and_the_whole_comes_first(photos: Path, tmp_path: Path) -> None:
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": f"q{n}", "completion": "x"} for n in range(6)])
    for name in ("a", "b"):
        said = sif("eval", photos, "--completions", saved, "--direct", "-o", tmp_path / f"{name}.json").stdout
        assert said.index("all questions: mean") < said.index("by family: mean")
    said = sif("eval", "compare", tmp_path / "a.json", tmp_path / "b.json").stdout
    assert said.index("all questions: mean") < said.index("family found: mean")
    assert "no family stated: mean" in said


def test_what_is_wrong_is_said(photos: Path, tmp_path: Path) -> None:
    for words, message in (
        ([photos], "Give --model (a model to ask) or --completions"),
        ([photos, "--model", "m", "--completions", "c"], "model and completions are both set"),
        ([tmp_path / "none", "--model", "m"], "none: cannot read"),
        ([photos, "--model", "m", "-o", photos], "expected a JSON file"),
        ([photos.with_suffix(".json"), "--model", "m", "-o", photos.with_suffix(".json")], "would be overwritten"),
        ([tmp_path, "--model", "m"], "no such examples file"),
    ):
        result = sif("eval", *words)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert "Usage: sif eval [OPTIONS] DATASET" in sif("eval", "--help").output.replace("main", "sif")
    assert lines(photos)[0]["id"] == "q0"


@pytest.fixture
def deep(photos: Path, tmp_path: Path) -> tuple[Path, Path, list[object]]:
    """A chain about a photograph with a grey depth image that is dark where it is near; the words that evaluate it."""
    grey = np.tile(np.linspace(0, 255, 320).astype(np.uint8), (240, 1))
    Image.fromarray(grey).save(photos.parent / "0.grey.png")
    asked = {"id": "q", "image": "0.jpg", "depth": "0.grey.png", "question": "What?", "answer": "cat"}
    data = write_rows(photos.parent / "deep.jsonl", [asked])
    text = '<think><area>[{"bbox_2d":[0,0,0.5,1],"depth":0.25}]</area><text>a</text></think><answer>cat</answer>'
    saved = write_rows(tmp_path / "saved.jsonl", [{"id": "q", "completion": text}])
    output = tmp_path / "deep.json"
    words: list[object] = ["eval", data, "--completions", saved, "-o", output, "--depth-encoding", "grey8"]
    return data, output, words


def test_the_depth_reading_is_kept_for_the_export(deep: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    _data, output, words = deep
    result = sif(*words, "--depth-near", "high")
    assert result.exit_code == 0, result.output
    kept = json.loads(output.read_text())["settings"]
    assert (kept["depth_encoding"], kept["depth_near"]) == ("grey8", "high")
    out = tmp_path / "out.jsonl"

    def true_depth(*more: str) -> float:
        result = sif("eval", "export", output, "--to", "jsonl", "-o", out, *more)
        assert result.exit_code == 0, result.output
        found: float = lines(out)[0]["steps"][0]["regions"][0]["depth_true"]
        return found

    # The left half runs from 0 to a half in grey: with high numbers near, from 1 to a half.
    assert true_depth() == pytest.approx(0.75, abs=0.005)
    assert true_depth("--depth-near", "low") == pytest.approx(0.25, abs=0.005)
    # Another reading is named as what it is, not as questions that have changed.
    other = sif(*words, "--depth-near", "low")
    assert (other.exit_code, "depth_near was 'high', now 'low'" in other.stderr) == (2, True), other.stderr
    # A file of an earlier version does not name it; its questions do.
    body = json.loads(output.read_text())
    del body["settings"]["depth_near"]
    output.write_text(json.dumps(body))
    assert sif(*words, "--depth-near", "high").exit_code == 0
    assert sif(*words, "--depth-near", "low").exit_code == 2


def test_without_its_depth_a_thought_keeps_its_pixels(deep: tuple[Path, Path, list[object]], tmp_path: Path) -> None:
    data, output, words = deep
    assert sif(*words, "--depth-near", "low").exit_code == 0
    out = tmp_path / "out.jsonl"
    grey = data.parent / "0.grey.png"
    for content in (b"", b"another file", None):
        grey.unlink() if content is None else grey.write_bytes(content)
        result = sif("eval", "export", output, "--to", "jsonl", "-o", out)
        assert result.exit_code == 3, result.output
        assert "1 of 1 thought without ground-truth depth; the first, 'q': " in result.stderr
        assert "--images" not in result.stderr
        (region,) = lines(out)[0]["steps"][0]["regions"]
        assert (region["box_px"], region["depth_true"]) == ([0, 0, 160, 240], None)
    (data.parent / "0.jpg").unlink()
    result = sif("eval", "export", output, "--to", "jsonl", "-o", out)
    assert "1 of 1 thought without pixels; the first, 'q': " in result.stderr
    assert "Set --images to the folder of the images" in result.stderr
