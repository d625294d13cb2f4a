from __future__ import annotations

import gc
import json
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.chain import (
    REASONS,
    Chain,
    Region,
    Step,
    check_chain,
    find_answer,
    find_regions,
    find_steps,
    parse_chain,
    read_completion,
    render_chain,
)
from sifthinker.errors import ChainError

AREA = '<area>[{"bbox_2d":[0.1,0.2,0.3,0.4],"depth":0.5}]</area>'
GOOD = f"<think>{AREA}<text>seen</text></think><answer>yes</answer>"


def with_area(area: str) -> str:
    return f"<think><area>{area}</area><text>seen</text></think><answer>yes</answer>"


def with_box(box: str) -> str:
    return with_area(f'[{{"bbox_2d":{box},"depth":0.5}}]')


@st.composite
def chains(draw: st.DrawFn, with_depth: bool = True) -> Chain:
    def region() -> Region:
        x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
        box = (x1 / 1000, y1 / 1000, draw(st.integers(x1 + 1, 1000)) / 1000, draw(st.integers(y1 + 1, 1000)) / 1000)
        return Region(box, draw(st.integers(0, 1000)) / 1000 if with_depth else None)

    words = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and "<" not in text)
    steps = tuple(
        Step(tuple(region() for _ in range(draw(st.integers(1, 3)))), draw(words)) for _ in range(draw(st.integers(1, 4)))
    )
    return Chain(steps, draw(words))


class TestRoundTrip:
    @given(chains())
    def test_parse_undoes_render(self, chain: Chain) -> None:
        text = render_chain(chain)
        assert parse_chain(text) == chain
        assert check_chain(text) == []
        assert find_regions(text) == [step.regions for step in chain.steps]
        assert find_steps(text) == [(step.regions, step.text) for step in chain.steps]
        assert find_answer(text) == chain.answer

    @given(chains(with_depth=False))
    def test_without_depth(self, chain: Chain) -> None:
        text = render_chain(chain)
        assert parse_chain(text, with_depth=False) == chain
        assert [problem.code for problem in check_chain(text)][:1] == ["missing_key"]

    def test_canonical_text(self) -> None:
        chain = Chain(
            (Step((Region((0, 0, 1, 1), 0.583),), "…"), Step((Region((0.656, 0.138, 0.938, 0.521), 0.829),), "…")), "…"
        )
        assert render_chain(chain) == (
            "<think>\n"
            '<area>[{"bbox_2d":[0.000,0.000,1.000,1.000],"depth":0.583}]</area>\n'
            "<text>…</text>\n"
            '<area>[{"bbox_2d":[0.656,0.138,0.938,0.521],"depth":0.829}]</area>\n'
            "<text>…</text>\n"
            "</think>\n"
            "<answer>\n…\n</answer>"
        )

    def test_fewer_decimals(self) -> None:
        chain = Chain((Step((Region((0, 0, 0.5, 1), 0.25),), "a"),), "b")
        assert '[0.00,0.00,0.50,1.00],"depth":0.25' in render_chain(chain, decimals=2)
        assert parse_chain(render_chain(chain, decimals=2)) == chain
        with pytest.raises(ChainError, match="no area"):
            render_chain(Chain((Step((Region((0, 0, 0.001, 1), 0),), "a"),), "b"), decimals=2)
        assert '[0.00,0.00,0.50,1.00],"depth":0.250' in render_chain(chain, decimals=2, depth_decimals=3)
        for decimals in ({"decimals": 4}, {"decimals": 0}, {"depth_decimals": 4}, {"depth_decimals": 0}):
            with pytest.raises(ValueError, match="decimals"):
                render_chain(chain, **decimals)


