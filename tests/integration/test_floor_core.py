"""The core with the lowest versions that pyproject.toml allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from .environments import ROOT, Environment, prepare

pytestmark = pytest.mark.integration

TESTS = ("boxes", "chain", "depth", "settings", "images")


@pytest.fixture(scope="module")
def floor() -> Environment:
    return prepare("floor_core")


def test_the_core(floor: Environment) -> None:
    """The tests of boxes, chains, depth, settings and images pass."""
    files = [f"tests/test_{name}.py" for name in TESTS]
    done = floor.command(floor.python, "-m", "pytest", "-p", "no:cacheprovider", *files, cwd=ROOT, timeout_s=900)
    assert " passed" in done.stdout.splitlines()[-1]


def test_the_command_line(floor: Environment, chains: Path, tmp_path: Path) -> None:
    """`sif data check`, `data show` and `data export`, and every help page."""
    sif = [floor.python, "-m", "sifthinker.cli"]
    assert "data" in floor.command(*sif, "--help").stdout
    for name in ("data", "train", "think", "eval", "model", "rewards", "plan"):
        floor.command(*sif, name, "--help")
    floor.command(*sif, "data", "check", chains)
    floor.command(*sif, "data", "export", chains, "--to", "swift", "-o", tmp_path / "x")
    assert (tmp_path / "x" / "train.jsonl").is_file()
