"""Processors without torchvision do what those with it do, and leave folders that load with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.images import load_image
from sifthinker.models import load_processor

from ..small_data import write_records
from .environments import ROOT, Environment, prepare

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("torchvision") is not None, reason="the tests' own environment has torchvision too"),
]

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
MAX_PIXELS = 100_352  # 128 patches of 28 by 28: the larger image is resized


@pytest.fixture(scope="module")
def torchvision() -> Environment:
    return prepare("torchvision")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A picture of blocks at 640 by 480, and its depth at 100 by 75."""
    folder = tmp_path_factory.mktemp("images")
    write_records(folder, 1)
    sizes = {"0.png": (640, 480), "0.depth.png": (100, 75)}
    for name, size in sizes.items():
        load_image(folder / "images" / name).resize(size, Image.Resampling.BILINEAR).save(folder / name)
    return [folder / name for name in sizes]


def run(
    torchvision: Environment, models: dict[str, Path], images: list[Path], out: Path
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What the full processors are and give."""
    job = {
        "out": str(out), "images": list(map(str, images)), "prompt": "Which is nearer?", "max_pixels": MAX_PIXELS,
        "models": {name: str(folder) for name, folder in models.items()},
    }  # fmt: skip
    (out / "job.json").write_text(json.dumps(job))
    found = torchvision.run("full_processors", out / "job.json")
    return found, {name: dict(np.load(out / f"{name}.npz")) for name in models}


def without(folder: Path, images: list[Path]) -> dict[str, np.ndarray]:
    processor = load_processor(folder, max_pixels=MAX_PIXELS)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is nearer?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    shown = [Image.open(path).convert("RGB") for path in images]
    return {name: np.asarray(value) for name, value in processor(text=[prompt], images=[shown], return_tensors="np").items()}


def test_qwen_vl(torchvision: Environment, images: list[Path], real_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Qwen's processors with and without torchvision give the same tokens and grids; pixels differ by one level at most."""
    found, full = run(torchvision, {family: real_model(family) for family in QWEN}, images, tmp_path)
    for family in QWEN:
        assert found[family]["videos"], family
        assert found[family]["ours"], family
        ours, theirs = without(real_model(family), images), full[family]
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"pixel_values"}:
            assert np.array_equal(ours[name], theirs[name]), (family, name)
        assert theirs["image_grid_thw"][0].prod() > 300  # patches
        away = np.abs(ours["pixel_values"] - theirs["pixel_values"])
        # Pillow and torchvision round a resampled pixel otherwise here and there: one level of 255, before it is normalised.
        level = 1 / 255 / min(load_processor(real_model(family)).image_processor.image_std)
        assert away.max() < 1.001 * level, family
        assert away.mean() < 0.001, family


def test_saved_without_torchvision(
    torchvision: Environment, images: list[Path], real_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A folder saved without torchvision loads with it as the one that it came from."""
    saved = {}
    for family in QWEN:
        saved[family] = tmp_path / family
        load_processor(real_model(family), max_pixels=MAX_PIXELS).save_pretrained(saved[family])
        (saved[family] / "config.json").write_text((real_model(family) / "config.json").read_text())
    found, again = run(torchvision, saved, images, tmp_path)
    _, first = run(torchvision, {family: real_model(family) for family in QWEN}, images, tmp_path)
    for family in QWEN:
        assert found[family]["videos"], family
        assert again[family].keys() == first[family].keys()
        for name in first[family]:
            assert np.array_equal(again[family][name], first[family][name]), (family, name)


def test_families_that_need_it(torchvision: Environment) -> None:
    """Mistral 3 and LFM2-VL: what the table of families says, prompts shared, images prepared once, tokens counted."""
    tests = (
        "test_families.py",
        "test_real_models.py",
        *(f"training/test_{name}.py" for name in ("prefix", "prepared", "lengths")),
    )
    files = [ROOT / "tests" / name for name in tests]
    words = ["-m", "pytest", "-p", "no:cacheprovider", *files, "-k", "mistral3 or lfm2_vl or table"]
    done = torchvision.command(torchvision.python, *words, cwd=ROOT, timeout_s=1200)
    assert "100%" in done.stdout, done.stdout[-2000:]
