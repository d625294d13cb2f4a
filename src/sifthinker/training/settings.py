"""Settings of a training run: our few keys, and under `training` any field of TRL's own config."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from sifthinker.ask_settings import ServerSettings
from sifthinker.errors import ConfigError
from sifthinker.files import read_yaml, unknown_key
from sifthinker.literals import Correction, Denominator, Dtype, RewardName
from sifthinker.settings import Settings, as_number, faults_error

Stage = Literal["sft", "grpo"]
Sharing = Literal["auto", "off"]

EVAL_STEPS = 100  # between evaluations, where there is `eval_data` and nothing else is said

_GRPO_ONLY = ("rewards", "reward_terms", "judge", "prefix_sharing")

# A folder called 2024 may be written without quotes.
_Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]


class Lora(Settings):
    """LoRA settings, as PEFT's `LoraConfig` has them."""

    r: PositiveInt = 8
    """Rank of the adapters."""
    alpha: NonNegativeInt = 16
    """Scale of the adapters, times `r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapters' inputs that is left out while training."""
    target: str | tuple[str, ...] = "all-linear"
    """Names of the modules that get adapters, or `all-linear`."""


class JudgeSettings(ServerSettings):
    """A served model that judges free-text answers; see `endpoint.Endpoint` for what the fields mean."""

    model: str
    """The judge's name on its server."""
    timeout_s: PositiveFloat = 30.0
    """Seconds for one request."""
    retries: NonNegativeInt = 3
    """Further tries of a failed request."""
    concurrency: PositiveInt = 32
    """Requests under way at once."""
    cache: str | None = None
    """Folder of the verdicts; the folder `verdicts` of the run by default."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value


class RewardTerms(Settings):
    """Terms of the rewards, for ablations: GRPO-SIF has all of them."""

    progress: bool = True
    """The answer reward counts how much better an answer is than its group was the last time."""
    correction: Annotated[Correction, BeforeValidator(lambda value: "own" if value is True else value)] = "own"
    """How the grounding reward pays for correcting the focus: `own`, the paper's; `group`, measured from where the group's
    other completions start; or `off`; see `rewards.score_grounding`."""
    denominator: Denominator = "max"
    """Of the box-level IoU, `max` or, as in the paper's release, `min`; see `boxes.paired_iou`."""
    depth_repeats: bool = False
    """The depth reward counts areas that repeat their predecessor, as the paper does."""


_ALL_REWARDS: Mapping[RewardName, float] = dict.fromkeys(get_args(RewardName), 1.0)


