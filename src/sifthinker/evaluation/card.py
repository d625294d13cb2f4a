"""Results for publication: the numbers of evaluations as a JSON object and as a section of a model card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import yaml

from sifthinker.errors import ConfigError, need
from sifthinker.evaluation.metrics import Result
from sifthinker.evaluation.run import Evaluation
from sifthinker.files import atomic_write, sha256, to_json
from sifthinker.literals import ThinkProtocol

FORMAT = 1  # of the JSON object
_BEGIN, _END = "<!-- sifthinker results -->", "<!-- end of sifthinker results -->"
_PART_END = "<!-- end of sifthinker result -->"
_SECTION = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
_PART = re.compile(r"<!-- sifthinker result (\S+) (\S+) (\S+) -->.*?" + re.escape(_PART_END), re.DOTALL)
_HEAD = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_FILE_ENDS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".arrow")
_HEX = re.compile(r"[0-9a-f]{12,128}")
_HASHES = ("weights", "questions", "completions_sha256")
_UNKNOWN = "unknown"
# Published settings: they identify the weights, the questions and how they were asked. Local paths are left out.
_TOLD = (
    "sifthinker", "prompt_version", "weights", "questions", "completions_sha256", "benchmark", "split", "limit", "protocol",
    "coordinates", "rgb_only", "show_choices", "batch_size", "max_new_tokens", "max_pixels", "image_format", "grammar",
    "dtype", "depth", "depth_encoding", "depth_near", "depth_hole",
)  # fmt: skip


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Return the results of an evaluation and what they belong to, as plain values without local paths.

    Args:
        evaluation: a finished evaluation.
    Returns:
        `format`; `model` and `data`: their names; `settings`: versions, SHA-256 of weights and questions, protocol;
        `questions` and `not_asked`: numbers of questions; `metrics` and, for a benchmark, `table`: name → description with
        mean, count and 95 % interval, strict and official lenient.
    Example:
        >>> numbers(Evaluation.read("sft.json"))["metrics"]["answer accuracy"]["mean"]  # doctest: +SKIP
        0.627
    """
    settings = evaluation.settings
    found: dict[str, Any] = {
        "format": FORMAT,
        "model": _model(settings) or _name(settings.get("completions") or "model"),
        "data": _name(settings.get("data") or ""),
        "settings": _told(settings),
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


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published settings. Values that `evaluate` never writes are left out, or replaced by "unknown"."""
    found = {name: settings[name] for name in _TOLD if settings.get(name) is not None}
    found = {name: value for name, value in found.items() if name not in _HASHES or _hash(value)}
    if "depth" in found:  # depth models may be local folders
        found["depth"] = ", ".join(map(_name, str(found["depth"]).split(", ")))
    if not isinstance(found.get("limit", 0), int):
        del found["limit"]
    if found.get("protocol", "chain") not in get_args(ThinkProtocol):
        found["protocol"] = _UNKNOWN
    return found


def _hash(value: Any) -> str:
    """Return a hash in hexadecimal digits, which is safe in an HTML comment; "" for anything else."""
    return value if isinstance(value, str) and _HEX.fullmatch(value) else ""


def card_section(
    evaluations: Sequence[Evaluation], *, model: str | None = None, names: Sequence[str] = (), earlier: str = ""
) -> str:
    """Return the section of a model card with the results of evaluations: Markdown between two marks.

    Args:
        evaluations: evaluations of one model, with different questions or asked in different ways.
        model: name of the model, for saved completions, which do not have one.
        names: names of the evaluations in errors, for example their files.
        earlier: an existing section; parts that no evaluation replaces are kept.
    Raises:
        ConfigError: the evaluations have different models, two of them cover the same questions asked in the same way, or
            the kept parts belong to another model.
    """
    _check(evaluations, model, names)
    parts = {mark[1]: mark for mark in _PART.finditer(earlier)}
    new = {_key(evaluation): evaluation for evaluation in evaluations}
    for key, mark in parts.items():
        other = next((one for one in evaluations if not _same(_who(one, model), (mark[2], mark[3]))), None)
        if key not in new and other is not None:
            raise ConfigError(
                f"the card has results of another model, {mark[3]} ({key}); the new results belong to "
                f"{_who(other, model)[1]}. Write another card, or delete the old results from its section and model-index"
            )
    told = {key: mark[0] for key, mark in parts.items()}
    told |= {key: _part(key, evaluation, model) for key, evaluation in new.items()}
    return "\n".join([_BEGIN, "## Evaluation with sifthinker", "", *told.values(), "", _END])


def _part(key: str, evaluation: Evaluation, model: str | None) -> str:
    """Return the results of one evaluation, between marks with its key and its model."""
    found = numbers(evaluation)
    said = found["settings"]
    title = found.get("benchmark") or found["data"]
    how = [f"{found['questions']:,} questions", f"protocol {said.get('protocol', 'chain')}"]
    how += ["RGB only"] if said.get("rgb_only") else []
    how += [f"depth estimated by {_plain(said['depth'])}"] if said.get("depth") else []
    how += [f"limited to the first {said['limit']:,}"] if said.get("limit") else []
    how += [f"split {_plain(said['split'])}"] if said.get("split") else []
    how += [f"{found['not_asked']:,} could not be asked"] if found["not_asked"] else []
    parts = [" ".join(["<!-- sifthinker result", key, *_who(evaluation, model), "-->"])]
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
    parts += [
        "",
        f"sifthinker {_plain(said.get('sifthinker', ''))}; SHA-256 of {' and '.join(hashes)}." if hashes else "",
        "",
    ]
    return "\n".join([*parts, _PART_END])


def _how(found: Mapping[str, Any]) -> str:
    """Return how a model was asked, as a short text that tells entries of a card apart: `direct, RGB only, first 100`."""
    said = found["settings"]
    parts = [str(said.get("protocol", "chain"))]
    parts += ["RGB only"] if said.get("rgb_only") else []
    parts += [f"depth by {said['depth']}"] if said.get("depth") else []
    parts += [f"first {said['limit']}"] if said.get("limit") else []
    return ", ".join(parts)


def _key(evaluation: Evaluation) -> str:
    """Return the key of an evaluation: data and way of asking, as one word. Entries with the same key are replaced."""
    found = numbers(evaluation)
    told = [str(found.get("benchmark") or found["data"]), str(found["settings"].get("split") or ""), _how(found)]
    return f"{_slug('-'.join(told))}-{sha256(to_json(told).encode())[:8]}"


def _slug(text: str) -> str:
    """Return a text as one word that is safe in an HTML comment."""
    return re.sub(r"[^\w.+]+", "-", text).strip("-").lower() or "-"


def _who(evaluation: Evaluation, model: str | None) -> tuple[str, str]:
    """Return the model of an evaluation: (start of the SHA-256 of its weights, its name); "-" for an unknown one."""
    settings = evaluation.settings
    name = _model(settings) or ("" if model else _name(settings.get("completions") or ""))
    return _hash(settings.get("weights"))[:12] or "-", _slug(name) if name else "-"


def _same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Return whether two may be the same model: equal weights, or matching ends of names if one's weights are unknown."""
    (weights, name), (others, theirs) = one, other
    if "-" not in (weights, others):
        return weights == others
    if "-" in (name, theirs):
        return True
    return name == theirs or (weights != others and (name.endswith(f"-{theirs}") or theirs.endswith(f"-{name}")))


def _check(evaluations: Sequence[Evaluation], model: str | None, names: Sequence[str]) -> None:
    """Check that evaluations can go into one card.

    Raises:
        ConfigError: they have different models, or two cover the same questions asked in the same way.
    """
    called = list(names) or [f"evaluation {number}" for number in range(1, len(evaluations) + 1)]
    seen: dict[str, str] = {}
    for name, evaluation in zip(called, evaluations, strict=True):
        if not _same(_who(evaluations[0], model), _who(evaluation, model)):
            models = [numbers(one)["model"] for one in (evaluations[0], evaluation)]
            hint = "" if evaluation.settings.get("model") else ". If both are of one model, set its name with --name"
            who = f"{models[0]!r} and {models[1]!r}" if models[0] != models[1] else f"{models[0]!r} with other weights"
            raise ConfigError(f"{called[0]} and {name} have different models, {who}. Write a card for each{hint}")
        key = _key(evaluation)
        if key in seen:
            raise ConfigError(
                f"{seen[key]} and {name} have the same questions, asked in the same way ({key.rpartition('-')[0]}); leave "
                "one out"
            )
        seen[key] = name


def write_card(
    path: str | os.PathLike[str],
    evaluations: Sequence[Evaluation],
    *,
    model: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Write the results of evaluations into a model card: its section, and `model-index` in its metadata.

    An existing card keeps its text, its line endings, and the keys and values of its metadata. The metadata are rewritten,
    so their comments and layout are lost. The section keeps earlier results, except those for the same questions asked in
    the same way. Text that others wrote into the section is lost.

    Args:
        path: README.md of a model.
        evaluations: at least one evaluation of that model, with different questions or asked in different ways.
        model: name of the model in the metadata; by default the card's own name, else that of the first evaluation.
        names: names of the evaluations in errors, for example their files.
    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
        ConfigError: there is no evaluation; the evaluations have different models, or two cover the same questions asked in
            the same way; or the card's metadata are unreadable or list several models.
    """
    if not evaluations:
        raise ConfigError("a model card needs at least one evaluation, got none")
    _check(evaluations, model, names)
    need("a model card", "huggingface_hub")
    from huggingface_hub import EvalResult, ModelCard

    file = Path(path)
    try:
        raw = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raw = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read: {error}") from None
    content = raw.replace("\r\n", "\n")
    try:
        # Without a metadata block, huggingface_hub would warn the user.
        card = ModelCard(content if _HEAD.match(content) else f"---\n{{}}\n---\n{content}")
    except Exception as error:  # noqa: BLE001  # errors of YAML, or of the values in it
        raise ConfigError(f"{file}: cannot read the metadata block at the top of the card: {error}") from None
    _refuse_several_models(file, content)
    data: Any = card.data
    found = [numbers(evaluation) for evaluation in evaluations]
    data.model_name = model or data.model_name or found[0]["model"]
    new = [result for one in found for result in _results(one, EvalResult)]
    left: dict[tuple[str, str, str], list[Any]] = {}
    for result in new:
        left.setdefault(_entry(result), []).append(result)
    replaced, results = set(left), []
    for one in data.eval_results or []:  # entries keep their place: a repeated call writes the same card
        results += left.pop(_entry(one), []) if _entry(one) in replaced else [one]
    data.eval_results = results + [one for group in left.values() for one in group]
    text = card.text
    old = _SECTION.search(text)
    section = card_section(evaluations, model=model, names=names, earlier=old[0] if old else "")
    card.text = f"{text[: old.start()]}{section}{text[old.end() :]}" if old else f"{text.rstrip()}\n\n{section}\n"
    written = str(card).rstrip("\n") + "\n"
    atomic_write(file, written.replace("\n", "\r\n") if "\r\n" in raw else written)


def _results(found: Mapping[str, Any], kind: Any) -> list[Any]:
    """Return the entries of an evaluation in `model-index`. The metric's name ends with how the model was asked."""
    return [
        kind(
            task_type="image-text-to-text",
            dataset_type=str(found["settings"].get("benchmark") or found["data"]),
            dataset_name=found.get("benchmark") or found["data"],
            dataset_split=found["settings"].get("split"),
            metric_type=metric.lower().replace(" ", "_"),
            metric_name=f"{metric}{', strict' if 'table' in found else ''} ({_how(found)})",
            metric_value=round(value["mean"], 4),
        )
        for metric, value in _headline_values(found).items()
    ]


def _entry(result: Any) -> tuple[str, str, str]:
    """Return the key of a `model-index` entry. Entries with the same key are replaced, even if their metrics differ."""
    how = re.search(r"\([^()]*\)$", str(result.metric_name or ""))
    return str(result.dataset_name), str(result.dataset_split or ""), how[0] if how else ""


def _refuse_several_models(file: Path, content: str) -> None:
    head = _HEAD.match(content)
    values = yaml.safe_load(head[1]) if head else None
    listed = values.get("model-index") if isinstance(values, dict) else None
    if isinstance(listed, list) and len(listed) > 1:
        models = ", ".join(str(one.get("name")) for one in listed if isinstance(one, dict))
        raise ConfigError(f"{file}: expected one model in its model-index, got {models}; write a card for each model")


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


def _model(settings: Mapping[str, Any]) -> str:
    """Return the name of the model; "" if none was asked. A model with hashed weights is a folder."""
    return _name(settings.get("model") or "", local=settings.get("weights") is not None)


def _name(told: Any, *, local: bool = False) -> str:
    """Return the last part of a path; a hub name, `owner/name`, stays unchanged.

    Only the text decides, not the files in the current folder. The same evaluation has the same name everywhere.
    """
    text = str(told)
    if local or not _HUB_NAME.fullmatch(text) or text.lower().endswith(_FILE_ENDS):
        return re.split(r"[\\/]+", text.rstrip("\\/"))[-1]
    return text


def _plain(text: Any) -> str:
    """Return a text from data with Markdown and HTML characters escaped."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#&!])", r"\\\1", line)
