"""Forward inference: a teacher explains a focus path in words, and its words are checked.

A teacher returns words only. The engine composes the chain with its own boxes and depths, so that no teacher can corrupt
a number.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from PIL import Image, ImageDraw

from sifthinker.chain import TAG, Region
from sifthinker.endpoint import Endpoint, Usage
from sifthinker.engine.batches import Batches
from sifthinker.errors import EndpointError
from sifthinker.judges import judge
from sifthinker.models import complete, load_for_inference
from sifthinker.prompts import TEACHER_SYSTEM, teacher_correction, teacher_focus, teacher_task
from sifthinker.records import Record

MAX_CORRECTIONS = 2
MAX_WORDS = 120

CHECKS: dict[str, str] = {
    "not_json": "the reply is not the JSON object asked for",
    "count": "the number of thoughts is not the number of focuses",
    "blank": "a thought is blank",
    "leak": "a thought speaks of outlines, coordinates, the given answer or these instructions",
    "length": f"a thought is longer than {MAX_WORDS} words",
    "tag": "a thought holds a tag of the chain format",
    "answer": "the answer disagrees with the record's",
    "endpoint": "the teacher's server failed",
}

_LEAK = re.compile(
    r"\b(?:green|red|drawn|marked|highlighted|annotated|bounding|coloured|colored)[\s-]+"
    r"(?:box(?:es)?|rectangles?|frames?|overlays?|regions?)\b"
    r"|\bbox(?:es)?\b[^.]{0,40}\bdrawn\b|\bdrawn\b[^.]{0,40}\bgreen\b|\boutlin(?:e|es|ed|ing)\b|\bcoordinates?\b"
    r"|\b(?:mean|average)\s+depth\b"
    r"|\b(?:given|provided|true|reference|correct|expected)\s+answer\b|\bground[\s-]truth\b"
    r"|\banswer\s+(?:(?:is|was|that\s+is)\s+)?(?:given|provided)\b|\btold\s+(?:that\s+)?(?:me\s+)?the\s+answer\b"
    r"|\bas\s+(?:instructed|requested)\b|\b(?:these|your|my)\s+instructions?\b|\bbbox(?:_2d)?\b|\bJSON\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a teacher explains: a record, the regions of each focus, and the image when it asks for it."""

    record: Record
    foci: tuple[tuple[Region, ...], ...]
    kinds: tuple[str, ...]
    load_image: Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply of a teacher: what it said, and why it was not accepted (no problems when it was)."""

    reply: str
    problems: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The accepted thoughts, one a focus, with every attempt that led to them; None when none was accepted."""

    thoughts: tuple[str, ...] | None
    attempts: tuple[Attempt, ...] = field(default=())


class Teacher(Protocol):
    """Anything that explains a task. `name` goes into the provenance of every example.

    A teacher that costs something counts it in an attribute `usage`, an `endpoint.Usage`. One that holds connections is an
    asynchronous context manager, entered for the build.
    """

    name: str

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        """The teacher's raw reply: `{"thoughts": [...], "answer": ...}`.

        Args:
            task: what to explain.
            earlier: failed attempts at this task, the last one last.
        Raises:
            EndpointError: a served teacher could not be reached.
        """
        ...


async def explain(teacher: Teacher, task: Task) -> Explanation:
    """Ask, check, and ask again with the reasons, twice at most. Never raises for what a teacher says or fails to say."""
    attempts: list[Attempt] = []
    for _ in range(MAX_CORRECTIONS + 1):
        try:
            reply = await teacher.reply(task, attempts)
        except EndpointError as error:
            # The client has retried already; a correction would not help a server that is down.
            attempts.append(Attempt("", (str(error),), ("endpoint",)))
            break
        thoughts, problems = check_reply(reply, task)
        attempts.append(Attempt(reply, tuple(p for _, p in problems), tuple(code for code, _ in problems)))
        if not problems:
            return Explanation(tuple(thoughts), tuple(attempts))
    return Explanation(None, tuple(attempts))


