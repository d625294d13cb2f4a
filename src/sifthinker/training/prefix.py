"""Prefix sharing: the completions of one prompt go through the model behind one copy of it, images included.

GRPO asks for the log-probabilities of G completions of the same prompt. Padded side by side, the prompt is computed G times.
Here a group becomes one packed row

    [ prompt without its last token | last token, completion 1 | last token, completion 2 | … ]

in which a token sees the prompt and its own completion alone (a block mask), and positions restart at the prompt's end
for each completion (three axes for Qwen-VL's mRoPE). The prompt's last token stands before each completion because it is
the one that predicts the completion's first token; every other prompt token is computed once. Mask and positions go into the
model as arguments, so nothing of it is patched, and gradient checkpointing, adapters and mixed precision work as ever.

The numbers are those of the padded batch up to rounding; tests hold log-probabilities and gradients against TRL's.
Sampling shares too: a prompt is prefilled once, and its key-value cache expanded over the group.
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

# Architectures whose forward takes a prepared 4D mask and explicit positions; tests hold each against TRL's padded batch.
SHARING = (
    "glm4v", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "qwen2_vl", "qwen2_5_vl",
    "qwen3_vl", "smolvlm",
)  # fmt: skip
_ATTENTION = ("sdpa", "eager", "flex_attention")

# Masks of their own, which a prepared mask would replace.
_OWN_MASK = {
    "gemma3": "the tokens of an image attend to each other in both directions",
    "paligemma": "the tokens of a prompt attend to each other in both directions",
}
# Kinds of layers in which a token reaches others by another way than a mask.
_LAYERS = {
    "sliding_attention": "attend in a sliding window, which in a packed row would end in another completion",
    "chunked_attention": "attend in chunks, which in a packed row would be cut elsewhere",
    "linear_attention": "are linear attention, whose state runs on from one completion into the next",
    "conv": "are convolutions, which run on from one completion into the next",
}


def why_not_shared(model: Any) -> str | None:
    """Why a model's prompts cannot be shared; None when they can."""
    config = base_model(model).config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if not kinds and getattr(text, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    for kind in sorted(kinds - {"full_attention"}):
        return f"some of its layers {_LAYERS.get(kind, f'are of the kind {kind!r}, which is not known to keep to a mask')}"
    if config.model_type in _OWN_MASK:
        return f"{_OWN_MASK[config.model_type]} (architecture {config.model_type!r})"
    if config.model_type not in SHARING:
        return f"architecture {config.model_type!r} is not among those that were tested: {', '.join(SHARING)}"
    attention = getattr(text, "_attn_implementation", None) or "sdpa"
    if attention not in _ATTENTION:
        return f"attention {attention!r} takes no block mask; load the model with one of {', '.join(_ATTENTION)}"
    return None


def ends_in_image(model: Any, last_tokens: torch.Tensor) -> bool:
    """Whether a prompt's last token stands for pixels: it is repeated before each completion, which an image cannot be."""
    placeholders = placeholder_tokens(base_model(model).config) or []
    return bool(torch.isin(last_tokens, torch.tensor(placeholders, device=last_tokens.device)).any())


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows start..stop of a batch, which have one prompt and the same images."""

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
    """Log-probabilities of completions, each group of equal neighbouring prompts in one packed row.

    Groups are cut where a longer row would cost more than another copy of the prompt, see `best_size`.

    Args:
        model: with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), perhaps wrapped.
        input_ids: (B, P + C), prompts padded on the left, completions on the right.
        attention_mask: (B, P + C), 0 on padding.
        logits_to_keep: C.
        vision: the batch's image tensors as TRL hands them on; those that are None are left out.
        batch_size: most completions in one forward pass; larger groups are cut into sub-groups, each with its own prompt.
    Returns:
        log-probabilities (B, C), 0 on padding, and entropies (B, C) where the model's head computes them.
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
    """Sample completions, each group of equal neighbouring prompts prefilled once.

    The prompt without its last token goes through the model once for each group; its key-value cache is then expanded over
    the group, and `generate` goes on from there.

    Args:
        model: unwrapped, with `generate`.
        input_ids: (B, P), padded on the left.
        attention_mask: (B, P), 0 on padding.
        vision: the batch's image tensors, as in `shared_log_probs`; or `rows`, the `ImageRows` of them.
        generation_config: of transformers.
    Returns:
        (B, P + C) tokens, as `generate` gives them.
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
        base.model.rope_deltas = None  # of an earlier batch
    else:
        # `generate` counts positions without the padding; the model, left to itself, with it. The cache and the tokens
        # that go on from it would be shifted against each other.
        inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
    cache = growing_cache(base)
    with torch.no_grad():
        # Through the outermost module: where weights are spread over processes, its forward is what gathers them.
        model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_select_indices(member)
        if _axes(model) == 3 and base.model.rope_deltas is not None:
            base.model.rope_deltas = base.model.rope_deltas[member]
        tokens: torch.Tensor = model.generate(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, generation_config=generation_config
        )
    return tokens


class _Vision:
    """The images of a batch, and which of a prompt's tokens stand for them."""

    def __init__(self, model: Any, vision: Mapping[str, Any], rows: int) -> None:
        self.model = model
        self.kinds: torch.Tensor | None = vision.get("mm_token_type_ids")
        named = {name: value for name, value in vision.items() if name not in ("num_images", "num_tiles", "rows")}
        given = vision.get("rows")
        self.rows: ImageRows = given or ImageRows(named, vision.get("num_images") or [0] * rows, vision.get("num_tiles"))

    def cost(self, row: int) -> float:
        """What the vision tower computes for a row, in tokens of the language model whose matrices cost as much."""
        if not self.rows.has("pixel_values"):
            return 0.0
        pixels, config = self.rows.of("pixel_values", row), base_model(self.model).config.vision_config
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        # Patches that lie in one run hold a pair of frames each, and are one entry; other images are cut into them.
        patches = len(pixels) if self.rows.has("image_grid_thw") else pixels.numel() / (3 * patch * patch)
        return float(patches * self._weight)

    @cached_property
    def _weight(self) -> float:
        """Parameters that a patch meets, as a share of those that a token meets; a projector's count as the tower's."""
        model = base_model(self.model)
        words = {id(p) for p in model.get_input_embeddings().parameters()}  # looked up, not multiplied with
        language = {id(p): p.numel() for p in model.get_decoder().parameters() if id(p) not in words}
        tower = [p.numel() for p in model.model.parameters() if id(p) not in words | language.keys()]
        share: float = sum(tower) / max(1, sum(language.values()))
        return share

    def of_groups(self, groups: list[_Group]) -> dict[str, torch.Tensor]:
        """Model arguments for the images of each group, once."""
        rows = [group.start for group in groups]
        arguments = self.rows.take(rows)
        if arguments:
            counts = [self.rows.num_images[row] for row in rows]
            arguments |= image_counts(self.model, counts, next(iter(arguments.values())).device)
        return arguments


