"""What both stages share: adapters, weights restored from checkpoints, a run from its start or resumption to its model."""

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
from sifthinker.coordinates import learnt_by
from sifthinker.errors import ConfigError
from sifthinker.files import atomic_write, make_folder, to_json
from sifthinker.fingerprint import data_fingerprint, model_fingerprint
from sifthinker.literals import Coordinates
from sifthinker.models import load_model, merge_adapter
from sifthinker.training.held_out import HeldOut
from sifthinker.training.progress import HISTORY, LOGGED, quiet, write_history
from sifthinker.training.settings import Stage, TrainSettings

logger = logging.getLogger(__name__)

FINISHED = "finished.json"
ADAPTER = "adapter"  # folder of a LoRA run's adapter, in the run's folder
_RUN = "run.json"  # the config of the run that a folder holds, and what its data and model hold
_STATE = "trainer_state.json"  # of a checkpoint; Trainer writes it after everything else


class OurTrainer:
    """Mixin for transformers' Trainer: Muon where the run asks for it, weights restored from checkpoints, and held-out
    questions in place of a loss when it is evaluated.

    A full model's weights come back from a checkpoint under the names they have now.

    Vision-language checkpoints are written under their architecture's published parameter names, which differ from the
    module's own (`language_model.model…` for `model.language_model…`). Trainer (seen in transformers 5.23) loads the file
    by the module's names, finds none, warns, and trains on from the weights it started with. `from_pretrained` knows both.
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
        """Ask the held-out questions, see `HeldOut.measure`, and log what they gave."""
        if self.held_out is None:
            found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]
            return found
        metrics = self.held_out.measure(self)
        training = self.model.training
        self.model.eval()  # TRL's trainers would log what they gathered while training, and forget it
        try:
            self.log(dict(metrics))  # type: ignore[attr-defined]
        finally:
            self.model.train(training)
        best = self.args.metric_for_best_model
        if best is not None:
            # No answer had it, for instance because there was no chain with an area: no model is better by it.
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
                raise ConfigError("muon_lr needs torch 2.9 or newer, which has Muon") from None
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
            # Adapters and sharded states keep the module's own names.
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        restored = load_model(resume_from_checkpoint, dtype=str(model.dtype).removeprefix("torch."))
        model.load_state_dict(restored.state_dict())


def lora_config(config: TrainSettings, frozen: Iterable[str] = ()) -> Any:
    """PEFT's config of the run, or None for full training.

    Args:
        config: the run.
        frozen: names of the parameters that `models.freeze` froze; their modules get no adapters.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig

    # "all-linear" means the frozen parts too, unless told otherwise: adapters there would train what was to stay.
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
    """Ctrl-C ends a run after the step under way, with a checkpoint; a second one ends it at once."""

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
        logger.warning("stopping after this step, with a checkpoint; press again to stop at once")


class _Cards(TrainerCallback):  # type: ignore[misc]
    """A model card in every checkpoint."""

    def __init__(self, config: TrainSettings, title: str, coordinates: Coordinates | None) -> None:
        self._config, self._title, self._coordinates = config, title, coordinates

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            atomic_write(folder / "README.md", model_card(self._config, self._title, state.log_history, self._coordinates))


def run(trainer: Any, config: TrainSettings, title: str) -> None:
    """Train, or go on from the newest checkpoint in the output folder; write the model, its processor and the history.

    Args:
        trainer: not yet started.
        config: its run.
        title: of the progress bar.
    Raises:
        KeyboardInterrupt: the run was interrupted; a checkpoint was written unless it had to end at once.
    """
    check_saving(trainer)
    table, stop = quiet(trainer, title), _StopAfterStep()
    trainer.add_callback(stop)
    learnt = learnt_by(trainer.processing_class.tokenizer)
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
    save_model(trainer, config)
    if trainer.accelerator.is_main_process:
        atomic_write(Path(config.output) / "README.md", model_card(config, title, trainer.state.log_history, learnt))
        atomic_write(Path(config.output) / FINISHED, to_json({"steps": trainer.state.global_step}) + "\n")


def check_saving(trainer: Any) -> None:
    """See before the first step that the finished model can be saved.

    Raises:
        ConfigError: DeepSpeed's ZeRO-3 is not allowed to gather the weights.
    """
    if not trainer.is_deepspeed_enabled:
        return
    zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError(
            "ZeRO-3 may not gather the weights, so the model could not be saved: set zero3_save_16bit_model: true in "
            "the accelerate config, or stage3_gather_16bit_weights_on_model_save in DeepSpeed's own"
        )


