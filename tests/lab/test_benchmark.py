from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region
from sifthinker.evaluation.metrics import METRICS, Row, group_by
from sifthinker.lab.benchmark import (
    _QuestionOnly,
    baselines,
    evaluate,
    families_above_chance,
    localise,
    world_questions,
)
from sifthinker.lab.demo import typical
from sifthinker.lab.lessons import LIST_QUESTION, regions_of
from sifthinker.lab.questions import FAMILIES, WorldQuestion, sample_questions, scene_of, world_record
from sifthinker.lab.scenes import LEVELS, render, sample_scene
from sifthinker.thinker import Thinker, Thought

from .test_questions import gold_chain


def row_of(values: dict[str, float | None], *, name: str = "i", family: str = "side") -> Row:
    return Row(name, "world", "test", family, {}, "q", ("t",), (), (), "1.png", None, "", values=values)


class Reciting(Thinker):
    """A model that says the gold chain, or whatever it is given."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.asked: list[tuple] = []

    def think_all(self, tasks, *, protocol="chain", **sampling):
        self.asked += tasks
        if self.text is not None:
            return [Thought(question, image, depth, self.text, protocol=protocol) for image, question, depth in tasks]
        known = list(sample_questions(len(self.asked), split="test"))[-len(tasks) :]
        thoughts = []
        for (image, asked, depth), question in zip(tasks, known, strict=True):
            record = world_record(question, image="i.png", split="test")
            text = question.answer if protocol == "direct" else gold_chain(record, question, 0)
            thoughts.append(Thought(asked, image, depth, text, protocol=protocol))
        return thoughts


def test_the_gold_chains_are_perfect() -> None:
    results, rows = evaluate(Reciting(), 14, batch_size=5)
    assert list(results) == list(METRICS)
    assert len(rows) == 14
    for name in ("answer accuracy", "final HIoU", "depth consistency", "valid format"):
        assert (results[name].mean, results[name].count) == (pytest.approx(1), 14)
    assert results["correction gain"].mean > 0.2
    assert results["first HIoU"].mean == pytest.approx(results["final HIoU"].mean - results["correction gain"].mean)
    assert results["first HIoU"].count == 14


NUMBERS = json.loads((Path(__file__).parent / "world_numbers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("who", ["gold", "nano"])
def test_the_numbers_are_those_of_the_world_s_own_evaluation(who: str) -> None:
    """They were recorded when the world had an evaluation of its own: 27 gold chains, and 18 answers of the shipped nano."""
    if who == "gold":
        results, rows = evaluate(Reciting(), 27, batch_size=5)
    else:
        pytest.importorskip("torch")
        results, rows = evaluate(Thinker.load("nano", max_new_tokens=40), 18, direct=True, batch_size=7)
    # To the last digit when they were recorded; since then IoU adds up areas in another order.
    assert list(results) == list(NUMBERS[who]["results"])
    for name, expected in NUMBERS[who]["results"].items():
        assert asdict(results[name]) == pytest.approx(expected, rel=1e-12), name
    if who == "gold":
        assert [row.id for row in rows] == [name for name, _ in NUMBERS[who]["rows"]]
        for row, (_, expected) in zip(rows, NUMBERS[who]["rows"], strict=True):
            assert row.values == pytest.approx(expected, rel=1e-12), row.id
    else:
        assert [[row.id, row.completion] for row in rows] == NUMBERS[who]["rows"]


def test_world_questions_render_what_they_ask_about() -> None:
    asked = next(world_questions(1, size=32))
    image, depth = asked.load()
    assert image.size == depth.size == (32, 32)
    assert asked.load(with_depth=False)[1] is None
    other = next(world_questions(1, size=48))
    assert asked.identity(Path()) != other.identity(Path())


def test_nothing_readable_is_nothing_earned() -> None:
    results, _ = evaluate(Reciting("I think it is a ball."), 7)
    assert results["answer accuracy"].mean == results["final HIoU"].mean == results["valid format"].mean == 0
    # Without an area there is no correction and no stated depth to be measured.
    assert "correction gain" not in results
    assert "first HIoU" not in results
    assert "depth consistency" not in results


def test_the_answer_is_not_looked_for_outside_its_tags() -> None:
    results, rows = evaluate(Reciting("left right ball red 1 2 in front behind"), 7)
    assert results["answer accuracy"].mean == 0
    assert rows[0].answers


def test_pictures_are_of_the_size_asked_for_and_depth_can_be_kept_back() -> None:
    model = Reciting("x")
    evaluate(model, 2, size=96, rgb_only=True)
    assert [(image.size, depth) for image, _, depth in model.asked] == [((96, 96), None)] * 2


def test_a_real_model_runs_through(nano: Path) -> None:
    pytest.importorskip("torch")
    done: list[int] = []
    results, rows = evaluate(Thinker.load(nano, max_new_tokens=4), 3, batch_size=2, progress=done.append)
    assert done == [0, 2, 3]
    assert results["valid format"].count == len(rows) == 3


def test_what_is_measured_is_what_the_scene_holds() -> None:
    model = Reciting("x")
    _, rows = evaluate(model, 9, batch_size=4)
    for item, (image, asked, depth) in zip(rows, model.asked, strict=True):
        seed = int(Path(item.image).stem)
        scene = sample_scene(seed, item.tags["level"])
        picture, map_, _ = render(scene, 64)
        assert image.tobytes() == picture.tobytes()
        assert depth.digest() == map_.digest()
        assert item.id == f"world-test-{seed}-{item.family}"
        assert item.question == asked
        named = {
            tuple(box): thing.name for box, thing in zip(round_boxes(scene.boxes, 2).tolist(), scene.objects, strict=True)
        }
        names = [named[box] for box in item.boxes]  # each is the box of an object that is there
        if item.family in ("nearer", "size", "odd"):
            assert item.answers[0] in names


def test_direct_answers_are_measured_on_the_answer_alone() -> None:
    results, rows = evaluate(Reciting(), 9, direct=True)
    assert list(results) == ["answer accuracy"]
    assert results["answer accuracy"].mean == 1
    assert rows[0].values["valid format"] is None
    assert evaluate(Reciting("I do not know"), 9, direct=True)[0]["answer accuracy"].mean == 0


def test_rows_are_grouped_by_family_level_and_novelty() -> None:
    _, rows = evaluate(Reciting("x"), 54)
    assert {family: len(found) for family, found in group_by(rows, lambda row: row.family).items()} == dict.fromkeys(
        FAMILIES, 6
    )
    assert list(group_by(rows, lambda row: row.tags["level"])) == list(LEVELS)
    assert {row.tags["combination"] for row in rows} == {"known", "new"}


def test_nothing_can_be_known_without_looking() -> None:
    found = baselines(216, learn_from=540)
    assert list(found) == [*FAMILIES, "all"]
    guess, first, blind = (found["all"][name] for name in ("guess", "always first", "question only"))
    assert guess[1] == first[1] == blind[1] == 216
    # The standard error of an accuracy near 0.37 over 216 questions is 0.033.
    assert first[0] == pytest.approx(guess[0], abs=0.1)
    assert blind[0] == pytest.approx(guess[0], abs=0.1)
    assert found["side"]["guess"][0] == found["side"]["always first"][0] == 0.5
    few = list(sample_questions(10, split="test"))
    right = [question.choices[0] == question.answer for question in few]
    assert baselines(10, learn_from=9)["all"]["always first"] == (sum(right) / 10, 10)
    assert baselines(10, learn_from=9)["all"]["guess"][0] == pytest.approx(sum(1 / len(q.choices) for q in few) / 10)
    assert sum(right) != 5


def test_the_question_only_baseline_by_hand() -> None:
    def question(text: str, answer: str) -> WorldQuestion:
        return WorldQuestion("side", text, answer, ("left", "right"), (0,), "", "", "")

    learnt = _QuestionOnly(
        [question(text, "left") for text in ("a dog", "a bus", "a bus", "a tree")] + [question("a dog", "right")] * 2
    )
    # Left: 5 · (5/6) · (2/6) = 1.39 of "a dog"; right: 3 · (3/4) · (3/4) = 1.69.
    assert learnt(question("a dog", "")) == 1
    # Left: 5 · (3/6) = 2.5 of "bus"; right: 3 · (1/4) = 0.75. Words that were never seen do not count.
    assert learnt(question("bus", "")) == learnt(question("unheard-of", "")) == learnt(question("", "")) == 0


class Locating(Thinker):
    """Finds and lists every object, its box moved by a share of its width and its depth wrong by a factor. Of each scene it
    lists an object that is not there, or leaves the first out; or it gives the first a wrong name."""

    def __init__(self, shift: float = 0.0, factor: float = 1.0, first: str | None = None, ghost: bool = True) -> None:
        scenes = [scene_of(question) for question in sample_questions(2, split="test")]
        self.truths = [region for scene in scenes for region in regions_of(scene)]
        self.lists = [list(zip(scene.objects, regions_of(scene), strict=True)) for scene in scenes]
        self.shift, self.factor, self.first, self.ghost = shift, factor, first, ghost

    def written(self, region: Region) -> str:
        x1, y1, x2, y2 = region.box
        step = (x2 - x1) * self.shift
        return f'[{{"bbox_2d":[{x1 + step:.3f},{y1},{x2 + step:.3f},{y2}],"depth":{region.depth * self.factor:.3f}}}]'

    def think_all(self, tasks, *, protocol="chain", **sampling):
        assert protocol == "direct"
        said = []
        for image, question, depth in tasks:
            if question == LIST_QUESTION:
                regions = [(self.written(region), thing.name) for thing, region in self.lists.pop(0)]
                if self.first is not None:
                    regions = [(regions[0][0], self.first), *regions[1:]] if self.first else regions[1:]
                if self.ghost:
                    regions.append(('[{"bbox_2d":[0.000,0.000,0.010,0.010],"depth":0.5}]', "red ghost"))
                lines = ["I see:", *(" ".join(pair) for pair in regions[::-1])]
                said.append(Thought(question, image, depth, "\n".join(lines), protocol="direct"))
                continue
            said.append(Thought(question, image, depth, self.written(self.truths.pop(0)), protocol="direct"))
        return said


def test_localising_by_hand() -> None:
    exact = localise(Locating(), 2)
    count = len(Locating().truths)
    assert exact["named: box IoU"].mean == pytest.approx(1)
    assert exact["named: depth within 10 %"].mean == 1
    assert exact["named: box IoU"].count == count
    # Each list of the two names one object that is not there.
    assert exact["listed: box IoU"].count == exact["listed: name"].count == count + 2
    for name in ("box IoU", "depth within 10 %", "name"):
        assert exact[f"listed: {name}"].mean == pytest.approx(count / (count + 2))
    # Half a width aside: a third of the union is shared, and a box that leaves the picture is none. Rounding to three
    # decimals moves small boxes a little; a list may match a box better with another object.
    aside = localise(Locating(shift=0.5), 2, batch_size=3)
    inside = sum(2 * (1 - region.box[2]) >= region.box[2] - region.box[0] for region in Locating().truths)
    assert 0 < inside < count
    assert aside["named: box IoU"].mean == pytest.approx(inside / count / 3, abs=0.01)
    assert inside / (count + 2) / 3 - 0.01 < aside["listed: box IoU"].mean < 0.45
    # Of two scenes, each with its first object misnamed or missing.
    assert localise(Locating(first="ghost"), 2)["listed: name"].mean == pytest.approx((count - 2) / (count + 2))
    fewer = localise(Locating(first="", ghost=False), 2)
    for name in ("box IoU", "depth within 10 %", "name"):
        assert fewer[f"listed: {name}"].count == count
        assert fewer[f"listed: {name}"].mean == pytest.approx((count - 2) / count)
    # 10.8 % too far; it would be 9.7 % of what is stated.
    wrong = localise(Locating(factor=1.108), 2)
    assert wrong["named: depth within 10 %"].mean == wrong["listed: depth within 10 %"].mean == 0
    nothing = localise(Reciting("nothing"), 2)
    assert {result.mean for result in nothing.values()} == {0}
    assert nothing["listed: box IoU"].count == count


def test_families_above_chance() -> None:
    """A model that is right in one family and answers at random in the others."""
    draw = random.Random(0)
    rows = []
    for question in sample_questions(360, split="test"):
        right = question.family == "side" or draw.random() < 1 / len(question.choices)
        values = {**dict.fromkeys(METRICS), "answer accuracy": float(right)}
        rows.append(row_of(values, family=question.family))
    assert families_above_chance(rows) == {"side"}


def test_the_examples_that_are_shown_are_typical() -> None:
    def row(name: str, right: float, end: float | None) -> Row:
        values = {**dict.fromkeys(METRICS), "answer accuracy": right, "final HIoU": end}
        return row_of(values, name=name)

    rows = [row("a", 1, 0.9), row("b", 1, 0.5), row("c", 1, 0.7), row("d", 0, 0.1), row("e", 0, None), row("f", 0, 0.8)]
    assert (typical(rows, True).id, typical(rows, False).id) == ("c", "d")  # of 0.5, 0.7, 0.9 and of 0, 0.1, 0.8
    assert typical(rows[:3], False) is None