def check_reply(reply: str, task: Task) -> tuple[list[str], list[tuple[str, str]]]:
    """The thoughts of a reply, and its problems as (reason code of `CHECKS`, words for the teacher)."""
    try:
        # Many models fence their JSON.
        bare = reply.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        body = json.loads(bare)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
        thoughts, answer = body["thoughts"], body["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], [("not_json", 'the reply must be one JSON object with the keys "thoughts" and "answer"')]
    if not isinstance(thoughts, list) or not all(isinstance(thought, str) for thought in thoughts):
        return [], [("not_json", '"thoughts" must be a list of strings')]
    problems = []
    if len(thoughts) != len(task.foci):
        problems.append(("count", f"{len(task.foci)} thoughts were wanted, {len(thoughts)} came"))
    allowed = f"{task.record.question} {task.record.answer}".lower()
    for number, thought in enumerate(thoughts, 1):
        if not thought.strip():
            problems.append(("blank", f"thought {number} is blank"))
        if len(thought.split()) > MAX_WORDS:
            problems.append(("length", f"thought {number} is longer than {MAX_WORDS} words"))
        if TAG.search(thought):
            problems.append(("tag", f"thought {number} holds a tag"))
        # Words that the question itself uses are no leak: there are green boxes in the world.
        leak = next((m[0] for m in _LEAK.finditer(thought) if m[0].lower() not in allowed), None)
        if leak:
            problems.append(("leak", f"thought {number} says {leak!r}"))
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        problems.append(("not_json", '"answer" must be a string'))
    else:
        verdict = judge(str(answer), task.record.answer, task.record.choices)
        if verdict.score < 0.5:
            problems.append(("answer", "the answer disagrees with the true answer"))
    return thoughts, problems


def _conversation(
    task: Task,
    earlier: Sequence[Attempt],
    max_side: int,
    shown: Callable[[Image.Image], dict[str, Any]],
    said: Callable[[str], Any],
) -> list[dict[str, Any]]:
    """The messages that ask a model to explain a task: each focus outlined on the image, then the failed attempts.

    Args:
        task: what to explain.
        earlier: failed attempts.
        max_side: longest side of the images.
        shown: an image as a part of a message.
        said: the content of a message that is text alone.
    """
    image = task.load_image().copy()
    image.thumbnail((max_side, max_side))
    content = [{"type": "text", "text": teacher_task(task.record.question, task.record.answer, len(task.foci))}]
    for number, regions in enumerate(task.foci, 1):
        content.append({"type": "text", "text": teacher_focus(number, regions)})
        content.append(shown(outline(image, regions)))
    messages = [{"role": "system", "content": said(TEACHER_SYSTEM)}, {"role": "user", "content": content}]
    for attempt in earlier:
        messages.append({"role": "assistant", "content": said(attempt.reply)})
        messages.append({"role": "user", "content": said(teacher_correction(attempt.problems))})
    return messages


class OpenAITeacher(AbstractAsyncContextManager["OpenAITeacher"]):
    """A vision-language model behind an OpenAI-compatible server.

    Structured output is asked for first; a server that refuses it is asked without from then on.

    Args:
        endpoint: its server.
        max_side: longest side, in pixels, of the images that are sent.
        temperature: of the server's sampling.
        max_tokens: longest reply; the server's own bound by default.
    """

    def __init__(
        self, endpoint: Endpoint, *, max_side: int = 1024, temperature: float = 0.7, max_tokens: int | None = None
    ) -> None:
        self.name = f"openai:{endpoint.model}"
        self.usage = endpoint.usage
        self._endpoint = endpoint
        self._max_side = max_side
        self._parameters = {"temperature": temperature} | ({} if max_tokens is None else {"max_tokens": max_tokens})
        self._structured = True

    async def __aenter__(self) -> OpenAITeacher:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._endpoint.__aexit__(*error)

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        messages = self._messages(task, earlier)
        if self._structured:
            try:
                form = _response_format(len(task.foci))
                return (await self._ask(messages, response_format=form)).strip()
            except EndpointError as error:
                if error.code not in ("status_400", "status_422"):
                    raise
                self._structured = False
        return (await self._ask(messages)).strip()

    async def _ask(self, messages: list[dict[str, Any]], **parameters: Any) -> str:
        return (await self._endpoint.chat(messages, **self._parameters, **parameters)).text

    def _messages(self, task: Task, earlier: Sequence[Attempt]) -> list[dict[str, Any]]:
        def shown(image: Image.Image) -> dict[str, Any]:
            return {"type": "image_url", "image_url": {"url": _data_url(image)}}

        return _conversation(task, earlier, self._max_side, shown, str)


class LocalTeacher:
    """A vision-language model of transformers in this process; it reads and writes greedily.

    Args:
        model: folder or Hugging Face name.
        max_side: longest side, in pixels, of the images that it is shown.
        max_new_tokens: longest reply.
        batch_size: tasks that are answered at once, when so many wait.
        device: torch device; the accelerator if there is one by default.
    Raises:
        ModelError: on the first reply, if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        max_side: int = 1024,
        max_new_tokens: int = 1024,
        batch_size: int = 8,
        device: str | None = None,
    ) -> None:
        self.name = f"local:{model}"
        self.usage = Usage()
        self._model = model
        self._max_side = max_side
        self._max_new_tokens = max_new_tokens
        self._device = device
        self._loaded: tuple[Any, Any] | None = None
        self._batches = Batches(self._answer, batch_size)

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        return await asyncio.to_thread(self._reply, task, earlier)

    def _reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        images: list[Image.Image] = []

        def shown(image: Image.Image) -> dict[str, Any]:
            images.append(image)
            return {"type": "image"}

        conversation = _conversation(task, earlier, self._max_side, shown, lambda text: [{"type": "text", "text": text}])
        return self._batches((conversation, images))

    def _answer(self, asked: Sequence[tuple[list[dict[str, Any]], list[Image.Image]]]) -> list[str]:
        if self._loaded is None:
            self._loaded = load_for_inference(self._model, device=self._device)
        # An answer may spell the model's placeholder for an image, and so may the model's own reply.
        placeholder = getattr(self._loaded[1], "image_token", None)
        conversations = [_without(messages, placeholder) if placeholder else messages for messages, _ in asked]
        images = [shown for _, shown in asked]
        found = complete(*self._loaded, conversations, images, max_new_tokens=self._max_new_tokens)
        for completion in found:
            self.usage.add(
                {"requests": 1, "prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.new_tokens}
            )
        return [completion.text for completion in found]


def _without(messages: Sequence[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    """Messages whose texts hold a word no more: a space is put into it."""
    apart = f"{word[0]} {word[1:]}"
    return [
        {
            **message,
            "content": [
                {**part, "text": part["text"].replace(word, apart)} if part["type"] == "text" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def outline(image: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """A copy of the image with its regions outlined in green."""
    copy = image.convert("RGB")
    pen = ImageDraw.Draw(copy)
    width, height = copy.size
    for region in regions:
        x1, y1, x2, y2 = region.box
        corners = (x1 * (width - 1), y1 * (height - 1), x2 * (width - 1), y2 * (height - 1))
        pen.rectangle(corners, outline=(0, 255, 0), width=max(1, round(max(copy.size) / 200)))
    return copy


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _response_format(foci: int) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "thoughts": {"type": "array", "items": {"type": "string"}, "minItems": foci, "maxItems": foci},
            "answer": {"type": "string"},
        },
        "required": ["thoughts", "answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "explanation", "schema": schema, "strict": True}}
