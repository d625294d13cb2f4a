"""A run whose weights are spread over two processes, started by `test_saving.py`.

On a CPU accelerate turns FSDP into plain data parallelism, so the model is sharded with torch's `fully_shard` itself, as
accelerate does it on GPUs (FSDP2). DeepSpeed's ZeRO-3 runs as it is. The trained weights are gathered one by one and kept,
to compare with the saved ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sifthinker.training import grpo, sft
from sifthinker.training.settings import make_config


def shard(trainer: Any) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    for module in model.modules():
        if type(module).__name__.endswith("DecoderLayer"):
            fully_shard(module)
    fully_shard(model)
    prepare = trainer.accelerator.prepare_model
    # FSDP2 synchronises gradients itself; what accelerate would add is data parallelism around it.
    trainer.accelerator.prepare_model = lambda model, *rest, **named: prepare(model, evaluation_mode=True)


def whole(value: Any, zero3: bool) -> torch.Tensor:
    if zero3:
        from deepspeed.runtime.zero import GatheredParameters

        assert value.ds_numel > value.numel(), "nothing was sharded"
        with GatheredParameters([value]):
            return value.detach().clone()
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def main(stage: str, values: str, folder: str, how: str) -> None:
    zero3 = how == "zero3"
    if zero3:
        import deepspeed

        deepspeed.init_distributed("gloo")  # on GPUs Trainer does this
    config = make_config(json.loads(values), stage)  # type: ignore[arg-type]
    module, name = (sft if stage == "sft" else grpo), f"{stage}_trainer"
    build = getattr(module, name)

    def sharded(config: Any) -> Any:
        trainer = build(config)
        if not zero3:
            shard(trainer)
        return trainer

    setattr(module, name, sharded)
    trainer = getattr(module, f"train_{stage}")(config)
    model = trainer.accelerator.unwrap_model(trainer.model)
    assert zero3 or any(isinstance(parameter, DTensor) for parameter in model.parameters()), "nothing was sharded"
    trained = {name: whole(value, zero3) for name, value in model.named_parameters()}
    if trainer.accelerator.is_main_process:
        torch.save(trained, Path(folder) / "trained.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
