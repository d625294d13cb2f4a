from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.engine.expansion import Expansion, expand
from sifthinker.engine.teachers import Task, check_reply
from sifthinker.errors import ConfigError
from sifthinker.judges import judge
from sifthinker.records import Record
from sifthinker.rewards import Reference, score_completion
from sifthinker.world.questions import FAMILIES, ScriptedTeacher, ask, sample_questions, world_record
from sifthinker.world.scenes import sample_scene


def gold_chain(record: Record, scene_seed: int, seed: int) -> str:
    """The chain that the engine composes for a world record."""
    depth = sample_scene(scene_seed).depth_reference
    path = expand(record, seed=seed, settings=Expansion(decimals=2))
    foci = tuple(tuple(Region(box, round(float(depth.mean([box])[0]), 2)) for box in focus.boxes) for focus in path)
    task = Task(record, foci, tuple(focus.kind for focus in path), lambda: pytest.fail("no image is needed"))
    reply = asyncio.run(ScriptedTeacher().reply(task, ()))
    thoughts, problems = check_reply(reply, task)
    assert problems == []
    steps = tuple(Step(regions, words) for regions, words in zip(foci, thoughts, strict=True))
    return render_chain(Chain(steps, record.answer), decimals=2)


@given(st.integers(0, 10**9), st.sampled_from(sorted(FAMILIES)), st.integers(0, 3))
@settings(max_examples=150)
def test_the_gold_chain_earns_the_maximum_of_every_reward(scene_seed: int, family: str, seed: int) -> None:
    question = ask(sample_scene(scene_seed), scene_seed, family=family)
    if question is None:
        return
    record = world_record(scene_seed, question, image="i.png")
    reference = Reference(record.answer, record.boxes, sample_scene(scene_seed).depth_reference, record.choices)
    scores = score_completion(gold_chain(record, scene_seed, seed), reference, previous=0.25)
    assert scores.format.value == 1
    assert scores.answer.value == 1.75
    assert scores.depth.value == 1
    # The end rests on the targets, and every bit of correction from where the path began is rewarded.
    assert scores.grounding.parts["end"] == pytest.approx(1)
    assert scores.grounding.value == pytest.approx(2 - scores.grounding.parts["start"])


@given(st.integers(0, 10**9), st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=100)
def test_questions_are_deterministic_and_consistent(scene_seed: int, family: str) -> None:
    scene = sample_scene(scene_seed)
    question = ask(scene, scene_seed, family=family)
    assert question == ask(scene, scene_seed, family=family)
    if question is None:
        return
    assert question.family == family
    assert question.answer in question.choices
    assert judge(question.answer, question.answer, question.choices).score == 1
    assert len(set(question.targets)) == len(question.targets) >= 1
    wrong = [choice for choice in question.choices if choice != question.answer]
    assert all(judge(choice, question.answer, question.choices).score == 0 for choice in wrong)


class TestTruth:
    """Answers recomputed from the scene graph by other means."""

    def questions(self, family: str) -> list:
        found = []
        for seed in range(60):
            scene = sample_scene(seed)
            question = ask(scene, seed, family=family)
            if question is not None:
                found.append((scene, question))
        assert len(found) > 20
        return found

    def test_nearer(self) -> None:
        for scene, question in self.questions("nearer"):
            distance = {scene.objects[i].name: scene.distances[i] for i in question.targets}
            pick = max if "farther" in question.text else min
            assert question.answer == pick(distance, key=lambda name: distance[name])

    def test_side(self) -> None:
        for scene, question in self.questions("side"):
            a, b = question.targets
            centre = (scene.boxes[:, 0] + scene.boxes[:, 2]) / 2
            assert question.answer == ("left" if centre[a] < centre[b] else "right")
            assert question.text.index(scene.objects[a].name) < question.text.index(scene.objects[b].name)

    def test_front(self) -> None:
        for scene, question in self.questions("front"):
            a, b = question.targets
            assert question.answer == ("in front" if scene.objects[a].z < scene.objects[b].z else "behind")

    def test_count(self) -> None:
        for scene, question in self.questions("count"):
            kind = question.text.removeprefix("How many ").removesuffix(" are there?")
            named = sum(kind in (f"{t.shape}s", f"{t.colour} objects") for t in scene.objects)
            assert question.answer == str(named) == str(len(question.targets))

    def test_size(self) -> None:
        for scene, question in self.questions("size"):
            radius = {scene.objects[i].name: scene.objects[i].radius for i in question.targets}
            pick = max if "larger" in question.text else min
            assert question.answer == pick(radius, key=lambda name: radius[name])

    def test_attribute_and_detail(self) -> None:
        for scene, question in self.questions("attribute"):
            thing = scene.objects[question.targets[0]]
            assert question.answer in (thing.colour, thing.shape)
        for scene, question in self.questions("detail"):
            assert question.answer == scene.objects[question.targets[0]].dot


def test_families_come_in_equal_numbers_and_splits_do_not_meet() -> None:
    train, test = (list(sample_questions(70, split=split)) for split in ("train", "test"))
    assert Counter(question.family for _, question in train) == dict.fromkeys(FAMILIES, 10)
    assert not {scene for scene, _ in train} & {scene for scene, _ in test}
    assert max(scene for scene, _ in sample_questions(7, split="train", seed=9_999)) < 10**12


def test_no_word_of_a_two_way_question_gives_the_answer_away() -> None:
    for family in ("side", "front", "nearer"):
        asked = [ask(sample_scene(seed), seed, family=family) for seed in range(400)]
        first = [question.answer == question.choices[0] for question in asked if question]
        assert 0.4 < np.mean(first) < 0.6


@pytest.mark.parametrize(
    "call", [lambda: list(sample_questions(1, split="dev")), lambda: ask(sample_scene(0), 0, family="x")]
)
def test_misuse(call: object) -> None:
    with pytest.raises(ConfigError, match="the world has"):
        call()


def test_the_scripted_teacher_knows_no_other_records(tmp_path: Path) -> None:
    record = Record(id="r", image="i", question="q", answer="a", boxes=((0, 0, 1, 1),))
    with pytest.raises(ConfigError, match="--teacher openai"):
        asyncio.run(ScriptedTeacher().reply(Task(record, (), (), lambda: pytest.fail("unused")), ()))
