"""Memory that is worked out on shapes, against what autograd keeps of the real trainers' steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

from sifthinker.models import load_processor  # noqa: E402
from sifthinker.training.data import load_examples  # noqa: E402
from sifthinker.training.grpo import DEFAULTS as GRPO  # noqa: E402
from sifthinker.training.grpo import grpo_trainer  # noqa: E402
from sifthinker.training.lengths import header_sizes, turns  # noqa: E402
from sifthinker.training.memory import (  # noqa: E402
    RunMemory,
    StepMemory,
    _Shapes,
    fitting_rows,
    grpo_batch,
    run_memory,
    sft_batch,
    step_memory,
)
from sifthinker.training.settings import make_config, trainer_arguments  # noqa: E402
from sifthinker.training.sft import DEFAULTS as SFT  # noqa: E402
from sifthinker.training.sft import sft_trainer  # noqa: E402

from ..real_models import write_real_model  # noqa: E402

ROWS, LENGTH = 2, 40


def trainer_of(folder: Path, data: Path, output: Path, stage: str, again: bool, **changes: Any) -> Any:
    training: dict[str, Any] = {"per_device_train_batch_size": ROWS, "activation_checkpointing": again, "bf16": True}
    if stage == "grpo":
        training |= {"num_generations": 2, "max_completion_length": LENGTH}
    training |= changes.pop("training", {})
    values = {"model": folder, "data": data, "output": output, "limit": 2, "training": training, **changes}
    config = make_config(values, stage)
    trainer = (sft_trainer if stage == "sft" else grpo_trainer)(config)
    model = trainer.model.train()
    if again:  # as transformers' Trainer does when it starts
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=trainer.args.activation_checkpointing_kwargs)
    return config, trainer


def batch_of(config: Any, trainer: Any, stage: str) -> dict[str, Any]:
    processor = load_processor(config.model)
    (example,) = load_examples(config.data, 1)
    (turn,) = turns([example], header_sizes([example]), stage, processor)
    if stage == "sft":
        return sft_batch(turn, ROWS, processor, trainer.args)
    return grpo_batch(turn, ROWS, LENGTH, processor)


def measured(trainer: Any, batch: dict[str, Any], stage: str) -> int:
    """Bytes of floating point that autograd keeps of the real step, the model's own left out, each storage once."""
    own = {tensor.data_ptr() for tensor in (*trainer.model.parameters(), *trainer.model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if stage == "sft":
            with trainer.accelerator.autocast():
                trainer.compute_loss(trainer.model, dict(batch))
        else:
            vision = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
            trainer._get_per_token_logps_and_entropies(
                trainer.model, batch["input_ids"], batch["attention_mask"], LENGTH, compute_entropy=True, **vision
            )
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


CASES = {
    "full": (False, {}),
    "full, recomputed": (True, {}),
    "lora": (False, {"lora": {"r": 4}, "dtype": "bfloat16"}),
    "lora, recomputed": (True, {"lora": {"r": 4}, "dtype": "bfloat16", "freeze": "visual"}),
}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("case", CASES)
def test_what_a_step_keeps(case: str, stage: str, real_model: Callable[[str], Path], chains: Path, tmp_path: Path) -> None:
    again, changes = CASES[case]
    config, trainer = trainer_of(real_model("qwen2_5_vl"), chains, tmp_path, stage, again, **changes)
    batch = batch_of(config, trainer, stage)
    found = step_memory(config, stage, trainer.args, batch, keep=LENGTH if stage == "grpo" else 0)
    assert found.kept == pytest.approx(measured(trainer, batch, stage), rel=0.01)
    assert found.parameters == sum(p.numel() for p in trainer.model.parameters())
    assert found.trained == sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert found.peak > found.kept


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "smolvlm", "internvl", "gemma3"])
def test_families_whose_models_look_at_numbers(
    family: str, real_model: Callable[[str], Path], chains: Path, tmp_path: Path
) -> None:
    """Masks, grids, empty tiles: what decides about shapes stays real."""
    config, trainer = trainer_of(real_model(family), chains, tmp_path, "sft", False)
    batch = batch_of(config, trainer, "sft")
    found = step_memory(config, "sft", trainer.args, batch)
    assert found.kept == pytest.approx(measured(trainer, batch, "sft"), rel=0.01)


