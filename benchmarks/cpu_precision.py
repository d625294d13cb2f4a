"""Compare a step of SFT of nano on a CPU in bfloat16 and in float32, with AdamW and with Muon.

    python benchmarks/cpu_precision.py

Four rows of 200 tokens with one image each. Both sides run in one process, alternating. The numbers are seconds of CPU time,
medians of three steps after a first one. Muon iterates in bfloat16, as torch does, or in float32, as `training.muon` does on
CPUs without fast bfloat16.
"""

from __future__ import annotations

import statistics
import time
from unittest.mock import patch

import torch
from PIL import Image

from sifthinker.models import has_fast_bfloat16, load_for_inference
from sifthinker.training.muon import build_muon

ROWS, TOKENS, STEPS = 4, 200, 3


def main() -> None:
    print(f"{torch.backends.cpu.get_cpu_capability()}, fast bfloat16: {has_fast_bfloat16()}")
    model, processor = load_for_inference("nano", device="cpu", dtype="float32")
    model.train()
    image = Image.new("RGB", (64, 64), (90, 120, 150))
    ids = torch.randint(5, 100, (ROWS, TOKENS))
    place = model.config.image_token_id
    ids[ids == place] = 4
    count = 16
    ids[:, :count] = place
    pixels = processor.image_processor([image] * ROWS, return_tensors="pt")["pixel_values"]
    optimizers = {}
    for fast in (True, False):
        with patch("sifthinker.training.muon.has_fast_bfloat16", lambda fast=fast: fast):
            optimizers["bfloat16" if fast else "float32"] = build_muon(model, muon_lr=1e-6, lr=1e-6)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def forward(half: bool) -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()

    parts = {
        "forward and backward": {"bfloat16": lambda: forward(True), "float32": lambda: forward(False)},
        "AdamW": {"bfloat16": adamw.step, "float32": adamw.step},
        "Muon": {kind: optimizer.step for kind, optimizer in optimizers.items()},
    }
    forward(False)
    for name, sides in parts.items():
        taken: dict[str, list[float]] = {kind: [] for kind in sides}
        for _ in range(STEPS + 1):
            for kind, side in sides.items():
                began = time.process_time()
                side()
                taken[kind].append(time.process_time() - began)
        low, single = (statistics.median(taken[kind][1:]) for kind in ("bfloat16", "float32"))
        print(f"{name:22} bfloat16 {low:7.3f} s   float32 {single:7.3f} s   ratio {low / single:5.1f}")


if __name__ == "__main__":
    main()
