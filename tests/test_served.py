"""Thinking with a model on a server: what it is sent, and what is made of what it says."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.ask_settings import ThinkSettings
from sifthinker.boxes import smart_resize
from sifthinker.chain import chain_pattern
from sifthinker.coordinates import Frame, Resizer
from sifthinker.depth import DepthMap
from sifthinker.endpoint import Endpoint
from sifthinker.errors import ConfigError, EndpointError, ImageError
from sifthinker.prompts import user_prompt
from sifthinker.served import ServedThinker, open_thinker
from sifthinker.structured import response_format
from sifthinker.thinker import Task
from sifthinker.thinking import think

from .stand_in import DONE, USAGE, event, serve, told

CHAIN = (
    '<think>\n<area>[{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.500}]</area>\n<text>All.</text>\n'
    '<area>[{"bbox_2d":[0.250,0.500,0.750,1.000],"depth":0.250}]</area>\n<text>It is red.</text>\n</think>\n'
    "<answer>\nred\n</answer>"
)
REPLY = '{"steps":[{"regions":[{"bbox_2d":[25,50,75,100],"depth":0.25}],"text":"It is red."}],"answer":"red"}'


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """One in which no two neighbours are alike, so that a resized or blurred copy differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def depth_of(image: Image.Image) -> DepthMap:
    return DepthMap(np.random.default_rng(1).random((image.height, image.width)))


def task(question: str = "Why?", **size: int) -> Task:
    image = picture(**size)
    return image, question, depth_of(image)


def shown(request: dict[str, Any]) -> list[Image.Image]:
    """The pictures of a request, decoded."""
    found = []
    for part in request["messages"][0]["content"]:
        if part["type"] == "image_url":
            head, _, data = part["image_url"]["url"].partition(";base64,")
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            assert head == f"data:image/{str(image.format).lower()}"
            found.append(image)
    return found


def served(url: str, **options: Any) -> ServedThinker:
    return ServedThinker(Endpoint(url, options.pop("model", "vlm"), max_retries=0, backoff_s=0.01), **options)


