"""Scenes per second on one core: sampling a scene graph, and rendering it with depth at the nano model's size.

python benchmarks/scenes.py
"""

from __future__ import annotations

import statistics
import time

from sifthinker.lab.scenes import render, sample_scene


def main(count: int = 300, repeats: int = 5) -> None:
    rates = []
    for repeat in range(repeats):
        started = time.process_time()
        for seed in range(count):
            render(sample_scene(repeat * count + seed), 64)
        rates.append(count / (time.process_time() - started))
    print(f"{statistics.median(rates):,.0f} scenes/s (minimum {min(rates):,.0f})")


if __name__ == "__main__":
    main()
