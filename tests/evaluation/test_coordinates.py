"""Models that state boxes from 0 to 1000, or in pixels of the resized image: asked, measured, saved, drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.coordinates import Frame
from sifthinker.errors import BoxError, ConfigError, RecordError
from sifthinker.evaluation.completions import score_file
from sifthinker.evaluation.questions import Question, read_questions
from sifthinker.evaluation.run import Evaluation, ask, evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.files import write_jsonl
from sifthinker.models import Generation
from sifthinker.records import Example, read_examples
from sifthinker.show.report import evaluation_page, scored_page
from sifthinker.show.viewer import write_viewer
from sifthinker.thinker import Thinker

pytest.importorskip("torch")

SPACES = ["unit", "per_mille", "resized"]
ALL = {"answer accuracy": 1, "final HIoU": 1, "depth consistency": 1, "valid format": 1}


@pytest.fixture
def gold(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Example]], list[str]]:
    """Makes any model say the gold chains, found by their questions' places; gives the prompts that it was asked with."""

    def give(examples: list[Example]) -> list[str]:
        prompts: list[str] = []
        rest = iter(examples)

        def complete(model: Any, processor: Any, talks: Any, images: Any, **sampling: Any) -> Iterator[Generation]:
            prompts.extend(talk[0]["content"][-1]["text"] for talk in talks)
            return iter([Generation(next(rest).chain, True, 1, 1) for _ in talks])

        monkeypatch.setattr("sifthinker.thinker.complete", complete)
        return prompts

    return give


@pytest.fixture(scope="module")
def qwen(real_model: Callable[[str], Path]) -> Thinker:
    return Thinker.load(real_model("qwen2_5_vl"), device="cpu", dtype="float32", max_new_tokens=4)


def metrics(found: Evaluation) -> dict[str, float]:
    return {name: result.mean for name, result in found.results.items() if name in ALL}


class TestAsked:
    @pytest.mark.parametrize("space", SPACES)
    def test_a_dataset_says_how_its_models_are_asked(
        self, space: str, chains_in: Callable[[str], Path], qwen: Thinker, gold: Any, tmp_path: Path
    ) -> None:
        data = chains_in(space)
        examples = list(read_examples(data))
        prompts = gold(examples)
        output = tmp_path / "e.json"
        found = evaluate(EvalSettings(data=str(data), model="m", output=str(output)), thinker=qwen)
        assert metrics(found) == ALL
        assert prompts == [example.prompt for example in examples] == [row.prompt for row in found.rows]
        assert [row.frame for row in found.rows] == [example.frame for example in examples]
        again = Evaluation.read(output)
        assert [row.frame for row in again.rows] == [row.frame for row in found.rows]
        saved = json.loads(output.read_text())
        assert saved["settings"].get("coordinates", "unit") == space
        assert ("coordinates" in saved["rows"][0]) == (space != "unit")

    def test_another_space_can_be_asked_for(self, chains_in: Callable[[str], Path], qwen: Thinker, gold: Any) -> None:
        """A model that learnt 0 to 1000, measured on a dataset in fractions; and the same answers read as fractions."""
        for space, value in (("per_mille", 1), ("unit", 0)):
            prompts = gold(list(read_examples(chains_in("per_mille"))))
            settings = EvalSettings(data=str(chains_in("unit")), model="m", coordinates=space)
            found = metrics(evaluate(settings, thinker=qwen))
            assert found["answer accuracy"] == 1
            assert found["valid format"] == value
            assert found["final HIoU"] == pytest.approx(value, abs=0.05)
            assert all(("0 to 1000" in prompt) == (space == "per_mille") for prompt in prompts)

    def test_pixels_are_those_of_the_model_that_is_asked(
        self, chains_in: Callable[[str], Path], real_model: Callable[[str], Path]
    ) -> None:
        questions = read_questions(chains_in("resized"), limit=1)
        small = Thinker.load(real_model("qwen2_5_vl"), device="cpu", dtype="float32", max_new_tokens=2)
        other = Thinker.load(real_model("qwen3_vl"), device="cpu", dtype="float32", max_new_tokens=2)
        assert [ask(model, questions)[0].resized for model in (small, other)] == [(56, 56), (256, 256)]

    def test_pixels_of_a_model_that_does_not_resize_so(
        self, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path
    ) -> None:
        settings = EvalSettings(data=str(chains_in("resized")), model=str(tiny_vlm), output=str(tmp_path / "e.json"))
        with pytest.raises(ConfigError, match=r"SiglipImageProcessor\w*, does not resize by area"):
            evaluate(settings)
        assert list(tmp_path.iterdir()) == []
        assert evaluate(settings.replace(coordinates="unit", limit=1, max_new_tokens=2)).errors == 0
        assert evaluate(settings.replace(protocol="direct", limit=1, max_new_tokens=2), fresh=True).errors == 0

    def test_an_image_that_the_processor_does_not_take_is_one_question(self, qwen: Thinker) -> None:
        good = Question("a", Image.new("RGB", (64, 64)), "What?", answers=("cat",))
        narrow = replace(good, id="b", image=Image.new("RGB", (603, 3)))
        rows = ask(qwen, [good, narrow], coordinates="resized")
        assert [bool(row.error) for row in rows] == [False, True]
        assert "603×3" in rows[1].error
        assert "aspect ratio" in rows[1].error

    def test_questions_of_several_spaces_have_to_be_told(self, qwen: Thinker) -> None:
        one = Question("a", Image.new("RGB", (64, 64)), "What?")
        other = replace(one, id="b", frame=Frame("per_mille"))
        with pytest.raises(ConfigError, match=r"coordinates: per_mille and unit\. Set coordinates"):
            ask(qwen, [one, other])
        assert len(ask(qwen, [one, other], coordinates="unit")) == 2

    def test_another_space_is_another_evaluation(
        self, chains_in: Callable[[str], Path], qwen: Thinker, gold: Any, tmp_path: Path
    ) -> None:
        settings = EvalSettings(data=str(chains_in("unit")), model="m", output=str(tmp_path / "e.json"))
        gold(list(read_examples(chains_in("unit"))))
        evaluate(settings, thinker=qwen)
        with pytest.raises(ConfigError, match="coordinates was 'unit', now 'per_mille'"):
            evaluate(settings.replace(coordinates="per_mille"), thinker=qwen)
        assert evaluate(settings.replace(coordinates="unit"), thinker=qwen).known