class TrainSettings(Settings):
    """One training run, of either stage.

    Example:
        >>> run = TrainSettings(model="nano", data="runs/chains", output="runs/sft", training={"max_steps": 100})
        >>> run.for_stage("sft").training
        {'max_steps': 100}
    """

    model: _Name
    """Model folder or Hugging Face name to start from."""
    data: _Name
    """Dataset folder or examples file."""
    output: _Name
    """Folder for checkpoints, the final model and the history."""
    limit: PositiveInt | None = None
    """Use only the first examples, this many."""
    dtype: Dtype = "float32"
    """Of the weights: a torch dtype's name or `auto`. In bfloat16 small steps are rounded away, except with `lora`."""
    max_pixels: PositiveInt | None = None
    """Greatest area of an image, for processors that resize by area."""
    attn_implementation: str | None = None
    """transformers' name of an attention, for instance `flash_attention_2`, `flex_attention` or `eager`. By default the
    choice is transformers', but see `attention`."""
    freeze: tuple[str, ...] = ()
    """Parts of parameter names that stay as they are, for instance `visual`."""
    lora: Lora | None = None
    """LoRA settings; without them every parameter is trained that is not frozen."""
    muon_lr: PositiveFloat | None = None
    """Train the matrices inside the model with Muon at this learning rate, all else with AdamW at `training.learning_rate`;
    without it everything is trained as `training.optim` says. For small models trained in full."""
    rewards: Mapping[RewardName, NonNegativeFloat] = Field(default_factory=lambda: dict(_ALL_REWARDS))
    """GRPO-SIF alone: weight of each reward, 1 where none is given; a weight of 0 leaves it out."""
    reward_terms: RewardTerms = RewardTerms()
    """GRPO-SIF alone: terms of the rewards."""
    judge: JudgeSettings | None = None
    """GRPO-SIF alone: a served model for answers that rules cannot decide; without one they are left to rules."""
    prefix_sharing: Sharing = "auto"
    """GRPO-SIF alone: `auto` computes each prompt once for its group where the model allows it; `off` never does."""
    answers_only: bool = False
    """SFT alone: learn the answers without chains, asked for directly; what chains are compared with."""
    eval_data: _Name | None = None
    """Dataset folder, examples file or file of questions to evaluate the model on while it trains, every
    `training.eval_steps` steps (100 by default) and at the end. The metrics of `sif eval` are logged as
    `eval_answer_accuracy`, `eval_final_hiou` and so on; `training.metric_for_best_model` may name one."""
    eval_limit: PositiveInt | None = None
    """Ask only the first of these questions, this many."""
    eval_max_new_tokens: PositiveInt | None = None
    """Longest answer to one of these questions, in tokens; 1024 by default."""
    training: Mapping[str, Any] = {}
    """Fields of TRL's SFTConfig or GRPOConfig."""

    @property
    def attention(self) -> str | None:
        """The attention for pretraining and SFT: the one named, transformers' own choice where there is an accelerator, and
        `eager` on a CPU: in bfloat16 torch's own takes three times as long there as matrix products and a softmax.

        Not in double precision: transformers' eager attention masks with the least double and takes the softmax in single
        precision, where that is minus infinity, and queries of padding become NaN. Not for GRPO, whose packed rows are
        long."""
        import torch

        if self.attn_implementation or torch.accelerator.is_available() or self.dtype == "float64":
            return self.attn_implementation
        return "eager"

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the rewards that count."""
        return {name: weight for name, weight in self.rewards.items() if weight}

    @classmethod
    def unknown(cls, key: Any) -> str | None:
        """A field of TRL's that stands beside `training`, and not under it."""
        if any(key in _names(trainer_config(stage)) for stage in get_args(Stage)):
            return f"{key} belongs under `training:`"
        return super().unknown(key)

    def for_stage(self, stage: Stage, *, where: str = "") -> Self:
        """The settings as a trainer of this stage takes them: `training` checked, text that is a number made one.

        TRL's config itself takes anything and fails later.

        Args:
            stage: whose fields `training` may hold, and whose of ours may be said.
            where: what to call the settings' place in messages, for instance the file.
        Raises:
            ConfigError: settings of the other stage, or a field of TRL's that there is not, or of another kind; all of them.
        """
        check_stage(stage)
        training = dict(self.training)
        faults = [
            *self._of_the_other(stage),
            *_training_faults(training, stage),
            *_tracker_faults(training),
            *self._without_eval_data(training),
            *(self._not_for_vllm(training) if stage == "grpo" and training.get("use_vllm") is True else ()),
        ]
        if faults:
            raise faults_error(where, faults)
        return self if training == self.training else self.replace(training=training)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; what is None is left out. `from_values` reads them again."""
        return {name: value for name, value in super().to_dict().items() if value is not None}

    def identity(self) -> dict[str, Any]:
        """What `run.json` keeps, which tells whose run a folder holds. Runs of earlier versions have the same keys and
        values, and go on."""
        return {**self.to_dict(), "rewards": self.weights}

    @classmethod
    def locate(cls, path: Sequence[str]) -> Sequence[str]:
        """A field of TRL's needs no prefix: `learning_rate=1e-5`."""
        return path if len(path) > 1 or path[0] in cls.model_fields else ["training", *path]

    @field_validator("rewards")
    @classmethod
    def _every_reward(cls, value: Mapping[RewardName, float]) -> dict[RewardName, float]:
        if value and not any({**_ALL_REWARDS, **value}.values()):
            raise ValueError("every reward has weight 0; nothing would be learnt")
        return {**_ALL_REWARDS, **value}

    @model_validator(mode="after")
    def _one_way_to_train(self) -> Self:
        if self.muon_lr is not None and self.lora is not None:
            raise ValueError("muon_lr is for full training; adapters train with training.optim")
        return self

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> Self:
        for name in ("eval_limit", "eval_max_new_tokens"):
            if self.eval_data is None and getattr(self, name) is not None:
                raise ValueError(f"{name} needs eval_data, the questions to ask")
        return self

    def _without_eval_data(self, training: Mapping[str, Any]) -> Iterator[str]:
        if self.eval_data is None:
            if training.get("eval_strategy") not in (None, "no"):
                yield "training.eval_strategy: name the questions to ask with eval_data"
            if training.get("load_best_model_at_end"):
                yield "training.load_best_model_at_end: name the questions to ask with eval_data"

    def _not_for_vllm(self, training: Mapping[str, Any]) -> Iterator[str]:
        """What TRL (seen in 1.16) hands to vLLM in a way that images do not survive; docs/training.md tells what is left."""
        mode = training.get("vllm_mode", "colocate")
        if mode != "server":
            yield (
                f"training.vllm_mode is {mode!r}: there vLLM is given prompts whose image tokens are written out already, "
                "and writes them out once more; set it to server and start a vLLM server, see docs/training.md"
            )
        if self.max_pixels is not None:
            yield (
                f"max_pixels is {self.max_pixels:,} and does not reach vLLM, which would resize images by its own bounds "
                "and have other tokens for them than the prompt; leave it out, and start this run and the server from a "
                "folder whose processor has the bound, as an SFT run with max_pixels writes it"
            )

    def _of_the_other(self, stage: Stage) -> Iterator[str]:
        if stage == "grpo" and self.answers_only:
            yield "answers_only belongs to SFT"
        if stage == "sft":
            for name in _GRPO_ONLY:
                if name in self.model_fields_set:
                    yield f"{name} belongs to GRPO-SIF; an SFT run has none"


