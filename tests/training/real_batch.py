"""Batches as TRL's GRPO trainer makes them, with the real processors of tiny random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

# Width and height of a prompt's two images; the second prompt's are others.
SIZES = (((80, 60), (60, 90)), ((112, 56), (64, 64)), ((60, 60), (90, 70)))
WORDS = ("Which is nearer?", "Is the red block behind the green one, or before it?", "How many?")


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """An image of random pixels, (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def real_prompts(prompts: int, seed: int = 0) -> list[tuple[list[Image.Image], list[dict[str, Any]]]]:
    """Images and conversation of so many prompts: two images of different sizes, words of unequal length."""
    made = []
    for number in range(prompts):
        images = [noise(size, 10 * seed + 2 * number + place) for place, size in enumerate(SIZES[number % 3])]
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": WORDS[(number + seed) % 3]}]
        made.append((images, [{"role": "user", "content": content}]))
    return made


def real_batch(
    processor: Any, *, prompts: int = 2, group: int = 4, longest: int = 9, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, int, dict[str, Any]]:
    """A batch as TRL hands it to the log-probabilities, made by the processor from every row, as TRL does.

    Returns:
        input_ids (B, P + C), attention_mask (B, P + C), C, image tensors.
    """
    rows = [row for row in real_prompts(prompts, seed) for _ in range(group)]
    texts = [processor.apply_chat_template(row, tokenize=False, add_generation_prompt=True) for _, row in rows]
    shown = [images for images, _ in rows]
    inputs = dict(processor(images=shown, text=texts, padding=True, return_tensors="pt"))
    prompt_ids, prompt_mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (len(rows), 1), generator=draw)
    completion_mask = (torch.arange(longest) < lengths).long()
    letters = [processor.tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefghijklmno"]
    completion_ids = torch.tensor(letters)[torch.randint(0, len(letters), completion_mask.shape, generator=draw)]
    completion_ids = completion_ids.where(completion_mask.bool(), torch.tensor(processor.tokenizer.pad_token_id))
    vision: dict[str, Any] = {"num_images": [2] * len(rows), **inputs}
    if vision["pixel_values"].ndim == 4 and len(vision["pixel_values"]) != 2 * len(rows):
        tiles = processor.image_processor(images=shown, crop_to_patches=True, return_tensors="pt")["num_patches"]
        vision["num_tiles"] = tiles.view(-1, 2).sum(dim=1).tolist()
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in vision:
            vision[name] = torch.cat([vision[name], vision[name].new_zeros(completion_ids.shape)], dim=1)
    # TRL hands this on when it scores, where its own computation does not take it, and leaves it out of the loss.
    vision.pop("batch_num_images", None)
    ids, mask = torch.cat([prompt_ids, completion_ids], dim=1), torch.cat([prompt_mask, completion_mask], dim=1)
    return ids, mask, longest, vision


def pixtral_batch(config: Any, *, prompts: int = 2, group: int = 4, longest: int = 9, seed: int = 0) -> Any:
    """As `real_batch`, for Mistral 3, written by hand in its processor's layout: that needs torchvision to be loaded."""
    draw = torch.Generator().manual_seed(seed)
    image, side, merged = config.image_token_id, config.vision_config.image_size, 2 * config.vision_config.patch_size
    texts, pixels, sizes = [], [], []
    for number in range(prompts):
        tokens = torch.randint(300, 400, (3 + number,), generator=draw).tolist()
        for height, width in ((2 + (number + seed) % 2, 3), (1, 2)):
            tokens += ([image] * width + [image + 1]) * height  # a token ends each row of the image
            picture = torch.zeros(3, side, side)  # padded to the largest
            picture[:, : height * merged, : width * merged] = torch.randn(3, height * merged, width * merged, generator=draw)
            pixels.append(picture)
            sizes.append([height * merged, width * merged])
        texts.append([*tokens, *torch.randint(300, 400, (2 + 2 * number,), generator=draw).tolist()])
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts for _ in range(group)])
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts for _ in range(group)])
    lengths = torch.randint(1, longest + 1, (len(ids), 1), generator=draw)
    completion_mask = (torch.arange(longest) < lengths).long()
    completion_ids = torch.randint(300, 400, completion_mask.shape, generator=draw) * completion_mask
    per_row = [place for number in range(prompts) for _ in range(group) for place in (2 * number, 2 * number + 1)]
    vision = {"num_images": [2] * len(ids), "pixel_values": torch.stack(pixels)[per_row]}
    vision["image_sizes"] = torch.tensor(sizes)[per_row]
    return torch.cat([ids, completion_ids], dim=1), torch.cat([mask, completion_mask], dim=1), longest, vision
