"""Progress of a training run: a live table in the terminal, and a history file for reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from transformers import TrainerCallback

from sifthinker.evaluation.metrics import METRICS
from sifthinker.files import atomic_write, read_jsonl, to_json

HISTORY = "history.jsonl"


def logged_name(metric: str) -> str:
    """Return the name under which a metric is logged.

    Example:
        >>> logged_name("final HIoU")
        'eval_final_hiou'
    """
    return f"eval_{metric.lower().replace(' ', '_')}"


LOGGED = {logged_name(metric): metric for metric in METRICS}

_SHOWN = {
    "loss": "loss",
    "mean_token_accuracy": "token accuracy",
    "reward": "reward",
    "rewards/format_reward/mean": "format",
    "rewards/answer_reward/mean": "answer",
    "rewards/grounding_reward/mean": "grounding",
    "rewards/depth_reward/mean": "depth",
    "rewards/answer_reward/missing": "unjudged answers",
    "frac_reward_zero_std": "groups with equal rewards",
    "kl": "KL divergence",
    "completions/mean_length": "tokens per chain",
    "chain/steps": "steps per chain",
    "chain/box_movement": "box movement",
    "chain/first_hiou": "first HIoU",
    "chain/final_hiou": "final HIoU",
    **{name: f"eval {metric}" for name, metric in LOGGED.items()},
}


class ProgressTable(TrainerCallback):  # type: ignore[misc]
    """A progress bar and a table with the first and the latest metrics. If the output is a file, one line for each log
    entry.

    Args:
        title: title of the stage.
        console: console to draw on. Default: standard error.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._title = title
        self._asked = 0  # batches of the current evaluation
        self._task: TaskID | None = None
        self._first: dict[str, float] = {}
        self._newest: dict[str, float] = {}
        self._live = Live(console=console or Console(stderr=True), get_renderable=self._draw, refresh_per_second=4)

    def _draw(self) -> RenderableType:
        if not self._newest:
            return self._bar
        table = Table(box=None, pad_edge=False)
        for heading in ("", "first", "latest"):
            table.add_column(heading, justify="right" if heading else "left")
        for key, name in _SHOWN.items():
            if key in self._newest:
                std = self._newest.get(key.removesuffix("/mean") + "/std") if key.endswith("/mean") else None
                spread = "" if std is None else f" ± {std:.3g}"
                table.add_row(name, f"{self._first[key]:.3g}", f"{self._newest[key]:.3g}{spread}")
        return Group(self._bar, table)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._task = self._bar.add_task(self._title, total=state.max_steps, completed=state.global_step)
            self._live.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        self._first = {**numbers, **self._first}
        self._newest |= numbers
        if self._live.is_started and not self._live.console.is_terminal:
            # A log file cannot show a live table. It gets one line for each log entry instead.
            words = ", ".join(f"{name} {numbers[key]:.3g}" for key, name in _SHOWN.items() if key in numbers)
            if words:
                self._live.console.print(f"{self._title} {state.global_step}/{state.max_steps}: {words}", soft_wrap=True)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._asked += 1
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._title}: evaluating, batch {self._asked}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._asked = 0
        if self._task is not None:
            self._bar.update(self._task, description=self._title)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Restore the terminal. Safe to call after an interruption."""
        if self._live.is_started:
            self._live.stop()
            if not self._live.console.is_terminal:
                self._live.console.print()  # in a file, the last table has no newline at its end


def quiet(trainer: Any, title: str) -> ProgressTable:
    """Replace the progress output of a trainer with a `ProgressTable`."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    table = ProgressTable(title)
    trainer.add_callback(table)
    return table


def write_history(trainer: Any, output: str) -> Path:
    """Write the trainer's log to the run's folder, one JSON line for each entry."""
    path = Path(output) / HISTORY
    atomic_write(path, "".join(to_json(_finite(entry)) + "\n" for entry in trainer.state.log_history))
    return path


def read_history(output: str | Path) -> list[dict[str, Any]]:
    """Read the log entries of a run; empty if there are none."""
    path = Path(output) / HISTORY
    if not path.is_file():
        return []
    return [row for _, row in read_jsonl(path)]


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite with None, because JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
        for key, value in entry.items()
    }
