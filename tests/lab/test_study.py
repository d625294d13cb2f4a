"""The laboratory: arms share their stages, finished work is not done again, numbers add up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifthinker.errors import ConfigError
from sifthinker.evaluation.metrics import METRICS, Row
from sifthinker.lab.study import ARMS, REFERENCES, SHORT, Lab, Schedule, _read_rows, run_study, summarise_study
from sifthinker.show.report import study_page

TINY = dataclasses.replace(SHORT, questions=18, sft_steps=1, grpo_steps=1, prompts=1, test_questions=9, max_tokens=12)


@contextlib.contextmanager
def bar(title: str, total: int | None) -> Iterator[object]:
    yield lambda done, words="": None


def lab(folder: Path, base: str, schedule: Schedule = TINY, seed: int = 0) -> Lab:
    return Lab(folder, schedule, bar, lambda text: None, seed=seed, base=base)


def test_every_arm_runs_and_is_not_run_again(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from sifthinker.training import grpo, sft

    trained: list[str] = []
    for module, name in ((sft, "train_sft"), (grpo, "train_grpo")):
        original = getattr(module, name)

        def counting(config, original=original):
            trained.append(Path(config.output).name)
            return original(config)

        monkeypatch.setattr(module, name, counting)

    def study() -> dict:
        page = run_study(
            tmp_path / "s", arms=list(ARMS), seeds=[0], schedule=TINY, bar=bar, say=lambda text: None, base=str(nano)
        )
        assert ARMS["release"].title.partition("'")[0] in page.read_text()
        return json.loads((tmp_path / "s" / "study.json").read_text())

    found = study()
    # Stages that arms share are trained once: four kinds of SFT, one GRPO an arm.
    assert sorted(trained) == sorted(
        ["sft-answers", "sft-chains", "sft-rgb", "sft-release"]
        + [f"grpo-{arm.name}" for arm in ARMS.values() if arm.grpo is not None]
    )
    assert list(found["arms"]) == list(ARMS)
    assert found["arms"]["grpo-sif"]["metrics"]["answer accuracy"]["count"] == 9
    assert set(found["arms"]["base"]["metrics"]) == {"answer accuracy"}
    trained.clear()
    assert study() == found == json.loads((tmp_path / "s" / "study.json").read_text())
    assert trained == []
    settings = {
        name: (tmp_path / "s" / "seed-0" / f"grpo-{name}" / "README.md").read_text()
        for name in ("grpo-sif", "vanilla", "no-progress", "no-correction", "release")
    }
    assert "progress: true" in settings["grpo-sif"]
    assert "progress: false" in settings["no-progress"]
    assert "correction: 'off'" in settings["no-correction"]
    assert "denominator: min" in settings["release"]
    assert "grounding: 0.0" in settings["vanilla"].partition("rewards:")[2].partition("reward_terms")[0]


def test_processes_with_other_seeds_fill_one_study(nano: Path, tmp_path: Path) -> None:
    def study(seeds: list[int], schedule: Schedule = TINY) -> dict:
        run_study(tmp_path, arms=["base"], seeds=seeds, schedule=schedule, bar=bar, say=lambda text: None, base=str(nano))
        return json.loads((tmp_path / "study.json").read_text())["arms"]

    alone = study([7])["base"]
    assert (alone["seeds"], list(alone["metrics"]["answer accuracy"]["seeds"])) == (
        1,
        [alone["metrics"]["answer accuracy"]["mean"]],
    )
    assert study([3, 5])["base"]["seeds"] == 3
    with pytest.raises(ConfigError, match=r"seed-\d contains another run: schedule\.prompts was 1, now 5"):
        study([9], dataclasses.replace(TINY, prompts=5))
    assert not (tmp_path / "seed-9").exists()


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    lab(tmp_path / "a", "nano")
    lab(tmp_path / "a", "nano")
    with pytest.raises(ConfigError, match=r"seed was 0, now 1\. Start over with --fresh"):
        lab(tmp_path / "a", "nano", seed=1)
    with pytest.raises(ConfigError, match=r"schedule\.prompts was 1, now 5"):
        lab(tmp_path / "a", "nano", dataclasses.replace(TINY, prompts=5))


def test_a_base_that_was_trained_again_is_another_study(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"1")
    lab(tmp_path / "a", str(base))
    lab(tmp_path / "a", str(base))
    (base / "model.safetensors").write_bytes(b"2")
    with pytest.raises(ConfigError, match="base_content was"):
        lab(tmp_path / "a", str(base))
    marker = json.loads((tmp_path / "a" / "lab.json").read_text())
    del marker["base_content"]  # as an older version wrote it
    (tmp_path / "a" / "lab.json").write_text(json.dumps(marker))
    lab(tmp_path / "a", str(base))


def test_clearing_deletes_what_a_lab_wrote_and_nothing_else(tmp_path: Path) -> None:
    lab(tmp_path / "a", "nano")
    (tmp_path / "a" / "sft-chains").mkdir()
    (tmp_path / "a" / "eval-base.json").write_text("{}")
    (tmp_path / "a" / "mine.txt").write_text("keep")
    Lab.clear(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="expected an empty folder or an earlier run"):
        Lab.clear(tmp_path / "a")


@pytest.mark.parametrize("name", ["world", "chains", "sft-rgb", "grpo-vanilla", "eval-base.json"])
def test_a_folder_with_something_of_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """`--fresh` would delete it one day."""
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} was not written by a sif run, and this run would overwrite it"):
        lab(tmp_path, "nano")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["study.json", "study.html"])
def test_a_study_writes_over_its_own_numbers_alone(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Lab, arm: object) -> None:
        measured = {"rows": [row.to_json() for row in rows(1, 0)]}
        (self.folder / "eval-base.json").write_text(json.dumps(measured))

    monkeypatch.setattr(Lab, "run", measure)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"{name} was not written by a sif run, and this run would overwrite it"):
        run_study(tmp_path, arms=["base"], seeds=[0], schedule=TINY, bar=bar, say=print)
    (tmp_path / name).unlink()
    for fresh in (False, True, True):
        run_study(tmp_path, arms=["base"], seeds=[0], schedule=TINY, bar=bar, say=print, fresh=fresh)


@pytest.mark.parametrize("name", ["report.html", "right.png", "wrong.png"])
def test_a_demo_writes_over_its_own_report_alone(tmp_path: Path, name: str) -> None:
    from sifthinker.lab.demo import run_demo

    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} was not written by a sif run, and this run would overwrite it"):
        run_demo(tmp_path, short=True, fresh=False, bar=bar, say=print)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_unknown_arm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown arm 'x'"):
        run_study(tmp_path, arms=["x"], seeds=[0], schedule=TINY, bar=bar, say=print)


def row(question: str, accuracy: float, family: str = "side") -> Row:
    values: dict[str, float | None] = {**dict.fromkeys(METRICS), "answer accuracy": accuracy}
    return Row(question, "world", "test", family, {}, "q", ("t",), (), (), "1.png", None, "", values=values)


def rows(*accuracies: float) -> list[Row]:
    """Questions a, b, c …; the last is of another family."""
    last = len(accuracies) - 1
    return [row("abcdefgh"[n], value, "odd" if n == last else "side") for n, value in enumerate(accuracies)]


def test_measurements_from_before_the_first_hiou_are_read(tmp_path: Path) -> None:
    old = {
        **dict.fromkeys(set(METRICS) - {"first HIoU"}),
        "answer accuracy": 1.0,
        "final HIoU": 0.75,
        "correction gain": 0.5,
    }
    measured = {
        "id": "a", "scene": 7, "level": "easy", "family": "side", "novel": True, "question": "q", "truth": "t",
        "boxes": [[0, 0, 1, 1]], "text": "c", "values": old,
    }  # fmt: skip
    (tmp_path / "eval-chains.json").write_text(json.dumps({"arm": "chains", "rows": [measured]}))
    found = _read_rows(tmp_path, "chains")[0]
    assert found.values["first HIoU"] == 0.25
    assert (found.answers, found.completion, found.image) == (("t",), "c", "7.png")
    assert found.tags == {"level": "easy", "combination": "new"}


def test_the_spread_between_seeds_by_hand() -> None:
    # Two seeds with 1 of 4 and 3 of 4 right: mean 0.5, sample standard deviation 0.25 × √2.
    study = summarise_study({"base": {0: rows(1, 0, 0, 0), 1: rows(1, 1, 1, 0)}}, TINY)
    found = study["arms"]["base"]
    accuracy = found["metrics"]["answer accuracy"]
    assert accuracy["seeds"] == [0.25, 0.75]
    assert accuracy["mean"] == 0.5
    assert accuracy["std"] == pytest.approx(0.25 * 2**0.5)
    assert accuracy["count"] == 4  # of questions, which were answered twice
    assert (found["families"]["odd"]["mean"], found["families"]["side"]["mean"]) == (0, pytest.approx(4 / 6))
    page = study_page(study, METRICS, REFERENCES)
    assert "0.500&nbsp;±&nbsp;0.354" in page
    assert ARMS["base"].title in page
    assert summarise_study({"base": {}}, TINY)["arms"] == {}


def test_differences_are_taken_question_by_question_over_common_seeds() -> None:
    measured = {
        "chains": {0: rows(1, 0, 0, 1), 1: rows(1, 0, 0, 0)},
        "grpo-sif": {1: rows(1, 1, 0, 0), 2: rows(0, 0, 0, 0)},  # of seed 1 alone: one more of four
    }
    arms = summarise_study(measured, TINY)["arms"]
    gain = arms["grpo-sif"]["differences"]["chains"]["answer accuracy"]
    assert (gain["mean"], gain["count"]) == (0.25, 4)
    assert arms["chains"]["differences"]["grpo-sif"]["answer accuracy"]["mean"] == -0.25
    assert "chains" not in arms["chains"]["differences"]
    page = study_page(summarise_study(measured, TINY), METRICS, REFERENCES)
    assert page.count("+0.250") == 1
    # Every question gains the same: the interval has no width, though the accuracies have.
    sure = {"chains": {0: rows(0, 0, 1, 1)}, "grpo-sif": {0: rows(0.5, 0.5, 1.5, 1.5)}}
    gain = summarise_study(sure, TINY)["arms"]["grpo-sif"]["differences"]["chains"]["answer accuracy"]
    assert (gain["low"], gain["mean"], gain["high"]) == (0.5, 0.5, 0.5)
    assert "<b>+0.500</b>" in study_page(summarise_study(sure, TINY), METRICS, REFERENCES)
