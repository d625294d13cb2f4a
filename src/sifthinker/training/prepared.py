"""A processor that prepares the images of each prompt once, for any number of completions.

GRPO has G rows for each prompt. TRL's trainer passes all of them to the processor, once before sampling and once before
scoring. The wrapper in this module passes one row per prompt, repeats the result, and keeps the result of the images for the
second call. The tensors are the same as for the complete batch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sifthinker.training.image_rows import PER_TOKEN, ImageRows, LayoutError

logger = logging.getLogger(__name__)

IMAGES = "image_rows"


def share_equal_images(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which neighbours with equal images share the image objects, so that later comparisons are fast.

    Args:
        rows: rows of a dataset, with optional images in `images`. A dataset decodes them again for every row.
    """
    shared: list[dict[str, Any]] = []
    for row in rows:
        before = shared[-1].get("images") if shared else None
        same = before is not None and row.get("images") == before
        shared.append({**row, "images": before} if same else dict(row))
    return shared


class PreparesOnce:
    """A wrapper of a processor that is used while a batch is made.

    It prepares adjacent rows with equal text and images once. Otherwise it behaves like the processor.

    Args:
        processor: transformers processor. It does not change.
        written_out: whether `apply_chat_template` repeats the image tensors too. Otherwise it returns them in one entry,
            `IMAGES`, as the `ImageRows` of all rows.
    """

    def __init__(self, processor: Any, *, written_out: bool = True) -> None:
        self._written_out = written_out
        self._whole = processor
        self._remembered = _Remembered(processor.image_processor)
        self._processor = copy.copy(processor)
        self._processor.image_processor = self._remembered
        self.image_processor = _Asked(self._remembered)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def apply_chat_template(self, conversation: Any, **named: Any) -> Any:
        """Like the method of the processor."""
        if not named.get("tokenize") or not named.get("return_dict") or not _batched(conversation):
            return self._processor.apply_chat_template(conversation, **named)
        first, row_of = _distinct(conversation)
        rows = [conversation[row] for row in first]
        # Ask for lists: some processors (Mistral 3) return tensors by default, which fails for prompts of unequal length.
        prepared = self._processor.apply_chat_template(conversation=rows, **{"return_tensors": None, **named})
        repeated = self._repeat(prepared, [_images_in(row) for row in rows], row_of, self._written_out)
        if repeated is None:
            return self._whole.apply_chat_template(conversation=conversation, **named)
        return repeated

    def __call__(self, images: Any = None, text: Any = None, **named: Any) -> Any:
        """Like the call of the processor."""
        if images is None or not isinstance(text, list):
            return self._processor(images=images, text=text, **named)
        first, row_of = _distinct(list(zip(text, images, strict=True)))
        shown = [images[row] for row in first]
        prepared = self._processor(images=shown, text=[text[row] for row in first], **named)
        repeated = self._repeat(prepared, [len(row) if row else 0 for row in shown], row_of, True)
        return self._whole(images=images, text=text, **named) if repeated is None else repeated

    def _repeat(self, prepared: Any, num_images: list[int], row_of: list[int], written_out: bool) -> Any:
        """Repeat the prepared inputs for all equal rows. Return None if the layout of the image tensors is unknown."""
        if written_out and len(num_images) == len(row_of):
            return prepared
        data: dict[str, Any] = {}
        for name in [name for name in prepared if name in PER_TOKEN]:
            value = prepared[name]
            data[name] = value[row_of] if isinstance(value, torch.Tensor) else [list(value[row]) for row in row_of]
        if data.keys() == prepared.keys():
            return type(prepared)(data)
        try:
            rows = ImageRows(prepared, num_images, self._remembered.num_tiles(num_images)).repeated(row_of)
        except LayoutError as error:
            logger.warning("preparing the images of every completion separately, which is slower: %s", error)
            return None
        if not written_out:
            return type(prepared)({**data, IMAGES: rows})
        data |= rows.take(range(len(row_of)))
        return type(prepared)({name: data[name] for name in prepared})


class _Remembered:
    """An image processor that remembers its last result and returns it again for the same images."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._images: list[Any] = []
        self._settings: dict[str, Any] = {}
        self.found: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        # Always make tensors. They work for callers that asked for lists, and the second call needs them.
        settings["return_tensors"] = "pt"
        flat = _flat(images)
        if self.found is None or settings != self._settings or not _equal(flat, self._images):
            self.found = self._processor(images, **settings)
            self._images, self._settings = flat, settings
        return type(self.found)(dict(self.found))  # a copy, because processors remove entries

    def about(self, images: Any) -> Any:
        """Return the remembered result if it is for these images, with any settings; else None."""
        return self.found if self.found is not None and _equal(_flat(images), self._images) else None

    def num_tiles(self, num_images: list[int]) -> list[int] | None:
        """Return the number of tiles in each row, for image processors that report tiles per image."""
        if self.found is None:
            return None
        if "num_patches" in self.found:
            tiles = torch.as_tensor(self.found["num_patches"])
        elif "image_rows" in self.found:
            tiles = torch.as_tensor(self.found["image_rows"]) * torch.as_tensor(self.found["image_cols"])
            if getattr(self._processor, "use_thumbnail", False):
                tiles = tiles + (tiles > 1).to(tiles.dtype)
        else:
            return None
        if len(tiles) != sum(num_images):
            return None
        return [int(part.sum()) for part in torch.split(tiles, num_images)]


class _Asked:
    """The image processor for the trainer, which calls it to count the tiles of the images of all rows."""

    def __init__(self, remembered: _Remembered) -> None:
        self._remembered = remembered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remembered, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        if not _batched(images):
            return self._remembered(images, **settings)
        first, row_of = _distinct(images)
        rows = [images[row] or [] for row in first]
        found = self._remembered.about(rows)
        if found is None:
            found = self._remembered([row for row in rows if row], **settings)
        counts = [len(row) for row in rows]
        each_image = {name: value for name, value in found.items() if len(value) == sum(counts)}
        return type(found)(ImageRows(each_image, counts).take(row_of))


def _batched(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], list | None)


def _distinct(rows: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Return the indices of rows that differ from the row before, and for every row the position of its equal among them."""
    first: list[int] = []
    row_of: list[int] = []
    for number, row in enumerate(rows):
        if not first or not (row is rows[first[-1]] or row == rows[first[-1]]):
            first.append(number)
        row_of.append(len(first) - 1)
    return first, row_of


def _images_in(conversation: Sequence[Mapping[str, Any]]) -> int:
    contents = [message.get("content") for message in conversation]
    return sum(part.get("type") == "image" for content in contents if isinstance(content, list) for part in content)


def _flat(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return [image for part in images for image in _flat(part)]
    return [] if images is None else [images]


def _equal(images: list[Any], others: list[Any]) -> bool:
    return len(images) == len(others) and all(a is b or _alike(a, b) for a, b in zip(images, others, strict=True))


def _alike(image: Any, other: Any) -> bool:
    """Return whether two images have the same pixels. Arrays and tensors compare by element and count as different."""
    found = image == other
    return found if isinstance(found, bool) else False
