"""One GRPO step with and without prefix sharing: the same model, data and machine, in one run.

    python benchmarks/grpo_step.py                 # the shape of docs/performance.md
    python benchmarks/grpo_step.py --sweep         # over prompt length, group size and completion length
    python benchmarks/grpo_step.py --device cuda --dtype bfloat16 --width 2048 --layers 36 --image 512

Without sharing is TRL's own computation of log-probabilities and transformers' own generate on the padded batch. Both
sides alternate, and ratios are medians of pairs, so that a machine whose speed drifts does not decide the outcome. The
bound is the ratio of the numbers of tokens that go through the language model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.scoring.rewards import Reference, score_completion
from sifthinker.training.prefix import shared_generate, shared_log_probs

IMAGE, VIDEO, START, END, PAD = 5, 6, 7, 8, 0


def build(width: int, layers: int, vocabulary: int, seed: int = 0) -> Any:
    """A random Qwen2.5-VL with TRL's fused head."""
    torch.manual_seed(seed)
    heads = max(2, width // 128)
    third = width // heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": width * 4, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [third // 4, third * 3 // 8, third * 3 // 8],
            },
        },
        vision_config={
            "depth": max(2, layers // 2), "hidden_size": width // 2, "intermediate_size": width, "out_hidden_size": width,
            "num_heads": max(2, width // 128), "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def batch(
    prompts: int,
    group: int,
    prompt_length: int,
    completion_length: int,
    image: int,
    vocabulary: int,
    device: str,
    dtype: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """`prompts` prompts with two square images each, repeated over their groups, and random completions."""
    draw = torch.Generator().manual_seed(0)
    side = image // 14 // 2 * 2
    per_image = side * side // 4
    rows, pixels, grids = [], [], []
    for _ in range(prompts):
        words = prompt_length - 2 * (per_image + 2)
        if words < 2:
            raise SystemExit(f"two images of {image} pixels are {2 * per_image} tokens; --prompt must be longer")
        text = torch.randint(10, vocabulary, (words,), generator=draw)
        pictures = [torch.tensor([START] + [IMAGE] * per_image + [END])] * 2
        row = torch.cat([text[:1], *pictures, text[1:]])
        shown = torch.randn(2 * side * side, 3 * 2 * 14 * 14, generator=draw)
        rows += [row] * group
        pixels += [shown] * group
        grids += [[1, side, side]] * (2 * group)
    prompt_ids = torch.stack(rows)
    completions = torch.randint(10, vocabulary, (prompts * group, completion_length), generator=draw)
    input_ids = torch.cat([prompt_ids, completions], dim=1).to(device)
    vision = {
        "pixel_values": torch.cat(pixels).to(device, dtype),
        "image_grid_thw": torch.tensor(grids, device=device),
        "num_images": [2] * (prompts * group),
        "mm_token_type_ids": (input_ids == IMAGE).long(),
    }
    return input_ids, torch.ones_like(input_ids), vision


class Sides:
    """The parts of a step, each with and without sharing."""

    def __init__(self, model: Any, data: tuple[torch.Tensor, torch.Tensor, dict[str, Any]], completion_length: int) -> None:
        self.model, (self.ids, self.mask, self.vision), self.keep = model, data, completion_length
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        self.advantages = torch.randn(len(self.ids), 1, device=self.ids.device)
        self.config = GenerationConfig(
            max_new_tokens=completion_length, min_new_tokens=completion_length, do_sample=True, pad_token_id=PAD,
            suppress_tokens=[IMAGE], disable_compile=True,
        )  # fmt: skip
        region = Region((0.1, 0.1, 0.6, 0.6))
        self.text = render_chain(Chain((Step((region,), "seen"),) * 4, "cat"))
        self._stock = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
        self._trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))

    def log_probs(self, sharing: bool) -> torch.Tensor:
        if sharing:
            return shared_log_probs(self.model, self.ids, self.mask, self.keep, vision=self.vision)[0]
        found: torch.Tensor = self._stock(
            self._trainer, self.model, self.ids, self.mask, self.keep, compute_entropy=True, **self.vision
        )[0]
        return found

    def update(self, sharing: bool) -> None:
        loss = -(self.log_probs(sharing) * self.advantages).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def reference(self, sharing: bool) -> None:
        with torch.no_grad():
            self.log_probs(sharing)

    def rollout(self, sharing: bool) -> None:
        ids, mask = self.ids[:, : -self.keep], self.mask[:, : -self.keep]
        vision = {**self.vision, "mm_token_type_ids": self.vision["mm_token_type_ids"][:, : -self.keep]}
        self.model.eval()
        if sharing:
            shared_generate(self.model, ids, mask, vision=vision, generation_config=self.config)
        else:
            vision.pop("num_images")
            with torch.no_grad():
                self.model.model.rope_deltas = None
                self.model.generate(input_ids=ids, attention_mask=mask, generation_config=self.config, **vision)
        self.model.train()

    def step(self, sharing: bool) -> None:
        self.rollout(sharing)
        for _ in range(len(self.ids)):
            score_completion(self.text, Reference("cat", [[0.1, 0.1, 0.6, 0.6]]))
        self.reference(sharing)
        self.update(sharing)


def seconds(work: Callable[[], None], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(work: Callable[[bool], None], repeats: int, device: str) -> tuple[float, float, float]:
    """Median seconds without and with sharing, and the median ratio of pairs."""
    work(False), work(True)
    pairs = [(seconds(lambda: work(False), device), seconds(lambda: work(True), device)) for _ in range(repeats)]
    without, shared = (statistics.median(side) for side in zip(*pairs, strict=True))
    return without, shared, statistics.median(a / b for a, b in pairs)


def measure(options: argparse.Namespace, prompt: int, group: int, completion: int) -> dict[str, Any]:
    dtype = getattr(torch, options.dtype)
    model = build(options.width, options.layers, options.vocabulary).to(options.device, dtype).train()
    data = batch(options.prompts, group, prompt, completion, options.image, options.vocabulary, options.device, dtype)
    sides = Sides(model, data, completion)
    bound = (prompt + completion) * group / (prompt - 1 + group * completion)
    row: dict[str, Any] = {"prompt": prompt, "group": group, "completion": completion, "bound": bound}
    parts = ("update", "rollout", "step") if not options.update_only else ("update",)
    for part in parts:
        without, shared, ratio = compare(getattr(sides, part), options.repeats, options.device)
        row[part] = {"without_s": without, "shared_s": shared, "ratio": ratio}
        if options.device != "cpu":
            for name, sharing in (("without", False), ("shared", True)):
                torch.cuda.reset_peak_memory_stats()
                getattr(sides, part)(sharing)
                row[part][f"{name}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def show(row: dict[str, Any]) -> None:
    shape = f"prompt {row['prompt']:5d}  G {row['group']:2d}  completion {row['completion']:4d}  bound ×{row['bound']:.2f}"
    parts = [
        f"{part} ×{row[part]['ratio']:.2f} ({row[part]['ratio'] / row['bound']:.0%} of the bound)"
        for part in ("update", "rollout", "step")
        if part in row
    ]
    print("  ".join([shape, *parts]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1, help="groups in a batch")
    parser.add_argument("--prompt", type=int, default=566, help="tokens of a prompt, two images included")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--completion", type=int, default=200)
    parser.add_argument("--image", type=int, default=448, help="side of the images in pixels")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--update-only", action="store_true")
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    shapes = [(options.prompt, options.group, options.completion)]
    if options.sweep:
        shapes += [(p, options.group, options.completion) for p in (540, 1100, 2200)]
        shapes += [(options.prompt, g, options.completion) for g in (2, 4, 16)]
        shapes += [(options.prompt, options.group, c) for c in (25, 100, 800)]
    rows = []
    for shape in dict.fromkeys(shapes):
        rows.append(measure(options, *shape))
        show(rows[-1])
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump({"options": vars(options), "rows": rows}, stream, indent=1)


if __name__ == "__main__":
    main()
