from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.engine.expansion import expand
from sifthinker.engine.settings import Expansion
from sifthinker.engine.teachers import Task, check_reply
from sifthinker.errors import ConfigError
from sifthinker.lab.questions import (
    FAMILIES,
    SPLITS,
    WorldQuestion,
    ask,
    is_novel,
    sample_questions,
    scene_of,
    world_record,
    write_world,
)
from sifthinker.lab.scenes import LEVELS, Scene
from sifthinker.lab.teacher import ScriptedTeacher
from sifthinker.records import Record
from sifthinker.scoring.answers import judge
from sifthinker.scoring.rewards import Reference, score_completion

FAMILY, LEVEL, SLOT = st.sampled_from(sorted(FAMILIES)), st.sampled_from(sorted(LEVELS)), st.integers(0, 7)


def gold_chain(record: Record, question: WorldQuestion, seed: int) -> str:
    """The chain that the engine composes for a world record."""
    depth = scene_of(question).depth_reference
    path = expand(record, seed=seed, settings=Expansion(decimals=2))
    focuses = tuple(tuple(Region(box, round(float(depth.mean([box])[0]), 2)) for box in focus.boxes) for focus in path)
    task = Task(record, focuses, tuple(focus.kind for focus in path), lambda: pytest.fail("no image is needed"))
    reply = asyncio.run(ScriptedTeacher().reply(task, ()))
    thoughts, problems = check_reply(reply, task)
    assert problems == []
    steps = tuple(Step(regions, words) for regions, words in zip(focuses, thoughts, strict=True))
    return render_chain(Chain(steps, record.answer), decimals=2)


@given(st.integers(0, 10**9), FAMILY, LEVEL, SLOT)
@settings(max_examples=200)
def test_the_gold_chain_earns_the_maximum_of_every_reward(scene_seed: int, family: str, level: str, slot: int) -> None:
    question = ask(scene_seed, family, level, slot=slot)
    if question is None:
        return
    record = world_record(question, image="i.png")
    reference = Reference(record.answer, record.boxes, scene_of(question).depth_reference, record.choices)
    scores = score_completion(gold_chain(record, question, slot), reference, previous=0.25)
    assert scores.format.value == 1
    assert scores.answer.value == 1.75
    assert scores.depth.value == 1
    # The end rests on the targets, and every bit of correction from where the path began is rewarded.
    assert scores.grounding.parts["end"] == pytest.approx(1)
    assert scores.grounding.value == pytest.approx(2 - scores.grounding.parts["start"])


@given(st.integers(0, 10**9), FAMILY, LEVEL, SLOT)
@settings(max_examples=100)
def test_questions_are_deterministic_and_consistent(scene_seed: int, family: str, level: str, slot: int) -> None:
    question = ask(scene_seed, family, level, slot=slot)
    assert question == ask(scene_seed, family, level, slot=slot)
    if question is None:
        return
    assert (question.family, question.level, question.scene) == (family, level, scene_seed)
    assert question.answer in question.choices
    assert judge(question.answer, question.answer, question.choices).score == 1
    assert len(set(question.targets)) == len(question.targets) >= 1
    wrong = [choice for choice in question.choices if choice != question.answer]
    assert all(judge(choice, question.answer, question.choices).score == 0 for choice in wrong)


class TestTruth:
    """Answers recomputed from the scene graph by other means."""

    def questions(self, family: str) -> list[tuple[Scene, WorldQuestion]]:
        asked = [ask(seed, family, level, slot=seed % 12) for seed in range(60) for level in LEVELS]
        found = [question for question in asked if question is not None]
        assert len(found) > 20
        return [(scene_of(question), question) for question in found]

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

    def test_closest(self) -> None:
        for scene, question in self.questions("closest"):
            to, *pair = (scene.objects[i] for i in question.targets)
            gap = {thing.name: (thing.x - to.x) ** 2 + (thing.z - to.z) ** 2 for thing in pair}
            assert question.answer == min(gap, key=lambda name: gap[name])
            assert question.text.startswith(f"Which is closer to the {to.name}, the {pair[0].name} or")

    def test_odd(self) -> None:
        for scene, question in self.questions("odd"):
            has = {
                "has stripes": [t.name for t in scene.objects if t.striped],
                "has a dot": [t.name for t in scene.objects if t.dot],
                "has no dot": [t.name for t in scene.objects if not t.dot],
            }
            mark = question.text.removeprefix("Which object alone ").removesuffix("?")
            assert has[mark] == [question.answer] == [scene.objects[question.targets[0]].name]
            assert sorted(question.choices) == sorted(thing.name for thing in scene.objects)

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


def test_families_and_levels_come_in_equal_numbers_and_splits_do_not_meet() -> None:
    asked = {split: list(sample_questions(54, split=split)) for split in SPLITS}
    for questions in asked.values():
        assert Counter(question.family for question in questions) == dict.fromkeys(FAMILIES, 6)
        assert Counter(question.level for question in questions) == dict.fromkeys(LEVELS, 18)
    scenes = [question.scene for questions in asked.values() for question in questions]
    assert len(set(scenes)) == len(scenes)
    assert max(question.scene for question in sample_questions(9, split="train", seed=9_999)) < 10**12


