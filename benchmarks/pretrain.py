"""A step of nano's pretraining (forward and backward) compared with the same lessons packed into one masked row per scene.

    python benchmarks/pretrain.py [--batches 6]

Both sides alternate on the same batches of 48 scenes, in bfloat16 with eager attention, as on a CPU. Their losses must be
equal. The script prints the ratio of medians for each course.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from sifthinker.lab.lessons import Course
from sifthinker.lab.nano import build_model, build_processor
from sifthinker.lab.pretrain import Lessons, collate, lesson_loss
from sifthinker.training.prefix import block_mask

SCENES = 48
ROWS = 24  # packed rows per forward pass; more rows take longer, and too much memory on a small machine


def packed_loss(model: Any, items: Sequence[dict[str, Any]], padding: int) -> float:
    """Compute the mean loss of all lessons and its gradient, with the lessons and images of a scene in one packed row."""
    taught = sum(label != -100 for item in items for _, labels in item["lessons"] for label in labels)
    total = 0.0
    for start in range(0, len(items), ROWS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = _summed(model, items[start : start + ROWS], padding) / taught
        loss.backward()
        total += loss.item()
    return total


def _summed(model: Any, items: Sequence[dict[str, Any]], padding: int) -> torch.Tensor:
    rows = []
    for item in items:
        shared = len(item["input_ids"])
        ids, labels = list(item["input_ids"]), [-100] * shared
        segments, positions = [0] * shared, list(range(shared))
        for number, (tokens, taught) in enumerate(item["lessons"], 1):
            ids += tokens
            labels += taught
            segments += [number] * len(tokens)
            positions += range(shared, shared + len(tokens))
        rows.append((ids, labels, segments, positions))
    ids, labels, segments, positions = (
        pad_sequence([torch.tensor(row[part]) for row in rows], batch_first=True, padding_value=value)
        for part, value in enumerate((padding, -100, -1, 0))
    )
    logits = model(
        input_ids=ids,
        attention_mask=block_mask(model, segments),
        position_ids=positions,
        pixel_values=torch.cat([item["pixel_values"] for item in items]),
    ).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")


def shared_loss(model: Any, items: Sequence[dict[str, Any]], padding: int) -> float:
    """Compute the same loss as pretraining does."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = lesson_loss(model, collate(items, padding=padding))
    loss.backward()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=6)
    batches = parser.parse_args().batches
    processor = build_processor()
    model = build_model(processor)
    model.set_attn_implementation("eager")
    padding = processor.tokenizer.pad_token_id

    for course in get_args(Course):
        dataset = Lessons(processor, (batches + 1) * SCENES, course=course, run=SCENES)
        times: dict[Callable[..., float], list[float]] = {packed_loss: [], shared_loss: []}
        for batch in range(batches + 1):
            items = [dataset[batch * SCENES + index] for index in range(SCENES)]
            losses = []
            for loss, taken in times.items():
                start = time.perf_counter()
                losses.append(loss(model, items, padding))
                model.zero_grad()
                if batch:  # the first batch is a warm-up
                    taken.append(time.perf_counter() - start)
            if abs(losses[0] - losses[1]) > 0.01 * losses[0]:
                raise SystemExit(f"{course}: expected equal losses, got {losses[0]:.4f} packed and {losses[1]:.4f} shared")
        packed, shared = (statistics.median(taken) for taken in times.values())
        print(f"{course:9s} packed {packed:.2f} s, shared {shared:.2f} s: {packed / shared:.2f} times as fast")


if __name__ == "__main__":
    main()
