"""Runs on two processes, and a script that does them: `torchrun … processes.py JOBS`.

The weights are copied to both (`ddp`), sharded by accelerate's FSDP2 (`fsdp2`) or by DeepSpeed's ZeRO-3 (`zero3`).
Accelerate offers FSDP on accelerators alone and falls back to copies on a CPU; here that one decision is taken back before
it makes its state. Everything after it is what runs on GPUs: its wrapping, its sharded checkpoints and their loading. The
weights of the finished model are gathered one by one and kept, to compare with the saved ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}  # what `accelerate launch` makes of configs/accelerate/fsdp.yaml


def run_on_two(how: str, folder: Path, *jobs: tuple[str, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Train on two processes.

    Args:
        how: `ddp`, `fsdp2` or `zero3`.
        folder: for `trained-0.pt`, …, the weights after each job.
        jobs: (stage, config) of each run, one after the other.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", __name__, how, str(folder), json.dumps(jobs)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", **(SHARDED if how == "fsdp2" else {})}
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment, cwd=root)


def shard_on_cpu(module: Any) -> None:
    """Let a trainer module's next accelerator take the CPU for a device that FSDP is offered on."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    made = module.trainer_arguments

    def arguments(*given: Any, **named: Any) -> Any:
        found = made(*given, **named)  # makes PartialState anew
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return found

    module.trainer_arguments = arguments


def whole(value: Any, zero3: bool) -> Any:
    from torch.distributed.tensor import DTensor

    if zero3:
        from deepspeed.runtime.zero import GatheredParameters

        assert value.ds_numel > value.numel(), "nothing was sharded"
        with GatheredParameters([value]):
            return value.detach().clone()
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def main(how: str, folder: str, jobs: str) -> None:
    import torch
    from torch.distributed.tensor import DTensor

    from sifthinker.training import grpo, sft
    from sifthinker.training.settings import make_config

    zero3 = how == "zero3"
    if zero3:
        import deepspeed

        deepspeed.init_distributed("gloo")  # on GPUs Trainer does this
    # A random model writes no chain, and a group of equal rewards teaches nothing: here the longer words earn more.
    grpo.format_reward = lambda completions, **columns: [len(message["content"]) / 10 for (message,) in completions]
    if how == "fsdp2":
        for module in (sft, grpo):
            shard_on_cpu(module)
    for number, (stage, values) in enumerate(json.loads(jobs)):
        train = sft.train_sft if stage == "sft" else grpo.train_grpo
        trainer = train(make_config(values, stage))
        assert trainer is not None, "the run had been finished before"
        model = trainer.accelerator.unwrap_model(trainer.model)
        spread = sum(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert (spread > 0) == (how == "fsdp2"), f"{spread} parameters were sharded"
        trained = {name: whole(value, zero3) for name, value in model.named_parameters()}
        if trainer.accelerator.is_main_process:
            torch.save(trained, Path(folder) / f"trained-{number}.pt")
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
