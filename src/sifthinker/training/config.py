"""Training configs: a YAML file with our few keys, and under `training` any field of TRL's own config."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from sifthinker.errors import ConfigError
from sifthinker.rewards import REWARDS

Stage = Literal["sft", "grpo"]
Sharing = Literal["auto", "off"]

_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA settings, as PEFT's `LoraConfig` has them."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target: str | Sequence[str] = "all-linear"


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """A served model that judges free-text answers; see `endpoint.Endpoint` for what the fields mean.

    Verdicts are kept in `cache`, by default the folder `verdicts` of the run.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 30.0
    retries: int = 3
    concurrency: int = 32
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run.

    Args:
        model: model folder or Hugging Face name to start from.
        data: dataset folder or examples file.
        output: folder for checkpoints, the final model and the history.
        limit: use the first so many examples; None for all.
        dtype: of the weights, a torch dtype's name or `auto`.
        max_pixels: greatest area of an image, for processors that resize by area.
        freeze: parts of parameter names that stay as they are, for instance `visual`.
        lora: LoRA settings; None trains every parameter that is not frozen.
        rewards: GRPO-SIF alone: weight of each reward, 1 where none is given; a weight of 0 leaves it out.
        judge: GRPO-SIF alone: a served model for answers that rules cannot decide; None leaves them to rules.
        prefix_sharing: GRPO-SIF alone: `auto` computes each prompt once for its group where the model allows it;
            `off` never does.
        training: fields of TRL's SFTConfig or GRPOConfig.
    """

    model: str
    data: str
    output: str
    limit: int | None = None
    dtype: str = "float32"
    max_pixels: int | None = None
    freeze: Sequence[str] = ()
    lora: Lora | None = None
    rewards: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(REWARDS, 1.0))
    judge: JudgeConfig | None = None
    prefix_sharing: Sharing = "auto"
    training: Mapping[str, Any] = field(default_factory=dict)


def load_config(path: str | os.PathLike[str], stage: Stage, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a config file and apply overrides.

    Args:
        path: YAML file.
        stage: which trainer's fields `training` may hold.
        overrides: `key=value`, the key dotted (`training.learning_rate=1e-5`) or a field of `training` by its bare name.
            Values are read as YAML.
    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, or a value of the wrong kind.
    """
    values = _read(Path(path))
    for override in overrides:
        _override(values, override)
    return make_config(values, stage, where=str(path))


