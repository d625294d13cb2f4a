"""The public API as notebooks use it: every function in a running event loop, and the example scripts as they stand."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sifthinker
from sifthinker import BuildSettings, DepthMap, EvalSettings, Record, Reference, ThinkSettings, Thought, TrainSettings

from .benchmarks.published import write_cv_bench
from .small_data import BlockTeacher, write_records

EXAMPLES = Path(__file__).parents[1] / "examples"
BOX = [[0.1, 0.2, 0.6, 0.8]]
CHAIN = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8]}]</area><text>It is here.</text></think><answer>cat</answer>'
SPOKEN = [[{"role": "assistant", "content": CHAIN}]]


@pytest.fixture
def calls(chains: Path, tiny_vlm: Path, photo_folder: Path, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """Every public function by its name, called as its documentation says."""
    records = write_records(tmp_path / "raw", 2)
    record = Record(id="a", image="cat.png", question="What?", answer="cat", boxes=((0.1, 0.2, 0.6, 0.8),))
    row = {"id": "1", "image": "cat.png", "question": "What?", "answer": "cat", "boxes": BOX}

    def built(name: str) -> BuildSettings:
        return BuildSettings(sources=[str(records)], images=records.parent, output=tmp_path / name, decimals=2)

    def asked(name: str) -> EvalSettings:
        return EvalSettings(data=str(chains), model=str(tiny_vlm), limit=2, max_new_tokens=4, output=str(tmp_path / name))

    def compared() -> Any:
        found = sifthinker.evaluate(asked("c.json"))
        return sifthinker.compare(found, tmp_path / "c.json")

    training = {"max_steps": 1, "per_device_train_batch_size": 1, "bf16": False, "save_strategy": "no"}
    depth = DepthMap(np.full((4, 4), 0.5))
    cards = write_cv_bench(tmp_path / "cv")
    plain = {"answer": ["cat"], "boxes": [BOX], "depth": [None], "id": ["a"]}
    thought = Thought("What?", Image.new("RGB", (8, 8)), depth, CHAIN)
    return {
        "answer_reward": lambda: sifthinker.answer_reward(SPOKEN, **plain),
        "build": lambda: sifthinker.build(built("built"), teacher=BlockTeacher()),
        "build_async": lambda: sifthinker.build_async(built("later"), teacher=BlockTeacher()),
        "check_chain": lambda: sifthinker.check_chain(CHAIN, with_depth=False) == [],
        "check_dataset": lambda: list(sifthinker.check_dataset(chains)) == [],
        "compare": compared,
        "convert": lambda: sifthinker.convert(BOX, source="unit", target="pixel", size=(10, 10)),
        "depth_reward": lambda: sifthinker.depth_reward(SPOKEN, [depth]),
        "evaluate": lambda: sifthinker.evaluate(asked("a.json")),
        "evaluate_benchmark": lambda: sifthinker.evaluate_benchmark(
            "cv-bench", EvalSettings(data=str(cards), model=str(tiny_vlm), limit=2, max_new_tokens=4)
        ),
        "evaluate_async": lambda: sifthinker.evaluate_async(asked("b.json")),
        "expand": lambda: sifthinker.expand(record, seed=0),
        "find_answer": lambda: sifthinker.find_answer(CHAIN),
        "find_regions": lambda: sifthinker.find_regions(CHAIN, with_depth=False),
        "format_reward": lambda: sifthinker.format_reward(SPOKEN, depth=[None]),
        "grounding_reward": lambda: sifthinker.grounding_reward(SPOKEN, [BOX]),
        "hierarchical_iou": lambda: sifthinker.hierarchical_iou(BOX, BOX),
        "judge": lambda: sifthinker.judge("cat", "cat"),
        "load_image": lambda: sifthinker.load_image(photo_folder / "cat.png"),
        "open_thinker": lambda: sifthinker.open_thinker(ThinkSettings(model=str(tiny_vlm), max_new_tokens=2)),
        "paired_iou": lambda: sifthinker.paired_iou(BOX, BOX),
        "parse_chain": lambda: sifthinker.parse_chain(CHAIN, with_depth=False),
        "read_benchmark": lambda: sifthinker.read_benchmark("cv-bench", cards, limit=2),
        "read_completion": lambda: sifthinker.read_completion(CHAIN, with_depth=False),
        "read_examples": lambda: list(sifthinker.read_examples(chains)),
        "read_questions": lambda: list(sifthinker.read_questions(chains)),
        "read_source": lambda: list(sifthinker.read_source(records)),
        "render_chain": lambda: sifthinker.render_chain(sifthinker.parse_chain(CHAIN, with_depth=False)),
        "score_completion": lambda: sifthinker.score_completion(CHAIN, Reference("cat", BOX)),
        "set_iou": lambda: sifthinker.set_iou(BOX, BOX),
        "smart_resize": lambda: sifthinker.smart_resize((640, 480)),
        "train": lambda: sifthinker.train(
            TrainSettings(model=str(tiny_vlm), data=str(chains), output=str(tmp_path / "run"), limit=2, training=training),
            "sft",
        ),
        "think": lambda: sifthinker.think(
            ThinkSettings(model=str(tiny_vlm), max_new_tokens=2), photo_folder / "cat.png", "What?"
        ),
        "think_many": lambda: sifthinker.think_many(
            ThinkSettings(model=str(tiny_vlm), max_new_tokens=2),
            sifthinker.read_questions(chains, limit=1),
            tmp_path / "thoughts.jsonl",
            data=chains,
        ),
        "thought_to_json": lambda: sifthinker.thought_to_json(thought),
        "to_coco": lambda: sifthinker.to_coco([thought]),
        "to_detections": lambda: find_spec("supervision") is None or sifthinker.to_detections(thought),
        "to_label_studio": lambda: sifthinker.to_label_studio([thought], model="m"),
        "user_prompt": lambda: sifthinker.user_prompt("What?", with_depth=True),
        "write_thought": lambda: sifthinker.write_thought(tmp_path / "t.png", thought) is None,
        "Thinker": lambda: sifthinker.Thinker.load(str(tiny_vlm), max_new_tokens=2).think(thought.image, "What?", depth),
        "Engine": lambda: sifthinker.Engine(records.parent, sifthinker.GivenDepth(), BlockTeacher()).build(
            lambda: sifthinker.read_source(records), tmp_path / "by-engine"
        ),
        "Endpoint": lambda: sifthinker.Endpoint("http://localhost:1/v1", "m"),
        "record": lambda: sifthinker.build(
            BuildSettings(images=photo_folder, output=tmp_path / "one", depth="none", teacher="blocks"),
            records=[row],
            teacher=_Plain(),
        ).accepted == 1,
    }  # fmt: skip


class _Plain:
    """Says the same of every focus."""

    name = "plain:1"

    async def reply(self, task: sifthinker.engine.teachers.Task, earlier: Any) -> str:
        thoughts = ['"Something stands here."'] * len(task.kinds)
        return f'{{"thoughts": [{", ".join(thoughts)}], "answer": "{task.record.answer}"}}'


def test_every_public_function_works_in_a_running_event_loop(calls: dict[str, Callable[[], Any]]) -> None:
    functions = {name for name in sifthinker.__all__ if inspect.isfunction(getattr(sifthinker, name))}
    assert functions <= calls.keys()

    async def run() -> None:
        for name, call in calls.items():
            found = call()
            if inspect.isawaitable(found):
                found = await found
            assert found is not None, name
            assert found is not False, name

    asyncio.run(run())


class TestExamples:
    """Each script as its first line says to run it."""

    def run(self, name: str, *arguments: object) -> str:
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def test_build_from_records(self, photo_folder: Path, tiny_vlm: Path, tmp_path: Path) -> None:
        Image.open(photo_folder / "cat.png").save(photo_folder / "cat.jpg")
        said = self.run("build_from_records.py", photo_folder, tmp_path / "out", tiny_vlm)
        # A model with random weights explains nothing, and the record says so.
        assert said == "0 accepted, {'teacher_cut_off': 1} rejected\n"
        assert (tmp_path / "out" / "rejects.jsonl").is_file()

    def test_train(self, chains: Path, tiny_vlm: Path, tmp_path: Path) -> None:
        self.run("train.py", tiny_vlm, chains, tmp_path / "run")
        assert (tmp_path / "run" / "model.safetensors").is_file()

    def test_evaluate(self, chains: Path, tiny_vlm: Path, tmp_path: Path) -> None:
        said = self.run("evaluate.py", chains, tiny_vlm, tmp_path / "found.json")
        assert said.startswith("answer accuracy: 0.00")

    def test_score_completion(self) -> None:
        assert self.run("score_completion.py") == "format 1.0\nanswer 1.0\ngrounding 1.0\ndepth 1.0\n"

    def test_draw_chain(self, chains: Path, tmp_path: Path) -> None:
        self.run("draw_chain.py", chains, tmp_path / "chain.png")
        assert Image.open(tmp_path / "chain.png").width > 400

    def test_verl_rewards(self) -> None:
        assert self.run("verl_rewards.py").startswith("score: 3\n")

    def test_all_are_here(self) -> None:
        tested = {name.removeprefix("test_") for name in vars(type(self)) if name.startswith("test_")} - {"all_are_here"}
        assert {path.stem for path in EXAMPLES.glob("*.py")} == tested | {"swift_plugin"}  # which runs inside ms-swift
