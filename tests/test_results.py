"""Thoughts as data: our JSON, COCO, Label Studio and supervision, each number worked out by hand."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.chain import parse_chain
from sifthinker.coordinates import Frame
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.engine.exports import export
from sifthinker.errors import ConfigError, MissingExtraError
from sifthinker.evaluation.run import Evaluation, evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.records import read_examples
from sifthinker.results import (
    evaluation_to_json,
    files_of_row,
    label_studio_config,
    row_to_json,
    thought_of_row,
    thought_to_json,
    to_coco,
    to_detections,
    to_label_studio,
    with_questions,
)
from sifthinker.thinker import Thought, thought_of

from .test_cli import write_rows

PICTURE = Image.new("RGB", (10, 10))
CHAIN = (
    '<think><area>[{"bbox_2d":[0.1,0.2,0.5,0.8],"depth":0.3}]</area><text>a</text>'
    '<area>[{"bbox_2d":[0.2,0.4,0.4,0.6],"depth":0.9},{"bbox_2d":[0,0,1,0.5],"depth":0.45}]</area><text>b</text></think>'
    "<answer>cat</answer>"
)
BROKEN = CHAIN.replace("<answer>", "so: <answer>")
STRUCTURED = '{"steps":[{"regions":[{"bbox_2d":[100,200,500,800]}],"text":"a"},{"regions":[],"text":"lost"}],"answer":"cat"}'


@pytest.fixture
def thought(ramp: DepthMap) -> Thought:
    return Thought("What?", PICTURE, ramp, CHAIN, seconds=1.23456, tokens=(7, 3))


class TestJson:
    def test_boxes_in_pixels_and_both_depths(self, thought: Thought) -> None:
        told = json.loads(json.dumps(thought_to_json(thought, id="q1", file="a b.png")))
        assert told["image"] == {"file": "a b.png", "width": 10, "height": 10}
        # The ramp is column / 10: columns 1 to 4 have the mean 0.25, 2 and 3 too, all of them 0.45.
        assert told["steps"] == [
            {
                "words": "a",
                "regions": [{"box": [0.1, 0.2, 0.5, 0.8], "box_px": [1, 2, 5, 8], "depth_stated": 0.3, "depth_true": 0.25}],
            },
            {
                "words": "b",
                "regions": [
                    {"box": [0.2, 0.4, 0.4, 0.6], "box_px": [2, 4, 4, 6], "depth_stated": 0.9, "depth_true": 0.25},
                    {"box": [0, 0, 1, 0.5], "box_px": [0, 0, 10, 5], "depth_stated": 0.45, "depth_true": 0.45},
                ],
            },
        ]
        assert (told["answer"], told["complete"], told["problems"], told["text"]) == ("cat", True, [], CHAIN)
        assert (told["tokens"], told["seconds"], told["coordinates"]) == ({"read": 7, "written": 3}, 1.235, "unit")

    def test_a_hole_has_no_depth(self, ramp: DepthMap) -> None:
        valid = np.ones((10, 10), bool)
        valid[2:8, 1:5] = False
        told = thought_to_json(Thought("What?", PICTURE, DepthMap(ramp.values, valid), CHAIN))
        assert [step["regions"][0]["depth_true"] for step in told["steps"]] == [None, None]
        assert told["steps"][1]["regions"][1]["depth_true"] is not None

    def test_a_broken_chain_tells_where_and_keeps_its_steps(self, ramp: DepthMap) -> None:
        told = thought_to_json(Thought("What?", PICTURE, ramp, BROKEN))
        (problem,) = told["problems"]
        assert (problem["code"], BROKEN[problem["position"] :][:3]) == ("stray_text", "so:")
        assert (len(told["steps"]), told["answer"]) == (2, "cat")

    def test_pixels_of_another_size_are_read_as_fractions(self) -> None:
        text = '<think><area>[{"bbox_2d":[14,0,28,56]}]</area><text>a</text></think><answer>x</answer>'
        told = thought_to_json(Thought("What?", PICTURE, None, text, frame=Frame("resized", (28, 56))))
        assert told["steps"][0]["regions"] == [
            {"box": [0.5, 0, 1, 1], "box_px": [5, 0, 10, 10], "depth_stated": None, "depth_true": None}
        ]
        assert (told["coordinates"], told["resized"]) == ("resized", [28, 56])

    def test_a_structured_reply_keeps_what_it_was_composed_from(self) -> None:
        told = thought_to_json(thought_of((PICTURE, "What?", None), "structured", Frame("per_mille"), STRUCTURED))
        assert told["reply"] == STRUCTURED
        assert told["text"].startswith("<think>")
        assert told["steps"][0]["regions"][0]["box_px"] == [1, 2, 5, 8]
        assert [problem["code"] for problem in told["problems"]] == ["no_region"]

    def test_a_direct_answer_has_no_steps(self, ramp: DepthMap) -> None:
        told = thought_to_json(Thought("What?", PICTURE, ramp, CHAIN, protocol="direct"))
        assert (told["steps"], told["problems"], told["answer"]) == ([], [], "cat")


@pytest.fixture
def photos(photo_folder: Path) -> Path:
    """Two questions about `cat.png`, 40 by 20, which has depth: one with boxes, and one about an image that is not there."""
    rows = [
        {"id": "a", "image": "cat.png", "depth": "cat.depth.png", "question": "What?", "answer": "cat",
         "boxes": [[0.1, 0.2, 0.5, 0.8]], "family": "f", "tags": {"light": "dim"}},
        {"id": "b", "image": "none.png", "question": "Where?"},
        {"id": "c", "image": "cat.png", "question": "Which?", "choices": ["cat", "dog"], "answer": "dog"},
    ]  # fmt: skip
    return write_rows(photo_folder / "questions.jsonl", rows)


@pytest.fixture
def evaluated(photos: Path, tmp_path: Path) -> Evaluation:
    plain = CHAIN.replace(',"depth":0.3', "").replace(',"depth":0.9', "").replace(',"depth":0.45', "")
    said = [{"id": "a", "completion": CHAIN}, {"id": "b", "completion": "x"}, {"id": "c", "completion": plain}]
    saved = write_rows(tmp_path / "saved.jsonl", said)
    return evaluate(EvalSettings(data=str(photos), completions=str(saved), output=str(tmp_path / "e.json")))


class TestRows:
    def test_a_row_tells_all_that_it_keeps(self, evaluated: Evaluation, photos: Path) -> None:
        first, second, third = evaluation_to_json(evaluated)
        row = evaluated.rows[0]
        assert first["image"] == {"file": "cat.png", "width": 40, "height": 20}
        assert first["steps"][0]["regions"][0]["box_px"] == [4, 4, 20, 16]
        known = DepthMap.read(photos.parent / "cat.depth.png").mean([[0.1, 0.2, 0.5, 0.8]])[0]
        assert first["steps"][0]["regions"][0]["depth_true"] == pytest.approx(known, abs=1e-4)
        assert first["truth"]["boxes"] == [[0.1, 0.2, 0.5, 0.8]]
        assert first["truth"]["verdict"]["score"] == 1
        assert third["truth"] | {"verdict": None} == {
            "answers": ["dog"], "choices": ["cat", "dog"], "boxes": [], "verdict": None
        }  # fmt: skip
        assert first["about"]["tags"] == {"light": "dim"}
        assert first["about"]["values"] == dict(row.values)
        # Every field of a row has a place, but what only resuming needs.
        told = {*first, *first["truth"], *first["about"], *first["image"]}
        elsewhere = {"completion": "text", "image": "file", "faults": "problems"}
        assert {elsewhere.get(name, name) for name in type(row).__dataclass_fields__} - told == {"file_sizes"}
        assert "no such image" in second["error"]
        assert (second["image"]["width"], second["steps"], second["problems"]) == (None, [], [])

    def test_a_row_is_the_thought_that_it_was(self, evaluated: Evaluation, ramp: DepthMap) -> None:
        """Of every protocol: text, problems, steps and answer come back from the row."""
        asked = evaluated.questions["a"]
        image, depth = asked.load()
        frame = Frame("per_mille")
        for protocol, said in (("chain", BROKEN), ("direct", "a cat"), ("structured", STRUCTURED)):
            thought = thought_of((image, "What?", depth), protocol, frame, said, complete=False, tokens=(1, 2))
            row = replace(
                evaluated.rows[0],
                completion=thought.text,
                reply=thought.reply,
                complete=False,
                tokens=(1, 2),
                faults=tuple((fault.code, fault.message) for fault in thought.faults),
                coordinates=thought.frame.space,
            )
            again = thought_of_row(row, image, depth, protocol)
            assert again == replace(thought, faults=again.faults), protocol
            assert thought_to_json(again)["steps"] == thought_to_json(thought)["steps"]
            assert [f.code for f in again.faults] == [f.code for f in thought.faults]

    def test_without_its_files_a_text_is_read_as_it_was(self, evaluated: Evaluation, photos: Path) -> None:
        """A chain with depths stays valid when the depth file is gone; what nobody knows any more is null."""
        row, question = evaluated.rows[0], evaluated.questions["a"]
        depth = photos.parent / "cat.depth.png"
        kept = depth.read_bytes()
        depth.unlink()
        told, why = row_to_json(row, question, "chain")
        assert (told["problems"], "cat.depth.png" in why) == ([], True)
        assert told["steps"][0]["regions"] == [
            {"box": [0.1, 0.2, 0.5, 0.8], "box_px": [4, 4, 20, 16], "depth_stated": 0.3, "depth_true": None}
        ]
        depth.write_bytes(kept)
        (photos.parent / "cat.png").unlink()
        told, why = row_to_json(row, question, "chain")
        assert (told["problems"], "cat.png: no such image" in why) == ([], True)
        assert told["image"] == {"file": "cat.png", "width": None, "height": None}
        assert told["steps"][0]["regions"][0] == {
            "box": [0.1, 0.2, 0.5, 0.8], "box_px": None, "depth_stated": 0.3, "depth_true": None
        }  # fmt: skip
        (image,) = to_coco([told])["thoughts"]
        assert image["image_id"] is None

    def test_another_image_of_the_same_name_is_not_drawn_on(self, evaluated: Evaluation, photos: Path) -> None:
        Image.new("RGB", (400, 200)).save(photos.parent / "cat.png")
        image, depth, why = files_of_row(evaluated.rows[0], evaluated.questions["a"])
        assert (image, depth, "has changed" in why) == (None, None, True)

    def test_from_its_file_with_the_folder_of_its_images(self, evaluated: Evaluation, photos: Path, tmp_path: Path) -> None:
        read = Evaluation.read(tmp_path / "e.json")
        assert list(evaluation_to_json(with_questions(read, photos.parent, DepthReading()))) == list(
            evaluation_to_json(evaluated)
        )
        gone: dict[str, str] = {}
        told = list(evaluation_to_json(with_questions(read, tmp_path / "elsewhere", DepthReading()), gone))
        assert (set(gone), told[0]["image"]["width"]) == ({"a", "c"}, None)

    def test_names_that_lead_out_of_the_folder_are_not_opened(self, evaluated: Evaluation, photos: Path) -> None:
        inner = photos.parent / "inner"
        inner.mkdir()
        rows = tuple(replace(row, image="../cat.png", depth="../cat.depth.png") for row in evaluated.rows)
        found = with_questions(replace(evaluated, rows=rows), inner, DepthReading())
        assert found.questions == {}
        (inner / "cat.png").write_bytes((photos.parent / "cat.png").read_bytes())
        rows = tuple(replace(row, depth="../cat.depth.png") for row in evaluated.rows)
        found = with_questions(replace(evaluated, rows=rows), inner, DepthReading())
        assert found.questions["a"].depth is None
        assert files_of_row(found.rows[0], found.questions["a"])[2] == "the path of the depth file is unknown"


class TestCoco:
    def test_a_category_a_step_and_boxes_as_corner_and_size(self, thought: Thought) -> None:
        told = thought_to_json(thought, id="q1", file="x.png")
        told["truth"]["boxes"] = [[0.5, 0.5, 1.0, 0.75]]
        again = thought_to_json(thought, id="q2", file="x.png")
        other = thought_to_json(thought, id="q3", file="y.png")
        found = json.loads(json.dumps(to_coco([told, again, other])))
        assert found["images"] == [
            {"id": 1, "file_name": "x.png", "width": 10, "height": 10},
            {"id": 2, "file_name": "y.png", "width": 10, "height": 10},
        ]
        assert [(item["id"], item["name"]) for item in found["categories"]] == [(1, "target"), (2, "step 1"), (3, "step 2")]
        boxes = [(item["category_id"], item["bbox"], item["area"]) for item in found["annotations"]]
        steps = [(2, [1, 2, 4, 6], 24), (3, [2, 4, 2, 2], 4), (3, [0, 0, 10, 5], 50)]
        assert boxes == [*steps, (1, [5, 5, 5, 2.5], 12.5), *steps, *steps]
        assert [item["id"] for item in found["annotations"]] == list(range(1, 11))
        assert found["annotations"][1]["attributes"] == {
            "question_id": "q1", "question": "What?", "step": 2, "words": "b", "depth_stated": 0.9, "depth_true": 0.25
        }  # fmt: skip
        assert [(item["id"], item["image_id"], item["answer"]) for item in found["thoughts"]] == [
            ("q1", 1, "cat"), ("q2", 1, "cat"), ("q3", 2, "cat"),
        ]  # fmt: skip
        assert len(to_coco([told], targets=False)["annotations"]) == 3

    def test_thoughts_as_they_are(self, thought: Thought) -> None:
        assert to_coco([thought, thought])["annotations"] == to_coco(map(thought_to_json, [thought, thought]))["annotations"]

    @pytest.mark.parametrize("item", [{"format": 2}, {}, "text"])
    def test_other_things_are_refused(self, item: object) -> None:
        for form in (to_coco, to_label_studio):
            with pytest.raises(ConfigError, match="expected a Thought"):
                form([item])


class TestLabelStudio:
    def test_rectangles_in_percent_words_and_answer(self, thought: Thought) -> None:
        told = thought_to_json(thought, id="q1", file="a b/x&y.png")
        told["truth"] |= {"boxes": [[0.5, 0.5, 1.0, 0.75]], "answers": ["cat"], "verdict": {"score": 1}}
        (task,) = json.loads(json.dumps(to_label_studio([told], model="m")))
        assert task["data"]["image"] == "/data/local-files/?d=a%20b/x%26y.png"
        assert (task["data"]["question"], task["data"]["words"]) == ("What?", "1. a\n2. b")
        steps, target = task["predictions"]
        assert (steps["model_version"], steps["score"], target["model_version"]) == ("m", 1, "target")
        first, words = steps["result"][:2]
        size = {"original_width": 10, "original_height": 10}
        place = {"x": 10, "y": 20, "width": 40, "height": 60, "rotation": 0}
        assert first == {
            "id": "step1-1", "from_name": "steps", "to_name": "image", "type": "rectanglelabels", **size,
            "value": {**place, "rectanglelabels": ["step 1"]}, "meta": {"text": ["depth 0.300, true 0.250"]},
        }  # fmt: skip
        assert words == {
            "id": "step1-1", "from_name": "words", "to_name": "image", "type": "textarea", **size,
            "value": {**place, "text": ["a"]},
        }  # fmt: skip
        assert len(steps["result"]) == 7  # three rectangles with words, and the answer
        assert steps["result"][-1]["value"] == {"text": ["cat"]}
        assert target["result"][0]["value"] == {
            "x": 50, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["target"]
        }  # fmt: skip
        assert to_label_studio([told], prefix="https://x/")[0]["data"]["image"] == "https://x/a%20b/x%26y.png"

    def test_what_could_not_be_read_is_kept_as_it_was_written(self) -> None:
        thought = thought_of((PICTURE, "What?", None), "structured", Frame("per_mille"), STRUCTURED)
        (task,) = to_label_studio([thought])
        assert (task["data"]["words"], task["data"]["text"]) == ("1. a", STRUCTURED)
        assert task["data"]["problems"].startswith("step 2: ")
        assert len(task["predictions"][0]["result"]) == 3  # a rectangle, its words, the answer

    def test_the_interface_knows_every_label_in_order(self, thought: Thought) -> None:
        many = thought_to_json(thought)
        many["steps"] = many["steps"][:1] * 11
        view = ET.fromstring(label_studio_config(to_label_studio([thought, many])))
        labels = [label.attrib["value"] for label in view.iter("Label")]
        assert labels == [*(f"step {number}" for number in range(1, 12)), "target"]
        names = {item.attrib["name"] for item in view.iter() if "name" in item.attrib}
        used = {r["from_name"] for t in to_label_studio([many]) for p in t["predictions"] for r in p["result"]}
        assert used | {"image"} == names
        assert ET.fromstring(label_studio_config([])).find("RectangleLabels") is not None


@pytest.mark.parametrize("form", ["coco", "label-studio"])
def test_a_dataset_with_its_images(chains: Path, tmp_path: Path, form: str) -> None:
    assert export(chains, tmp_path / "x", form) == 18
    examples = list(read_examples(chains))
    if form == "coco":
        found = json.loads((tmp_path / "x" / "annotations.json").read_text())
        names = [image["file_name"] for image in found["images"]]
        boxes = len(found["annotations"])
    else:
        tasks = json.loads((tmp_path / "x" / "tasks.json").read_text())
        names = [task["data"]["image"].removeprefix("/data/local-files/?d=") for task in tasks]
        drawn = [item for task in tasks for prediction in task["predictions"] for item in prediction["result"]]
        boxes = sum(item["type"] == "rectanglelabels" for item in drawn)
        assert (tmp_path / "x" / "label_config.xml").is_file()
    regions = [len(step.regions) for example in examples for step in parse_chain(example.chain).steps]
    assert boxes == sum(regions) + sum(len(example.boxes) for example in examples)
    for name, example in zip(names, examples, strict=True):
        assert (tmp_path / "x" / name).read_bytes() == Path(example.images[0]).read_bytes()


class TestDetections:
    def test_without_supervision_it_is_said_how_to_get_it(self, thought: Thought, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(MissingExtraError, match=r"needs supervision: pip install 'sifthinker\[supervision\]'"):
            to_detections(thought)

    def test_boxes_in_pixels_with_their_step_and_depth(self, thought: Thought) -> None:
        pytest.importorskip("supervision")
        found = to_detections(thought)
        assert found.xyxy.tolist() == [[2, 4, 4, 6], [0, 0, 10, 5]]
        assert (found.xyxy.dtype, found.class_id.tolist()) == (np.float32, [1, 1])
        assert found.data["class_name"].tolist() == ["step 2", "step 2"]
        assert found.data["depth"].tolist() == [0.9, 0.45]
        assert to_detections(thought, None).class_id.tolist() == [0, 1, 1]
        assert to_detections(thought, None).data["step"].tolist() == [1, 2, 2]
        for step in (1, -2):  # as COCO, Label Studio and `class_name` count
            assert to_detections(thought, step).xyxy.tolist() == [[1, 2, 5, 8]]
            assert to_detections(thought, step).data["class_name"].tolist() == ["step 1"]
        for step in (3, 0, -3):
            with pytest.raises(ConfigError, match=f"step must be 1 to 2, or -1 to -2 from the end, got {step}"):
                to_detections(thought, step)
        assert len(to_detections(Thought("What?", PICTURE, None, "nothing"))) == 0

    def test_a_chain_needs_a_size(self) -> None:
        pytest.importorskip("supervision")
        chain = parse_chain(CHAIN)
        assert to_detections(chain, 1, size=(100, 50)).xyxy.tolist() == [[10, 10, 50, 40]]
        with pytest.raises(ConfigError, match=r"Pass size=\(width, height\)"):
            to_detections(chain)
        with pytest.raises(ConfigError, match=r"size must be that of the thought.s image, .*got \(1, 2\)"):
            to_detections(Thought("What?", PICTURE, None, CHAIN), size=(1, 2))
