"""Tiny random models of every architecture whose prompts are shared, and batches as TRL makes them."""

from __future__ import annotations

from typing import Any

import torch

IMAGE, VIDEO, START, END, PAD = 60, 61, 62, 63, 0
VOCABULARY = 64
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def tiny_model(family: str, *, attention: str = "sdpa", seed: int = 0) -> Any:
    """A random model of a family, in training mode."""
    import transformers as t

    torch.manual_seed(seed)
    if family == "llava":
        config = t.LlavaConfig(
            vision_config=t.SiglipVisionConfig(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                image_size=8, patch_size=4, vision_use_head=False,
            ),
            text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE, image_seq_length=4,
            vision_feature_select_strategy="full", vision_feature_layer=-1,
        )  # fmt: skip
        kind = t.LlavaForConditionalGeneration
    elif family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}
        config = t.Qwen2VLConfig(text_config={**TEXT, "rope_parameters": MROPE}, vision_config=vision, **TOKENS)
        kind = t.Qwen2VLForConditionalGeneration
    elif family == "qwen2_5_vl":
        vision = {
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 16, "patch_size": 4,
        }  # fmt: skip
        config = t.Qwen2_5_VLConfig(text_config={**TEXT, "rope_parameters": MROPE}, vision_config=vision, **TOKENS)
        kind = t.Qwen2_5_VLForConditionalGeneration
    else:
        vision = {
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "deepstack_visual_indexes": [0], "patch_size": 4, "num_position_embeddings": 64,
        }  # fmt: skip
        config = t.Qwen3VLConfig(
            text_config={**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
            vision_config=vision, **TOKENS,
        )  # fmt: skip
        kind = t.Qwen3VLForConditionalGeneration
    config._attn_implementation = attention
    return kind(config).train()


def tiny_batch(
    family: str, *, prompts: int = 2, group: int = 4, longest: int = 9, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, int, dict[str, Any]]:
    """A batch as TRL hands it to the log-probabilities: two images a prompt, prompts and completions of unequal length.

    Returns:
        input_ids (B, P + C), attention_mask (B, P + C), C, image tensors.
    """
    draw = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(1, 50, (count,), generator=draw).tolist()

    rows, kinds, masks, completions, completion_masks = [], [], [], [], []
    pixels, grids, num_images = [], [], []
    for number in range(prompts):
        tokens = words(2 + number)
        kind = [0] * len(tokens)
        images, shapes = [], []
        for picture in range(2):
            side = 4 if family == "llava" else 4 + 2 * ((number + picture) % 2)
            count = 4 if family == "llava" else side * 4 // 4
            tokens += [START] + [IMAGE] * count + [END]
            kind += [0] + [1] * count + [0]
            if family == "llava":
                images.append(torch.randn(1, 3, 8, 8, generator=draw))
            else:
                images.append(torch.randn(side * 4, 3 * 2 * 4 * 4, generator=draw))
                shapes.append([1, side, 4])
        tokens += words(3 + 2 * number)
        kind += [0] * (len(tokens) - len(kind))
        for _ in range(group):
            rows.append(tokens)
            kinds.append(kind)
            num_images.append(2)
            pixels += images
            grids += shapes
            length = int(torch.randint(1, longest + 1, (1,), generator=draw))
            completions.append(words(length) + [PAD] * (longest - length))
            completion_masks.append([1] * length + [0] * (longest - length))
    width = max(map(len, rows))
    for row, kind in zip(rows, kinds, strict=True):
        masks.append([0] * (width - len(row)) + [1] * len(row))
        kind[:0] = [0] * (width - len(kind)) if len(kind) < width else []
    rows = [[PAD] * (width - len(row)) + row for row in rows]
    kinds = [[0] * (width - len(kind)) + kind for kind in kinds]
    input_ids = torch.tensor([a + b for a, b in zip(rows, completions, strict=True)])
    attention_mask = torch.tensor([a + b for a, b in zip(masks, completion_masks, strict=True)])
    vision: dict[str, Any] = {"pixel_values": torch.cat(pixels), "num_images": num_images}
    if family != "llava":
        vision["image_grid_thw"] = torch.tensor(grids)
        vision["mm_token_type_ids"] = torch.tensor([kind + [0] * longest for kind in kinds])
    return input_ids, attention_mask, longest, vision
