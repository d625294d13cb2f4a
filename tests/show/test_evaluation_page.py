"""The page of an evaluation on a telephone and on a desk: nothing is wider than the screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.evaluation.metrics import METRICS, Row
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import Evaluation
from sifthinker.show.report import evaluation_page, write_page

LONG = "unbroken" * 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Seven answers, one of them a word of 480 letters, in three families with all metrics."""
    rows = [
        Row(
            f"q{n}", "photos", "test", f"family {n % 3}", {}, "What is it?", ("cat",), (), (), "i.png", None, "",
            completion=LONG if n == 1 else "dog", answer=LONG if n == 1 else "dog",
            values=dict.fromkeys(METRICS, 0.5) | {"answer accuracy": 0.0},
        )
        for n in range(7)
    ]  # fmt: skip
    questions = {row.id: Question(row.id, Image.new("RGB", (40, 30)), row.question) for row in rows}
    settings = {"model": f"runs/{LONG}", "questions": "a" * 64, "protocol": "direct"}
    path = tmp_path / "e.html"
    write_page(path, evaluation_page(Evaluation(settings, tuple(rows), questions), title="Evaluation"))
    return path


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page()
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Any, file: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(file.as_uri())
    if kept := os.environ.get("SIF_KEEP_PICTURES"):  # a folder, for whoever wants to look
        page.screenshot(path=str(Path(kept) / f"evaluation-{width}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Tables that are wider move inside their own frame.
    wide = page.locator(".wide").evaluate_all("frames => frames.map(f => f.scrollWidth > f.clientWidth)")
    assert any(wide) == (width < 1280)
    inside = "cards => cards.map(c => c.scrollWidth <= c.clientWidth)"
    assert all(page.locator(".card").evaluate_all(inside))
    # A last card in a row of its own is as wide as the others.
    widths = page.locator(".card").evaluate_all("cards => cards.map(c => Math.round(c.getBoundingClientRect().width))")
    assert len(widths) == 7
    assert len(set(widths)) == 1
    # The value of a setting begins where its name's column ends.
    left = "cell => getComputedStyle(cell).textAlign"
    assert page.locator(".settings td").last.evaluate(left) == "left"
