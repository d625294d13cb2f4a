"""Think with a model on an OpenAI-compatible server; open the thinker of the settings, local or served."""

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

MAX_PIXELS = 4_194_304  # default maximum area of an image sent to a server

# A text that no model writes by itself. A server that writes it on request applies grammars.
_PROBE = "sif-[0-9]{6}-ok"
_GRAMMAR = "structured_outputs"  # vLLM's field; other servers and older versions ignore it
_NEEDED = (_GRAMMAR,)  # never left out, even if a server refuses it
_MOST_FREE = 3  # number of chains also requested without the grammar


class ServedThinker(Thinker):
    """A model on a chat-completions server that answers questions.

    The model gets the same input as a local one: the image, its depth view, and the prompt. Images up to `max_pixels` are
    sent unchanged, as PNG by default. For coordinates `resized`, images are sent at the size that Qwen2.5-VL's processor
    would give them. The server then resizes nothing, and the pixel coordinates are known.

    Args:
        endpoint: the server.
        max_new_tokens: maximum number of tokens of an answer.
        max_pixels: maximum area of an image that is sent, in pixels; larger images are shrunk.
        coordinates: box coordinates in the chains of the model; `unit` by default, since the server cannot report them.
        image_format: `png` (lossless) or `jpeg` (smaller).
        grammar: constrain the decoding to valid chains; needs a server that supports it (vLLM). A server that ignores the
            grammar is refused before the first question. Each reply is checked. A warning is logged if the grammar changes
            a chain that is valid without it, which happens if the server masks tokens by mistake.
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
        self._free_asked = 0  # number of chains also requested without the grammar
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
        """Accept all coordinates: the size of every sent image is known."""

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        placeholder = find_placeholder(task[1])
        if placeholder:
            raise ImageError(
                f"the question contains {placeholder}, which models read as an image or a control token. Rephrase it"
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
        """Like `think`, for callers with an event loop, inside `async with`. The endpoint limits simultaneous requests."""
        frame, messages, parameters = await self._request(task, protocol, coordinates, sampling)
        free = await self._ask_free(messages, parameters)
        started = time.monotonic()
        reply = await self.endpoint.chat(messages, _NEEDED, **parameters)
        # Do not await anything after the reply: the caller must get it first.
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
        """Like `stream`, for callers with an event loop, inside `async with`."""
        frame, messages, parameters = await self._request(task, protocol, coordinates, sampling)
        started = time.monotonic()
        async with aclosing(self.endpoint.stream(messages, _NEEDED, **parameters)) as growing:
            async for found in growing:
                seconds = time.monotonic() - started
                yield self._thought(task, protocol, frame, found, seconds)

    async def _request(
        self, task: Task, protocol: ThinkProtocol, coordinates: Coordinates | None, sampling: dict[str, Any]
    ) -> tuple[Frame, list[dict[str, Any]], dict[str, Any]]:
        """Return the frame of the answer, the messages, and the other fields of the request."""
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
        """Return the (width, height) at which an image is sent."""
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
        # A cut-off reply shows as a broken chain, unless nothing is left of it.
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
            # The JSON object is broken because the reply was cut off; report only that.
            cut = Problem(reply.code, 0, reply.reason or FAULTS[reply.code])
            codes = dict.fromkeys(cut if fault.code == "not_json" else fault for fault in found.faults)
            found = replace(found, faults=tuple(codes))
        return found

    async def _see_grammar_heeded(self) -> None:
        """Check once that the server applies a grammar, by asking for a text that no model writes by itself.

        Raises:
            ConfigError: the server ignores the field `structured_outputs`, as many do, or refuses it.
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
                    f"{self.endpoint.base_url}: expected a reply constrained by structured_outputs (regex), but the server "
                    f"{why}. Leave out grammar (--grammar), or serve the model with vLLM 0.12 or newer"
                )
            self._heeds_grammar = True

    async def _ask_free(self, messages: list[dict[str, Any]], parameters: dict[str, Any]) -> str:
        """Return a greedy chain written without the grammar; "" if it fails or enough chains were compared."""
        if _GRAMMAR not in parameters or parameters["temperature"] or self._free_asked >= _MOST_FREE:
            return ""
        self._free_asked += 1
        try:
            free = await self.endpoint.chat(messages, **{k: v for k, v in parameters.items() if k != _GRAMMAR})
        except EndpointError:
            return ""  # only a comparison, never an error
        return "" if free.code else free.text.strip()

    def _compare_free(self, free: str, held: str, pattern: str) -> None:
        """Log a warning if the grammar changes a greedy chain that matches the grammar anyway."""
        if free != held and re.fullmatch(pattern, free):
            logger.warning(
                "%s: the grammar changes a chain that is valid without it, from %.200r to %.200r. The server masks tokens "
                "that the grammar allows, so these chains are not the model's own. Leave out grammar (--grammar)",
                self.endpoint.base_url,
                free,
                held,
            )


def _whole_chain(text: str, reasoning: str) -> str:
    """Restore the parts of a chain that a server removed.

    A reasoning parser moves the think part into the reasoning and drops its tags. A chat template may write the opening tag.
    """
    if TAG.search(reasoning) is not None and "<think>" not in text:
        # If no text follows, the model may not have closed the think part.
        closing = "\n</think>" if text and "</think>" not in (reasoning + text) else ""
        text = f"{reasoning}{closing}\n{text}".rstrip()
        return text if text.startswith("<think>") else f"<think>\n{text}"
    text = text.lstrip()
    first = TAG.search(text)
    return f"<think>\n{text}" if first is not None and first[0] == "<area>" else text


def open_thinker(settings: AskSettings) -> Thinker:
    """Open the thinker of the settings: a model in this process or, with `base_url`, a model on a server.

    Raises:
        ConfigError: the settings have no model; or see `endpoint.Endpoint`.
        ModelError: see `Thinker.load`.
    """
    if settings.model is None:
        raise ConfigError("model is missing. Set model (--model)")
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
