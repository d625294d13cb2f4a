"""The page of `sif app`: ask one or two models about an image or a dataset's question, and watch the steps appear.

Gradio provides the fields and the server. Text from models and users reaches the page through templates that escape it, or
as the value of a text field. Images are only read by `images.load_image`, which is safe and limits their size.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image

from sifthinker.ask_settings import AppSettings, DepthFiles
from sifthinker.chain import Region
from sifthinker.coordinates import recorded_coordinates
from sifthinker.depth import DepthMap, DepthReading, agrees
from sifthinker.engine.estimators import ModelDepth
from sifthinker.errors import BudgetError, ConfigError, DepthError, ImageError, SIFError, need
from sifthinker.evaluation.metrics import Measured, measure
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import coordinates_of
from sifthinker.files import atomic_write
from sifthinker.images import data_url, load_image
from sifthinker.literals import Coordinates, Encoding
from sifthinker.loops import iterate, ticking
from sifthinker.prompts import with_choices
from sifthinker.served import ServedThinker
from sifthinker.show.report import (
    LONGEST_SIDE,
    Card,
    card_page,
    rectangle,
    render_page,
    said_problems,
    targets,
    write_picture,
)
from sifthinker.thinker import LocalThinker, Thinker, Thought

if TYPE_CHECKING:
    import gradio

_MOST_REGIONS = 12  # per step, in the table below its images
_LISTED = 5  # questions per list
_SHOWN = 160  # characters of a question in the list
_SESSIONS = 100  # sessions with stored images and thoughts
_FILES_S = 24 * 3600  # lifetime of uploaded and saved files
_UNCOUNTED = "the server does not report tokens, so --budget cannot be enforced"
# Options for reading a depth file in messages → the page's own fields.
_FIELDS = (
    (
        r"near='(\w+)' \(--depth-near \w+\)|--depth-near (\w+) \(near='\w+'\)|\bnear='(\w+)'",
        "“Near pixels have: {} numbers”",
    ),
    (r"--depth-encoding (\w+) \(encoding='\w+'\)", "“Encoding: {}”"),
    (r"--depth-encoding \(encoding=… in Python\)", "“Encoding”"),
    (r"(?:--depth-hole \S+ )+\(holes=\[([^\]]*)\]\)", "“Numbers that mean ‘no reading’: {}”"),
)
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_FETCHES = re.compile(r"/file=\s*[a-z][a-z0-9+.-]*:/|/proxy=", re.IGNORECASE)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_GLANCE_S = 0.25  # between updates of a growing text, and between checks for Stop
_REDRAW_S = 1.0  # between updates of a growing step, because each one sends its images again
_PATIENCE_S = 5.0  # of silence, before the first message about it and between messages


@dataclass(frozen=True, slots=True)
class Asker:
    """A model that the page asks.

    Args:
        thinker: the loaded model.
        settings: how to ask it.
        about: description of the model; "" for none.
        uncounted: set once its server has answered without reporting tokens.
    """

    thinker: Thinker
    settings: AppSettings
    about: str = ""
    uncounted: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.settings.model or "model"

    def file(self, outcome: Outcome, ending: str) -> Path:
        """Return the path of an outcome's page or image by its file ending. The file name contains the model's name."""
        assert outcome.folder is not None
        name = re.sub(r"[^\w.-]+", "-", Path(self.name).name).strip("-.") or "model"
        return outcome.folder / f"{name}.thought.{ending}"

    def coordinates(self, question: Question | None) -> Coordinates | None:
        """Return the coordinates to request: the chosen ones, those that the model learned, or those of a dataset."""
        chosen = self.settings.coordinates
        if chosen is None and isinstance(self.thinker, LocalThinker):
            chosen = recorded_coordinates(self.thinker.processor.tokenizer)
        return coordinates_of([question], chosen) if question and self.settings.protocol == "chain" else chosen

    def check_budget(self) -> None:
        """Check that the budget of its server is not spent.

        Raises:
            BudgetError: the budget is spent, or the server does not report tokens.
        """
        budget = self.settings.budget
        if budget is None or not isinstance(self.thinker, ServedThinker):
            return
        if self.uncounted.is_set():
            raise BudgetError(f"{self.name} is not asked: {_UNCOUNTED}; restart without --budget to ask it")
        if self.thinker.usage.cost >= budget:
            raise BudgetError(
                f"{self.name} has cost {self.thinker.usage.cost:g} of the budget {budget:g}; restart with a larger --budget"
            )

    def note_tokens(self, thought: Thought) -> str:
        """Note whether the server reported tokens for an answer. Return a sentence if it did not and there is a budget."""
        if self.settings.budget is None or not isinstance(self.thinker, ServedThinker) or any(thought.tokens):
            return ""
        self.uncounted.set()
        return f"{_UNCOUNTED[0].upper()}{_UNCOUNTED[1:]}."

    def stream(
        self, image: Image.Image, text: str, depth: DepthMap | None, question: Question | None
    ) -> Iterator[Thought | None]:
        """Yield the growing thought, see `Thinker.stream`, and None after each moment of silence of a server."""
        how: dict[str, Any] = {"protocol": self.settings.protocol, "coordinates": self.coordinates(question)}
        thinker = self.thinker
        if not isinstance(thinker, ServedThinker):
            return thinker.stream(image, text, depth, **how)

        async def thoughts() -> AsyncIterator[Thought | None]:
            async with thinker, aclosing(ticking(thinker.ask_stream((image, text, depth), **how), _GLANCE_S)) as growing:
                async for thought in growing:
                    yield thought

        return iterate(thoughts())


@dataclass(frozen=True, slots=True)
class Photo:
    """An image as the page shows it. `number` is unique on the page."""

    number: int
    width: int
    height: int
    rgb: str
    depth: str | None
    about: str

    @classmethod
    def of(cls, image: Image.Image, depth: DepthMap | None, number: int, about: str) -> Photo:
        """Return the photo of an upright RGB image and its depth."""
        coloured = None if depth is None else data_url(depth.coloured(), max_side=LONGEST_SIDE)
        return cls(number, *image.size, data_url(image, max_side=LONGEST_SIDE), coloured, about)

    @property
    def line(self) -> float:
        """Line width, in pixels of the image."""
        return max(self.width, self.height) / 160


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of asking one model.

    Args:
        photo: the image; None before the first question.
        thought: the thought so far.
        question: the question of the dataset, if it was one.
        state: `writing`, `done` or `stopped`.
        error: why the model could not be asked; "" if it was.
        folder: folder with the files to download.
        silent_s: seconds without new text, if there were many.
        retried: whether the request was repeated during the silence.
        note: note about the request; "" for none.
    """

    photo: Photo | None = None
    thought: Thought | None = None
    question: Question | None = None
    state: str = "writing"
    error: str = ""
    folder: Path | None = None
    silent_s: int = 0
    retried: bool = False
    note: str = ""

    @property
    def growing_words(self) -> str:
        """Text so far of the step that is being written."""
        if self.thought is None or self.state != "writing":
            return ""
        _, tag, words = self.thought.text.rpartition("<text>")
        return "" if not tag or "</text>" in words else re.sub(r"</?\w*$", "", words).strip()

    @property
    def steps(self) -> Sequence[tuple[tuple[Region, ...], str]]:
        """The readable steps of the thought."""
        return () if self.thought is None else self.thought.steps


