"""Prefix sharing: all completions of a group share one copy of their prompt, including its images.

GRPO needs the log-probabilities of G completions of the same prompt. A padded batch computes the prompt G times. Here a
group becomes one packed row

    [ prompt without its last token | last token, completion 1 | last token, completion 2 | … ]

A block mask limits each token to the prompt and its own completion. For each completion, positions restart at the end of the
prompt (on three axes for Qwen-VL's mRoPE). The last token of the prompt is repeated before each completion, because it
predicts the first token of the completion. Every other prompt token is computed once. The model receives the mask and the
positions as arguments. It is not patched, so gradient checkpointing, adapters and mixed precision work as usual.

The results equal those of the padded batch up to rounding. Tests compare log-probabilities and gradients with TRL's.
Sampling shares prompts too: a prompt is prefilled once, and its key-value cache is expanded to the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from sifthinker.decoding import growing_cache
from sifthinker.models import placeholder_tokens
from sifthinker.training.image_rows import ImageRows, base_model, image_counts

# Architectures whose forward accepts a prepared 4D mask and explicit positions. Tests compare each with TRL's padded batch.
SHARING = (
    "glm4v", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "qwen2_vl", "qwen2_5_vl",
    "qwen3_vl", "smolvlm",
)  # fmt: skip
_ATTENTION = ("sdpa", "eager", "flex_attention")

# Architectures with a special mask, which a prepared mask would replace.
_OWN_MASK = {
    "gemma3": "the tokens of an image attend to each other in both directions",
    "paligemma": "the tokens of a prompt attend to each other in both directions",
}
# Kinds of layers that a mask alone does not control.
_LAYERS = {
    "sliding_attention": "use a sliding window, which would reach into other completions of a packed row",
    "chunked_attention": "attend in chunks, which would have other boundaries in a packed row",
    "linear_attention": "are linear attention, whose state would pass from one completion to the next",
    "conv": "are convolutions, which would mix the end of one completion with the start of the next",
}


def why_not_shared(model: Any) -> str | None:
    """Return the reason why a model cannot share prompts, or None if it can."""
    config = base_model(model).config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if not kinds and getattr(text, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    for kind in sorted(kinds - {"full_attention"}):
        return f"some layers {_LAYERS.get(kind, f'are of the unknown kind {kind!r}, which may ignore a mask')}"
    if config.model_type in _OWN_MASK:
        return f"{_OWN_MASK[config.model_type]} (architecture {config.model_type!r})"
    if config.model_type not in SHARING:
        return f"architecture {config.model_type!r} was not tested, only {', '.join(SHARING)}"
    attention = getattr(text, "_attn_implementation", None) or "sdpa"
    if attention not in _ATTENTION:
        return f"attention {attention!r} does not accept a block mask; use one of {', '.join(_ATTENTION)}"
    return None


def ends_in_image(model: Any, last_tokens: torch.Tensor) -> bool:
    """Return whether a prompt ends in an image placeholder. The last token is repeated, but an image cannot be repeated."""
    placeholders = placeholder_tokens(base_model(model).config) or []
    return bool(torch.isin(last_tokens, torch.tensor(placeholders, device=last_tokens.device)).any())


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows start..stop of a batch, with the same prompt and the same images."""

    start: int
    stop: int