class TestWhatIsSent:
    @pytest.mark.parametrize("protocol", ["chain", "direct", "structured"])
    @pytest.mark.parametrize("with_depth", [True, False])
    def test_the_image_its_depth_view_and_the_prompt(self, protocol: Any, with_depth: bool) -> None:
        image, question, depth = task()
        with serve(lambda request, _: CHAIN) as (url, requests):
            served(url, max_new_tokens=77).think(image, question, depth if with_depth else None, protocol=protocol)
        (request,) = requests
        wanted = [image, depth.view()] if with_depth and depth is not None else [image]
        pictures = shown(request)
        assert [part.format for part in pictures] == ["PNG"] * len(wanted)
        assert [np.asarray(part).tolist() for part in pictures] == [np.asarray(part).tolist() for part in wanted]
        text = user_prompt(question, with_depth=with_depth, protocol=protocol)
        kinds = [part["type"] for part in request["messages"][0]["content"]]
        assert kinds == ["image_url"] * len(wanted) + ["text"]
        assert request["messages"][0]["content"][-1]["text"] == text
        assert (request["model"], request["temperature"], request["max_tokens"]) == ("vlm", 0, 77)
        form = response_format(with_depth=with_depth) if protocol == "structured" else None
        assert request.get("response_format") == form
        assert "structured_outputs" not in request

    def test_sampling_is_passed_on(self) -> None:
        with serve(lambda request, _: CHAIN) as (url, requests):
            served(url).think(*task(), temperature=0.7, seed=3, max_tokens=9)
        assert (requests[0]["temperature"], requests[0]["seed"], requests[0]["max_tokens"]) == (0.7, 3, 9)

    @pytest.mark.parametrize(("width", "height"), [(40, 30), (57, 200), (28, 28), (300, 100)])
    def test_for_pixels_images_are_sent_as_the_model_would_make_them(self, width: int, height: int) -> None:
        """Qwen2.5-VL's processor leaves such a size as it is, so that the pixels in its words are known."""
        image, question, depth = task(width=width, height=height)
        size = smart_resize((width, height))
        with serve(lambda request, _: CHAIN) as (url, requests):
            thought = served(url).think(image, question, depth, coordinates="resized")
        assert thought.frame == Frame("resized", size)
        assert [part.size for part in shown(requests[0])] == [size, size]
        assert size[0] % 28 == size[1] % 28 == 0
        assert Resizer().size(size) == size
        assert "in whole pixels of the image" in requests[0]["messages"][0]["content"][-1]["text"]

    def test_a_model_is_asked_for_json_in_the_space_of_its_family(self) -> None:
        for model, space, reply_box in (
            ("Qwen/Qwen2.5-VL-7B-Instruct", "resized", [28, 28, 56, 56]),
            ("Qwen/Qwen3-VL-8B-Instruct", "per_mille", [500, 500, 1000, 1000]),
            ("vlm", "unit", [0.5, 0.5, 1, 1]),
        ):
            said = json.dumps({"steps": [{"regions": [{"bbox_2d": reply_box}], "text": "a"}], "answer": "b"})
            with serve(lambda request, _, said=said: said) as (url, requests):
                thinker = served(url, model=model)
                thought = thinker.think(picture(56, 56), "Why?", protocol="structured")
                chain = thinker.think(picture(56, 56), "Why?")  # its chains it states as it has learnt, which nobody knows
            wanted = user_prompt("Why?", with_depth=False, protocol="structured", coordinates=space)  # type: ignore[arg-type]
            assert requests[0]["messages"][0]["content"][-1]["text"] == wanted
            assert thought.steps[0][0][0].box == (0.5, 0.5, 1, 1)
            assert thought.reading.problems == ()
            assert chain.frame.space == "unit"

    def test_large_images_are_made_smaller(self) -> None:
        image, question, depth = task(width=100, height=50)
        with serve(lambda request, _: CHAIN) as (url, requests):
            served(url, max_pixels=1250).think(image, question, depth)
            served(url, max_pixels=5000).think(image, question, depth)
            served(url, max_pixels=100).think(picture(1, 1000), question)
            served(url, max_pixels=3136).think(image, question, depth, coordinates="resized")
        sizes = [[part.size for part in shown(request)] for request in requests]
        # 100 × 50 × s² = 1250 for s = 1/2.
        assert sizes[:3] == [[(50, 25)] * 2, [(100, 50)] * 2, [(1, 100)]]
        (width, height), _ = sizes[3]
        assert width * height <= 3136

    def test_jpeg_where_it_is_asked_for(self) -> None:
        image = picture(300, 300)
        with serve(lambda request, _: CHAIN) as (url, requests):
            served(url, image_format="jpeg").think(image, "Why?")
            served(url).think(image, "Why?")
            served(url, image_format="jpeg").think(image.convert("RGBA"), "Why?")
        jpeg, png, other = (shown(request)[0] for request in requests)
        assert (jpeg.format, png.format, other.format) == ("JPEG", "PNG", "JPEG")
        assert np.array_equal(np.asarray(png), np.asarray(image))  # exact whatever its size
        sizes = [len(request["messages"][0]["content"][0]["image_url"]["url"]) for request in requests]
        assert sizes[0] < sizes[1] / 2

    @pytest.mark.parametrize("question", ["What does <image> mean?", "Is <|image_pad|> here?"])
    def test_placeholders_are_refused(self, question: str) -> None:
        with serve(lambda request, _: CHAIN) as (url, requests), pytest.raises(ImageError, match="Rephrase it"):
            served(url).think(picture(), question)
        assert requests == []

    def test_a_file_is_no_image(self) -> None:
        with serve(lambda request, _: CHAIN) as (url, requests):
            with pytest.raises(ConfigError, match="image must be a loaded image, got 'nope"):
                served(url).think("nope.jpg", "Why?")  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="question must be text, got None"):
                served(url).think(picture(), None)  # type: ignore[arg-type]
        assert requests == []