@dataclass(frozen=True, slots=True)
class _Packed:
    """Model inputs for some groups, and where each completion token's prediction stands in them.

    Args:
        inputs: arguments of the model.
        place: (B', C) position in the flattened (K, L) output.
        valid: (B', C) whether there is a token.
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
    # 0 the prompt, 1 … the completions, -1 padding at the end
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
    """(K, L) per packed token → (B', C) per completion token, 0 on padding."""
    return torch.where(packed.valid, values.reshape(-1)[packed.place], values.new_zeros(()))


def _prompt_positions(
    model: Any,
    prompt: torch.Tensor,
    group: _Group,
    attention_mask: torch.Tensor,
    prompt_length: int,
    vision: _Vision,
) -> torch.Tensor:
    """Positions of a prompt's tokens: (1, n), or (3, n) for mRoPE, as the model itself counts them."""
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
    """The mask of packed rows, in the form that the model's attention takes: a token sees what comes before it in the
    prompt and in its own completion. Padding sees itself alone, for a row without any key has no softmax.

    Args:
        model: tells the form.
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
    """Runs of neighbouring rows with one prompt and the same images, cut to at most `most` rows."""
    same_text = ((prompt_ids[1:] == prompt_ids[:-1]) & (prompt_mask[1:] == prompt_mask[:-1])).all(dim=1).tolist()
    groups, start = [], 0
    for row in range(1, prompt_ids.size(0) + 1):
        ends = row == prompt_ids.size(0) or not same_text[row - 1] or not vision.rows.same(row - 1, row)
        if ends or row - start == most:
            groups.append(_Group(start, row))
            start = row
    return groups


def _cut(model: Any, group: _Group, attention_mask: torch.Tensor, prompt_length: int, vision: _Vision) -> list[_Group]:
    """A group in the parts that are cheapest to compute, each with its own copy of the prompt and its images."""
    text = base_model(model).config.get_text_config()
    rows = group.stop - group.start
    if getattr(text, "_attn_implementation", None) == "flex_attention":
        return [group]  # a block-sparse kernel does not compute what the mask hides
    prompt = int(attention_mask[group.start, :prompt_length].sum())
    completion = float(attention_mask[group.start : group.stop, prompt_length:].sum()) / rows
    size = best_size(prompt, completion, rows, text.hidden_size, vision.cost(group.start))
    return [_Group(start, min(start + size, group.stop)) for start in range(group.start, group.stop, size)]


def best_size(prompt: int, completion: float, group: int, width: int, images: float = 0.0) -> int:
    """How many completions to put behind one copy of a prompt, for dense attention.

    A longer row saves copies of the prompt and its images, and pays for attention between completions that the mask then
    hides. Of a row of L tokens a layer's matrices cost about 32 · width² · L operations and its attention 4 · width · L²,
    which is L / (8 · width) of the former.

    Args:
        prompt: tokens of the prompt.
        completion: mean tokens of a completion.
        group: completions.
        width: of the language model.
        images: what the vision tower computes for the prompt, in tokens whose matrices of the language model cost as much.
    """

    def cost(size: int) -> float:
        length = prompt - 1 + size * completion
        return -(-group // size) * (length * (1 + length / (8 * width)) + images)

    return min(range(1, group + 1), key=cost)


def _chunks(groups: list[_Group], most: int) -> list[list[_Group]]:
    """Groups in order, in lists of at most `most` rows."""
    chunks: list[list[_Group]] = []
    for group in groups:
        if chunks and group.stop - chunks[-1][0].start <= most:
            chunks[-1].append(group)
        else:
            chunks.append([group])
    return chunks


def _axes(model: Any) -> int:
    """Axes that positions have: three where the model counts them for images (mRoPE), one elsewhere."""
    return 3 if hasattr(base_model(model).model, "get_rope_index") else 1
