"""Published benchmarks: their files read as they are published, strictly scored, the official lenient number beside.

read_benchmark("cv-bench", "nyu-visionx/CV-Bench", limit=10)
evaluate(EvalSettings(data=…, model=…), questions=questions, benchmark=benchmark("cv-bench"))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from sifthinker.errors import ConfigError
from sifthinker.files import nearest

if TYPE_CHECKING:  # `sif eval --help` knows their names, and loads nothing
    from sifthinker.evaluation.benchmark import Benchmark
    from sifthinker.evaluation.questions import Question
    from sifthinker.evaluation.run import Evaluation
    from sifthinker.evaluation.settings import EvalSettings
    from sifthinker.thinker import Thinker

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


def place_of(name: str) -> str:
    """The Hugging Face name of a benchmark's files, which are taken where no others are named.

    Raises:
        ConfigError: no such benchmark, or it has no such name.
    """
    found = benchmark(name)
    if not found.hub:
        raise ConfigError(f"{name} needs its files: say where with --data ({found.source})")
    return found.hub


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
    return found.read(data or place_of(name), split or found.splits[0], images=images, limit=limit)


def evaluate_benchmark(
    name: str,
    settings: EvalSettings,
    *,
    questions: Sequence[Question] | None = None,
    thinker: Thinker | None = None,
    progress: Callable[[int, int], None] | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Ask a model the questions of a benchmark, strictly scored; see `evaluation.run.evaluate`.

    Args:
        name: see `benchmark`.
        settings: `data`, `split`, `images` and `limit` say which questions, the others who answers and how.
        questions: those of `read_benchmark`, where they were read already or changed.
        thinker: asked instead of `settings.model`.
        progress: called with the number of questions done and of all.
        fresh: start over, even if the output is there.
    Raises:
        ConfigError: see `read_benchmark` and `evaluate`; so are the others.
    Example:
        >>> found = evaluate_benchmark("cv-bench", EvalSettings(data="CV-Bench", model="runs/grpo"))  # doctest: +SKIP
        >>> found.table["2D"].strict.mean  # doctest: +SKIP
        0.61
    """
    from sifthinker.evaluation.run import evaluate

    if questions is None:
        questions = read_benchmark(name, settings.data, split=settings.split, images=settings.images, limit=settings.limit)
    found = benchmark(name)
    if "show_choices" not in settings.model_fields_set:
        settings = settings.replace(show_choices=found.show_choices)
    return evaluate(settings, questions=questions, thinker=thinker, benchmark=found, progress=progress, fresh=fresh)
