"""Generation with a cache that grows in place says what generation with transformers' own cache says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DynamicCache  # noqa: E402

from sifthinker.decoding import (  # noqa: E402
    GrowingLayer,
    cache_arguments,
    growing_cache,
)
from sifthinker.models import load_model, load_processor  # noqa: E402

from .training.real_batch import real_batch  # noqa: E402


def states(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 3, 2, tokens, 4, generator=draw)
    return keys, values


def filled(lengths: list[int]) -> tuple[GrowingLayer, torch.Tensor, torch.Tensor]:
    """A layer that was given so many tokens at a time, and what it should hold."""
    layer = GrowingLayer()
    parts = [states(length, seed) for seed, length in enumerate(lengths)]
    with torch.no_grad():
        for keys, values in parts:
            layer.update(keys, values)
    return layer, torch.cat([keys for keys, _ in parts], dim=2), torch.cat([values for _, values in parts], dim=2)


class TestGrowingLayer:
    def test_holds_what_it_was_given(self) -> None:
        layer, keys, values = filled([5, *[1] * 200, 7])
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
        assert (layer.get_seq_length(), layer.get_mask_sizes(1)) == (212, (213, 0))

    def test_copies_seldom(self) -> None:
        layer = GrowingLayer()
        places = set()
        with torch.no_grad():
            for step in range(1000):
                places.add(layer.update(*states(1, step))[0].data_ptr())
        assert len(places) <= 10  # a quarter more each time, and room to begin with

    def test_what_was_cropped_is_written_over(self) -> None:
        layer, keys, _ = filled([5, 3])
        layer.crop(-2)
        new = states(1, seed=9)
        with torch.no_grad():
            layer.update(*new)
        assert torch.equal(layer.keys, torch.cat([keys[:, :, :6], new[0]], dim=2))

    def test_selected_rows_go_on_by_themselves(self) -> None:
        layer, keys, _ = filled([4])
        layer.batch_select_indices(torch.tensor([2, 0]))
        new = states(1, seed=9)[0][:2]
        with torch.no_grad():
            layer.update(new, new)
        assert torch.equal(layer.keys, torch.cat([keys[[2, 0]], new], dim=2))
        layer.reset()
        assert layer.get_seq_length() == 0

    def test_nothing_is_written_over_that_a_gradient_needs(self) -> None:
        layer = GrowingLayer()
        keys, values = (part.requires_grad_() for part in states(2))
        first, _ = layer.update(keys, values)
        loss = first.square().sum()
        layer.update(*states(1, seed=1))
        loss.backward()
        assert torch.equal(keys.grad, 2 * keys)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True}, {"do_sample": False, "num_beams": 2}])
def test_the_same_tokens_as_transformers_cache(
    family: str, settings: dict[str, Any], real_model: Callable[[str], Path]
) -> None:
    model = load_model(real_model(family), dtype="float32").eval()
    ids, mask, keep, vision = real_batch(load_processor(real_model(family)), prompts=3, group=2)
    given = {name: value for name, value in vision.items() if name != "num_images"}
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = given["mm_token_type_ids"][:, :-keep]

    def generate(cache: Any) -> list[list[int]]:
        torch.manual_seed(0)
        tokens = model.generate(
            input_ids=ids[:, :-keep],
            attention_mask=mask[:, :-keep],
            past_key_values=cache,
            pad_token_id=0,
            max_new_tokens=90,  # past the buffers' first room
            min_new_tokens=90,
            suppress_tokens=[model.config.image_token_id],
            **settings,
            **given,
        )
        return tokens.tolist()  # type: ignore[no-any-return]

    assert generate(growing_cache(model)) == generate(DynamicCache(config=model.config))


@pytest.mark.parametrize(
    "settings", [{"use_cache": False}, {"cache_implementation": "static"}, {"past_key_values": DynamicCache()}]
)
def test_another_cache_can_be_asked_for(settings: dict[str, Any], tiny_vlm: Path) -> None:
    model = load_model(tiny_vlm)
    assert cache_arguments(model, settings) == {}
    assert type(cache_arguments(model, {"do_sample": True})["past_key_values"].layers[0]) is GrowingLayer


def test_models_that_generate_in_their_own_way_are_left_to_it(tiny_vlm: Path) -> None:
    model = load_model(tiny_vlm)

    class Own(type(model)):
        def generate(self, *arguments: Any, **named: Any) -> Any:
            return super().generate(*arguments, **named)

    model.__class__ = Own
    assert cache_arguments(model, {}) == {}
    translator = load_model(tiny_vlm)
    translator.config.is_encoder_decoder = True
    assert cache_arguments(translator, {}) == {}


def test_sliding_windows_keep_their_own_layers(real_model: Callable[[str], Path]) -> None:
    kinds = [type(layer).__name__ for layer in growing_cache(load_model(real_model("gemma3"))).layers]
    assert kinds == ["DynamicSlidingWindowLayer", "GrowingLayer"]
