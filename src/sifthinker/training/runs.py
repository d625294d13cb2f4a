"""Code shared by both stages: adapters, resuming from checkpoints, and a run from its start to the finished model."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerState
from transformers.integrations import unset_hf_deepspeed_config

from sifthinker import __version__
from sifthinker.coordinates import recorded_coordinates
from sifthinker.errors import ConfigError
from sifthinker.files import atomic_write, check_folder, make_folder, to_json
from sifthinker.fingerprint import data_fingerprint, model_fingerprint
from sifthinker.literals import Coordinates
from sifthinker.models import load_model, merge_adapter
from sifthinker.training.held_out import HeldOut
from sifthinker.training.progress import HISTORY, LOGGED, quiet, write_history
from sifthinker.training.settings import Stage, TrainSettings

logger = logging.getLogger(__name__)

FINISHED = "finished.json"
ADAPTER = "adapter"  # subfolder for the adapter of a LoRA run
_RUN = "run.json"  # config of the run in a folder, and the fingerprints of its data and model
_STATE = "trainer_state.json"  # the last file that Trainer writes to a checkpoint


class OurTrainer:
    """Mixin for transformers' Trainer: optional Muon, correct resuming, and evaluation on held-out questions.

    Vision-language checkpoints use the published parameter names of their architecture (`language_model.model…`), which
    differ from the names in the module (`model.language_model…`). Trainer (seen in transformers 5.23) looks for the
    module's names, finds none, warns, and continues with the weights that it started with. `from_pretrained` knows both
    kinds of names, so this mixin uses it to restore full models.
    """

    model: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool
    optimizer: Any
    args: Any
    muon_lr: float | None = None
    held_out: HeldOut | None = None
    state: Any
    control: Any
    callback_handler: Any

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate on the held-out questions, see `HeldOut.measure`, and log the metrics."""
        if self.held_out is None:
            found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]
            return found
        metrics = self.held_out.measure(self)
        training = self.model.training
        self.model.eval()  # in training mode, TRL's trainers would also log their collected training metrics and reset them
        try:
            self.log(dict(metrics))  # type: ignore[attr-defined]
        finally:
            self.model.train(training)
        best = self.args.metric_for_best_model
        if best is not None:
            # No answer has this metric, for example because no chain has an area. NaN never counts as an improvement.
            metrics.setdefault(f"eval_{best.removeprefix('eval_')}", math.nan)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if not (best / "config.json").is_file() or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()  # type: ignore[misc]
            return
        self._load_from_checkpoint(str(best))

    def create_optimizer(self, model: Any = None) -> Any:
        if self.muon_lr is None:
            return super().create_optimizer(model)  # type: ignore[misc]
        if self.optimizer is None:
            try:
                from sifthinker.training.muon import build_muon
            except ImportError:
                raise ConfigError("muon_lr needs torch 2.9 or newer; update torch, or leave muon_lr out") from None
            self.optimizer = build_muon(
                self.model if model is None else model,
                muon_lr=self.muon_lr,
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        whole = (Path(resume_from_checkpoint) / "config.json").is_file()
        if not whole or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            # Adapters and sharded states use the names in the module.
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        restored = load_model(resume_from_checkpoint, dtype=str(model.dtype).removeprefix("torch."))
        model.load_state_dict(restored.state_dict())


def lora_config(config: TrainSettings, frozen: Iterable[str] = ()) -> Any:
    """Return PEFT's config for a run, or None for full training.

    Args:
        config: settings of the run.
        frozen: names of the parameters that `models.freeze` froze. Their modules get no adapters.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig

    # "all-linear" includes the frozen modules. Exclude them, or their adapters would be trained.
    modules = {name.rpartition(".")[0] for name in frozen if not set(config.freeze) & set(name.split("."))}
    left_out = "|".join(re.escape(name) for name in (*config.freeze, *sorted(modules)))
    target = config.lora.target if isinstance(config.lora.target, str) else list(config.lora.target)
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=target,
        exclude_modules=rf"(.*\.)?({left_out})(\..*)?" if left_out else None,
        task_type="CAUSAL_LM",
    )


class _StopAfterStep(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C ends a run after the current step, with a checkpoint. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore()

    def restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            self.restore()
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("stopping after this step and writing a checkpoint; press Ctrl-C again to stop at once")


class _Cards(TrainerCallback):  # type: ignore[misc]
    """Write a model card into every checkpoint."""

    def __init__(self, config: TrainSettings, title: str, coordinates: Coordinates | None) -> None:
        self._config, self._title, self._coordinates = config, title, coordinates

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            atomic_write(folder / "README.md", model_card(self._config, self._title, state.log_history, self._coordinates))


def run(trainer: Any, config: TrainSettings, title: str) -> None:
    """Train, or resume from the newest checkpoint in the output folder. Write the model, its processor and the history.

    Args:
        trainer: a trainer that has not started.
        config: settings of the run.
        title: title of the progress bar.
    Raises:
        ConfigError: the run ended without a step. No model is written.
        KeyboardInterrupt: the user interrupted the run. A checkpoint was written, unless the user interrupted it twice.
    """
    check_saving(trainer)
    table, stop = quiet(trainer, title), _StopAfterStep()
    trainer.add_callback(stop)
    learnt = recorded_coordinates(trainer.processing_class.tokenizer)
    trainer.add_callback(_Cards(config, title, learnt))
    checkpoint = _last_checkpoint(config.output)
    try:
        if checkpoint is not None and _is_last(checkpoint, trainer):
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = TrainerState.load_from_json(str(checkpoint / _STATE))
            if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
                trainer._load_best_model()
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        stop.restore()
        table.stop()
        if trainer.accelerator.is_main_process:
            write_history(trainer, config.output)
    if stop.asked:
        raise KeyboardInterrupt
    if not trainer.state.global_step:
        raise ConfigError("the run ended without a step, so there is no model to save; use smaller batches or more data")
    save_model(trainer, config)
    if trainer.accelerator.is_main_process:
        atomic_write(Path(config.output) / "README.md", model_card(config, title, trainer.state.log_history, learnt))
        atomic_write(Path(config.output) / FINISHED, to_json({"steps": trainer.state.global_step}) + "\n")


def check_saving(trainer: Any) -> None:
    """Check before the first step that the finished model can be saved.

    Raises:
        ConfigError: DeepSpeed ZeRO-3 is not configured to gather the weights.
    """
    if not trainer.is_deepspeed_enabled:
        return
    zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError(
            "ZeRO-3 is not allowed to gather the weights, so the finished model could not be saved. Set "
            "zero3_save_16bit_model: true in the accelerate config, or stage3_gather_16bit_weights_on_model_save: true in "
            "the DeepSpeed config"
        )


def save_model(trainer: Any, config: TrainSettings) -> None:
    """Write the finished model and its processor to the run's folder. Every process of the run must call this function.

    Sharded weights are gathered on the first process. An adapter is saved to the folder `adapter` first and then merged from
    there into its base, because a process that has only a shard of the weights cannot merge them.
    """
    folder = Path(config.output)
    whole = _gathered(trainer)  # all processes take part
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is None:
        model.save_pretrained(folder, state_dict=whole)
    else:
        model.save_pretrained(str(folder / ADAPTER), state_dict=whole)
        unset_hf_deepspeed_config()  # otherwise ZeRO-3 would shard the base over processes that do not load it
        merge_adapter(folder / ADAPTER, folder, base=config.model, dtype=config.dtype)
    trainer.processing_class.save_pretrained(folder)


def _gathered(trainer: Any) -> dict[str, Any] | None:
    """Return the complete state of a sharded model, on the CPU of the first process; None if the model is not sharded."""
    if trainer.is_deepspeed_enabled:
        state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.deepspeed)
        return state
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if trainer.is_fsdp_enabled or any(isinstance(parameter, DTensor) for parameter in trainer.model.parameters()):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole = dict(get_model_state_dict(trainer.model, options=options))
        # Gathering copies a tied weight once for each of its names. Make it one tensor again, so that it is saved once.
        first: dict[int, str] = {}
        for name, parameter in trainer.model.named_parameters(remove_duplicate=False):
            if name in whole:
                whole[name] = whole[first.setdefault(id(parameter), name)]
        return whole
    return None


# The model card's sentence on box coordinates. Fractions, the default, need none.
_NUMBERS: dict[Coordinates, str] = {
    "per_mille": "It writes boxes as whole numbers from 0 to 1000 (coordinates `per_mille`)",
    "resized": "It writes boxes in whole pixels of the image that its processor resized (coordinates `resized`)",
}


def model_card(
    config: TrainSettings, title: str, history: Sequence[Mapping[str, Any]], coordinates: Coordinates | None = None
) -> str:
    """Return the README of a finished model: base model, data, settings, and the last metrics of its training.

    Args:
        config: settings of the run.
        title: title of the stage.
        history: log entries of the trainer.
        coordinates: box coordinates that the model learned to write, see `coordinates.recorded_coordinates`.
    """
    last: dict[str, float] = {}
    for entry in history:
        last |= {key: value for key, value in entry.items() if isinstance(value, int | float)}
    shown = ("loss", "reward", "kl", "mean_token_accuracy", *(key for key in last if key.startswith(("rewards/", "chain/"))))
    numbers = "\n".join(f"| {key} | {last[key]:.4g} |" for key in shown if key in last)
    held_out = "\n".join(f"| {metric} | {last[key]:.4g} |" for key, metric in LOGGED.items() if key in last)
    heading = "| metric | value |\n| --- | --- |"
    measured = f"Last evaluation during training, on held-out questions (`{config.eval_data}`):\n\n{heading}\n{held_out}\n\n"
    numbers_are = _NUMBERS.get(coordinates or "unit", "")
    stated = f"{numbers_are}. `sif` reads this from its tokenizer_config.json.\n\n" if numbers_are else ""
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\nbase_model: {json.dumps(config.model)}\n"
        f"tags: [sifthinker, {title.lower()}]\n---\n\n"
        f"# {Path(config.output).name}\n\n"
        f"{title} of `{config.model}` on `{config.data}`, with sifthinker {__version__}.\n\n"
        f"{_usage(config)}\n\n{stated}{measured if held_out else ''}"
        f"Last values in the training log, measured on the training data:\n\n{heading}\n{numbers}\n\n"
        f"Settings of the run:\n\n```yaml\n{settings}```\n"
    )


def _usage(config: TrainSettings) -> str:
    """What a model card says about the model's answers, and the command that asks the model."""
    command = "sif think IMAGE QUESTION --model FOLDER"
    if config.answers_only:
        return f"The model answers directly, without steps. To ask it a question, run `{command} --direct`."
    return (
        "The model thinks in steps before it answers. Each step lists regions of the image, as boxes with their depth, and "
        f"describes them. To ask it a question, run `{command}`."
    )


def is_finished(output: str | Path) -> bool:
    """Return whether a folder contains a finished run. The marker file is written last."""
    return (Path(output) / FINISHED).is_file()


def claim(config: TrainSettings, stage: Stage) -> dict[str, Any] | None:
    """Check the output folder of a run, before anything is loaded. Write nothing, because the run may still be refused.

    Data and a local base model are compared by content, see `fingerprint`. A dataset that was rebuilt at the same path
    counts as different; a folder that was moved counts as the same.

    Returns:
        None if the folder contains this run's finished model and the run does not ask for more steps or epochs than before.
        Otherwise the settings that identify the run, for `record`.
    Raises:
        ConfigError: the folder contains checkpoints or the model of another run, or a model or README from elsewhere.
        SIFError: the folder cannot be written.
    """
    folder = check_folder(config.output)
    content = {"model": model_fingerprint(config.model), "data": data_fingerprint(config.data)}
    ours: dict[str, Any] = json.loads(json.dumps({"stage": stage, **config.identity(), "content": content}, default=str))
    theirs = _held(folder)
    checkpoints = _checkpoints(folder)
    if theirs is None and not checkpoints:
        _refuse_foreign(folder)
    if theirs is not None and (is_finished(folder) or checkpoints):
        _refuse_another(folder, theirs, ours, _IDENTITY)
        before, now = theirs["training"], ours["training"]
        longer = any((now.get(key) or 0) > (before.get(key) or 0) for key in _LENGTHS)
        if is_finished(folder) and not (longer and checkpoints):
            logger.warning(f"{folder}: this run is finished; to train again, choose another output or delete the folder")
            return None
        aside = {"output", "training", "content", *_IDENTITY}
        settings = {key for key in {*ours, *theirs} - aside if ours.get(key) != theirs.get(key)}
        changed = {f"training.{key}" for key in {*before, *now} if before.get(key) != now.get(key)}
        if settings | changed:
            logger.warning(f"{folder}: the run resumes with changed settings: {', '.join(sorted(settings | changed))}")
    return ours


def record(config: TrainSettings, identity: Mapping[str, Any]) -> None:
    """Reserve the output folder for a run that is about to start.

    Args:
        config: settings of the run.
        identity: what `claim` returned.
    """
    folder = make_folder(config.output)
    # Remove the marker before writing run.json. Otherwise a late process of this run could find the new settings together
    # with the old marker, and take the run for finished.
    (folder / FINISHED).unlink(missing_ok=True)
    atomic_write(folder / _RUN, json.dumps(identity) + "\n")


def claim_parts(output: str | Path, settings: Mapping[str, Any]) -> None:
    """Reserve a folder for a run of several parts, before anything is trained. Each part has its own subfolder.

    Args:
        output: folder of the run.
        settings: the settings that identify the run, including `stage`, as plain values.
    Raises:
        ConfigError: the folder contains files of another run, or a model or README from elsewhere.
        SIFError: the folder cannot be written.
    """
    folder = make_folder(output)
    ours = json.loads(json.dumps(settings))
    held = any(is_finished(place) or _checkpoints(place) for place in (folder, *filter(Path.is_dir, folder.iterdir())))
    theirs = _held(folder)
    if theirs is not None and held:
        _refuse_another(folder, theirs, ours, sorted({*theirs, *ours}, key=lambda key: (key != "stage", key)))
    elif held:
        logger.warning(f"{folder} has no {_RUN}, as in older versions; assuming that it contains this run, and resuming it")
    elif theirs is None:
        _refuse_foreign(folder)
    atomic_write(folder / _RUN, json.dumps(ours) + "\n")


# The settings that identify a run. All others, such as the learning rate, may change when a run is resumed.
_IDENTITY = (
    "stage",
    "model",
    "data",
    "limit",
    "sample",
    "answers_only",
    "max_pixels",
    "freeze",
    "lora",
    "rewards",
    "reward_terms",
)
_LENGTHS = ("max_steps", "num_train_epochs")


def _held(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a folder's run.json contains; None if there are none."""
    try:
        found = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that has no run but contains files that the run would overwrite."""
    names = [folder / name for name in ("README.md", "config.json", HISTORY) if (folder / name).exists()]
    theirs = [*names, *sorted(folder.glob("*.safetensors"))]
    if theirs:
        raise ConfigError(
            f"{theirs[0]} was not written by a sif run, and this run would overwrite it; choose another output"
        )


def _refuse_another(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse a folder whose run differs from ours in one of the keys."""
    for key in keys:
        before, now = ((run.get("content") or {}).get(key) for run in (theirs, ours))
        moved = _place(theirs.get(key)) != _place(ours.get(key))
        differs = moved if before is None or now is None else before != now
        if differs:
            changed = (
                f"was {theirs.get(key)!r}, now {ours.get(key)!r}" if moved else f"{ours.get(key)!r} has changed since then"
            )
            raise ConfigError(f"{folder} contains another run: {key} {changed}; choose another output or delete the folder")
        if before is None and now is not None:
            logger.warning(
                f"{folder / _RUN} is from an older version and has no fingerprint of {key}; only its path was compared"
            )


def _place(value: Any) -> Any:
    """Return the real path if the value is an existing path; any other value unchanged."""
    return os.path.realpath(value) if isinstance(value, str) and os.path.exists(value) else value


def _checkpoints(output: str | Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    found = [path for path in Path(output).glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def _last_checkpoint(output: str | Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder, or None."""
    for folder in _checkpoints(output):
        try:
            json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning(f"{folder} is incomplete; the run resumes from an earlier checkpoint")
        else:
            return folder
    return None


def _is_last(checkpoint: Path, trainer: Any) -> bool:
    """Return whether a checkpoint is the end of its run. Trainer itself would train one more step."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return False  # only `train` loads their states
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    steps = trainer.args.max_steps
    if steps <= 0 and state["global_step"] >= state["max_steps"]:  # that run ended here; check whether this one ends too
        *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return bool(0 < steps <= state["global_step"])
