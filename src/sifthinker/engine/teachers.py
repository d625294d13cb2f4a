"""Forward inference: a teacher explains a focus path in words, and the engine checks the words.

A teacher returns only words. The engine builds the chain with its own boxes and depths, so no teacher can corrupt a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol

from PIL import Image, ImageDraw

from sifthinker.chain import TAG, Region
from sifthinker.endpoint import Endpoint, Usage, open_endpoint
from sifthinker.engine.batches import Batches
from sifthinker.engine.settings import TeacherSettings
from sifthinker.errors import ConfigError, EndpointError
from sifthinker.files import nearest
from sifthinker.images import data_url
from sifthinker.json_reply import find_objects
from sifthinker.loops import in_thread
from sifthinker.models import complete, load_for_inference
from sifthinker.prompts import TEACHER_SYSTEM, teacher_correction, teacher_focus, teacher_task
from sifthinker.records import Record, find_placeholder, shown
from sifthinker.responses import Reply
from sifthinker.scoring.answers import judge, normalise

MAX_CORRECTIONS = 2
MAX_WORDS = 120
LOCAL_TOKENS = 1024  # default maximum length of a local teacher's reply

CHECKS: dict[str, str] = {
    "not_json": "the reply does not contain the requested JSON object",
    "ambiguous": "the reply contains several different JSON objects of the requested form",
    "count": "the number of thoughts differs from the number of focuses",
    "blank": "a thought is blank",
    "leak": "a thought mentions outlines, coordinates, the given answer or the instructions",
    "length": f"a thought is longer than {MAX_WORDS} words",
    "tag": "a thought contains a tag of the chain format",
    "placeholder": "a thought contains an image placeholder or control token of a model",
    "answer": "the teacher's answer disagrees with the record's answer",
    "cut_off": "the reply reached the maximum length",
    "refused": "the model refused, or its server filtered the reply",
    "no_content": "the reply has no content, only reasoning or a tool call",
    "refused_request": "the server refused the request",
    "endpoint": "the teacher's server failed",
}

# What the user can do about failures that are not the teacher's fault.
ADVICE: dict[str, str] = {
    "cut_off": "raise --max-tokens, or the server's own limit",
    "endpoint": "run the same command again to retry this record",
}

_KEYS = ("thoughts", "answer")

# Entry point group for teachers of other packages: name → class or function that needs no arguments.
TEACHERS = "sifthinker.teachers"

# In an answer that shares words with the record's answer, these words make it uncertain or negate it.
_HEDGES = {
    "or", "either", "neither", "nor", "not", "no", "never", "none", "without", "except", "isnt", "arent", "wasnt",
    "werent", "dont", "doesnt", "cant", "cannot", "unlike", "rather", "maybe", "perhaps", "possibly", "probably",
    "unclear", "unsure", "unknown",
}  # fmt: skip
# These words add nothing to an answer.
_FILLING = {
    "is", "are", "was", "were", "be", "it", "its", "this", "that", "these", "those", "there", "here", "in", "on", "at",
    "of", "to", "for", "with", "by", "from", "i", "see", "shown", "visible", "answer", "image", "picture", "photo",
    "scene",
}  # fmt: skip
_SHORT_ANSWER = 3  # all words of a record's answer of at most this length are required

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
    """A task for a teacher: explain the focus path of a record.

    Args:
        record: the record.
        focuses: the regions of each focus, first focus first.
        kinds: the kind of each focus, see `Focus`.
        load_image: loads the record's image.
    """

    record: Record
    focuses: tuple[tuple[Region, ...], ...]
    kinds: tuple[str, ...]
    load_image: Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply of a teacher, and why it was refused.

    Args:
        reply: the text of the reply.
        problems: what is wrong with it, in words for the teacher; empty if it was accepted.
        codes: the reason code of each problem.
    """

    reply: str
    problems: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the attempt as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The accepted thoughts, one per focus (None if no reply was accepted), with all attempts."""

    thoughts: tuple[str, ...] | None
    attempts: tuple[Attempt, ...] = field(default=())


class Teacher(Protocol):
    """Interface of a teacher: puts focus paths into words.

    `name` is written into each example's provenance.

    A teacher that costs money counts its use in an attribute `usage`, an `endpoint.Usage`. A teacher with connections is an
    asynchronous context manager, which the build enters.
    """

    name: str

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str | Reply:
        """Return the teacher's raw reply: `{"thoughts": [...], "answer": ...}`, with any text around it.

        Args:
            task: what to explain.
            earlier: failed attempts at this task, oldest first.
        Returns:
            The text, or a `Reply` that also contains how it ended.
        Raises:
            EndpointError: the teacher's server could not be reached, or refused the request.
        """
        ...


async def explain(teacher: Teacher, task: Task) -> Explanation:
    """Ask the teacher, check its reply, and ask again with the problems, at most twice.

    A bad reply is never an error.

    Raises:
        EndpointError: of kind `setup`: the server answers no request until the setup is changed.
    """
    attempts: list[Attempt] = []
    for _ in range(MAX_CORRECTIONS + 1):
        try:
            said = await teacher.reply(task, attempts)
        except EndpointError as error:
            if error.kind == "setup":
                raise
            # The client has already retried. A correction does not help if the server is down or refuses the request.
            code = "refused_request" if error.kind == "request" else "endpoint"
            advice = "; lower --max-side" if error.code == "status_413" else ""
            attempts.append(Attempt("", (f"{error}{advice}",), (code,)))
            break
        reply = said if isinstance(said, Reply) else Reply(said)
        thoughts, problems = check_reply(reply.text, task)
        if problems and reply.code:
            problems = [(reply.code, reply.reason)]  # it causes the other problems
        attempts.append(Attempt(reply.text, tuple(p for _, p in problems), tuple(code for code, _ in problems)))
        if not problems:
            return Explanation(tuple(thoughts), tuple(attempts))
        if reply.code and (reply.code != "cut_off" or not reply.text.strip()):
            break  # there is no text to correct
    return Explanation(None, tuple(attempts))


def check_reply(reply: str, task: Task) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the thoughts of a reply, and its problems as (reason code of `CHECKS`, text for the teacher).

    Reasoning, prose and code fences around the JSON object are allowed, and so are raw control characters in its strings.
    """
    found = find_objects(reply, _KEYS)
    # A model that repeats the given schema writes an object with these keys too.
    found = [body for body in found if isinstance(body["thoughts"], list)] or found
    if not found:
        return [], [("not_json", 'the reply must contain one complete JSON object with the keys "thoughts" and "answer"')]
    if len(found) > 1:
        return [], [("ambiguous", f"the reply contains {len(found)} different JSON objects; send only one")]
    said, answer = found[0]["thoughts"], found[0]["answer"]
    thoughts = [text for text in map(_thought, said) if text is not None] if isinstance(said, list) else []
    if not isinstance(said, list) or len(thoughts) < len(said):
        return [], [("not_json", '"thoughts" must be a list of strings')]
    problems = []
    if len(thoughts) != len(task.focuses):
        problems.append(("count", f"expected {len(task.focuses)} thoughts, got {len(thoughts)}"))
    allowed = f"{task.record.question} {task.record.answer}".lower()
    for number, thought in enumerate(thoughts, 1):
        if not thought.strip():
            problems.append(("blank", f"thought {number} is blank"))
        if len(thought.split()) > MAX_WORDS:
            problems.append(("length", f"thought {number} is longer than {MAX_WORDS} words"))
        if TAG.search(thought):
            problems.append(("tag", f"thought {number} contains a tag"))
        placeholder = find_placeholder(thought)
        if placeholder:
            problems.append(("placeholder", f"thought {number} contains {placeholder}; write it in words"))
        # Words of the question are not a leak: an image can show green boxes.
        leak = next((m[0] for m in _LEAK.finditer(thought) if m[0].lower() not in allowed), None)
        if leak:
            problems.append(("leak", f"thought {number} says {leak!r}"))
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        problems.append(("not_json", '"answer" must be a string'))
    elif not _agrees(str(answer), task.record):
        words = f"the answer {shown(str(answer))} disagrees with the true answer, and must state only that"
        problems.append(("answer", words))
    return thoughts, problems