# Families whose completions vLLM is expected to sample, see docs/training.md, by their type in config.json.
_FOR_VLLM = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def check_vllm(config: TrainSettings, *, here: bool = True) -> None:
    """See that vLLM can sample a run's completions (`use_vllm`), by the model's configuration and what is installed.

    Args:
        config: a run of GRPO-SIF; nothing is checked of others.
        here: whether the run is to be trained with this Python, so that vLLM must be installed.
    Raises:
        ConfigError: a model of a family that is not expected to work, or no vLLM.
        ModelError: no such model.
    """
    if config.training.get("use_vllm") is not True:
        return
    from sifthinker.models import model_type  # heavy

    kind = model_type(config.model)
    if kind and kind not in _FOR_VLLM:
        why = (
            "TRL sends a LLaVA's weights under names that vLLM does not know"
            if kind.startswith("llava")
            else "it was not looked into for others"
        )
        raise ConfigError(
            f"training.use_vllm: {config.model} is of the type {kind}; sampling by vLLM is expected to work for "
            f"{', '.join(_FOR_VLLM)} alone, {why}. Leave use_vllm out; see docs/training.md"
        )
    if here and find_spec("vllm") is None:
        raise ConfigError(
            "training.use_vllm: vLLM is not installed here, and this process imports it beside the server: install it with "
            "`pip install --no-deps vllm`, and then what it imports; with its dependencies it would put an older "
            "transformers in place of this one. See docs/training.md"
        )


def check_stage(stage: object) -> None:
    """Refuse what is no stage.

    Raises:
        ConfigError: something else, such as `SFT`.
    """
    if stage not in get_args(Stage):
        raise ConfigError(f"stage must be {' or '.join(get_args(Stage))}, got {stage!r}")


def load_config(path: str | os.PathLike[str], stage: Stage, overrides: Iterable[str] = ()) -> TrainSettings:
    """Read a config file and apply overrides.

    Args:
        path: YAML file.
        stage: which trainer's fields `training` may hold.
        overrides: `key=value`, the key dotted (`training.learning_rate=1e-5`) or a field of `training` by its bare name.
            Values are read as YAML.
    Raises:
        ConfigError: no such file, not YAML, an unknown or missing key, or a value of the wrong kind.
    """
    return TrainSettings.from_yaml(path, overrides).for_stage(stage, where=str(path))


def make_config(values: Mapping[str, Any], stage: Stage, *, where: str = "config") -> TrainSettings:
    """Checked settings of a stage from plain values.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong kind; says where.
    """
    return TrainSettings.from_values(values, where=where).for_stage(stage, where=where)


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


# Names of TRL's fields that everybody writes, and what transformers calls them now.
_ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
# Fields of TRL's that are said elsewhere.
_ELSEWHERE = {
    "output_dir": "the folder is named by `output`",
    "hub_token": "a config is kept beside the model; set HF_TOKEN in the environment",
    "reward_weights": "weights are named under `rewards`",
}
_AT_LEAST_ONE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "max_completion_length",
)  # fmt: skip
_KINDS = {float: "a number", int: "a whole number", bool: "true or false"}