def shared_log_probs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    *,
    vision: Mapping[str, Any],
    batch_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the log-probabilities of completions. Adjacent rows with equal prompts share one packed row.

    A group is split if a longer row would cost more than another copy of the prompt, see `best_size`.

    Args:
        model: model with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), which may be wrapped.
        input_ids: (B, P + C), prompts padded on the left, completions on the right.
        attention_mask: (B, P + C), 0 on padding.
        logits_to_keep: C.
        vision: image tensors of the batch as TRL passes them. Entries that are None are ignored.
        batch_size: maximum number of completions in a forward pass. Larger groups are split, each part with its own prompt.
    Returns:
        log-probabilities (B, C), 0 on padding, and entropies (B, C) if the model's head computes them.
    """
    rows = input_ids.size(0)
    prompt_length = input_ids.size(1) - logits_to_keep
    tensors = _Vision(model, vision, rows)
    groups = _groups(input_ids[:, :prompt_length], attention_mask[:, :prompt_length], tensors, batch_size or rows)
    groups = [part for group in groups for part in _cut(model, group, attention_mask, prompt_length, tensors)]
    log_probs, entropies = [], []
    for chunk in _chunks(groups, batch_size or rows):
        packed = _pack(model, input_ids, attention_mask, prompt_length, chunk, tensors)
        output = model(**packed.inputs, fused_lm_head=True)
        log_probs.append(_unpack(output.log_probs, packed))
        if output.entropy is not None:
            entropies.append(_unpack(output.entropy, packed))
    return torch.cat(log_probs), torch.cat(entropies) if entropies else None


def shared_generate(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    vision: Mapping[str, Any],
    generation_config: Any,
) -> torch.Tensor:
    """Sample completions. The prompt of each group of adjacent rows is prefilled once.

    The prompt without its last token goes through the model once per group. Its key-value cache is then expanded to the
    group, and `generate` continues from there.

    Args:
        model: unwrapped model with `generate`.
        input_ids: (B, P), padded on the left.
        attention_mask: (B, P), 0 on padding.
        vision: image tensors of the batch, as in `shared_log_probs`, or their `ImageRows` as `rows`.
        generation_config: transformers' generation config.
    Returns:
        (B, P + C) tokens, as from `generate`.
    """
    tensors = _Vision(model, vision, input_ids.size(0))
    groups = _groups(input_ids, attention_mask, tensors, input_ids.size(0))
    starts = [group.start for group in groups]
    member = torch.tensor([k for k, g in enumerate(groups) for _ in range(g.stop - g.start)], device=input_ids.device)
    inputs: dict[str, Any] = {"input_ids": input_ids[starts, :-1], "attention_mask": attention_mask[starts, :-1]}
    inputs |= tensors.of_groups(groups)
    if tensors.kinds is not None:
        inputs["mm_token_type_ids"] = tensors.kinds[starts, : input_ids.size(1) - 1]
    base = base_model(model)
    if _axes(model) == 3:
        base.model.rope_deltas = None  # left over from an earlier batch
    else:
        # By default, the model counts padding in its positions, but `generate` does not. Without explicit positions, the
        # cache and the tokens after it would be shifted against each other.
        inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
    cache = growing_cache(base)
    with torch.no_grad():
        # Call the outermost module, because its forward gathers sharded weights.
        model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_select_indices(member)
        if _axes(model) == 3 and base.model.rope_deltas is not None:
            base.model.rope_deltas = base.model.rope_deltas[member]
        tokens: torch.Tensor = model.generate(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, generation_config=generation_config
        )
    return tokens


class _Vision:
    """The images of a batch, and the prompt tokens that stand for them."""

    def __init__(self, model: Any, vision: Mapping[str, Any], rows: int) -> None:
        self.model = model
        self.kinds: torch.Tensor | None = vision.get("mm_token_type_ids")
        named = {name: value for name, value in vision.items() if name not in ("num_images", "num_tiles", "rows")}
        given = vision.get("rows")
        self.rows: ImageRows = given or ImageRows(named, vision.get("num_images") or [0] * rows, vision.get("num_tiles"))

    def cost(self, row: int) -> float:
        """Return the cost of the vision tower for a row, as a number of language-model tokens with equal matrix cost."""
        if not self.rows.has("pixel_values"):
            return 0.0
        pixels, config = self.rows.of("pixel_values", row), base_model(self.model).config.vision_config
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        # With `image_grid_thw`, each entry is one patch of a pair of frames. Other images are still to be cut into patches.
        patches = len(pixels) if self.rows.has("image_grid_thw") else pixels.numel() / (3 * patch * patch)
        return float(patches * self._weight)

    @cached_property
    def _weight(self) -> float:
        """Ratio of vision-tower parameters (with the projector) to language-model parameters."""
        model = base_model(self.model)
        words = {id(p) for p in model.get_input_embeddings().parameters()}  # looked up, not multiplied with
        language = {id(p): p.numel() for p in model.get_decoder().parameters() if id(p) not in words}
        tower = [p.numel() for p in model.model.parameters() if id(p) not in words | language.keys()]
        share: float = sum(tower) / max(1, sum(language.values()))
        return share

    def of_groups(self, groups: list[_Group]) -> dict[str, torch.Tensor]:
        """Return the model arguments for the images, once for each group."""
        rows = [group.start for group in groups]
        arguments = self.rows.take(rows)
        if arguments:
            counts = [self.rows.num_images[row] for row in rows]
            arguments |= image_counts(self.model, counts, next(iter(arguments.values())).device)
        return arguments


@dataclass(frozen=True, slots=True)
class _Packed:
    """Model inputs for some groups, and the places of the completion tokens' predictions in the output.

    Args:
        inputs: arguments of the model.
        place: (B', C) position in the flattened (K, L) output.
        valid: (B', C) True for tokens, False for padding.
    """

    inputs: dict[str, Any]
    place: torch.Tensor
    valid: torch.Tensor


def _pack(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    prompt_length: int,
    groups: list[_Group],
    vision: _Vision,
) -> _Packed:
    device = input_ids.device
    prompts = [input_ids[g.start, :prompt_length][attention_mask[g.start, :prompt_length].bool()] for g in groups]
    completion_mask = attention_mask[groups[0].start : groups[-1].stop, prompt_length:]  # (B', C)
    completion_ids = input_ids[groups[0].start : groups[-1].stop, prompt_length:]
    lengths = completion_mask.sum(dim=1).tolist()
    first_row = groups[0].start
    totals = [
        len(prompt) - 1 + sum(lengths[g.start - first_row : g.stop - first_row])
        for prompt, g in zip(prompts, groups, strict=True)
    ]
    longest = max(totals)
    ids = input_ids.new_full((len(groups), longest), int(prompts[0][-1]))
    labels = input_ids.new_full((len(groups), longest), -100)
    # 0: prompt; 1, 2, …: completions; -1: padding at the end
    segments = torch.full((len(groups), longest), -1, dtype=torch.long, device=device)
    axes = _axes(model)
    positions = torch.zeros((axes, len(groups), longest), dtype=torch.long, device=device)
    place = torch.zeros_like(completion_ids)
    for k, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        shared = len(prompt) - 1
        prompt_positions = _prompt_positions(model, prompt, group, attention_mask, prompt_length, vision)  # (axes, n)
        ids[k, :shared] = prompt[:-1]
        segments[k, :shared] = 0
        positions[:, k, :shared] = prompt_positions[:, :-1]
        at = shared
        for number, row in enumerate(range(group.start - first_row, group.stop - first_row), 1):
            length = lengths[row]
            if not length:
                continue
            ids[k, at] = prompt[-1]
            ids[k, at + 1 : at + length] = completion_ids[row, : length - 1]
            labels[k, at : at + length] = completion_ids[row, :length]
            segments[k, at : at + length] = number
            positions[:, k, at : at + length] = prompt_positions[:, -1:] + torch.arange(length, device=device)
            place[row, :length] = k * longest + at + torch.arange(length, device=device)
            at += length
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": block_mask(model, segments),
        "position_ids": positions if axes == 3 else positions[0],
        "shift_labels": labels,
    }
    inputs |= vision.of_groups(groups)
    return _Packed(inputs, place, completion_mask.bool())


def _unpack(values: torch.Tensor, packed: _Packed) -> torch.Tensor:
    """Convert values (K, L) of packed tokens to values (B', C) of completion tokens, 0 on padding."""
    return torch.where(packed.valid, values.reshape(-1)[packed.place], values.new_zeros(()))


def _prompt_positions(
    model: Any,
    prompt: torch.Tensor,
    group: _Group,
    attention_mask: torch.Tensor,
    prompt_length: int,
    vision: _Vision,
) -> torch.Tensor:
    """Return the positions of a prompt's tokens as the model counts them: (1, n), or (3, n) for mRoPE."""
    if _axes(model) == 1:
        return torch.arange(len(prompt), device=prompt.device)[None]
    if not vision.rows.has("image_grid_thw") or not vision.rows.num_images[group.start] or vision.kinds is None:
        return torch.arange(len(prompt), device=prompt.device).expand(3, -1)
    kept = attention_mask[group.start, :prompt_length].bool()
    kinds = vision.kinds[group.start, :prompt_length][kept]
    grids = vision.rows.of("image_grid_thw", group.start)
    positions, _ = base_model(model).model.get_rope_index(prompt[None], mm_token_type_ids=kinds[None], image_grid_thw=grids)
    found: torch.Tensor = positions[:, 0]
    return found


def block_mask(model: Any, segments: torch.Tensor) -> Any:
    """Return the mask of packed rows, in the format that the model's attention needs.

    A token attends to the earlier tokens of the prompt and of its own completion. A padding token attends to itself, because
    a row without keys has no softmax.

    Args:
        model: the model; its attention determines the format.
        segments: (K, L).
    Returns:
        booleans (K, 1, L, L), additive floats of that shape for eager attention, or a BlockMask for flex attention.
    """
    rows, length = segments.shape
    base = base_model(model)
    attention = getattr(base.config.get_text_config(), "_attn_implementation", None)
    if attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(b: Any, h: Any, q: Any, k: Any) -> Any:
            own = (segments[b, k] == segments[b, q]) | (segments[b, k] == 0)
            return ((q >= k) & own & (segments[b, q] >= 0)) | (q == k)

        return create_block_mask(sees, rows, None, length, length, device=str(segments.device))
    index = torch.arange(length, device=segments.device)
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = (index[:, None] >= index[None]) & ((key == query) | (key == 0)) & (query >= 0)
    allowed = (allowed | (index[:, None] == index[None]))[:, None]  # (K, 1, L, L)
    if attention == "eager":
        floor = torch.finfo(base.dtype).min
        return torch.zeros(allowed.shape, dtype=base.dtype, device=segments.device).masked_fill(~allowed, floor)
    return allowed


def _groups(prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, vision: _Vision, most: int) -> list[_Group]:
    """Group adjacent rows with the same prompt and the same images, with at most `most` rows per group."""
    same_text = ((prompt_ids[1:] == prompt_ids[:-1]) & (prompt_mask[1:] == prompt_mask[:-1])).all(dim=1).tolist()
    groups, start = [], 0
    for row in range(1, prompt_ids.size(0) + 1):
        ends = row == prompt_ids.size(0) or not same_text[row - 1] or not vision.rows.same(row - 1, row)
        if ends or row - start == most:
            groups.append(_Group(start, row))
            start = row
    return groups


def _cut(model: Any, group: _Group, attention_mask: torch.Tensor, prompt_length: int, vision: _Vision) -> list[_Group]:
    """Split a group into the parts that are cheapest to compute. Each part has its own copy of the prompt and its images."""
    text = base_model(model).config.get_text_config()
    rows = group.stop - group.start
    if getattr(text, "_attn_implementation", None) == "flex_attention":
        return [group]  # the block-sparse kernel skips what the mask hides
    prompt = int(attention_mask[group.start, :prompt_length].sum())
    completion = float(attention_mask[group.start : group.stop, prompt_length:].sum()) / rows
    size = best_size(prompt, completion, rows, text.hidden_size, vision.cost(group.start))
    return [_Group(start, min(start + size, group.stop)) for start in range(group.start, group.stop, size)]


def best_size(prompt: int, completion: float, group: int, width: int, images: float = 0.0) -> int:
    """Return the best number of completions for one copy of a prompt, with dense attention.

    A longer row saves copies of the prompt and its images, but computes attention between completions, which the mask then
    hides. For a row of L tokens, the matrices of a layer need about 32 · width² · L operations. Its attention needs
    4 · width · L², which is L / (8 · width) times as many.

    Args:
        prompt: tokens of the prompt.
        completion: mean number of tokens of a completion.
        group: number of completions.
        width: hidden size of the language model.
        images: cost of the vision tower for the prompt, as the number of language-model tokens with the same matrix cost.
    """

    def cost(size: int) -> float:
        length = prompt - 1 + size * completion
        return -(-group // size) * (length * (1 + length / (8 * width)) + images)

    return min(range(1, group + 1), key=cost)


def _chunks(groups: list[_Group], most: int) -> list[list[_Group]]:
    """Split the groups, in order, into lists of at most `most` rows."""
    chunks: list[list[_Group]] = []
    for group in groups:
        if chunks and group.stop - chunks[-1][0].start <= most:
            chunks[-1].append(group)
        else:
            chunks.append([group])
    return chunks


def _axes(model: Any) -> int:
    """Return the number of position axes: three for models with mRoPE, one for others."""
    return 3 if hasattr(base_model(model).model, "get_rope_index") else 1