class TestWhatIsMadeOfIt:
    def test_a_chain(self) -> None:
        image, question, depth = task()
        with serve(lambda request, _: f"\n{CHAIN}\n") as (url, _):
            thought = served(url).think(image, question, depth)
        assert (thought.text, thought.answer, thought.reading.problems) == (CHAIN, "red", ())
        assert (thought.question, thought.image, thought.depth) == (question, image, depth)
        assert (thought.protocol, thought.tokens, thought.complete, thought.reply) == ("chain", (100, 20), True, "")
        assert thought.seconds > 0

    def test_a_structured_reply(self) -> None:
        said = f"Here it is: {REPLY}"
        with serve(lambda request, _: said) as (url, _):
            thought = served(url).think(*task(), protocol="structured", coordinates="per_mille")
        assert (thought.reply, thought.frame.space, thought.answer, thought.faults) == (said, "unit", "red", ())
        ((region,), words) = thought.steps[0]
        assert (region.box, region.depth, words) == ((0.025, 0.05, 0.075, 0.1), 0.25, "It is red.")

    def test_many_at_once_in_their_order(self) -> None:
        under_way, most = 0, 0
        lock = threading.Lock()

        def answer(request: dict[str, Any], _: int) -> str:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.02)
            with lock:
                under_way -= 1
            return str(request["messages"][0]["content"][-1]["text"].partition("Question: ")[2])

        tasks = [(picture(), f"number {number}", None) for number in range(20)]
        with serve(answer) as (url, _):
            thinker = ServedThinker(Endpoint(url, "vlm", concurrency=4))
            found = thinker.think_all(tasks, protocol="direct")
            assert [thought.answer for thought in found] == [question for _, question, _ in tasks]
            assert 1 < most <= 4
            assert thinker.think_all([]) == []
            assert (thinker.usage.requests, thinker.usage.completion_tokens) == (20, 400)

    def test_the_first_that_fails_ends_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        """And leaves no task behind whose error nobody takes."""

        def answer(request: dict[str, Any], number: int) -> Any:
            return CHAIN if number == 0 else (401, {}, '{"error": {"message": "bad key"}}')

        with serve(answer) as (url, requests):
            with pytest.raises(EndpointError, match="bad key"):
                served(url).think_all([task()] * 40)
            assert len(requests) <= 1 + 8
        assert caplog.text == ""

    def test_inside_a_running_loop(self) -> None:
        async def cell(url: str) -> tuple[str, str]:
            thinker = served(url)
            return thinker.think(*task()).text, [*thinker.stream(*task())][-1].text

        with serve(lambda request, _: CHAIN) as (url, _):
            assert asyncio.run(cell(url)) == (CHAIN, CHAIN)


