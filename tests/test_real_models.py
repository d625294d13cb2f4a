"""Real processors load without torchvision, and what they save loads as any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("transformers")

from sifthinker.errors import ModelError
from sifthinker.models import load_processor

from .real_models import FAMILIES, NEED_TORCHVISION

WITHOUT_TORCHVISION = find_spec("torchvision") is None
SCENE, DEPTH = Image.new("RGB", (80, 60), (200, 120, 40)), Image.new("RGB", (60, 90), (90, 90, 90))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NEED_TORCHVISION and name != "paligemma"])
def test_a_processor_turns_two_images_and_a_chat_into_tensors(family: str, real_model: Callable[[str], Path]) -> None:
    processor = load_processor(real_model(family), max_pixels=64 * 64 * 16)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is nearer?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[[SCENE, DEPTH]], return_tensors="pt")
    placeholder = processor.image_token_id
    assert (inputs["input_ids"] == placeholder).sum() > 1
    assert "pixel_values" in inputs


@pytest.mark.parametrize("family", [*NEED_TORCHVISION])
def test_a_processor_that_needs_torchvision_says_so(family: str, real_model: Callable[[str], Path]) -> None:
    if not WITHOUT_TORCHVISION:
        pytest.skip("torchvision is installed")
    with pytest.raises(ModelError, match=r"needs torchvision\. Run: pip install torchvision"):
        load_processor(real_model(family))


def test_a_saved_processor_bears_the_name_of_its_class(tmp_path: Path, real_model: Callable[[str], Path]) -> None:
    load_processor(real_model("qwen2_5_vl")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == "Qwen2_5_VLProcessor"
    (tmp_path / "config.json").write_text((real_model("qwen2_5_vl") / "config.json").read_text())
    assert type(load_processor(tmp_path)).__name__ == "Qwen2_5_VLProcessor"


@pytest.mark.parametrize(
    ("family", "file"), [("qwen2_5_vl", "preprocessor_config.json"), ("qwen3_vl", "video_preprocessor_config.json")]
)
def test_a_saved_processor_keeps_what_videos_are_read_by(
    family: str, file: str, tmp_path: Path, real_model: Callable[[str], Path]
) -> None:
    """Without torchvision they cannot be read, but whoever has it, vLLM for one, loads no Qwen-VL without these settings.

    Both times: also from a folder that was saved so.
    """
    if not WITHOUT_TORCHVISION:
        pytest.skip("torchvision is installed")
    source = real_model(family)
    for step in ("once", "twice"):
        folder = tmp_path / step
        load_processor(source, max_pixels=64 * 64 * 16).save_pretrained(folder)
        saved = json.loads((folder / "processor_config.json").read_text())
        assert saved["video_processor"] == json.loads((real_model(family) / file).read_text())
        assert saved["image_processor"]["size"]["longest_edge"] == 64 * 64 * 16
        (folder / "config.json").write_text((real_model(family) / "config.json").read_text())
        source = folder
