"""Sifthinker's benchmarks as tasks of lmms-eval: the functions that the files in `configs/lmms_eval` refer to.

`sifthinker.benchmarks` reads the questions and scores the answers, as in `sif eval`. The dataset of a task is one line with
the place of its data (`configs/lmms_eval/places`), and `process_docs` replaces it by the questions. Documents contain no
images. Scoring finds a question by its id, in the same process.

A sifthinker model returns the complete completion, see `replies.Reply`. Other models return their answer.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from sifthinker.benchmarks import benchmark
from sifthinker.errors import ConfigError, need
from sifthinker.evaluation.benchmark import Benchmark
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question, questions_root
from sifthinker.lmms.replies import Reply, row_of
from sifthinker.prompts import with_choices

COMPLETION = "sif_completion"
"""Key of a task's generation_kwargs that makes a sifthinker model return the complete completion."""

# Benchmark → numbers of its table that are metrics of its task.
_HEADLINES: dict[str, tuple[str, ...]] = {
    "viscot": ("answers", "answer score", "HIoU", "box accuracy"),
    "spatialbench": ("SpatialBench", "Existence", "Counting", "Position", "Size", "Reach"),
    "ovdeval": ("NMS-AP", "NMS-AP at 0.5", "presence"),
    "tallyqa": ("all", "simple", "complex"),
    "sat": ("SAT-Static",),
}


def metrics_of(name: str) -> dict[str, tuple[str, bool]]:
    """Return metric of a benchmark's task → (headline, whether it is the lenient number).

    Example:
        >>> metrics_of("sat")
        {'sat_static': ('SAT-Static', False), 'sat_static_lenient': ('SAT-Static', True)}
    """
    found: dict[str, tuple[str, bool]] = {}
    headlines = {headline.name: headline for headline in benchmark(name).headlines}
    for title in _HEADLINES[name]:
        metric = re.sub(r"\W+", "_", title.lower())
        found[metric] = title, False
        if headlines[title].lenient is not None:
            found[f"{metric}_lenient"] = title, True
    return found


# ------------------------------------------------------------------------------------------------------------ documents


def process_docs(dataset: Iterable[Mapping[str, Any]]) -> Any:
    """Return the questions of the places in a dataset, as a dataset of documents without images.

    A place has `benchmark`, `data` (a local file or folder, or a Hugging Face name), `split`, and `images` if they are in
    another folder. The environment variable SIF_NAME (SIF_TALLYQA, …) overrides the data, and SIF_NAME_IMAGES the images.

    Raises:
        ConfigError: an unknown benchmark, or no data for it.
        RecordError: see `benchmark.Reader`.
    """
    need("reading a task's dataset", "datasets")
    import datasets

    documents = []
    for place in dataset:
        name, data, split, images = _located(place)
        documents += [
            {
                "benchmark": name,
                "data": data,
                "split": split,
                "images": images,
                "id": question.id,
                "question": question.question,
                "choices": list(question.choices),
                "answers": list(question.answers),
                "family": question.family,
            }
            for question in _questions(name, data, split, images).values()
        ]
    return datasets.Dataset.from_list(documents)


def _located(place: Mapping[str, Any]) -> tuple[str, str, str, str]:
    found = benchmark(str(place.get("benchmark")))
    variable = f"SIF_{found.name}".upper().replace("-", "_").replace("+", "_PLUS")
    data = os.environ.get(variable) or place.get("data") or found.hub
    if not data:
        raise ConfigError(f"{found.title}: has no data; set the environment variable {variable} to the folder of its files")
    images = os.environ.get(f"{variable}_IMAGES") or place.get("images") or ""
    # An absolute path does not depend on the current folder of lmms-eval. Hub names stay unchanged.
    local = str(Path(data).resolve()) if Path(data).exists() else str(data)
    return found.name, local, str(place.get("split") or found.splits[0]), str(Path(images).resolve()) if images else ""


@cache
def _questions(name: str, data: str, split: str, images: str) -> dict[str, Question]:
    found = benchmark(name).read(data, split, images=images or None, limit=None)
    return {question.id: question for question in found}


def _question(document: Mapping[str, Any]) -> Question:
    place = (document[key] for key in ("benchmark", "data", "split", "images"))
    return _questions(*map(str, place))[document["id"]]


# --------------------------------------------------------------------------------------------------------------- asking


def doc_to_text(document: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the question. If its benchmark shows choices, they follow, and then the task's `post_prompt`."""
    question = _question(document)
    if not benchmark(document["benchmark"]).show_choices or not question.choices:
        return question.question
    return with_choices(question.question, question.choices) + str((lmms_eval_specific_kwargs or {}).get("post_prompt", ""))


def doc_to_visual(document: Mapping[str, Any]) -> list[Any]:
    """Return the image, for models with lmms-eval's simple interface."""
    image, _ = _question(document).load(with_depth=False)
    return [image]


def doc_to_messages(
    document: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return image and text as a user turn. If `depth` is true and the question has depth, the map follows the image."""
    told = lmms_eval_specific_kwargs or {}
    image, depth = _question(document).load(with_depth=bool(told.get("depth")))
    shown = [image] if depth is None else [image, depth]
    text = {"type": "text", "text": doc_to_text(document, told)}
    return [{"role": "user", "content": [*({"type": "image", "url": each} for each in shown), text]}]


def doc_to_target(document: Mapping[str, Any]) -> str:
    """Return the first right answer, for lmms-eval's logs; "" if unknown."""
    return next(iter(document["answers"]), "")


# -------------------------------------------------------------------------------------------------------------- scoring


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return metric → the input of `aggregate` for one answer: the row that `sif eval` would write."""
    found = benchmark(document["benchmark"])
    root = questions_root(document["data"], document["images"] or None)
    row = row_of(_question(document), Reply.from_text(results[0] if results else ""), found, root).to_json()
    return {metric: {"benchmark": found.name, "metric": metric, "row": row} for metric in metrics_of(found.name)}


def aggregate(items: Sequence[Mapping[str, Any]]) -> float:
    """Return a number of a benchmark's table over the rows of `process_results`; nan if no row counts in it."""
    if not items:
        return math.nan
    found = benchmark(items[0]["benchmark"])
    title, lenient = metrics_of(found.name)[items[0]["metric"]]
    number = _only(found, title).numbers(Row.from_json(item["row"]) for item in items).get(title)
    if number is None or (lenient and number.lenient is None):
        return math.nan
    result = number.lenient if lenient else number.strict
    return math.nan if result is None else result.mean


def _only(found: Benchmark, title: str) -> Benchmark:
    return replace(found, headlines=tuple(headline for headline in found.headlines if headline.name == title))
