"""Thinking: a model, an image and a question → a Thought, with its steps as they can be read, valid or not."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sifthinker.ask_settings import MAX_NEW_TOKENS
from sifthinker.chain import Reading, Region, read_completion
from sifthinker.coordinates import UNIT, Frame, Resizer, learnt_by
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, ImageError
from sifthinker.literals import Coordinates
from sifthinker.models import complete, load_for_inference, opened_by_template, special_tokens
from sifthinker.processors import image_fault
from sifthinker.prompts import user_prompt


@dataclass(frozen=True)
class Thought:
    """What a model thought about an image.

    Args:
        question: what was asked.
        image: upright RGB.
        depth: the image's depth; None in RGB-only work.
        text: what the model wrote, as it wrote it, after what its chat template opened for it (`<think>`).
        seconds: time it took, shared evenly over a batch.
        complete: whether the model ended by itself; False when it ran out of tokens.
        direct: whether the answer alone was asked for: then the whole text is the answer, or what follows its `</think>`.
        frame: what the numbers of boxes in the text stand for; regions of `steps` are unit in any case.
    """

    question: str
    image: Image.Image
    depth: DepthMap | None
    text: str
    seconds: float = 0.0
    complete: bool = True
    direct: bool = False
    frame: Frame = UNIT

    @property
    def reading(self) -> Reading:
        """Problems, steps and answer."""
        return read_completion(self.text, with_depth=self.depth is not None, opened=False, frame=self.frame)

    @property
    def answer(self) -> str | None:
        """The answer, or None when there is none to be read. Of a direct one, what comes after any reasoning."""
        return (self.text.rpartition("</think>")[2].strip() or None) if self.direct else self.reading.answer

    @property
    def steps(self) -> tuple[tuple[tuple[Region, ...], str], ...]:
        """(regions, words) of every step that can be read, also from a text that is no valid chain."""
        return self.reading.steps


class Thinker:
    """A loaded model that answers questions.

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor.
        max_new_tokens: most tokens of a chain.
    Attributes:
        coordinates: that the model has learnt to state boxes in; `unit` where its training noted none.
    """

    def __init__(self, model: Any, processor: Any, *, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.coordinates: Coordinates = learnt_by(processor.tokenizer) or "unit"
        self._resizer = Resizer.of_processor(processor)
        self._opening = opened_by_template(processor)
        self._special = special_tokens(processor)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str = "auto",
        max_pixels: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Thinker:
        """Load a model folder or Hugging Face name.

        Args:
            name: folder or name.
            device: torch device; the accelerator if there is one by default.
            dtype: of the weights, or `auto` for the checkpoint's own.
            max_pixels: see `models.load_processor`.
            max_new_tokens: most tokens of a chain.
        Raises:
            ModelError: see `models.load_model` and `models.load_processor`.
        """
        model, processor = load_for_inference(name, device=device, dtype=dtype, max_pixels=max_pixels)
        return cls(model, processor, max_new_tokens=max_new_tokens)

    def frame(self, size: tuple[int, int], coordinates: Coordinates) -> Frame:
        """What the numbers of boxes stand for in this model's chains about an image.

        Args:
            size: (width, height) of the image.
            coordinates: that the model has learnt; `resized` are pixels of the image as its own processor makes it.
        Raises:
            BoxError: unknown coordinates, or an image that the processor does not take.
            ConfigError: see `check_coordinates`.
        """
        self.check_coordinates(coordinates)
        if coordinates == "resized" and self._resizer is not None:
            return self._resizer.frame(size)
        return Frame(coordinates)

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """See that a model can have learnt coordinates.

        Raises:
            ConfigError: `resized` of a model whose processor does not resize as Qwen-VL's do.
        """
        if coordinates == "resized" and self._resizer is None:
            raise ConfigError(
                f"coordinates resized: the image processor of this model, {type(self.processor.image_processor).__name__}, "
                "does not resize by area as Qwen2.5-VL's does; wanted unit or per_mille"
            )

    def think(
        self,
        image: Image.Image,
        question: str,
        depth: DepthMap | None = None,
        *,
        direct: bool = False,
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> Thought:
        """Think about one image; see `think_all`."""
        return self.think_all([(image, question, depth)], direct=direct, coordinates=coordinates, **sampling)[0]

    def think_all(
        self,
        tasks: Sequence[tuple[Image.Image, str, DepthMap | None]],
        *,
        direct: bool = False,
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> list[Thought]:
        """Think about several images in one batch.

        Args:
            tasks: (upright RGB image, question, depth or None).
            direct: ask for the answer alone, without steps.
            coordinates: that the model's chains state boxes in, see `frame`; those that it has learnt by default.
            sampling: arguments of transformers' `generate`; greedy by default.
        Returns:
            One thought a task, in order.
        Raises:
            ConfigError: an image that is not loaded, or a question that is no text; and see `check_coordinates`.
            BoxError: see `frame`.
            ImageError: a question holds a special token of the model, for instance its placeholder for images, or an image
                is of a shape that the model's processor does not take.
        """
        for image, question, _ in tasks:
            if not isinstance(image, Image.Image):
                raise ConfigError(f"image is {image!r:.200}, wanted a loaded one: sifthinker.images.load_image(path)")
            if not isinstance(question, str):
                raise ConfigError(f"question is {question!r:.200}, wanted text")
            token = self._special.search(question)
            if token:
                raise ImageError(f"the question holds {token[0]!r}, a special token of this model; rephrase it")
            if fault := image_fault(self.processor, image.size):
                raise ImageError(f"{fault}; crop it")
        coordinates = coordinates or self.coordinates
        frames = [UNIT if direct else self.frame(image.size, coordinates) for image, _, _ in tasks]
        images = [[image, depth.view()] if depth is not None else [image] for image, _, depth in tasks]
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        *({"type": "image"} for _ in shown),
                        {
                            "type": "text",
                            "text": user_prompt(
                                question, with_depth=depth is not None, direct=direct, coordinates=coordinates
                            ),
                        },
                    ],
                }
            ]
            for shown, (_, question, depth) in zip(images, tasks, strict=True)
        ]
        started = time.monotonic()
        completions = complete(
            self.model, self.processor, conversations, images, max_new_tokens=self.max_new_tokens, **sampling
        )
        seconds = (time.monotonic() - started) / len(tasks)
        opening = "" if direct else self._opening
        return [
            Thought(question, image, depth, opening + completion.text, seconds, completion.ended, direct, frame)
            for (image, question, depth), completion, frame in zip(tasks, completions, frames, strict=True)
        ]
