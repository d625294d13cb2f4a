"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from sifthinker.coordinates import Resizer
from sifthinker.depth import DepthMap

from .small_data import build_chains, write_records

# Timings are measured in benchmarks/, not here: machines are shared, and a first call imports.
settings.register_profile("default", deadline=None)
# In CI the same examples every time; elsewhere new ones, so that developers find what is left to find.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell lets what it starts in the background ignore Ctrl-C, and there are tests that press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real records and photographs beside the repository; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real records is not here")
    return SHARED


@pytest.fixture
def ramp() -> DepthMap:
    """10 by 10 pixels, depth growing from 0 at the left column to 0.9 at the right."""
    return DepthMap(np.tile(np.arange(10) / 10, (10, 1)))


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """`cat.png`, 40 by 20, with `cat.depth.png` beside it."""
    Image.new("RGB", (40, 20), (200, 120, 40)).save(tmp_path / "cat.png")
    DepthMap(np.tile(np.linspace(0.2, 0.9, 40), (20, 1))).write(tmp_path / "cat.depth.png")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a vision-language model with random weights and its processor, see `tiny_vlm.py`."""
    pytest.importorskip("transformers")
    from .tiny_vlm import write_tiny_vlm

    folder = tmp_path_factory.mktemp("tiny_vlm")
    write_tiny_vlm(folder)
    return folder


@pytest.fixture(scope="session")
def wordy_vlm(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights eight times as large: it writes other words about every image and question, and many."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("wordy") / "vlm"
    shutil.copytree(tiny_vlm, folder)
    weights = load_file(folder / "model.safetensors")
    louder = {name: weight * 8 if weight.ndim > 1 else weight for name, weight in weights.items()}
    save_file(louder, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Depth Anything with its image processor."""
    torch = pytest.importorskip("torch")
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8],
        reassemble_factors=[2, 1],
        fusion_hidden_size=8,
        head_in_channels=8,
        head_hidden_size=4,
    )
    folder = tmp_path_factory.mktemp("depth")
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family → folder of a tiny random model of it with its real processor, see `real_models.py`."""
    pytest.importorskip("transformers")
    from .real_models import write_real_model

    @cache
    def folder(family: str) -> Path:
        return write_real_model(family, tmp_path_factory.mktemp("real") / family)

    return folder


@pytest.fixture(scope="session")
def chains_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Coordinates → dataset folder of six examples about blocks whose chains state boxes in them: fractions, 0 to 1000, or
    pixels of the images as Qwen2.5-VL's processor makes them, 56 by 56."""

    @cache
    def folder(coordinates: str) -> Path:
        made = tmp_path_factory.mktemp("blocks_in") / coordinates
        records = write_records(made.with_suffix(".raw"), 6)
        assert build_chains(records, made, coordinates=coordinates, resizer=Resizer()) == 6
        return made

    return folder


@pytest.fixture(scope="session")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 18 examples about blocks, six of each family, see `small_data.py`."""
    folder = tmp_path_factory.mktemp("blocks")
    assert build_chains(write_records(folder / "raw", 18), folder / "chains") == 18
    return folder / "chains"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
