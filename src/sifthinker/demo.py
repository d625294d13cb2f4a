"""The whole loop at the size of a laptop: scenes → chains → SFT → GRPO-SIF → evaluation → report.

Each stage is the same code that serves real data and real models. A stage that is finished is not done again, so that an
interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sifthinker.engine.build import Counts, Engine
from sifthinker.engine.estimators import GivenDepth
from sifthinker.engine.expansion import Expansion
from sifthinker.engine.sources import read_source
from sifthinker.errors import ConfigError
from sifthinker.evaluation.world import METRICS, Result, Row, evaluate
from sifthinker.files import atomic_write, make_folder
from sifthinker.report import Card, Chart, run_page, write_page
from sifthinker.thinker import Thinker, Thought
from sifthinker.training.config import make_config
from sifthinker.training.progress import read_history
from sifthinker.world.nano import write_nano
from sifthinker.world.questions import DECIMALS, ScriptedTeacher, write_world
from sifthinker.world.scenes import render, sample_scene

Bar = Callable[[str, "int | None"], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]

MODELS = {"untrained": "nano", "after SFT": "sft", "after GRPO-SIF": "grpo"}


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: scenes with a chain each, SFT steps of 32, GRPO steps of `prompts` × 8, test questions."""

    scenes: int = 2800
    sft_steps: int = 170
    grpo_steps: int = 12
    prompts: int = 6
    questions: int = 70


SHORT = Size(scenes=64, sft_steps=4, grpo_steps=2, prompts=2, questions=14)

_SUMMARY = (
    "A model of three million parameters, started from random weights, was shown {samples:,} chains of thought about small "
    "scenes ({steps} steps of SFT), and then practised on {prompts} questions with 8 tries each (GRPO-SIF). The numbers are "
    "measured on {questions} questions about scenes that it never saw. Minutes on a CPU teach it the form of a chain and "
    "roughly where things are; they do not teach it to reason, so answers may be little better than guessing (about one "
    "half on two-way questions), and so few steps of GRPO-SIF may move nothing beyond the noise that the intervals show. "
    "What this run shows is that every stage works; nothing here was tuned or picked to look better."
)


def run_demo(output: Path, *, short: bool, fresh: bool, bar: Bar, say: Say) -> tuple[Path, dict[str, dict[str, Result]]]:
    """Run the demo, or go on with one that was interrupted.

    Args:
        output: folder of the run.
        short: a few steps of everything.
        fresh: start over.
        bar: makes a progress bar: title, total → context of advance(done).
        say: takes lines for the person who waits.
    Returns:
        The report's path, and model → metric → result.
    Raises:
        SIFError: a stage failed.
    """
    size = SHORT if short else Size()
    make_folder(output)
    if fresh:
        _clear(output)
    _same_run(output, size)
    _data(output, size, bar)
    _train(output, size, say)
    measured = {title: _measure(output, title, folder, size, bar) for title, folder in MODELS.items()}
    results = {title: found for title, (found, _) in measured.items()}
    report = output / "report.html"
    write_page(report, _page(output, size, results, {title: rows for title, (_, rows) in measured.items()}))
    return report, results


def _clear(output: Path) -> None:
    """Delete what a demo wrote, and nothing else."""
    if not (output / "demo.json").is_file():
        if any(output.iterdir()):
            raise ConfigError(f"{output} is not empty and holds no demo; --fresh deletes only what a demo wrote")
        return
    for name in ("world", "chains", *MODELS.values()):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (*(f"eval-{folder}.json" for folder in MODELS.values()), "report.html", "demo.json"):
        (output / name).unlink(missing_ok=True)


def _same_run(output: Path, size: Size) -> None:
    """Refuse to mix runs of different sizes in one folder."""
    path = output / "demo.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != asdict(size):
            raise ConfigError(f"{output} holds a demo of another size; use --fresh or another -o")
        return
    atomic_write(path, json.dumps(asdict(size)) + "\n")


def _data(output: Path, size: Size, bar: Bar) -> None:
    records = output / "world" / "records.jsonl"
    if not records.is_file():
        with bar("scenes", size.scenes) as advance:
            write_world(output / "world", size.scenes, progress=advance)
    engine = Engine(
        root=records.parent,
        depth=GivenDepth(),
        teacher=ScriptedTeacher(),
        expansion=Expansion(decimals=DECIMALS),
    )
    with bar("chains", size.scenes) as advance:

        def progress(counts: Counts) -> None:
            advance(counts.done)

        engine.build(lambda: read_source(records), output / "chains", progress=progress)


