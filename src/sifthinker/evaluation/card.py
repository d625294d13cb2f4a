"""Results that can be published: the numbers of evaluations as one JSON object, and as a section of a model card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sifthinker.errors import ConfigError, need
from sifthinker.evaluation.metrics import Result
from sifthinker.evaluation.run import Evaluation
from sifthinker.files import atomic_write

FORMAT = 1  # of the JSON object
_BEGIN, _END = "<!-- sifthinker results -->", "<!-- end of sifthinker results -->"
_SECTION = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
# Of the settings: what tells which weights were asked which questions, and how. Paths of this machine are left out.
_TOLD = (
    "sifthinker", "prompt_version", "weights", "questions", "completions_sha256", "benchmark", "limit", "protocol",
    "coordinates", "rgb_only", "show_choices", "batch_size", "max_new_tokens", "max_pixels", "image_format", "grammar",
    "dtype", "depth_encoding", "depth_near", "depth_hole",
)  # fmt: skip


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """What an evaluation found and of what, as plain values, without paths of the machine that it ran on.

    Args:
        evaluation: finished.
    Returns:
        `format`; `model` and `data`, their names; `settings`: versions, SHA-256 of weights and questions, protocol; how many
        questions there were and how many could not be asked; `metrics` and, of a benchmark, `table`: name → what it is,
        with mean, count and 95 % interval, strict and official lenient.
    Example:
        >>> numbers(Evaluation.read("sft.json"))["metrics"]["answer accuracy"]["mean"]  # doctest: +SKIP
        0.627
    """
    settings = evaluation.settings
    found: dict[str, Any] = {
        "format": FORMAT,
        "model": _name(settings.get("model") or settings.get("completions") or "model"),
        "data": _name(settings.get("data") or ""),
        "settings": {name: settings[name] for name in _TOLD if settings.get(name) is not None},
        "questions": len(evaluation.rows),
        "not_asked": evaluation.errors,
        "metrics": {
            name: {"about": evaluation.metrics.get(name, ""), **asdict(result)}
            for name, result in evaluation.results.items()
        },
    }
    if evaluation.benchmark is not None:
        found |= {"benchmark": evaluation.benchmark["title"], "source": evaluation.benchmark["source"]}
        found["table"] = evaluation.benchmark["table"]
    return found


def card_section(evaluations: Sequence[Evaluation]) -> str:
    """The section of a model card that says what evaluations found: Markdown between two marks."""
    parts = [_BEGIN, "## Evaluation with sifthinker", ""]
    for evaluation in evaluations:
        found = numbers(evaluation)
        said = found["settings"]
        title = found.get("benchmark") or found["data"]
        how = [f"{found['questions']:,} questions", f"protocol {said.get('protocol', 'chain')}"]
        how += ["RGB only"] if said.get("rgb_only") else []
        how += [f"the first {said['limit']:,} of them"] if said.get("limit") else []
        how += [f"{found['not_asked']:,} could not be asked"] if found["not_asked"] else []
        parts += [f"### {_plain(title)}", "", f"{_plain(found['model'])}: {', '.join(how)}.", ""]
        if evaluation.table:
            parts += ["| | strict | official scorer, lenient |", "| --- | --- | --- |"]
            parts += [
                f"| {_plain(name)} | {_cell(number.strict)} | {_cell(number.lenient)} |"
                for name, number in evaluation.table.items()
            ]
            parts += ["", *(f"Lenient: {_plain(note)}." for note in evaluation.lenient_notes)]
        else:
            parts += ["| metric | mean (95 % interval), count |", "| --- | --- |"]
            parts += [f"| {_plain(name)} | {_cell(result)} |" for name, result in evaluation.results.items()]
        hashes = [f"{name} `{said[name][:12]}`" for name in ("weights", "questions") if said.get(name)]
        parts += ["", f"sifthinker {said.get('sifthinker', '')}; SHA-256 of {' and '.join(hashes)}." if hashes else "", ""]
    return "\n".join([*parts, _END])


def write_card(path: str | os.PathLike[str], evaluations: Sequence[Evaluation], *, model: str | None = None) -> None:
    """Write what evaluations found into a model card: its section, and `model-index` in its metadata.

    A card that is there keeps all else that it says; the section of an earlier call is replaced.

    Args:
        path: README.md of a model.
        evaluations: of that model, at least one.
        model: its name in the metadata; the one of the first evaluation by default.
    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
        ConfigError: no evaluation, or the card's metadata cannot be read.
    """
    if not evaluations:
        raise ConfigError("there is no evaluation to write into the card")
    need("a model card", "huggingface_hub")
    from huggingface_hub import EvalResult, ModelCard

    file = Path(path)
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        content = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read: {error}") from None
    try:
        card = ModelCard(content)
    except Exception as error:  # noqa: BLE001  # of YAML, or of what stands in it
        raise ConfigError(f"{file}: the metadata at its head cannot be read: {error}") from None
    found = [numbers(evaluation) for evaluation in evaluations]
    data: Any = card.data
    data.model_name = model or data.model_name or found[0]["model"]
    names = {(one.get("benchmark") or one["data"]) for one in found}
    kept = [one for one in data.eval_results or [] if one.dataset_name not in names]
    data.eval_results = kept + [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=str(one["settings"].get("benchmark") or one["data"]),
            dataset_name=one.get("benchmark") or one["data"],
            metric_type=metric.lower().replace(" ", "_"),
            metric_name=f"{metric}, strict" if "table" in one else metric,
            metric_value=round(value["mean"], 4),
        )
        for one in found
        for metric, value in _headline_values(one).items()
    ]
    section = card_section(evaluations)
    text = card.text
    card.text = _SECTION.sub(lambda _: section, text) if _SECTION.search(text) else f"{text.rstrip()}\n\n{section}\n"
    atomic_write(file, str(card).rstrip("\n") + "\n")


def write_numbers(path: str | os.PathLike[str], evaluations: Sequence[Evaluation]) -> None:
    """Write the `numbers` of evaluations as a JSON list."""
    body = [numbers(evaluation) for evaluation in evaluations]
    atomic_write(path, json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _headline_values(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if "table" in found:
        return {name: number["strict"] for name, number in found["table"].items()}
    metrics: dict[str, Mapping[str, Any]] = found["metrics"]
    return metrics


def _cell(result: Result | None) -> str:
    return "–" if result is None else f"{result.mean:.3f} ({result.low:.3f} to {result.high:.3f}), {result.count:,}"


def _name(text: str) -> str:
    """The last part of a path of this machine, which the world need not know; a name of the hub as it is."""
    local = Path(text).is_absolute() or text.startswith((".", "~")) or Path(text).exists() or text.count("/") != 1
    return Path(text).name if local else text


def _plain(text: str) -> str:
    """A text of data that no Markdown and no HTML of a card takes for its own."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#&!])", r"\\\1", line)