def _training_faults(values: dict[str, Any], stage: Stage) -> Iterator[str]:
    """What is wrong with fields for TRL's config. Text that is a number becomes one in `values`, a bare `no` a name."""
    hints, names = get_type_hints(trainer_config(stage)), _names(trainer_config(stage))
    for old, new in _ALIASES.items():
        if values.get(old) is not None and values.get(new, values[old]) != values[old]:
            yield f"training.{old} is {values[old]!r} and training.{new} {values[new]!r}: one setting, keep one of its names"
    for name in values:
        if name in _ELSEWHERE:
            yield f"training.{name}: {_ELSEWHERE[name]}"
            continue
        if name not in names:
            # What was meant may be a key of ours: an override without a prefix is taken for TRL's.
            yield f"training: {unknown_key(name, [*TrainSettings.model_fields, *names])}"
            continue
        if values[name] is None and not _may_be_none(name, hints[name], stage):
            yield f"training.{name} has no value; leave the key out, or write one"
            continue
        if name.endswith("_strategy") and values[name] is False:  # YAML reads a bare `no` as false
            values[name] = "no"
        kinds = set(get_args(hints[name]) or (hints[name],))
        if not kinds <= {bool, int, float, type(None)}:
            continue
        value = values[name]
        if isinstance(value, str):
            value = as_number(value)
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
            yield f"training.{name} must be {wanted}, got {value!r}"
        elif name in _AT_LEAST_ONE and value is not None and value < 1:
            yield f"training.{name} must be at least 1, got {value!r}"


def _tracker_faults(training: Mapping[str, Any]) -> Iterator[str]:
    """A tracker that TRL cannot log completions to: wandb's tables refuse prompts that hold images beside text."""
    said = training.get("report_to")
    names = [said] if isinstance(said, str) else said or ()
    if training.get("log_completions") and ("wandb" in names or ("all" in names and find_spec("wandb"))):
        yield (
            "training.log_completions: TRL cannot log completions of prompts with images to wandb, the run would end at its "
            "first logged step; use report_to: trackio, which shows the images, or tensorboard, or leave log_completions "
            "out: the run's folder samples/ has the completions of every logged step"
        )


def _may_be_none(name: str, hint: Any, stage: Stage) -> bool:
    """Whether a field of TRL's takes None: its kind says so, or it is None by default whatever its kind says."""
    default = next(item.default for item in dataclasses.fields(trainer_config(stage)) if item.name == name)
    return default is None or hint is Any or type(None) in get_args(hint)


def trainer_config(stage: Stage) -> type[Any]:
    """TRL's config class of a stage."""
    from trl import GRPOConfig, SFTConfig

    chosen: type[Any] = SFTConfig if stage == "sft" else GRPOConfig
    return chosen


def trainer_arguments(
    config: TrainSettings, stage: Stage, defaults: Mapping[str, Any], *, on_gpu: bool | None = None
) -> Any:
    """TRL's config of a run.

    Args:
        config: the run.
        stage: its trainer.
        defaults: ours, where the config says nothing.
        on_gpu: with the values that a run on a GPU has, whether there is one here or not, to plan it; by default those of
            this machine.
    Raises:
        ConfigError: the settings are of another stage, or TRL refuses the values.
    """
    import torch

    here = torch.accelerator.is_available()
    gpu = here if on_gpu is None else on_gpu
    # Without an accelerator Trainer refuses bf16 unless told that the CPU is meant, and pinning memory only warns.
    # Recomputing activations saves GPU memory; on a CPU it costs time and saves nothing that is short.
    machine = {"use_cpu": not (gpu and here), "dataloader_pin_memory": gpu and here, "activation_checkpointing": gpu}
    said = _with_new_names(config.for_stage(stage).training)
    if on_gpu and said.pop("use_cpu", False):
        raise ConfigError("training.use_cpu: the run is for a CPU; plan it without a GPU, or take the key out")
    if gpu and not here:
        said.pop("tf32", None)  # refused where there is no GPU, and nothing that a plan says depends on it
    evaluation: dict[str, Any] = {}
    if config.eval_data is not None:
        evaluation = {"eval_strategy": "steps", "eval_steps": EVAL_STEPS}
        if stage == "grpo":
            evaluation["num_generations_eval"] = 1  # a question is asked once
    try:
        return trainer_config(stage)(output_dir=config.output, **{**machine, **defaults, **evaluation, **said})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training: {error}") from None


def _with_new_names(training: Mapping[str, Any]) -> dict[str, Any]:
    """Fields under the names that transformers has for them; our defaults would overrule the older ones."""
    said = dict(training)
    for old, new in _ALIASES.items():
        value = said.pop(old, None)
        if value is not None:
            said[new] = value
    return said


def _names(cls: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]
