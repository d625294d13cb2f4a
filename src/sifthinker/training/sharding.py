"""Models whose weights are spread over processes (FSDP2): what accelerate, TRL and transformers leave to be said about them.

Each function names the gap it closes, as seen with torch 2.13, accelerate 1.15, TRL 1.16 and transformers 5.23;
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
    """Make a model ready to be sharded, before it is handed to a trainer; one that is not sharded stays as it is.

    Accelerate shards by the layer classes in `_no_split_modules` and gives up at one that the model has not: a LLaVA names
    the pooling head of SigLIP, which its vision tower is loaded without.

    TRL reads the weight of the language model's head instead of calling it, so that FSDP2 does not gather it. TRL then
    gathers it itself, in a way whose backward keeps of each process's gradient its own part and adds up none: a head that is
    trained and not tied to the embedding would learn from a part of the batch. Gathered by FSDP2, its gradient is summed.
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
    """The model of a run under way, unwrapped, with a `generate` that works however its weights are spread.

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
    """Let `generate` gather the weights of a model that FSDP2 has sharded; others stay as they are.

    FSDP2 gathers the weights of its outermost module in `forward` alone, and `generate` encodes images before it. The
    processes go on together until the last one's completions end: each must take part in every gathering.
    """
    if isinstance(model, FSDPModule) and "generate" not in vars(model):
        model.generate = partial(model.generate, synced_gpus=True)
        register_fsdp_forward_method(model, "generate")