@dataclass(slots=True)
class Bell:
    """The stop signal of a session, and the step of each column that the user looks at."""

    rung: bool = False
    early: bool = False  # Ask was pressed without an image, perhaps during its upload
    looked: dict[int, int] = field(default_factory=dict)


class Line:
    """The queue of sessions that ask or wait, first come, first served.

    Args:
        most: number of sessions that may ask at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tickets: list[object] = []
        self._changed = threading.Condition()

    @contextmanager
    def place(self) -> Iterator[object]:
        """Take a place in the queue until the end of the block."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def ahead(self, ticket: object, wait_s: float) -> int:
        """Return how many sessions must finish before this one. Waits up to `wait_s` seconds for none."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets.index(ticket) < self._most, wait_s)
            return max(0, self._tickets.index(ticket) - self._most + 1)


@dataclass(frozen=True)
class Desk:
    """The functions of the page, independent of Gradio.

    Args:
        settings: settings of the page.
        askers: one model, or two to compare.
        questions: questions to browse.
        depth: depth model for images without depth.
        folder: folder for files to download; its creator deletes it.
    """

    settings: AppSettings
    askers: Sequence[Asker]
    questions: Sequence[Question] = ()
    depth: ModelDepth | None = None
    folder: Path = field(default_factory=Path)

    def find(self, words: str | None) -> list[int]:
        """Return the indices of questions that contain all words. `words` is None if the field was never edited."""
        wanted = (words or "").casefold().split()
        found = []
        for index, asked in enumerate(self.questions):
            text = " ".join((asked.id, asked.question, asked.family, asked.dataset, *asked.answers)).casefold()
            if all(word in text for word in wanted):
                found.append(index)
        return found

    def label(self, index: int) -> str:
        """Return the text of a question in the list."""
        text = " ".join(self.questions[index].question.split())
        return f"{self.questions[index].id} · {text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}"

    def text(self, index: int) -> str:
        """Return a question as the model sees it."""
        question = self.questions[index]
        return with_choices(question.question, question.choices) if self.settings.show_choices else question.question

    def image(self, upload: str | None, chosen: int | None) -> Image.Image:
        """Load the uploaded image, else the image of the chosen question.

        Raises:
            ImageError: there is no image, or it cannot be read.
        """
        if upload is not None:
            return load_image(upload)
        if chosen is None:
            raise ImageError("Choose an image first", "missing_image")
        return self.questions[chosen].load(with_depth=False)[0]

    def known_depth(
        self, image: Image.Image, upload: str | None, chosen: int | None, files: DepthFiles
    ) -> tuple[DepthMap | None, str]:
        """Return the depth from a file, and a text about its origin.

        Args:
            image: upright RGB.
            upload: the uploaded depth file.
            chosen: the question of the image; None for an uploaded image.
            files: how to read the uploaded depth file.
        Raises:
            DepthError: the depth file cannot be read, or its size differs from the image's.
        """
        if upload is not None:
            reading = DepthReading.of(files)
            try:
                return reading.read(upload, image.size), f"with depth from {Path(upload).name}"
            except DepthError as error:
                raise DepthError(_in_fields(str(error))) from None
        if chosen is not None and self.questions[chosen].depth is not None:
            return self.questions[chosen].load()[1], "with the dataset's depth"
        return None, "without depth" if self.depth is None else f"depth will be estimated by {self.depth.name}"

    def all_depth(
        self, image: Image.Image, upload: str | None, chosen: int | None, files: DepthFiles
    ) -> tuple[DepthMap | None, str]:
        """Return `known_depth`, else an estimate if there is a depth model.

        Raises:
            DepthError: see `known_depth`.
            ModelError: the depth model cannot be loaded.
        """
        found, about = self.known_depth(image, upload, chosen, files)
        if found is None and self.depth is not None:
            return self.depth.estimate(image), f"with depth estimated by {self.depth.name}"
        return found, about

    def ask(
        self,
        asker: Asker,
        image: Image.Image,
        photo: Photo,
        text: str,
        depth: DepthMap | None = None,
        question: Question | None = None,
        bell: Bell | None = None,
    ) -> Iterator[Outcome]:
        """Ask one model and yield the growing outcome: with each new step, and a few times in between.

        The bell ends a request to a server at once. A local model checks the bell at each token.

        Args:
            asker: the model.
            image: upright RGB.
            photo: the same image as the page shows it.
            text: the question as the model sees it.
            depth: depth of the image.
            question: the question of the dataset, if it is one.
            bell: stop signal.
        Yields:
            At least one outcome. A failure is its `error`.
        """
        outcome = Outcome(photo, question=question)
        yield outcome
        seen, shown_s, heard_s = 0, 0.0, time.monotonic()
        tries = _tries(asker)
        try:
            asker.check_budget()
            growing = asker.stream(image, text, depth, question)
            with closing(growing):  # type: ignore[type-var]
                for thought in growing:
                    if bell is not None and bell.rung:
                        yield replace(outcome, state="stopped", silent_s=0)
                        return
                    if thought is None:
                        silent_s = time.monotonic() - heard_s
                        if silent_s >= outcome.silent_s + _PATIENCE_S:
                            outcome = replace(outcome, silent_s=int(silent_s), retried=_tries(asker) > tries)
                            yield outcome
                        elif silent_s < 2 * _REDRAW_S:
                            yield outcome  # the last update may have come too early to be shown
                        continue
                    heard_s = time.monotonic()
                    outcome = replace(outcome, thought=thought, silent_s=0)
                    if len(outcome.steps) > seen or thought.seconds - shown_s > _GLANCE_S:
                        seen, shown_s = len(outcome.steps), thought.seconds
                        yield outcome
            if outcome.thought is not None:
                outcome = replace(outcome, note=asker.note_tokens(outcome.thought))
            outcome = replace(outcome, state="done", folder=Path(tempfile.mkdtemp(prefix="thought-", dir=self.folder)))
            self.write(asker, outcome)
        # Processors refuse images with a ValueError, torch raises RuntimeError without memory, and a disk may be full.
        except (SIFError, ValueError, RuntimeError, OSError) as error:
            outcome = replace(outcome, error=self.sentence(error), state="done", silent_s=0)
        yield outcome

    def write(self, asker: Asker, outcome: Outcome) -> None:
        """Write the page and the image of a thought to the outcome's folder.

        Raises:
            SIFError: the folder cannot be written.
        """
        assert outcome.thought is not None
        thought, question, note = outcome.thought, outcome.question, f"model {asker.name}"
        card = Card(thought, note=note)
        if question is not None:
            right = measure(thought, question).values["answer accuracy"]
            card = Card(
                thought,
                note=note,
                truth=" / ".join(question.answers),
                correct=None if right is None else right == 1,
                boxes=question.boxes,
                choices=question.choices,
            )
        atomic_write(asker.file(outcome, "html"), card_page(card))
        write_picture(asker.file(outcome, "png"), card)

    def sentence(self, error: Exception) -> str:
        """Return the message of an error. Uploaded files appear by name, without their temporary folder."""
        text = re.sub(re.escape(f"{self.folder}{os.sep}") + r"(?:[0-9a-f]{16,}/)?", "", str(error))
        return text or type(error).__name__


def _tries(asker: Asker) -> int:
    """Return the number of repeated requests to a model's server so far."""
    return asker.thinker.usage.retries if isinstance(asker.thinker, ServedThinker) else 0


