"""The task files of `configs/lmms_eval` and the functions that they name, without lmms-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.coordinates import Frame
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.run import Evaluation, evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.lmms import tasks
from sifthinker.lmms.asking import ask_all
from sifthinker.lmms.replies import Reply
from sifthinker.lmms.requests import asked_in
from sifthinker.lmms.settings import LmmsSettings

from .benchmarks.answered import chain
from .benchmarks.published import write_sat, write_spatialbench
from .benchmarks.test_ovdeval import write as write_ovdeval
from .benchmarks.test_viscot import boxes, conversations
from .benchmarks.test_viscot import write as write_viscot
from .test_lmms import Told

FOLDER = Path(__file__).parents[1] / "configs" / "lmms_eval"
FILES = sorted(FOLDER.glob("*.yaml"))
OURS = {"depth": True, "post_prompt": ""}  # what the task files tell a model of ours


class _Loader(yaml.SafeLoader):
    """Reads `!function a.b.c` as lmms-eval does: a module, and a function in it."""


def _function(loader: yaml.SafeLoader, node: Any) -> Any:
    module, _, name = loader.construct_scalar(node).rpartition(".")
    return getattr(import_module(module), name)


_Loader.add_constructor("!function", _function)


def read_task(file: Path) -> dict[str, Any]:
    """A task file with the one that it includes."""
    task: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    included = yaml.load((FOLDER / task.pop("include")).read_text(encoding="utf-8"), _Loader)
    return {**included, **task}


def write_tallyqa(folder: Path) -> Path:
    """Four counts: 1, 2, 3 and 4."""
    folder.mkdir()
    Image.new("RGB", (40, 20), (200, 120, 40)).save(folder / "a.png")
    rows = [
        {"image": "a.png", "question": f"How many, {n}?", "answer": n, "question_id": n, "issimple": n < 3, "image_id": n}
        for n in (1, 2, 3, 4)
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    return folder


def place(name: str, data: Path | str, **more: str) -> dict[str, str]:
    return {"benchmark": name, "data": str(data), **more}


def documents(*places: dict[str, str]) -> list[dict[str, Any]]:
    return list(tasks.process_docs(places))


def scored(found: Sequence[dict[str, Any]], replies: Sequence[str]) -> dict[str, float]:
    """Metric → number, as lmms-eval works it out."""
    results = [tasks.process_results(document, [reply]) for document, reply in zip(found, replies, strict=True)]
    return {metric: tasks.aggregate([result[metric] for result in results]) for metric in results[0]}


def evaluated(name: str, data: Path, split: str, say: Any, **settings: Any) -> Evaluation:
    """What `sif eval` makes of the same model."""
    found = benchmark(name)
    given = EvalSettings.from_values({"data": str(data), "show_choices": found.show_choices, **settings})
    questions = found.read(data, split, images=None, limit=None)
    return evaluate(given, questions=questions, thinker=Told(say), benchmark=found)


# ------------------------------------------------------------------------------------------------------------ task files


def test_there_is_a_file_for_each_benchmark_that_lmms_eval_lacks() -> None:
    assert {file.stem for file in FILES} == {
        "sif_ovdeval", "sif_sat_static", "sif_spatialbench", "sif_tallyqa", "sif_viscot",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_task_file_names_its_place_and_every_metric_of_its_benchmark(file: Path) -> None:
    task = read_task(file)
    assert task["task"] == file.stem
    (split, where), *_ = task["dataset_kwargs"]["data_files"].items()
    assert split == task["test_split"]
    told = json.loads((FOLDER / where).read_text(encoding="utf-8"))
    found = benchmark(told["benchmark"])
    assert told["split"] in found.splits
    assert told["data"] == found.hub
    assert [metric["metric"] for metric in task["metric_list"]] == list(tasks.metrics_of(found.name))
    assert all(metric["aggregation"] is tasks.aggregate for metric in task["metric_list"])
    titles = {headline.name for headline in found.headlines}
    assert {title for title, _ in tasks.metrics_of(found.name).values()} <= titles


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_task_file_asks_our_model_for_the_whole_completion_and_keeps_its_tags(file: Path) -> None:
    task = read_task(file)
    assert task["model_specific_generation_kwargs"]["sifthinker"] == {tasks.COMPLETION: True}
    assert task["reasoning_tags"] == "none"
    assert task["lmms_eval_specific_kwargs"]["sifthinker"] == OURS


# ------------------------------------------------------------------------------------------------------------- documents


def test_documents_are_the_questions_without_pictures(tmp_path: Path) -> None:
    found = documents(place("tallyqa", write_tallyqa(tmp_path / "data"), split="test"))
    assert [document["answers"] for document in found] == [["1"], ["2"], ["3"], ["4"]]
    assert not [value for document in found for value in document.values() if not isinstance(value, str | list)]
    assert tasks.doc_to_target(found[2]) == "3"
    assert tasks.doc_to_text(found[0]) == "How many, 1?"
    assert [image.size for image in tasks.doc_to_visual(found[0])] == [(40, 20)]


def test_the_environment_names_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tallyqa(tmp_path / "data")
    (tmp_path / "images").mkdir()
    (folder / "a.png").rename(tmp_path / "images" / "a.png")
    monkeypatch.setenv("SIF_TALLYQA", str(folder))
    monkeypatch.setenv("SIF_TALLYQA_IMAGES", str(tmp_path / "images"))
    (first, *_) = documents(place("tallyqa", ""))
    assert tasks.doc_to_visual(first)[0].size == (40, 20)


def test_a_relative_place_is_the_same_from_wherever_it_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tallyqa(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (first, *_) = documents(place("tallyqa", "data"))
    assert first["data"] == str(tmp_path / "data")
    monkeypatch.chdir("/")
    assert tasks.doc_to_visual(first)[0].size == (40, 20)


def test_where_nothing_says_where_the_data_are_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SIF_TALLYQA", raising=False)
    with pytest.raises(ConfigError, match="set the environment variable SIF_TALLYQA to the folder"):
        documents(place("tallyqa", ""))
    with pytest.raises(RecordError, match="no such file"):
        documents(place("tallyqa", tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="unknown benchmark 'tally'"):
        documents(place("tally", tmp_path))


def test_choices_stand_under_the_question_and_models_of_others_are_told_to_give_a_letter(tmp_path: Path) -> None:
    (first, *_) = documents(place("sat", write_sat(tmp_path, "static"), split="static"))
    assert tasks.doc_to_text(first, OURS).splitlines()[-2:] in (["(A) left", "(B) right"], ["(A) right", "(B) left"])
    theirs = read_task(FOLDER / "sif_sat_static.yaml")["lmms_eval_specific_kwargs"]["default"]
    assert tasks.doc_to_text(first, theirs).endswith("\nAnswer with the option's letter from the given choices directly.")


def test_depth_is_shown_to_models_of_ours_alone(tmp_path: Path) -> None:
    (first, *_) = documents(place("spatialbench", write_spatialbench(tmp_path), split="existence"))
    (theirs,), (ours,) = tasks.doc_to_messages(first), tasks.doc_to_messages(first, OURS)
    assert [part["type"] for part in theirs["content"]] == ["image", "text"]
    assert [type(part.get("url")) for part in ours["content"][1:]] == [DepthMap, type(None)]
    assert asked_in([ours], "task").depth is not None


# --------------------------------------------------------------------------------------------------------------- scoring


def test_answers_of_any_model_are_scored_strictly_and_leniently(tmp_path: Path) -> None:
    found = documents(place("tallyqa", write_tallyqa(tmp_path / "data")))
    # Right; right in words; strictly no number, but the first one is right; wrong. 2 of 4, and 3 of 4.
    assert scored(found, ["1", "There are two.", "3 or 4", "5"]) == {
        "all": 0.5, "all_lenient": 0.75, "simple": 1.0, "simple_lenient": 1.0, "complex": 0.0, "complex_lenient": 0.5,
    }  # fmt: skip


def test_the_page_says_which_numbers_plain_answers_lack(tmp_path: Path) -> None:
    page = (FOLDER.parents[1] / "docs" / "howto" / "lmms-eval.md").read_text(encoding="utf-8")
    said = " ".join(page.split())
    write_ovdeval(tmp_path)
    (tmp_path / "viscot").mkdir()
    write_viscot(tmp_path / "viscot", conversations(["Yes"]), boxes(1))
    lacking = {}
    for name, data in (("ovdeval", tmp_path), ("viscot", tmp_path / "viscot")):
        found = documents(place(name, data, split="all"))
        numbers = scored(found, ["Yes, at [0.1, 0.2, 0.5, 0.6]."] * len(found))
        lacking[name] = [metric for metric, number in numbers.items() if math.isnan(number)]
        *first, last = (f"`{metric}`" for metric in lacking[name])
        assert f"`sif_{name}`: {', '.join(first)} and {last}" in said
    assert lacking["ovdeval"][0] == "nms_ap"
    given = yaml.load((FOLDER / "_benchmark").read_text(encoding="utf-8"), _Loader)["generation_kwargs"]
    assert f"in at most {given['max_new_tokens']} tokens" in said


def test_a_completion_comes_to_the_row_of_sif_eval(tmp_path: Path) -> None:
    data = write_spatialbench(tmp_path)
    found = documents(place("spatialbench", data, split="all"))

    def say(question: str) -> str:
        box, depth = ([0, 250, 500, 1000], 0.3) if "cup" in question else ([0, 0, 1000, 1001], 2)
        step = f'<area>[{{"bbox_2d":{box},"depth":{depth}}}]</area>\n<text>There.</text>'
        answer = "Yes" if "Is" in question else "A" if "(A)" in question else "4"
        return f"<think>\n{step}\n</think>\n<answer>\n{answer}\n</answer>"

    settings = LmmsSettings.of("m", coordinates="per_mille", batch_size=4)
    messages = [tasks.doc_to_messages(document, OURS) for document in found]
    requests = [
        (document["id"], lambda told=told: asked_in(told, "t")) for document, told in zip(found, messages, strict=True)
    ]
    answered = ask_all(Told(say), settings, requests)
    replies = [one.reply("chain").to_text() for one in answered]
    results = [tasks.process_results(document, [reply]) for document, reply in zip(found, replies, strict=True)]

    ours = evaluated("spatialbench", data, "all", say, coordinates="per_mille", batch_size=4)
    theirs = [result["spatialbench"]["row"] for result in results]
    assert theirs == [row.to_json() for row in ours.rows]
    assert [row["values"]["depth consistency"] is None for row in theirs].count(False) == 8  # those about cups have an area
    numbers = benchmark("spatialbench").numbers(ours.rows)
    assert tasks.aggregate([result["spatialbench"] for result in results]) == numbers["SpatialBench"].strict.mean
    lenient = numbers["SpatialBench"].lenient
    assert lenient is not None
    assert tasks.aggregate([result["spatialbench_lenient"] for result in results]) == lenient.mean


def test_numbers_of_boxes_are_those_of_sif_eval(tmp_path: Path) -> None:
    data = write_ovdeval(tmp_path)
    found = documents(place("ovdeval", data, split="all"))

    def say(question: str) -> str:
        return chain([(0, 0, 0.5, 1)], "yes" if "red car" in question else "no")

    numbers = benchmark("ovdeval").numbers(evaluated("ovdeval", data, "all", say).rows)
    theirs = scored(found, [say(document["question"]) for document in found])
    for metric, (title, lenient) in tasks.metrics_of("ovdeval").items():
        wanted = numbers[title].lenient if lenient else numbers[title].strict
        assert wanted is not None
        assert theirs[metric] == wanted.mean
    # Five images show red, red, two red, blue, blue: of ten questions the four of the last two are answered wrongly.
    assert theirs["presence"] == 0.6
    # Red: 3 of 5 boxes are right and 3 of 4 found, which are 76 of the 101 recalls; blue: none of 2.
    assert theirs["nms_ap"] == pytest.approx((3 / 5 * 76 / 101 + 0) / 2)


def test_a_structured_reply_comes_to_the_row_of_sif_eval(tmp_path: Path) -> None:
    data = write_tallyqa(tmp_path / "data")

    def say(question: str) -> str:
        return json.dumps({"steps": [{"regions": [{"bbox_2d": [0, 0, 0.5, 1]}], "text": "One."}], "answer": "1"})

    (first, *_) = documents(place("tallyqa", data))
    settings = LmmsSettings.of("m", protocol="structured")
    (one,) = ask_all(Told(say), settings, [("task", lambda: asked_in(tasks.doc_to_messages(first, OURS), "task"))])
    row = tasks.process_results(first, [one.reply("structured").to_text()])["all"]["row"]
    assert row == evaluated("tallyqa", data, "test", say, protocol="structured").rows[0].to_json()
    assert (row["answer"], row["reply"]) == ("1", say(""))


def test_estimated_depth_is_read_and_not_measured(tmp_path: Path) -> None:
    (first, *_) = documents(place("tallyqa", write_tallyqa(tmp_path / "data")))
    said = '<think>\n<area>[{"bbox_2d":[0,0,1,1],"depth":0.3}]</area>\n<text>One.</text>\n</think>\n<answer>\n1\n</answer>'
    row = tasks.process_results(first, [Reply(said, "chain", Frame(), "estimated").to_text()])["all"]["row"]
    assert row["problems"] == []
    assert row["values"]["depth consistency"] is None
    assert row["values"]["answer accuracy"] == 1


def test_a_chain_of_another_model_is_read_in_fractions(tmp_path: Path) -> None:
    (first, *_) = documents(place("tallyqa", write_tallyqa(tmp_path / "data")))
    row = tasks.process_results(first, [chain([[0, 0, 0.5, 1]], "1")])["all"]["row"]
    assert (row["answer"], row["values"]["valid format"]) == ("1", 1)


def test_a_question_that_could_not_be_asked_counts_neither_as_right_nor_as_wrong(tmp_path: Path) -> None:
    found = documents(place("tallyqa", write_tallyqa(tmp_path / "data")))
    replies = ["1", Reply("", error="no picture").to_text(), "3", "5"]
    assert scored(found, replies)["all"] == pytest.approx(2 / 3)
    row = tasks.process_results(found[1], [replies[1]])["all"]["row"]
    assert (row["error"], row["answer"], set(row["values"].values())) == ("no picture", None, {None})
    assert np.isnan(scored(found[:1], replies[1:2])["all"])


def test_no_answers_have_no_number() -> None:
    assert math.isnan(tasks.aggregate([]))
