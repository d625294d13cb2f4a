"""Thinking with a model on an OpenAI-compatible server, and the thinker that settings name, here or there."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image

from sifthinker.ask_settings import MAX_NEW_TOKENS, AskSettings
from sifthinker.chain import TAG, Problem, chain_pattern
from sifthinker.coordinates import Frame, Resizer, default_for
from sifthinker.endpoint import Endpoint, Usage, open_endpoint
from sifthinker.errors import ConfigError, EndpointError, ImageError
from sifthinker.images import data_url
from sifthinker.literals import Coordinates, ImageFormat, ThinkProtocol
from sifthinker.loops import in_thread, iterate, run_coroutine, together
from sifthinker.prompts import user_prompt
from sifthinker.records import find_placeholder
from sifthinker.responses import Reply
from sifthinker.structured import FAULTS, response_format
from sifthinker.thinker import Task, Thinker, Thought, thought_of

logger = logging.getLogger(__name__)

MAX_PIXELS = 4_194_304  # greatest area of an image that is sent, unless told otherwise

# A text that no model writes by itself: whether a server heeds a grammar is seen by asking for it.
_PROBE = "sif-[0-9]{6}-ok"
_GRAMMAR = "structured_outputs"  # vLLM's field; one that others, and older ones, pass over
_NEEDED = (_GRAMMAR,)  # never left out where a server refuses it
_MOST_FREE = 3  # chains that are asked for without the grammar too


class ServedThinker(Thinker):
    """A model behind a chat-completions server that answers questions.

    It sees what a local one does: the image and its depth view, then the prompt. Images are sent exactly (PNG) up to
    `max_pixels`. For coordinates `resized` they are sent at the size that Qwen2.5-VL's processor would give them, so that
    the server has nothing left to resize and its pixels are known.

    Args:
        endpoint: its server.
        max_new_tokens: most tokens of an answer.
        max_pixels: greatest area of an image that is sent; larger ones are made smaller.
        coordinates: that its chains state boxes in; `unit` by default, since a server does not tell what a model has learnt.
        image_format: `png`, exact, or `jpeg`, smaller.
        grammar: hold chains to their grammar while they are decoded; needs a server that offers it (vLLM). A server that
            passes the request over is refused before the first question, each reply is checked, and it is said where the
            grammar changes chains that are whole without it, as one that masks tokens by mistake does.
    Example:
        >>> endpoint = Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen3-VL-8B-Instruct")
        >>> ServedThinker(endpoint).think(image, "What is on the shelf?", protocol="structured").answer  # doctest: +SKIP
        'a blue mug'
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_pixels: int | None = None,
        coordinates: Coordinates | None = None,
        image_format: ImageFormat = "png",
        grammar: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.max_new_tokens = max_new_tokens
        self.coordinates = coordinates or "unit"
        self.native_coordinates = coordinates or default_for(endpoint.model)
        self._resizer = Resizer().within(max_pixels=max_pixels or MAX_PIXELS)
        self._max_pixels = max_pixels or MAX_PIXELS
        self._image_format: ImageFormat = image_format
        self._grammar = grammar
        self._heeds_grammar = False
        self._free_asked = 0  # how often a chain was asked for without the grammar too
        self._probing: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def usage(self) -> Usage:
        """Requests, tokens and cost so far."""
        return self.endpoint.usage

    async def __aenter__(self) -> ServedThinker:
        await self.endpoint.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.endpoint.__aexit__(*error)

    def frame(self, size: tuple[int, int], coordinates: Coordinates) -> Frame:
        return self._resizer.frame(size) if coordinates == "resized" else Frame(coordinates)

    def check_coordinates(self, coordinates: Coordinates) -> None:
        """Any can be: images are sent at a size that is known."""

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        placeholder = find_placeholder(task[1])
        if placeholder:
            raise ImageError(
                f"the question holds {placeholder}, which models take for an image or a control token; rephrase it"
            )

    def think_all(
        self,
        tasks: Sequence[Task],
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> list[Thought]:
        async def ask() -> list[Thought]:
            async with self:
                asked = (self.ask(task, protocol=protocol, coordinates=coordinates, **sampling) for task in tasks)
                return await together(asked, self.endpoint.concurrency)

        return run_coroutine(ask())

    async def ask(
        self, task: Task, *, protocol: ThinkProtocol = "chain", coordinates: Coordinates | None = None, **sampling: Any
    ) -> Thought:
        """`think` for callers with an event loop, inside `async with`; as many at once as the endpoint allows."""
        frame, messages, parameters = await self._request(task, protocol, coordinates, sampling)
        free = await self._ask_free(messages, parameters)
        started = time.monotonic()
        reply = await self.endpoint.chat(messages, _NEEDED, **parameters)
        # An answer that is there must not wait for anything: whoever asked keeps it first.
        if free:
            self._compare_free(free, reply.text.strip(), parameters[_GRAMMAR]["regex"])
        return self._thought(task, protocol, frame, reply, time.monotonic() - started)

    def stream(
        self,
        image: Image.Image,
        question: str,
        depth: Any = None,
        *,
        protocol: ThinkProtocol = "chain",
        coordinates: Coordinates | None = None,
        **sampling: Any,
    ) -> Iterator[Thought]:
        async def thoughts() -> AsyncIterator[Thought]:
            async with self:
                growing = self.ask_stream((image, question, depth), protocol=protocol, coordinates=coordinates, **sampling)
                async with aclosing(growing):
                    async for thought in growing:
                        yield thought

        return iterate(thoughts())

    async def ask_stream(
        self, task: Task, *, protocol: ThinkProtocol = "chain", coordinates: Coordinates | None = None, **sampling: Any
    ) -> AsyncGenerator[Thought, None]:
        """`stream` for callers with an event loop, inside `async with`."""
        frame, messages, parameters = await self._request(task, protocol, coordinates, sampling)
        started = time.monotonic()
        async with aclosing(self.endpoint.stream(messages, _NEEDED, **parameters)) as growing:
            async for found in growing:
                seconds = time.monotonic() - started
                yield self._thought(task, protocol, frame, found, seconds)

    async def _request(
        self, task: Task, protocol: ThinkProtocol, coordinates: Coordinates | None, sampling: dict[str, Any]
    ) -> tuple[Frame, list[dict[str, Any]], dict[str, Any]]:
        """The frame of the answer, the messages, and the further fields of a request."""
        self.check_task(task)
        frame = self.frame_asked(task[0].size, protocol, coordinates)
        messages = await in_thread(self._messages, task, protocol, frame)
        parameters: dict[str, Any] = {"temperature": 0, "max_tokens": self.max_new_tokens, **sampling}
        with_depth = task[2] is not None
        if protocol == "structured":
            parameters["response_format"] = response_format(with_depth=with_depth)
        elif protocol == "chain" and self._grammar:
            await self._see_grammar_heeded()
            parameters[_GRAMMAR] = {"regex": chain_pattern(with_depth=with_depth, frame=frame)}
        return frame, messages, parameters

    def _messages(self, task: Task, protocol: ThinkProtocol, frame: Frame) -> list[dict[str, Any]]:
        image, question, depth = task
        size = self._size(image.size, frame)
        shown = [image] if depth is None else [image, depth.view()]
        content: list[dict[str, Any]] = []
        for picture in shown:
            picture = picture if picture.mode == "RGB" else picture.convert("RGB")
            if picture.size != size:
                picture = picture.resize(size, Image.Resampling.BICUBIC)
            content.append({"type": "image_url", "image_url": {"url": data_url(picture, form=self._image_format)}})
        prompt = user_prompt(question, with_depth=depth is not None, protocol=protocol, coordinates=frame.space)
        return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]

    def _size(self, size: tuple[int, int], frame: Frame) -> tuple[int, int]:
        """(width, height) at which an image is sent."""
        if frame.size is not None:
            return frame.size
        width, height = size
        if width * height <= self._max_pixels:
            return size
        scale = (self._max_pixels / (width * height)) ** 0.5
        width = max(1, int(width * scale))
        return width, max(1, min(int(height * scale), self._max_pixels // width))

    def _thought(self, task: Task, protocol: ThinkProtocol, frame: Frame, reply: Reply, seconds: float) -> Thought:
        text, growing = reply.text.strip(), reply.code == "partial"
        faults = []
        # What was cut off shows by itself, but for a reply of which nothing is left.
        if not growing and reply.code and (reply.code != "cut_off" or not text):
            faults.append(Problem(reply.code, 0, reply.reason or FAULTS[reply.code]))
        if protocol == "chain":
            text = _whole_chain(text, reply.reasoning.strip())
            pattern = chain_pattern(with_depth=task[2] is not None, frame=frame) if self._grammar else ""
            if pattern and not reply.code and not re.fullmatch(pattern, text):
                faults.append(Problem("not_constrained", 0, FAULTS["not_constrained"]))
        found = thought_of(
            task,
            protocol,
            frame,
            text,
            growing=growing,
            seconds=seconds,
            complete=reply.code != "cut_off",
            faults=tuple(faults),
            tokens=(reply.prompt_tokens, reply.completion_tokens) if reply.prompt_tokens or reply.completion_tokens else (),
        )
        if reply.code == "cut_off" and protocol == "structured":
            # Of an object that was cut off, that is what is wrong with it.
            cut = Problem(reply.code, 0, reply.reason or FAULTS[reply.code])
            codes = dict.fromkeys(cut if fault.code == "not_json" else fault for fault in found.faults)
            found = replace(found, faults=tuple(codes))
        return found

    async def _see_grammar_heeded(self) -> None:
        """Ask once for a text that no model writes by itself.

        Raises:
            ConfigError: the server writes something else: it passes over the field `structured_outputs`, as many do; or it
                refuses it.
        """
        async with self._probing.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if self._heeds_grammar:
                return
            asked = [{"role": "user", "content": "Describe the weather."}]
            parameters: dict[str, Any] = {"temperature": 0, "max_tokens": 32, _GRAMMAR: {"regex": _PROBE}}
            try:
                said = (await self.endpoint.chat(asked, _NEEDED, **parameters)).text.strip()
            except EndpointError as error:
                if error.kind != "request":
                    raise
                said, why = "", f"refused it: {error}"
            else:
                why = f"wrote {said[:80]!r}"
            if re.fullmatch(_PROBE, said) is None:
                raise ConfigError(
                    f"{self.endpoint.base_url}: was asked to hold a reply to a grammar (structured_outputs, regex) and "
                    f"{why}; leave out grammar (--grammar), or serve the model with vLLM 0.12 or newer"
                )
            self._heeds_grammar = True

    async def _ask_free(self, messages: list[dict[str, Any]], parameters: dict[str, Any]) -> str:
        """A greedy chain as the model writes it without the grammar; "" where there is none, or enough were asked for."""
        if _GRAMMAR not in parameters or parameters["temperature"] or self._free_asked >= _MOST_FREE:
            return ""
        self._free_asked += 1
        try:
            free = await self.endpoint.chat(messages, **{k: v for k, v in parameters.items() if k != _GRAMMAR})
        except EndpointError:
            return ""  # no more than a look
        return "" if free.code else free.text.strip()

    def _compare_free(self, free: str, held: str, pattern: str) -> None:
        """Say where the grammar changes a chain: a greedy one that is one to the grammar must be the same with it."""
        if free != held and re.fullmatch(pattern, free):
            logger.warning(
                "%s: the grammar changes a chain that is whole without it, from %.200r to %.200r; the server masks tokens "
                "that the grammar allows, and its chains are not those of the model; leave out grammar (--grammar)",
                self.endpoint.base_url,
                free,
                held,
            )


def _whole_chain(text: str, reasoning: str) -> str:
    """A chain with what a server took from it: a reasoning parser takes the think part for reasoning and its tags away, and
    a chat template opens the chain by itself."""
    if TAG.search(reasoning) is not None and "<think>" not in text:
        # Without words behind it nobody knows whether the model closed it.
        closing = "\n</think>" if text and "</think>" not in (reasoning + text) else ""
        text = f"{reasoning}{closing}\n{text}".rstrip()
        return text if text.startswith("<think>") else f"<think>\n{text}"
    text = text.lstrip()
    first = TAG.search(text)
    return f"<think>\n{text}" if first is not None and first[0] == "<area>" else text


def open_thinker(settings: AskSettings) -> Thinker:
    """The thinker that settings name: a model in this process, or with `base_url` one on a server.

    Raises:
        ConfigError: no model is named; or see `endpoint.Endpoint`.
        ModelError: see `Thinker.load`.
    """
    if settings.model is None:
        raise ConfigError("no model is named; say model (--model)")
    if settings.base_url is None:
        return Thinker.load(
            settings.model, dtype=settings.dtype, max_pixels=settings.max_pixels, max_new_tokens=settings.max_new_tokens
        )
    endpoint = open_endpoint(
        settings.server,
        requests_per_minute=settings.rpm,
        prompt_price=settings.prompt_price,
        completion_price=settings.completion_price,
    )
    return ServedThinker(
        endpoint,
        max_new_tokens=settings.max_new_tokens,
        max_pixels=settings.max_pixels,
        coordinates=settings.coordinates,
        image_format=settings.image_format,
        grammar=settings.grammar,
    )