def test_copies_of_the_tiles_of_logits_are_not_counted_for_a_gpu() -> None:
    """TRL's head computes logits in tiles; torch reduces them in copies, Triton in place."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from sifthinker.training.memory import _Shapes

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    rows = 2**16  # so many numbers that none of it is real
    with fake:
        hidden, weight = torch.empty(rows, 50), torch.empty(50, 30)
    for widths, tiles in ((frozenset(), 2), (frozenset({30}), 1)):
        with fake, _Shapes((), widths) as live:
            tile = torch.empty(rows, 30)
            torch.mm(hidden, weight, out=tile)
            copy = tile * 2
        assert live.peak == tiles * rows * 30 * 4
        del tile, copy


def deep_run(
    data: Path, folder: Path, stage: str, *, layers: int = 7, words: int = 0, **training: Any
) -> tuple[Any, Any, Any, Any]:
    """Config, TRL's config, longest turn and processor of a run of a deep tiny Qwen2.5-VL on a GPU; of `words`, a vocabulary
    so large that the head needs most at small batches."""
    model = write_real_model("qwen2_5_vl", folder / "deep", num_hidden_layers=layers)
    if words:
        settings = json.loads((model / "config.json").read_text())
        settings["text_config"]["vocab_size"] = words
        (model / "config.json").write_text(json.dumps(settings))
    values = {"model": model, "data": data, "output": folder, "lora": {"r": 4}, "dtype": "bfloat16", "freeze": ["visual"]}
    config = make_config({**values, "training": {"bf16": True, **training}}, stage)
    arguments = trainer_arguments(config, stage, SFT if stage == "sft" else GRPO, on_gpu=True)
    processor = load_processor(model)
    (example,) = load_examples(str(data), 1)
    (turn,) = turns([example], header_sizes([example]), stage, processor)
    return config, arguments, turn, processor


def test_two_shallow_models_tell_the_whole_at_any_batch(chains: Path, tmp_path: Path) -> None:
    """What needs most at one row, the head's tile, is not what does at many: no line through small batches tells."""
    peaks = {}
    for rows in (1, 2, 8, 24):
        run = deep_run(chains, tmp_path, "sft", words=40_000, per_device_train_batch_size=rows)
        config, arguments, turn, processor = run
        whole = step_memory(config, "sft", arguments, sft_batch(turn, rows, processor, arguments), on_gpu=True)
        told = run_memory(config, "sft", arguments, turn, processor, on_gpu=True)
        assert (told.step.weights, told.step.gradients) == (whole.weights, whole.gradients)
        assert told.step.kept == pytest.approx(whole.kept, rel=0.01)
        assert told.step.peak == pytest.approx(whole.peak, rel=0.02)
        peaks[rows] = whole.peak
    assert peaks[24] != pytest.approx(peaks[1] + 23 * (peaks[2] - peaks[1]), rel=0.2)  # a line through one and two rows


def test_the_batch_that_fits_fits(chains: Path, tmp_path: Path) -> None:
    config, arguments, turn, processor = deep_run(
        chains, tmp_path, "sft", layers=4, words=40_000, per_device_train_batch_size=1
    )

    def peak(rows: int) -> int:
        batch = sft_batch(turn, rows, processor, arguments)
        return step_memory(config, "sft", arguments, batch, on_gpu=True).peak

    room = peak(16)
    fitting = fitting_rows(run_memory(config, "sft", arguments, turn, processor, on_gpu=True), 1, room)
    assert 15 <= fitting <= 16
    assert peak(round(1.3 * fitting)) > room


def test_the_search_for_the_batch_that_fits() -> None:
    """By hand: 100 bytes at any rate, 10 a row from the fifth on, 30 a row from the eleventh on."""

    def peak(rows: int) -> float:
        return max(100, 60 + 10 * rows, 30 * rows - 160)

    nothing = StepMemory(0, 0, 0, 0, 0, 0, 0)
    needed = RunMemory(nothing, 1, False, peak)
    for rows in (1, 12, 40):
        assert fitting_rows(needed, rows, 99) == 0
        assert 388 <= fitting_rows(needed, rows, 30 * 400 - 160) <= 400
        assert fitting_rows(needed, rows, 230) == 13
        assert fitting_rows(needed, rows, 30 * 400 - 160, cache_a_row=1000) == 11


def test_neighbouring_groups_have_prompts_of_their_own(chains: Path, tmp_path: Path) -> None:
    """Rows with one prompt are computed with one copy of it; two groups need two."""
    training = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": LENGTH}
    config, arguments, turn, processor = deep_run(chains, tmp_path, "grpo", layers=2, **training)
    batch = grpo_batch(turn, 4, LENGTH, processor, group=2)
    first, second, third, fourth = batch["input_ids"][:, :-LENGTH].tolist()
    assert (first == second, second == third, third == fourth) == (True, False, True)
    apart = step_memory(config, "grpo", arguments, batch, keep=LENGTH)
    one = step_memory(config, "grpo", arguments, grpo_batch(turn, 4, LENGTH, processor), keep=LENGTH)
    assert apart.kept > 1.3 * one.kept
    assert run_memory(config, "grpo", arguments, turn, processor).step.kept == apart.kept


def test_many_images_are_computed_in_few_operations(chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower goes image after image and window after window; a plan does not, and keeps as much."""
    config, arguments, turn, processor = deep_run(chains, tmp_path, "sft", layers=4)
    seen, run = [0, 0], _Shapes._run
    for place, rows in enumerate((1, 16)):

        def counted(self: Any, *args: Any, place: int = place) -> Any:
            seen[place] += "scaled_dot_product" in str(args[0])
            return run(self, *args)

        monkeypatch.setattr(_Shapes, "_run", counted)
        step_memory(config, "sft", arguments, sft_batch(turn, rows, processor, arguments), on_gpu=True)
    assert seen[0] == seen[1] > 0


def test_what_lives_at_once_is_counted_by_hand() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from sifthinker.training.memory import _Shapes

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        weight = torch.nn.Parameter(torch.empty(100, 100))  # 40,000 bytes, not counted
    with fake, _Shapes({weight.untyped_storage()._cdata}, frozenset()) as live:
        first = weight * 2  # 40,000
        second = first.relu()  # 80,000, and relu keeps its output
        assert (live.alive, live.peak) == (80_000, 80_000)
        del first
        assert live.alive == 40_000
        kept = second[:10]  # a view is nothing new
        assert live.alive == 40_000
        del second, kept
        assert (live.alive, live.peak) == (0, 80_000)