def test_some_combinations_are_asked_in_the_test_split_alone() -> None:
    """A combination is a family with the colour and shape of an object it asks about."""

    def combinations(split: str) -> set[tuple[str, str]]:
        return {
            (question.family, scene_of(question).objects[index].name)
            for question in sample_questions(270, split=split)
            for index in question.targets
        }

    def held_out(combination: tuple[str, str]) -> bool:
        family, name = combination
        thing = type("Thing", (), {"name": name})
        question = WorldQuestion(family, "", "", (), (0,), "", "", "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sifthinker.lab.questions.scene_of", lambda _: type("S", (), {"objects": (thing,)}))
            return is_novel(question)

    train, test = combinations("train"), combinations("test")
    assert not any(map(held_out, train))
    assert len([combination for combination in test if held_out(combination)]) > 20
    # Such objects stand in training scenes, and other families ask about them.
    assert {name for _, name in test if held_out(("side", name))} <= {name for _, name in train}
    novel = [is_novel(question) for question in sample_questions(108, split="test")]
    assert sum(novel) == 54


def test_right_answers_take_turns() -> None:
    slots: dict[str, Counter[int]] = {}
    for question in sample_questions(324):
        slots.setdefault(question.family, Counter())[question.choices.index(question.answer)] += 1
    for family in ("nearer", "side", "front", "closest", "size"):
        assert slots[family] == {0: 18, 1: 18}
    # 36 questions each; a fair draw of one in three or less stays below two thirds.
    assert all(max(slots[family].values()) < 24 for family in ("attribute", "count", "detail", "odd"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: list(sample_questions(1, split="dev")),
        lambda: ask(0, "x"),
        lambda: ask(0, "side", "impossible"),
        lambda: list(sample_questions(1, levels=["x"])),
        lambda: list(sample_questions(1, seed=-1)),
        lambda: list(sample_questions(1, seed=10_000)),
    ],
)
def test_misuse(call: object) -> None:
    with pytest.raises(ConfigError, match=r"expected one of|seed must be 0 to 9999"):
        call()


def test_the_scripted_teacher_knows_no_other_records(tmp_path: Path) -> None:
    record = Record(id="r", image="i", question="q", answer="a", boxes=((0, 0, 1, 1),))
    with pytest.raises(ConfigError, match="--teacher openai"):
        asyncio.run(ScriptedTeacher().reply(Task(record, (), (), lambda: pytest.fail("unused")), ()))


class TestFolder:
    """What `write_world` finds in its folder."""

    def test_a_smaller_world_leaves_nothing_of_a_larger_one(self, tmp_path: Path) -> None:
        write_world(tmp_path, 6)
        (tmp_path / "images" / "77777.png").write_bytes(b"mine")  # no scene of either world, and not ours
        (tmp_path / "images" / "notes.txt").write_text("mine")
        records = write_world(tmp_path, 2, seed=1)
        named = {json.loads(line)[key] for line in records.read_text().splitlines() for key in ("image", "depth")}
        assert len(named) == 4
        left = {f"images/{path.name}" for path in (tmp_path / "images").iterdir()}
        assert left == named | {"images/77777.png", "images/notes.txt"}

    def test_the_same_world_again_is_the_same(self, tmp_path: Path) -> None:
        write_world(tmp_path, 3)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
        write_world(tmp_path, 3)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before

    def test_files_of_somebody_else_are_not_written_over(self, tmp_path: Path) -> None:
        write_world(tmp_path / "other", 2)
        scene = sorted((tmp_path / "other" / "images").glob("*[0-9].png"))[0]
        for first in ('{"source": "photos.jsonl:1"}', '{"id": "mine", "image": "a.png"}', "[1]", '"text"', "notes"):
            (tmp_path / "records.jsonl").write_text(f'{first}\n{{"source": "world:1"}}\n')
            with pytest.raises(ConfigError, match=r"records\.jsonl is not from the embedded world"):
                write_world(tmp_path, 2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "records.jsonl"]
        scene.write_bytes(b"mine")
        with pytest.raises(ConfigError, match=r"\.png is not from the embedded world"):
            write_world(tmp_path / "other", 2)
        assert scene.read_bytes() == b"mine"


def test_the_teacher_states_depths_as_the_chains_do() -> None:
    """nano's tokens have two decimals; a third in the words would make the chain say two different numbers."""
    questions = [question for question in sample_questions(36) if question.family in ("nearer", "front", "closest")]
    for seed, question in enumerate(questions):
        chain = gold_chain(world_record(question, image="x.png"), question, seed)
        assert re.findall(r"\d\.\d+", chain), chain
        assert {len(number.partition(".")[2]) for number in re.findall(r"\d\.\d+", chain)} == {2}, chain
