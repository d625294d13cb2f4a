"""The same code with a tiny random Qwen2.5-VL. Its processor needs torchvision; without it the model is tested alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def qwen() -> torch.nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 56,
        },
        image_token_id=60, video_token_id=61, vision_start_token_id=62, vision_end_token_id=63,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def test_placeholders_are_found(qwen: torch.nn.Module) -> None:
    from sifthinker.models import placeholder_tokens

    assert placeholder_tokens(qwen.config) == [60, 61]


def test_nothing_of_it_is_frozen_unasked_and_its_tower_can_be(qwen: torch.nn.Module) -> None:
    from sifthinker.models import freeze

    assert freeze(qwen) == []
    assert all("visual" in name for name in freeze(qwen, ("visual",)))


def test_it_loads_from_safetensors(qwen: torch.nn.Module, tmp_path: object) -> None:
    from sifthinker.errors import ModelError
    from sifthinker.models import load_model, load_processor

    qwen.save_pretrained(tmp_path)
    assert type(load_model(tmp_path)).__name__ == "Qwen2_5_VLForConditionalGeneration"
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)