class TestValues:
    def test_numbers_are_rounded_to_what_the_text_says(self) -> None:
        assert Region((0.12345, 0, 1, 1), 0.98765) == Region((0.123, 0, 1, 1), 0.988)

    @pytest.mark.parametrize(
        ("make", "code"),
        [
            (lambda: Region((0, 0, 1.2, 1), 0), "box_range"),
            (lambda: Region((0, 0, 1), 0), "box_range"),
            (lambda: Region((0, 0, 1, 1, 1), 0), "box_range"),
            (lambda: Region((0, 0, float("nan"), 1), 0), "box_range"),
            (lambda: Region((0.5, 0, 0.5004, 1), 0), "box_order"),
            (lambda: Region((0, 0, 1, 1), -0.1), "depth_range"),
            (lambda: Region((0, 0, 1, 1), 1.1), "depth_range"),
            (lambda: Step((), "a"), "no_region"),
            (lambda: Step((Region((0, 0, 1, 1)),), " \n"), "blank_text"),
            (lambda: Step((Region((0, 0, 1, 1)),), "a</text>"), "nested_tag"),
            (lambda: Chain((), "a"), "no_step"),
            (lambda: Chain((Step((Region((0, 0, 1, 1)),), "a"),), ""), "blank_answer"),
        ],
    )
    def test_no_chain_can_be_made_that_would_not_parse(self, make: object, code: str) -> None:
        with pytest.raises(ChainError) as caught:
            make()
        assert caught.value.code == code

    def test_lists_become_tuples(self) -> None:
        region = Region([0, 0, 1, 1], 0.5)
        listed = Chain([Step([region], "a")], "b")
        assert listed == Chain((Step((region,), "a"),), "b")
        assert hash(listed) == hash(Chain((Step((region,), "a"),), "b"))

    def test_errors_travel_between_processes(self) -> None:
        error = pickle.loads(pickle.dumps(ChainError("no_step", 7, "empty")))
        assert (error.code, error.position, str(error)) == ("no_step", 7, "character 7: empty [no_step]")


VERDICTS = [
    ("", "missing_tag"),
    ("hello", "stray_text"),
    ("<think>", "missing_tag"),
    ("<think></think><answer>a</answer>", "no_step"),
    (f"<think>{AREA}</think><answer>a</answer>", "missing_tag"),
    (f"<think>{AREA}<text>a</text>", "missing_tag"),
    (f"<think>{AREA}<text>a</text></think>", "missing_tag"),
    (f"<think><text>a</text>{AREA}</think><answer>a</answer>", "missing_tag"),
    (f"<think>{AREA}{AREA}<text>a</text></think><answer>a</answer>", "missing_tag"),
    (f"<answer>a</answer><think>{AREA}<text>a</text></think>", "missing_tag"),
    (GOOD + "<answer>b</answer>", "missing_tag"),
    (GOOD + "more", "stray_text"),
    ("so: " + GOOD, "stray_text"),
    (GOOD.replace("</area>", "</area> then"), "stray_text"),
    (GOOD.replace("seen", "seen <area>"), "nested_tag"),
    (GOOD.replace("yes", "<think>"), "nested_tag"),
    (GOOD.replace("seen", " \t\n"), "blank_text"),
    (GOOD.replace("yes", ""), "blank_answer"),
    (GOOD.replace("<answer>yes", "<answer>yes<answer>"), "nested_tag"),
    (with_area(""), "bad_json"),
    (with_area("[0.1, 0.2"), "bad_json"),
    (with_area("[" * 100_000), "bad_json"),
    (with_area('{"bbox_2d":[0,0,1,1],"depth":0.5}'), "not_a_list"),
    (with_area("0.5"), "not_a_list"),
    (with_area("[]"), "no_region"),
    (with_area("[[0,0,1,1]]"), "not_a_region"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":0.5,"depth":0.5}]'), "duplicate_key"),
    (with_area('[{"bbox_2d":[0,0,1,1]}]'), "missing_key"),
    (with_area('[{"depth":0.5}]'), "missing_key"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":0.5,"label":"cat"}]'), "unknown_key"),
    (with_box("[0,0,1]"), "bad_box"),
    (with_box('"0,0,1,1"'), "bad_box"),
    (with_box('[0,0,1,"1"]'), "bad_box"),
    (with_box("[0,0,1,true]"), "bad_box"),
    (with_box("[0,0,1,null]"), "bad_box"),
    (with_box("{}"), "bad_box"),
    (with_box("[0,0,1,1.1]"), "box_range"),
    (with_box("[0,0,1,2]"), "box_range"),
    (with_box("[1.5,0,1,1]"), "box_range"),
    (with_box(f"[0,0,1,{'9' * 5000}]"), "box_range"),
    (with_box("[0.5,0,0.5,1]"), "box_order"),
    (with_box("[0,0.9,1,0.1]"), "box_order"),
    (with_box("[1e-05,0,1,1]"), "number_form"),
    (with_box("[-0.1,0,1,1]"), "number_form"),
    (with_box("[-0,0,1,1]"), "number_form"),
    (with_box("[0.1234,0,1,1]"), "number_form"),
    (with_box("[NaN,0,1,1]"), "number_form"),
    (with_box("[0,0,Infinity,1]"), "number_form"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":"near"}]'), "bad_depth"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":true}]'), "bad_depth"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":null}]'), "bad_depth"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":1.001}]'), "depth_range"),
    (with_area('[{"bbox_2d":[0,0,1,1],"depth":5e-1}]'), "number_form"),
]


