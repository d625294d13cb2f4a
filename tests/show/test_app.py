"""The page that asks, opened in a browser and clicked through; its models answer on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import httpx2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.ask_settings import NO_KEY, AppSettings
from sifthinker.cli.main import main
from sifthinker.depth import DepthMap
from sifthinker.engine.estimators import ModelDepth
from sifthinker.errors import ConfigError
from sifthinker.evaluation.questions import Question, read_questions
from sifthinker.files import write_jsonl
from sifthinker.images import load_image
from sifthinker.served import open_thinker
from sifthinker.show.app import Asker, Desk, Outcome, Photo, answer_view, serving, step_view
from sifthinker.thinker import Thinker, Thought

from ..stand_in import event, serve, told

pytest.importorskip("gradio")
# Of Gradio's own queue, about what pandas 4 will do.
pytestmark = pytest.mark.filterwarnings("ignore:.*no_silent_downcasting", "ignore:The copy keyword")

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
# What Gradio's component for HTML would run, were it to take a value for a template.
EVIL_TEMPLATE = "${document.title='owned'} {{value}} \\` `"
STEPS = [
    {"regions": [{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.5}], "text": "I look at the whole photo."},
    {
        "regions": [{"bbox_2d": [0.0, 0.0, 0.5, 1.0], "depth": 0.23}, {"bbox_2d": [0.5, 0.0, 1.0, 1.0], "depth": 0.9}],
        "text": "I compare its halves.",
    },
    {"regions": [{"bbox_2d": [0.25, 0.25, 0.75, 0.75], "depth": 0.45}], "text": "I end in the middle."},
]


def reply(answer: str = "a ramp", steps: Sequence[dict[str, Any]] = STEPS) -> str:
    return json.dumps({"steps": list(steps), "answer": answer})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def app(
    answer: Callable[[dict[str, Any], int], Any],
    *,
    questions: Sequence[Question] = (),
    estimator: ModelDepth | None = None,
    **given: Any,
) -> Iterator[SimpleNamespace]:
    """The page before a stand-in server that answers by `answer`: `url`, and the `requests` so far."""
    with serve(answer) as (url, requests):
        about = {"model": "owner/eyes", "base_url": url, "protocol": "structured", "coordinates": "unit", "retries": 0}
        settings = AppSettings(**{**about, "port": free_port(), **given})
        asked = [settings, *([settings.second] if settings.compare else [])]
        askers = [Asker(open_thinker(one), one) for one in asked]
        with serving(settings, askers, questions=questions, depth=estimator) as address:
            yield SimpleNamespace(url=address, requests=requests, settings=settings)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when a script does, or when anything is fetched from elsewhere than this machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    faults: list[str] = []
    fetched: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: fetched.append(request.url))
    yield opened
    title = opened.title()
    context.close()
    assert faults == []
    assert [url for url in fetched if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert len(fetched) > 10  # the page and its parts: they were watched
    assert title == "SIFThinker"


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No connection of ours leaves the machine either."""
    left: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            left.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    yield
    assert left == []


@pytest.fixture
def ramp_photo(tmp_path: Path) -> tuple[Path, Path]:
    """A photograph, 40 by 20, and its depth: 0 in the left column to 0.975 in the right, in steps of a fortieth."""
    image, depth = tmp_path / "ramp.png", tmp_path / "far.npy"
    Image.new("RGB", (40, 20), (200, 120, 40)).save(image)
    np.save(depth, np.tile(np.arange(40) / 40, (20, 1)).astype(np.float32))
    return image, depth


def send(page: Any, photo: Path, depth: Path | None = None) -> None:
    page.set_input_files("#photo-file input[type=file]", photo)
    page.wait_for_selector("#photo svg[aria-label=rgb]")
    if depth is not None:
        page.set_input_files("#depth-file input[type=file]", depth)
        page.wait_for_selector("#photo svg[aria-label=depth]")


def ask(page: Any, question: str | None = None) -> None:
    if question is not None:
        page.fill("#question textarea", question)
    page.click("#ask")


def go_to(page: Any, step: int, column: int = 0) -> None:
    """Move a slider with the keyboard."""
    page.locator(f"#slider-{column} input[type=range]").focus()
    page.keyboard.press("Home")
    for _ in range(step - 1):
        page.keyboard.press("ArrowRight")


def said(page: Any, words: str, place: str = "#said") -> None:
    page.locator(place, has_text=words).wait_for()


