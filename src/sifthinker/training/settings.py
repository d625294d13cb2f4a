"""Settings of a training run: our own keys, and under `training` any field of TRL's config."""

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
from sifthinker.files import unknown_key
from sifthinker.literals import Correction, Denominator, Dtype, RewardName
from sifthinker.settings import FaultsError, Origin, SettingFault, Settings, as_number

Stage = Literal["sft", "grpo"]
Sharing = Literal["auto", "off"]

EVAL_STEPS = 100  # default for `training.eval_steps` when there is `eval_data`

_GRPO_ONLY = ("rewards", "reward_terms", "judge", "prefix_sharing")

# A YAML file may give a folder named 2024 without quotes.
_Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]


class Lora(Settings):
    """LoRA settings, see PEFT's `LoraConfig`."""

    r: PositiveInt = 8
    """Rank of the adapters."""
    alpha: NonNegativeInt = 16
    """LoRA alpha. The adapters' output is scaled by `alpha / r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the adapters' inputs."""
    target: str | tuple[str, ...] = "all-linear"
    """Names of the modules that get adapters, or `all-linear` for every linear layer."""


class JudgeSettings(ServerSettings):
    """A served model that judges free-text answers. `endpoint.Endpoint` explains the fields."""

    model: str
    """The judge's name on its server."""
    timeout_s: PositiveFloat = 30.0
    """Timeout of a request, in seconds."""
    retries: NonNegativeInt = 3
    """Number of retries after a failed request."""
    concurrency: PositiveInt = 32
    """Number of requests sent at the same time."""
    cache: str | None = None
    """Folder for cached verdicts. Default: the folder `verdicts` in the run's output folder."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value


class RewardTerms(Settings):
    """Terms of the rewards, for ablations. The defaults are GRPO-SIF."""

    progress: bool = True
    """Add progress to the answer reward: how much better an answer is than its group's answers at the last visit."""
    correction: Annotated[Correction, BeforeValidator(lambda value: "own" if value is True else value)] = "own"
    """What the last focus is compared with in the correction term of the grounding reward: the completion's own first
    focus, as in the paper (`own`), or the first focuses of the group's other completions (`group`). `off` removes the
    term. See `rewards.score_grounding`."""
    denominator: Denominator = "max"
    """Denominator of the box-level IoU: `max`, or `min` as in the code that the paper released. See `boxes.paired_iou`."""
    depth_repeats: bool = False
    """Let the depth reward count areas that repeat the area before them, as in the paper."""


_ALL_REWARDS: Mapping[RewardName, float] = dict.fromkeys(get_args(RewardName), 1.0)


