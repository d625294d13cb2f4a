"""The image tensors of a batch, cut by row: what belongs to which prompt in each of the layouts that processors give."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any

import torch

# Numbers of tokens, padded like them; all else that a processor gives belongs to images.
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class LayoutError(ValueError):
    """Image tensors that cannot be cut by row, because their length is that of nothing known."""


class ImageRows:
    """The image tensors of a batch, whose rows can be taken, repeated and compared.

    Layouts, told by what is there: patches of all images in one run, with `image_grid_thw` (Qwen-VL, GLM-V); tiles of all
    images in one run (InternVL, LFM2-VL); images padded to the most of any row, with `pixel_attention_mask` (Idefics,
    SmolVLM); otherwise one entry an image (LLaVA, Mistral 3), tiled inside the entry for some (LLaVA-NeXT).

    Args:
        tensors: by name; those that are None, and those of `PER_TOKEN`, are left out.
        num_images: of each row.
        num_tiles: of each row, where tiles lie in one run.
    Raises:
        LayoutError: a tensor's length fits neither rows nor images nor tiles.
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
        self._kept = list(range(len(self.num_images)))  # for each row, the one whose tensors are its own

    def _cut(self, name: str, length: int, num_tiles: list[int] | None) -> list[int]:
        """Where each row starts in a tensor, and where the last one ends."""
        each_row = [1] * len(self.num_images)
        padded = "pixel_attention_mask" in self._tensors and "spatial_shapes" not in self._tensors
        grids = self._tensors.get("image_grid_thw")
        if name == "pixel_values" and grids is not None:
            patches = grids.prod(dim=-1).tolist()  # at once: on a GPU each number by itself would wait for it
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
                f"{name} has {length} entries; wanted one for each of {len(self.num_images)} rows, of "
                f"{sum(self.num_images)} images or of their tiles"
            )
        return [0, *accumulate(counts)]

    def take(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """The tensors of these rows, in this order; a row may be taken more than once."""
        return {name: torch.cat([self.of(name, row) for row in rows]) for name in self._tensors}

    def of(self, name: str, row: int) -> torch.Tensor:
        """What a row has of a tensor."""
        kept, starts = self._kept[row], self._starts[name]
        return self._tensors[name][starts[kept] : starts[kept + 1]]

    def repeated(self, rows: Sequence[int]) -> ImageRows:
        """These rows, in this order; rows that are taken more than once are kept once, until `take` writes them out."""
        made = copy.copy(self)
        made._kept = [self._kept[row] for row in rows]
        made.num_images = [self.num_images[row] for row in rows]
        return made

    def to(self, device: Any) -> ImageRows:
        """The same on a device."""
        made = copy.copy(self)
        made._tensors = {name: value.to(device) for name, value in self._tensors.items()}
        return made

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._tensors

    def same(self, row: int, other: int) -> bool:
        """Whether two rows have the same images."""
        if self._kept[row] == self._kept[other]:
            return True
        if self.num_images[row] != self.num_images[other]:
            return False
        return all(torch.equal(self.of(name, row), self.of(name, other)) for name in self._tensors)


def image_counts(model: Any, num_images: Sequence[int], device: Any = None) -> dict[str, torch.Tensor]:
    """The argument in which some models (LLaVA-OneVision) take the number of images of each row; none for the others.

    A prompt's only image is cut into tiles there, several are not.

    Args:
        model: of transformers, perhaps wrapped.
        num_images: of each row.
        device: for the tensor.
    """
    if not num_images or "batch_num_images" not in inspect.signature(type(base_model(model)).forward).parameters:
        return {}
    return {"batch_num_images": torch.tensor(list(num_images), device=device)}


def told_image_counts(model: Any, num_images: Sequence[int] | None) -> Any:
    """A model that is told how many images each row has, where it wants to know; TRL's computation does not tell it.

    Args:
        model: of transformers, perhaps wrapped.
        num_images: of each row of a batch, whose rows go through the model in order, in as many calls as it takes.
    """
    if not image_counts(model, num_images or []):
        return model
    left = iter(num_images or [])

    def told(**inputs: Any) -> Any:
        ids = inputs["input_ids"]
        return model(**inputs, **image_counts(model, list(islice(left, len(ids))), ids.device))

    return told


def base_model(model: Any) -> Any:
    """The transformers model inside whatever wraps it: DDP, FSDP, DeepSpeed, PEFT."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
