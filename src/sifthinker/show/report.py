"""Self-contained HTML pages of a thought, a run, an evaluation and a study, and a thought as one PNG image.

Text from models and data is always escaped."""

from __future__ import annotations

import io
import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sifthinker import __version__
from sifthinker.ask_settings import names_thought
from sifthinker.chain import Region
from sifthinker.depth import DepthMap
from sifthinker.depth_cache import cached_depth
from sifthinker.errors import ConfigError
from sifthinker.evaluation.completions import Scored
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.run import Evaluation
from sifthinker.files import atomic_write
from sifthinker.images import data_url, load_image
from sifthinker.results import files_of_row, thought_of_row
from sifthinker.scoring.rewards import REWARDS
from sifthinker.thinker import Thought, problems_of

_PALETTE = ("#e4572e", "#1b7fbd", "#2e9e5b", "#9b51b8", "#c98a00", "#00929b")
LONGEST_SIDE = 640  # of an image on a page, in pixels


@dataclass(frozen=True, slots=True)
class Card:
    """A thought to show, with what is known about it.

    Args:
        thought: the thought.
        title: heading.
        truth: the right answer; "" if unknown.
        correct: whether the answer was judged right; None if it was not judged.
        boxes: target boxes, drawn with dashed lines; empty if unknown.
        note: a line below the heading.
        choices: the possible answers of a closed question.
    """

    thought: Thought
    title: str = ""
    truth: str = ""
    correct: bool | None = None
    boxes: Sequence[Sequence[float]] = ()
    note: str = ""
    choices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart: name → points (x, y)."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = "step"


def thought_page(thought: Thought, *, note: str = "") -> str:
    """Return a page of one thought: the boxes of each step on RGB and depth, its text, the answer, the raw text."""
    return card_page(Card(thought, note=note))


def card_page(card: Card) -> str:
    """Return a page of one thought, with what is known about it."""
    return render_page("thought.html", title=card.thought.question, cards=[_card(card, 0)])


def run_page(
    *,
    title: str,
    summary: str,
    table: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, str],
    families: Mapping[str, Mapping[str, Any]],
    charts: Sequence[Chart],
    groups: Sequence[tuple[str, Sequence[Card]]],
) -> str:
    """Return the page of a run.

    Args:
        title: heading.
        summary: explanation of the numbers.
        table: model → metric → `evaluation.metrics.Result`.
        metrics: metric → description.
        families: model → question family → accuracy, an `evaluation.metrics.Result`.
        charts: training curves.
        groups: (heading, cards shown side by side).
    """
    numbered = iter(range(10**6))
    return render_page(
        "run.html",
        title=title,
        summary=summary,
        table=table,
        metrics=metrics,
        families=families,
        charts=[_chart(chart) for chart in charts],
        groups=[(heading, [_card(card, next(numbered)) for card in cards]) for heading, cards in groups],
    )


def stats_page(
    title: str,
    tables: Mapping[str, Sequence[tuple[str, str]]],
    histograms: Mapping[str, Sequence[tuple[float, float]]],
) -> str:
    """Return a page with the statistics of a dataset.

    Args:
        title: heading.
        tables: title → rows of (name, number).
        histograms: title → (middle of a bin, number in it).
    """
    charts = [_chart(Chart(name, {"examples": points}, x_label="")) for name, points in histograms.items()]
    return render_page("stats.html", title=title, tables=tables, charts=charts)


def study_page(study: Mapping[str, Any], metrics: Mapping[str, str], references: Sequence[str]) -> str:
    """Return the page of a study.

    Args:
        study: see `study.summarise_study`.
        metrics: metric → description.
        references: arms that the others are compared with.
    """
    return render_page("study.html", title="Study", study=study, metrics=metrics, references=references)