def _thought(item: Any) -> str | None:
    """Return one entry of `thoughts`; None if it is not text. Control characters except line breaks and tabs become spaces.

    Some models wrap each text in an object. An object with a further key, such as a number, may mean another order and does
    not count.
    """
    if isinstance(item, dict) and len(item) == 1:
        item = item.get("text", item.get("thought"))
    if not isinstance(item, str) or any("\ud800" <= mark <= "\udfff" for mark in item):
        return None  # half a surrogate pair is not text
    return "".join(" " if unicodedata.category(mark) == "Cc" and mark not in "\n\t" else mark for mark in item)


def _agrees(answer: str, record: Record) -> bool:
    """Whether a teacher's answer states the record's answer and nothing that contradicts it.

    The teacher knows the record's answer, so the check is strict: half the words of a short answer are not enough ("red or
    blue", "car" for "silver car").
    """
    score = judge(answer, record.answer, record.choices).score
    if score in (0, 1):
        return score == 1
    said, right = normalise(answer).split(), normalise(record.answer).split()
    added = set(said) - set(right)
    if added & _HEDGES or any(word.isdigit() for word in added):
        return False
    if len(right) > _SHORT_ANSWER:
        return score >= 0.5
    return set(right) <= set(said) and added <= _FILLING | set(normalise(record.question).split())


