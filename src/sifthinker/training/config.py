"""Training configs: a YAML file with our few keys, and under `training` any field of TRL's own config."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from sifthinker.boxes import Denominator
from sifthinker.errors import ConfigError
from sifthinker.files import check_keys, read_yaml
from sifthinker.scoring.rewards import REWARDS, Correction, as_correction

Stage = Literal["sft", "grpo"]
Sharing = Literal["auto", "off"]

_GRPO_ONLY = ("rewards", "reward_terms", "judge", "prefix_sharing")
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
class RewardTerms:
    """Terms of the rewards, for ablations: GRPO-SIF has all of them.

    Args:
        progress: the answer reward counts how much better an answer is than its group was the last time.
        correction: how the grounding reward pays for correcting the focus: `own`, the paper's; `group`, measured from where
            the group's other completions start; or `off`; see `rewards.score_grounding`.
        denominator: of the box-level IoU, `max` or, as in the paper's release, `min`; see `boxes.paired_iou`.
        depth_repeats: the depth reward counts areas that repeat their predecessor, as the paper does.
    """

    progress: bool = True
    correction: Correction = "own"
    denominator: Denominator = "max"
    depth_repeats: bool = False


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
        attn_implementation: transformers' name of an attention, for instance `flash_attention_2`, `flex_attention` or
            `eager`; None leaves the choice to transformers, but see `attention`.
        freeze: parts of parameter names that stay as they are, for instance `visual`.
        lora: LoRA settings; None trains every parameter that is not frozen.
        muon_lr: train the matrices inside the model with Muon at this learning rate, all else with AdamW at
            `training.learning_rate`; None trains everything as `training.optim` says. For small models trained in full.
        rewards: GRPO-SIF alone: weight of each reward, 1 where none is given; a weight of 0 leaves it out.
        reward_terms: GRPO-SIF alone: terms of the rewards.
        judge: GRPO-SIF alone: a served model for answers that rules cannot decide; None leaves them to rules.
        prefix_sharing: GRPO-SIF alone: `auto` computes each prompt once for its group where the model allows it;
            `off` never does.
        answers_only: SFT alone: learn the answers without chains, asked for directly; what chains are compared with.
        training: fields of TRL's SFTConfig or GRPOConfig.
    """

    model: str
    data: str
    output: str
    limit: int | None = None
    dtype: str = "float32"
    max_pixels: int | None = None
    attn_implementation: str | None = None
    freeze: Sequence[str] = ()
    lora: Lora | None = None
    muon_lr: float | None = None
    rewards: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(REWARDS, 1.0))
    reward_terms: RewardTerms = RewardTerms()
    judge: JudgeConfig | None = None
    prefix_sharing: Sharing = "auto"
    answers_only: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attention(self) -> str | None:
        """The attention for pretraining and SFT: the one named, transformers' own choice where there is an accelerator, and
        `eager` on a CPU: in bfloat16 torch's own takes three times as long there as matrix products and a softmax.

        Not in double precision: transformers' eager attention masks with the least double and takes the softmax in single
        precision, where that is minus infinity, and queries of padding become NaN. Not for GRPO: its packed rows are long,
        and its generation has an attention of its own, see `decoding`."""
        import torch

        if self.attn_implementation or torch.accelerator.is_available() or self.dtype == "float64":
            return self.attn_implementation
        return "eager"


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
    values = read_yaml(path)
    for override in overrides:
        _override(values, override)
    return make_config(values, stage, where=str(path))


def guess_stage(path: str | os.PathLike[str]) -> Stage:
    """The stage whose keys a config has; where it has only common ones, GRPO-SIF if the file's name says so, else SFT.

    Raises:
        ConfigError: see `files.read_yaml`.
    """
    values = read_yaml(path)
    training = values.get("training")
    keys = set(training) if isinstance(training, dict) else set()
    sft, grpo = (set(_names(trainer_config(stage))) for stage in get_args(Stage))
    if keys & (grpo - sft) or values.keys() & set(_GRPO_ONLY):
        return "grpo"
    if keys & (sft - grpo) or "answers_only" in values:
        return "sft"
    return "grpo" if "grpo" in Path(path).name else "sft"