def scored_page(scored: Sequence[Scored], *, title: str, total: int) -> str:
    """Return a page of scored completions with rewards, reasons and boxes, on their images or a grey area."""
    cards = []
    for number, item in enumerate(scored):
        image = load_image(item.images[0]) if item.images else Image.new("RGB", (256, 256), (90, 90, 90))
        parts = []
        for name in REWARDS:
            score = getattr(item.scores, name)
            value = "–" if score.value is None else f"{score.value:.2f}"
            parts.append(f"{name} {value}" + (f" ({', '.join(score.reasons)})" if score.reasons else ""))
        depth = None if item.depth is None else cached_depth(item.depth)
        thought = Thought(item.question, image, depth, item.text, frame=item.frame)
        answered = item.scores.answer.parts.get("s")
        correct = None if answered is None else answered == 1
        card = Card(thought, item.id, truth=item.answer, correct=correct, boxes=item.boxes.tolist(), note=" · ".join(parts))
        cards.append(_card(card, number))
    shown = f"{len(scored)} of {total} completions" if len(scored) < total else f"{total} completions"
    return render_page("scored.html", title=title, shown=shown, cards=cards)


_MOST_GROUPS = 60  # per grouping on a page
_MOST_ERRORS = 20


def evaluation_page(evaluation: Evaluation, *, title: str = "Evaluation", most: int = 60) -> str:
    """Return the page of an evaluation: its metrics, overall and by group, and its answers, worst first.

    Args:
        evaluation: a finished evaluation. Images are shown if it has its questions, as `evaluate` returns it.
        title: heading.
        most: maximum number of answers on the page.
    """
    asked = [row for row in evaluation.rows if not row.error]
    errors = [row for row in evaluation.rows if row.error]
    wrong = sum(row.values["answer accuracy"] == 0 for row in asked)
    worst = sorted(asked, key=_success)[:most]  # a stable sort: ties stay in the order of the questions
    known = [row for row in asked if row.values["answer accuracy"] is not None]
    counts = [f"{len(evaluation.rows)} question{'' if len(evaluation.rows) == 1 else 's'}"]
    counts += [f"{wrong} of {len(known)} answers wrong"] if known else []
    counts += [f"{len(errors)} could not be asked"] if errors else []
    order = "worst first: by answer accuracy, then final HIoU, valid format and depth consistency"
    many = len(worst) < len(asked)
    groups = {name: list(found.items()) for name, found in evaluation.groups.items() if len(found) > 1}
    return render_page(
        "evaluation.html",
        title=title,
        summary=f"{evaluation.settings.get('model') or evaluation.settings.get('completions') or 'A model'}: "
        + ", ".join(counts)
        + ".",
        metrics=evaluation.metrics,
        results=evaluation.results,
        benchmark=evaluation.benchmark,
        table=evaluation.table,
        lenient_notes=evaluation.lenient_notes,
        groups={name: found[:_MOST_GROUPS] for name, found in groups.items()},
        more={name: max(0, len(found) - _MOST_GROUPS) for name, found in groups.items()},
        errors=errors[:_MOST_ERRORS],
        error_count=len(errors),
        shown=f"{len(worst)} of {len(asked)} answers, {order}." if many else f"All {len(asked)} answers, {order}.",
        cards=[_card(_row_card(row, evaluation), number) for number, row in enumerate(worst)],
        settings={name: value for name, value in evaluation.settings.items() if value is not None},
    )


def _success(row: Row) -> tuple[float, ...]:
    """Return the sort key of a row, best last. A metric without a value counts as 1."""
    values = (row.values[name] for name in ("answer accuracy", "final HIoU", "valid format", "depth consistency"))
    return tuple(1.0 if value is None else value for value in values)


def _row_card(row: Row, evaluation: Evaluation) -> Card:
    image, depth, _ = files_of_row(row, evaluation.questions.get(row.id))
    about = [name for name in (row.dataset, row.family) if name]
    about += [f"{name} {value:.2f}" for name, value in row.values.items() if value is not None and name != "answer accuracy"]
    right = row.values["answer accuracy"]
    return Card(
        thought_of_row(row, image, depth, evaluation.protocol),
        title=row.id,
        truth=" / ".join(row.answers),
        correct=None if right is None else right == 1,
        boxes=row.boxes,
        note=" · ".join(about) or " ",
        choices=row.choices,
    )


_GENERATOR = b'<meta name="generator" content="sifthinker '  # in the head of each page of `base.html`


