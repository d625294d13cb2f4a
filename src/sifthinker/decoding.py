"""Token-by-token generation with transformers' `generate`, without what makes it slow for small models.

transformers' own cache copies all keys and values for every token; the one here grows in place. On a CPU, torch's attention
of one query a row takes about twice as long as two matrix products and a softmax when there are many rows, so the latter
are used for tokens that come one at a time (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ROOM = 64  # tokens that a buffer has room for beyond a quarter of what it holds
_FEW = 32  # queries, of all rows and heads, for which torch's attention is the faster; measured


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a key-value cache whose keys and values are views of buffers with room to spare.

    What `DynamicLayer` does to keys and values (crop, select, reorder, reset) works as ever: what is no longer a view of its
    buffer gets a new one.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, T, width) to keys and values; returns all of both."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if torch.is_grad_enabled():  # what autograd has seen must not be written over
            return super().update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def _appended(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        length = held.shape[-2] if held.numel() else 0
        end = length + new.shape[-2]
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or held.data_ptr() != buffer.data_ptr()
            or buffer.shape[0] != new.shape[0]
            or buffer.shape[-2] < end
        ):
            buffer = new.new_empty((*new.shape[:-2], end + end // 4 + _ROOM, new.shape[-1]))
            if length:
                buffer[..., :length, :] = held
            self._buffers[name] = buffer
        buffer[..., length:end, :] = new
        return buffer[..., :end, :]


def growing_cache(model: Any) -> Cache:
    """An empty cache for a model, with layers that grow in place where transformers would copy them."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_arguments(model: Any, settings: Mapping[str, Any]) -> dict[str, Cache]:
    """`generate`'s argument for a growing cache; none where the model or its settings want another cache, or none at all.

    Args:
        model: of transformers, not wrapped.
        settings: other arguments of `generate`.
    """
    chosen = {**model.generation_config.to_dict(), **settings}
    ordinary = type(model).generate is GenerationMixin.generate and not model.config.is_encoder_decoder
    if not ordinary or not model._supports_default_dynamic_cache():
        return {}
    if chosen.get("use_cache") is False or chosen.get("cache_implementation") is not None or "past_key_values" in settings:
        return {}
    return {"past_key_values": growing_cache(model)}


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`; for one query a row in many rows, without dropout, two matrix products and a softmax, in which
    the query heads that share keys and values are taken for so many queries."""
    rows, heads, queries, width = query.shape
    ordinary = options.get("dropout", 0.0) == 0 and options.get("position_bias") is None and options.get("cache") is None
    few = queries != 1 or rows * heads < _FEW
    if few or not ordinary or (attention_mask is not None and attention_mask.shape[1] != 1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    scaling = options.get("scaling")
    grouped = query.view(rows, key.shape[1], -1, width) * (width**-0.5 if scaling is None else scaling)
    if key.dtype in (torch.float32, torch.float64):
        weights = grouped @ key.transpose(2, 3)
    else:  # in half precision, with the keys in a buffer, the other way round takes half the time
        weights = (key @ grouped.transpose(2, 3)).transpose(2, 3)
    if attention_mask is not None:
        shown = attention_mask.dtype == torch.bool
        weights = weights.masked_fill(~attention_mask, float("-inf")) if shown else weights + attention_mask
    exact = torch.promote_types(weights.dtype, torch.float32)
    attended = torch.softmax(weights, dim=-1, dtype=exact).to(value.dtype) @ value
    return attended.view(rows, 1, heads, width), None


_DECODING = "sifthinker_decoding"
AttentionInterface.register(_DECODING, _attend)
AttentionMaskInterface.register(_DECODING, sdpa_mask)


@contextmanager
def attention_for_decoding(model: Any) -> Iterator[None]:
    """On a CPU, let a model's text part attend by matrix products, token by token, where it would by torch's attention.

    Args:
        model: of transformers, not wrapped.
    """
    text = getattr(model.config, "text_config", None)
    chosen = getattr(text, "_attn_implementation", None)
    if chosen != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation({"text_config": _DECODING})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": chosen})