class TrainSettings(Settings):
    """Settings of a training run, for either stage.

    Example:
        >>> run = TrainSettings(model="nano", data="runs/chains", output="runs/sft", training={"max_steps": 100})
        >>> run.for_stage("sft").training
        {'max_steps': 100}
    """

    model: _Name
    """Model to start from: a folder or a Hugging Face name."""
    data: _Name
    """Training data: a dataset folder or an examples file."""
    output: _Name
    """Folder for checkpoints, the final model and the history."""
    limit: PositiveInt | None = None
    """Use only the first N examples."""
    sample: PositiveInt | None = None
    """Use only N examples, drawn at random. The draw depends on their ids alone, so every run and every seed has the same
    N."""
    dtype: Dtype = "float32"
    """Data type of the weights: a torch dtype name or `auto`. Small updates of bfloat16 weights are lost to rounding, except
    with `lora`."""
    max_pixels: PositiveInt | None = None
    """Maximum area of an image in pixels, for processors that resize by area."""
    attn_implementation: str | None = None
    """Attention implementation, by its name in transformers, for example `flash_attention_2`, `flex_attention` or `eager`.
    Default: transformers chooses, but SFT on a CPU uses `eager`."""
    freeze: tuple[str, ...] = ()
    """Parts of parameter names, for example `visual`. Matching parameters are not trained."""
    lora: Lora | None = None
    """LoRA settings. Without them, every parameter that is not frozen is trained."""
    muon_lr: PositiveFloat | None = None
    """Learning rate of Muon, which then trains the matrices inside the model. AdamW trains the other parameters at
    `training.learning_rate`. Without it, the optimizer in `training.optim` trains everything. For small models trained in
    full."""
    rewards: Mapping[RewardName, NonNegativeFloat] = Field(default_factory=lambda: dict(_ALL_REWARDS))
    """GRPO-SIF only: weight of each reward. Default: 1. A weight of 0 turns the reward off."""
    reward_terms: RewardTerms = RewardTerms()
    """GRPO-SIF only: terms of the rewards."""
    judge: JudgeSettings | None = None
    """GRPO-SIF only: a served model that judges answers that rules cannot decide. Without one, the rules decide."""
    prefix_sharing: Sharing = "auto"
    """GRPO-SIF only: `auto` computes each prompt once for its group if the model allows it; `off` never does."""
    answers_only: bool = False
    """SFT only: train on direct answers without chains. This is the baseline for training on chains."""
    eval_data: _Name | None = None
    """Held-out questions to evaluate on during training: a dataset folder, an examples file or a question file. The run
    evaluates every `training.eval_steps` steps (default: 100) and at the end. It logs the metrics of `sif eval` as
    `eval_answer_accuracy`, `eval_final_hiou` and so on. `training.metric_for_best_model` can name one of them."""
    eval_limit: PositiveInt | None = None
    """Use only the first N questions of `eval_data`."""
    eval_max_new_tokens: PositiveInt | None = None
    """Maximum length of an answer to a held-out question, in tokens. Default: 1024."""
    training: Mapping[str, Any] = {}
    """Fields of TRL's SFTConfig or GRPOConfig."""

    @property
    def attention(self) -> str | None:
        """The attention implementation for pretraining and SFT: `attn_implementation` if set, else `eager` on a CPU.

        None leaves the choice to transformers. In bfloat16 on a CPU, torch's own attention takes three times as long as
        `eager`. Double precision does not use `eager`: transformers masks with the smallest double, which becomes minus
        infinity in its single-precision softmax, and padding queries become NaN. GRPO does not use this property, because
        its packed rows are long.
        """
        import torch

        if self.attn_implementation or torch.accelerator.is_available() or self.dtype == "float64":
            return self.attn_implementation
        return "eager"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the rewards that are on."""
        return {name: weight for name, weight in self.rewards.items() if weight}

    @classmethod
    def unknown(cls, key: Any) -> str | None:
        """The message for an unknown key. A field of TRL's config belongs under `training`."""
        if any(key in _names(trainer_config(stage)) for stage in get_args(Stage)):
            return f"{key} belongs under `training:`"
        return super().unknown(key)

    def for_stage(self, stage: Stage, *, origin: Origin | None = None) -> Self:
        """Return the settings for a stage, with `training` checked and numbers written as text converted.

        TRL's config accepts any value and fails later.

        Args:
            stage: the stage whose settings are allowed.
            origin: where the settings come from, for messages.
        Raises:
            ConfigError: settings of the other stage, unknown fields of TRL's config, or values of the wrong type. The error
                lists all of them.
        """
        check_stage(stage)
        training = dict(self.training)
        faults = [
            *_stage_faults({name: getattr(self, name) for name in self.model_fields_set}, training, stage),
            *self._without_eval_data(training),
            *(self._not_for_vllm(training) if stage == "grpo" and training.get("use_vllm") is True else ()),
        ]
        if faults:
            raise (origin or Origin()).error(faults)
        return self if training == self.training else self.replace(training=training)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, without those that are None. `from_values` reads them back."""
        return {name: value for name, value in super().to_dict().items() if value is not None}

    def identity(self) -> dict[str, Any]:
        """Return the values that `run.json` stores to identify a run. The keys and values are the same as in earlier
        versions, so that their runs can be resumed."""
        return {**self.to_dict(), "rewards": self.weights}

    @classmethod
    def locate(cls, path: Sequence[str]) -> Sequence[str]:
        """Return the path of an override. A field of TRL's config needs no prefix: `learning_rate=1e-5`."""
        return path if len(path) > 1 or path[0] in cls.model_fields else ["training", *path]

    @field_validator("rewards")
    @classmethod
    def _every_reward(cls, value: Mapping[RewardName, float]) -> dict[RewardName, float]:
        if value and not any({**_ALL_REWARDS, **value}.values()):
            raise ValueError("every reward has weight 0, so the run would learn nothing; give one a weight above 0")
        return {**_ALL_REWARDS, **value}

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if self.limit is not None and self.sample is not None:
            raise ValueError("limit and sample both choose examples; remove one of them")
        return self

    @model_validator(mode="after")
    def _one_way_to_train(self) -> Self:
        if self.muon_lr is not None and self.lora is not None:
            raise ValueError("muon_lr needs full training, but lora is set; remove one of them (lora uses training.optim)")
        return self

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> Self:
        for name in ("eval_limit", "eval_max_new_tokens"):
            if self.eval_data is None and getattr(self, name) is not None:
                raise ValueError(f"{name} needs eval_data; set eval_data to the held-out questions")
        return self

    def _without_eval_data(self, training: Mapping[str, Any]) -> Iterator[SettingFault]:
        if self.eval_data is None:
            words = " needs eval_data; set eval_data to the held-out questions"
            if training.get("eval_strategy") not in (None, "no"):
                yield SettingFault(("training", "eval_strategy"), words)
            if training.get("load_best_model_at_end"):
                yield SettingFault(("training", "load_best_model_at_end"), words)

    def _not_for_vllm(self, training: Mapping[str, Any]) -> Iterator[SettingFault]:
        """Settings with which TRL (seen in 1.16) passes images to vLLM wrongly; docs/howto/train.md has the others."""
        mode = training.get("vllm_mode", "colocate")
        if mode != "server":
            yield SettingFault(
                ("training", "vllm_mode"),
                f" must be 'server', got {mode!r}: in this mode TRL sends prompts with expanded image tokens, and vLLM "
                "expands them a second time. Set it to server and start a vLLM server; see docs/howto/train.md",
            )
        if self.max_pixels is not None:
            yield SettingFault(
                ("max_pixels",),
                f" {self.max_pixels:,} has no effect on vLLM: the server would resize images by its own limits and get a "
                "different number of image tokens than the prompt. Leave max_pixels out. Start this run and the server from "
                "a model folder whose processor has the limit; an SFT run with max_pixels writes such a folder",
            )


