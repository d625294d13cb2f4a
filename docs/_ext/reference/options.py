"""The page of settings, from the pydantic models. A field that several models inherit is described once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from reference.commands import walk
from reference.text import markdown, sentence, split_default
from sifthinker import ask_settings
from sifthinker.cli.flags import Command, bounds
from sifthinker.engine import settings as engine
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.lmms.settings import LmmsSettings
from sifthinker.settings import Flag, Leaf, Settings, leaves
from sifthinker.training import settings as training

# Title of the group → models: (heading, model, where its keys are written).
GROUPS: dict[str, list[tuple[str, type[Settings], str]]] = {
    "Building a dataset": [
        ("Build", engine.BuildSettings, "A recipe, a YAML file for `sif data build`, or `sifthinker.build`."),
        ("Source", engine.SourceSettings, "Each entry of `sources:` in a recipe."),
        ("Reverse expansion", engine.Expansion, "Keys of a recipe."),
        ("Teacher", engine.TeacherSettings, "Keys of a recipe."),
    ],
    "Training": [
        (
            "Training run",
            training.TrainSettings,
            "A YAML file for `sif train` and `sif plan`, or `sifthinker.train`. On the command line, `--KEY VALUE` "
            "overrides a key, for instance `--lora.r 16`.",
        ),
        ("LoRA", training.Lora, "Keys under `lora:` of a training file."),
        ("Reward terms", training.RewardTerms, "Keys under `reward_terms:` of a training file."),
        ("Judge", training.JudgeSettings, "Keys under `judge:` of a training file."),
    ],
    "Thinking and evaluation": [
        ("Think", ask_settings.ThinkSettings, "Options of `sif think`, or `sifthinker.think` and `sifthinker.think_many`."),
        ("App", ask_settings.AppSettings, "Options of `sif app`."),
        ("Evaluation", EvalSettings, "Options of `sif eval`, or `sifthinker.evaluate`."),
        ("lmms-eval", LmmsSettings, "Keys of `--model_args` of lmms-eval."),
        ("Asking a model", ask_settings.AskSettings, "Shared by thinking, the app, evaluation and lmms-eval."),
    ],
    "Shared settings": [
        ("Depth files", ask_settings.DepthFiles, "Shared by building, thinking, the app and evaluation."),
        ("Resized pixels", engine.ResizedPixels, "Shared by builds and their sources."),
        ("Server", ask_settings.ServerSettings, "Shared by the teacher and the judge."),
        ("Rate and price", ask_settings.Metered, "Shared by everything that asks a server."),
    ],
}
MODELS = {model: heading for group in GROUPS.values() for heading, model, _ in group}

# Settings that the command line takes in another way than by an option of their name, as Markdown.
_OVERRIDE = "`--{key} VALUE` of `sif train` and `sif plan`"
_PREFIXES = {training.TrainSettings: "", training.Lora: "lora.", training.RewardTerms: "reward_terms."} | dict.fromkeys(
    (training.JudgeSettings, ask_settings.ServerSettings), "judge."
)
_ALSO: dict[tuple[type[Settings], str], list[str]] = {
    (engine.SourceSettings, "file"): ["the argument of `sif data build`, `sif data paths` and `sif data check`"],
    (EvalSettings, "data"): ["the argument of `sif eval DATASET`", "{option}`sif eval BENCHMARK --data`"],
    (ask_settings.AskSettings, "model"): ["{option}`sif eval DATASET --model`", "{option}`sif eval BENCHMARK --model`"],
    (training.TrainSettings, "lora"): ["`--lora.KEY VALUE` of `sif train` and `sif plan`"],
    (training.TrainSettings, "rewards"): ["`--rewards.NAME NUMBER` of `sif train` and `sif plan`"],
    (training.TrainSettings, "reward_terms"): ["`--reward_terms.KEY VALUE` of `sif train` and `sif plan`"],
    (training.TrainSettings, "judge"): ["`--judge.KEY VALUE` of `sif train` and `sif plan`"],
    (training.TrainSettings, "training"): ["`--FIELD VALUE` of `sif train` and `sif plan`"],
}


def places(model: type[Settings], name: str, options: list[str]) -> list[str]:
    """Where the command line takes a setting: its options, and the other ways."""
    also = _ALSO.get((model, name), [])
    if not also and model in _PREFIXES:
        also = [_OVERRIDE.format(key=f"{_PREFIXES[model]}{name}")]
    if model is LmmsSettings:
        also = [f"`{name}=VALUE` in `--model_args` of lmms-eval"]
    return [*options, *also]


_TYPES: dict[Any, tuple[str, str]] = {
    bool: ("`true` or `false`", "`true` or `false`"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    Path: ("path", "paths"),
}


def own_fields(model: type[Settings]) -> list[str]:
    """The fields that a model describes itself."""
    return [name for name in inspect.get_annotations(model) if name in model.model_fields]


def owner(model: type[Settings], name: str) -> type[Settings]:
    """The class whose description of a field a model uses."""
    return next(base for base in model.__mro__ if name in inspect.get_annotations(base))


def page() -> str:
    flags = dict(_flags())
    lines = []
    for title, models in GROUPS.items():
        lines.append(f"## {title}")
        for heading, model, where in models:
            lines += [f"### {heading}", f"`{model.__name__}`. {where}"]
            lines += [_field(model, name, flags) for name in own_fields(model)]
            lines += _inherited(model)
    return "\n\n".join(lines)


def _inherited(model: type[Settings]) -> Iterator[str]:
    found: dict[type[Settings], list[str]] = {}
    for name in model.model_fields:
        if owner(model, name) is not model:
            found.setdefault(owner(model, name), []).append(name)
    if found:
        yield "Also:"
        yield "\n".join(
            f"- from [{MODELS[base]}](#{anchor(MODELS[base])}): "
            + ", ".join(f"{{setting}}`{name} <{base.__name__}.{name}>`" for name in names)
            for base, names in found.items()
        )


def anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _field(model: type[Settings], name: str, flags: Mapping[tuple[str, str], list[str]]) -> str:
    item = model.model_fields[name]
    text, default = split_default(re.sub(r"(?<!\n)\n(?!\n)", " ", item.description or ""))
    facts = [f"Type: {_type(item)}."]
    if item.is_required():
        facts.append("Required.")
    else:
        facts.append(f"Default: {default or _default(item)}.")
    found = places(model, name, flags.get((name, _one_line(item)), []))
    if found:
        facts.append(f"Command line: {', '.join(found)}.")
    first, *rest = re.split(r"\n\s*\n", text)
    body = [sentence(markdown(first)), *map(markdown, rest), " ".join(facts)]
    return f":::{{setting}} {model.__name__}.{name}\n" + "\n\n".join(part for part in body if part) + "\n:::"


def _one_line(item: FieldInfo) -> str:
    return " ".join((item.description or "").partition("\n\n")[0].split())


def _flags() -> Iterator[tuple[tuple[str, str], list[str]]]:
    """(field, its help) → links to the options made from it."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, command in walk():
        if not isinstance(command, Command):
            continue
        for option in command.params:
            if hasattr(option, "group"):
                flag = max(option.opts, key=len)
                link = f"{{option}}`{name} {flag}`"
                found.setdefault((str(option.name), option.field_help), []).append(link)
    yield from found.items()


