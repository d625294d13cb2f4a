"""Trackers that a GRPO-SIF run can log its completions to, and the one that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sifthinker.records import read_examples

from .environments import Environment, prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trackers() -> Environment:
    return prepare("trackers")


def pixels(image: Path | str) -> bytes:
    return Image.open(image).convert("RGB").tobytes()


@pytest.fixture
def run(trackers: Environment, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run two steps with a tracker's name; the error that ended it, or None."""
    for name, folder in {"TRACKIO_DIR": "trackio", "WANDB_DIR": "wandb"}.items():
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("WANDB_MODE", "offline")

    def run(*words: str) -> str | None:
        return trackers.run("tracked_run", tiny_vlm, chains, tmp_path / "run", *words, cwd=tmp_path)["error"]

    return run


def test_trackio(run, chains: Path, tmp_path: Path) -> None:
    """`report_to: trackio` with `log_completions`: two steps of GRPO-SIF, photo and depth view of every completion kept."""
    assert run("trackio") is None
    kept = {pixels(image) for image in (tmp_path / "trackio").rglob("*.png")}
    # Of the questions that were asked, the photo and the depth view as the model sees them.
    asked = [{pixels(image) for image in example.images} for example in read_examples(chains)]
    assert kept
    assert kept == set().union(*(images for images in asked if images & kept))


def test_wandb(run) -> None:
    """`report_to: wandb` with `log_completions` is refused, because TRL fails with it."""
    assert "Use report_to: trackio" in run("wandb")
    failed = run("wandb", "anyway")
    assert failed is not None, "TRL can do it now: take the refusal out of training/settings.py"
    assert "Data row contained incompatible types" in failed
