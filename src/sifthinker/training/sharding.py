"""Sharded models (FSDP2): workarounds for gaps in accelerate, TRL and transformers.

Each function describes the gap that it closes, as seen with torch 2.13, accelerate 1.15, TRL 1.16 and transformers 5.23.
`tests/training/test_processes.py` fails without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from trl.distributed import DistributedBackend
from trl.models import unwrap_model_for_generation


def prepare_for_sharding(model: Any) -> None:
    """Prepare a model for sharding, before a trainer receives it. Models that are not sharded do not change.

    Accelerate shards by the layer classes in `_no_split_modules`, and fails if the model lacks one of them. A LLaVA lists
    SigLIP's pooling head there, although its vision tower is loaded without it.

    TRL reads the weight of the language model's head instead of calling the head, so FSDP2 does not gather the weight. TRL
    gathers it in its own way. Its backward pass then keeps only the local part of each process's gradient and does not sum
    the parts, so an untied head would learn from only a part of the batch. If FSDP2 gathers the weight, the gradient is
    summed.
    """
    present = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = [name for name in model._no_split_modules or () if name in present]
    model.register_forward_pre_hook(_gather_head)


def _gather_head(model: Any, inputs: Any) -> None:
    head = model.get_output_embeddings()
    if isinstance(head, FSDPModule):
        head.unshard()


@contextmanager
def ready_to_generate(trainer: Any, **options: Any) -> Iterator[Any]:
    """Yield the unwrapped model of a running trainer, with a `generate` that works for sharded weights too.

    Args:
        trainer: transformers' Trainer.
        options: further arguments of `trl.models.unwrap_model_for_generation`.
    """
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            **options,
        ) as model,
        DistributedBackend(trainer.accelerator).summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        gather_in_generate(model)
        yield model


def gather_in_generate(model: Any) -> None:
    """Make `generate` gather the weights of a model that FSDP2 has sharded. Other models do not change.

    FSDP2 gathers the weights of its outermost module only in `forward`, but `generate` encodes images before that. All
    processes continue until the last completion ends, because each of them must take part in every gathering.
    """
    if isinstance(model, FSDPModule) and "generate" not in vars(model):
        model.generate = partial(model.generate, synced_gpus=True)
        register_fsdp_forward_method(model, "generate")