# Model types (in config.json) for which sampling by vLLM is expected to work, see docs/howto/train.md.
_FOR_VLLM = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def check_vllm(config: TrainSettings, *, here: bool = True) -> None:
    """Check that vLLM can sample a run's completions (`use_vllm`). Other runs are not checked.

    Args:
        config: a GRPO-SIF run.
        here: whether this Python will train the run, so that vLLM must be installed.
    Raises:
        ConfigError: the model's family is not expected to work, or vLLM is not installed.
        ModelError: the model does not exist.
    """
    if config.training.get("use_vllm") is not True:
        return
    from sifthinker.models import model_type  # heavy

    kind = model_type(config.model)
    if kind and kind not in _FOR_VLLM:
        why = (
            "TRL sends the weights of a LLaVA under names that vLLM does not know"
            if kind.startswith("llava")
            else "this type was not tested"
        )
        raise ConfigError(
            f"training.use_vllm: expected a model of type {', '.join(_FOR_VLLM)}; {config.model} is of type {kind}, and "
            f"{why}. Leave use_vllm out; see docs/howto/train.md"
        )
    if here and find_spec("vllm") is None:
        raise ConfigError(
            "training.use_vllm: vLLM is not installed here. The training process imports it too, not only the server. "
            "Install it with `pip install --no-deps vllm`, then install the packages that it imports. Without --no-deps, "
            "pip would replace transformers by an older version. See docs/howto/train.md"
        )


def check_stage(stage: object) -> None:
    """Check the name of a stage.

    Raises:
        ConfigError: it is not a stage, for example `SFT` in capitals.
    """
    if stage not in get_args(Stage):
        raise ConfigError(f"stage must be {' or '.join(get_args(Stage))}, got {stage!r}")


