"""Datasets whose chains state boxes from 0 to 1000, or in pixels of the resized image: built, checked, counted, exported."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.boxes import hierarchical_iou
from sifthinker.chain import check_chain, parse_chain, region_boxes
from sifthinker.cli.main import main
from sifthinker.coordinates import Frame, Resizer
from sifthinker.engine.build import Engine, build
from sifthinker.engine.checks import check_dataset
from sifthinker.engine.estimators import GivenDepth, NoDepth
from sifthinker.engine.exports import export
from sifthinker.engine.settings import BuildSettings
from sifthinker.engine.sources import read_source
from sifthinker.engine.stats import Stats
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import to_json
from sifthinker.prompts import TASK_DEPTH, TASK_RGB, teacher_focus, user_prompt
from sifthinker.records import Example, Record, read_examples
from sifthinker.scoring.verl import compute_score

from ..small_data import BlockTeacher, build_chains, write_records
from ..stand_in import explain, serve

RESIZER = Resizer(min_pixels=1500 * 28 * 28)  # makes 1092 by 1092 of 64 by 64: pixels are finer than thousandths
SPACES: dict[str, dict[str, Any]] = {
    "per_mille": {"coordinates": "per_mille"},
    "resized": {"coordinates": "resized", "resizer": RESIZER},
}
WORDS = {
    "per_mille": "whole thousandths (0 to 1000) of width and height",
    "resized": "whole pixels of the image as you see it",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("raw"), 6)


@pytest.fixture(scope="module", params=SPACES)
def dataset(request: pytest.FixtureRequest, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    assert build_chains(raw, folder, **SPACES[request.param]) == 6
    return folder


class TestBuilt:
    def test_chains_state_whole_numbers_and_depths_in_fractions(self, dataset: Path) -> None:
        for example in read_examples(dataset):
            space = dataset.name
            assert (example.coordinates, example.resized) == (space, (1092, 1092) if space == "resized" else None)
            boxes = re.findall(r'"bbox_2d":\[([^]]*)\]', example.chain)
            assert boxes[0] == ("0,0,1000,1000" if space == "per_mille" else "0,0,1092,1092")
            assert all(re.fullmatch(r"\d+,\d+,\d+,\d+", box) for box in boxes)
            assert re.findall(r'"depth":0\.\d{2,3}}', example.chain)
            assert WORDS[space] in example.prompt
            assert "fractions" not in example.prompt

    def test_the_last_area_is_the_target(self, dataset: Path) -> None:
        for example in read_examples(dataset):
            chain = parse_chain(example.chain, frame=example.frame)
            assert tuple(region.box for region in chain.steps[-1].regions) == example.boxes
            if example.coordinates == "resized":
                assert all((side * 1092) == pytest.approx(round(side * 1092)) for box in example.boxes for side in box)

    def test_it_is_right_in_its_own_space_alone(self, dataset: Path, tmp_path: Path) -> None:
        stats = Stats()
        assert list(check_dataset(dataset, stats=stats)) == []
        assert stats.coordinates == {dataset.name: 6}
        assert sum(stats.steps.values()) == 6
        assert 0 not in stats.steps
        assert stats.tables(Counter())["box coordinates in chains"] == [(dataset.name, "6 (100.0%)")]
        (example, *_) = read_examples(dataset)
        assert check_chain(example.chain) != []

    def test_lines_say_their_space_and_come_back(self, dataset: Path) -> None:
        (line, *_) = (dataset / "examples.jsonl").read_text().splitlines()
        row = json.loads(line)
        assert row["coordinates"] == dataset.name
        assert ("resized" in row) == (dataset.name == "resized")
        assert to_json(Example.from_json(row).to_json()) == line

    def test_unit_datasets_are_as_they_were(self, chains: Path) -> None:
        (line, *_) = (chains / "examples.jsonl").read_text().splitlines()
        row = json.loads(line)
        assert not {"coordinates", "resized"} & row.keys()
        assert not {"coordinates", "resizer"} & json.loads((chains / "manifest.json").read_text()).keys()
        assert to_json(Example.from_json(row).to_json()) == line
        assert next(read_examples(chains)).frame == Frame()

    def test_pixels_keep_what_thousandths_lose(self, tmp_path: Path) -> None:
        """A box of 3 by 3 of 2,940 pixels: 3 decimals would move its sides by up to 1.5 pixels, half its width."""
        Image.new("RGB", (2940, 1960)).save(tmp_path / "a.png")
        box = (1001 / 2940, 7 / 1960, 1004 / 2940, 10 / 1960)
        record = Record(id="a", image="a.png", question="What?", answer="cat", boxes=(box,), extra=SAID)
        engine = Engine(tmp_path, NoDepth(), BlockTeacher(), coordinates="resized", resizer=Resizer())
        assert engine.build(lambda: iter([record]), tmp_path / "out").accepted == 1
        (example,) = read_examples(tmp_path / "out")
        assert example.chain.count("[1001,7,1004,10]") == 1
        assert hierarchical_iou(example.boxes, [box]) == pytest.approx(1)


SAID = {"subject": "it", "reason": "It is here."}


class TestRecord:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"coordinates": "pixel"}, "coordinates must be one of unit, per_mille, resized, got 'pixel'"),
            ({"coordinates": 3}, "coordinates must be one of .*, got 3"),
            ({"coordinates": "resized"}, "must be the \\[width, height\\]"),
            ({"coordinates": "resized", "resized": [0, 5]}, "resized must be the"),
            ({"coordinates": "per_mille", "resized": [28, 28]}, "Remove it"),
            ({"resized": [28, 28]}, "Remove it"),
        ],
    )
    def test_what_a_line_may_not_say(self, chains: Path, change: dict[str, Any], words: str) -> None:
        row = json.loads((chains / "examples.jsonl").read_text().splitlines()[0])
        with pytest.raises(RecordError, match=words) as caught:
            Example.from_json({**row, **change}, "f:1")
        assert str(caught.value).startswith("f:1: ")


class TestPrompts:
    def test_the_unit_prompt_has_not_changed(self) -> None:
        assert user_prompt("Why?", coordinates="unit") == user_prompt("Why?") == f"{TASK_DEPTH}\nQuestion: Why?"
        assert "with coordinates as fractions of width and height and d" in TASK_DEPTH

    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("with_depth", [True, False])
    def test_others_differ_in_the_words_for_coordinates_alone(self, space: Any, with_depth: bool) -> None:
        question = "Is it with coordinates as fractions of width and height?"
        prompt = user_prompt(question, with_depth=with_depth, coordinates=space)
        task, _, asked = prompt.partition("\nQuestion: ")
        head, tail = (TASK_DEPTH if with_depth else TASK_RGB).split("as fractions of width and height")
        head = head.rstrip()
        assert asked == question
        assert (task.startswith(head), task.endswith(tail)) == (True, True)
        assert WORDS[space] in task
        assert user_prompt("Why?", protocol="direct", coordinates=space) == user_prompt("Why?", protocol="direct")

    def test_a_teacher_is_told_fractions(self) -> None:
        frame = Frame("resized", (3584, 1204))
        from sifthinker.chain import Region

        # 1000/3584 and 1001/3584 are both 0.279: the side is kept open.
        region = Region.within(frame, (1000 / 3584, 0, 1001 / 3584, 1), 0.5)
        assert teacher_focus(1, [region]) == 'Focus 1: [{"bbox_2d":[0.279,0.000,0.280,1.000],"depth":0.500}]'


class TestFolder:
    def test_another_space_is_another_build(self, raw: Path, tmp_path: Path) -> None:
        build_chains(raw, tmp_path / "out", coordinates="per_mille")
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["coordinates"] == "per_mille"
        with pytest.raises(ConfigError, match=r"settings: coordinates was 'per_mille', now 'unit'\. Choose another"):
            build_chains(raw, tmp_path / "out")
        with pytest.raises(ConfigError, match=r"settings: coordinates was 'per_mille', now 'resized'\. Choose another"):
            build_chains(raw, tmp_path / "out", coordinates="resized", resizer=RESIZER)

    def test_other_bounds_are_another_build(self, raw: Path, tmp_path: Path) -> None:
        build_chains(raw, tmp_path / "out", coordinates="resized", resizer=RESIZER)
        with pytest.raises(ConfigError, match="resizer"):
            build_chains(raw, tmp_path / "out", coordinates="resized", resizer=RESIZER.within(max_pixels=10**7))


class TestSettings:
    def settings(self, raw: Path, out: Path, **values: Any) -> BuildSettings:
        return BuildSettings(sources=[str(raw)], images=raw.parent, output=out, decimals=2, **values)

    def test_the_processor_of_the_model_to_be_trained(self, raw: Path, tmp_path: Path) -> None:
        model = tmp_path / "model"
        model.mkdir()
        config = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2}
        (model / "preprocessor_config.json").write_text(json.dumps(config))
        settings = self.settings(
            raw, tmp_path / "out", coordinates="resized", processor=str(model), min_pixels=90000, max_pixels=102400
        )
        assert build(settings, teacher=BlockTeacher()).accepted == 6
        # 64·√(90000 / 4096) = 300, next multiple of 32: 320.
        assert {example.resized for example in read_examples(tmp_path / "out")} == {(320, 320)}

    def test_bounds_alone(self, raw: Path, tmp_path: Path) -> None:
        settings = self.settings(raw, tmp_path / "out", coordinates="resized", min_pixels=28 * 28, max_pixels=28 * 28)
        assert build(settings, teacher=BlockTeacher()).accepted == 6
        assert {example.resized for example in read_examples(tmp_path / "out")} == {(28, 28)}

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"coordinates": "resized"}, "coordinates resized needs the resize settings.* Set processor"),
            ({"coordinates": "resized", "max_pixels": 5}, "coordinates resized needs the resize settings.* Set processor"),
            (
                {"max_pixels": 5},
                "max_pixels needs coordinates resized or a source with box_space resized, got coordinates unit",
            ),
            (
                {"coordinates": "per_mille", "processor": "m"},
                "processor needs coordinates resized or a source with box_space resized",
            ),
            (
                {"coordinates": "resized", "min_pixels": 6, "max_pixels": 5},
                "min_pixels must not exceed max_pixels, got 6 and 5",
            ),
            ({"coordinates": "pixels"}, "coordinates"),
        ],
    )
    def test_what_contradicts_itself(self, raw: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            self.settings(raw, tmp_path / "out", **values)

    def test_an_engine_needs_to_know_the_pixels(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"Resizer\.of_model"):
            Engine(tmp_path, GivenDepth(), BlockTeacher(), coordinates="resized")

    def test_the_command_says_what_a_model_lacks(self, raw: Path, tmp_path: Path, tiny_vlm: Path) -> None:
        line = ["data", "build", str(raw), "-o", str(tmp_path / "out"), "--coordinates", "resized", "--processor"]
        found = CliRunner().invoke(main, [*line, str(tiny_vlm), "--teacher", "local", "--model", "none"])
        assert found.exit_code == 2
        assert "does not resize images by area" in found.stderr
        assert not (tmp_path / "out").exists()


class TestBoxSpaceResized:
    """Boxes in pixels of a resized image, whatever coordinates the chains have."""

    # 640 by 480 to at most 262,144 pixels is 588 by 420, so this is the lower right quarter.
    QUARTER = [[294, 210, 588, 420]]
    BOUNDS = ("--min-pixels", "3136", "--max-pixels", "262144")

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        Image.new("RGB", (640, 480), "red").save(tmp_path / "a.png")
        row = {"id": "a", "image": "a.png", "question": "What?", "answer": "cat", "boxes": self.QUARTER}
        row["extra"] = {"subject": "the cat", "reason": "It is there."}
        (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
        return tmp_path / "r.jsonl"

    def settings(self, source: Path, own: dict[str, Any], **values: Any) -> BuildSettings:
        found = {"file": str(source), "box_space": "resized", **own}
        return BuildSettings.from_values(
            {"sources": [found], "images": source.parent, "output": source.parent / "out", "depth": "none", **values}
        )

    @pytest.mark.parametrize(
        ("own", "values"),
        [
            ({}, {"min_pixels": 3136, "max_pixels": 262144}),
            ({}, {"min_pixels": 3136, "max_pixels": 262144, "coordinates": "resized"}),
            ({"max_pixels": 262144}, {}),
            # Boxes from one processor, chains for another.
            ({"max_pixels": 262144}, {"min_pixels": 28 * 28, "max_pixels": 28 * 28, "coordinates": "resized"}),
        ],
    )
    def test_bounds_of_the_build_or_of_the_source(self, source: Path, own: dict[str, Any], values: dict[str, Any]) -> None:
        settings = self.settings(source, own, **values)
        assert build(settings, teacher=BlockTeacher()).accepted == 1
        (example,) = read_examples(source.parent / "out")
        assert example.boxes == ((0.5, 0.5, 1, 1),)

    @pytest.mark.parametrize("of_the_source", [True, False])
    def test_a_processor(self, source: Path, of_the_source: bool) -> None:
        model = source.parent / "model"
        model.mkdir()
        config = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "max_pixels": 262144}
        (model / "preprocessor_config.json").write_text(json.dumps(config))
        said = {"processor": str(model)}
        settings = self.settings(source, said if of_the_source else {}, **({} if of_the_source else said))
        build(settings, teacher=BlockTeacher())
        (example,) = read_examples(source.parent / "out")
        assert example.boxes == ((0.5, 0.5, 1, 1),)

    def test_a_recipe(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text(
            "depth: none\nsources:\n  - {file: r.jsonl, box_space: resized, max_pixels: 262144}\n"
        )
        build(BuildSettings.from_yaml(tmp_path / "r.yaml", given={"output": tmp_path / "out"}), teacher=BlockTeacher())
        (example,) = read_examples(tmp_path / "out")
        assert example.boxes == ((0.5, 0.5, 1, 1),)

    def test_the_commands(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = [str(source), "--box-space", "resized", *self.BOUNDS]
        found = CliRunner().invoke(main, ["data", "paths", *line, "-o", str(tmp_path / "p.jsonl")])
        assert found.exit_code == 0, found.output
        assert json.loads((tmp_path / "p.jsonl").read_text())["boxes"] == [[0.5, 0.5, 1, 1]]
        found = CliRunner().invoke(main, ["data", "check", *line])
        assert (found.exit_code, "1 record, 0 findings" in found.stderr) == (0, True)
        monkeypatch.setenv("SIF_TEST_KEY", "planted-secret-key")
        more = ["--depth", "none", "--coordinates", "resized", "-o", str(tmp_path / "b")]
        with serve(explain) as (url, _):
            served = ["--base-url", url, "--model", "vlm", "--api-key-env", "SIF_TEST_KEY"]
            found = CliRunner().invoke(main, ["data", "build", *line, *more, *served])
        assert found.exit_code == 0, found.output
        (example,) = read_examples(tmp_path / "b")
        assert (example.boxes, example.resized) == (((0.5, 0.5, 1, 1),), (588, 420))
        found = CliRunner().invoke(
            main, ["data", "paths", str(source), "--max-pixels", "9", "-o", str(tmp_path / "q.jsonl")]
        )
        assert "max_pixels needs box_space resized, got box_space unit. Remove it" in " ".join(found.stderr.split())

    def test_in_python(self, source: Path) -> None:
        (record,) = read_source(source, box_space="resized", resizer=Resizer(max_pixels=262144))
        assert record.boxes == ((0.5, 0.5, 1, 1),)
        with pytest.raises(ConfigError, match="resizer needs box_space resized, got pixel"):
            list(read_source(source, box_space="pixel", resizer=Resizer()))

    def test_without_bounds_they_are_those_of_qwen2_5_vl(self, source: Path) -> None:
        (record,) = read_source(source, box_space="resized")
        np.testing.assert_allclose(record.boxes, [(294 / 644, 210 / 476, 588 / 644, 420 / 476)])

    def test_a_box_past_the_border_is_told_where_that_is(self, source: Path) -> None:
        (found,) = read_source(source, box_space="resized", resizer=Resizer(max_pixels=28 * 28), outside="strict")
        assert "lies wholly outside the image (resized to width 28, height 28)" in found.reason

    def test_other_bounds_are_another_build(self, source: Path) -> None:
        build(self.settings(source, {"max_pixels": 262144}), teacher=BlockTeacher())
        manifest = json.loads((source.parent / "out" / "manifest.json").read_text())
        assert manifest["sources"][0]["resizer"] == {"factor": 28, "min_pixels": 3136, "max_pixels": 262144}
        # However they are stated.
        assert build(self.settings(source, {}, max_pixels=262144), teacher=BlockTeacher()).accepted == 1
        with pytest.raises(ConfigError, match="sources was"):
            build(self.settings(source, {}), teacher=BlockTeacher())
        with pytest.raises(ConfigError, match="sources was"):
            build(self.settings(source, {"max_pixels": 131072}), teacher=BlockTeacher())


class TestExports:
    def test_verl_scores_its_own_chain(self, dataset: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        export(dataset, tmp_path / "x", "verl")
        found = datasets.load_dataset("parquet", data_files=str(tmp_path / "x" / "train.parquet"), split="train")
        for row in found:
            score = compute_score(row["data_source"], row["extra_info"]["chain"], row["reward_model"]["ground_truth"])
            assert score["format"] == score["answer"] == score["depth"] == 1
            assert score["grounding"] >= 1

    def test_trl_columns_score_its_own_chain(self, dataset: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        from sifthinker import AnswerReward, depth_reward, format_reward, grounding_reward

        export(dataset, tmp_path / "x", "trl")
        found = datasets.load_from_disk(tmp_path / "x")
        names = ("id", "answer", "boxes", "choices", "depth", "coordinates", "resized")
        columns = {name: found[name] for name in names}
        completions = [row["completion"] for row in found]
        for reward in (format_reward, AnswerReward(), depth_reward):
            assert reward(completions, **columns) == [1] * 6
        assert min(grounding_reward(completions, **columns)) >= 1

    def test_hub_and_llamafactory(self, dataset: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        export(dataset, tmp_path / "x", "hf")
        found = datasets.load_dataset(str(tmp_path / "x"), split="train")
        frames = [Frame(row["coordinates"], row["resized"]) for row in found]
        assert frames == [example.frame for example in read_examples(dataset)]
        export(dataset, tmp_path / "y", "llamafactory")
        rows = json.loads((tmp_path / "y" / "sif.json").read_text())
        for row, example in zip(rows, read_examples(dataset), strict=True):
            assert row["conversations"][1]["value"] == example.chain
            assert {name: row[name] for name in example.frame.columns()} == example.frame.columns()

    def test_unit_tables_have_no_such_columns(self, chains: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        for to in ("trl", "hf"):
            export(chains, tmp_path / to, to)
        columns = datasets.load_from_disk(tmp_path / "trl").column_names
        columns += datasets.load_dataset(str(tmp_path / "hf"), split="train").column_names
        assert not {"coordinates", "resized"} & set(columns)


def test_boxes_of_regions_stay_exact() -> None:
    frame = Frame("resized", (3, 7))
    text = '<think><area>[{"bbox_2d":[1,2,2,5]}]</area><text>a</text></think><answer>b</answer>'
    (step,) = parse_chain(text, with_depth=False, frame=frame).steps
    np.testing.assert_array_equal(region_boxes(step.regions), [[1 / 3, 2 / 7, 2 / 3, 5 / 7]])