def test_steps_appear_as_they_are_written_and_are_stepped_through(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    go_on = threading.Event()

    def answer(request: dict[str, Any], number: int) -> Iterator[str]:
        whole = reply()
        cut = whole.index("I compare")
        yield whole[: cut // 2]
        yield whole[cut // 2 : cut]
        assert go_on.wait(30)
        for start in range(cut, len(whole), 40):
            yield whole[start : start + 40]

    with app(lambda request, number: told(answer(request, number))) as served:
        page.goto(served.url)
        send(page, *ramp_photo)
        said(page, "40 × 20, with depth from far.npy", "#photo")
        ask(page, "What rises here?")
        # The second step is not whole yet: the first is shown, and the model still writes.
        said(page, "Step 1 of 1 so far", "#step-0")
        said(page, "I look at the whole photo.", "#step-0")
        said(page, "1 step so far", "#answer-0")
        assert page.locator("#slider-0").is_hidden()
        go_on.set()
        said(page, "a ramp", "#answer-0")
        said(page, "Step 3 of 3", "#step-0")  # each new step moved it on
        said(page, "I end in the middle.", "#step-0")
        go_to(page, 2)
        said(page, "I compare its halves.", "#step-0")
        # Two boxes over each picture, where the reply says, to a pixel of the screen.
        for name in ("rgb", "depth"):
            picture = page.locator(f"#step-0 svg[aria-label={name}]")
            assert picture.locator("rect").count() == 2
            frame, box = picture.bounding_box(), picture.locator("rect").nth(1).bounding_box()
            assert box["x"] - frame["x"] == pytest.approx(frame["width"] / 2, abs=4)
        # The halves' true depths are the means of 0 … 19 and 20 … 39 fortieths: 9.5 / 40 = 0.2375 and 29.5 / 40 = 0.7375.
        # 0.23 is within a tenth of the first, 0.9 is not of the second.
        rows = page.locator("#step-0 table.regions tbody tr")
        cells = [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows.all()]
        assert cells == [
            ["1", "0.00, 0.00, 0.50, 1.00", "0.23", "0.24 ✓"],
            ["2", "0.50, 0.00, 1.00, 1.00", "0.90", "0.74 ✗"],
        ]
        go_to(page, 1)
        said(page, "I look at the whole photo.", "#step-0")
        # The raw text is what the model wrote.
        page.click("#raw-0 button")
        assert page.locator("#raw-0 textarea").input_value() == reply()
    (request,) = served.requests
    content = request["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert "What rises here?" in content[2]["text"]


CHAIN = '<think><area>[{"bbox_2d":[0.0,0.0,0.5,1.0]}]</area><text>I look at the left'


def test_stop_ends_a_request_whose_server_is_silent(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    """It writes half a step and hangs; its time-out is minutes. The words so far are shown; after Stop it is asked again."""
    over, left = threading.Event(), threading.Event()

    def hangs() -> Iterator[str]:
        try:
            yield event(CHAIN)
            while not over.wait(0.2):
                yield ": a comment\n\n"  # says nothing; it cannot be written once the client has gone
        finally:
            left.set()

    def answer(request: dict[str, Any], number: int) -> Any:
        return hangs() if number == 0 else told([CHAIN + "</text></think><answer>a slope</answer>"])

    with app(answer, protocol="chain", retries=3, timeout_s=600) as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        ask(page, "What rises here?")
        said(page, "I look at the left", "#step-0")
        assert "(no text)" not in page.locator("#step-0").inner_text()
        said(page, "no new text for", "#answer-0")
        started = time.monotonic()
        page.click("#stop")
        said(page, "Stopped before the answer was complete.", "#answer-0")
        page.locator("#stop").wait_for(state="hidden")
        assert time.monotonic() - started < 15
        assert left.wait(15)  # the connection is closed
        ask(page)
        said(page, "a slope", "#answer-0")
        over.set()
        assert len(served.requests) == 2


def test_stop_ends_the_wait_before_another_try(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    """A server that asks to be left alone for ten minutes is left alone, and so is the visitor."""
    with app(lambda request, number: (503, {"Retry-After": "600"}, "{}"), retries=3) as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        ask(page, "What rises here?")
        said(page, "request repeated", "#answer-0")
        page.click("#stop")
        said(page, "Stopped before the answer was complete.", "#answer-0")
        page.locator("#stop").wait_for(state="hidden")
        assert len(served.requests) == 1


def test_a_page_that_is_closed_ends_its_request(browser: Any, ramp_photo: tuple[Path, Path]) -> None:
    """The server keeps the connection and says nothing."""
    over, left = threading.Event(), threading.Event()

    def hangs() -> Iterator[str]:
        try:
            while not over.wait(0.2):
                yield ": a comment\n\n"  # cannot be written once the client has gone
        finally:
            left.set()

    with app(lambda request, number: hangs(), timeout_s=600) as served:
        context = browser.new_context()
        visitor = context.new_page()
        visitor.goto(served.url)
        send(visitor, ramp_photo[0])
        ask(visitor, "What is it?")
        said(visitor, "Asking owner/eyes")
        context.close()
        ended = left.wait(30)
        over.set()
    assert ended


def test_who_waits_for_others_is_told_and_can_stop(browser: Any, page: Any, ramp_photo: tuple[Path, Path]) -> None:
    go_on = threading.Event()

    def answer(request: dict[str, Any], number: int) -> str:
        assert go_on.wait(60)
        return reply()

    with app(answer, concurrency=1) as served:
        context = browser.new_context()
        other = context.new_page()
        for visitor in (page, other):
            visitor.goto(served.url)
            send(visitor, ramp_photo[0])
        ask(page, "What is it?")
        said(page, "Asking owner/eyes")
        ask(other, "What is it?")
        said(other, "Waiting: 1 ahead of you")
        other.click("#stop")
        said(other, "Stopped")
        other.locator("#stop").wait_for(state="hidden")
        ask(other)
        said(other, "Waiting: 1 ahead of you")
        go_on.set()
        for visitor in (page, other):
            said(visitor, "a ramp", "#answer-0")
        context.close()
    assert len(served.requests) == 2


def test_words_are_drawn_as_they_grow_but_not_over_another_step(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    go_on = threading.Event()
    first = CHAIN + " half.</text>"

    def answer() -> Iterator[str]:
        yield event(first + '<area>[{"bbox_2d":[0.5,0.0,1.0,1.0]}]</area>')
        yield event("<text>Then at")
        assert go_on.wait(60)
        for word in (" the", " right", " half"):
            time.sleep(1.2)
            yield event(word)
        yield event(".</text></think><answer>a slope</answer>")
        yield event(finish="stop")

    with app(lambda request, number: answer(), protocol="chain") as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        ask(page, "What rises here?")
        said(page, "Then at", "#step-0")
        go_to(page, 1)
        said(page, "I look at the left half.", "#step-0")
        go_on.set()
        time.sleep(2.5)
        assert "I look at the left half." in page.locator("#step-0").inner_text()
        said(page, "Then at the right half.", "#step-0")  # the end moves it on


def test_a_step_without_words_yet_is_being_written() -> None:
    image = Image.new("RGB", (10, 10))
    area = CHAIN.partition("<text>")[0]
    views = []
    for text in (area, f"{area}<text>", f"{area}<text>I look</te"):
        thought = Thought("What?", image, None, text, protocol="chain", complete=False)
        views.append(step_view(Outcome(Photo.of(image, None, 0, ""), thought), 1))
    shown = [re.findall(r'<div class="words">(.*?)</div>', view) for view in views]
    assert shown == [["…"], ["…"], ["I look"]]


def test_without_depth_one_picture_is_shown_and_asked_about(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    with app(lambda request, number: reply()) as served:
        page.goto(served.url)
        send(page, *ramp_photo)
        page.uncheck("#use-depth input")
        ask(page, "What is it?")
        said(page, "a ramp", "#answer-0")
        said(page, "Asked without depth")
        assert page.locator("#step-0 svg[aria-label=rgb]").count() == 1
        assert page.locator("#step-0 svg[aria-label=depth]").count() == 0
    assert [part["type"] for part in served.requests[0]["messages"][0]["content"]] == ["image_url", "text"]


def test_depth_is_estimated_where_no_file_gives_it(
    page: Any, ramp_photo: tuple[Path, Path], depth_model: Path, chains: Path
) -> None:
    estimator = ModelDepth(str(depth_model))
    answers = {"questions": read_questions(chains), "data": str(chains), "estimator": estimator}
    with app(lambda request, number: reply(), **answers) as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        said(page, f"40 × 20, depth will be estimated by {depth_model}", "#photo")
        ask(page, "What rises here?")
        said(page, f"Asked with depth estimated by {depth_model}")
        said(page, "Step 3 of 3", "#step-0")
        assert page.locator("#step-0 svg[aria-label=depth]").count() == 1
        # The measured depths are those of the estimate.
        (left, right) = estimator.estimate(load_image(ramp_photo[0])).mean([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
        go_to(page, 2)
        said(page, "I compare its halves.", "#step-0")
        shown = page.locator("#step-0 table.regions td:last-child").all_inner_texts()
        assert [cell.split()[0] for cell in shown] == [f"{left:.2f}", f"{right:.2f}"]
        # A file comes before the model, and so does the dataset.
        page.set_input_files("#depth-file input[type=file]", ramp_photo[1])
        said(page, "with depth from far.npy", "#photo")
        page.locator("#questions label").first.click()
        said(page, "with the dataset's depth", "#photo")


def test_how_a_depth_file_is_read_is_chosen_on_the_page(page: Any, ramp_photo: tuple[Path, Path], tmp_path: Path) -> None:
    """Grey of 8 bits does not say which end is near: the page does. 51 / 255 = 0.2 from the near end."""
    grey = tmp_path / "grey.png"
    Image.new("L", (40, 20), 51).save(grey)
    with app(lambda request, number: reply()) as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        said(page, "40 × 20, without depth", "#photo")
        page.set_input_files("#depth-file input[type=file]", grey)
        said(page, "Set “Near pixels have: low numbers” for depth, or “Near pixels have: high numbers” for disparity")
        assert "--depth" not in page.locator("body").inner_text()
        page.get_by_role("button", name="How the depth file is read").click()
        page.get_by_label("low numbers").check()
        said(page, "with depth from grey.png", "#photo")
        page.get_by_label("no reading").fill("fifty")
        page.get_by_label("no reading").press("Enter")
        said(page, "fifty")
        page.get_by_label("no reading").fill("")
        page.get_by_label("no reading").press("Enter")
        said(page, "with depth from grey.png", "#photo")
        ask(page, "What is it?")
        said(page, "a ramp", "#answer-0")
        go_to(page, 1)
        said(page, "Step 1 of 3", "#step-0")
        assert page.locator("#step-0 table.regions td:last-child").inner_text().strip() == "0.20 ✗"


def test_two_visitors_see_their_own(browser: Any, page: Any, ramp_photo: tuple[Path, Path]) -> None:
    answers = iter([reply("the first"), reply("the second", STEPS[:2])])
    with app(lambda request, number: next(answers)) as served:
        context = browser.new_context()
        other = context.new_page()
        for visitor, answer in ((page, "the first"), (other, "the second")):
            visitor.goto(served.url)
            send(visitor, ramp_photo[0])
            ask(visitor, "What is it?")
            said(visitor, answer, "#answer-0")
        go_to(page, 3)
        said(page, "Step 3 of 3", "#step-0")
        go_to(other, 1)
        said(other, "Step 1 of 2", "#step-0")
        said(page, "the first", "#answer-0")
        context.close()


def test_faults_are_sentences_and_the_page_goes_on(page: Any, ramp_photo: tuple[Path, Path], tmp_path: Path) -> None:
    photo, _ = ramp_photo
    (tmp_path / "bad.png").write_text("no image")
    np.save(tmp_path / "small.npy", np.zeros((3, 4), dtype=np.float32))
    statuses = iter([(401, {}, json.dumps({"error": {"message": f"no key {EVIL}"}})), reply()])
    with app(lambda request, number: next(statuses)) as served:
        page.goto(served.url)
        ask(page)
        said(page, "Choose an image first")
        page.set_input_files("#photo-file input[type=file]", tmp_path / "bad.png")
        said(page, "bad.png: cannot read the image")
        assert page.locator("#said p").inner_text().startswith("bad.png: ")  # and not where it was put
        ask(page)
        said(page, "bad.png: cannot read the image")
        page.click("#photo-file button[aria-label='Remove this file'], #photo-file button[aria-label='Clear']")
        said(page, "No image yet", "#photo")
        ask(page)
        said(page, "Choose an image first")
        send(page, photo)
        said(page, "The image has been uploaded. Press Ask")  # it may have been under way when Ask was pressed
        page.set_input_files("#depth-file input[type=file]", tmp_path / "small.npy")
        said(
            page,
            "small.npy: the depth file must have the size of its image, 40×20, got 4×3. Make the depth at the image's size",
        )
        assert page.locator("#said p").inner_text().startswith("small.npy: ")
        ask(page, "What is it?")
        said(page, "the depth file must have the size of its image, ")
        page.click("#depth-file button[aria-label='Remove this file'], #depth-file button[aria-label='Clear']")
        said(page, "40 × 20, without depth", "#photo")
        ask(page, "")
        said(page, "Write a question about the image first")
        assert served.requests == []
        ask(page, "What is it?")
        said(page, "no key <script>", "#answer-0")  # as it stands, by the server
        said(page, "owner/eyes", "#answer-0")
        said(page, "owner/eyes could not be asked")
        assert "Asked" not in page.locator("#said").inner_text()
        ask(page)
        said(page, "a ramp", "#answer-0")
        shown = page.locator("body").inner_text()
    assert tempfile.gettempdir() not in shown


def test_hostile_text_is_shown_not_run(page: Any, ramp_photo: tuple[Path, Path], tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copy(ramp_photo[0], named)
    hostile = f"{EVIL} {EVIL_TEMPLATE}"
    step = {"regions": [{"bbox_2d": [0.1, 0.1, 0.5, 0.5]}], "text": f"words {hostile}"}
    row = {"image": named.name, "question": f"asked {hostile}", "answer": hostile, "id": EVIL, "family": EVIL}
    write_jsonl(tmp_path / "questions.jsonl", [row])
    questions = read_questions(tmp_path / "questions.jsonl")
    asked = {"model": f"owner/{EVIL}", "questions": questions, "data": EVIL}
    with app(lambda request, number: reply(f"so {hostile}", [step, step]), **asked) as served:
        page.goto(served.url)
        page.locator("#questions label").first.click()
        said(page, "40 × 20", "#photo")
        assert page.locator("#question textarea").input_value() == f"asked {hostile}"
        ask(page)
        said(page, "so <script>", "#answer-0")
        assert f"so {hostile}" in page.locator("#answer-0").inner_text()
        assert f"words {hostile}" in page.locator("#step-0").inner_text()
        assert page.locator("script", has_text="owned").count() == 0
        assert page.locator("img[src=x]").count() == 0
        go_to(page, 1)
        said(page, "Step 1 of 2", "#step-0")
        with page.expect_download() as loading:
            page.click("#page-0")
        loading.value.save_as(tmp_path / "saved.html")
    assert "<script>" not in (tmp_path / "saved.html").read_text()


def test_a_thought_is_saved_as_page_and_as_picture(page: Any, ramp_photo: tuple[Path, Path], tmp_path: Path) -> None:
    with app(lambda request, number: reply()) as served:
        page.goto(served.url)
        send(page, *ramp_photo)
        ask(page, "What rises here?")
        for button, ending in (("#page-0", "html"), ("#png-0", "png")):
            with page.expect_download() as loading:
                page.click(button)
            assert loading.value.suggested_filename == f"eyes.thought.{ending}"
            loading.value.save_as(tmp_path / f"saved.{ending}")
    text = (tmp_path / "saved.html").read_text()
    assert "What rises here?" in text
    assert "model owner/eyes" in text
    assert text.count('<div class="step">') == 3
    with Image.open(tmp_path / "saved.png") as picture:
        # Three columns of 220 pixels with gaps of 14 around.
        assert picture.size[0] == 14 + 3 * (220 + 14)


def test_two_models_are_shown_side_by_side(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        if request["model"] == "owner/second":
            return reply("a slope", STEPS[:2])
        return reply()

    with app(answer, compare="owner/second") as served:
        page.goto(served.url)
        send(page, *ramp_photo)
        ask(page, "What rises here?")
        said(page, "a ramp", "#answer-0")
        said(page, "a slope", "#answer-1")
        said(page, "Step 3 of 3", "#step-0")
        said(page, "Step 2 of 2", "#step-1")
        for number in (0, 1):
            page.locator(f"#slider-{number}").wait_for()
        first, second = (page.locator(f"#step-{number}").bounding_box() for number in (0, 1))
        assert first["y"] == second["y"]
        assert first["x"] + first["width"] <= second["x"]
        # Each has its own slider.
        go_to(page, 1, column=1)
        said(page, "Step 1 of 2", "#step-1")
        assert "Step 3 of 3" in page.locator("#step-0").inner_text()
    assert sorted(request["model"] for request in served.requests) == ["owner/eyes", "owner/second"]


def test_a_model_that_fails_does_not_keep_the_other_from_answering(page: Any, ramp_photo: tuple[Path, Path]) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        return (400, {}, "{}") if request["model"] == "owner/eyes" else reply("a slope")

    with app(answer, compare="owner/second") as served:
        page.goto(served.url)
        send(page, ramp_photo[0])
        ask(page, "What rises here?")
        said(page, "a slope", "#answer-1")
        said(page, "400", "#answer-0")
        said(page, "owner/eyes could not be asked")


def test_questions_of_a_dataset_are_browsed_asked_and_judged(page: Any, chains: Path) -> None:
    questions = read_questions(chains)
    first = questions[0]
    answers = iter([first.answers[0], "nothing of the kind", first.answers[0]])
    with app(lambda request, number: reply(next(answers)), questions=questions, data=str(chains)) as served:
        page.goto(served.url)
        listed = page.locator("#questions label")
        listed.first.wait_for()
        assert listed.count() == 5  # never all of the 18
        listed.first.click()
        said(page, "64 × 64, with the dataset's depth", "#photo")
        assert page.locator("#question textarea").input_value() == first.question
        ask(page)
        said(page, f"Correct. Right answer: {first.answers[0]}", "#answer-0")
        # The target boxes are dashed, over both pictures.
        for name in ("rgb", "depth"):
            dashed = page.locator(f"#step-0 svg[aria-label={name}] rect[stroke-dasharray]")
            assert dashed.count() == len(first.boxes)
        said(page, "final HIoU", "#answer-0")
        ask(page)
        said(page, "Wrong. Right answer", "#answer-0")
        # Other words are another question: nobody knows its answer.
        ask(page, "What colour is the wall?")
        page.locator("#answer-0 .answer:not(.wrong)").wait_for()
        assert "Right answer" not in page.locator("#answer-0").inner_text()
        page.click("#next")
        said(page, "2 of 18 questions", "#questions")
        assert page.locator("#question textarea").input_value() == questions[1].question
        assert page.locator("#answer-0 .answer").count() == 0  # what was said was about another photograph
        for place in (3, 4, 5, 6):
            page.click("#next")
            said(page, f"{place} of 18 questions", "#questions")
        page.click("#previous")
        said(page, "5 of 18 questions", "#questions")
        page.get_by_label("Search").fill("how MANY")
        said(page, "6 matching questions (18 in total)", "#questions")
        page.get_by_label("Search").fill("no such words")
        said(page, "0 matching questions (18 in total)", "#questions")
        assert page.locator("#questions input").count() == 0


@pytest.mark.parametrize("by_key", [False, True])
def test_a_question_that_is_chosen_and_asked_at_once_is_asked(
    page: Any, chains: Path, monkeypatch: pytest.MonkeyPatch, by_key: bool
) -> None:
    """It takes a second to come to the page. Until then the button says so, and the keyboard asks what was chosen."""
    questions = read_questions(chains)
    text = Desk.text

    def slow(self: Desk, index: int) -> str:
        time.sleep(1)
        return text(self, index)

    monkeypatch.setattr(Desk, "text", slow)
    with app(lambda request, number: reply(), questions=questions, data=str(chains)) as served:
        page.goto(served.url)
        page.locator("#questions label").nth(1).click()
        if by_key:
            page.locator("#question textarea").press("Shift+Enter")
        else:
            page.evaluate("() => document.querySelector('#ask').click()")
            said(page, "Loading …", "#ask")
            ask(page)
        said(page, "Right answer", "#answer-0")
        assert page.locator("#question textarea").input_value() == questions[1].question
    (request,) = served.requests
    assert questions[1].question in request["messages"][0]["content"][-1]["text"]


def test_a_photograph_that_is_sent_takes_the_place_of_the_datasets(
    page: Any, chains: Path, ramp_photo: tuple[Path, Path]
) -> None:
    with app(lambda request, number: reply(), questions=read_questions(chains), data=str(chains)) as served:
        page.goto(served.url)
        page.locator("#questions label").first.click()
        said(page, "64 × 64", "#photo")
        send(page, ramp_photo[0])
        said(page, "40 × 20, without depth", "#photo")
        ask(page)
        said(page, "a ramp", "#answer-0")
        assert "Right answer" not in page.locator("#answer-0").inner_text()
        assert page.locator("#step-0 rect[stroke-dasharray]").count() == 0


def test_a_model_of_this_process_answers_and_is_stopped(
    page: Any, tiny_vlm: Path, ramp_photo: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model writes noise until its tokens end, which the page says; asked for thousands it is stopped."""
    settings = AppSettings(model=str(tiny_vlm), port=free_port())
    thinker = Thinker.load(tiny_vlm, device="cpu", max_new_tokens=8)
    with serving(settings, [Asker(thinker, settings)]) as url:
        page.goto(url)
        send(page, *ramp_photo)
        ask(page, "Why?")
        said(page, "The model reached the token limit", "#answer-0")
        said(page, "8 written", "#answer-0")
        thinker.max_new_tokens = 1800
        ask(page)
        page.click("#stop")
        said(page, "Stopped before the answer was complete.", "#answer-0")
        page.locator("#stop").wait_for(state="hidden")
        thinker.max_new_tokens = 4
        ask(page)  # the model is free again
        said(page, "4 written", "#answer-0")


def test_what_is_served_is_bounded(ramp_photo: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing but what was sent and made is read from the disk; uploads have a bound; all is gone in the end."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))  # others may run the app beside this test
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    with app(lambda request, number: reply(), max_upload=1) as served, httpx2.Client(base_url=served.url) as client:
        (folder,) = temporary.glob("sif-app-*")
        for path in ("/etc/passwd", str(tmp_path / "secret.txt"), "secret.txt", f"{folder}/../secret.txt"):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        small = client.post("/gradio_api/upload", files={"files": ("a.png", ramp_photo[0].read_bytes())})
        assert small.status_code == 200
        (stored,) = small.json()
        assert Path(stored).is_relative_to(folder)
        assert client.get(f"/gradio_api/file={stored}").content == ramp_photo[0].read_bytes()
        large = client.post("/gradio_api/upload", files={"files": ("a.png", b"0" * (2**20 + 1))})
        assert large.status_code == 413
        assert client.get("/gradio_api/info").json()["named_endpoints"] == {}
        # Another address of this machine is not listened at.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", served.settings.port))
    assert not folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_nothing_is_fetched_for_a_request(monkeypatch: pytest.MonkeyPatch, ramp_photo: tuple[Path, Path]) -> None:
    """Whoever writes requests by hand names a file of another server: neither it nor a server of names is asked."""
    asked: list[Any] = []
    look_up = socket.getaddrinfo

    def watched(host: Any, *args: Any, **more: Any) -> Any:
        if str(host) not in ("127.0.0.1", "localhost"):
            asked.append(host)
            raise socket.gaierror(f"no {host}")
        return look_up(host, *args, **more)

    with app(lambda request, number: reply()) as served, httpx2.Client(base_url=served.url) as client:
        parts = client.get("/config").json()
        sliders = [part["id"] for part in parts["components"] if part["type"] == "slider"]
        (number,) = [made["id"] for made in parts["dependencies"] if made["inputs"][:1] == sliders]
        monkeypatch.setattr(socket, "getaddrinfo", watched)
        stored = client.post("/gradio_api/upload", files={"files": ("a.png", ramp_photo[0].read_bytes())}).json()[0]
        for path in ("http://example.org/a.png", "https://example.org/a.png"):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for value in (file, [file], {"a": {**file, "url": path}}):
                body = {"data": [value, None, None], "fn_index": number, "session_hash": "s"}
                assert client.post("/gradio_api/run/predict", json=body).status_code == 500
            assert client.get(f"/gradio_api/file={path}").status_code == 403
        assert client.get(f"/gradio_api/file={stored}").status_code == 200
    assert asked == []


def test_it_comes_up_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to this machine do not go through the proxy, of which nobody is there."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    with app(lambda request, number: reply()) as served:
        assert httpx2.get(served.url).status_code == 200
        assert os.environ["no_proxy"].startswith("example.org,")
    assert os.environ["no_proxy"] == "example.org"


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = rf"^cannot listen on 127\.0\.0\.1, port {port}: Address already in use; choose another --port or --host$"
        with pytest.raises(ConfigError, match=wanted), app(lambda request, number: reply(), port=port):
            pass


def test_the_command_serves_until_it_is_interrupted(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    words = ["app", "--model", str(tiny_vlm), "--data", str(chains), "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "sifthinker.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        try:
            assert httpx2.get(url).status_code == 200
            assert list(tmp_path.glob("sif-app-*"))
        finally:
            running.send_signal(signal.SIGTERM)
            _, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stderr
    assert "18 questions" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare-base-url", "http://127.0.0.1:1/v1"], "compare_base_url needs compare"),
        (["--compare-api-key-env", "KEY"], "compare_api_key_env needs compare"),
        (["--model", "a", "--compare", "b", "--compare-api-key-env", "KEY"], "Set compare_base_url"),
        (["--base-url", "http://127.0.0.1:1/v1"], "base_url needs model"),
        (["--model", "m", "--data", "nowhere"], "nowhere: cannot read"),
        (["--model", "m", "--depth", "nowhere", "--base-url", "http://127.0.0.1:1/v1"], "no such depth model"),
        (["--model", "nowhere/"], "nowhere"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["app", *words])
    assert done.exit_code == 2
    assert message in done.stderr.splitlines()[-1]


def test_every_setting_of_the_page_is_an_option() -> None:
    command = main.get_command(click.Context(main), "app")
    assert command is not None
    assert {option.name for option in command.params} >= set(AppSettings.model_fields)


def test_the_second_model_has_the_settings_of_the_first() -> None:
    settings = AppSettings(model="a", base_url="http://127.0.0.1:1/v1", compare="b", max_new_tokens=7, protocol="structured")
    second = settings.second
    assert (second.model, second.base_url, second.max_new_tokens) == ("b", settings.base_url, 7)
    elsewhere = settings.replace(compare_base_url="http://127.0.0.1:2/v1").second
    assert (elsewhere.base_url, elsewhere.compare) == ("http://127.0.0.1:2/v1", None)
    with pytest.raises(ConfigError, match="no second model"):
        AppSettings(model="a").second  # noqa: B018


def test_a_spent_budget_is_an_error_of_the_asking(ramp: DepthMap) -> None:
    """100 tokens read at 5 a million cost 0.0005: the first question is asked, the second is not."""
    image = Image.new("RGB", (10, 10))
    with serve(lambda request, number: reply()) as (url, requests):
        about = {"model": "m", "base_url": url, "protocol": "structured", "coordinates": "unit"}
        settings = AppSettings(**about, prompt_price=5, budget=0.0005)
        asker = Asker(open_thinker(settings), settings)
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(settings, [asker], folder=Path(folder))
            ends = [list(desk.ask(asker, image, None, "What?", ramp, None))[-1] for _ in range(2)]
    assert [end.error for end in ends] == ["", "m has cost 0.0005 of the budget 0.0005; restart with a larger --budget"]
    assert len(requests) == 1


def test_a_budget_is_not_kept_in_silence_where_no_tokens_are_counted() -> None:
    """The first answer says so, and nothing more is spent."""
    image = Image.new("RGB", (10, 10))
    uncounted = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply()}}]})
    with serve(lambda request, number: (200, {"Content-Type": "application/json"}, uncounted)) as (url, requests):
        settings = AppSettings(model="m", base_url=url, protocol="structured", coordinates="unit", prompt_price=5, budget=1)
        asker = Asker(open_thinker(settings), settings)
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(settings, [asker], folder=Path(folder))
            first, second = (list(desk.ask(asker, image, None, "What?", None, None))[-1] for _ in range(2))
    assert (first.error, first.note) == ("", "The server does not report tokens, so --budget cannot be enforced.")
    assert first.note in answer_view(first)
    assert second.error.startswith("m is not asked: the server does not report tokens, so --budget cannot be enforced; ")
    assert len(requests) == 1


def test_regions_without_a_known_depth_have_no_mark() -> None:
    """Where the sensor saw nothing there is no true depth, and a region that states none is not judged."""
    valid = np.ones((10, 10), dtype=bool)
    valid[:, :5] = False
    depth = DepthMap(np.full((10, 10), 0.5), valid)
    text = (
        '<think><area>[{"bbox_2d":[0.0,0.0,0.5,1.0],"depth":0.5},{"bbox_2d":[0.5,0.0,1.0,1.0]},'
        '{"bbox_2d":[0.5,0.0,1.0,0.5],"depth":0.5}]</area><text>So.</text></think><answer>yes</answer>'
    )
    image = Image.new("RGB", (10, 10))
    outcome = Outcome(
        Photo.of(image, depth, 0, ""), Thought("What?", image, depth, text, protocol="structured", reply="{}"), state="done"
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", step_view(outcome, 1))
    assert [cells[row * 4 + 2 : row * 4 + 4] for row in range(3)] == [["0.50", "–"], ["–", "0.50"], ["0.50", "0.50 ✓"]]


def test_the_key_of_one_server_is_not_shown_to_another() -> None:
    asked = AppSettings(
        model="gpt", base_url="https://api.example.com/v1", compare="x", compare_base_url="http://other:8000/v1"
    )
    assert asked.second.server.api_key_env == NO_KEY
    assert asked.replace(compare_api_key_env="OTHER_KEY").second.server.api_key_env == "OTHER_KEY"
    assert asked.replace(compare_base_url=None).second.server.api_key_env == "OPENAI_API_KEY"
    # The second model alone may be on a server.
    only = AppSettings(model="runs/x", compare="m", compare_base_url="http://h/v1", budget=1, prompt_price=1)
    assert only.second.budget == 1