def make_config(values: Mapping[str, Any], stage: Stage, *, where: str = "config") -> TrainConfig:
    """A checked config from plain values.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong kind; says where.
    """
    check_keys(values, _names(TrainConfig), where)
    missing = [name for name in ("model", "data", "output") if not values.get(name)]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    checked = dict(values)
    for name in ("model", "data", "output"):
        checked[name] = str(checked[name])
    if checked.get("reward_terms", 0) is None:
        del checked["reward_terms"]
    if "muon_lr" in checked:
        checked["muon_lr"] = _number(checked["muon_lr"])
    for name, kind in (("lora", Lora), ("judge", JudgeConfig), ("reward_terms", RewardTerms)):
        if checked.get(name) is not None:
            check_keys(_mapping(checked[name], f"{where}: {name}"), _names(kind), f"{where}: {name}")
            try:
                checked[name] = kind(**checked[name])
            except TypeError as error:
                raise ConfigError(f"{where}: {name}: {str(error).partition('() ')[2]}") from None
            for item in dataclasses.fields(kind):
                value, default = getattr(checked[name], item.name), item.default
                if isinstance(default, bool):
                    if not isinstance(value, bool):
                        raise ConfigError(f"{where}: {name}.{item.name} must be true or false, got {value!r}")
                elif isinstance(default, int) and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                    raise ConfigError(f"{where}: {name}.{item.name} must be a whole number, not below 0, got {value!r}")
                elif isinstance(default, float) and not (_is_number(value) and value >= 0):
                    raise ConfigError(f"{where}: {name}.{item.name} must be a number, not below 0, got {value!r}")
    if isinstance(checked.get("freeze"), str):
        checked["freeze"] = [checked["freeze"]]
    freeze = checked.setdefault("freeze", [])
    if not isinstance(freeze, list) or not all(isinstance(part, str) for part in freeze):
        raise ConfigError(f"{where}: freeze must name parts of the model, got {freeze!r}")
    for name in ("limit", "max_pixels"):
        value = checked.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{where}: {name} must be a positive whole number, got {value!r}")
    lora = checked.get("lora")
    if lora is not None:
        target = lora.target
        if not lora.r or lora.dropout >= 1:
            raise ConfigError(f"{where}: lora wants r above 0 and dropout below 1, got {lora.r!r} and {lora.dropout!r}")
        names = [target] if isinstance(target, str) else target
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{where}: lora.target must name modules, got {target!r}")
    judge = checked.get("judge")
    if judge is not None and not str(judge.base_url).startswith(("http://", "https://")):
        raise ConfigError(f"{where}: judge.base_url must begin with http:// or https://, got {judge.base_url!r}")
    rate = checked.get("muon_lr")
    if rate is not None and not (_is_number(rate) and rate > 0):
        raise ConfigError(f"{where}: muon_lr must be a positive number, got {rate!r}")
    if rate is not None and checked.get("lora") is not None:
        raise ConfigError(f"{where}: muon_lr is for full training; adapters train with training.optim")
    if checked.get("dtype", "auto") not in _DTYPES:
        raise ConfigError(f"{where}: dtype must be one of {', '.join(_DTYPES)}, got {checked['dtype']!r}")
    if stage == "sft":
        for name in _GRPO_ONLY:
            if name in checked:
                raise ConfigError(f"{where}: {name} belongs to GRPO-SIF; an SFT run has none")
    elif checked.get("answers_only"):
        raise ConfigError(f"{where}: answers_only belongs to SFT")
    if not isinstance(checked.get("answers_only", False), bool):
        raise ConfigError(f"{where}: answers_only must be true or false, got {checked['answers_only']!r}")
    if "reward_terms" in checked:
        terms = checked["reward_terms"]
        if terms.denominator not in get_args(Denominator):
            raise ConfigError(f"{where}: reward_terms.denominator must be max or min, got {terms.denominator!r}")
        try:
            checked["reward_terms"] = dataclasses.replace(terms, correction=as_correction(terms.correction))
        except ConfigError as error:
            raise ConfigError(f"{where}: reward_terms.{error}") from None
    if "rewards" in checked:
        _mapping(checked["rewards"], f"{where}: rewards")
        check_keys(checked["rewards"], REWARDS, f"{where}: rewards")
        for name, weight in checked["rewards"].items():
            if not (_is_number(weight) and weight >= 0):
                raise ConfigError(f"{where}: rewards: the weight of {name} must be a number, not below 0, got {weight!r}")
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
    if "hub_token" in checked["training"]:
        raise ConfigError(f"{where}: training.hub_token: a config is kept beside the model; set HF_TOKEN in the environment")
    check_keys(checked["training"], _names(trainer_config(stage)), f"{where}: training")
    _check_training(checked["training"], stage, where)
    return TrainConfig(**checked)


def _check_training(values: dict[str, Any], stage: Stage, where: str) -> None:
    """Numbers and switches of TRL's config, which itself takes anything and fails later; text that is a number becomes one.

    Raises:
        ConfigError: a value of another kind than its field's.
    """
    hints = get_type_hints(trainer_config(stage))
    for name in values:
        kinds = set(get_args(hints[name]) or (hints[name],))
        if not kinds <= {bool, int, float, type(None)}:
            continue
        value = _number(values[name])
        if isinstance(value, float) and value.is_integer() and float not in kinds:
            value = int(value)
        values[name] = value
        fits = (
            value is None
            or (isinstance(value, bool) and bool in kinds)
            or (isinstance(value, int) and not isinstance(value, bool) and bool(kinds & {int, float}))
            or (isinstance(value, float) and not math.isnan(value) and float in kinds)
        )
        if not fits:
            wanted = next(words for kind, words in _KINDS.items() if kind in kinds)
            raise ConfigError(f"{where}: training.{name} must be {wanted}, got {value!r}")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "max_completion_length"):
        if values.get(name) is not None and values[name] < 1:
            raise ConfigError(f"{where}: training.{name} must be at least 1, got {values[name]!r}")


_KINDS = {float: "a number", int: "a whole number", bool: "true or false"}


def _number(value: Any) -> Any:
    """A number that was written as text, as YAML reads 1e-5; everything else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: wanted key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {error}") from None
    value = _number(value)
    path = key.replace("-", "_").split(".")
    if len(path) == 1 and path[0] not in _names(TrainConfig):
        path = ["training", *path]
    at = values
    for part in path[:-1]:
        if not isinstance(at.get(part), dict):
            at[part] = {}
        at = at[part]
    at[path[-1]] = value