def _train(output: Path, size: Size, say: Say) -> None:
    # torch takes seconds to import; the scenes above are already moving by then.
    from sifthinker.training.grpo import train_grpo
    from sifthinker.training.runs import is_finished
    from sifthinker.training.sft import train_sft

    if not (output / "nano").is_dir():
        shutil.rmtree(output / ".nano", ignore_errors=True)
        write_nano(output / ".nano")
        (output / ".nano").rename(output / "nano")
    data = str(output / "chains")
    if not is_finished(output / "sft"):
        say("SFT: the model learns to write chains")
        settings = {
            "max_steps": size.sft_steps,
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": max(1, size.sft_steps // 20),
            "logging_steps": max(1, size.sft_steps // 40),
            "save_steps": max(1, size.sft_steps // 3),
            "save_total_limit": 1,
            "bf16": True,
        }
        train_sft(
            make_config(
                {"model": str(output / "nano"), "data": data, "output": str(output / "sft"), "training": settings},
                "sft",
            )
        )
    if not is_finished(output / "grpo"):
        say("GRPO-SIF: the model tries each question 8 times and learns from the better tries")
        settings = {
            "max_steps": size.grpo_steps,
            "per_device_train_batch_size": size.prompts * 8,
            "learning_rate": 5e-5,
            "lr_scheduler_type": "constant",
            "max_completion_length": 200,
            "save_steps": max(1, size.grpo_steps // 2),
            "save_total_limit": 1,
        }
        train_grpo(
            make_config(
                {"model": str(output / "sft"), "data": data, "output": str(output / "grpo"), "training": settings},
                "grpo",
            )
        )


def _measure(output: Path, title: str, folder: str, size: Size, bar: Bar) -> tuple[dict[str, Result], list[Row]]:
    path = output / f"eval-{folder}.json"
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {name: Result(**value) for name, value in saved["results"].items()}, [Row(**row) for row in saved["rows"]]
    thinker = Thinker.load(output / folder, max_new_tokens=220)
    with bar(f"questions, {title}", size.questions) as advance:
        results, rows = evaluate(thinker, size.questions, batch_size=70, progress=advance)
    body = {"results": {name: asdict(result) for name, result in results.items()}, "rows": [r.to_json() for r in rows]}
    atomic_write(path, json.dumps(body, ensure_ascii=False) + "\n")
    return results, rows


def _page(output: Path, size: Size, results: dict[str, dict[str, Result]], rows: dict[str, list[Row]]) -> str:
    """The report: the table, the curves, and the first test question of each family answered by each trained model."""
    sft, grpo = read_history(output / "sft"), read_history(output / "grpo")
    names = {"format": "format", "answer": "answer", "grounding": "grounding", "depth": "depth"}
    charts = [
        Chart("SFT: loss on the chains", {"loss": _curve(sft, "loss")}),
        Chart("SFT: share of tokens foretold", {"accuracy": _curve(sft, "mean_token_accuracy")}),
        Chart(
            "GRPO-SIF: mean rewards of the tries",
            {name: _curve(grpo, f"rewards/{key}_reward/mean") for name, key in names.items()},
        ),
        Chart("GRPO-SIF: distance from the SFT model (KL)", {"kl": _curve(grpo, "kl")}),
    ]
    shown = list(dict.fromkeys(row.family for row in rows["after SFT"]))
    groups = []
    for family in shown:
        position = next(index for index, row in enumerate(rows["after SFT"]) if row.family == family)
        cards = [_card(rows[title][position], title) for title in ("after SFT", "after GRPO-SIF")]
        groups.append((f"{family}: {cards[0].thought.question}", cards))
    summary = _SUMMARY.format(
        samples=size.sft_steps * 32,
        steps=size.sft_steps,
        prompts=size.grpo_steps * size.prompts,
        questions=size.questions,
    )
    return run_page(
        title="SIFThinker demo",
        summary=summary,
        table=results,
        metrics=METRICS,
        charts=charts,
        groups=groups,
    )


def _curve(history: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]


def _card(row: Row, title: str) -> Card:
    # Pages show the scene larger than the model saw it; boxes are fractions and do not change.
    image, depth, _ = render(sample_scene(row.scene), 256)
    return Card(
        Thought(row.question, image, depth, row.text),
        title=title,
        truth=row.truth,
        correct=bool(row.values["answer accuracy"]),
        boxes=row.boxes,
    )
