"""Draw the figures of the method page: `python docs/figures.py` writes docs/images/*.svg.

Every box and number in them is computed by the program. The same versions of the libraries give the same files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

matplotlib.use("svg")

STYLE = {
    "svg.hashsalt": "sifthinker",
    "svg.fonttype": "none",  # words stay words: they can be searched, read aloud and compared by a test
    "font.family": "sans-serif",
    "font.size": 11,
    "figure.facecolor": "white",  # readable on dark pages too
    "savefig.facecolor": "white",
}
TRUTH, STATED, PROMPT = "#1b7f3b", "#c2410c", "#64748b"
COMPLETIONS = ("#2563eb", "#c2410c", "#1b7f3b")


def expansion() -> plt.Figure:
    """The focus path of a question about a scene, in the order in which a model reads it."""
    from sifthinker import expand
    from sifthinker.lab.questions import ask, scene_of, world_record
    from sifthinker.lab.scenes import render

    question = ask(2_000_000_000_034, "size", "easy")
    assert question is not None
    record = world_record(question, image="scene.png")
    path = expand(record, seed=7)
    assert [focus.kind for focus in path] == ["whole", "distractor", "merged", "expanded", "target"]
    image, _, _ = render(scene_of(question), 320)
    built = {"target": 1, "expanded": 2, "merged": 3, "distractor": 4, "whole": 5}
    figure, axes = plt.subplots(2, 3, figsize=(6.4, 5.1))
    for number, (focus, axis) in enumerate(zip(path, axes.flat, strict=False), 1):
        axis.imshow(image, extent=(0, 1, 1, 0))
        for x1, y1, x2, y2 in focus.boxes:
            inset = 0.008 if focus.kind == "whole" else 0  # the line is drawn inside the image
            axis.add_patch(_box((x1 + inset, y1 + inset, x2 - inset, y2 - inset), "white", 4))
            axis.add_patch(_box((x1 + inset, y1 + inset, x2 - inset, y2 - inset), TRUTH, 2))
        axis.set_title(f"{number}. {focus.kind}", fontsize=12)
        axis.set_xlabel(f"built in step {built[focus.kind]}")
        axis.set_xticks([])
        axis.set_yticks([])
    words = axes.flat[5]
    words.axis("off")
    said = [record.question.replace(", ", ",\n", 1).replace(" or ", "\nor "), f"Answer: {record.answer}"]
    said.append("The path reads 1 to 5.\nReverse expansion\nbuilds it from 5 to 1.")
    words.text(0, 0.95, "\n\n".join(said), va="top", transform=words.transAxes, fontsize=10)
    figure.tight_layout(pad=0.6)
    return figure


_EXAMPLES: list[tuple[str, list[list[float]], list[list[float]]]] = [
    ("one box split in two", [[0.1, 0.1, 0.5, 0.9], [0.5, 0.1, 0.9, 0.9]], [[0.1, 0.1, 0.9, 0.9]]),
    ("one spurious box", [[0.1, 0.1, 0.6, 0.6], [0.7, 0.7, 0.95, 0.95]], [[0.1, 0.1, 0.6, 0.6]]),
    ("two boxes in one", [[0.1, 0.25, 0.9, 0.75]], [[0.1, 0.25, 0.4, 0.75], [0.6, 0.25, 0.9, 0.75]]),
]


def iou() -> plt.Figure:
    """Set IoU and paired IoU, where they differ."""
    from sifthinker import hierarchical_iou, paired_iou, set_iou

    figure, axes = plt.subplots(1, 3, figsize=(6.4, 3.7))
    for axis, (title, stated, truth) in zip(axes, _EXAMPLES, strict=True):
        for box in truth:
            axis.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], color=TRUTH, alpha=0.18, linewidth=0))
            axis.add_patch(_box(box, TRUTH, 2))
        for x1, y1, x2, y2 in stated:
            axis.add_patch(_box((x1 + 0.012, y1 + 0.012, x2 - 0.012, y2 - 0.012), STATED, 2, linestyle=(0, (4, 2))))
        axis.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
        axis.set_title(title, fontsize=11)
        scores = ((set_iou, "set IoU"), (paired_iou, "paired IoU"), (hierarchical_iou, "hierarchical"))
        numbers = "\n".join(f"{name} {score(stated, truth):.3f}" for score, name in scores)
        axis.text(0.5, 1.06, numbers, ha="center", va="top", transform=axis.transData, fontsize=11)
    figure.text(0.5, 0.03, "green, filled: ground-truth boxes; orange, dashed: stated boxes", ha="center", fontsize=10)
    figure.tight_layout(pad=0.6, rect=(0, 0.2, 1, 1))
    return figure


_PROMPT, _LENGTHS = 8, (5, 3, 6)


def packing() -> plt.Figure:
    """A group as padded rows, the same group as one packed row, and the mask of that row."""
    import torch

    from sifthinker.training.prefix import block_mask

    group = len(_LENGTHS)
    row = [0] * (_PROMPT - 1) + [number for number, length in enumerate(_LENGTHS, 1) for _ in range(length)]
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(_attn_implementation="sdpa"))
    allowed = block_mask(SimpleNamespace(config=config), torch.tensor([row]))[0, 0].numpy()
    padded = _PROMPT + max(_LENGTHS)
    figure = plt.figure(figsize=(6.4, 6.6))
    top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1, 1.75]})
    top.set_title(f"{group} padded rows: {group} × {padded} = {group * padded} positions", loc="left", fontsize=11)
    for number, length in enumerate(_LENGTHS):
        _cells(top, 0, number * 1.3, _PROMPT, PROMPT, "prompt")
        _cells(top, _PROMPT, number * 1.3, length, COMPLETIONS[number], f"c{number + 1}")
        _cells(top, _PROMPT + length, number * 1.3, padded - _PROMPT - length, "#e2e8f0", "")
    below = group * 1.3 + 1.3
    top.text(0, below - 0.35, f"one packed row: {len(row)} positions", fontsize=11)
    _cells(top, 0, below, _PROMPT - 1, PROMPT, "prompt")
    at = _PROMPT - 1
    for number, length in enumerate(_LENGTHS):
        _cells(top, at, below, length, COMPLETIONS[number], f"c{number + 1}")
        at += length
    top.set(xlim=(-0.1, len(row) + 0.1), ylim=(below + 1.2, -0.2))
    top.axis("off")
    shades = np.array([matplotlib.colors.to_rgb(colour) for colour in ("white", PROMPT, *COMPLETIONS)])
    seen = np.where(allowed, np.array(row)[None] + 1, 0)  # by the segment of the token that is seen
    bottom.imshow(shades[seen], extent=(0, len(row), len(row), 0))
    for line in range(len(row) + 1):
        bottom.axhline(line, color="#e2e8f0", linewidth=0.5)
        bottom.axvline(line, color="#e2e8f0", linewidth=0.5)
    edges = np.cumsum([0, _PROMPT - 1, *_LENGTHS])
    middles, names = (edges[:-1] + edges[1:]) / 2, ["prompt", *(f"c{number + 1}" for number in range(group))]
    bottom.set_xticks(middles, names)
    bottom.set_yticks(middles, names)
    bottom.tick_params(length=0)
    bottom.set(xlabel="token that is attended to", ylabel="token that attends")
    bottom.set_title("attention mask of the packed row", loc="left", fontsize=11)
    figure.tight_layout(pad=0.8)
    return figure


def _cells(axis: Any, x: float, y: float, count: int, colour: str, name: str) -> None:
    for number in range(count):
        axis.add_patch(Rectangle((x + number, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if name:
        axis.text(x + count / 2, y + 0.5, name, ha="center", va="center", color="white", fontsize=10)


def _box(box: Any, colour: str, width: float, **style: Any) -> Rectangle:
    x1, y1, x2, y2 = box
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, **style)


FIGURES = {"reverse-expansion": expansion, "set-and-paired-iou": iou, "packing": packing}


def draw(folder: Path) -> None:
    """Write every figure into a folder."""
    with matplotlib.rc_context(STYLE):
        for name, figure in FIGURES.items():
            drawn = figure()
            drawn.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            plt.close(drawn)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