def photo_view(photo: Photo | None) -> str:
    """Return an image and its depth as HTML."""
    return render_page("app_photo.html", photo=photo)


def step_view(outcome: Outcome, step: int, waiting: str = "") -> str:
    """Return one step of an outcome as HTML: boxes on RGB and depth, stated and measured depths, and its text.

    Args:
        outcome: the outcome.
        step: number of the step, from 1; larger numbers mean the last step.
        waiting: text to show before the first question.
    """
    regions: tuple[Region, ...] = ()
    words, count = "", len(outcome.steps)
    if count:
        step = min(max(step, 1), count)
        regions, words = outcome.steps[step - 1]
    photo, question = outcome.photo, outcome.question
    return render_page(
        "app_step.html",
        photo=photo,
        waiting=waiting,
        index=step,
        count=count,
        growing=outcome.state == "writing",
        boxes=[] if photo is None or outcome.thought is None else _boxes(regions, photo, outcome.thought.depth),
        most=_MOST_REGIONS,
        targets=[] if photo is None or question is None else targets(question.boxes, photo.width, photo.height),
        words=words or (outcome.growing_words if step == count else ""),
        written=outcome.state != "writing" or step < count,
    )


def _boxes(regions: Sequence[Region], photo: Photo, depth: DepthMap | None) -> list[dict[str, Any]]:
    """Return regions as rectangles with their measured depth, and whether the stated depth agrees (None if unknown)."""
    boxes = []
    for index, region in enumerate(regions):
        box = rectangle(region, index, photo.width, photo.height, depth)
        true = box["true_depth"]
        box |= {
            "sides": ", ".join(f"{side:.2f}" for side in region.box),
            "agrees": None if true is None or region.depth is None else bool(agrees([region.depth], [true])[0]),
        }
        boxes.append(box)
    return boxes


