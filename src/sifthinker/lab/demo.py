"""The complete pipeline at laptop size: scenes → chains → SFT → GRPO-SIF → evaluation → report.

Each stage runs the same code as for real data and real models. The arms come from the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sifthinker.evaluation.metrics import METRICS, Result, Row, group_by, summarise
from sifthinker.files import make_folder
from sifthinker.lab.benchmark import families_above_chance
from sifthinker.lab.questions import scene_at
from sifthinker.lab.scenes import render
from sifthinker.lab.study import ARMS, SHORT, Bar, Lab, Say, Schedule, refuse_foreign
from sifthinker.scoring.rewards import REWARDS
from sifthinker.show.report import Card, Chart, run_page, write_page, write_picture
from sifthinker.thinker import Thought
from sifthinker.training.progress import read_history

# Title of each model in the demo → its arm in the study.
MODELS = {"base": "base", "after SFT": "chains", "after GRPO-SIF": "grpo-sif"}
SIZE = Schedule()

_SUMMARY = (
    "The base model is nano, with three million parameters. It was pretrained on small scenes: which objects they "
    "contain, where the objects are, and how far away. It answers questions directly. The demo trained it on "
    "{chains:,} chains of thought ({sft_steps} steps of SFT with {sft_batch} chains each), and then on {practised} of "
    "the questions ({grpo_steps} steps of GRPO-SIF, with 8 completions per question). The metrics come from "
    "{questions} questions about scenes that no model has seen. Half of these questions combine a question type, a "
    "colour and a shape in a way that does not occur in the training data. Guessing would score about 0.38. The "
    "examples below are the first test question of each family. In the folder of this page, right.png shows a typical "
    "correct answer and wrong.png a typical wrong answer. Each has the median final HIoU of its kind. The correct "
    "answer comes from the question families in which the model is better than chance."
)


def run_demo(output: Path, *, short: bool, fresh: bool, bar: Bar, say: Say) -> tuple[Path, dict[str, dict[str, Result]]]:
    """Run the demo, or resume an interrupted one.

    Args:
        output: folder of the run.
        short: run only a few steps of each stage.
        fresh: start over.
        bar: creates a progress bar: title, total → context manager that yields advance(done).
        say: prints a line for the user.
    Returns:
        The report's path, and model → metric → result.
    Raises:
        ConfigError: the folder contains another run, or other files that the demo would overwrite.
        SIFError: a stage failed.
    """
    make_folder(output)
    report, right, wrong = (output / name for name in ("report.html", "right.png", "wrong.png"))
    if not Lab.is_in(output):
        refuse_foreign(output, (report.name, right.name, wrong.name))
    if fresh:
        Lab.clear(output)
    lab = Lab(output, SHORT if short else SIZE, bar, say)
    rows = {title: lab.run(ARMS[arm]) for title, arm in MODELS.items()}
    write_page(report, _page(lab, rows))
    answered = rows["after GRPO-SIF"]
    known = families_above_chance(answered)
    write_picture(right, _card(typical([row for row in answered if row.family in known], True) or answered[0]))
    write_picture(wrong, _card(typical(answered, False) or answered[0]))
    return report, {title: summarise(found) for title, found in rows.items()}


def typical(rows: Sequence[Row], right: bool) -> Row | None:
    """Return the answer with the median final HIoU among the right or the wrong answers, or None if there is none."""
    found = [row for row in rows if bool(row.values["answer accuracy"]) is right]
    found.sort(key=lambda row: (row.values["final HIoU"] or 0.0, row.id))
    return found[len(found) // 2] if found else None


def _page(lab: Lab, rows: dict[str, list[Row]]) -> str:
    """Return the report: tables, curves, and every model's answer to the first test question of each family."""
    size = lab.schedule
    sft, grpo = read_history(lab.folder / "sft-chains"), read_history(lab.folder / "grpo-grpo-sif")
    charts = [
        Chart("SFT: training loss", {"loss": _curve(sft, "loss")}),
        Chart("SFT: token accuracy", {"accuracy": _curve(sft, "mean_token_accuracy")}),
        Chart(
            "GRPO-SIF: mean rewards of the completions",
            {name: _curve(grpo, f"rewards/{name}_reward/mean") for name in REWARDS},
        ),
        Chart("GRPO-SIF: KL divergence from the SFT model", {"kl": _curve(grpo, "kl")}),
    ]
    groups = []
    for family, found in group_by(rows["base"], lambda row: row.family).items():
        position = rows["base"].index(found[0])
        cards = [_card(of_model[position], title) for title, of_model in rows.items()]
        groups.append((f"{family}: {found[0].question}", cards))
    by_family = {
        title: {
            family: summarise(found)["answer accuracy"]
            for family, found in group_by(of_model, lambda row: row.family).items()
        }
        for title, of_model in rows.items()
    }
    summary = _SUMMARY.format(
        chains=min(size.questions, size.sft_steps * size.sft_batch),
        sft_batch=size.sft_batch,
        sft_steps=size.sft_steps,
        practised=size.grpo_questions,
        grpo_steps=size.grpo_steps,
        questions=size.test_questions,
    )
    return run_page(
        title="SIFThinker demo",
        summary=summary,
        table={title: summarise(of_model) for title, of_model in rows.items()},
        metrics=METRICS,
        families=by_family,
        charts=charts,
        groups=groups,
    )


def _curve(history: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]


def _card(row: Row, title: str = "") -> Card:
    # The image is larger than the one the model saw. Boxes are fractions, so they stay the same.
    image, depth, _ = render(scene_at(int(Path(row.image).stem), row.tags["level"]), 256)
    return Card(
        # An answer without steps has no metric but its accuracy, so "valid format" is None.
        Thought(
            row.question, image, depth, row.completion, protocol="direct" if row.values["valid format"] is None else "chain"
        ),
        title=title,
        truth=row.answers[0],
        correct=bool(row.values["answer accuracy"]),
        boxes=row.boxes,
    )
