"""What lmms-eval's requests ask our models, and what its tasks are given; without lmms-eval."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.coordinates import UNIT, Frame
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, EndpointError, ImageError, ModelError
from sifthinker.lmms.asking import RequestQuestion, ask_all
from sifthinker.lmms.replies import Reply, boxes_of, letter_of
from sifthinker.lmms.requests import Asked, asked_in, bare_question, options_in
from sifthinker.lmms.settings import LmmsSettings
from sifthinker.served import open_thinker
from sifthinker.thinker import Task, Thinker, Thought, thought_of

from .stand_in import serve

PICTURE = Image.new("RGB", (200, 100), (90, 120, 30))
DEPTH = DepthMap(np.full((100, 200), 0.5))
CHOICES = "Which?\nA. red\nB. blue"


def image(value: Any = PICTURE) -> dict[str, Any]:
    return {"type": "image", "url": value}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


# ------------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "said",
    [
        f"{CHOICES}\nAnswer with the option's letter from the given choices directly.",
        f"{CHOICES}\nAnswer with the option letter only.",
        f"{CHOICES}\nAnswer with the option's letter (A or B) from the given choices directly.\n",
        f"{CHOICES}\nPlease answer directly with only the letter of the correct option and nothing else.",
        f"{CHOICES}\nAnswer the question with A, B, C, or D.",
        f"{CHOICES}\nSelect the best answer to the above multiple-choice question based on the image. Respond with only the "
        "letter (A, B, C, D, or E) of the correct option.",
        f"{CHOICES}\nOnly give the best option.\nBest option: (",
        f"{CHOICES}\nGive me the answer letter directly. The best answer is:",
        f"{CHOICES}\nAnswer:",
        f"Note: You only need to respond with A, B without providing any additional information.\n\n{CHOICES}",
        f"<image>\nQuestion: {CHOICES}\nAnswer the question using a single word or phrase.",
        CHOICES,
    ],
)
def test_what_a_question_says_of_the_form_of_its_answer_is_left_out_and_its_choices_stay(said: str) -> None:
    assert bare_question(said) == CHOICES


@pytest.mark.parametrize(
    "said",
    [
        "What does the sign answer?",
        "Does it say 'Answer with the option letter only.' anywhere on the poster?",
        "How many? Answer with a number from 1 to 5.",
        "Is the best answer is: a slogan?",
    ],
)
def test_questions_that_say_nothing_of_it_stay_as_they_are(said: str) -> None:
    assert bare_question(said) == said


def test_refcoco_is_asked_without_the_numbers_that_it_wants() -> None:
    said = (
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). All "
        "values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
        "region this sentence describes: the dog"
    )
    assert bare_question(said) == (
        "Please provide the bounding box coordinate of the region this sentence describes: the dog"
    )


def test_texts_follow_one_another_and_system_turns_are_left_out() -> None:
    messages = [{"role": "system", "content": "Think first."}, user(text("Look."), image(), text("What is it?"))]
    asked = asked_in(messages, "task[0]")
    assert (asked.text, len(asked.images), asked.depth) == ("Look.\nWhat is it?", 1, None)


def test_several_images_are_shown_side_by_side_and_the_question_says_so() -> None:
    question = RequestQuestion.of("t", lambda: asked_in([user(image(), image(), text("Why?"))], "t"), None, rgb_only=False)
    assert question.question == "The picture shows 2 images side by side, in order from left to right.\nWhy?"
    assert question.load()[0].size == question.size == (200 + 8 + 200, 100)  # with 8 grey pixels between them


def test_images_are_turned_upright_and_read_from_files(tmp_path: Path) -> None:
    turned = PICTURE.copy()
    turned.getexif()[0x0112] = 6  # by a quarter
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    with Image.open(tmp_path / "turned.jpg") as opened:
        asked = asked_in([user(image(opened), image(str(tmp_path / "turned.jpg")), text("Why?"))], "t")
    assert [one.size for one in asked.images] == [(100, 200)] * 2


def test_images_of_any_mode_are_seen_as_their_files_are() -> None:
    clear, grey = Image.new("RGBA", (2, 2), (255, 0, 0, 0)), Image.fromarray(np.full((2, 2), 20000, np.uint16))
    asked = asked_in([user(image(clear), image(grey), text("Why?"))], "t")
    # On white; 20000 / 257 = 77.8.
    assert [one.getpixel((0, 0)) for one in asked.images] == [(255, 255, 255), (78, 78, 78)]
    with pytest.raises(ImageError, match=r"^task\[0\]: the size must be 1 to .* pixels, got 0×4"):
        asked_in([user(image(Image.new("RGB", (0, 4))), text("Why?"))], "task[0]")


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([user(text("Hi")), {"role": "assistant", "content": "Hello"}, user(text("?"))], "expected only user turns"),
        ([user({"type": "video", "url": "a.mp4"}, text("?"))], "expected only texts and images"),
        ([user(image(3), text("?"))], "expected only texts and images"),
        (["What?"], "expected only user turns"),
        ([user(image(), image(), image(DEPTH), text("?"))], "got 1 depth maps for 2 images"),
    ],
)
def test_what_no_model_of_ours_can_be_asked_stops_the_run(messages: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"task\[3\].*{wanted}"):
        asked_in(messages, "task[3]")


@pytest.mark.parametrize(
    ("said", "options"),
    [
        (CHOICES, ("red", "blue")),
        ("Which?\n(A) red\n(B) the blue one", ("red", "the blue one")),
        ("Which? (A) red (B) blue", ("red", "blue")),
        ("Which?\nA. red\nC. blue", ()),
        ("What is it?", ()),
    ],
)
def test_the_options_of_a_question(said: str, options: tuple[str, ...]) -> None:
    assert options_in(said) == options


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("blue", "B"), ("Blue.", "B"), ("B", "B"), ("(B)", "B"), ("B. blue", "B"), ("the red", "A"), ("green", "green"),
        ("red or blue", "red or blue"), ("", ""),
    ],
)  # fmt: skip
def test_an_answer_is_a_letter_where_it_is_just_one_option(answer: str, letter: str) -> None:
    assert letter_of(answer, CHOICES) == letter


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("task", "numbers"),
    [
        ("refcoco_bbox_rec_val", "unit"),
        ("refcoco+_bbox_rec_testA", "unit"),
        ("refcocog_bbox_rec_test", "unit"),
        ("screenspot_rec_test", "unit"),
        ("refcoco_grounding_testB", "pixel"),
        ("refcoco_plus_grounding_testA", "pixel"),
        ("groundingme", "pixel"),
        ("own_refcoco_bbox_rec_val", "unit"),
        ("refcoco_bbox_val", None),  # which wants a description of a box
        ("refcoco_seg_val", None),
        ("cv_bench", None),
    ],
)
def test_which_tasks_want_boxes(task: str, numbers: str | None) -> None:
    assert LmmsSettings.of("runs/grpo").boxes_of(task) == numbers
    assert LmmsSettings.of("runs/grpo", grounding="none").boxes_of(task) is None
    assert LmmsSettings.of("runs/grpo", grounding="per_mille").boxes_of(task) == "per_mille"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"batch_size": "auto"}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_new_token": 5}, "max_new_tokens"),
        ({"grounding": "metres"}, "grounding"),
        ({"model": "other"}, "pretrained"),
        ({"budget": 1}, "base_url"),
    ],
)
def test_wrong_model_args_are_refused_by_name(values: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        LmmsSettings.of("runs/grpo", **values)


# ---------------------------------------------------------------------------------------------------------------- asking


class Told(Thinker):
    """Says what a test tells it, and keeps what it was asked."""

    def __init__(self, say: Callable[[str], str], coordinates: Any = "unit") -> None:
        self.say = say
        self.coordinates = coordinates
        self.asked: list[list[Task]] = []

    def think_all(
        self, tasks: Sequence[Task], *, protocol: Any = "chain", coordinates: Any = None, **more: Any
    ) -> list[Thought]:
        self.asked.append(list(tasks))
        frame = UNIT if coordinates is None else Frame(coordinates)
        return [thought_of(task, protocol, frame, self.say(task[1])) for task in tasks]


def chain(*boxes: str, answer: str = "yes") -> str:
    area = ",".join(f'{{"bbox_2d":[{box}]}}' for box in boxes)
    return f"<think>\n<area>[{area}]</area>\n<text>There.</text>\n</think>\n<answer>\n{answer}\n</answer>"


def request(question: str, *parts: Any) -> tuple[str, Callable[[], Asked]]:
    messages = [user(*(parts or (image(),)), text(question))]
    return "task[0]", lambda: asked_in(messages, "task[0]")


def test_requests_are_asked_in_batches_and_answered_in_order() -> None:
    thinker = Told(lambda question: chain("0,0,1,1", answer=question))
    found = ask_all(thinker, LmmsSettings.of("m", batch_size=2), [request(name) for name in ("one", "two", "three")])
    assert [one.row.answer for one in found if one.row] == ["one", "two", "three"]
    assert [len(batch) for batch in thinker.asked] == [2, 1]


def test_chains_are_asked_for_in_the_coordinates_that_the_model_has_learnt() -> None:
    thinker = Told(lambda _: chain("0,250,500,1000"), "per_mille")
    (one,) = ask_all(thinker, LmmsSettings.of("m"), [request("Where?")])
    assert one.row is not None
    assert one.row.coordinates == "per_mille"
    assert "whole thousandths" in one.row.prompt


@pytest.mark.parametrize(
    ("depth", "parts", "seen", "kept"),
    [
        (None, (image(), image(DEPTH)), 0.5, "given"),
        ("none", (image(), image(DEPTH)), None, "none"),
        (None, (image(),), None, "none"),
        ("model", (image(),), 0.25, "estimated"),
        ("model", (image(), image(DEPTH)), 0.5, "given"),
    ],
)
def test_depth_is_the_tasks_or_none_or_estimated(
    depth: str | None, parts: tuple[Any, ...], seen: float | None, kept: str
) -> None:
    thinker = Told(lambda _: chain("0,0,1,1"))
    estimate = (lambda _: DepthMap(np.full((100, 200), 0.25))) if depth == "model" else None
    (one,) = ask_all(thinker, LmmsSettings.of("m", depth=depth), [request("Why?", *parts)], estimate=estimate)
    ((_, _, shown),) = thinker.asked[0]
    assert (None if shown is None else float(np.asarray(shown.values).mean())) == seen
    assert one.reply("chain").depth == kept


def test_what_cannot_be_asked_is_no_answer_and_a_warning_counts_it(caplog: pytest.LogCaptureFixture) -> None:
    requests = [request("Why?"), request("No image?", text("…")), request("<|im_end|>"), request("Broken?", image("no.png"))]
    with caplog.at_level(logging.WARNING):
        found = ask_all(Told(lambda _: chain("0,0,1,1")), LmmsSettings.of("m"), requests)
    assert [bool(one.error) for one in found] == [False, True, True, True]
    assert "3 of 4 requests could not be asked" in caplog.text
    assert json.loads(found[1].reply("chain").to_text())["error"].startswith("task[0] #1: has no image")


def test_a_model_that_can_be_asked_nothing_stops_the_run() -> None:
    def refuse(_: str) -> str:
        raise ValueError("no such picture")

    with pytest.raises(ModelError, match="no such picture"):
        ask_all(Told(refuse), LmmsSettings.of("m"), [request("Why?")])


def test_a_server_is_asked_many_at_once_with_our_own_bound_of_tokens() -> None:
    with serve(lambda body, number: chain("0,0,1,1")) as (url, requests):
        settings = LmmsSettings.of("m", base_url=url, concurrency=3, max_new_tokens=99, depth="none")
        found = ask_all(open_thinker(settings), settings, [request(f"Why {n}?") for n in range(7)])
    assert [one.row.answer for one in found if one.row] == ["yes"] * 7
    assert {body["max_tokens"] for body in requests} == {99}


def test_a_server_that_refuses_every_request_stops_the_run() -> None:
    with serve(lambda body, number: (401, {}, "who are you?")) as (url, _):
        settings = LmmsSettings.of("m", base_url=url, retries=0)
        with pytest.raises(EndpointError):
            ask_all(open_thinker(settings), settings, [request("Why?")])


# ---------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ("unit", "[0.1, 0.25, 0.606, 0.75]"),
        ("per_mille", "[100, 250, 606, 750]"),
        ("pixel", "[20.0, 25.0, 121.2, 75.0]"),  # 200 by 100: 0.606 · 200 = 121.2
        # 200 by 100 becomes 196 by 112 (multiples of 28): 0.1 · 196 = 19.6, 0.606 · 196 = 118.8
        ("resized", "[20, 28, 119, 84]"),
    ],
)
def test_boxes_in_the_numbers_that_a_task_wants(numbers: Any, wanted: str) -> None:
    (one,) = ask_all(Told(lambda _: chain("0.1,0.25,0.606,0.75")), LmmsSettings.of("m"), [request("Where?")])
    assert one.row is not None
    assert boxes_of(one.row, (200, 100), numbers) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (chain("0,0,0.5,1") + "", "[0.0, 0.0, 0.5, 1.0]"),
        (chain("0,0,0.5,1", "0.5,0,1,1"), "[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]"),
        (chain("0,0,0.5,1").replace("</think>", '<area>[{"bbox_2d":[0,0]}]</area>\n</think>'), ""),
        ("I cannot say.", ""),
    ],
)
def test_the_boxes_of_the_last_area_and_of_no_other(said: str, wanted: str) -> None:
    (one,) = ask_all(Told(lambda _: said), LmmsSettings.of("m"), [request("Where?")])
    assert one.row is not None
    assert boxes_of(one.row, (200, 100), "unit") == wanted


# --------------------------------------------------------------------------------------------------- whole completions


@pytest.mark.parametrize(
    "reply",
    [
        Reply("two"),
        Reply(chain("0,0,1,1"), "chain", Frame("resized", (196, 112)), "given", complete=False),
        Reply('{"steps":[]}', "structured", Frame("per_mille"), "estimated"),
        Reply("", error="no image"),
    ],
)
def test_a_reply_is_read_as_it_was_written(reply: Reply) -> None:
    assert Reply.from_text(reply.to_text()) == reply


@pytest.mark.parametrize(
    "said", ["two", "", "{", '{"completion": 3}', '{"a": "b"}', "[1]", '{"completion":"x","coordinates":"metres"}']
)
def test_whatever_another_model_says_is_its_answer(said: str) -> None:
    assert Reply.from_text(said) == Reply(said)