def load_config(path: str | os.PathLike[str], stage: Stage, overrides: Iterable[str] = ()) -> TrainSettings:
    """Read a config file and apply overrides.

    Args:
        path: YAML file.
        stage: stage of the run; its trainer's fields are allowed under `training`.
        overrides: `key=value` with a dotted key (`training.learning_rate=1e-5`) or the bare name of a field of `training`.
            Values are parsed as YAML. See `Settings.from_yaml`.
    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or missing, or a value has the wrong type. The error
            lists all faults.
    """
    return _checked(*TrainSettings.gathered(path, overrides), stage)


def make_config(values: Mapping[str, Any], stage: Stage, *, where: str = "config") -> TrainSettings:
    """Return the checked settings of a stage from plain values.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type. The message gives the place.
    """
    return _checked(values, Origin(where), stage)


def _checked(values: Mapping[str, Any], origin: Origin, stage: Stage) -> TrainSettings:
    """Return the checked settings of a stage. The error lists the faults of our keys and of TRL's fields."""
    check_stage(stage)
    try:
        made = TrainSettings.validated(values, origin)
    except FaultsError as error:
        training = values.get("training")
        known = {fault.place for fault in error.faults}
        stated = {key: value for key, value in values.items() if value is not None}
        more = _stage_faults(stated, dict(training) if isinstance(training, Mapping) else {}, stage)
        raise origin.error([*error.faults, *(fault for fault in more if fault.place not in known)]) from None
    return made.for_stage(stage, origin=origin)


def guess_stage(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Stage:
    """Guess the stage of a config file and its overrides from the keys, or else from `grpo` in the file name, or else SFT.

    Raises:
        ConfigError: the file is missing or not YAML, or an override is not `key=value`.
    """
    values, _ = TrainSettings.gathered(path, overrides)
    training = values.get("training")
    keys = set(training) if isinstance(training, dict) else set()
    sft, grpo = (set(_names(trainer_config(stage))) for stage in get_args(Stage))
    if keys & (grpo - sft) or values.keys() & set(_GRPO_ONLY):
        return "grpo"
    if keys & (sft - grpo) or "answers_only" in values:
        return "sft"
    return "grpo" if "grpo" in Path(path).name else "sft"


# Common names of TRL's fields, and the names that transformers uses now.
_ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
# Fields of TRL's config that have another place in our settings.
_ELSEWHERE = {
    "output_dir": "set the folder with `output`",
    "hub_token": "the config is saved with the model; set HF_TOKEN in the environment instead",
    "reward_weights": "set the weights under `rewards`",
}
_AT_LEAST_ONE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "max_completion_length",
)  # fmt: skip
_KINDS = {float: "a number", int: "a whole number", bool: "true or false"}


def _stage_faults(values: Mapping[str, Any], training: dict[str, Any], stage: Stage) -> Iterator[SettingFault]:
    """Yield the settings of the other stage, and what is wrong with the fields of TRL's config, see `_training_faults`."""
    if stage == "grpo" and values.get("answers_only"):
        yield SettingFault(("answers_only",), " is a setting of SFT, and this is a GRPO-SIF run; leave it out")
    if stage == "sft":
        for name in _GRPO_ONLY:
            if name in values:
                yield SettingFault((name,), " is a setting of GRPO-SIF, and this is an SFT run; leave it out")
    yield from _training_faults(training, stage)
    yield from _tracker_faults(training)