def answer_view(outcome: Outcome) -> str:
    """Return the answer of an outcome as HTML, judged if the right answer is known, with the faults of the chain."""
    thought, question = outcome.thought, outcome.question
    done = thought is not None and outcome.state == "done"
    measured = measure(thought, question) if done and thought is not None and question is not None else Measured({}, None)
    right = measured.values.get("answer accuracy")
    return render_page(
        "app_answer.html",
        error=outcome.error,
        growing=outcome.state == "writing" and outcome.photo is not None,
        stopped=outcome.state == "stopped",
        silent_s=outcome.silent_s,
        retried=outcome.retried,
        note=outcome.note,
        steps=len(outcome.steps),
        answer=None if thought is None else thought.answer,
        truth="" if question is None else " / ".join(question.answers),
        correct=None if right is None else right == 1,
        direct=thought is not None and thought.direct,
        problems=[] if thought is None else said_problems(thought),
        complete=thought is None or thought.complete,
        about="" if thought is None else _about(thought, measured.values),
    )


def _about(thought: Thought, values: Mapping[str, float | None]) -> str:
    parts = [f"{name} {value:.2f}" for name, value in values.items() if value is not None and name != "answer accuracy"]
    parts.append(f"{thought.seconds:.1f} s")
    if thought.tokens:
        parts.append(f"{thought.tokens[0]} tokens read, {thought.tokens[1]} written")
    return " · ".join(parts)


def said_view(said: str, *, fault: bool = False) -> str:
    """Return a status line of the page as HTML."""
    return render_page("app_said.html", said=said, fault=fault)


def _forget(outcomes: Sequence[Outcome]) -> None:
    """Delete the files of outcomes that are no longer shown."""
    for outcome in outcomes:
        if outcome.folder is not None:
            shutil.rmtree(outcome.folder, ignore_errors=True)


_LOADING = "() => ({__type__: 'update', interactive: false, value: 'Loading …'})"
_LOADED = "() => ({__type__: 'update', interactive: true, value: 'Ask'})"


def _blocks() -> type[gradio.Blocks]:
    """Return a Gradio page class that accepts only uploaded files. Gradio itself would download addresses in requests."""
    import gradio as gr

    class Closed(gr.Blocks):  # type: ignore[misc]
        async def preprocess_data(self, block_fn: Any, inputs: list[Any], *told: Any, **more: Any) -> Any:
            if any(map(_names_url, inputs)):
                raise gr.Error("expected an uploaded file, got an address")
            return await super().preprocess_data(block_fn, inputs, *told, **more)

    return Closed


