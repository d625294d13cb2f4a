"""Muon for the matrices inside a model and AdamW for the other parameters, as one optimizer for Trainer.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Step sizes match AdamW's as in
J. Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982), which is torch's `match_rms_adamw`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon

from sifthinker.models import has_fast_bfloat16


class _FloatMuon(Muon):  # type: ignore[misc]
    """Muon whose iterations run in the precision of the gradients.

    torch's Muon always casts to bfloat16. On a CPU without fast bfloat16 that takes longer than the rest of the step.
    """

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state, momentum = self.state[matrix], group["momentum"]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
                mean.lerp_(matrix.grad, 1 - momentum)
                update = matrix.grad.lerp(mean, momentum) if group["nesterov"] else mean
                update = _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                # The root mean square of the step is that of AdamW, see arXiv 2502.16982.
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def _orthogonal(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """Return the nearest matrix with equal singular values, about 1, by Newton-Schulz iterations of fifth order."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if tall else found


class MuonAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """Two optimizers in one. They share their parameter groups, so schedulers change both.

    Args:
        matrices: two-dimensional parameters, for Muon.
        others: all other parameters, for AdamW.
        muon_lr: learning rate of the matrices.
        lr: learning rate of the others.
        betas: betas of AdamW.
        weight_decay: weight decay of the matrices.
    """

    def __init__(
        self,
        matrices: list[torch.Tensor],
        others: list[torch.Tensor],
        *,
        muon_lr: float,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        muon = Muon if has_fast_bfloat16() else _FloatMuon
        self._parts = [
            muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=lr, betas=betas, weight_decay=0.0),
        ]
        super().__init__([{"params": [*matrices, *others]}], {})
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._parts[0].state_dict(), "adamw": self._parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self._parts, ("muon", "adamw"), strict=True):
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def build_muon(model: torch.nn.Module, *, muon_lr: float, lr: float, weight_decay: float = 0.0) -> MuonAdamW:
    """Build the optimizer of a model.

    Muon trains the weight matrices of linear layers. AdamW trains embeddings (which the output layer may share), norms,
    biases and convolutions.

    Args:
        model: the model. Only its trainable parameters are used.
        muon_lr: learning rate of the matrices.
        lr: learning rate of the other parameters.
        weight_decay: weight decay of the matrices.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters(recurse=False)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        embeddings |= {id(p) for p in head.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    others = [p for p in trainable if id(p) not in chosen]
    return MuonAdamW(matrices, others, muon_lr=muon_lr, lr=lr, weight_decay=weight_decay)
