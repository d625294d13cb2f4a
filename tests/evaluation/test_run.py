"""Evaluations that are killed, resumed, repeated and refused; the same file from wherever they are asked for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, ImageError, ModelError, RecordError
from sifthinker.evaluation.questions import Question, read_questions
from sifthinker.evaluation.run import Evaluation, evaluate, evaluate_async, journal_path
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.journal import Journal
from sifthinker.thinker import Thinker, Thought


class Answering(Thinker):
    """A model that answers by rote, counts what it is asked, and may break down."""

    def __init__(self, *, dies_after: int | None = None, refuses: str = "\0") -> None:
        self.batches: list[list[str]] = []
        self.dies_after = dies_after
        self.refuses = refuses

    def think_all(self, tasks: Sequence[Any], *, protocol: Any = "chain", **sampling: Any) -> list[Thought]:
        if self.dies_after is not None and len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        for _, question, _ in tasks:
            if self.refuses in question:
                raise ImageError(f"{question!r} holds a special token")
        self.batches.append([question for _, question, _ in tasks])
        # What a model says may depend on what shares its batch.
        return [Thought(q, image, depth, f"{q} of {len(tasks)}", protocol=protocol) for image, q, depth in tasks]


@pytest.fixture
def questions(photo_folder: Path) -> Path:
    """Seven questions about one photo, of two families."""
    rows = [
        {
            "id": f"q{n}",
            "image": "cat.png",
            "question": f"number {n}",
            "answer": str(n),
            "family": "odd" if n % 2 else "even",
        }
        for n in range(7)
    ]
    path = photo_folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(questions: Path, **changes: Any) -> EvalSettings:
    return EvalSettings(**{"data": str(questions), "direct": True, "batch_size": 2, **changes})


def test_rows_results_and_groups(questions: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    output = tmp_path / "out" / "e.json"
    found = evaluate(
        settings(questions, output=str(output)), thinker=Answering(), progress=lambda *numbers: done.append(numbers)
    )
    assert done == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]
    assert [row.id for row in found.rows] == [f"q{n}" for n in range(7)]
    # "number 2 of 2" states two numbers that agree, "number 1 of 1" is alone in its batch: those two say their number.
    assert found.results["answer accuracy"].count == 7
    assert list(found.results) == ["answer accuracy"]
    assert {group: of["answer accuracy"].count for group, of in found.groups["family"].items()} == {"even": 4, "odd": 3}
    body = json.loads(output.read_text())
    assert (body["questions"], body["errors"], len(body["rows"])) == (7, 0, 7)
    first = body["rows"][0]
    assert first["prompt"] == "Answer the question about the image in a few words.\nQuestion: number 0"
    assert (first["completion"], first["answer"], first["image"]) == ("number 0 of 2", "number 0 of 2", "cat.png")
    assert first["verdict"].keys() == {"score", "rule", "reason"}
    again = Evaluation.read(output)
    assert again.to_json() == body
    assert again.rows == found.rows
    assert not journal_path(output).exists()


@pytest.mark.parametrize("dies_after", [0, 1, 3])
def test_killed_and_resumed_it_asks_nothing_twice_and_writes_the_same(
    questions: Path, tmp_path: Path, dies_after: int
) -> None:
    whole = tmp_path / "whole.json"
    evaluate(settings(questions, output=str(whole)), thinker=Answering())
    cut = settings(questions, output=str(tmp_path / "cut.json"))
    first = Answering(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        evaluate(cut, thinker=first)
    assert not (tmp_path / "cut.json").exists()
    second = Answering()
    evaluate(cut, thinker=second)
    assert first.batches + second.batches == [
        ["number 0", "number 1"], ["number 2", "number 3"], ["number 4", "number 5"], ["number 6"],
    ]  # fmt: skip
    assert (tmp_path / "cut.json").read_bytes() == whole.read_bytes()


def test_a_torn_line_of_the_journal_is_asked_again(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(questions, output=str(output)), thinker=Answering(dies_after=2))
    journal = journal_path(output)
    journal.write_bytes(journal.read_bytes()[:-10])
    second = Answering(dies_after=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(questions, output=str(output)), thinker=second)
    assert second.batches == [["number 2", "number 3"]]
    # Nothing of the torn line is left for what was answered since to be written behind.
    third = Answering()
    found = evaluate(settings(questions, output=str(output)), thinker=third)
    assert third.batches == [["number 4", "number 5"], ["number 6"]]
    assert len(found.rows) == 7


def test_a_finished_evaluation_is_not_done_again(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    evaluate(settings(questions, output=str(output)), thinker=Answering())
    written = output.stat().st_mtime_ns
    silent = Answering()
    found = evaluate(settings(questions, output=str(output)), thinker=silent)
    assert (found.known, silent.batches, output.stat().st_mtime_ns) == (True, [], written)
    assert found.questions["q0"].load()[0].size == (40, 20)
    # Fresh, it is done again; interrupted, the old file must not pass for the new one.
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(questions, output=str(output)), thinker=Answering(dies_after=1), fresh=True)
    assert not output.exists()
    assert not evaluate(settings(questions, output=str(output)), thinker=Answering()).known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direct": False}, "protocol was 'direct', now 'chain'"),
        ({"rgb_only": True}, "rgb_only was false, now true"),
        ({"max_new_tokens": 5}, "max_new_tokens was 1024, now 5"),
        ({"batch_size": 3}, "batch_size was 2, now 3"),
        ({"model": "somebody"}, "model was None, now 'somebody'"),
        ({"limit": 3}, "limit was None, now 3"),
        ({"show_choices": True}, "show_choices was false, now true"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_evaluation_is_refused(
    questions: Path, tmp_path: Path, change: dict[str, Any], message: str, finished: bool
) -> None:
    output = tmp_path / "e.json"
    if finished:
        evaluate(settings(questions, output=str(output)), thinker=Answering())
    else:
        with pytest.raises(KeyboardInterrupt):
            evaluate(settings(questions, output=str(output)), thinker=Answering(dies_after=1))
    silent = Answering()
    with pytest.raises(ConfigError, match=message):
        evaluate(settings(questions, output=str(output), **change), thinker=silent)
    assert silent.batches == []
    assert len(evaluate(settings(questions, output=str(output), **change), thinker=silent, fresh=True).rows) > 0


def test_changed_questions_are_another_evaluation(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    evaluate(settings(questions, output=str(output)), thinker=Answering())
    questions.write_text(questions.read_text().replace('"answer": "3"', '"answer": "4"'))
    with pytest.raises(ConfigError, match=r"the questions in .*questions.jsonl have changed"):
        evaluate(settings(questions, output=str(output)), thinker=Answering())


def test_the_weights_count_and_not_where_they_lie(tiny_vlm: Path, questions: Path, tmp_path: Path) -> None:
    import shutil

    how = {"output": str(tmp_path / "e.json"), "max_new_tokens": 2, "limit": 2}
    evaluate(settings(questions, model=str(tiny_vlm), **how))
    moved = tmp_path / "moved"
    shutil.copytree(tiny_vlm, moved)
    assert evaluate(settings(questions, model=str(moved), **how)).known
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ConfigError, match="weights has changed"):
        evaluate(settings(questions, model=str(moved), **how))


def test_somebody_else_s_file_is_not_written_over(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    for text in ("hello", "[]", '{"a": 1}'):
        output.write_text(text)
        for fresh in (False, True):
            with pytest.raises(ConfigError, match=r"e\.json: not"):
                evaluate(settings(questions, output=str(output)), thinker=Answering(), fresh=fresh)
        assert output.read_text() == text
    with pytest.raises(ConfigError, match="expected a JSON file"):
        evaluate(settings(questions, output=str(tmp_path / "e.html")), thinker=Answering())
    with pytest.raises(ConfigError, match=r"Give --model \(a model to ask\) or --completions"):
        evaluate(settings(questions))


def test_another_process_is_kept_out(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    with Journal(journal_path(output), {}), pytest.raises(ConfigError, match="another process"):
        evaluate(settings(questions, output=str(output)), thinker=Answering())
    journal_path(output).write_text("nonsense\n")
    with pytest.raises(ConfigError, match="line 1: the line is broken"):
        evaluate(settings(questions, output=str(output)), thinker=Answering())


def test_a_question_that_cannot_be_asked_is_a_row_with_its_error(questions: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    lines[1]["image"] = "gone.png"
    lines[2]["image"] = "broken.png"
    (questions.parent / "broken.png").write_bytes(b"no image")
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = Answering(refuses="number 4")
    found = evaluate(settings(questions, output=str(tmp_path / "e.json")), thinker=model)
    assert [bool(row.error) for row in found.rows] == [False, True, True, False, True, False, False]
    assert found.errors == json.loads((tmp_path / "e.json").read_text())["errors"] == 3
    assert "gone.png" in found.rows[1].error
    assert "special token" in found.rows[4].error
    assert set(found.rows[1].values.values()) == {None}  # not measured, which is not the same as wrong
    assert found.results["answer accuracy"].count == 4
    # The others of a refused batch are asked by themselves.
    assert model.batches == [["number 0"], ["number 3"], ["number 5"], ["number 6"]]


@pytest.mark.parametrize("finished", [True, False])
def test_a_mended_image_is_asked_about_and_nothing_else(questions: Path, tmp_path: Path, finished: bool) -> None:
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    lines[1]["image"] = "late.png"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = settings(questions, output=str(tmp_path / "e.json"))
    if finished:
        assert evaluate(asked, thinker=Answering()).errors == 1
        rest = []
    else:
        with pytest.raises(KeyboardInterrupt):
            evaluate(asked, thinker=Answering(dies_after=2))
        rest = [["number 4", "number 5"], ["number 6"]]
    late = questions.parent / "late.png"
    Image.new("RGB", (40, 20)).save(late)
    model, done = Answering(), []
    found = evaluate(asked, thinker=model, progress=lambda *numbers: done.append(numbers[0]))
    assert model.batches == [["number 1"], *rest]
    assert (found.errors, [row.id for row in found.rows], found.known) == (0, [f"q{n}" for n in range(7)], False)
    assert (done[0], done[-1]) == (6 if finished else 3, 7)
    assert not journal_path(tmp_path / "e.json").exists()
    assert evaluate(asked, thinker=model).known
    # What was answered about another image is named; one that is gone is no other.
    late.unlink()
    assert evaluate(asked, thinker=model).known
    Image.new("RGB", (400, 200)).save(late)
    with pytest.raises(ConfigError, match=r"late.png of question 'q1' had \d+ bytes when it was answered, and has \d+ now"):
        evaluate(asked, thinker=model)


def test_images_are_looked_for_before_the_model_is_loaded(
    questions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(questions, output=str(tmp_path / "e.json"), model="no-such/model-folder/x")
    with pytest.raises(ModelError, match="no such model folder"):
        evaluate(asked)
    assert not journal_path(tmp_path / "e.json").exists()  # a start that failed leaves nothing behind
    text = questions.read_text()
    questions.write_text(text.replace("cat.png", "gone.png"))
    with pytest.raises(ModelError, match=r"none of the first 7 .*gone.png: no such image\. Set --images to"):
        evaluate(asked)
    assert list(tmp_path.glob("e.json*")) == []
    questions.write_text(text.replace("cat.png", "gone.png", 2))
    evaluate(settings(questions), thinker=Answering())
    assert "2 of 7 questions cannot be asked because their image is missing. The first is 'q0'" in caplog.text
    # Where nothing else is left to ask, no model is loaded at all.
    named = settings(questions, output=str(tmp_path / "n.json"), model="nobody/none")
    assert evaluate(named, thinker=Answering()).errors == 2
    monkeypatch.setattr(Thinker, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert evaluate(named).errors == 2


def test_a_file_that_notes_direct_is_read(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    evaluate(settings(questions, output=str(output)), thinker=Answering())
    body = json.loads(output.read_text())
    assert body["settings"].pop("protocol") == "direct"
    body["settings"]["direct"] = True  # as earlier versions did
    output.write_text(json.dumps(body))
    assert evaluate(settings(questions, output=str(output)), thinker=Answering()).known
    with pytest.raises(ConfigError, match="protocol was 'direct', now 'chain'"):
        evaluate(settings(questions, output=str(output), direct=False), thinker=Answering())


def test_results_go_to_a_json_file(tmp_path: Path) -> None:
    for output, message in (
        ("r.html", r"expected a JSON file, such as r\.json"),
        ("r", r"expected a JSON file, such as r\.json"),
        ("r/", r"is a folder; give a file in it, such as r/results\.json"),
        (str(tmp_path), "is a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            EvalSettings(data="q.jsonl", output=output)


def test_where_nothing_can_be_asked_the_evaluation_stops(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    with pytest.raises(
        ModelError, match=r"none of the first 7 questions could be asked\. The first is 'q0': .*special token"
    ):
        evaluate(settings(questions, output=str(output)), thinker=Answering(refuses="number"))
    # Nothing of it is kept, so that it can be mended and repeated.
    assert evaluate(settings(questions, output=str(output)), thinker=Answering()).errors == 0


def test_choices_are_shown_where_asked_for(photo_folder: Path) -> None:
    asked = [Question("a", photo_folder / "cat.png", "Which?", answers=("cat",), choices=("cat", "dog"))]
    model = Answering()
    found = evaluate(settings(photo_folder, show_choices=True), questions=asked, thinker=model)
    assert model.batches == [["Which?\n(A) cat\n(B) dog"]]
    assert found.rows[0].prompt.endswith("Question: Which?\n(A) cat\n(B) dog")
    assert found.rows[0].question == "Which?"
    labelled = [Question("a", photo_folder / "cat.png", "Which?", choices=("A. cat", "B. dog"))]
    evaluate(settings(photo_folder, show_choices=True), questions=labelled, thinker=model)
    assert model.batches[1] == ["Which?\nA. cat\nB. dog"]


def test_questions_of_the_caller_s_own(photo_folder: Path) -> None:
    image = Image.new("RGB", (8, 8))
    asked = [Question(name, image, f"number {name}") for name in ("1", "2", "1")]
    with pytest.raises(RecordError, match="several questions have the id '1'"):
        evaluate(settings(photo_folder), questions=asked, thinker=Answering())
    with pytest.raises(RecordError, match="expected at least one question, got none"):
        evaluate(settings(photo_folder), questions=[], thinker=Answering())
    found = evaluate(settings(photo_folder), questions=asked[:2], thinker=Answering())
    assert found.rows[0].image == ""


class Drawn(Question):
    """A question that makes its image when it is asked."""

    def load(self, *, with_depth: bool = True) -> tuple[Image.Image, None]:
        return Image.new("RGB", (8, 8)), None


def test_questions_that_load_in_their_own_way_need_no_file(photo_folder: Path) -> None:
    asked = [Drawn("1", Path("seed 1"), "number 1", answers=("1",))]
    assert evaluate(settings(photo_folder), questions=asked, thinker=Answering()).errors == 0


def test_it_runs_inside_an_event_loop(questions: Path, tmp_path: Path) -> None:
    expected = evaluate(settings(questions), thinker=Answering()).to_json()

    async def both() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        waited = await evaluate_async(settings(questions, output=str(tmp_path / "e.json")), thinker=Answering())
        assert ticks > 1  # the loop went on
        ticking.cancel()
        assert waited.to_json() == evaluate(settings(questions), thinker=Answering()).to_json() == expected

    asyncio.run(both())
    assert json.loads((tmp_path / "e.json").read_text()) == expected


class TestCompletions:
    def saved(self, folder: Path, *rows: Any) -> str:
        path = folder / "saved.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def test_they_are_scored_as_the_model_would_be(self, chains: Path, tmp_path: Path) -> None:
        examples = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        rows = [{"id": row["id"], "completion": row["messages"][1]["content"]} for row in examples]
        # A chat template may have opened the chain.
        rows[0]["completion"] = rows[0]["completion"].removeprefix("<think>").lstrip()
        output = tmp_path / "e.json"
        asked = EvalSettings(data=str(chains), completions=self.saved(tmp_path, *rows), output=str(output))
        found = evaluate(asked)
        for name in ("answer accuracy", "valid format", "depth consistency", "final HIoU"):
            assert found.results[name].mean == pytest.approx(1), name
            assert found.results[name].count == 18
        assert evaluate(asked).known
        direct = [{"id": row["id"], "completion": row["answer"]} for row in examples]
        told = evaluate(EvalSettings(data=str(chains), completions=self.saved(tmp_path, *direct), direct=True))
        assert (list(told.results), told.results["answer accuracy"].mean) == (["answer accuracy"], 1)
        with pytest.raises(ConfigError, match="protocol was 'chain', now 'direct'"):
            evaluate(asked.replace(protocol="direct"))

    def test_plain_answers_are_not_silently_scored_as_chains(
        self, questions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [{"id": f"q{n}", "completion": str(n)} for n in range(7)]
        path = self.saved(tmp_path, *rows)
        evaluate(settings(questions, completions=path))
        assert caplog.text == ""
        asked = settings(questions, completions=path, direct=False, output=str(tmp_path / "e.json"))
        evaluate(asked)
        assert "none of the 7 completions is a chain. Use --direct to score plain answers" in caplog.text
        self.saved(tmp_path, *rows[:6], {"id": "q6", "completion": "7"})
        with pytest.raises(ConfigError, match=r"the completions in .*saved.jsonl have changed"):
            evaluate(asked)

    def test_depths_where_none_were_asked_for_are_told_of(
        self, questions: Path, chains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        said = '<think><area>[{"bbox_2d":[0,0,1,1]%s}]</area><text>It.</text></think><answer>0</answer>'
        rows = [{"id": f"q{n}", "completion": said % (',"depth":0.5' if n < 4 else "")} for n in range(7)]
        evaluate(settings(questions, completions=self.saved(tmp_path, *rows), direct=False))
        assert "4 of 7 chains state depths, but their questions have no depth. The valid format" in caplog.text
        assert "The first one answers question 'q0'. Use --depth MODEL" in caplog.text
        caplog.clear()
        rows[3] = {"id": "q3", "completion": said % ""}
        evaluate(settings(questions, completions=self.saved(tmp_path, *rows), direct=False))
        assert caplog.text == ""
        examples = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        rows = [{"id": row["id"], "completion": row["messages"][1]["content"]} for row in examples]
        asked = EvalSettings(data=str(chains), completions=self.saved(tmp_path, *rows))
        evaluate(asked)
        assert caplog.text == ""
        evaluate(asked.replace(rgb_only=True))
        assert "18 of 18 chains state depths, but --rgb-only leaves depth out" in caplog.text

    def test_ids_that_are_missing_or_unknown_are_named(self, questions: Path, tmp_path: Path) -> None:
        rows = [{"id": f"q{n}", "completion": str(n)} for n in range(7)]

        def scored(*saved: Any, **changes: Any) -> Evaluation:
            return evaluate(settings(questions, completions=self.saved(tmp_path, *saved), **changes))

        assert scored(*rows[::-1]).results["answer accuracy"].mean == 1
        with pytest.raises(RecordError, match="2 questions have no completion: 'q0', 'q3'"):
            scored(*rows[1:3], *rows[4:])
        with pytest.raises(RecordError, match="1 id belongs to no question: 'q9'"):
            scored(*rows, {"id": "q9", "completion": "x"})
        with pytest.raises(RecordError, match=r"saved.jsonl:2: the id 'q0' is already used by .*saved.jsonl:1"):
            scored(rows[0], rows[0])
        with pytest.raises(RecordError, match=r"saved.jsonl:1: expected an object with `id`"):
            scored({"id": "q0"})
        assert len(scored(*rows, limit=2).rows) == 2
        with pytest.raises(ConfigError, match="model and completions"):
            settings(questions, model="m", completions="c")


KILLED = """
import sys
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
import os, signal

