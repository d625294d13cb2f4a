"""Muon beside AdamW: who trains what, and that a run goes on with both."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.errors import ConfigError
from sifthinker.training.settings import make_config

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.muon import MuonAdamW, build_muon  # noqa: E402

from .test_training import sft_config, unmoved, weights  # noqa: E402


def test_matrices_go_with_muon_and_all_else_with_adamw(tiny_vlm: Path) -> None:
    from sifthinker.models import load_model

    model = load_model(tiny_vlm, dtype="float32")
    optimizer = build_muon(model, muon_lr=0.3, lr=0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_rate: dict[float, set[str]] = {0.3: set(), 0.01: set()}
    for group in optimizer.param_groups:
        by_rate[group["lr"]] |= {names[id(parameter)] for parameter in group["params"]}
    assert by_rate[0.3] | by_rate[0.01] == set(names.values())
    assert not by_rate[0.3] & by_rate[0.01]
    assert all(dict(model.named_parameters())[name].ndim == 2 for name in by_rate[0.3])
    assert any("q_proj" in name for name in by_rate[0.3])
    assert any("embed_tokens" in name for name in by_rate[0.01])
    assert not any("embed" in name or "norm" in name or name.endswith("bias") for name in by_rate[0.3])


def test_without_fast_bfloat16_the_steps_are_torch_s_in_higher_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step has the size 0.2 · lr · √max(shape) · (singular values of about 1). bfloat16 has 8 bits: 2⁻⁸ relative."""

    def trained(shape: tuple[int, int], fast: bool) -> torch.Tensor:
        monkeypatch.setattr("sifthinker.training.muon.has_fast_bfloat16", lambda: fast)
        torch.manual_seed(0)
        matrix = torch.nn.Parameter(torch.zeros(shape))
        gradients = torch.randn(3, *shape)
        optimizer = MuonAdamW([matrix], [torch.nn.Parameter(torch.zeros(1))], muon_lr=0.1, lr=0.01, weight_decay=0.1)
        assert type(optimizer._parts[0]) is torch.optim.Muon or not fast
        for gradient in gradients:
            matrix.grad = gradient.clone()
            optimizer.step()
        return matrix.detach()

    for shape in ((8, 8), (6, 24), (24, 6)):
        theirs, ours = trained(shape, True), trained(shape, False)
        assert not torch.equal(theirs, ours)  # another precision
        assert (theirs - ours).norm() < 0.03 * theirs.norm()
        assert (
            0.2 * 0.1 * 24**0.5 * 0.5 < torch.linalg.matrix_norm(trained((24, 6), False), 2) < 3 * 0.2 * 0.1 * 24**0.5 * 1.3
        )


def test_schedulers_reach_both_and_states_come_back() -> None:
    def made() -> tuple[torch.nn.Parameter, torch.nn.Parameter, MuonAdamW]:
        torch.manual_seed(0)
        matrix, vector = torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))
        return matrix, vector, MuonAdamW([matrix], [vector], muon_lr=0.1, lr=0.01)

    def steps(optimizer: MuonAdamW, matrix: torch.Tensor, vector: torch.Tensor, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (matrix @ vector).square().sum().backward()
            optimizer.step()

    matrix, vector, optimizer = made()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    assert scheduler.get_last_lr() == [0.05, 0.005]
    steps(optimizer, matrix, vector, 4)
    first, second, other = made()
    torch.optim.lr_scheduler.LambdaLR(other, lambda step: 0.5)
    steps(other, first, second, 2)
    saved = other.state_dict()
    third, fourth, again = made()
    third.data, fourth.data = first.data.clone(), second.data.clone()
    again.load_state_dict(saved)
    steps(again, third, fourth, 2)
    assert torch.allclose(third, matrix)
    assert torch.allclose(fourth, vector)
    assert not torch.allclose(made()[0], matrix)


def test_every_parameter_moves_and_a_resumed_run_equals_an_uninterrupted_one(
    tiny_vlm: Path, chains: Path, tmp_path: Path
) -> None:
    from sifthinker.training.sft import sft_trainer, train_sft

    keep = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    trainer = sft_trainer(sft_config(tiny_vlm, chains, tmp_path / "moving", muon_lr=0.01))
    before = weights(trainer.model)
    trainer.train()
    assert unmoved(before, trainer.model) == []
    whole = train_sft(sft_config(tiny_vlm, chains, tmp_path / "whole", muon_lr=0.01, training=keep))
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "cut" / "checkpoint-2")
    resumed = train_sft(sft_config(tiny_vlm, chains, tmp_path / "cut", muon_lr=0.01, training=keep))
    assert resumed.state.global_step == 4
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"muon_lr": "fast"}, "muon_lr must be a positive number, got 'fast'"),
        ({"muon_lr": 0}, "muon_lr must be a positive number, got 0"),
        ({"muon_lr": 0.01, "lora": {"r": 2}}, "muon_lr needs full training, but lora is set"),
    ],
)
def test_faults(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config({"model": "m", "data": "d", "output": "o", **values}, "sft")
