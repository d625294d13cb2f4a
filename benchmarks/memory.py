"""Memory of depth maps in rewards: 300 maps of one megapixel, with eight means from each, as for a group of rollouts.

    python benchmarks/memory.py

Each result is the peak memory of a separate process, minus its memory with one map. `cache` reads the maps like the rewards
in training. Before, that cache kept 256 maps with their tables, whatever their size. `sif rewards` scores a file with one
completion per map. Before, it kept every map until it wrote its page.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

COUNT, SIDE = 300, 1000
BOXES = [[0.1 * number, 0.1, 0.1 * number + 0.2, 0.6] for number in range(8)]
CHAIN = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8],"depth":0.5}]</area><text>a</text></think><answer>cat</answer>'


def main() -> None:
    from sifthinker.depth import DepthMap

    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0)
        rows = []
        for number in range(COUNT):
            ramp = np.linspace(0, 0.99 - number / 1000, SIDE) + noise.random((SIDE, 1)) / 1000
            DepthMap(ramp).write(Path(folder) / f"{number}.png")
            rows.append({"completion": CHAIN, "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]], "depth": f"{number}.png"})
        (Path(folder) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        idle = _peak("idle", folder)
        for what in ("cache", "sif rewards"):
            before, after = (_peak(f"{what}, {when}", folder) - idle for when in ("before", "after"))
            print(f"{what}: {before:,.0f} MB before, {after:,.0f} MB after, a factor of {before / after:.1f}")


def _peak(arm: str, folder: str) -> float:
    """Return the peak memory of one arm in a separate process, in MB."""
    command = [sys.executable, __file__, arm, folder]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _run(arm: str, folder: Path) -> None:
    from sifthinker.depth import DepthMap
    from sifthinker.depth_cache import cached_depth
    from sifthinker.evaluation.completions import score_file, summarise_scores

    paths = [str(folder / f"{number}.png") for number in range(COUNT)]
    read = lru_cache(maxsize=256)(DepthMap.read)
    if arm == "idle":
        cached_depth(paths[0]).mean(BOXES)
    elif arm.startswith("cache"):
        for path in paths:
            (read if arm.endswith("before") else cached_depth)(path).mean(BOXES)
    elif arm.endswith("before"):
        held = [read(path) for path in paths]
        for depth in held:
            depth.mean(BOXES)
    else:
        summarise_scores(scored.scores for scored in score_file(folder / "rows.jsonl"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
