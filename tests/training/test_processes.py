"""Several GPUs as far as two CPU processes show it, with a Qwen2.5-VL and its real processor.

Copies (DDP) and shards (FSDP2), full and LoRA: saved, resumed, evaluated while training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.models import load_model, load_processor  # noqa: E402
from sifthinker.training.progress import read_history  # noqa: E402

from .processes import run_on_two  # noqa: E402

LORA = {"lora": {"r": 4, "alpha": 8}, "freeze": ["visual"]}
STEPS = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "save_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}
GRPO = {**STEPS, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12}


def config(model: Path, chains: Path, output: Path, training: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = {"model": str(model), "data": str(chains), "output": str(output), "max_pixels": 6272}
    return {**values, "training": training, **more}


def history(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without its timings."""
    timings = ("time", "per_second")
    return [{key: value for key, value in row.items() if not any(t in key for t in timings)} for row in read_history(run)]


@pytest.mark.parametrize(
    ("how", "more"),
    [
        ("fsdp2", {}),
        ("ddp", LORA),
        pytest.param("fsdp2", LORA, marks=pytest.mark.slow),
        pytest.param("ddp", {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "lora" if value else "full",
)
def test_grpo_stopped_and_resumed_is_grpo_in_one_go(
    how: str, more: dict[str, Any], real_model: Callable[[str], Path], chains: Path, tmp_path: Path
) -> None:
    """Weights, ledger and held-out numbers of a run of two steps, and of one that was ended after the first and went on."""
    model = real_model("qwen2_5_vl")
    asked = {"eval_data": str(chains), "eval_limit": 3, "eval_max_new_tokens": 6, **more}
    training = {**GRPO, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}

    def job(name: str, steps: int) -> tuple[str, dict[str, Any]]:
        return "grpo", config(model, chains, tmp_path / name, {**training, "max_steps": steps}, **asked)

    done = run_on_two(how, tmp_path, job("whole", 2), job("parts", 1), job("parts", 2))
    assert done.returncode == 0, done.stderr[-6000:]
    whole, part, resumed = (torch.load(tmp_path / f"trained-{n}.pt", weights_only=True) for n in range(3))
    assert whole.keys() == part.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert any(not torch.equal(value, part[name]) for name, value in whole.items()), "the second step moved nothing"
    ledgers = [json.loads((tmp_path / name / "checkpoint-2" / "ledger.json").read_text()) for name in ("whole", "parts")]
    assert len(ledgers[0]) == 4, "two groups a step, whose means both processes know"
    assert ledgers[0] == ledgers[1]
    measured = [[row for row in history(tmp_path / name) if "eval_questions" in row] for name in ("whole", "parts")]
    assert [row["eval_questions"] for row in measured[0]] == [3, 3]
    assert measured[0][-1] == measured[1][-1]
    # What was saved is what was trained, and loads as a model of its family.
    saved = dict(load_model(tmp_path / "whole").named_parameters())
    if not more:
        assert all(torch.equal(saved[name], value) for name, value in whole.items())
    else:
        start = dict(load_model(model).named_parameters())
        moved = {name for name, value in saved.items() if not torch.equal(value, start[name])}
        assert moved
        assert not any("visual" in name for name in moved)
    assert type(load_processor(tmp_path / "whole")).__name__ == "Qwen2_5_VLProcessor"


def test_processes_do_not_change_what_sft_learns(real_model: Callable[[str], Path], chains: Path, tmp_path: Path) -> None:
    """Batches of four in one process, and of two in each of two, copied or sharded: the same weights after two steps."""
    from sifthinker.training.settings import make_config
    from sifthinker.training.sft import train_sft

    # Plain gradient descent: Adam's first steps are as long as the learning rate, and follow the sign of rounding errors.
    descent = {**STEPS, "optim": "sgd", "learning_rate": 0.1, "max_steps": 2, "save_strategy": "no"}

    def values(name: str, rows: int) -> dict[str, Any]:
        model = real_model("qwen2_5_vl")
        return config(model, chains, tmp_path / name, {**descent, "per_device_train_batch_size": rows})

    trainer = train_sft(make_config(values("one", 4), "sft"))
    assert trainer is not None
    one = {name: value.detach() for name, value in trainer.model.named_parameters()}
    start = dict(load_model(real_model("qwen2_5_vl")).named_parameters())
    for how in ("ddp", "fsdp2"):
        (tmp_path / f"{how}-weights").mkdir()
        done = run_on_two(how, tmp_path / f"{how}-weights", ("sft", values(how, 2)))
        assert done.returncode == 0, done.stderr[-6000:]
        two = torch.load(tmp_path / f"{how}-weights" / "trained-0.pt", weights_only=True)
        for name, value in one.items():
            moved = (value - start[name]).norm()
            assert moved > 0, name
            assert (two[name] - value).norm() < 0.03 * moved + 1e-6, (how, name)