def _training_faults(values: dict[str, Any], stage: Stage) -> Iterator[SettingFault]:
    """Yield what is wrong with the fields of TRL's config. Numbers given as text, and a bare `no`, are fixed in `values`."""
    hints, names = get_type_hints(trainer_config(stage)), _names(trainer_config(stage))
    for old, new in _ALIASES.items():
        if values.get(old) is not None and values.get(new, values[old]) != values[old]:
            words = f" is {values[old]!r} and training.{new} is {values[new]!r}: keep one of these names"
            yield SettingFault(("training", old), words)
    for name in values:
        place = ("training", name)
        if name in _ELSEWHERE:
            yield SettingFault(place, f": {_ELSEWHERE[name]}")
            continue
        if name not in names:
            # The user may have meant one of our keys: an override without a prefix counts as a field of TRL's config.
            yield SettingFault(place, f": {unknown_key(name, [*TrainSettings.model_fields, *names])}", unknown=True)
            continue
        if values[name] is None and not _may_be_none(name, hints[name], stage):
            yield SettingFault(place, " has no value; leave the key out, or write one")
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
            yield SettingFault(place, f" must be {wanted}, got {value!r}")
        elif name in _AT_LEAST_ONE and value is not None and value < 1:
            yield SettingFault(place, f" must be at least 1, got {value!r}")


def _tracker_faults(training: Mapping[str, Any]) -> Iterator[SettingFault]:
    """Refuse a tracker that TRL cannot log completions to: wandb's tables do not accept prompts with images and text."""
    said = training.get("report_to")
    names = [said] if isinstance(said, str) else said or ()
    if training.get("log_completions") and ("wandb" in names or ("all" in names and find_spec("wandb"))):
        yield SettingFault(
            ("training", "log_completions"),
            ": TRL cannot log completions of prompts with images to wandb; the run would fail at the first logged step. Use "
            "report_to: trackio, which shows the images, or tensorboard. Or leave log_completions out: the run writes the "
            "completions of every logged step to its folder samples/",
        )


def _may_be_none(name: str, hint: Any, stage: Stage) -> bool:
    """Whether a field of TRL's config accepts None: by its type, or because None is its default."""
    default = next(item.default for item in dataclasses.fields(trainer_config(stage)) if item.name == name)
    return default is None or hint is Any or type(None) in get_args(hint)


def trainer_config(stage: Stage) -> type[Any]:
    """Return TRL's config class for a stage."""
    from trl import GRPOConfig, SFTConfig

    chosen: type[Any] = SFTConfig if stage == "sft" else GRPOConfig
    return chosen


def trainer_arguments(
    config: TrainSettings, stage: Stage, defaults: Mapping[str, Any], *, on_gpu: bool | None = None
) -> Any:
    """Return TRL's config for a run.

    Args:
        config: settings of the run.
        stage: stage of the run.
        defaults: our defaults for fields that the settings leave out.
        on_gpu: use the values of a run on a GPU even if this machine has none, for planning. By default the values are
            those of this machine.
    Raises:
        ConfigError: the settings belong to the other stage, or TRL rejects the values.
    """
    import torch

    from sifthinker.models import has_fast_bfloat16

    here = torch.accelerator.is_available()
    gpu = here if on_gpu is None else on_gpu
    # Without an accelerator, Trainer rejects bf16 unless use_cpu is set, and pinned memory only causes a warning.
    # Recomputing activations saves GPU memory. On a CPU it costs time, and memory is rarely short there.
    machine = {"use_cpu": not (gpu and here), "dataloader_pin_memory": gpu and here, "activation_checkpointing": gpu}
    said = _with_new_names(config.for_stage(stage).training)
    if not gpu and not has_fast_bfloat16() and not said.get("fp16"):
        machine["bf16"] = False  # TRL's default is True
    if on_gpu and said.pop("use_cpu", False):
        raise ConfigError("training.use_cpu is set, but the plan is for a GPU; plan without --gpu, or remove the key")
    if gpu and not here:
        said.pop("tf32", None)  # rejected without a GPU, and it does not affect a plan
    evaluation: dict[str, Any] = {}
    if config.eval_data is not None:
        evaluation = {"eval_strategy": "steps", "eval_steps": EVAL_STEPS}
        if stage == "grpo":
            evaluation["num_generations_eval"] = 1  # one answer for each question
    try:
        return trainer_config(stage)(output_dir=config.output, **{**machine, **defaults, **evaluation, **said})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training: {error}") from None


def _with_new_names(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields under their current names in transformers. Our defaults would override the old names."""
    said = dict(training)
    for old, new in _ALIASES.items():
        value = said.pop(old, None)
        if value is not None:
            said[new] = value
    return said


def _names(cls: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]
