"""Completions per second through all four rewards: 4-step chains, 640×480 depth, one core.

    python benchmarks/rewards.py

Each completion is a different text, parsed from scratch. The depth maps of the 50 images are in memory with their
summed-area tables, as for all but the first completion of a group. The ratio compares with one pass of Python's json over
the same areas, measured alternately.

The second result is for a GRPO step with 64 completions, scored by the four reward functions and read by the trainer. It
compares parsing each completion once with parsing it in every function.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import time

import numpy as np

from sifthinker import chain as chain_module
from sifthinker.chain import Chain, Region, Step, read_completion, render_chain
from sifthinker.depth import DepthMap
from sifthinker.scoring.rewards import Reference, score_completion
from sifthinker.scoring.trl import AnswerReward, GroundingReward, depth_reward, format_reward


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
    print(f"{statistics.median(rates):,.0f} completions/s (minimum {min(rates):,.0f})", end="")
    print(f"; {statistics.median(ratios):.1f} times the time that json needs to parse the areas")
    ratio = statistics.median(parse_once(work[start : start + 64]) for start in range(0, 1280, 64))
    print(f"rewards of a step: {ratio:.2f} times as fast if each completion is parsed once")


def parse_once(work: list[tuple[str, Reference]]) -> float:
    """Return the CPU time of a step's rewards with parsing in every function, divided by the time with shared parsing."""
    texts = [text for text, _ in work]
    columns = {
        "id": [str(index) for index in range(len(work))],
        "answer": [reference.answer for _, reference in work],
        "boxes": [reference.boxes for _, reference in work],
        "depth": [reference.depth for _, reference in work],
        "choices": [reference.choices for _, reference in work],
    }
    functions = (
        format_reward,
        AnswerReward(),
        GroundingReward(),
        depth_reward,
        lambda texts, **_: [read_completion(text, opened=False).areas for text in texts],
    )
    spent = []
    for shared in (False, True, False, True):
        chain_module._read_cached.cache_clear()
        started = time.process_time()
        for function in functions:
            function(texts, **columns)
            if not shared:
                chain_module._read_cached.cache_clear()
        spent.append(time.process_time() - started)
    return (spent[0] + spent[2]) / (spent[1] + spent[3])


if __name__ == "__main__":
    main()