def refuse_foreign_page(path: str | os.PathLike[str]) -> None:
    """Refuse to overwrite a file that is not a sifthinker page.

    Raises:
        ConfigError: the file is not a sifthinker page, or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            ours = _GENERATOR in stream.read(2048)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}; choose another -o") from None
    if not ours:
        raise ConfigError(f"{path}: would be overwritten, but is not a sifthinker page; choose another -o")


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page atomically.

    Raises:
        SIFError: the folder cannot be written.
    """
    atomic_write(path, page)


def write_thought(path: str | os.PathLike[str], thought: Thought, *, note: str = "") -> None:
    """Write a thought as a page (.html) or as one image (.png).

    Args:
        path: the file to write.
        thought: the thought of a model, or a chain of a dataset as a `Thought`.
        note: a line above the steps; only on pages.
    Raises:
        ConfigError: the name ends in neither .html nor .png.
        SIFError: the folder cannot be written.
    Example:
        >>> write_thought("chain.png", Thought("What is it?", image, None, text))  # doctest: +SKIP
    """
    if not names_thought(Path(path)):
        raise ConfigError(f"{path}: expected a file name that ends in .html or .png")
    if str(path).lower().endswith(".png"):
        write_picture(path, Card(thought))
    else:
        write_page(path, thought_page(thought, note=note))