def _default(item: FieldInfo) -> str:
    said = next((extra.default for extra in item.metadata if isinstance(extra, Flag) and extra.default), None)
    if said:
        return f"`{said}`"
    value = item.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, Settings):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Mapping) and value:
        return ", ".join(f"`{key}: {number:g}`" for key, number in value.items())
    if isinstance(value, Mapping | Sequence) and not value:
        return "empty"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _type(item: FieldInfo) -> str:
    return " or ".join(dict.fromkeys(_words(leaf) for leaf in leaves(item)))


def _words(leaf: Leaf, number: int = 0) -> str:
    if leaf.kind is Literal:
        return ("one of " if number == 0 else "") + ", ".join(f"`{name}`" for name in leaf.names)
    if isinstance(leaf.kind, type) and issubclass(leaf.kind, Settings):
        link = f"[{MODELS[leaf.kind]}](#{anchor(MODELS[leaf.kind])})"
        return f"the keys of {link}" if number == 0 else f"entries with the keys of {link}"
    if leaf.kind is Mapping:
        known = f" ({', '.join(f'`{key}`' for key in leaf.keys)})" if leaf.keys else ""
        return f"keys{known} with values"
    if leaf.kind is Sequence:
        of = leaves(FieldInfo(annotation=leaf.of))
        return "list of " + " or ".join(_words(one, 1) for one in of)
    words = _TYPES[leaf.kind][number] if leaf.kind in _TYPES else "anything"
    limits = {key: getattr(limit, key) for limit in leaf.limits for key in ("gt", "ge", "lt", "le") if hasattr(limit, key)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if leaf.kind is int and "gt" in limits:
        low, limits = low + 1, {key: value for key, value in limits.items() if key != "gt"}
    said = bounds(low, high, low_open="gt" in limits, high_open="lt" in limits)
    return f"{words}, {said}" if said else words
