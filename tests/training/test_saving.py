"""The finished model is the one that was trained, also where no process holds all of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors import safe_open  # noqa: E402

from sifthinker.errors import ConfigError  # noqa: E402
from sifthinker.models import load_model, load_processor  # noqa: E402

from .processes import run_on_two  # noqa: E402
from .test_training import SFT, grpo_config, sft_config  # noqa: E402

ZERO3 = pytest.param(
    "zero3",
    marks=[
        pytest.mark.integration,
        pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    ],
)


def run_sharded(values: dict, folder: Path, how: str, *, gathers: bool = True) -> subprocess.CompletedProcess[str]:
    """SFT on two processes with the weights spread over them."""
    if how == "zero3":
        zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": gathers, "stage3_param_persistence_threshold": 0}
        sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
        settings = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, **dict.fromkeys(sizes, "auto")}
        (folder / "zero3.json").write_text(json.dumps(settings))
        values = {**values, "training": {**values["training"], "deepspeed": str(folder / "zero3.json")}}
    return run_on_two(how, folder, ("sft", values))


# Of a LLaVA, as published checkpoints have them; vLLM loads no other names, and transformers itself has shorter ones.
PUBLISHED = ("vision_tower.vision_model.", "language_model.model.", "multi_modal_projector.")


def names(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.mark.parametrize("kind", ["sft", "lora", "grpo"])
def test_a_trained_model_has_the_names_that_servers_know(tiny_vlm: Path, chains: Path, tmp_path: Path, kind: str) -> None:
    from sifthinker.training.grpo import train_grpo
    from sifthinker.training.sft import train_sft

    once = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    if kind == "grpo":
        train_grpo(grpo_config(tiny_vlm, chains, tmp_path, training={**once, "max_completion_length": 4}))
    else:
        lora = {"lora": {"r": 2}} if kind == "lora" else {}
        train_sft(sft_config(tiny_vlm, chains, tmp_path, training=once, **lora))
    assert all(name.startswith(PUBLISHED) for name in names(tmp_path))
    assert names(tmp_path) == names(tiny_vlm)
    if kind != "lora":
        assert names(tmp_path / "checkpoint-1") == names(tiny_vlm)


@pytest.mark.parametrize("how", ["fsdp2", ZERO3])
def test_a_full_model(tiny_vlm: Path, chains: Path, tmp_path: Path, how: str) -> None:
    values = {"model": str(tiny_vlm), "data": str(chains), "output": str(tmp_path / "run"), "training": SFT}
    done = run_sharded(values, tmp_path, how)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = torch.load(tmp_path / "trained-0.pt", weights_only=True)
    saved, start = (dict(load_model(folder).named_parameters()) for folder in (tmp_path / "run", tiny_vlm))
    assert saved.keys() == trained.keys()
    for name, value in trained.items():
        assert torch.equal(saved[name], value), name
    assert all(not torch.equal(start[name], saved[name]) for name in trained if name.startswith("model.language_model"))
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        assert len(file.keys()) == len(saved), "a tied weight is written once"
    assert names(tmp_path / "run") == names(tiny_vlm)
    assert load_processor(tmp_path / "run").tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("how", ["fsdp2", ZERO3])
def test_an_adapter(tiny_vlm: Path, chains: Path, tmp_path: Path, how: str) -> None:
    values = {"model": str(tiny_vlm), "data": str(chains), "output": str(tmp_path / "run"), "lora": {"r": 2, "alpha": 4}}
    done = run_sharded({**values, "training": {**SFT, "learning_rate": 1e-1}}, tmp_path, how)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = torch.load(tmp_path / "trained-0.pt", weights_only=True)
    saved, start = (dict(load_model(folder).named_parameters()) for folder in (tmp_path / "run", tiny_vlm))
    moved = 0
    for name, value in saved.items():
        # W + (α / r) B A, the adapter's matrices under PEFT's names.
        part, _, last = f"base_model.model.{name}".rpartition(".")
        a, b = (trained.get(f"{part}.lora_{letter}.default.weight") for letter in "AB")
        expected = start[name] if a is None or last != "weight" else start[name] + 2 * (b @ a)
        assert torch.allclose(value, expected, atol=1e-6), name
        moved += not torch.equal(value, start[name])
    assert moved == sum("lora_A" in name for name in trained) > 0
    assert names(tmp_path / "run") == names(tiny_vlm)


@pytest.mark.parametrize(
    ("zero", "fine"),
    [
        ({"stage": 3}, False),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}, False),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}, True),
        ({"stage": 2}, True),
    ],
)
def test_zero3_must_be_allowed_to_gather(zero: dict, fine: bool) -> None:
    """Accelerate's own plugin holds the settings; DeepSpeed itself need not be installed to read them."""
    from accelerate.utils import DeepSpeedPlugin

    from sifthinker.training.runs import check_saving

    sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    plugin = DeepSpeedPlugin(hf_ds_config={"zero_optimization": zero, **dict.fromkeys(sizes, "auto")})
    state = SimpleNamespace(deepspeed_plugin=plugin)
    trainer = SimpleNamespace(is_deepspeed_enabled=True, accelerator=SimpleNamespace(state=state))
    with nullcontext() if fine else pytest.raises(ConfigError, match="zero3_save_16bit_model: true"):
        check_saving(trainer)
    trainer.is_deepspeed_enabled = False
    check_saving(trainer)


@pytest.mark.parametrize("how", [ZERO3])
def test_weights_that_may_not_be_gathered_are_refused_at_the_start(
    tiny_vlm: Path, chains: Path, tmp_path: Path, how: str
) -> None:
    values = {"model": str(tiny_vlm), "data": str(chains), "output": str(tmp_path / "run"), "training": SFT}
    done = run_sharded(values, tmp_path, how, gathers=False)
    assert "zero3_save_16bit_model: true" in done.stderr
    assert not (tmp_path / "run" / "history.jsonl").exists()