class TestStreaming:
    def test_a_chain_grows(self) -> None:
        pieces = [CHAIN[start : start + 40] for start in range(0, len(CHAIN), 40)]
        ready = threading.Semaphore(1)

        def answer(request: dict[str, Any], _: int) -> Iterator[str]:
            for piece in pieces:
                assert ready.acquire(timeout=20)
                yield event(piece)
            yield event(finish="stop") + USAGE + DONE

        found = []
        with serve(answer) as (url, requests):
            for thought in served(url).stream(*task()):
                found.append(thought)
                ready.release()
        assert requests[0]["stream"] is True
        assert [thought.complete for thought in found] == [False] * len(pieces) + [True]
        assert all(CHAIN.startswith(thought.text) for thought in found)
        counts = [len(thought.steps) for thought in found]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1], found[-1].text, found[-1].tokens) == (0, 2, CHAIN, (100, 20))

    @pytest.mark.parametrize(
        ("said", "protocol"), [(CHAIN, "chain"), (REPLY, "structured"), ("red", "direct"), ("Sorry.", "structured")]
    )
    def test_the_last_thought_is_what_think_gives(self, said: str, protocol: Any) -> None:
        def answer(request: dict[str, Any], _: int) -> Any:
            return told(said) if request.get("stream") else said

        with serve(answer) as (url, _):
            *parts, last = served(url).stream(*task(), protocol=protocol, coordinates="per_mille")
            alone = served(url).think(*task(), protocol=protocol, coordinates="per_mille")
        for name in ("text", "reply", "faults", "complete", "tokens", "protocol", "frame"):
            assert getattr(last, name) == getattr(alone, name), name
        assert not any(part.complete or part.faults for part in parts)

    def test_reasoning_grows_into_the_chain(self) -> None:
        """A reasoning parser sends the think part by another field, and leaves its tags out."""
        think, _, answer = CHAIN.removeprefix("<think>\n").partition("\n</think>\n")
        ready = threading.Semaphore(1)

        def tell(request: dict[str, Any], _: int) -> Iterator[str]:
            for part in (event(reasoning_content=think[:60]), event(reasoning_content=think[60:]), event(answer)):
                assert ready.acquire(timeout=20)
                yield part
            yield event(finish="stop") + DONE

        texts = []
        with serve(tell) as (url, _):
            for thought in served(url).stream(*task()):
                texts.append(thought.text)
                ready.release()
        assert texts[:2] == [f"<think>\n{think[:60]}", f"<think>\n{think}"]
        assert texts[-1] == CHAIN

    def test_who_stops_listening_ends_the_request(self) -> None:
        closed = threading.Event()

        def answer(request: dict[str, Any], _: int) -> Iterator[str]:
            try:
                for _ in range(3000):
                    yield event("word ")
                    time.sleep(0.01)
            finally:
                closed.set()

        with serve(answer) as (url, _):
            growing = served(url).stream(*task())
            next(growing)
            growing.close()  # type: ignore[attr-defined]
            assert closed.wait(5)

    def test_errors_come_to_the_listener(self) -> None:
        refusal = 401, {}, '{"error": {"message": "bad key"}}'
        with serve(lambda request, _: refusal) as (url, _), pytest.raises(EndpointError, match="bad key"):
            next(served(url).stream(*task()))


class Grammarian:
    """A server that holds replies to a grammar, or says that it does; the model writes `free` without."""

    def __init__(self, *, heeds: bool = True, held: str = CHAIN, free: str = CHAIN) -> None:
        self.heeds, self.held, self.free = heeds, held, free

    def __call__(self, request: dict[str, Any], _: int) -> str:
        asked = request.get("structured_outputs")
        if asked is None:
            return self.free
        if not self.heeds:
            return "It rains."
        return "sif-123456-ok" if asked["regex"].startswith("sif-") else self.held


