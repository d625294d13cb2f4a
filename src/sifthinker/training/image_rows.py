"""Image tensors of a batch, split by row (prompt), for each layout that processors return."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any

import torch

# Inputs with one value per token. All other outputs of a processor belong to images.
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class LayoutError(ValueError):
    """Image tensors cannot be split by row, because their length matches no known layout."""


class ImageRows:
    """Image tensors of a batch. Rows can be selected, repeated and compared.

    The tensors determine the layout: concatenated patches of all images, with `image_grid_thw` (Qwen-VL, GLM-V);
    concatenated tiles of all images (InternVL, LFM2-VL); rows padded to the largest number of images, with
    `pixel_attention_mask` (Idefics, SmolVLM); otherwise one entry per image (LLaVA, Mistral 3), which may contain tiles
    (LLaVA-NeXT).

    Args:
        tensors: name → tensor. Entries that are None, and those in `PER_TOKEN`, are ignored.
        num_images: number of images in each row.
        num_tiles: number of tiles in each row, for concatenated tiles.
    Raises:
        LayoutError: the length of a tensor matches neither rows nor images nor tiles.
    Example:
        >>> rows = ImageRows({"pixel_values": torch.tensor([[1.0], [2.0], [3.0]])}, num_images=[2, 1])
        >>> rows.take([1, 1])["pixel_values"].flatten().tolist()
        [3.0, 3.0]
    """

    def __init__(
        self, tensors: Mapping[str, Any], num_images: Sequence[int], num_tiles: Sequence[int] | None = None
    ) -> None:
        self.num_images = [int(count) for count in num_images]
        self._tensors = {
            name: torch.as_tensor(value) for name, value in tensors.items() if value is not None and name not in PER_TOKEN
        }
        tiles = None if num_tiles is None else [int(count) for count in num_tiles]
        self._starts = {name: self._cut(name, len(value), tiles) for name, value in self._tensors.items()}
        self._kept = list(range(len(self.num_images)))  # for each row, the index of the row that stores its tensors

    def _cut(self, name: str, length: int, num_tiles: list[int] | None) -> list[int]:
        """Return the start of each row in a tensor, and the end of the last row."""
        each_row = [1] * len(self.num_images)
        padded = "pixel_attention_mask" in self._tensors and "spatial_shapes" not in self._tensors
        grids = self._tensors.get("image_grid_thw")
        if name == "pixel_values" and grids is not None:
            patches = grids.prod(dim=-1).tolist()  # one transfer from the GPU instead of one per number
            images = [0, *accumulate(self.num_images)]
            counts = [sum(patches[start:stop]) for start, stop in pairwise(images)]
        elif name == "batch_num_images" or (padded and name in ("pixel_values", "pixel_attention_mask")):
            counts = each_row
        elif length == sum(self.num_images):
            counts = self.num_images
        elif num_tiles is not None and length == sum(num_tiles):
            counts = num_tiles
        else:
            counts = each_row
        if sum(counts) != length:
            raise LayoutError(
                f"{name}: expected one entry for each of {len(self.num_images)} rows, of {sum(self.num_images)} images or "
                f"of their tiles, got {length} entries"
            )
        return [0, *accumulate(counts)]

    def take(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the tensors of these rows, in this order. Rows may repeat."""
        return {name: torch.cat([self.of(name, row) for row in rows]) for name in self._tensors}

    def of(self, name: str, row: int) -> torch.Tensor:
        """Return the part of a tensor that belongs to a row."""
        kept, starts = self._kept[row], self._starts[name]
        return self._tensors[name][starts[kept] : starts[kept + 1]]

    def repeated(self, rows: Sequence[int]) -> ImageRows:
        """Return these rows, in this order. Repeated rows share their tensors until `take` copies them."""
        made = copy.copy(self)
        made._kept = [self._kept[row] for row in rows]
        made.num_images = [self.num_images[row] for row in rows]
        return made

    def to(self, device: Any) -> ImageRows:
        """Return the rows on a device."""
        made = copy.copy(self)
        made._tensors = {name: value.to(device) for name, value in self._tensors.items()}
        return made

    def has(self, name: str) -> bool:
        """Return whether there is a tensor with this name."""
        return name in self._tensors

    def same(self, row: int, other: int) -> bool:
        """Return whether two rows have the same images."""
        if self._kept[row] == self._kept[other]:
            return True
        if self.num_images[row] != self.num_images[other]:
            return False
        return all(torch.equal(self.of(name, row), self.of(name, other)) for name in self._tensors)


def image_counts(model: Any, num_images: Sequence[int], device: Any = None) -> dict[str, torch.Tensor]:
    """Return the argument with the number of images in each row, for models that need it (LLaVA-OneVision); else nothing.

    These models split a single image into tiles, but not several images.

    Args:
        model: transformers model, which may be wrapped.
        num_images: number of images in each row.
        device: device of the tensor.
    """
    if not num_images or "batch_num_images" not in inspect.signature(type(base_model(model)).forward).parameters:
        return {}
    return {"batch_num_images": torch.tensor(list(num_images), device=device)}


def told_image_counts(model: Any, num_images: Sequence[int] | None) -> Any:
    """Wrap a model so that it receives the number of images in each row, if it needs it. TRL does not pass this number.

    Args:
        model: transformers model, which may be wrapped.
        num_images: number of images in each row of a batch. The rows go through the model in order, in one or more calls.
    """
    if not image_counts(model, num_images or []):
        return model
    left = iter(num_images or [])

    def told(**inputs: Any) -> Any:
        ids = inputs["input_ids"]
        return model(**inputs, **image_counts(model, list(islice(left, len(ids))), ids.device))

    return told


def base_model(model: Any) -> Any:
    """Return the transformers model inside its wrappers: DDP, FSDP, DeepSpeed, PEFT."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
