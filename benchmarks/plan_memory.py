"""Compare the planned memory of a step with a real step, on a CPU: slices of Qwen-VL with real widths and vocabulary.

    python benchmarks/plan_memory.py              # the table of docs/lab/performance.md; twenty minutes on one free core
    python benchmarks/plan_memory.py --sizes 3b --cases lora

Each case runs in a separate process. `kept` is the memory that autograd keeps for the backward pass, measured with
`saved_tensors_hooks` on the real tensors. `peak` is the growth of the resident memory in the forward and backward pass,
above the loaded model (VmHWM in /proc/self/status, reset before the step). It includes workspace of matrix products, which
the plan does not. The weights are random, because memory depends only on shapes.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

# Return freed blocks to the kernel, so that resident memory equals memory in use.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
_GIB = 2**30

SIZES: dict[str, dict[str, Any]] = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2},
    "2b": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2},
}
LAYERS = 4
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, recomputed": {"training": {"activation_checkpointing": True}},
    "lora": {"lora": {"r": 16, "alpha": 32}},
    "lora, recomputed": {"lora": {"r": 16, "alpha": 32}, "training": {"activation_checkpointing": True}},
    "lora, tower frozen": {"lora": {"r": 16, "alpha": 32}, "freeze": ["visual"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=["sft", "grpo"], default=["sft", "grpo"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| slice | stage | case | kept, GiB | planned | peak, GiB | planned |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for size in chosen.sizes:
            for stage in chosen.stages:
                for case in chosen.cases:
                    command = [sys.executable, __file__, "--one", folder, size, stage, case]
                    done = subprocess.run(
                        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **_ALLOCATOR}
                    )
                    found = json.loads(done.stdout.splitlines()[-1])
                    kept, peak = found["kept"], found["peak"]
                    words = [f"{a / _GIB:.3f} | {b / _GIB:.3f} ({b / a - 1:+.1%})" for a, b in (kept, peak)]
                    print(f"| {size} | {stage} | {case} | {' | '.join(words)} |", flush=True)


def _write_model(folder: Path, size: str) -> Path:
    """Write a slice of Qwen2.5-VL: a few layers with real widths and vocabulary, two vision layers, a small tokenizer."""
    import torch
    import transformers

    from tests.real_models import write_real_model

    model = folder / size
    if (model / "config.json").is_file():
        return model
    write_real_model("qwen2_5_vl", model)
    settings = transformers.AutoConfig.from_pretrained(model)
    text, vision = settings.text_config, settings.vision_config
    for name, value in {**SIZES[size], "num_hidden_layers": LAYERS, "vocab_size": 151936}.items():
        setattr(text, name, value)
    text.layer_types = ["full_attention"] * LAYERS
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [16, 24, 24]}
    settings.tie_word_embeddings = text.tie_word_embeddings = True
    own = {"depth": 2, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    for name, value in {**own, "out_hidden_size": text.hidden_size}.items():
        setattr(vision, name, value)
    for weights in model.glob("*.safetensors*"):
        weights.unlink()
    made = transformers.AutoModelForImageTextToText.from_config(settings, dtype=torch.bfloat16)
    made.save_pretrained(model)
    return model


def _one(folder: Path, size: str, stage: str, case: str) -> None:
    """Measure a case, and plan it."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch

    from sifthinker.models import load_processor
    from sifthinker.training.data import load_examples
    from sifthinker.training.grpo import grpo_trainer
    from sifthinker.training.lengths import header_sizes, turns
    from sifthinker.training.memory import grpo_batch, sft_batch, step_memory
    from sifthinker.training.settings import make_config
    from sifthinker.training.sft import sft_trainer
    from tests.small_data import build_chains, write_records

    model = _write_model(folder, size)
    if not (folder / "chains").is_dir():
        build_chains(write_records(folder / "raw", 2), folder / "chains")
    rows, length = 2, 64
    changes = dict(CASES[case])
    training = {"per_device_train_batch_size": rows, "bf16": True, "activation_checkpointing": False, "report_to": "none"}
    training |= {} if stage == "sft" else {"num_generations": rows, "max_completion_length": length, "beta": 0.0}
    training |= changes.pop("training", {})
    values = {"model": model, "data": folder / "chains", "output": folder / "run", "dtype": "bfloat16", "training": training}
    config = make_config({**values, "attn_implementation": "sdpa", **changes}, stage)
    trainer = (sft_trainer if stage == "sft" else grpo_trainer)(config)
    trained = trainer.model.train()
    if trainer.args.activation_checkpointing:  # Trainer does this when it starts
        trained.activation_checkpointing_enable()
    processor = load_processor(model)
    (example,) = load_examples(str(folder / "chains"), 1)
    (turn,) = turns([example], dict.fromkeys(header_sizes([example]), (224, 224)), stage, processor)
    turn = replace(turn, said=turn.said[:200])
    if stage == "sft":
        batch = sft_batch(turn, rows, processor, trainer.args)
    else:
        batch = grpo_batch(turn, rows, length, processor)

    def loss() -> Any:
        with trainer.accelerator.autocast():
            if stage == "sft":
                return trainer.compute_loss(trained, dict(batch))
            vision = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
            found = trainer._get_per_token_logps_and_entropies(
                trained, batch["input_ids"], batch["attention_mask"], length, compute_entropy=True, **vision
            )
            return -found[0].mean()

    own = {tensor.untyped_storage().data_ptr() for tensor in (*trained.parameters(), *trained.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    kept.clear()
    value.backward()  # warm-up, so that one-time allocations of torch do not count
    del value
    trained.zero_grad(set_to_none=True)
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    loss().backward()
    grown = _memory("VmHWM") - before
    keep = 0 if stage == "sft" else length
    planned = step_memory(config, stage, trainer.args, batch, keep=keep)
    print(json.dumps({"kept": [measured, planned.kept], "peak": [grown, planned.peak]}))


def _memory(name: str) -> int:
    """Return a value of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}; run this benchmark on Linux")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--one":
        _one(Path(sys.argv[2]), *sys.argv[3:])
    else:
        main()