def _conversation(
    task: Task,
    earlier: Sequence[Attempt],
    max_side: int,
    shown: Callable[[Image.Image], dict[str, Any]],
    said: Callable[[str], Any],
) -> list[dict[str, Any]]:
    """Return the messages that ask a model to explain a task: each focus outlined on the image, then the failed attempts.

    Args:
        task: what to explain.
        earlier: failed attempts.
        max_side: longest side of the images, in pixels.
        shown: converts an image to a part of a message.
        said: converts text to the content of a message.
    """
    image = task.load_image().copy()
    image.thumbnail((max_side, max_side))
    content = [{"type": "text", "text": teacher_task(task.record.question, task.record.answer, len(task.focuses))}]
    for number, regions in enumerate(task.focuses, 1):
        content.append({"type": "text", "text": teacher_focus(number, regions)})
        content.append(shown(outline(image, regions)))
    messages = [{"role": "system", "content": said(TEACHER_SYSTEM)}, {"role": "user", "content": content}]
    for attempt in earlier:
        if not attempt.reply.strip():
            continue  # nothing to correct, and servers refuse empty turns
        messages.append({"role": "assistant", "content": said(attempt.reply)})
        messages.append({"role": "user", "content": said(teacher_correction(attempt.problems))})
    return messages


class OpenAITeacher(AbstractAsyncContextManager["OpenAITeacher"]):
    """A vision-language model on an OpenAI-compatible server.

    Requests ask for structured output. If the server refuses it, the endpoint stops asking.

    Args:
        endpoint: the server.
        max_side: longest side of the images that are sent, in pixels.
        temperature: sampling temperature.
        max_tokens: maximum length of a reply, in tokens; the server's own limit by default.
    """

    def __init__(
        self, endpoint: Endpoint, *, max_side: int = 1024, temperature: float = 0.7, max_tokens: int | None = None
    ) -> None:
        self.name = f"openai:{endpoint.model}"
        self.usage = endpoint.usage
        self._endpoint = endpoint
        self._max_side = max_side
        self._parameters = {"temperature": temperature} | ({} if max_tokens is None else {"max_tokens": max_tokens})

    async def __aenter__(self) -> OpenAITeacher:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._endpoint.__aexit__(*error)

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> Reply:
        messages = await in_thread(self._messages, task, earlier)
        form = _response_format(len(task.focuses))
        return await self._endpoint.chat(messages, **self._parameters, response_format=form)

    def _messages(self, task: Task, earlier: Sequence[Attempt]) -> list[dict[str, Any]]:
        def shown(image: Image.Image) -> dict[str, Any]:
            return {"type": "image_url", "image_url": {"url": data_url(image)}}

        return _conversation(task, earlier, self._max_side, shown, str)


