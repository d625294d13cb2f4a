"""What a person sees while a model trains: a live table, and a history file that reports are made from."""

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
    """The name by which a metric is logged.

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
    "kl": "kl",
    "completions/mean_length": "tokens a chain",
    "chain/steps": "steps a chain",
    "chain/box_movement": "box movement",
    "chain/first_hiou": "HIoU of the first focus",
    "chain/final_hiou": "HIoU of the last focus",
    **{name: f"eval {metric}" for name, metric in LOGGED.items()},
}


class ProgressTable(TrainerCallback):  # type: ignore[misc]
    """A progress bar over a table of the newest numbers and the first ones, instead of a dictionary a step; into a file, a
    line a log.

    Args:
        title: of the stage.
        console: where to draw; standard error by default, so that output stays clean.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._title = title
        self._asked = 0  # batches of the evaluation under way
        self._task: TaskID | None = None
        self._first: dict[str, float] = {}
        self._newest: dict[str, float] = {}
        self._live = Live(console=console or Console(stderr=True), get_renderable=self._draw, refresh_per_second=4)

    def _draw(self) -> RenderableType:
        if not self._newest:
            return self._bar
        table = Table(box=None, pad_edge=False)
        for heading in ("", "first", "now"):
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
            # A log file shows no live table: a line for each log, so that a run can be watched there too.
            words = ", ".join(f"{name} {numbers[key]:.3g}" for key, name in _SHOWN.items() if key in numbers)
            if words:
                self._live.console.print(f"{self._title} {state.global_step}/{state.max_steps}: {words}", soft_wrap=True)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._asked += 1
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._title}: held-out questions, batch {self._asked}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._asked = 0
        if self._task is not None:
            self._bar.update(self._task, description=self._title)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was; also after an interruption."""
        if self._live.is_started:
            self._live.stop()
            if not self._live.console.is_terminal:
                self._live.console.print()  # into a file, the last table ends without a line end


def quiet(trainer: Any, title: str) -> ProgressTable:
    """Replace a trainer's own progress printing by a `ProgressTable`."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    table = ProgressTable(title)
    trainer.add_callback(table)
    return table


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
