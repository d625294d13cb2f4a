"""Completions a second through all four rewards: 4-step chains, 640×480 depth, one core.

    python benchmarks/rewards.py

Every completion is another text, parsed from scratch. The 50 images' depth maps are in memory with their summed-area
tables, as they are for all but the first completion of a group. The ratio is to one pass of Python's own json over the same
areas, measured in turn.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import time

import numpy as np

from sifthinker.chain import Chain, Region, Step, render_chain
from sifthinker.depth import DepthMap
from sifthinker.scoring.rewards import Reference, score_completion


def main(count: int = 5_000, repeats: int = 5) -> None:
    draw = random.Random(0)
    noise = np.random.default_rng(0)
    maps = [DepthMap(0.1 + 0.9 * noise.random((480, 640))) for _ in range(50)]

    def region() -> Region:
        x, y = draw.uniform(0, 0.7), draw.uniform(0, 0.7)
        return Region((x, y, x + draw.uniform(0.05, 0.3), y + draw.uniform(0.05, 0.3)), draw.random())

    work = []
    for number in range(count):
        steps = tuple(Step(tuple(region() for _ in range(draw.choice((1, 1, 2)))), "What stands here.") for _ in range(4))
        text = render_chain(Chain(steps, "the red ball"))
        boxes = [region().box for _ in range(draw.choice((1, 2)))]
        work.append((text, Reference("red ball", boxes, maps[number % 50], ("red ball", "blue cube"))))
    for depth in maps:
        depth.mean([[0, 0, 1, 1]])
    areas = [re.findall(r"<area>(.*?)</area>", text) for text, _ in work]
    rates, ratios = [], []
    for _ in range(repeats):
        started = time.process_time()
        for text, reference in work:
            score_completion(text, reference, previous=0.5)
        ours = time.process_time() - started
        started = time.process_time()
        for found in areas:
            for area in found:
                json.loads(area)
        rates.append(count / ours)
        ratios.append(ours / (time.process_time() - started))
    print(f"{statistics.median(rates):,.0f} completions/s (least {min(rates):,.0f})", end="")
    print(f"; {statistics.median(ratios):.1f} × the time that json takes to read their areas")


if __name__ == "__main__":
    main()