def _read(where: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, or no keys and values.
    """
    try:
        values = yaml.safe_load(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: wanted keys and values, got {type(values).__name__}")
    return values


def guess_stage(path: str | os.PathLike[str]) -> Stage:
    """The stage whose keys a config has; where it has only common ones, GRPO-SIF if the file's name says so, else SFT.

    Raises:
        ConfigError: see `_read`.
    """
    values = _read(Path(path))
    training = values.get("training")
    keys = set(training) if isinstance(training, dict) else set()
    sft, grpo = (set(_names(trainer_config(stage))) for stage in get_args(Stage))
    if keys & (grpo - sft) or values.keys() & {"rewards", "judge", "prefix_sharing"}:
        return "grpo"
    if keys & (sft - grpo):
        return "sft"
    return "grpo" if "grpo" in Path(path).name else "sft"


def make_config(values: Mapping[str, Any], stage: Stage, *, where: str = "config") -> TrainConfig:
    """A checked config from plain values.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong kind; says where.
    """
    _known(values, _names(TrainConfig), where)
    missing = [name for name in ("model", "data", "output") if not values.get(name)]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    checked = dict(values)
    for name in ("model", "data", "output"):
        checked[name] = str(checked[name])
    for name, kind in (("lora", Lora), ("judge", JudgeConfig)):
        if checked.get(name) is not None:
            _known(_mapping(checked[name], f"{where}: {name}"), _names(kind), f"{where}: {name}")
            try:
                checked[name] = kind(**checked[name])
            except TypeError as error:
                raise ConfigError(f"{where}: {name}: {str(error).partition('() ')[2]}") from None
            for item in dataclasses.fields(kind):
                value, default = getattr(checked[name], item.name), item.default
                if isinstance(default, int | float) and (not isinstance(value, int | float) or isinstance(value, bool)):
                    raise ConfigError(f"{where}: {name}.{item.name} must be a number, got {value!r}")
    if isinstance(checked.get("freeze"), str):
        checked["freeze"] = [checked["freeze"]]
    freeze = checked.setdefault("freeze", [])
    if not isinstance(freeze, list) or not all(isinstance(part, str) for part in freeze):
        raise ConfigError(f"{where}: freeze must name parts of the model, got {freeze!r}")
    for name in ("limit", "max_pixels"):
        value = checked.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{where}: {name} must be a positive whole number, got {value!r}")
    if checked.get("dtype", "auto") not in _DTYPES:
        raise ConfigError(f"{where}: dtype must be one of {', '.join(_DTYPES)}, got {checked['dtype']!r}")
    if stage == "sft":
        for name in ("rewards", "judge", "prefix_sharing"):
            if name in checked:
                raise ConfigError(f"{where}: {name} belongs to GRPO-SIF; an SFT run has none")
    if "rewards" in checked:
        _mapping(checked["rewards"], f"{where}: rewards")
        _known(checked["rewards"], REWARDS, f"{where}: rewards")
        for name, weight in checked["rewards"].items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ConfigError(f"{where}: rewards: the weight of {name} must be a number, got {weight!r}")
        weights = {**dict.fromkeys(REWARDS, 1.0), **checked["rewards"]}
        checked["rewards"] = {name: float(weight) for name, weight in weights.items() if weight}
        if not checked["rewards"]:
            raise ConfigError(f"{where}: every reward has weight 0; nothing would be learnt")
    if checked.get("prefix_sharing") is False:  # YAML reads a bare `off` as false
        checked["prefix_sharing"] = "off"
    if checked.get("prefix_sharing", "auto") not in get_args(Sharing):
        raise ConfigError(f"{where}: prefix_sharing must be auto or off, got {checked['prefix_sharing']!r}")
    checked["training"] = dict(_mapping(checked.get("training") or {}, f"{where}: training"))
    for name, value in checked["training"].items():
        if name.endswith("_strategy") and value is False:  # YAML reads a bare `no` as false
            checked["training"][name] = "no"
    if "output_dir" in checked["training"]:
        raise ConfigError(f"{where}: training.output_dir: the folder is named by `output`")
    _known(checked["training"], _names(trainer_config(stage)), f"{where}: training")
    return TrainConfig(**checked)


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """A config as plain values that `make_config` reads again."""
    values = dataclasses.asdict(config)
    values["freeze"] = list(config.freeze)
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items() if value is not None}


def trainer_config(stage: Stage) -> type[Any]:
    """TRL's config class of a stage."""
    from trl import GRPOConfig, SFTConfig

    chosen: type[Any] = SFTConfig if stage == "sft" else GRPOConfig
    return chosen


def trainer_arguments(config: TrainConfig, stage: Stage, defaults: Mapping[str, Any]) -> Any:
    """TRL's config of a run.

    Args:
        config: the run.
        stage: its trainer.
        defaults: ours, where the config says nothing.
    Raises:
        ConfigError: TRL refuses the values.
    """
    import torch

    on_cpu = not torch.accelerator.is_available()
    # Without an accelerator Trainer refuses bf16 unless told that the CPU is meant, and pinning memory only warns.
    # Recomputing activations saves GPU memory; on a CPU it costs time and saves nothing that is short.
    machine = {"use_cpu": on_cpu, "dataloader_pin_memory": not on_cpu, "activation_checkpointing": not on_cpu}
    try:
        return trainer_config(stage)(output_dir=config.output, **{**machine, **defaults, **config.training})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training: {error}") from None


def _names(cls: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: wanted keys and values, got {value!r}")
    return value


def _known(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in values:
        if key in names:
            continue
        near = difflib.get_close_matches(str(key), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(names)[:30])}"
        raise ConfigError(f"{where}: unknown key {key!r}{hint}")


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: wanted key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {error}") from None
    if isinstance(value, str):
        # YAML reads 1e-5 as text; people write it for a number.
        with contextlib.suppress(ValueError):
            value = float(value)
    path = key.replace("-", "_").split(".")
    if len(path) == 1 and path[0] not in _names(TrainConfig):
        path = ["training", *path]
    at = values
    for part in path[:-1]:
        if not isinstance(at.get(part), dict):
            at[part] = {}
        at = at[part]
    at[path[-1]] = value