def save_model(trainer: Any, config: TrainSettings) -> None:
    """Write the finished model and its processor into the run's folder; every process of the run must call it.

    Weights that are spread over processes are gathered on the first. An adapter is written to the folder `adapter` and
    merged from there into its base: a process that has only a part of the weights cannot merge them.
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
        unset_hf_deepspeed_config()  # or ZeRO-3 would spread the base over processes that do not take part
        merge_adapter(folder / ADAPTER, folder, base=config.model, dtype=config.dtype)
    trainer.processing_class.save_pretrained(folder)


def _gathered(trainer: Any) -> dict[str, Any] | None:
    """The whole state of a model whose weights are spread over processes, on the first's CPU; None where they are not."""
    if trainer.is_deepspeed_enabled:
        state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.deepspeed)
        return state
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if trainer.is_fsdp_enabled or any(isinstance(parameter, DTensor) for parameter in trainer.model.parameters()):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole = dict(get_model_state_dict(trainer.model, options=options))
        # Gathering copies a tied weight under each of its names; as one tensor again it is written once.
        first: dict[int, str] = {}
        for name, parameter in trainer.model.named_parameters(remove_duplicate=False):
            if name in whole:
                whole[name] = whole[first.setdefault(id(parameter), name)]
        return whole
    return None


# What the card says of the numbers of boxes; nothing of fractions, which the package reads unless told.
_NUMBERS: dict[Coordinates, str] = {
    "per_mille": "Its boxes are whole numbers from 0 to 1000 (coordinates `per_mille`)",
    "resized": "Its boxes are whole pixels of the image as its processor resizes it (coordinates `resized`)",
}


def model_card(
    config: TrainSettings, title: str, history: Sequence[Mapping[str, Any]], coordinates: Coordinates | None = None
) -> str:
    """The README of a finished model: what it was made from and how, and the last numbers of its training.

    Args:
        config: the run.
        title: its stage.
        history: what was logged.
        coordinates: in which the model has learnt to state boxes, see `coordinates.learnt_by`.
    """
    last: dict[str, float] = {}
    for entry in history:
        last |= {key: value for key, value in entry.items() if isinstance(value, int | float)}
    shown = ("loss", "reward", "kl", "mean_token_accuracy", *(key for key in last if key.startswith(("rewards/", "chain/"))))
    numbers = "\n".join(f"| {key} | {last[key]:.4g} |" for key in shown if key in last)
    held_out = "\n".join(f"| {metric} | {last[key]:.4g} |" for key, metric in LOGGED.items() if key in last)
    measured = f"Last measured on held-out questions, `{config.eval_data}`:\n\n| | |\n| --- | --- |\n{held_out}\n\n"
    numbers_are = _NUMBERS.get(coordinates or "unit", "")
    stated = f"{numbers_are}, as its tokenizer_config.json notes for `sif`.\n\n" if numbers_are else ""
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\nbase_model: {json.dumps(config.model)}\n"
        f"tags: [sifthinker, {title.lower()}]\n---\n\n"
        f"# {Path(config.output).name}\n\n"
        f"{title} of `{config.model}` on `{config.data}` with sifthinker {__version__}. It thinks in steps, each naming "
        f"regions as boxes with their depth; ask it with `sif think IMAGE QUESTION --model FOLDER`.\n\n"
        f"{stated}{measured if held_out else ''}"
        f"Last logged while training, not measured on held-out data:\n\n| | |\n| --- | --- |\n{numbers}\n\n"
        f"```yaml\n{settings}```\n"
    )


def is_finished(output: str | Path) -> bool:
    """Whether a run's folder holds its finished model: the marker is written after everything else."""
    return (Path(output) / FINISHED).is_file()


