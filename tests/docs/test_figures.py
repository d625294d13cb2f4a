"""The figures are those that the program draws today."""

from __future__ import annotations

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import ROOT

pytest.importorskip("matplotlib")
SCRIPT = ROOT / "docs" / "figures.py"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("sifthinker.lab") is None:
        pytest.skip("a figure shows a scene of the embedded world, which is not here")
    folder = tmp_path_factory.mktemp("figures")
    runpy.run_path(str(SCRIPT))["draw"](folder)
    return folder


def words(path: Path) -> list[str]:
    """The words and numbers of an SVG, in their order."""
    return [text.strip() for text in re.findall(r"<text\b[^>]*>([^<]*)", path.read_text(encoding="utf-8"))]


def shapes(path: Path) -> list[str]:
    """The outlines of an SVG, to a tenth of a point."""
    found = re.findall(r' d="([^"]+)"', path.read_text(encoding="utf-8"))
    return [re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", each) for each in found]


@pytest.mark.parametrize("name", ["reverse-expansion", "set-and-paired-iou", "packing"])
def test_a_figure_says_what_the_program_computes(drawn: Path, name: str) -> None:
    kept, new = ROOT / "docs" / "images" / f"{name}.svg", drawn / f"{name}.svg"
    assert words(kept) == words(new), f"python {SCRIPT.relative_to(ROOT)} draws it anew"
    assert len(words(new)) > 5
    assert shapes(kept) == shapes(new), f"python {SCRIPT.relative_to(ROOT)} draws it anew"


def test_figures_are_drawn_alike_twice(drawn: Path, tmp_path: Path) -> None:
    runpy.run_path(str(SCRIPT))["draw"](tmp_path)
    for path in sorted(drawn.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_figure_is_tested_and_shown(drawn: Path) -> None:
    page = (ROOT / "docs" / "method" / "index.md").read_text(encoding="utf-8")
    for path in drawn.iterdir():
        assert f"../images/{path.name})" in page
        assert path.stem in ("reverse-expansion", "set-and-paired-iou", "packing")
