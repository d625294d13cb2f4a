from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.evaluation.world import METRICS, Row, evaluate, summarise
from sifthinker.thinker import Thinker, Thought
from sifthinker.world.questions import world_record
from sifthinker.world.scenes import render, sample_scene

from ..world.test_questions import gold_chain


class Reciting(Thinker):
    """A model that says the gold chain, or whatever it is given."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.asked: list[tuple] = []

    def think_all(self, tasks, **sampling):
        self.asked += tasks
        if self.text is not None:
            return [Thought(question, image, depth, self.text) for image, question, depth in tasks]
        from sifthinker.world.questions import sample_questions

        known = list(sample_questions(len(self.asked), split="test"))[-len(tasks) :]
        thoughts = []
        for (image, asked, depth), (scene, question) in zip(tasks, known, strict=True):
            record = world_record(scene, question, image="i.png", split="test")
            thoughts.append(Thought(asked, image, depth, gold_chain(record, scene, 0)))
        return thoughts


def test_the_gold_chains_are_perfect() -> None:
    results, rows = evaluate(Reciting(), 14, batch_size=5)
    assert list(results) == list(METRICS)
    assert len(rows) == 14
    for name in ("answer accuracy", "final HIoU", "depth consistency", "valid format"):
        assert (results[name].mean, results[name].count) == (pytest.approx(1), 14)
    assert results["correction gain"].mean > 0.2


def test_nothing_readable_is_nothing_earned() -> None:
    results, _ = evaluate(Reciting("I think it is a ball."), 7)
    assert results["answer accuracy"].mean == results["final HIoU"].mean == results["valid format"].mean == 0
    # Without an area there is no correction and no stated depth to be measured.
    assert "correction gain" not in results
    assert "depth consistency" not in results


def test_the_answer_is_not_looked_for_outside_its_tags() -> None:
    results, rows = evaluate(Reciting("left right ball red 1 2 in front behind"), 7)
    assert results["answer accuracy"].mean == 0
    assert rows[0].truth


def test_pictures_are_of_the_size_asked_for_and_depth_can_be_kept_back() -> None:
    model = Reciting("x")
    evaluate(model, 2, size=96, depth=False)
    assert [(image.size, depth) for image, _, depth in model.asked] == [((96, 96), None)] * 2


def test_intervals_by_hand() -> None:
    def row(value: float | None) -> Row:
        return Row("i", 0, "f", "q", "t", (), "", dict.fromkeys(METRICS, value))

    same = summarise([row(0.5)] * 10)["final HIoU"]
    assert (same.mean, same.low, same.high, same.count) == (0.5, 0.5, 0.5, 10)
    mixed = summarise([row(1.0)] * 50 + [row(0.0)] * 50 + [row(None)] * 7)["final HIoU"]
    assert (mixed.mean, mixed.count) == (0.5, 100)
    # The standard error is 0.05: about 0.4 to 0.6.
    assert 0.37 < mixed.low < 0.43
    assert 0.57 < mixed.high < 0.63
    assert summarise([]) == {}


def test_a_real_model_runs_through(nano: Path) -> None:
    pytest.importorskip("torch")
    done: list[int] = []
    results, rows = evaluate(Thinker.load(nano, max_new_tokens=4), 3, batch_size=2, progress=done.append)
    assert done == [2, 3]
    assert results["valid format"].count == len(rows) == 3


def test_what_is_measured_is_what_the_scene_holds() -> None:
    _, rows = evaluate(Reciting("x"), 7)
    for item in rows:
        assert render(sample_scene(item.scene), 64)[1].size == (64, 64)
        assert item.id.startswith("world-test-")