class TestVerdicts:
    @pytest.mark.parametrize(("text", "code"), VERDICTS)
    def test_each_fault_has_its_code(self, text: str, code: str) -> None:
        assert check_chain(text)[0].code == code
        with pytest.raises(ChainError) as caught:
            parse_chain(text)
        assert caught.value.code == code

    def test_every_code_is_tried(self) -> None:
        assert {code for _, code in VERDICTS} == set(REASONS)

    @pytest.mark.parametrize(
        "text",
        [
            GOOD,
            f"\n {GOOD}\n",
            GOOD.replace("><", ">\u2003\n<"),
            with_box("[0,0,1,1]"),
            with_box("[0.0,0.00,1.000,1]"),
            *(with_area(f'[{{"bbox_2d":[0,0,1,1],"depth":{depth}}}]') for depth in ("0", "1", "1.000")),
            with_area(' [ { "depth" : 0.5 , "bbox_2d" : [ 0 , 0 , 1 , 1 ] } ] '),
            GOOD.replace("seen", "a < b & c > d <b>bold</b>"),
        ],
    )
    def test_what_is_fine(self, text: str) -> None:
        assert check_chain(text) == []

    def test_all_problems_of_the_contents_are_listed(self) -> None:
        text = '<think><area>[]</area><text></text><area>[{"depth":2}, 5]</area><text>a</text></think><answer></answer>'
        assert [p.code for p in check_chain(text)] == [
            "no_region",
            "blank_text",
            "missing_key",
            "not_a_region",
            "blank_answer",
        ]

    def test_positions_point_into_the_text(self) -> None:
        text = GOOD.replace("</area>", "</area> then ")
        assert text[check_chain(text)[0].position :].startswith("then")
        text = with_area("[0.1, x]")
        assert text[check_chain(text)[0].position :].startswith("x]")


