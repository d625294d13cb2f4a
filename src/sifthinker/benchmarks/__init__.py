"""Published benchmarks: their files read as they are published, strictly scored, the official lenient number beside.

benchmark("cv-bench").read("nyu-visionx/CV-Bench", "test", images=None, limit=10)
"""

from __future__ import annotations

from importlib import import_module

from sifthinker.errors import ConfigError
from sifthinker.evaluation.benchmark import Benchmark
from sifthinker.files import nearest

# Name on the command line → module that holds it as `BENCHMARKS[name]`.
_HOMES = {
    "viscot": "viscot",
    "spatialbench": "spatialbench",
    "sat": "sat",
    "cv-bench": "cvbench",
    "vstar": "vstar",
    "ovdeval": "ovdeval",
    "refcoco": "refcoco",
    "refcoco+": "refcoco",
    "refcocog": "refcoco",
    "tallyqa": "tallyqa",
}

NAMES = tuple(_HOMES)


def benchmark(name: str) -> Benchmark:
    """A benchmark by its name on the command line.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in _HOMES:
        near = nearest(name, NAMES)
        raise ConfigError(
            f"no benchmark is called {name!r}; " + (f"did you mean {near!r}?" if near else f"wanted {', '.join(NAMES)}")
        )
    found: Benchmark = import_module(f"sifthinker.benchmarks.{_HOMES[name]}").BENCHMARKS[name]
    return found