class TestGrammar:
    def test_it_is_asked_for_with_the_pattern_of_the_frame(self, caplog: pytest.LogCaptureFixture) -> None:
        with serve(Grammarian()) as (url, requests):
            thought = served(url, grammar=True).think(*task())
        asked = [request.get("structured_outputs", {}).get("regex") for request in requests]
        # Whether the server heeds it at all, the chain without it, and the chain.
        assert asked == ["sif-[0-9]{6}-ok", None, chain_pattern()]
        assert (thought.text, thought.reading.problems) == (CHAIN, ())
        assert caplog.text == ""

    def test_the_looks_are_few(self) -> None:
        with serve(Grammarian()) as (url, requests):
            thinker = served(url, grammar=True)
            thinker.think_all([task()] * 20)
            thinker.think_all([task()] * 5)  # in another loop
            asked = [request.get("structured_outputs", {}).get("regex") for request in requests]
        assert (asked.count("sif-[0-9]{6}-ok"), asked.count(None), asked.count(chain_pattern())) == (1, 3, 25)

    def test_a_server_that_passes_it_over_is_refused(self) -> None:
        with serve(Grammarian(heeds=False)) as (url, requests):
            with pytest.raises(ConfigError, match=r"wrote 'It rains\.'\. Leave out grammar \(--grammar\)"):
                served(url, grammar=True).think_all([task()] * 9)
            assert len(requests) <= 8

    def test_a_server_that_refuses_it_is_refused(self) -> None:
        """It is never left out in silence, as wishes are."""

        def answer(request: dict[str, Any], _: int) -> Any:
            if "structured_outputs" in request:
                return 422, {}, '{"error": {"message": "Unexpected fields in the request: structured_outputs"}}'
            return CHAIN

        with serve(answer) as (url, _), pytest.raises(ConfigError, match=r"refused it: .*Unexpected fields"):
            served(url, grammar=True).think(*task())

    def test_a_grammar_that_cannot_be_made_is_an_error_of_the_request(self) -> None:
        def answer(request: dict[str, Any], number: int) -> Any:
            if request.get("structured_outputs", {}).get("regex") == chain_pattern():
                return 400, {}, '{"error": {"message": "structured_outputs: the regex is too complex"}}'
            return Grammarian()(request, number)

        with serve(answer) as (url, _), pytest.raises(EndpointError, match="too complex") as caught:
            served(url, grammar=True).think(*task())
        assert caught.value.kind == "request"

    @pytest.mark.parametrize("held", ["It rains.", CHAIN.replace("0.250", "0.25001"), f"{CHAIN} Well."])
    def test_a_reply_that_is_not_held_is_named(self, held: str) -> None:
        with serve(Grammarian(held=held, free="?")) as (url, _):
            thought = served(url, grammar=True).think(*task())
        assert [fault.code for fault in thought.faults] == ["not_constrained"]

    def test_a_grammar_that_changes_whole_chains_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        """As where a server masks tokens that the grammar allows: then a chain is another model's."""
        with serve(Grammarian(held=CHAIN.replace("red", "blue"))) as (url, _), caplog.at_level(logging.WARNING):
            served(url, grammar=True).think(*task())
        assert "the grammar changes a chain that is valid without it" in caplog.text
        caplog.clear()
        with serve(Grammarian(held=CHAIN, free="a text that the grammar does not allow")) as (url, _):
            served(url, grammar=True).think(*task())
        assert caplog.text == ""  # that is what a grammar is for

    @pytest.mark.parametrize("protocol", ["direct", "structured"])
    def test_other_protocols_have_none(self, protocol: Any) -> None:
        with serve(Grammarian()) as (url, requests):
            served(url, grammar=True).think(*task(), protocol=protocol)
        assert "structured_outputs" not in requests[0]


class TestSettings:
    def test_a_server_is_thought_with(self, photo_folder: Path) -> None:
        with serve(lambda request, _: CHAIN) as (url, requests):
            settings = ThinkSettings(model="vlm", base_url=url, max_new_tokens=50, concurrency=3, image_format="jpeg")
            thought = think(settings, photo_folder / "cat.png", "What is it?")
            thinker = open_thinker(settings)
        assert (thought.answer, thought.depth is None) == ("red", False)
        assert requests[0]["max_tokens"] == 50
        assert [part.format for part in shown(requests[0])] == ["JPEG", "JPEG"]
        assert isinstance(thinker, ServedThinker)
        assert (thinker.endpoint.concurrency, thinker.endpoint.model) == (3, "vlm")

    def test_a_name_is_needed(self) -> None:
        with pytest.raises(ConfigError, match="model is missing"):
            open_thinker(ThinkSettings())
        with pytest.raises(ConfigError, match="base_url needs model"):
            ThinkSettings.from_values({"base_url": "http://h/v1"})
