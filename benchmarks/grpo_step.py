"""One GRPO step with and without prefix sharing: the same model, data and machine, in one run.

    python benchmarks/grpo_step.py                 # the shape of docs/lab/performance.md
    python benchmarks/grpo_step.py --sweep         # over prompt length, group size and completion length
    python benchmarks/grpo_step.py --photos 1024 768 --prompt 2100 --prepare --parts prepare step
    python benchmarks/grpo_step.py --device cuda --dtype bfloat16 --shape qwen2.5-vl-3b --image 512 --prompt 750 \\
        --completion 256 1024 --checkpointing on off --attention sdpa flex_attention --update-only --agreement

The side without sharing uses TRL's computation of log-probabilities and transformers' generate on the padded batch. Both
sides alternate, and ratios are medians of pairs, so that changes in the speed of the machine cancel out. On a CPU, seconds
are CPU time, which depends less on other programs. The bound is the ratio of the numbers of tokens in the language model.

`--prepare` also measures the preparation of images: photos through a real Qwen2.5-VL processor, as TRL calls it (every row,
for sampling and for scoring) and as our trainer calls it.

`--attention` is the attention of the side with sharing. The other side uses `sdpa`, the default of transformers; with
`--attention eager`, both sides use `eager`. If a side runs out of memory, it is measured with half as many rows per forward
pass, repeatedly if necessary. The results contain the number of rows. On a GPU, the vision part of an update is also
measured separately. `--image 0` measures an update without images.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
import trl
from PIL import Image
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl import GRPOTrainer
from trl.data_utils import apply_chat_template, prepare_multimodal_messages
from trl.trainer.utils import add_fused_lm_head

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.models import load_processor
from sifthinker.scoring.rewards import Reference, score_completion
from sifthinker.training.prefix import shared_generate, shared_log_probs
from sifthinker.training.prepared import PreparesOnce, share_equal_images

IMAGE, VIDEO, START, END, PAD = 5, 6, 7, 8, 0
PARTS = ("update", "images", "prepare", "rollout", "reference", "step")


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2.5-vl-3b": (
        {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000, "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, "num_heads": 16,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        },
    )
}  # fmt: skip


def small_shape(width: int, layers: int, vocabulary: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the architecture with another size."""
    heads = max(2, width // 128)
    third = width // heads // 2
    text = {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": width * 4, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [third // 4, third * 3 // 8, third * 3 // 8],
        },
    }  # fmt: skip
    vision = {
        "depth": max(2, layers // 2), "hidden_size": width // 2, "intermediate_size": width, "out_hidden_size": width,
        "num_heads": max(2, width // 128), "fullatt_block_indexes": [1],
    }  # fmt: skip
    return text, vision


def build(shape: tuple[dict[str, Any], dict[str, Any]], device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """Build a random Qwen2.5-VL with TRL's fused head, directly on its device and in its dtype."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config=shape[0], vision_config=shape[1], tie_word_embeddings=True,
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as when transformers loads weights; keeps single precision where it is required
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model.train()


def attend(model: Any, attention: str) -> None:
    """Set the attention implementation of a model. With `flex_attention`, the vision tower uses `sdpa`.

    The configuration is set directly, because transformers rejects `flex_attention` for Qwen-VL. It does work for the
    language model, which receives a prepared mask.
    """
    model.config.text_config._attn_implementation = attention
    model.config.vision_config._attn_implementation = "sdpa" if attention == "flex_attention" else attention


def batch(
    prompts: int,
    group: int,
    prompt_length: int,
    completion_length: int,
    image: tuple[int, int],
    vocabulary: int,
    device: str,
    dtype: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Make `prompts` prompts with two images of (width, height) each, repeated over their groups, and random completions.

    If a side is 0, there are no images.
    """
    draw = torch.Generator().manual_seed(0)
    width, height = (round(side / 28) * 2 for side in image)  # in patches, as the processor rounds
    per_image = width * height // 4
    rows, pixels, grids = [], [], []
    for _ in range(prompts):
        words = prompt_length - 2 * (per_image + 2) if per_image else prompt_length
        if words < 2:
            raise SystemExit(
                f"two images of {image[0]} × {image[1]} pixels are {2 * per_image} tokens; --prompt must be longer"
            )
        text = torch.randint(10, vocabulary, (words,), generator=draw)
        pictures = [torch.tensor([START] + [IMAGE] * per_image + [END])] * 2
        row = torch.cat([text[:1], *pictures, text[1:]]) if per_image else text
        shown = torch.randn(2 * width * height, 3 * 2 * 14 * 14, generator=draw)
        rows += [row] * group
        pixels += [shown] * group
        grids += [[1, height, width]] * (2 * group)
    prompt_ids = torch.stack(rows)
    completions = torch.randint(10, vocabulary, (prompts * group, completion_length), generator=draw)
    input_ids = torch.cat([prompt_ids, completions], dim=1).to(device)
    if not per_image:
        return input_ids, torch.ones_like(input_ids), {}
    vision = {
        "pixel_values": torch.cat(pixels).to(device, dtype),
        "image_grid_thw": torch.tensor(grids, device=device),
        "num_images": [2] * (prompts * group),
        "mm_token_type_ids": (input_ids == IMAGE).long(),
    }
    return input_ids, torch.ones_like(input_ids), vision


class Photos:
    """The rows of a dataset that a trainer has before it samples. The images are decoded for every row.

    Args:
        prompts: number of prompts, with two photos each.
        group: rows per prompt.
        size: (width, height) of the photos.
    """

    def __init__(self, prompts: int, group: int, size: tuple[int, int]) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.real_models import write_real_model

        with tempfile.TemporaryDirectory() as folder:
            self.processor = load_processor(write_real_model("qwen2_5_vl", Path(folder) / "qwen2_5_vl"))
        draw = np.random.default_rng(0)
        self.rows = []
        for _ in range(prompts):
            photos = [Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(2)]
            parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is nearer?"}]
            turns = [{"role": "user", "content": parts}]
            self.rows += [{"prompt": turns, "images": [photo.copy() for photo in photos]} for _ in range(group)]

    def prepare(self, once: bool) -> None:
        """Make the calls of TRL's trainer to the processor in one step, including its copy of the rows."""
        rows = share_equal_images(self.rows) if once else self.rows
        processor = PreparesOnce(self.processor, written_out=False) if once else self.processor
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
        copied = copy.deepcopy(prompts)
        processor.apply_chat_template(conversation=copied, add_generation_prompt=True, tokenize=True, return_dict=True)
        images = [[part["image"] for part in turn["content"] if part["type"] == "image"] for (turn,) in copied]
        texts = [apply_chat_template({"prompt": prompt}, processor)["prompt"] for prompt in prompts]
        processor(images=images, text=texts, padding=True, return_tensors="pt")


class Sides:
    """The parts of a step, each with and without sharing.

    Args:
        model: model from `build`.
        optimizer: optimizer of its parameters.
        data: data from `batch`.
        completion_length: tokens per completion.
        attention: attention without and with sharing.
        groups: number of prompts.
        photos: images to prepare before a step, or None.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        data: tuple[torch.Tensor, torch.Tensor, dict[str, Any]],
        completion_length: int,
        attention: tuple[str, str] = ("sdpa", "sdpa"),
        groups: int = 1,
        photos: Photos | None = None,
    ) -> None:
        self.photos = photos
        self.model, (self.ids, self.mask, self.vision), self.keep = model, data, completion_length
        self.optimizer, self.attention, self.groups = optimizer, attention, groups
        self.rows = [len(self.ids), len(self.ids)]  # rows per forward pass, without and with sharing
        self.advantages = torch.randn(len(self.ids), 1, device=self.ids.device)
        self.config = GenerationConfig(
            max_new_tokens=completion_length, min_new_tokens=completion_length, do_sample=True, pad_token_id=PAD,
            suppress_tokens=[IMAGE], disable_compile=True,
        )  # fmt: skip
        region = Region((0.1, 0.1, 0.6, 0.6))
        self.text = render_chain(Chain((Step((region,), "seen"),) * 4, "cat"))
        self._stock = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
        self._trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))

    def prepare(self, sharing: bool) -> None:
        if self.photos is not None:
            self.photos.prepare(sharing)

    def choose_attention(self, sharing: bool) -> None:
        attend(self.model, self.attention[sharing])

    def log_probs(self, sharing: bool, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return the log-probabilities of the completions in rows start..stop. Each row has two images."""
        stop = len(self.ids) if stop is None else stop
        ids, mask = self.ids[start:stop], self.mask[start:stop]
        vision: dict[str, Any] = {}
        if self.vision:
            vision = {
                "pixel_values": self.pixels(start, stop),
                "image_grid_thw": self.vision["image_grid_thw"][2 * start : 2 * stop],
                "num_images": self.vision["num_images"][start:stop],
                "mm_token_type_ids": self.vision["mm_token_type_ids"][start:stop],
            }
        if sharing:
            return shared_log_probs(self.model, ids, mask, self.keep, vision=vision)[0]
        found: torch.Tensor = self._stock(self._trainer, self.model, ids, mask, self.keep, compute_entropy=True, **vision)[0]
        return found

    def pixels(self, start: int, stop: int) -> torch.Tensor:
        """Return the patches of the images in rows start..stop."""
        found: torch.Tensor = self.vision["pixel_values"]
        patches = len(found) // len(self.ids)
        return found[start * patches : stop * patches]

    def images(self, sharing: bool) -> None:
        """Run the vision tower forward and backward: for the images of every row, or of one row per group."""
        rows = self.groups if sharing else len(self.ids)
        step = min(rows, self.rows[sharing])
        for start in range(0, rows, step):
            grids = self.vision["image_grid_thw"][2 * start : 2 * (start + step)]
            self.model.model.visual(self.pixels(start, start + step), grid_thw=grids).pooler_output.sum().backward()
        self.optimizer.zero_grad()

    def update(self, sharing: bool) -> None:
        rows, weights = self.rows[sharing], self.advantages / self.advantages.numel() / self.keep
        for start in range(0, len(self.ids), rows):
            found = self.log_probs(sharing, start, start + rows)
            (-(found * weights[start : start + rows]).sum()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def reference(self, sharing: bool) -> None:
        with torch.no_grad():
            for start in range(0, len(self.ids), self.rows[sharing]):
                self.log_probs(sharing, start, start + self.rows[sharing])

    def rollout(self, sharing: bool) -> None:
        ids, mask = self.ids[:, : -self.keep], self.mask[:, : -self.keep]
        vision = dict(self.vision)
        if vision:
            vision["mm_token_type_ids"] = vision["mm_token_type_ids"][:, : -self.keep]
        self.model.eval()
        if sharing:
            shared_generate(self.model, ids, mask, vision=vision, generation_config=self.config)
        else:
            vision.pop("num_images", None)
            with torch.no_grad():
                self.model.model.rope_deltas = None
                self.model.generate(input_ids=ids, attention_mask=mask, generation_config=self.config, **vision)
        self.model.train()

    def step(self, sharing: bool) -> None:
        self.prepare(sharing)
        self.rollout(sharing)
        for _ in range(len(self.ids)):
            score_completion(self.text, Reference("cat", [[0.1, 0.1, 0.6, 0.6]]))
        self.reference(sharing)
        self.update(sharing)


def timed(sides: Sides, part: str, sharing: bool) -> tuple[float, float]:
    """Return the seconds of one part of a step and its peak GPU memory in GiB (0 on a CPU).

    On a CPU, seconds are CPU time summed over threads, which depends less on other programs.
    """
    cuda = sides.ids.is_cuda
    clock = time.perf_counter if cuda else time.process_time
    sides.choose_attention(sharing)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = clock()
    getattr(sides, part)(sharing)
    if cuda:
        torch.cuda.synchronize()
    return clock() - started, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def fitting(sides: Sides, part: str, sharing: bool) -> float:
    """Return the seconds of the first run, including compilation. Halve the rows per forward pass until they fit."""
    while True:
        try:
            return timed(sides, part, sharing)[0]
        except torch.OutOfMemoryError:
            if sides.rows[sharing] == 1:
                raise
        # Outside `except`, because the error keeps the frames alive, and the frames keep the tensors alive.
        sides.rows[sharing] = -(-sides.rows[sharing] // 2)
        release(sides)


def release(sides: Sides) -> None:
    sides.optimizer.zero_grad()
    sides.model.train()
    gc.collect()
    if sides.ids.is_cuda:
        torch.cuda.empty_cache()


def compare(sides: Sides, part: str, repeats: int) -> dict[str, Any]:
    """Return median seconds without and with sharing, the median ratio of pairs, and the peak memory of each side."""
    first = [fitting(sides, part, sharing) for sharing in (False, True)]
    release(sides)
    if sides.ids.is_cuda and part in ("update", "images"):
        for sharing in (False, True):  # torch may recompile when it sees a shape for the second time
            timed(sides, part, sharing)
    pairs = [(timed(sides, part, False), timed(sides, part, True)) for _ in range(repeats)]
    found: dict[str, Any] = {}
    for number, name in enumerate(("without", "shared")):
        found[f"{name}_s"] = statistics.median(pair[number][0] for pair in pairs)
        if sides.ids.is_cuda:
            found[f"{name}_peak_gib"] = max(pair[number][1] for pair in pairs)
            found[f"{name}_first_s"] = first[number]
            found[f"{name}_rows"] = sides.rows[number]
    found["ratio"] = statistics.median(a[0] / b[0] for a, b in pairs)
    return found


def measure(
    options: argparse.Namespace,
    model: Any,
    optimizer: torch.optim.Optimizer,
    shape: tuple[int, int, int],
    attention: str,
    checkpointing: str,
) -> dict[str, Any]:
    prompt, group, completion = shape
    if checkpointing == "on":
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.activation_checkpointing_disable()
    data = batch_of(options, model, shape)
    plain = "eager" if attention == "eager" else "sdpa"
    photos = Photos(options.prompts, group, options.photos or (options.image, options.image)) if options.prepare else None
    sides = Sides(model, optimizer, data, completion, (plain, attention), options.prompts, photos)
    bound = (prompt + completion) * group / (prompt - 1 + group * completion)
    row: dict[str, Any] = {"prompt": prompt, "group": group, "completion": completion, "bound": bound}
    row |= {"attention": attention, "checkpointing": checkpointing}
    images = ["images"] if options.image and options.device != "cpu" else []
    prepared = ["prepare"] if options.prepare else []
    parts = ["update", *images, *prepared, *([] if options.update_only else ["rollout", "reference", "step"])]
    parts = options.parts or parts
    for part in parts:
        try:
            row[part] = compare(sides, part, options.repeats)
        except Exception:  # noqa: BLE001 - record the failure of a part, for example out of memory, and continue
            row[part] = {"failed": traceback.format_exc()}
        release(sides)
    return row


def batch_of(
    options: argparse.Namespace, model: Any, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    prompt, group, completion = shape
    vocabulary = model.config.get_text_config().vocab_size
    size = options.photos or (options.image, options.image)
    return batch(options.prompts, group, prompt, completion, tuple(size), vocabulary, options.device, model.dtype)


def agreement(options: argparse.Namespace, model: Any, layout: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the differences of log-probabilities between the sides, and between each side and single precision."""
    optimizer = torch.optim.AdamW(model.parameters())
    exact = build(layout, options.device, torch.float32)
    exact.load_state_dict(model.state_dict())
    rows = -(-shape[1] // 4)

    def found(of: Any, sharing: bool, attention: str) -> torch.Tensor:
        sides = Sides(of, optimizer, batch_of(options, model, shape), shape[2], (attention, attention))
        sides.choose_attention(sharing)
        step = len(sides.ids) if sharing else rows
        with torch.no_grad():
            parts = [sides.log_probs(sharing, a, a + step) for a in range(0, len(sides.ids), step)]
        return torch.cat(parts).float()

    def apart(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        difference = (a - b).abs()
        return {"max": difference.max().item(), "mean": difference.mean().item()}

    truth, exactly_shared = found(exact, False, "sdpa"), found(exact, True, "sdpa")
    del exact
    gc.collect()
    stock = found(model, False, "sdpa")
    result: dict[str, Any] = {
        "log_probs": {"mean": truth.mean().item(), "std": truth.std().item()},
        "float32: shared and stock": apart(exactly_shared, truth),
        f"stock in {options.dtype} and float32": apart(stock, truth),
    }
    for attention in options.attention:
        try:
            shared = found(model, True, attention)
        except Exception:  # noqa: BLE001 - record the failure and continue
            result[f"shared, {attention}"] = {"failed": traceback.format_exc()}
            continue
        result[f"shared, {attention}, and stock"] = apart(shared, stock)
        result[f"shared, {attention}, in {options.dtype} and float32"] = apart(shared, truth)
    return result


def show(row: dict[str, Any]) -> None:
    shape = f"prompt {row['prompt']:5d}  G {row['group']:2d}  completion {row['completion']:4d}  bound ×{row['bound']:.2f}"
    parts = []
    for part in PARTS:
        found = row.get(part, {})
        if "failed" in found:
            parts.append(f"{part} failed: {found['failed'].strip().splitlines()[-1]}")
        elif found:
            share = "" if part in ("images", "prepare") else f" ({found['ratio'] / row['bound']:.0%} of the bound)"
            parts.append(f"{part} ×{found['ratio']:.2f}{share}")
            whole = row.get("step", {})
            if "ratio" in whole and part != "step":
                shares = (f"{found[f'{name}_s'] / whole[f'{name}_s']:.0%}" for name in ("without", "shared"))
                parts[-1] += f" [{' and '.join(shares)} of a step]"
        if "shared_peak_gib" in found:
            parts += [
                f"{name} {found[f'{name}_s']:.2f} s, {found[f'{name}_peak_gib']:.1f} GiB, {found[f'{name}_rows']} rows"
                for name in ("without", "shared")
            ]
    if row["attention"] != "sdpa" or row["checkpointing"] == "on":
        parts.append(f"{row['attention']}, checkpointing {row['checkpointing']}")
    print("  ".join([shape, *parts]), flush=True)


def versions(device: str) -> dict[str, str]:
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1, help="groups in a batch")
    parser.add_argument("--prompt", type=int, default=566, help="tokens of a prompt, including two images")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--completion", type=int, nargs="+", default=[200])
    parser.add_argument("--image", type=int, default=448, help="side length of the images in pixels; 0 for no images")
    parser.add_argument(
        "--photos", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="size of the images, instead of --image"
    )
    parser.add_argument("--prepare", action="store_true", help="also measure image preparation with a real processor")
    parser.add_argument(
        "--shape", choices=SHAPES, help="shape of a published model, instead of --width, --layers and --vocabulary"
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument(
        "--attention", nargs="+", default=["sdpa"],
        choices=["sdpa", "eager", "flex_attention"], help="attention of the side with sharing",
    )  # fmt: skip
    parser.add_argument("--checkpointing", nargs="+", default=["off"], choices=["on", "off"], help="gradient checkpointing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--update-only", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--agreement", action="store_true", help="first compare log-probabilities, at the first shape")
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args()
    first = options.completion[0]
    shapes = [(options.prompt, options.group, completion) for completion in options.completion]
    if options.sweep:
        shapes += [(p, options.group, first) for p in (540, 1100, 2200)]
        shapes += [(options.prompt, g, first) for g in (2, 4, 16)]
        shapes += [(options.prompt, options.group, c) for c in (25, 100, 800)]
    layout = SHAPES[options.shape] if options.shape else small_shape(options.width, options.layers, options.vocabulary)
    model = build(layout, options.device, getattr(torch, options.dtype))
    numbers: dict[str, Any] = {"versions": versions(options.device), "options": vars(options), "rows": []}

    def keep() -> None:
        if options.json:
            with open(options.json, "w", encoding="utf-8") as stream:
                json.dump(numbers, stream, indent=1)

    if options.agreement:
        numbers["agreement"] = agreement(options, model, layout, shapes[0])
        print(json.dumps(numbers["agreement"], indent=1), flush=True)
        keep()
    # On a GPU, Trainer uses the fused optimizer by default.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=options.device != "cpu")
    for attention in options.attention:
        for checkpointing in options.checkpointing:
            for shape in dict.fromkeys(shapes):
                row = measure(options, model, optimizer, shape, attention, checkpointing)
                numbers["rows"].append(row)
                show(row)
                keep()


if __name__ == "__main__":
    main()