def _names_url(value: Any) -> bool:
    """Return whether a part of a request refers to a file by an address."""
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and _URL.match(path) is not None) or any(map(_names_url, value.values()))
    return isinstance(value, list) and any(map(_names_url, value))


class _NothingFetched:
    """Middleware that refuses requests for files on other servers, which Gradio would download."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _FETCHES.search(scope["path"]) is not None:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)


class _Page:
    """The page: Gradio's components and their event handlers."""

    def __init__(self, desk: Desk) -> None:
        import gradio as gr

        self.gr = gr
        self.desk = desk
        local = any(isinstance(asker.thinker, LocalThinker) for asker in desk.askers)
        self.line = Line(1 if local else desk.settings.concurrency)
        with _blocks()(title="SIFThinker", analytics_enabled=False, fill_width=True, delete_cache=(3600, _FILES_S)) as made:
            self.chosen = gr.State(None)
            self.bell = gr.State(Bell())
            self.outcomes = gr.State([], delete_callback=_forget)
            gr.HTML(render_page("app_head.html", askers=desk.askers))
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    self._lay_questions()
                    self._lay_asking()
                self.columns = []
                for number in range(len(desk.askers)):
                    with gr.Column(scale=3, min_width=340):
                        self.columns.append(self._lay_column(number))
            self._connect()
        self.blocks = made

    def _lay_questions(self) -> None:
        gr, desk = self.gr, self.desk
        with gr.Accordion(f"Questions from {Path(desk.settings.data or '').name}", visible=bool(desk.questions)):
            self.search = gr.Textbox("", label="Search", placeholder="Words in a question", max_lines=1)
            choices = self._listed(desk.find(""), 0)
            self.list = gr.Radio(choices, label=self._count(desk.find("")), elem_id="questions")
            with gr.Row():
                self.before = gr.Button("Previous", size="sm", elem_id="previous", min_width=80)
                self.after = gr.Button("Next", size="sm", elem_id="next", min_width=80)

    def _lay_asking(self) -> None:
        gr, files = self.gr, self.desk.settings
        self.photo_view = gr.HTML(photo_view(None), elem_id="photo")
        with gr.Row():
            look: dict[str, Any] = {"height": 130, "min_width": 140}
            self.photo = gr.File(label="Image", elem_id="photo-file", **look)
            self.depth = gr.File(label="Depth file (optional)", elem_id="depth-file", **look)
        with gr.Accordion("How the depth file is read", open=False):
            self.encoding = gr.Dropdown(list(get_args(Encoding)), value=files.depth_encoding, label="Encoding")
            near = [("default of the encoding", ""), ("low numbers", "low"), ("high numbers", "high")]
            self.near = gr.Radio(near, value=files.depth_near or "", label="Near pixels have")
            holes = ", ".join(f"{hole:g}" for hole in files.depth_hole)
            self.holes = gr.Textbox(holes, label="Numbers that mean “no reading”", placeholder="10000, -1", max_lines=1)
        self.use_depth = gr.Checkbox(value=True, label="Show depth to the model, if available", elem_id="use-depth")
        self.question = gr.Textbox(
            "",
            label="Question",
            lines=2,
            max_lines=8,
            max_length=4000,
            elem_id="question",
            placeholder="What is on the shelf?",
        )
        with gr.Row():
            self.go = gr.Button("Ask", variant="primary", elem_id="ask", min_width=100)
            self.stop = gr.Button("Stop", visible="hidden", elem_id="stop", min_width=100)
        self.said = gr.HTML(said_view(""), elem_id="said")

    def _lay_column(self, number: int) -> dict[str, Any]:
        gr, asker = self.gr, self.desk.askers[number]
        made: dict[str, Any] = {}
        if len(self.desk.askers) > 1:
            gr.HTML(render_page("app_name.html", name=asker.name))
        made["slider"] = gr.Slider(
            1, 2, value=1, step=1, label="Step", visible="hidden", buttons=[], elem_id=f"slider-{number}", interactive=True
        )
        made["step"] = gr.HTML(self._blank_step(), elem_id=f"step-{number}")
        made["answer"] = gr.HTML(said_view(""), elem_id=f"answer-{number}")
        with gr.Accordion("Raw text", open=False, elem_id=f"raw-{number}"):
            made["raw"] = gr.Textbox(show_label=False, lines=6, max_lines=24, interactive=False, container=False)
        with gr.Row():
            look: dict[str, Any] = {"size": "sm", "visible": "hidden", "min_width": 90}
            made["page"] = gr.DownloadButton("Save as page", elem_id=f"page-{number}", **look)
            made["png"] = gr.DownloadButton("Save as PNG", elem_id=f"png-{number}", **look)
        return made

    def _connect(self) -> None:
        gr = self.gr
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        told = [self.encoding, self.near, self.holes]
        loading: dict[str, Any] = {"fn": None, "js": _LOADING, "outputs": self.go, **quiet}
        loaded: dict[str, Any] = {**loading, "js": _LOADED}
        look = {"fn": self._look, "inputs": [self.photo, self.depth, *told, self.chosen, self.bell], **quiet}
        seen = [self.photo_view, self.said]
        # Ask is disabled and shows "Loading …" until the upload or the chosen question has arrived.
        choosing = [self.photo.upload, self.photo.clear, self.list.input, self.before.click, self.after.click]
        gr.on(choosing, **loading)
        gr.on(
            [self.photo.upload, self.photo.clear],
            self._sent,
            self.search,
            [self.chosen, self.list, *self._all(), self.outcomes],
            **quiet,
        ).then(outputs=seen, **look).then(**loaded)
        gr.on(
            [self.depth.upload, self.depth.clear, self.encoding.input, self.near.input, self.holes.submit, self.holes.blur],
            outputs=seen,
            **look,
        )
        picked = [self.chosen, self.photo, self.depth, self.question, self.list, *self._all(), self.outcomes]
        self.search.change(self._search, [self.search, self.chosen], self.list, trigger_mode="always_last", **quiet)
        self.list.input(self._pick, [self.list, self.search], picked, trigger_mode="always_last", **quiet).then(
            outputs=seen, **look
        ).then(**loaded)
        for button, by in ((self.before, -1), (self.after, 1)):
            moving = button.click(partial(self._move, by), [self.search, self.chosen], picked, **quiet)
            moving.then(outputs=seen, **look).then(**loaded)
        gr.on(
            [self.go.click, self.question.submit],
            self._ask,
            [self.photo, self.depth, *told, self.use_depth, self.question, self.list, self.chosen, self.outcomes, self.bell],
            [self.said, self.stop, self.outcomes, *self._all()],
            concurrency_limit=None,  # `Line` is the queue: it can report its length, and waiting users can stop
            **quiet,
        )
        self.stop.click(self._stop, self.bell, self.said, queue=False, **quiet)
        for number, column in enumerate(self.columns):
            column["slider"].input(
                partial(self._step, number),
                [column["slider"], self.outcomes, self.bell],
                column["step"],
                trigger_mode="always_last",
                queue=False,
                **quiet,
            )

    def _all(self) -> list[Any]:
        """Return all components of the columns, in the order of `_blank` and `_filled`."""
        return [part for column in self.columns for part in column.values()]

    def _blank_step(self) -> str:
        return step_view(Outcome(), 1, "The steps will appear here")

    def _blank(self) -> list[Any]:
        hidden = self.gr.update(value=None, visible="hidden")
        slider = self.gr.update(visible="hidden", value=1, maximum=2)
        return [slider, self._blank_step(), said_view(""), "", hidden, hidden] * len(self.columns)

    def _filled(self, number: int, outcome: Outcome, *, moved: bool) -> list[Any]:
        """Return the values of one column. `moved` is true if it has a new step or has ended."""
        gr, count, thought = self.gr, len(outcome.steps), outcome.thought
        files: list[Any] = [gr.skip(), gr.skip()]
        if outcome.state == "writing":
            files = [gr.update(visible="hidden")] * 2
        elif outcome.folder is not None and not outcome.error:
            asker = self.desk.askers[number]
            files = [gr.update(value=str(asker.file(outcome, ending)), visible=True) for ending in ("html", "png")]
        slider = gr.update(maximum=max(2, count), value=max(1, count), visible=count > 1 or "hidden")
        raw = "" if thought is None else thought.reply or thought.text
        drawn = [slider, step_view(outcome, count)] if moved else [gr.skip(), gr.skip()]
        return [*drawn, answer_view(outcome), raw, *files]

    def _listed(self, found: Sequence[int], position: int) -> list[tuple[str, int]]:
        """Return the part of the found questions around a position, as choices."""
        first = position // _LISTED * _LISTED
        return [(self.desk.label(index), index) for index in found[first : first + _LISTED]]

    def _count(self, found: Sequence[int], position: int | None = None) -> str:
        total = len(self.desk.questions)
        if len(found) == total:
            many = f"{total} question{'' if total == 1 else 's'}"
        else:
            many = f"{len(found)} matching question{'' if len(found) == 1 else 's'} ({total} in total)"
        return many if position is None else f"{position + 1} of {many}"

    def _list_at(self, found: Sequence[int], chosen: int | None) -> Any:
        position = found.index(chosen) if chosen in found else None
        label, value = self._count(found, position), None if position is None else chosen
        return self.gr.update(choices=self._listed(found, position or 0), label=label, value=value)

    def _search(self, words: str | None, chosen: int | None) -> Any:
        return self._list_at(self.desk.find(words), chosen)

    def _pick(self, index: int, words: str | None) -> list[Any]:
        found = self.desk.find(words)
        return [index, None, None, self.desk.text(index), self._list_at(found, index), *self._blank(), []]

    def _move(self, by: int, words: str | None, chosen: int | None) -> list[Any]:
        found = self.desk.find(words)
        if not found:
            return [self.gr.skip()] * (6 + len(self._all()))
        if chosen in found:
            place = min(max(found.index(chosen) + by, 0), len(found) - 1)
        else:
            place = 0 if by > 0 else len(found) - 1
        return self._pick(found[place], words)

    def _sent(self, words: str | None) -> list[Any]:
        return [None, self._list_at(self.desk.find(words), None), *self._blank(), []]

    def _look(self, photo: str | None, depth: str | None, *told: Any) -> tuple[str, str]:
        *reading, chosen, bell = told
        if photo is None and chosen is None:
            return photo_view(None), said_view("")
        try:
            image = self.desk.image(photo, chosen)
        except SIFError as error:
            return photo_view(None), said_view(self.desk.sentence(error), fault=True)
        said, found, about = "", None, ""
        hint, bell.early = "The image has been uploaded. Press Ask" if bell.early else "", False
        try:
            found, about = self.desk.known_depth(image, depth, chosen, _depth_files(*reading))
        except SIFError as error:
            said, about = self.desk.sentence(error), "the depth cannot be read"
        size = f"{image.width} × {image.height}, {about}"
        return photo_view(Photo.of(image, found, len(self.columns), size)), said_view(said or hint, fault=bool(said))

    def _ask(
        self,
        photo: str | None,
        depth: str | None,
        encoding: Any,
        near: Any,
        holes: str | None,
        use_depth: bool,
        text: str | None,
        listed: int | None,
        chosen: int | None,
        before: list[Outcome],
        bell: Bell,
    ) -> Iterator[list[Any]]:
        gr, desk = self.gr, self.desk
        _forget(before)
        bell.rung = False
        bell.looked.clear()
        hidden, shown_stop = gr.update(visible="hidden"), gr.update(visible=True)
        still = [gr.skip()] * len(self._all())
        if listed is not None and listed != chosen:
            # The row was clicked, but the page has not received its content yet.
            photo, depth, text, chosen = None, None, desk.text(listed), listed
        elif photo is not None:
            chosen = None  # `_sent` will clear it too
        bell.early = photo is None and chosen is None
        try:
            image = desk.image(photo, chosen)
            if not text or not text.strip():
                raise ConfigError("Write a question about the image first")
        except SIFError as error:
            yield [said_view(desk.sentence(error), fault=True), hidden, [], *self._blank()]
            return
        yield [said_view("Reading the image …"), shown_stop, [], *self._blank()]
        with self.line.place() as ticket:
            told = 0
            while (ahead := self.line.ahead(ticket, _GLANCE_S)) and not bell.rung:
                # Yields each time, so a waiting session never blocks a server thread for long.
                said = said_view(f"Waiting: {ahead} ahead of you") if ahead != told else gr.skip()
                told = ahead
                yield [said, gr.skip(), gr.skip(), *still]
            if bell.rung:
                yield [said_view("Stopped"), hidden, [], *still]
                return
            yield from self._asked(image, text, depth, (encoding, near, holes) if use_depth else None, chosen, bell)

    def _asked(
        self,
        image: Image.Image,
        text: str,
        depth: str | None,
        reading: tuple[Any, Any, str | None] | None,
        chosen: int | None,
        bell: Bell,
    ) -> Iterator[list[Any]]:
        """Yield the updates of `_ask` once it is its turn. `reading` is how to read a depth file; None for no depth."""
        gr, desk = self.gr, self.desk
        hidden = gr.update(visible="hidden")
        found: DepthMap | None = None
        about = "without depth"
        try:
            if reading is not None:
                found, about = desk.all_depth(image, depth, chosen, _depth_files(*reading))
        except SIFError as error:
            yield [said_view(desk.sentence(error), fault=True), hidden, [], *self._blank()]
            return
        # An edited question is another question, and the dataset has no answer for it.
        question = desk.questions[chosen] if chosen is not None and text == desk.text(chosen) else None
        outcomes = [Outcome() for _ in desk.askers]
        shown = Photo.of(image, found, 0, about)
        for number, asker in enumerate(desk.askers):
            if bell.rung:
                break
            seen, drawn_s = -1, 0.0
            drawn: Any = None
            photographed = replace(shown, number=number)
            for outcome in desk.ask(asker, image, photographed, text, found, question, bell):
                count, now = len(outcome.steps), time.monotonic()
                moved = count != seen or outcome.state != "writing"
                grown = (outcome.steps[-1:], outcome.growing_words)
                # Redraws a growing step, but not while the user looks at another step.
                if not moved and grown != drawn and now - drawn_s > _REDRAW_S:
                    moved = bell.looked.get(number, count) == count
                if moved:
                    drawn, drawn_s = grown, now
                if count != seen:
                    bell.looked.pop(number, None)
                seen = count
                outcomes = [*outcomes[:number], outcome, *outcomes[number + 1 :]]
                column = self._filled(number, outcome, moved=moved)
                still = [gr.skip()] * len(column)
                columns = [column if other == number else still for other in range(len(desk.askers))]
                # After Stop, the status line stays.
                said = gr.skip() if bell.rung else said_view(f"Asking {asker.name} {about}")
                yield [said, gr.update(visible=True), outcomes, *(part for parts in columns for part in parts)]
        failed = [asker.name for asker, outcome in zip(desk.askers, outcomes, strict=True) if outcome.error]
        end = "Stopped" if bell.rung else f"Asked {about}"
        if failed and not bell.rung:
            end = f"{' and '.join(dict.fromkeys(failed))} could not be asked"
        yield [said_view(end), hidden, outcomes, *([gr.skip()] * len(self._all()))]

    def _stop(self, bell: Bell) -> str:
        bell.rung = True
        return said_view("Stopping …")

    def _step(self, number: int, step: float, outcomes: list[Outcome], bell: Bell) -> Any:
        bell.looked[number] = int(step)
        return step_view(outcomes[number], int(step)) if number < len(outcomes) else self.gr.skip()