def progress(done, total):
    if done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

data, model, output = sys.argv[1:]
settings = EvalSettings(data=data, model=model, output=output, batch_size=2, max_new_tokens=6)
evaluate(settings, progress=progress)
"""


def test_a_killed_process_leaves_what_it_had_answered(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    how = {"data": str(chains), "model": str(tiny_vlm), "batch_size": 2, "max_new_tokens": 6}
    whole = evaluate(EvalSettings(**how, output=str(tmp_path / "whole.json")))
    command = [sys.executable, "-c", KILLED, str(chains), str(tiny_vlm), str(tmp_path / "cut.json")]
    done = subprocess.run(command, env=os.environ, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    asked: list[int] = []
    cut = evaluate(EvalSettings(**how, output=str(tmp_path / "cut.json")), progress=lambda done, _: asked.append(done))
    assert asked[0] == 4
    assert cut.rows == whole.rows
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert read_questions(chains)[0].id == cut.rows[0].id


def test_a_dict_is_no_settings() -> None:
    with pytest.raises(ConfigError, match=r"expected EvalSettings, got dict. Write EvalSettings\.from_values"):
        evaluate({"data": "questions.jsonl", "model": "nano"})  # type: ignore[arg-type]


def test_settings_that_nobody_would_heed_are_refused(questions: Path) -> None:
    with pytest.raises(ConfigError, match=r"some questions have no depth\. Pass questions="):
        evaluate(settings(questions, depth="a/model"), thinker=Answering())
    with pytest.raises(ConfigError, match="split 'val': only benchmarks have splits"):
        evaluate(settings(questions, split="val"), thinker=Answering())
    for name, value in (("concurrency", 3), ("rpm", 9), ("image_format", "jpeg"), ("retries", 0), ("budget", 0)):
        with pytest.raises(ConfigError, match=f"{name} applies only to a model on a server"):
            settings(questions, model="m", prompt_price=0, **{name: value})
    with pytest.raises(ConfigError, match="dtype applies only to a model in this process, got float16"):
        settings(questions, model="m", base_url="http://127.0.0.1:1/v1", dtype="float16")


def test_a_depth_model_is_part_of_what_was_asked(questions: Path, tmp_path: Path) -> None:
    class Flat:
        name = "flat/depth"

        def estimate(self, image: Image.Image) -> DepthMap:
            return DepthMap(np.full(image.size[::-1], 0.5))

    output = tmp_path / "e.json"
    evaluate(settings(questions, output=str(output)), thinker=Answering())
    with_depth = [replace(question, estimator=Flat()) for question in read_questions(questions)]
    with pytest.raises(ConfigError, match="depth was None, now 'flat/depth'"):
        evaluate(settings(questions, output=str(output)), questions=with_depth, thinker=Answering())
    found = evaluate(settings(questions), questions=with_depth, thinker=Answering())
    assert (found.settings["depth"], found.rows[0].depth) == ("flat/depth", "estimated by flat/depth")
