"""Published benchmarks, read from their published files, with strict scores and the official lenient scores.

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

if TYPE_CHECKING:  # `sif eval --help` lists the names without loading the benchmarks
    from sifthinker.evaluation.benchmark import Benchmark
    from sifthinker.evaluation.questions import Question
    from sifthinker.evaluation.run import Evaluation
    from sifthinker.evaluation.settings import EvalSettings
    from sifthinker.thinker import Thinker

# Name on the command line → module with `BENCHMARKS[name]`.
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
    """Return a benchmark by its name on the command line.

    Raises:
        ConfigError: no benchmark has this name.
    """
    if name not in _HOMES:
        near = nearest(name, NAMES)
        raise ConfigError(
            f"unknown benchmark {name!r}; " + (f"did you mean {near!r}?" if near else f"expected one of {', '.join(NAMES)}")
        )
    found: Benchmark = import_module(f"sifthinker.benchmarks.{_HOMES[name]}").BENCHMARKS[name]
    return found


def place_of(name: str) -> str:
    """Return the Hugging Face name of a benchmark's files, which are the default data.

    Raises:
        ConfigError: no benchmark has this name, or its files are not on Hugging Face.
    """
    found = benchmark(name)
    if not found.hub:
        raise ConfigError(f"{name} has no default data. Download its files ({found.source}), and give them with --data")
    return found.hub


def read_benchmark(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> list[Question]:
    """Read the questions of a benchmark.

    Args:
        name: see `benchmark`.
        data: its published files: a local file or folder, or a Hugging Face name; by default its own Hugging Face name.
        split: a split; by default the usual one.
        images: folder of the images if they are not beside the files.
        limit: number of questions to read from the start; None for all.
    Raises:
        ConfigError: an unknown benchmark or split, or no data for a benchmark without a Hugging Face name.
        RecordError: the files are missing or not in the published layout; the message gives the place.
    """
    found = benchmark(name)
    if split is not None and split not in found.splits:
        raise ConfigError(f"{name} has no split {split!r}; expected one of {', '.join(found.splits)}")
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
    """Ask a model the questions of a benchmark and score its answers strictly; see `evaluation.run.evaluate`.

    Args:
        name: see `benchmark`.
        settings: `data`, `split`, `images` and `limit` select the questions; the others are as in `evaluate`.
        questions: the questions of `read_benchmark`, if they have been read already or changed.
        thinker: asked instead of `settings.model`.
        progress: called with the number of finished questions and the total.
        fresh: start over, even if the output exists.
    Raises:
        ConfigError: see `read_benchmark` and `evaluate`, as for all other errors.
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
