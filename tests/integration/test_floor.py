"""Training with the lowest versions that pyproject.toml allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from .environments import ROOT, Environment, prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def floor() -> Environment:
    return prepare("floor")


def test_private_parts(floor: Environment) -> None:
    """The private parts that our trainers use exist (tests/training/test_trl_private.py)."""
    options = ["-p", "no:cacheprovider", "tests/training/test_trl_private.py"]
    done = floor.command(floor.python, "-m", "pytest", *options, cwd=ROOT)
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_steps(floor: Environment, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    """A step of SFT and a step of GRPO-SIF with a tiny LLaVA."""
    logged = floor.run("floor_steps", tiny_vlm, chains, tmp_path, cwd=tmp_path)
    assert "loss" in logged["sft"][0]
    assert {"reward", "rewards/format_reward/mean", "rewards/depth_reward/mean"} <= set(logged["grpo"][0])
