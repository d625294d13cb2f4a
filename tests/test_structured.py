"""Structured replies: which chain each comes to, and what is said of those that come to none."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.chain import REASONS, Region, check_chain, read_completion
from sifthinker.coordinates import UNIT, Frame
from sifthinker.prompts import user_prompt
from sifthinker.structured import FAULTS, compose, compose_part, response_format

PER_MILLE, RESIZED = Frame("per_mille"), Frame("resized", (200, 100))
REGION = {"bbox_2d": [0.1, 0.2, 0.5, 0.8], "depth": 0.25}
STEP = {"regions": [REGION], "text": "A mug."}
REPLY = {"steps": [STEP], "answer": "red"}
CHAIN = (
    '<think>\n<area>[{"bbox_2d":[0.100,0.200,0.500,0.800],"depth":0.250}]</area>\n<text>A mug.</text>\n</think>\n'
    "<answer>\nred\n</answer>"
)
FLAT = CHAIN.replace(',"depth":0.250', "")


def reply(*regions: Any, text: Any = "A mug.", answer: Any = "red") -> str:
    """A reply of one step with these regions."""
    return json.dumps({"steps": [{"regions": list(regions), "text": text}], "answer": answer})


def box(*sides: Any, **more: Any) -> dict[str, Any]:
    return {"bbox_2d": list(sides), **more}


@pytest.mark.parametrize(
    ("said", "frame", "with_depth", "chain"),
    [
        (json.dumps(REPLY), UNIT, True, CHAIN),
        # 100/1000, 200/1000, 500/1000, 800/1000.
        (reply(box(100, 200, 500, 800, depth=0.25)), PER_MILLE, True, CHAIN),
        # 20/200, 20/100, 100/200, 80/100.
        (reply(box(20, 20, 100, 80, depth=0.25)), RESIZED, True, CHAIN),
        (reply(box(100.4, 199.6, 500, 800.0, depth=0.2504)), PER_MILLE, True, CHAIN),  # 0.1004 is 0.100 to three places
        # A depth is the model's to leave out, and means nothing without a depth image.
        (reply(box(0.1, 0.2, 0.5, 0.8, depth=None)), UNIT, True, FLAT),
        (reply(box(0.1, 0.2, 0.5, 0.8)), UNIT, True, FLAT),
        (reply(REGION), UNIT, False, FLAT),
        (reply(box(0.1, 0.2, 0.5, 0.8, depth="near")), UNIT, False, FLAT),
        # What stands around the object.
        (f"Here you are:\n```json\n{json.dumps(REPLY, indent=2)}\n```\nAnything else?", UNIT, True, CHAIN),
        (f"<think>Is it {json.dumps({**REPLY, 'answer': 'blue'})}?</think>{json.dumps(REPLY)}", UNIT, True, CHAIN),
        (f"{json.dumps(REPLY)}\n{json.dumps(REPLY)}", UNIT, True, CHAIN),
        (json.dumps(json.dumps(REPLY)), UNIT, True, CHAIN),
        (json.dumps({"result": REPLY}), UNIT, True, CHAIN),
        # The schema, repeated before the reply, has the same keys.
        (json.dumps(response_format(with_depth=True)) + json.dumps(REPLY), UNIT, True, CHAIN),
        (reply(REGION, text="  A mug.\n"), UNIT, True, CHAIN),
        (reply(REGION, answer=" red "), UNIT, True, CHAIN),
        (reply(REGION, answer=3), UNIT, True, CHAIN.replace("red", "3")),
        (reply(REGION, answer=2.5), UNIT, True, CHAIN.replace("red", "2.5")),
        (json.dumps({**REPLY, "confidence": 1}), UNIT, True, CHAIN),
        (reply({**REGION, "label": "mug"}), UNIT, True, CHAIN),
    ],
)
def test_replies_without_fault(said: str, frame: Frame, with_depth: bool, chain: str) -> None:
    text, faults = compose(said, frame, with_depth=with_depth)
    assert (text, faults) == (chain, ())
    assert check_chain(text, with_depth="depth" in chain) == []


HUGE = "9" * 400

EMPTY = "<think>\n</think>"
LOST = "<think>\n<area>[]</area>\n</think>"
ANSWER = "\n<answer>\nred\n</answer>"


@pytest.mark.parametrize(
    ("said", "codes", "chain"),
    [
        # A step with a wrong region is left out with its words; the chain ends on an empty area.
        (reply(box(0.1, 0.2, 1.5, 0.8)), ["box_range"], LOST + ANSWER),
        (reply(box(-0.1, 0.2, 0.5, 0.8)), ["box_range"], LOST + ANSWER),
        (reply(box(100, 200, 500, 800)), ["box_range"], LOST + ANSWER),  # in another space than was asked for
        (reply(box(0.5, 0.2, 0.1, 0.8)), ["box_order"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.1, 0.8)), ["box_order"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.1004, 0.8)), ["box_order"], LOST + ANSWER),  # 0.100 to 0.100
        (reply(box(0.1, 0.2, 0.5)), ["bad_box"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, 0.8, 0.9)), ["bad_box"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, "0.8")), ["bad_box"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, True)), ["bad_box"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, None)), ["bad_box"], LOST + ANSWER),
        (reply({"bbox_2d": "all"}), ["bad_box"], LOST + ANSWER),
        (reply({"depth": 0.2}), ["bad_box"], LOST + ANSWER),
        (reply([0.1, 0.2, 0.5, 0.8]), ["not_a_region"], LOST + ANSWER),
        (reply(REGION).replace("0.8", HUGE), ["bad_box"], LOST + ANSWER),
        (reply(REGION).replace("0.8", "1e999"), ["bad_box"], LOST + ANSWER),
        (reply(REGION).replace("0.8", "9" * 300), ["box_range"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, 0.8, depth=1.2)), ["depth_range"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, 0.8, depth=-0.1)), ["depth_range"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, 0.8, depth="near")), ["bad_depth"], LOST + ANSWER),
        (reply(box(0.1, 0.2, 0.5, 0.8, depth=False)), ["bad_depth"], LOST + ANSWER),
        (reply(), ["no_region"], LOST + ANSWER),
        (json.dumps({"steps": [{"text": "A mug."}], "answer": "red"}), ["not_a_list"], LOST + ANSWER),
        (json.dumps({"steps": ["A mug."], "answer": "red"}), ["bad_steps"], LOST + ANSWER),
        (json.dumps({"steps": [], "answer": "red"}), ["no_step"], EMPTY + ANSWER),
        (json.dumps({"steps": {"1": STEP}, "answer": "red"}), ["bad_steps"], EMPTY + ANSWER),
        (json.dumps({"steps": [STEP, {**STEP, "regions": 5}], "answer": "red"}), ["not_a_list"],
         CHAIN.replace("</think>", "<area>[]</area>\n</think>")),
        (json.dumps({"steps": [{**STEP, "regions": 5}, STEP], "answer": "red"}), ["not_a_list"], CHAIN),
        # An area without words stays; the chain is none, and its answer is.
        (reply(REGION, text=None), ["blank_text"], CHAIN.replace("\n<text>A mug.</text>", "")),
        (reply(REGION, text=" \n"), ["blank_text"], CHAIN.replace("\n<text>A mug.</text>", "")),
        (json.dumps({"steps": [{"regions": [REGION]}], "answer": "red"}), ["blank_text"],
         CHAIN.replace("\n<text>A mug.</text>", "")),
        (reply(REGION, text="A <area>mug</area>."), ["nested_tag"], CHAIN.replace("A mug.", "A  mug .")),
        (reply(REGION, text="</text>"), ["nested_tag"], CHAIN.replace("\n<text>A mug.</text>", "")),
        (reply(REGION, answer="<answer>red</answer>"), ["nested_tag"], CHAIN),
        (reply(REGION, answer=""), ["blank_answer"], CHAIN.partition("\n<answer>")[0]),
        (reply(REGION, answer=None), ["bad_answer"], CHAIN.partition("\n<answer>")[0]),
        (reply(REGION, answer=["red"]), ["bad_answer"], CHAIN.partition("\n<answer>")[0]),
        (reply(REGION, answer=True), ["bad_answer"], CHAIN.partition("\n<answer>")[0]),
        (reply(REGION).replace('"red"', HUGE), ["bad_answer"], CHAIN.partition("\n<answer>")[0]),
        # Every fault is named, not the first alone.
        (reply(box(1, 0, 0, 1), box(0, 0, 2, 1), text="", answer=""),
         ["box_order", "box_range", "blank_text", "blank_answer"], LOST),
    ],
)  # fmt: skip
def test_what_is_wrong_is_left_out_and_named(said: str, codes: list[str], chain: str) -> None:
    text, faults = compose(said, UNIT, with_depth=True)
    assert (text, [fault.code for fault in faults]) == (chain, codes)
    assert all(fault.message and len(fault.message) < 2000 for fault in faults)
    assert {fault.code for fault in faults} <= {*FAULTS, *REASONS}


@pytest.mark.parametrize("frame", [PER_MILLE, RESIZED])
def test_fractions_are_no_whole_numbers(frame: Frame) -> None:
    """They would be a box of a thousandth of the image. Whole ones are taken at their word, and so is half a pixel."""
    text, faults = compose(reply(box(0.1, 0.2, 0.5, 0.8)), frame, with_depth=True)
    assert (text, [fault.code for fault in faults]) == (LOST + ANSWER, ["box_range"])
    assert "got fractions" in faults[0].message
    for sides in ([0, 0, 1, 1], [0.5, 0, 50, 20]):
        assert compose(reply(box(*sides)), frame, with_depth=True)[1] == ()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("", "not_json"),
        ("I cannot see it.", "not_json"),
        (CHAIN, "not_json"),
        (json.dumps(REPLY)[:-1], "not_json"),
        (json.dumps(REPLY)[:30], "not_json"),
        (json.dumps({"steps": [STEP]}), "not_json"),
        (reply(REGION).replace("0.8", "NaN"), "not_json"),
        (reply(REGION).replace("0.8", "Infinity"), "not_json"),
        ('{"steps":' + "[" * 100_000 + "]" * 100_000 + ',"answer":"red"}', "not_json"),
        ('{"a":' * 100_000 + json.dumps(REPLY) + "}" * 100_000, "not_json"),
        (json.dumps(REPLY) + json.dumps({**REPLY, "answer": "blue"}), "ambiguous"),
        (reply(REGION, answer=5).replace("5}", "9" * 5000 + "}"), "not_json"),
    ],
)
def test_replies_without_their_object_stay_as_they_are(said: str, code: str) -> None:
    text, faults = compose(said, UNIT, with_depth=True)
    assert (text, [fault.code for fault in faults]) == (said, [code])


def test_the_schema_alone_is_no_reply() -> None:
    """It has the keys, but its steps are no list."""
    text, faults = compose(json.dumps(response_format(with_depth=True)), UNIT, with_depth=True)
    assert [fault.code for fault in faults] == ["bad_steps", "bad_answer"]
    assert text == EMPTY


def test_a_reply_that_grows() -> None:
    """Steps appear when they are whole; an answer does not."""
    said = json.dumps({"steps": [STEP, {**STEP, "text": "A cup."}], "answer": "red"})
    seen = [compose_part(said[:end], UNIT, with_depth=True) for end in range(len(said) + 1)]
    found = [read_completion(text, with_depth=True) for text in seen]
    counts = [len(reading.steps) for reading in found]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}
    assert counts.index(1) == said.index("}, {") + 1  # with the brace that ends the step
    assert all(reading.answer is None for reading in found)
    assert compose(said, UNIT, with_depth=True)[0].startswith(seen[-1].removesuffix("</think>"))


words = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and "<" not in text)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("</area><think>"),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["steps", "answer", "regions", "text", "bbox_2d", "depth"]), inner, max_size=4)
    ),
    max_leaves=20,
)
FRAMES = st.sampled_from([UNIT, PER_MILLE, RESIZED])


@st.composite
def replies(draw: st.DrawFn, frame: Frame) -> tuple[str, list[Region]]:
    """A right reply, and the regions in it."""
    width, height = frame.grid()
    regions: list[Region] = []

    def region() -> dict[str, Any]:
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
        depth = draw(st.none() | st.integers(0, 1000).map(lambda level: level / 1000))
        regions.append(Region((x1 / width, y1 / height, x2 / width, y2 / height), depth))
        sides = [x1, y1, x2, y2] if frame.space != "unit" else [x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000]
        return {"bbox_2d": sides, "depth": depth}

    steps = [
        {"regions": [region() for _ in range(draw(st.integers(1, 3)))], "text": draw(words)}
        for _ in range(draw(st.integers(1, 3)))
    ]
    return json.dumps({"steps": steps, "answer": draw(words)}), regions


@given(data=st.data(), frame=FRAMES)
def test_right_replies_become_valid_chains_with_their_boxes(data: st.DataObject, frame: Frame) -> None:
    said, regions = data.draw(replies(frame))
    text, faults = compose(said, frame, with_depth=True)
    assert faults == ()
    found = read_completion(text, with_depth=None)
    assert found.problems == ()
    assert [region for area in found.areas for region in area] == regions
    body = json.loads(said)
    assert [said for _, said in found.steps] == [step["text"].strip() for step in body["steps"]]
    assert found.answer == body["answer"].strip()


@given(steps=junk, answer=junk, frame=FRAMES, with_depth=st.booleans())
def test_whatever_stands_in_a_reply_is_read_or_named(steps: Any, answer: Any, frame: Frame, with_depth: bool) -> None:
    text, faults = compose(json.dumps({"steps": steps, "answer": answer}), frame, with_depth=with_depth)
    found = read_completion(text, with_depth=None)
    assert bool(found.problems) <= bool(faults)  # a chain that is none has its reason


@given(said=st.text() | junk.map(json.dumps), frame=FRAMES)
def test_no_reply_raises(said: str, frame: Frame) -> None:
    compose(said, frame, with_depth=True)
    compose_part(said, frame, with_depth=True)


@pytest.mark.parametrize(
    "piece", [json.dumps(STEP) + ",", '{"regions":[', '{"a":"', "<text>", "</think>", "[[", '"', json.dumps(REGION) + ","]
)
def test_time_is_linear(piece: str) -> None:
    """A megabyte takes about eight times as long as an eighth of it."""

    def seconds(length: int) -> float:
        said = '{"steps":[' + piece * (length // len(piece)) + json.dumps(STEP) + '],"answer":"red"}'
        best = float("inf")
        gc.disable()
        try:
            for _ in range(2):
                started = time.process_time()
                compose(said, UNIT, with_depth=True)
                best = min(best, time.process_time() - started)
        finally:
            gc.enable()
        return best

    assert seconds(1_000_000) < 24 * seconds(125_000) + 0.05


def test_a_broken_reply_of_a_megabyte_has_a_bounded_list_of_faults() -> None:
    said = '{"steps":[' + ",".join(["5"] * 300_000) + '],"answer":"red"}'
    text, faults = compose(said, UNIT, with_depth=True)
    assert (text, len(faults)) == (LOST + ANSWER, 100)


class TestSchema:
    def test_it_takes_what_the_prompt_asks_for(self) -> None:
        """The example in the prompt has the schema's keys, in the schema's order; a depth where there is a depth image."""
        for with_depth in (True, False):
            schema = response_format(with_depth=with_depth)["json_schema"]["schema"]
            step = schema["properties"]["steps"]["items"]["properties"]
            region = step["regions"]["items"]
            assert list(schema["properties"]) == ["steps", "answer"]
            assert list(step) == ["regions", "text"]
            assert list(region["properties"]) == ["bbox_2d", *(["depth"] if with_depth else [])]
            prompt = user_prompt("Why?", with_depth=with_depth, protocol="structured")
            places = [prompt.index(f'"{key}"') for key in ("steps", "regions", "bbox_2d", "text", "answer")]
            assert places == sorted(places)
            assert ('"depth"' in prompt) == with_depth

    def test_strict_servers_take_it(self) -> None:
        """OpenAI's strict mode wants every property required and no others, at every object."""

        def objects(node: Any) -> list[dict[str, Any]]:
            inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
            own = [node] if isinstance(node, dict) and node.get("type") == "object" else []
            return own + [found for part in inner for found in objects(part)]

        form = response_format(with_depth=True)
        found = objects(form["json_schema"]["schema"])
        assert len(found) == 3
        for node in found:
            assert node["required"] == list(node["properties"])
            assert node["additionalProperties"] is False
        assert form["json_schema"]["strict"] is True
