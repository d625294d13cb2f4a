"""What a person sees while a model trains: one live line, and a history file that reports are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from sifthinker.files import atomic_write, read_jsonl, to_json

HISTORY = "history.jsonl"

_SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "rewards/format_reward/mean": "format",
    "rewards/answer_reward/mean": "answer",
    "rewards/grounding_reward/mean": "grounding",
    "rewards/depth_reward/mean": "depth",
    "completions/mean_length": "length",
}


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """A progress bar with the newest numbers, instead of a dictionary a step.

    Args:
        title: of the stage.
        console: where to draw; standard error by default, so that output stays clean.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console or Console(stderr=True),
        )
        self._title = title
        self._task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=state.max_steps, completed=state.global_step, numbers="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._task is not None and logs:
            numbers = " ".join(f"{_SHOWN[key]} {logs[key]:.3g}" for key in _SHOWN if logs.get(key) is not None)
            if numbers:
                self._bar.update(self._task, numbers=numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was; also after an interruption."""
        self._bar.stop()


def quiet(trainer: Any, title: str) -> ProgressLine:
    """Replace a trainer's own progress printing by a `ProgressLine`."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    line = ProgressLine(title)
    trainer.add_callback(line)
    return line


def write_history(trainer: Any, output: str) -> Path:
    """Write what the trainer logged, one JSON line a log, to the run's folder."""
    path = Path(output) / HISTORY
    atomic_write(path, "".join(to_json(_finite(entry)) + "\n" for entry in trainer.state.log_history))
    return path


def read_history(output: str | Path) -> list[dict[str, Any]]:
    """The log entries of a run; empty when it has none."""
    path = Path(output) / HISTORY
    if not path.is_file():
        return []
    return [row for _, row in read_jsonl(path)]


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN; a number that is not finite is left out as null."""
    return {
        key: None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
        for key, value in entry.items()
    }