def write_picture(path: str | os.PathLike[str], card: Card) -> None:
    """Write a thought as one PNG. Each step is a column with its boxes on RGB and on depth, and its text below.

    Raises:
        SIFError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    _picture(card).save(buffer, "PNG")
    atomic_write(path, buffer.getvalue())


def _picture(card: Card, *, side: int = 220, gap: int = 14) -> Image.Image:
    thought = card.thought
    width, height = thought.image.size
    scale = side / max(width, height)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    layers = [thought.image] + ([thought.depth.coloured()] if thought.depth is not None else [])
    layers = [layer.resize(shown, Image.Resampling.LANCZOS) for layer in layers]
    # Large for the panels: a picture of five columns is usually shown at about 60 % of its size.
    large, medium, small = (ImageFont.load_default(size) for size in (22, 18, 15))
    steps = thought.steps or [((), thought.text)]
    across = gap + max(2, len(steps)) * (side + gap)
    title = _wrapped(thought.question, large, across - 2 * gap)
    judged = {True: " (correct)", False: f" (wrong: {card.truth})", None: ""}[card.correct]
    ending = _wrapped(f"Answer: {thought.answer or '(none)'}{judged}", large, across - 2 * gap)
    words = [_wrapped(text, medium, side if len(steps) > 1 else across - 2 * gap) for _, text in steps]
    title_line, word_line = 29, 24
    top = gap + title_line * len(title) + 4
    below = top + len(layers) * (shown[1] + gap)
    end = below + word_line * max(map(len, words)) + 8
    picture = Image.new("RGB", (across, end + title_line * len(ending) + gap), "white")
    draw = ImageDraw.Draw(picture)

    def write(left: int, y: int, lines: Sequence[str], font: Any, line: int) -> None:
        for number, text in enumerate(lines):
            draw.text((left, y + number * line), text, "black", font)

    write(gap, gap, title, large, title_line)
    for column, (regions, _) in enumerate(steps):
        left = gap + column * (side + gap)
        for row, layer in enumerate(layers):
            panel = layer.copy()
            pen = ImageDraw.Draw(panel)
            for index, region in enumerate(regions):
                x1, y1, x2, y2 = (v * n for v, n in zip(region.box, shown * 2, strict=True))
                colour = _PALETTE[index % len(_PALETTE)]
                pen.rectangle((x1, y1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1)), outline=colour, width=3)
                if row and region.depth is not None:
                    pen.text((x1 + 5, y1 + 3), f"{region.depth:.2f}", colour, small, stroke_width=2, stroke_fill="white")
            picture.paste(panel, (left, top + row * (shown[1] + gap)))
        write(left, below, words[column], medium, word_line)
    write(gap, end, ending, large, title_line)
    return picture


def _wrapped(text: str, font: Any, width: int, most: int = 16) -> list[str]:
    """Wrap a text into at most `most` lines of at most `width` pixels. Longer words and longer texts are cut."""
    lines = [""]
    for word in text[:2000].split():  # longer texts never fit
        while font.getlength(word) > width:
            keep = max(1, bisect_right(range(1, len(word)), width, key=lambda n: font.getlength(word[:n])))
            lines.append(word[:keep])
            word = word[keep:]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line] or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _card(card: Card, number: int) -> dict[str, Any]:
    thought = card.thought
    width, height = thought.image.size
    return {
        "number": number,
        "title": card.title,
        "note": card.note,
        "titled": bool(card.title and card.note),
        "truth": card.truth,
        "correct": card.correct,
        "question": thought.question,
        "choices": list(card.choices),
        "answer": thought.answer,
        "text": thought.reply or thought.text,
        "complete": thought.complete,
        "direct": thought.direct,
        "problems": said_problems(thought),
        "width": width,
        "height": height,
        "line": max(width, height) / 160,
        "font": max(width, height) / 22,
        "rgb": data_url(thought.image, max_side=LONGEST_SIDE),
        "depth": None if thought.depth is None else data_url(thought.depth.coloured(), max_side=LONGEST_SIDE),
        "steps": [
            {
                "words": words,
                "boxes": [rectangle(region, index, width, height, thought.depth) for index, region in enumerate(regions)],
            }
            for regions, words in thought.steps
        ],
        "targets": targets(card.boxes, width, height),
    }


def said_problems(thought: Thought) -> list[str]:
    """Return messages about what is wrong with a thought, with the place in its text if the model wrote that text."""
    return [problem.message if thought.faults else str(problem) for problem in problems_of(thought)]


def targets(boxes: Sequence[Sequence[float]], width: int, height: int) -> list[dict[str, float]]:
    """Convert target boxes (unit xyxy) to rectangles for templates, in pixels of an image of (width, height)."""
    return [
        {"x": x1 * width, "y": y1 * height, "width": (x2 - x1) * width, "height": (y2 - y1) * height}
        for x1, y1, x2, y2 in boxes
    ]


def rectangle(region: Region, index: int, width: int, height: int, depth: DepthMap | None) -> dict[str, Any]:
    """Convert a region to a rectangle for templates, in pixels of an image of (width, height), with its measured depth."""
    x1, y1, x2, y2 = region.box
    truth = None if depth is None else float(depth.mean([region.box])[0])
    return {
        "x": x1 * width,
        "y": y1 * height,
        "width": (x2 - x1) * width,
        "height": (y2 - y1) * height,
        "colour": _PALETTE[index % len(_PALETTE)],
        "depth": region.depth,
        "true_depth": None if truth is None or math.isnan(truth) else truth,
    }


def _chart(chart: Chart) -> dict[str, Any]:
    """Scale the points of a chart to a drawing of 360 by 160. Series without points are left out."""
    width, height = 360, 160
    kept = {name: list(points) for name, points in chart.series.items() if points}
    everything = [point for points in kept.values() for point in points]
    if not everything:
        return {"title": chart.title, "x_label": chart.x_label, "lines": [], "width": width, "height": height}
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(0.0, *ys), max(ys)
    x_span, y_span = (x_high - x_low) or 1, (y_high - y_low) or 1
    lines = []
    for index, (name, points) in enumerate(kept.items()):
        path = " ".join(
            f"{(x - x_low) / x_span * width:.1f},{height - (y - y_low) / y_span * height:.1f}" for x, y in points
        )
        colour = _PALETTE[index % len(_PALETTE)]
        lines.append({"name": name, "points": path, "colour": colour, "last": points[-1][1]})
    return {
        "title": chart.title,
        "x_label": chart.x_label,
        "lines": lines,
        "width": width,
        "height": height,
        "x_low": x_low,
        "x_high": x_high,
        "y_low": y_low,
        "y_high": y_high,
    }


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sifthinker.show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: str, **values: Any) -> str:
    """Render a template of the package. All values are escaped."""
    page: str = _environment().get_template(template).render(version=__version__, **values)
    return page
