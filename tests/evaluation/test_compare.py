"""Two evaluations of the same questions, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sifthinker.errors import ConfigError
from sifthinker.evaluation.benchmark import Benchmark, Headline, mean_of
from sifthinker.evaluation.compare import compare
from sifthinker.evaluation.metrics import METRICS, Row
from sifthinker.evaluation.run import Evaluation


def row(name: str, accuracy: float | None, final: float | None = None, **known: Any) -> Row:
    values = {**dict.fromkeys(METRICS), "answer accuracy": accuracy, "final HIoU": final}
    fields = {
        "dataset": "d", "split": "test", "family": "side", "tags": {}, "question": f"{name}?", "answers": ("yes",),
        "choices": (), "boxes": (), "image": "i.png", "depth": None, "prompt": "", "values": values, **known,
    }  # fmt: skip
    return Row(id=name, **fields)


def evaluation(*rows: Row) -> Evaluation:
    return Evaluation({"model": "m"}, rows)


def test_differences_by_hand(tmp_path: Path) -> None:
    first = evaluation(
        row("a", 0, 0.5), row("b", 1, 0.25), row("c", 0, None), row("only", 1), row("gone", None, error="no image")
    )
    second = evaluation(row("c", 1, 0.5), row("b", 1, 0.75), row("a", 1, 0.5, family="odd"), row("gone", 1))
    first.write(tmp_path / "a.json")
    second.write(tmp_path / "b.json")
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert (found.questions, found.only_first, found.only_second) == (3, 1, 1)
    accuracy = found.results["answer accuracy"]
    assert (accuracy.first.mean, accuracy.second.mean, accuracy.difference.mean) == pytest.approx((1 / 3, 1, 2 / 3))
    # Both have it of a and b: 0.5 and 0.25, then 0.5 and 0.75.
    final = found.results["final HIoU"]
    assert (final.first.mean, final.second.mean, final.difference.mean, final.difference.count) == (0.375, 0.625, 0.25, 2)
    assert "valid format" not in found.results
    assert list(found.families) == ["side"]  # as the first states it
    assert found.to_json()["results"]["final HIoU"]["difference"]["mean"] == 0.25


def test_the_numbers_of_a_benchmark_are_over_questions_that_both_have() -> None:
    groups = mean_of("final HIoU", by=lambda row: row.family)
    headlines = (Headline("mean", "of the two sides", groups), Headline("none", "of nothing", mean_of("box IoU")))
    toy = Benchmark("toy", "Toy", "us", "", ("test",), lambda *_, **__: [], headlines)
    first = evaluation(row("a", 0, 0.5), row("b", 0, None), row("c", 0, 0.25, family="odd"), row("d", 0, 0.5, family="odd"))
    second = evaluation(row("d", 0, None), row("b", 0, 0.5), row("a", 0, 1), row("c", 0, 0.5))
    table = compare(first, second, benchmark=toy).table
    # Both have a and c, the only ones of their groups: 0.5 and 0.25, then 1 and 0.5.
    found = table["mean"]
    assert found.first is not None
    assert found.second is not None
    assert found.difference is not None
    assert (found.first.mean, found.second.mean, found.difference.mean) == (0.375, 0.75, 0.375)
    assert found.difference.count == 2
    assert list(table) == ["mean"]


def test_by_family() -> None:
    first = evaluation(row("a", 0), row("b", 0, family="odd"))
    second = evaluation(row("a", 0), row("b", 1, family="odd"))
    differences = {name: of["answer accuracy"].difference.mean for name, of in compare(first, second).families.items()}
    assert differences == {"side": 0, "odd": 1}
    bare = evaluation(row("a", 0, family=""))
    assert compare(bare, bare).families == {}


def test_a_question_s_difficulty_cancels_out() -> None:
    first = evaluation(*(row(str(n), float(n % 2), n / 100) for n in range(100)))
    second = evaluation(*(row(str(n), float(n % 2), n / 100 + 0.1) for n in range(100)))
    found = compare(first, second).results
    assert (found["answer accuracy"].difference.low, found["answer accuracy"].difference.high) == (0, 0)
    assert found["final HIoU"].difference.low == pytest.approx(0.1)
    assert found["final HIoU"].first.high - found["final HIoU"].first.low > 0.1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (row("a", 1, question="another?"), "question 'a' has the question 'a.' in the first and 'another.'"),
        (row("a", 1, answers=("no",)), "has the answers"),
        (row("a", 1, choices=("yes", "no")), "has the choices"),
        (row("z", 1), "no question in common"),
        (row("a", None, error="gone"), "no question in common"),
    ],
)
def test_other_data_is_refused(other: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(evaluation(row("a", 0)), evaluation(other))


def test_files_that_are_no_evaluations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot read"):
        compare(tmp_path / "none.json", tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(ConfigError, match="not an evaluation file of this version"):
        compare(tmp_path / "x.json", tmp_path / "x.json")