class LocalTeacher:
    """A transformers vision-language model in this process. It decodes greedily.

    Args:
        model: folder or Hugging Face name.
        max_side: longest side of the images that it sees, in pixels.
        max_new_tokens: maximum length of a reply, in tokens.
        batch_size: maximum number of tasks in a batch.
        device: torch device; by default the accelerator, if there is one.
    Raises:
        ModelError: on the first reply, if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        max_side: int = 1024,
        max_new_tokens: int = LOCAL_TOKENS,
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

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> Reply:
        return await in_thread(self._reply, task, earlier)

    def _reply(self, task: Task, earlier: Sequence[Attempt]) -> Reply:
        images: list[Image.Image] = []

        def shown(image: Image.Image) -> dict[str, Any]:
            images.append(image)
            return {"type": "image"}

        conversation = _conversation(task, earlier, self._max_side, shown, lambda text: [{"type": "text", "text": text}])
        return self._batches((conversation, images))

    def _answer(self, asked: Sequence[tuple[list[dict[str, Any]], list[Image.Image]]]) -> list[Reply]:
        if self._loaded is None:
            self._loaded = load_for_inference(self._model, device=self._device)
        # A correction shows the model its own reply, which may contain its image placeholder.
        placeholder = getattr(self._loaded[1], "image_token", None)
        conversations = [_without(messages, placeholder) if placeholder else messages for messages, _ in asked]
        images = [shown for _, shown in asked]
        found = complete(*self._loaded, conversations, images, max_new_tokens=self._max_new_tokens)
        for completion in found:
            self.usage.add(
                {"requests": 1, "prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.new_tokens}
            )
        return [
            Reply(completion.text)
            if completion.ended
            else Reply(completion.text, code="cut_off", reason=f"the reply was cut off after {completion.new_tokens} tokens")
            for completion in found
        ]


def _without(messages: Sequence[dict[str, Any]], word: str) -> list[dict[str, Any]]:
    """Return messages without a word in their texts: a space is inserted into it."""
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
    """Return a copy of the image with its regions outlined in green."""
    copy = image.convert("RGB")
    pen = ImageDraw.Draw(copy)
    width, height = copy.size
    for region in regions:
        x1, y1, x2, y2 = region.box
        corners = (x1 * (width - 1), y1 * (height - 1), x2 * (width - 1), y2 * (height - 1))
        pen.rectangle(corners, outline=(0, 255, 0), width=max(1, round(max(copy.size) / 200)))
    return copy


def _response_format(focuses: int) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "thoughts": {"type": "array", "items": {"type": "string"}, "minItems": focuses, "maxItems": focuses},
            "answer": {"type": "string"},
        },
        "required": ["thoughts", "answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "explanation", "schema": schema, "strict": True}}


def make_teacher(settings: TeacherSettings) -> Teacher:
    """Return the teacher of some settings: `openai`, `local`, or a teacher from an installed package.

    A package provides a teacher as an entry point of the group `sifthinker.teachers`: a name, and a callable without
    arguments that makes the teacher.

    Raises:
        ConfigError: the teacher does not exist, or it needs a model and the settings have none.
    """
    if settings.teacher not in ("openai", "local"):
        return offered_teacher(settings.teacher)
    if not settings.model:
        raise ConfigError(f"teacher {settings.teacher} needs a model. Set --model NAME (in a recipe: model)")
    if settings.teacher == "local":
        return LocalTeacher(
            settings.model,
            batch_size=settings.concurrency,
            max_side=settings.max_side,
            max_new_tokens=settings.max_tokens or LOCAL_TOKENS,
        )
    endpoint = open_endpoint(
        settings,
        requests_per_minute=settings.rpm,
        prompt_price=settings.prompt_price,
        completion_price=settings.completion_price,
    )
    return OpenAITeacher(endpoint, max_side=settings.max_side, max_tokens=settings.max_tokens)


def offered_teachers() -> tuple[str, ...]:
    """Return the names of the teachers from installed packages, entry points of the group `sifthinker.teachers`."""
    return tuple(sorted({entry.name for entry in entry_points(group=TEACHERS)}))


def offered_teacher(name: str) -> Teacher:
    """Return a teacher from an installed package, see `offered_teachers`.

    Raises:
        ConfigError: no package provides a teacher of this name, or it cannot be loaded.
    """
    entry = next(iter(entry_points(group=TEACHERS, name=name)), None)
    if entry is None:
        names = ("openai", "local", *offered_teachers())
        near = nearest(name, names)
        hint = f"Did you mean {near!r}?" if near else f"Use one of {', '.join(names)}"
        raise ConfigError(f"unknown teacher {name!r}. {hint}")
    try:
        found: Teacher = entry.load()()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"cannot load the teacher {name!r} from {entry.value}: {error}. "
            "Reinstall the package that provides it, or use --teacher openai or --teacher local"
        ) from None
    return found
