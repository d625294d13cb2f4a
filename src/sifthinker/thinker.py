"""Thinking: an image and a question → a Thought, with its steps as they can be read, valid or not.

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
from sifthinker.coordinates import UNIT, Frame, Resizer, default_for, learnt_by
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
    """What a model thought about an image.

    Args:
        question: what was asked.
        image: upright RGB.
        depth: the image's depth; None in RGB-only work.
        text: the chain or direct answer: what the model wrote, after what its chat template opened for it (`<think>`); for a
            structured reply the chain that was composed from it.
        seconds: time it took, shared evenly over a batch.
        complete: whether the model ended by itself; False when it ran out of tokens, or is still writing.
        protocol: how it was asked. The whole text of a `direct` one is the answer, or what follows its `</think>`.
        frame: what the numbers of boxes in the text stand for; regions of `steps` are unit in any case.
        reply: what the model wrote, where the text was composed from it; "" otherwise.
        faults: of the reply itself, see `structured.FAULTS`.
        tokens: (read, written), as the server or the model counts them; () where unknown.
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
        """Whether the answer alone was asked for."""
        return self.protocol == "direct"

    @property
    def reading(self) -> Reading:
        """Problems, steps and answer."""
        if self.protocol != "structured":
            found = read_completion(self.text, with_depth=self.depth is not None, opened=False, frame=self.frame)
            return Reading((*self.faults, *found.problems), found.steps, found.answer) if self.faults else found
        if not self.reply or self.text == self.reply:  # nothing was composed
            return Reading(self.faults, (), None)
        # A reply may leave depths out; whatever keeps the composed chain from being whole is among the faults.
        found = read_completion(self.text, with_depth=None if self.depth is not None else False, frame=self.frame)
        return Reading(self.faults, found.steps, found.answer)

    @property
    def answer(self) -> str | None:
        """The answer, or None when there is none to be read. Of a direct one, what comes after any reasoning, without the
        tags of an answer around it, which models that reason write by themselves."""
        if not self.direct:
            return self.reading.answer
        said = self.text.rpartition("</think>")[2].strip()
        if said.startswith("<answer>") and said.endswith("</answer>"):
            return find_answer(said)
        return said or None

    @property
    def steps(self) -> tuple[tuple[tuple[Region, ...], str], ...]:
        """(regions, words) of every step that can be read, also from a text that is no valid chain."""
        return self.reading.steps


def problems_of(thought: Thought) -> tuple[Problem, ...]:
    """What is wrong with a thought: with its chain, or with the reply of one that was asked for directly."""
    return thought.faults if thought.direct else thought.reading.problems


class Thinker(ABC):
    """Anything that answers questions about images.

    Attributes:
        coordinates: that its chains state boxes in.
        native_coordinates: that it states boxes in when it is asked in its family's own way, as for structured replies.
        max_new_tokens: most tokens of an answer.
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
            device: torch device; the accelerator if there is one by default.
            dtype: of the weights, or `auto` for the checkpoint's own.
            max_pixels: see `models.load_processor`.
            max_new_tokens: most tokens of a chain.
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
            protocol: `chain` of a model that has learnt chains, `structured` of any capable one, which is asked for the
                steps as JSON, or `direct`: the answer alone.
            coordinates: that the model states boxes in, see `frame`; by default those that it has learnt for chains, and
                those of its family for structured replies.
            sampling: further arguments of the model or server; greedy by default.
        Returns:
            One thought a task, in order.
        Raises:
            ConfigError: an image that is not loaded, or a question that is no text; and see `check_coordinates`.
            BoxError: see `frame`.
            ImageError: a question holds a special token of the model, for instance its placeholder for images, or an image
                is of a shape that the model's processor does not take.
            EndpointError: a served model could not be asked.
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
        """Think about one image and give the thought again and again as it grows, the whole one last; see `think_all`.

        A thought that is not `complete` and not the last one is still being written.
        """
        yield self.think(image, question, depth, protocol=protocol, coordinates=coordinates, **sampling)

    def frame(self, size: tuple[int, int], coordinates: Coordinates) -> Frame:
        """What the numbers of boxes stand for in this model's words about an image.

        Args:
            size: (width, height) of the image.
            coordinates: that the model has learnt; `resized` are pixels of the image as its own processor makes it.
        Raises:
            BoxError: unknown coordinates, or an image that the processor does not take.
            ConfigError: see `check_coordinates`.
        """
        self.check_coordinates(coordinates)
        return Frame(coordinates)

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """See that a model can state boxes in coordinates.

        Raises:
            ConfigError: it cannot, since nothing tells how large it sees an image.
        """
        if coordinates == "resized":
            raise ConfigError("coordinates resized: nothing tells how this model resizes; wanted unit or per_mille")

    def frame_asked(self, size: tuple[int, int], protocol: ThinkProtocol, coordinates: Coordinates | None) -> Frame:
        """The frame of an answer: fractions of a direct one, which states no boxes; else see `frame`."""
        if protocol == "direct":
            return UNIT
        return self.frame(size, coordinates or (self.native_coordinates if protocol == "structured" else self.coordinates))

    def check_task(self, task: Task) -> None:
        """See that a task can be asked at all.

        Raises:
            ConfigError: the image is not loaded, or the question is no text.
        """
        image, question, _ = task
        if not isinstance(image, Image.Image):
            raise ConfigError(f"image is {image!r:.200}, wanted a loaded one: sifthinker.images.load_image(path)")
        if not isinstance(question, str):
            raise ConfigError(f"question is {question!r:.200}, wanted text")


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
    """The thought that a model's words come to.

    Args:
        task: what it was asked.
        protocol: how.
        frame: of its boxes, see `Thinker.frame_asked`.
        said: its words.
        complete: see `Thought`.
        growing: whether it is still writing.
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
    """A model of transformers in this process that answers questions.

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
        learnt = learnt_by(processor.tokenizer)
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
        """See that a model can have learnt coordinates.

        Raises:
            ConfigError: `resized` of a model whose processor does not resize as Qwen-VL's do.
        """
        if coordinates == "resized" and self._resizer is None:
            raise ConfigError(
                f"coordinates resized: the image processor of this model, {type(self.processor.image_processor).__name__}, "
                "does not resize by area as Qwen2.5-VL's does; wanted unit or per_mille"
            )

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        image, question, _ = task
        token = self._special.search(question)
        if token:
            raise ImageError(f"the question holds {token[0]!r}, a special token of this model; rephrase it")
        if fault := image_fault(self.processor, image.size):
            raise ImageError(f"{fault}; crop it")

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
        """The conversation, the images and the frame of each task."""
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
