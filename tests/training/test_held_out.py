"""Held-out questions while a model trains: the numbers of `sif eval`, the same after an interruption."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.errors import ConfigError, RecordError  # noqa: E402
from sifthinker.evaluation.run import evaluate  # noqa: E402
from sifthinker.evaluation.settings import EvalSettings  # noqa: E402
from sifthinker.models import load_model  # noqa: E402
from sifthinker.thinker import LocalThinker, Thought  # noqa: E402
from sifthinker.training.held_out import HeldOut  # noqa: E402
from sifthinker.training.progress import LOGGED, read_history  # noqa: E402
from sifthinker.training.settings import make_config  # noqa: E402

from .test_saving import run_sharded  # noqa: E402
from .test_training import GRPO, SFT  # noqa: E402

ASKED = {"eval_limit": 5, "eval_max_new_tokens": 8}
NO_QUESTIONS = {"eval_data": None, "eval_limit": None, "eval_max_new_tokens": None}
OFTEN = {"eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "per_device_eval_batch_size": 2}


def trained(stage: str, model: Path, data: Path, output: Path, training: dict[str, Any], **more: Any) -> Any:
    from sifthinker.training import grpo, sft

    base = SFT if stage == "sft" else GRPO
    values = {"model": model, "data": data, "output": output, "eval_data": data, **ASKED, **more}
    config = make_config({**values, "training": {**base, **training}}, stage)
    return (sft.train_sft if stage == "sft" else grpo.train_grpo)(config)


def evaluations(output: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_history(output) if "eval_questions" in entry]


@pytest.fixture
def scored_by_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Makes evaluations give these accuracies, one after another; random models get nothing right."""

    def give(accuracies: list[float]) -> None:
        rest = iter(accuracies)
        monkeypatch.setattr(
            HeldOut, "measure", lambda self, trainer: {"eval_answer_accuracy": next(rest), "eval_questions": 5.0}
        )

    return give


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_logged_numbers_are_those_of_an_evaluation_of_the_saved_model(
    stage: str, tiny_vlm: Path, chains: Path, tmp_path: Path
) -> None:
    trainer = trained(stage, tiny_vlm, chains, tmp_path / "run", {**OFTEN, "max_steps": 3})
    assert trainer.model.training
    found = evaluations(tmp_path / "run")
    assert [entry["step"] for entry in found] == [2, 3]  # every second step, and the last one
    how = EvalSettings(data=str(chains), model=str(tmp_path / "run"), limit=5, batch_size=2, max_new_tokens=8)
    results = evaluate(how).results
    assert "valid format" in results
    for name, metric in LOGGED.items():
        assert found[-1].get(name) == (results[metric].mean if metric in results else None), name
    assert found[-1]["eval_questions"] == 5
    # Nothing of training stands in these entries, and training's own have lost nothing.
    assert not {"loss", "reward", "eval_reward"} & found[-1].keys()
    losses = [entry for entry in read_history(tmp_path / "run") if "loss" in entry]
    assert [entry["step"] for entry in losses] == [1, 2, 3]
    assert all(("mean_token_accuracy" if stage == "sft" else "reward") in entry for entry in losses)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"on held-out questions (`{chains}`)" in card


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_evaluating_does_not_change_what_is_learnt(stage: str, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    trained(stage, tiny_vlm, chains, tmp_path / "with", {**OFTEN, "logging_steps": 2, "eval_steps": 1})
    trained(stage, tiny_vlm, chains, tmp_path / "without", {**OFTEN, "logging_steps": 2, "eval_strategy": "no"})
    assert len(evaluations(tmp_path / "with")) == 2
    assert evaluations(tmp_path / "without") == []
    # What was gathered before an evaluation for the next log is still there: the mean over both steps.
    kept = "mean_token_accuracy" if stage == "sft" else "completions/mean_length"
    logged = [[e[kept] for e in read_history(tmp_path / name) if kept in e] for name in ("with", "without")]
    assert len(logged[0]) == 1
    assert logged[0] == logged[1]
    ours, theirs = (dict(load_model(tmp_path / name).named_parameters()) for name in ("with", "without"))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_that_was_killed_logs_the_same_numbers(
    tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random models get everything wrong, whatever they learn; what they say is measured here by its letters."""
    from sifthinker.evaluation import run

    def measured(thought: Thought, question: Any) -> Any:
        values, verdict = original(thought, question)
        return {**values, "final HIoU": sum(map(ord, thought.text)) / 1000}, verdict

    original = run.measure
    monkeypatch.setattr(run, "measure", measured)
    steps = {**OFTEN, "max_steps": 4, "eval_steps": 1, "learning_rate": 1e-2}
    trained("sft", tiny_vlm, chains, tmp_path / "whole", steps)
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "cut" / "checkpoint-2")
    trained("sft", tiny_vlm, chains, tmp_path / "cut", steps)
    whole, cut = (evaluations(tmp_path / name) for name in ("whole", "cut"))
    assert [entry["step"] for entry in whole] == [1, 2, 3, 4]
    assert whole == cut
    assert len({entry["eval_final_hiou"] for entry in whole}) > 1


def test_the_best_model_is_kept(
    tiny_vlm: Path, chains: Path, tmp_path: Path, scored_by_step: Callable[[list[float]], None]
) -> None:
    best = {
        **OFTEN, "eval_steps": 1, "save_steps": 1, "max_steps": 3, "load_best_model_at_end": True,
        "metric_for_best_model": "eval_answer_accuracy",
    }  # fmt: skip
    scored_by_step([0.2, 0.9, 0.5])
    run = tmp_path / "run"
    trainer = trained("sft", tiny_vlm, chains, run, best)
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"

    def same(checkpoint: str) -> bool:
        kept, other = (dict(load_model(folder).named_parameters()) for folder in (run, run / checkpoint))
        return all(torch.equal(value, other[name]) for name, value in kept.items())

    assert same("checkpoint-2")
    assert not same("checkpoint-3")
    # Killed after the last checkpoint, before the model was written.
    for name in ("finished.json", "model.safetensors"):
        (run / name).unlink()
    trained("sft", tiny_vlm, chains, run, best)
    assert same("checkpoint-2")


def test_the_best_adapter_is_kept(
    tiny_vlm: Path, chains: Path, tmp_path: Path, scored_by_step: Callable[[list[float]], None]
) -> None:
    from safetensors.torch import load_file

    best = {
        **OFTEN, "eval_steps": 1, "save_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "answer_accuracy",
    }  # fmt: skip
    scored_by_step([0.9, 0.5])
    trained("sft", tiny_vlm, chains, tmp_path / "run", {**best, "learning_rate": 1e-1}, lora={"r": 2})
    kept, first, last = (
        load_file(tmp_path / "run" / folder / "adapter_model.safetensors")
        for folder in ("adapter", "checkpoint-1", "checkpoint-2")
    )
    assert all(torch.equal(value, first[name]) for name, value in kept.items())
    assert any(not torch.equal(value, last[name]) for name, value in kept.items())


def test_a_metric_that_no_answer_has_makes_no_model_the_best(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    """Random models write no area, and have no gain."""
    run = tmp_path / "run"
    trainer = trained("sft", tiny_vlm, chains, run, {**OFTEN, "metric_for_best_model": "eval_correction_gain"})
    assert trainer.state.best_model_checkpoint is None
    assert math.isinf(trainer.state.best_metric)


def test_answers_alone_are_asked_for_directly_and_rgb_models_see_no_depth(
    tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("sft", tiny_vlm, chains, tmp_path / "direct", OFTEN, answers_only=True)
    assert "eval_answer_accuracy" in evaluations(tmp_path / "direct")[-1]
    assert "eval_valid_format" not in evaluations(tmp_path / "direct")[-1]
    # What it learns from has no depth, so it is shown none of the questions' either.
    rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb" / "examples.jsonl").write_text(
        "".join(json.dumps({**row, "depth": None, "images": row["images"][:1]}) + "\n" for row in rows)
    )
    shutil.copytree(chains / "images", tmp_path / "rgb" / "images")
    seen: list[bool] = []

    def asked(self: LocalThinker, tasks: Any, **how: Any) -> Any:
        seen.extend(depth is not None for _, _, depth in tasks)
        return think_all(self, tasks, **how)

    think_all = LocalThinker.think_all
    monkeypatch.setattr(LocalThinker, "think_all", asked)
    trained("sft", tiny_vlm, tmp_path / "rgb", tmp_path / "rgb-run", OFTEN, eval_data=chains)
    assert seen == [False] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_data": None, "eval_limit": 3}, "eval_limit needs eval_data"),
        (
            {**NO_QUESTIONS, "training": {"eval_strategy": "steps"}},
            "training.eval_strategy needs eval_data; set eval_data to the held-out questions",
        ),
        (
            {
                "eval_data": None,
                "eval_limit": None,
                "eval_max_new_tokens": None,
                "training": {"load_best_model_at_end": True},
            },
            "training.load_best_model_at_end needs eval_data; set eval_data",
        ),
        ({"training": {"metric_for_best_model": "accuracy"}}, "expected one of eval_answer_accuracy.* got 'accuracy'"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(
    tiny_vlm: Path, chains: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained("sft", tiny_vlm, chains, tmp_path / "run", change.pop("training", {}), **change)


def test_questions_are_checked_before_the_first_step(tiny_vlm: Path, chains: Path, photo_folder: Path) -> None:
    path = photo_folder / "q.jsonl"
    row = {"image": "cat.png", "question": "What?", "answer": "cat"}

    def run(**changes: Any) -> None:
        path.write_text(json.dumps({**row, **changes}) + "\n")
        trained("sft", tiny_vlm, chains, photo_folder / "run", {**OFTEN, "max_steps": 1}, eval_data=path)

    with pytest.raises(ConfigError, match=r"eval_data: question '1': .*gone.png"):
        run(image="gone.png")
    with pytest.raises(RecordError, match=r"q.jsonl:1: lacks question"):
        run(question=None)
    run()  # a plain question without boxes or depth is one too
    assert evaluations(photo_folder / "run")[-1]["eval_answer_accuracy"] == 0


def test_processes_share_the_questions(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    """Five questions in batches of two on two processes: three batches, one of which is asked twice and counted once."""
    values = {
        "model": str(tiny_vlm), "data": str(chains), "output": str(tmp_path / "run"), "eval_data": str(chains),
        **ASKED, "training": {**SFT, **OFTEN, "save_strategy": "no"},
    }  # fmt: skip
    done = run_sharded(values, tmp_path, "fsdp2")
    assert done.returncode == 0, done.stderr[-9000:]
    (found,) = evaluations(tmp_path / "run")
    assert found["eval_questions"] == 5
    how = EvalSettings(data=str(chains), model=str(tmp_path / "run"), limit=5, batch_size=2, max_new_tokens=8)
    results = evaluate(how).results
    for name, metric in LOGGED.items():
        assert found.get(name) == (results[metric].mean if metric in results else None), name
