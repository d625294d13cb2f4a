"""Published benchmarks: their files read as they are published, strictly scored, the official lenient number beside.

    read_benchmark("cv-bench", "nyu-visionx/CV-Bench", limit=10)
    evaluate(EvalSettings(data=…, model=…), questions=questions, benchmark=benchmark("cv-bench"))
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from sifthinker.errors import ConfigError
from sifthinker.files import nearest

if TYPE_CHECKING:  # `sif eval --help` knows their names, and loads nothing
    from sifthinker.evaluation.benchmark import Benchmark
    from sifthinker.evaluation.questions import Question

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


def read_benchmark(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> list[Question]:
    """The questions of a benchmark.

    Args:
        name: see `benchmark`.
        data: its files as published: a local file or folder, or a Hugging Face name; its own name there by default.
        split: the usual one by default.
        images: folder of the images where they do not lie with the files.
        limit: the first so many questions; None for all.
    Raises:
        ConfigError: no such benchmark or split, or no data where it has no Hugging Face name.
        RecordError: the files are not there or not as published; says where.
    """
    found = benchmark(name)
    if split is not None and split not in found.splits:
        raise ConfigError(f"{name} has no split {split!r}; wanted {', '.join(found.splits)}")
    source = data or found.hub
    if not source:
        raise ConfigError(f"{name} needs its files: say where with --data ({found.source})")
    return found.read(source, split or found.splits[0], images=images, limit=limit)