def _depth_files(encoding: Any, near: Any, holes: str | None) -> DepthFiles:
    """Return how to read a depth file according to the page's fields.

    Raises:
        ConfigError: `holes` are not numbers.
    """
    parts = (holes or "").replace(",", " ").replace(";", " ").split()
    return DepthFiles.from_values(
        {"depth_encoding": encoding, "depth_near": near or None, "depth_hole": parts}, where="the depth file"
    )


def _in_fields(text: str) -> str:
    """Replace options of the command line in a message about a depth file by the page's fields."""
    found = text
    for pattern, words in _FIELDS:
        found = re.sub(pattern, lambda match, words=words: words.format(*filter(None, match.groups())), found)  # type: ignore[misc]
    return found if found == text else f"{found}. See “How the depth file is read”"


@contextmanager
def serving(
    settings: AppSettings, askers: Sequence[Asker], *, questions: Sequence[Question] = (), depth: ModelDepth | None = None
) -> Iterator[str]:
    """Serve the page while the block runs, and yield its address.

    Uploaded and saved files are in a temporary folder that is deleted at the end. Data are sent only to the models' servers,
    and the page loads nothing from the internet.

    Args:
        settings: address, port and limits.
        askers: one model, or two to compare.
        questions: questions to browse.
        depth: a depth model.
    Raises:
        MissingExtraError: Gradio is not installed.
        ConfigError: the server cannot listen on the address.
    """
    need("the app", "gradio")
    with tempfile.TemporaryDirectory(prefix="sif-app-", ignore_cleanup_errors=True) as folder:
        root = Path(folder).resolve()
        # Gradio sends a request to its own server to check it, which must not go through a proxy.
        near = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), *_LOOPBACK, settings.host)))
        told = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(root), "HF_HUB_DISABLE_TELEMETRY": "1"}
        with _environment(**told, no_proxy=near, NO_PROXY=near):
            page = _Page(Desk(settings, askers, questions, depth, root)).blocks
            url = _launch(page, settings)
            try:
                yield url
            finally:
                page.close(verbose=False)


def _launch(page: gradio.Blocks, settings: AppSettings) -> str:
    import gradio as gr
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, url, _ = page.launch(
            server_name=settings.host,
            server_port=settings.port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            show_error=False,
            footer_links=[],
            run_history=False,  # questions stay out of the browser's storage
            allowed_paths=[],
            app_kwargs={"middleware": [Middleware(_NothingFetched)]},
            max_file_size=settings.max_upload << 20,
            state_session_capacity=_SESSIONS,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            theme=gr.themes.Default(primary_hue="blue", **fonts),
            css=render_page("app.css"),
        )
    except OSError:
        why = _refusal(settings.host, settings.port)
        raise ConfigError(
            f"cannot listen on {settings.host}, port {settings.port}: {why}; choose another --port or --host"
        ) from None
    return str(url)


def _refusal(host: str, port: int) -> str:
    """Return the system's reason why an address cannot be used. Gradio's message refers to options of its own."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return "the server did not start"
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