class TestLenient:
    def test_well_formed_areas_survive_anything_else(self) -> None:
        text = f"rubbish {AREA} </think> <area>[1]</area> <area>{AREA}"
        assert len(find_regions(text)) == 2

    def test_words_belong_to_the_area_before_them(self) -> None:
        text = f"{AREA}<text>one</text>{AREA}{AREA}<text>three</text><text>stray</text>"
        assert [words for _, words in find_steps(text)] == ["one", "", "three"]
        assert [words for _, words in find_steps(f"{AREA}</think><text>not of the area</text>")] == [""]

    def test_an_area_that_another_tag_breaks_is_none(self) -> None:
        assert find_regions("<area>[<text></area>") == []

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("", None),
            ("<answer>a", None),
            ("<answer> </answer>", None),
            ("<answer>a</answer><answer>b</answer>", "b"),
            ("<answer>a</answer><answer>b", "a"),
        ],
    )
    def test_answers(self, text: str, answer: str | None) -> None:
        assert find_answer(text) == answer

    PIECES = (
        "<area>", "</area>", "<text>", "</text>", "<think>", "</think>", "<answer>", "</answer>",
        '[{"bbox_2d":[0,0,1,1],"depth":0.5}]', "x", " ", AREA, GOOD,
    )  # fmt: skip

    @given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
    @settings(max_examples=300)
    def test_strict_and_lenient_agree(self, text: str) -> None:
        reading = read_completion(text, opened=False)
        assert list(reading.areas) == find_regions(text)
        assert list(reading.problems) == check_chain(text)
        assert reading.answer == find_answer(text)
        if not reading.problems:
            assert [step.regions for step in parse_chain(text).steps] == list(reading.areas)

    JSON = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from([0, 0.5, 1, "0.5"]),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["bbox_2d", "depth", "x"]), inner),
        max_leaves=20,
    )

    @given(JSON)
    @settings(max_examples=300)
    def test_any_json_in_an_area_has_a_verdict(self, value: object) -> None:
        text = with_area(json.dumps(value))
        reading = read_completion(text)
        assert bool(reading.problems) != bool(reading.areas)

    @given(st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
    def test_rubbish_never_raises(self, text: str) -> None:
        read_completion(text)
        read_completion(with_area(text))


class TestFrames:
    """A completion is a chain as a chat template frames it; a chain alone stays strict."""

    AFTER = GOOD.removeprefix("<think>")

    @pytest.mark.parametrize(
        "text",
        [
            AFTER,  # the template wrote <think>
            f"\n{AFTER}",
            *(
                f"{GOOD}{end}"
                for end in ("<|im_end|>", "</s>", "<eos>", "<end_of_turn>\n", "<turn|>", "<|im_end|>\n<|endoftext|>")
            ),
            f"{GOOD}<|eot_id|>" + "<pad>" * 1000,
            f"{AFTER}<|im_end|>",
            f"\ufeff{GOOD}",
            f"\ufeff\n{AFTER}",
            *(
                f"{GOOD}{end}"
                for end in (
                    *("[EOS]", "[PAD]" * 1000, "[SEP]", "[/INST]", "<eot>", "<eoa>\n", "<eom>", "<EOS>", "<end_of_text>"),
                    *("\0", "\0" * 1000, "\n\0\n", "\ufeff", "<|im_end|>\0", "[EOS]\n<eot>"),
                )
            ),
        ],
    )
    def test_the_template_and_the_decoder_cost_nothing(self, text: str) -> None:
        reading = read_completion(text)
        assert (reading.problems, reading.areas, reading.answer) == (
            (), read_completion(GOOD).areas, find_answer(GOOD),
        )  # fmt: skip
        assert check_chain(text), "parse_chain and check_chain read chains, not completions"

    @pytest.mark.parametrize(
        ("text", "opened", "code"),
        [
            (AFTER, False, "missing_tag"),  # this template writes no <think>, so the model must
            (GOOD, True, "missing_tag"),  # this one does, and the model wrote it again
            (f"<think>{GOOD}", None, "missing_tag"),
            (f"Sure! {AFTER}", None, "stray_text"),
            (f"{GOOD}<|im_end|> and more", None, "stray_text"),
            (f"<|im_start|>{GOOD}", None, "stray_text"),
            (f"{GOOD}</answer>", None, "missing_tag"),
            (f"{GOOD}[EOS] and more", None, "stray_text"),
            (f"{GOOD}[1]", None, "stray_text"),
            (f"{GOOD}<b>", None, "stray_text"),
            (f"\0{GOOD}", None, "stray_text"),
            (f"a\ufeff{GOOD}", None, "stray_text"),
        ],
    )
    def test_nothing_else_is_forgiven(self, text: str, opened: bool | None, code: str) -> None:
        assert read_completion(text, opened=opened).problems[0].code == code


HOSTILE = {
    "NULs": GOOD + "\0" * 1_000_000,
    "NULs and a word": GOOD + "\0" * 1_000_000 + "a",
    "end tokens": GOOD + "<|im_end|> " * 100_000,
    "a megabyte of areas": "<area>" * 160_000,
    "areas in a chain": "<think>" + "<area>" * 160_000,
    "open and shut": "<area></area>" * 80_000,
    "answers": "<answer>a</answer>" * 60_000,
    "spaces": "<think>" + " " * 1_000_000,
    "brackets": with_area("[" * 500_000 + "]" * 500_000),
    "braces": with_area('{"a":' * 200_000),
    "a long number": with_box(f"[0,0,1,0.{'1' * 1_000_000}]"),
    "a long string": with_area('["' + "a" * 1_000_000),
    "many regions": with_area("[" + ",".join(['{"bbox_2d":[0,0,1,1],"depth":0.5}'] * 100_000) + "]"),
    "many bad regions": with_area("[" + ",".join(['{"bbox_2d":[0,0,1],"depth":0.5}'] * 100_000) + "]"),
    "many steps": "<think>" + f"{AREA}<text>a</text>" * 20_000 + "</think><answer>a</answer>",
    "less-thans": "<" * 1_000_000,
    "a deep side": with_area('[{"bbox_2d":[0,0,1,' + '{"a":' * 700 + "1" + "}" * 700 + '],"depth":0.5}]'),
    "a deep depth": with_area('[{"bbox_2d":[0,0,1,1],"depth":' + '{"a":' * 700 + "1" + "}" * 700 + "}]"),
    "a deep box": with_area('[{"bbox_2d":' + "[" * 900 + "]" * 900 + ',"depth":0.5}]'),
}


class TestHostileText:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_reading_never_raises(self, name: str) -> None:
        read_completion(HOSTILE[name])
        find_steps(HOSTILE[name])

    @pytest.mark.parametrize("name", ["a megabyte of areas", "open and shut", "many regions", "many steps", "less-thans"])
    def test_work_grows_in_proportion(self, name: str) -> None:
        """Eight times the text is about eight times the work; a quadratic reader would do sixty-four times as much."""
        text = HOSTILE[name]
        eighth = text[: len(text) // 8]
        if name == "many regions":
            eighth = with_area("[" + ",".join(['{"bbox_2d":[0,0,1,1],"depth":0.5}'] * 12_500) + "]")

        def seconds(subject: str) -> float:
            best = float("inf")
            gc.disable()  # its cost grows with whatever else this process holds
            try:
                for _ in range(3):
                    started = time.process_time()
                    find_regions(subject)
                    best = min(best, time.process_time() - started)
            finally:
                gc.enable()
            return best

        assert seconds(text) < 24 * seconds(eighth) + 0.05
