"""What loading and freezing do with a real Qwen2.5-VL; its prompts are shared in `test_prefix.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sifthinker.errors import ModelError
from sifthinker.models import freeze, load_model, load_processor, placeholder_tokens


def test_placeholders_are_found(real_model: Callable[[str], Path]) -> None:
    tokenizer = load_processor(real_model("qwen2_5_vl")).tokenizer
    tokens = [tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "<|video_pad|>")]
    assert placeholder_tokens(load_model(real_model("qwen2_5_vl")).config) == sorted(tokens)


def test_nothing_of_it_is_frozen_unasked_and_its_tower_can_be(real_model: Callable[[str], Path]) -> None:
    model = load_model(real_model("qwen2_5_vl"))
    assert freeze(model) == []
    frozen = freeze(model, ("visual",))
    assert frozen
    assert all("visual" in name for name in frozen)


def test_without_its_processor_it_says_so(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(real_model("qwen2_5_vl"))
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)