class TestSaved:
    @pytest.mark.parametrize("space", SPACES)
    def test_completions_are_read_in_the_space_of_their_data(
        self, space: str, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        data, file = chains_in(space), tmp_path / "c.jsonl"
        write_jsonl(file, [{"id": example.id, "completion": example.chain} for example in read_examples(data)])
        assert metrics(evaluate(EvalSettings(data=str(data), completions=str(file)))) == ALL
        scored = list(score_file(file, data))
        assert [item.frame.space for item in scored] == [space] * 6
        assert min(item.scores.total for item in scored) >= 4

    def test_pixels_of_an_unknown_size(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        data, file = chains_in("unit"), tmp_path / "c.jsonl"
        write_jsonl(file, [{"id": example.id, "completion": example.chain} for example in read_examples(data)])
        settings = EvalSettings(data=str(data), completions=str(file), coordinates="resized")
        with pytest.raises(ConfigError, match="boxes in coordinates resized, but no image size"):
            evaluate(settings)

    @pytest.mark.parametrize("said", ["per_mille", "resized"])
    @pytest.mark.parametrize("asked", SPACES)
    def test_what_a_line_says_comes_before_its_dataset(
        self, said: str, asked: str, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        """Also where the dataset is in fractions and knows no size; `final HIoU` is that of rounded boxes."""
        data, file = chains_in(asked), tmp_path / "c.jsonl"
        gold = list(read_examples(chains_in(said)))
        write_jsonl(file, [{"id": example.id, "completion": example.chain, **example.frame.columns()} for example in gold])
        found = evaluate(EvalSettings(data=str(data), completions=str(file)))
        assert [row.frame for row in found.rows] == [example.frame for example in gold]
        scored = list(score_file(file, data))
        assert [item.frame for item in scored] == [example.frame for example in gold]
        assert {item.scores.format.value for item in scored} == {1} == {metrics(found)["valid format"]}
        assert metrics(found)["final HIoU"] == pytest.approx(1, abs=0.12)
        assert min(item.scores.grounding.value for item in scored) > 0.8

    def test_a_line_may_say_that_it_is_in_fractions(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        data, file = chains_in("per_mille"), tmp_path / "c.jsonl"
        gold = list(read_examples(chains_in("unit")))
        write_jsonl(file, [{"id": e.id, "completion": e.chain, "coordinates": "unit", "resized": None} for e in gold])
        assert metrics(evaluate(EvalSettings(data=str(data), completions=str(file))))["valid format"] == 1
        assert {item.frame for item in score_file(file, data)} == {Frame()}

    def test_a_line_whose_space_is_none_is_named(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        data, file = chains_in("unit"), tmp_path / "c.jsonl"
        lines = [{"id": example.id, "completion": example.chain} for example in read_examples(data)]
        lines[1] |= {"coordinates": "pixel"}
        write_jsonl(file, lines)
        for score in (
            lambda: evaluate(EvalSettings(data=str(data), completions=str(file))),
            lambda: list(score_file(file, data)),
        ):
            with pytest.raises(
                RecordError, match=r"c\.jsonl:2: coordinates must be one of unit, per_mille, resized, got 'pixel'"
            ):
                score()

    @pytest.mark.parametrize(("said", "read"), [("per_mille", "unit"), ("unit", "per_mille"), ("per_mille", "resized")])
    def test_completions_that_are_plainly_in_another_space(
        self, said: str, read: str, chains_in: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file, data = tmp_path / "c.jsonl", chains_in(read)
        lines = [{"id": example.id, "completion": example.chain} for example in read_examples(chains_in(said))]
        write_jsonl(file, [*lines[:5], {**lines[5], "completion": "no chain"}])
        list(score_file(file, data))
        evaluate(EvalSettings(data=str(data), completions=str(file)))
        first, second = (record.getMessage() for record in caplog.records)
        for message in (first, second):
            assert (
                "5 of 5 completions have boxes that do not fit the coordinates they are read in; most look like " in message
            )
            assert f"({said})" in message
        assert "Set `coordinates` in each line" in first
        assert "Set --coordinates (or `coordinates` in each line)" in second

    def test_completions_in_their_own_space_are_no_matter(
        self, chains_in: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for space in SPACES:
            file = tmp_path / "c.jsonl"
            write_jsonl(file, [{"id": e.id, "completion": e.chain} for e in read_examples(chains_in(space))])
            list(score_file(file, chains_in(space)))
            evaluate(EvalSettings(data=str(chains_in(space)), completions=str(file)))
        assert caplog.records == []

    def test_lines_of_their_own_may_say_their_space(self, tmp_path: Path) -> None:
        text = '<think><area>[{"bbox_2d":[0,0,28,56]}]</area><text>a</text></think><answer>cat</answer>'
        line = {"completion": text, "answer": "cat", "boxes": [[0, 0, 0.5, 1]], "coordinates": "resized"}
        write_jsonl(tmp_path / "c.jsonl", [{**line, "resized": [56, 56]}])
        (item,) = score_file(tmp_path / "c.jsonl")
        assert item.scores.total == 3
        write_jsonl(tmp_path / "c.jsonl", [line])
        with pytest.raises(
            ValueError, match=r"c\.jsonl:1: resized must be the \[width, height\] in pixels of the image .* got None"
        ):
            list(score_file(tmp_path / "c.jsonl"))


class TestThinker:
    def test_frames(self, qwen: Thinker, tiny_vlm: Path) -> None:
        assert qwen.frame((640, 480), "unit") == Frame()
        assert qwen.frame((640, 480), "per_mille") == Frame("per_mille")
        assert qwen.frame((640, 480), "resized") == Frame("resized", (644, 476))
        with pytest.raises(BoxError, match="coordinates must be one of unit, per_mille, resized, got 'pixel'"):
            qwen.frame((640, 480), "pixel")
        with pytest.raises(ConfigError, match="does not resize by area"):
            Thinker.load(tiny_vlm, device="cpu").frame((640, 480), "resized")

    def test_a_thought_is_read_in_its_frame(self, qwen: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
        text = '<think><area>[{"bbox_2d":[161,0,322,476]}]</area><text>a</text></think><answer>cat</answer>'
        monkeypatch.setattr("sifthinker.thinker.complete", lambda *given, **how: [Generation(text, True, 1, 1)])
        image = Image.new("RGB", (640, 480))
        thought = qwen.think(image, "What?", coordinates="resized")
        assert thought.steps[0][0][0].box == (0.25, 0, 0.5, 1)
        assert thought.reading.problems == ()
        assert qwen.think(image, "What?").reading.problems[0].code == "box_range"
        assert qwen.think(image, "What?", protocol="direct", coordinates="resized").frame == Frame()

    @pytest.mark.parametrize(("space", "hint"), [("unit", True), ("per_mille", False)])
    def test_the_command_says_what_boxes_look_like(
        self, space: str, hint: bool, tiny_vlm: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        text = '<think><area>[{"bbox_2d":[250,0,500,1000],"depth":0.5}]</area><text>a</text></think><answer>cat</answer>'
        monkeypatch.setattr("sifthinker.thinker.complete", lambda *given, **how: [Generation(text, True, 1, 1)])
        line = ["think", str(photo_folder / "cat.png"), "What?", "--model", str(tiny_vlm), "-o", str(tmp_path / "t.html")]
        found = CliRunner().invoke(main, [*line, "--coordinates", space])
        assert found.exit_code == 0, found.output
        said = "the boxes look like whole numbers from 0 to 1000 (per_mille); set --coordinates to the format that the model"
        assert (said in found.stderr) == hint
        assert ("[0.25, 0.00, 0.50, 1.00] depth 0.50" in found.stdout) != hint


class TestShown:
    """The 6 chains state the same boxes, rounded to their own numbers, so pages draw the same within half a step."""

    def drawn(self, page: str) -> list[float]:
        return [float(found) for found in re.findall(r'<rect[^>]* x="([\d.]+)"', page)]

    @pytest.mark.parametrize("space", ["per_mille", "resized"])
    def test_pages_draw_boxes_where_they_are(self, space: str, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        pages = []
        for name in ("unit", space):
            data, file = chains_in(name), tmp_path / f"{name}.jsonl"
            write_jsonl(file, [{"id": example.id, "completion": example.chain} for example in read_examples(data)])
            found = evaluate(EvalSettings(data=str(data), completions=str(file)))
            scored = list(score_file(file, data))
            pages.append((evaluation_page(found), scored_page(scored, title="t", total=6)))
        for unit, other in zip(*pages, strict=True):
            assert len(self.drawn(unit)) > 12
            assert self.drawn(other) == pytest.approx(self.drawn(unit), abs=64 * 0.02 + 64 / 56)
            assert "not a valid chain" not in other

    @pytest.mark.parametrize("space", SPACES)
    def test_the_viewer_holds_fractions(self, space: str, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        write_viewer(chains_in(space), tmp_path / "pages")
        entries = json.loads((tmp_path / "pages" / "part-0.js").read_text().partition(", ")[2].rpartition(")")[0])
        for entry in entries:
            assert [region["box"] for region in entry["steps"][-1]["regions"]] == entry["targets"]
            assert entry["facts"].get("coordinates", "unit") == space
        assert ("resized" in entries[0]["facts"]) == (space == "resized")


def test_questions_carry_the_space_of_their_dataset(chains_in: Callable[[str], Path], tmp_path: Path) -> None:
    for space in SPACES:
        questions = read_questions(chains_in(space))
        assert {question.frame.space for question in questions} == {space}
        # Its identity says so; that of a question in fractions is what it was.
        (question, *_) = questions
        assert len(question.identity(tmp_path)) == len(replace(question, frame=Frame()).identity(tmp_path)) + (
            space != "unit"
        )


def test_a_loaded_model_is_asked_in_what_it_has_learnt(
    qwen: Thinker, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings name no model, so that the thinker alone can tell."""
    monkeypatch.setitem(qwen.processor.tokenizer.init_kwargs, "sif_coordinates", "per_mille")  # type: ignore[attr-defined]
    (photo_folder / "q.jsonl").write_text('{"image": "cat.png", "question": "What?", "boxes": [[0, 0, 0.5, 1]]}\n')
    found = evaluate(EvalSettings(data=str(photo_folder / "q.jsonl")), thinker=qwen)
    assert "whole thousandths" in found.rows[0].prompt


def test_saved_structured_replies_are_read_in_the_coordinates_that_are_stated(photo_folder: Path) -> None:
    (photo_folder / "q.jsonl").write_text(
        '{"id": "1", "image": "cat.png", "question": "?", "boxes": [[0.1, 0.1, 0.5, 0.5]]}\n'
    )
    reply = {"steps": [{"regions": [{"bbox_2d": [100, 100, 500, 500]}], "text": "It."}], "answer": "cat"}
    saved = photo_folder / "said.jsonl"
    saved.write_text(json.dumps({"id": "1", "completion": json.dumps(reply)}) + "\n")
    asked = EvalSettings(
        data=str(photo_folder / "q.jsonl"), completions=str(saved), protocol="structured", coordinates="per_mille"
    )
    (row,) = evaluate(asked).rows
    assert (row.problems, row.values["final HIoU"]) == ((), 1.0)