def claim(config: TrainSettings, stage: Stage) -> bool:
    """Take the output folder for a run, before anything is loaded.

    Data and a local start model are compared by content, see `fingerprint`: a dataset that was rebuilt at the same path is
    another one, and a folder that was moved is not.

    Returns:
        Whether there is something to do: False where the folder holds this run's finished model, unless more steps or epochs
        are asked for than before.
    Raises:
        ConfigError: the folder holds checkpoints or the model of another run, or somebody else's model or README.
        SIFError: it cannot be written.
    """
    folder = make_folder(config.output)
    content = {"model": model_fingerprint(config.model), "data": data_fingerprint(config.data)}
    ours = json.loads(json.dumps({"stage": stage, **config.identity(), "content": content}, default=str))
    theirs = _held(folder)
    checkpoints = _checkpoints(folder)
    if theirs is None and not checkpoints:
        _refuse_foreign(folder)
    if theirs is not None and (is_finished(folder) or checkpoints):
        _refuse_another(folder, theirs, ours, _IDENTITY)
        before, now = theirs["training"], ours["training"]
        longer = any((now.get(key) or 0) > (before.get(key) or 0) for key in _LENGTHS)
        if is_finished(folder) and not (longer and checkpoints):
            logger.warning(f"{folder}: this run is finished; to train it again choose another output or delete the folder")
            return False
        aside = {"output", "training", "content", *_IDENTITY}
        settings = {key for key in {*ours, *theirs} - aside if ours.get(key) != theirs.get(key)}
        changed = {f"training.{key}" for key in {*before, *now} if before.get(key) != now.get(key)}
        if settings | changed:
            logger.warning(f"{folder}: the run goes on with other settings: {', '.join(sorted(settings | changed))}")
    # In this order: another process of the run that comes late must not take the longer run for the finished one.
    (folder / FINISHED).unlink(missing_ok=True)
    atomic_write(folder / _RUN, json.dumps(ours) + "\n")
    return True


def claim_parts(output: str | Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for a run of several parts, each in a folder of its own in it, before anything is trained.

    Args:
        output: folder of the run.
        settings: everything that makes the run another one, `stage` among it; plain values.
    Raises:
        ConfigError: the folder holds something of another run, or somebody else's model or README.
        SIFError: it cannot be written.
    """
    folder = make_folder(output)
    ours = json.loads(json.dumps(settings))
    held = any(is_finished(place) or _checkpoints(place) for place in (folder, *filter(Path.is_dir, folder.iterdir())))
    theirs = _held(folder)
    if theirs is not None and held:
        _refuse_another(folder, theirs, ours, sorted({*theirs, *ours}, key=lambda key: (key != "stage", key)))
    elif held:
        logger.warning(f"{folder} is of an older version, which kept no {_RUN}; it is taken for this run and goes on")
    elif theirs is None:
        _refuse_foreign(folder)
    atomic_write(folder / _RUN, json.dumps(ours) + "\n")


# What makes a run another one; all else, such as a learning rate or an attention, may change on the way.
_IDENTITY = ("stage", "model", "data", "limit", "answers_only", "max_pixels", "freeze", "lora", "rewards", "reward_terms")
_LENGTHS = ("max_steps", "num_train_epochs")


def _held(folder: Path) -> dict[str, Any] | None:
    """What a folder says whose run it holds; None where it says nothing."""
    try:
        found = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder without a run that holds something where a run writes its model."""
    names = [folder / name for name in ("README.md", "config.json", HISTORY) if (folder / name).exists()]
    theirs = [*names, *sorted(folder.glob("*.safetensors"))]
    if theirs:
        raise ConfigError(f"{theirs[0]} is not of a run of ours and would be overwritten; choose another output")


def _refuse_another(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse a folder whose run differs in one of these keys."""
    for key in keys:
        before, now = ((run.get("content") or {}).get(key) for run in (theirs, ours))
        moved = _place(theirs.get(key)) != _place(ours.get(key))
        differs = moved if before is None or now is None else before != now
        if differs:
            changed = (
                f"was {theirs.get(key)!r}, now {ours.get(key)!r}" if moved else f"{ours.get(key)!r} has changed since then"
            )
            raise ConfigError(f"{folder} holds another run: {key} {changed}; choose another output or delete the folder")
        if before is None and now is not None:
            logger.warning(f"{folder / _RUN} of an older version does not state the content of {key}; its path is the same")


def _place(value: Any) -> Any:
    """A path as it is however it was written; everything else as it is."""
    return os.path.realpath(value) if isinstance(value, str) and os.path.exists(value) else value


def _checkpoints(output: str | Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    found = [path for path in Path(output).glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def _last_checkpoint(output: str | Path) -> Path | None:
    """The newest checkpoint of a run's folder that is whole, or None."""
    for folder in _checkpoints(output):
        try:
            json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning(f"{folder} is not whole; the run goes on from an earlier checkpoint")
        else:
            return folder
    return None


def _is_last(checkpoint: Path, trainer: Any) -> bool:
    """Whether nothing is left to be trained after a checkpoint; Trainer would train a step more."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return False  # their states are loaded by `train` alone
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    steps = trainer.args.max_steps
    if steps <= 0 and state["global_step"] >= state["max_steps"]:  # the end of that run; is it this one's?
        *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return bool(0 < steps <= state["global_step"])
