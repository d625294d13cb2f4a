"""Thinking: from an image and a question to a `Thought` with its readable steps, whether the chain is valid or not.

`Thinker` is one interface over models in this process (`LocalThinker`) and on servers (`served.ServedThinker`).
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sifthinker.ask_settings import MAX_NEW_TOKENS
from sifthinker.chain import Problem, Reading, Region, find_answer, read_completion
from sifthinker.coordinates import UNIT, Frame, Resizer, default_for, recorded_coordinates
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, ImageError
from sifthinker.literals import Coordinates, ThinkProtocol
from sifthinker.models import complete, load_for_inference, opened_by_template, special_tokens, stream
from sifthinker.processors import image_fault
from sifthinker.prompts import user_prompt
from sifthinker.structured import compose, compose_part

# An upright RGB image, a question, and the image's depth or None.
Task = tuple[Image.Image, str, DepthMap | None]


@dataclass(frozen=True)
class Thought:
    """The steps and the answer of a model about an image.

    Args:
        question: the question.
        image: upright RGB image.
        depth: depth of the image; None in RGB-only work.
        text: the chain or the direct answer, including a `<think>` that the chat template wrote. For a structured reply, the
            chain built from it.
        seconds: duration; in a batch, the evenly divided share.
        complete: whether the model ended by itself; False if it reached the token limit or is still writing.
        protocol: protocol of the question. With `direct`, the answer is the complete text, or the part after `</think>`.
        frame: meaning of the box coordinates in the text; the regions in `steps` are always unit.
        reply: the original reply if the text was built from it; "" otherwise.
        faults: problems of the reply itself, see `structured.FAULTS`.
        tokens: (prompt tokens, completion tokens), as counted by the server or the model; () if unknown.
    """

    question: str
    image: Image.Image
    depth: DepthMap | None
    text: str
    seconds: float = 0.0
    complete: bool = True
    protocol: ThinkProtocol = "chain"
    frame: Frame = UNIT
    reply: str = ""
    faults: tuple[Problem, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def direct(self) -> bool:
        """Whether the model was asked for the answer alone."""
        return self.protocol == "direct"

    @property
    def reading(self) -> Reading:
        """Problems, steps and answer of the text."""
        if self.protocol != "structured":
            found = read_completion(self.text, with_depth=self.depth is not None, opened=False, frame=self.frame)
            return Reading((*self.faults, *found.problems), found.steps, found.answer) if self.faults else found
        if not self.reply or self.text == self.reply:  # no chain was built
            return Reading(self.faults, (), None)
        # Depths are optional in a reply, and its faults already explain every gap in the chain.
        found = read_completion(self.text, with_depth=None if self.depth is not None else False, frame=self.frame)
        return Reading(self.faults, found.steps, found.answer)

    @property
    def answer(self) -> str | None:
        """The answer, or None if there is no readable one.

        For a direct answer, the reasoning before `</think>` and answer tags are removed. Reasoning models write both by
        themselves.
        """
        if not self.direct:
            return self.reading.answer
        said = self.text.rpartition("</think>")[2].strip()
        if said.startswith("<answer>") and said.endswith("</answer>"):
            return find_answer(said)
        return said or None

    @property
    def steps(self) -> tuple[tuple[tuple[Region, ...], str], ...]:
        """(regions, words) of every readable step, even if the text is not a valid chain."""
        return self.reading.steps


def problems_of(thought: Thought) -> tuple[Problem, ...]:
    """Return the problems of a thought: those of its chain or, for a direct answer, those of the reply."""
    return thought.faults if thought.direct else thought.reading.problems


class Thinker(ABC):
    """Interface of a model that answers questions about images.

    Attributes:
        coordinates: box coordinates in its chains.
        native_coordinates: box coordinates of its model family, used for structured replies.
        max_new_tokens: maximum number of tokens of an answer.
    """

    coordinates: Coordinates = "unit"
    native_coordinates: Coordinates = "unit"
    max_new_tokens: int = MAX_NEW_TOKENS

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str = "auto",
        max_pixels: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> LocalThinker:
        """Load a model folder or Hugging Face name.

        Args:
            name: folder or name.
            device: torch device; by default the accelerator if there is one, else the CPU.
            dtype: data type of the weights, or `auto` for the type of the checkpoint.
            max_pixels: see `models.load_processor`.
            max_new_tokens: maximum number of tokens of a chain.
        Raises:
            ModelError: see `models.load_model` and `models.load_processor`.
        """
        model, processor = load_for_inference(name, device=device, dtype=dtype, max_pixels=max_pixels)
        return LocalThinker(model, processor, max_new_tokens=max_new_tokens)

    def think(
        self,
        image: Image.Image,
        question: str,
        depth: DepthMap | None = None,
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> Thought:
        """Think about one image; see `think_all`."""
        return self.think_all([(image, question, depth)], protocol=protocol, coordinates=coordinates, **sampling)[0]

    @abstractmethod
    def think_all(
        self,
        tasks: Sequence[Task],
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> list[Thought]:
        """Think about several images.

        Args:
            tasks: (upright RGB image, question, depth or None).
            protocol: `chain` for a model trained on chains; `structured` for any capable model, which is asked for the steps
                as JSON; or `direct` for the answer alone.
            coordinates: box coordinates that the model writes, see `frame`; by default those of its training for chains, and
                those of its family for structured replies.
            sampling: further arguments of the model or server; greedy by default.
        Returns:
            One thought per task, in order.
        Raises:
            ConfigError: an image is not loaded, a question is not text, or see `check_coordinates`.
            BoxError: see `frame`.
            ImageError: a question contains a special token of the model, for instance its image placeholder, or the
                processor of the model cannot process the shape of an image.
            EndpointError: the request to a server failed.
        """

    def stream(
        self,
        image: Image.Image,
        question: str,
        depth: DepthMap | None = None,
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> Iterator[Thought]:
        """Think about one image and yield the growing thought, the finished one last; see `think_all`.

        All thoughts except the last one are unfinished and not `complete`.
        """
        yield self.think(image, question, depth, protocol=protocol, coordinates=coordinates, **sampling)

    def frame(self, size: tuple[int, int], coordinates: Coordinates) -> Frame:
        """Return the meaning of the box coordinates that the model writes about an image.

        Args:
            size: (width, height) of the image.
            coordinates: coordinates of the model's training; `resized` are pixels of the image after its processor resized
                it.
        Raises:
            BoxError: the coordinates are unknown, or the processor cannot process the image.
            ConfigError: see `check_coordinates`.
        """
        self.check_coordinates(coordinates)
        return Frame(coordinates)

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """Check that the model can use these coordinates.

        Raises:
            ConfigError: the coordinates are `resized`, and the size of the resized image is unknown.
        """
        if coordinates == "resized":
            raise ConfigError(
                "coordinates must be unit or per_mille, got resized. The size of this model's resized images is unknown"
            )

    def frame_asked(self, size: tuple[int, int], protocol: ThinkProtocol, coordinates: Coordinates | None) -> Frame:
        """Return the frame of an answer, see `frame`. A direct answer has no boxes; its frame is unit."""
        if protocol == "direct":
            return UNIT
        return self.frame(size, coordinates or (self.native_coordinates if protocol == "structured" else self.coordinates))

    def check_task(self, task: Task) -> None:
        """Check that a task can be asked.

        Raises:
            ConfigError: the image is not loaded, or the question is not text.
        """
        image, question, _ = task
        if not isinstance(image, Image.Image):
            raise ConfigError(f"image must be a loaded image, got {image!r:.200}. Use sifthinker.images.load_image(path)")
        if not isinstance(question, str):
            raise ConfigError(f"question must be text, got {question!r:.200}")


def thought_of(
    task: Task,
    protocol: ThinkProtocol,
    frame: Frame,
    said: str,
    *,
    complete: bool = True,
    growing: bool = False,
    **more: Any,
) -> Thought:
    """Build a thought from the text of a model.

    Args:
        task: the image, the question and the depth.
        protocol: protocol of the question.
        frame: frame of its boxes, see `Thinker.frame_asked`.
        said: the text of the model.
        complete: see `Thought`.
        growing: whether the model is still writing.
        more: further fields of the thought; `faults` come before those of a structured reply.
    """
    image, question, depth = task
    about = {"complete": complete and not growing, "protocol": protocol, **more}
    if protocol != "structured":
        return Thought(question, image, depth, said, frame=frame, **about)
    if growing:
        text = compose_part(said, frame, with_depth=depth is not None)
        return Thought(question, image, depth, text, reply=said, **about)
    text, faults = compose(said, frame, with_depth=depth is not None)
    about["faults"] = (*about.get("faults", ()), *faults)
    return Thought(question, image, depth, text, reply=said, **about)


class LocalThinker(Thinker):
    """A transformers model in this process that answers questions.

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor.
        max_new_tokens: maximum number of tokens of a chain.
    Attributes:
        coordinates: box coordinates that the model was trained with; `unit` if its training recorded none.
    """

    def __init__(self, model: Any, processor: Any, *, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        learnt = recorded_coordinates(processor.tokenizer)
        self.coordinates = learnt or "unit"
        self._resizer = Resizer.of_processor(processor)
        native = learnt or default_for(str(getattr(model.config, "model_type", "")))
        self.native_coordinates = "unit" if native == "resized" and self._resizer is None else native
        self._opening = opened_by_template(processor)
        self._special = special_tokens(processor)

    def frame(self, size: tuple[int, int], coordinates: Coordinates) -> Frame:
        self.check_coordinates(coordinates)
        if coordinates == "resized" and self._resizer is not None:
            return self._resizer.frame(size)
        return Frame(coordinates)

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """Check that the model can use these coordinates.

        Raises:
            ConfigError: the coordinates are `resized`, and the processor does not resize as Qwen-VL's does.
        """
        if coordinates == "resized" and self._resizer is None:
            raise ConfigError(
                "coordinates must be unit or per_mille for this model, got resized. Its image processor, "
                f"{type(self.processor.image_processor).__name__}, does not resize by area as Qwen2.5-VL's does"
            )

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        image, question, _ = task
        token = self._special.search(question)
        if token:
            raise ImageError(f"the question contains {token[0]!r}, a special token of this model. Rephrase it")
        if fault := image_fault(self.processor, image.size):
            raise ImageError(f"{fault}. Crop the image")

    def think_all(
        self,
        tasks: Sequence[Task],
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> list[Thought]:
        conversations, images, frames = self._asked(tasks, protocol, coordinates)
        started = time.monotonic()
        completions = complete(
            self.model, self.processor, conversations, images, max_new_tokens=self.max_new_tokens, **sampling
        )
        seconds = (time.monotonic() - started) / len(tasks)
        opening = self._opening if protocol == "chain" else ""
        return [
            thought_of(
                task,
                protocol,
                frame,
                opening + completion.text,
                seconds=seconds,
                complete=completion.ended,
                tokens=(completion.prompt_tokens, completion.new_tokens),
            )
            for task, completion, frame in zip(tasks, completions, frames, strict=True)
        ]

    def stream(
        self,
        image: Image.Image,
        question: str,
        depth: DepthMap | None = None,
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> Iterator[Thought]:
        task = image, question, depth
        (conversation,), (shown,), (frame,) = self._asked([task], protocol, coordinates)
        opening = self._opening if protocol == "chain" else ""
        started = time.monotonic()
        for found in stream(self.model, self.processor, conversation, shown, max_new_tokens=self.max_new_tokens, **sampling):
            growing = isinstance(found, str)
            yield thought_of(
                task,
                protocol,
                frame,
                opening + (found if isinstance(found, str) else found.text),
                growing=growing,
                seconds=time.monotonic() - started,
                complete=not isinstance(found, str) and found.ended,
                tokens=() if isinstance(found, str) else (found.prompt_tokens, found.new_tokens),
            )

    def _asked(
        self, tasks: Sequence[Task], protocol: ThinkProtocol, coordinates: Coordinates | None
    ) -> tuple[list[list[dict[str, Any]]], list[list[Image.Image]], list[Frame]]:
        """Return the conversation, the images and the frame of each task."""
        for task in tasks:
            self.check_task(task)
        frames = [self.frame_asked(image.size, protocol, coordinates) for image, _, _ in tasks]
        images = [[image, depth.view()] if depth is not None else [image] for image, _, depth in tasks]
        prompts = [
            user_prompt(question, with_depth=depth is not None, protocol=protocol, coordinates=frame.space)
            for (_, question, depth), frame in zip(tasks, frames, strict=True)
        ]
        conversations = [
            [{"role": "user", "content": [*({"type": "image"} for _ in shown), {"type": "text", "text": prompt}]}]
            for shown, prompt in zip(images, prompts, strict=True)
        ]
        return conversations, images, frames
