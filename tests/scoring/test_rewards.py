from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker import chain as chain_module
from sifthinker.boxes import round_boxes
from sifthinker.chain import Chain, Region, Step, read_completion, render_chain
from sifthinker.depth import DepthMap
from sifthinker.endpoint import Endpoint
from sifthinker.errors import BoxError, ConfigError, RecordError, SIFError
from sifthinker.scoring.judge import ModelJudge
from sifthinker.scoring.rewards import (
    Reference,
    as_correction,
    reference_from,
    score_answer,
    score_completion,
    score_depth,
    score_grounding,
)
from sifthinker.scoring.trl import (
    AnswerReward,
    GroundingReward,
    Ledger,
    answer_reward,
    completion_text,
    depth_reward,
    format_reward,
    grounding_reward,
)

from ..stand_in import serve

HALF = DepthMap(np.full((10, 10), 0.5))


def chain(*areas: list[tuple[tuple[float, float, float, float], float]], answer: str = "cat") -> str:
    steps = [Step(tuple(Region(box, depth) for box, depth in area), "seen") for area in areas]
    return render_chain(Chain(tuple(steps), answer))


WHOLE = [((0, 0, 1, 1), 0.5)]
LEFT = [((0, 0, 0.5, 1), 0.5)]
LEFT_TOP = [((0, 0, 0.5, 0.5), 0.5)]
RIGHT = [((0.5, 0, 1, 1), 0.5)]

# Corners of any box, in tenths.
CORNERS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)).map(
    lambda b: (b[0] / 10, b[1] / 10, min(1.0, (b[0] + b[2]) / 10), min(1.0, (b[1] + b[3]) / 10))
)


class TestGrounding:
    """Targets: the left half. HIoU: left 1, whole 0.5, its upper half 0.5, right 0."""

    @pytest.mark.parametrize(
        ("areas", "start", "end", "value"),
        [
            ([WHOLE, LEFT], 1, 1, 1),  # right at once: nothing to correct
            ([WHOLE, RIGHT, LEFT], 0, 1, 2),  # corrected: 1 + (1 − 0)
            ([WHOLE, LEFT_TOP, LEFT], 0.5, 1, 1.5),
            ([WHOLE, LEFT, RIGHT], 1, 0, 0),  # lost: no penalty below 0
            ([WHOLE], 0.5, 0.5, 0.5),  # never focused
            ([LEFT_TOP, WHOLE], 0.5, 0.5, 0.5),
            ([[*WHOLE, *LEFT], LEFT], 0.5, 1, 1.5),  # the whole image and more is a focus: sets 1/2, pairs 1 of 2
        ],
    )
    def test_by_hand(self, areas: list, start: float, end: float, value: float) -> None:
        score = score_grounding(read_completion(chain(*areas)), [[0, 0, 0.5, 1]])
        assert (score.parts["start"], score.parts["end"], score.value) == pytest.approx((start, end, value))

    def test_no_area(self) -> None:
        score = score_grounding(read_completion("no chain"), [[0, 0, 0.5, 1]])
        assert (score.value, score.reasons) == (0, ("no_area",))

    def test_the_releases_denominator(self) -> None:
        twice = read_completion(chain([*LEFT, *LEFT]))
        assert score_grounding(twice, [[0, 0, 0.5, 1]]).value == pytest.approx(0.75)
        assert score_grounding(twice, [[0, 0, 0.5, 1]], denominator="min").value == pytest.approx(1)

    @given(st.integers(1, 99), st.integers(1, 99))
    def test_monotone_in_overlap(self, a: int, b: int) -> None:
        narrow, wide = sorted((a, b))
        values = [
            score_grounding(read_completion(chain([((0, 0, side / 100, 1), 0.5)])), [[0, 0, 1, 1]]).value
            for side in (narrow, wide)
        ]
        assert values[0] <= values[1]


class TestDepth:
    @pytest.mark.parametrize(
        ("stated", "value"),
        [(0.5, 1), (0.55, 1), (0.45, 1), (0.551, 0), (0.449, 0)],  # within a tenth of 0.5, bounds included
    )
    def test_tolerance(self, stated: float, value: float) -> None:
        assert score_depth(read_completion(chain([((0, 0, 1, 1), stated)])), HALF).value == value

    def test_share_over_all_areas(self) -> None:
        text = chain([((0, 0, 1, 1), 0.5), ((0, 0, 0.5, 1), 0.9)], [((0, 0, 1, 1), 0.52)], LEFT)
        assert score_depth(read_completion(text), HALF).value == pytest.approx(3 / 4)

    def test_nearest_depths_have_a_floor(self) -> None:
        # True depth 0 counts as 1/255 = 0.0039: 0.004 is within a tenth of it, 0.003 and 0 are not.
        near = DepthMap(np.zeros((4, 4)))
        assert score_depth(read_completion(chain([((0, 0, 1, 1), 0.004)])), near).value == 1
        assert score_depth(read_completion(chain([((0, 0, 1, 1), 0.003)])), near).value == 0
        assert score_depth(read_completion(chain([((0, 0, 1, 1), 0.0)])), near).value == 0

    def test_holes_are_left_out(self) -> None:
        valid = np.zeros((2, 2), dtype=bool)
        valid[:, 0] = True
        depth = DepthMap(np.full((2, 2), 0.5), valid)
        score = score_depth(read_completion(chain(LEFT, RIGHT)), depth)
        assert (score.value, score.parts["regions"]) == (1, 1)
        assert score_depth(read_completion(chain(RIGHT)), depth).value is None

    def test_repeats_are_counted_once(self) -> None:
        whole, wrong = ((0, 0, 1, 1), 0.5), ((0, 0, 0.5, 1), 0.9)
        padded = chain(*[[whole]] * 20, [wrong])  # once: 1 of 2; every time: 20 of 21
        assert score_depth(read_completion(padded), HALF).value == pytest.approx(1 / 2)
        assert score_depth(read_completion(padded), HALF, repeats=True).value == pytest.approx(20 / 21)
        # The first statement of a box counts, also within one area.
        assert score_depth(read_completion(chain([whole, ((0, 0, 1, 1), 0.9)])), HALF).value == 1
        assert score_depth(read_completion(chain([((0, 0, 1, 1), 0.9), whole])), HALF).value == 0
        listed = chain([whole] * 20 + [wrong])  # the same within one area
        assert score_depth(read_completion(listed), HALF).value == pytest.approx(1 / 2)
        assert score_depth(read_completion(listed), HALF, repeats=True).value == pytest.approx(20 / 21)
        # Another depth for the same boxes is a repetition too, and the first statement counts.
        corrected = chain([wrong], [((0, 0, 0.5, 1), 0.5)])
        assert score_depth(read_completion(corrected), HALF).value == 0
        assert depth_reward([padded], [HALF], repeats=True) == [pytest.approx(20 / 21)]

    @given(
        st.lists(st.lists(st.tuples(CORNERS, st.sampled_from([0.5, 0.9])), min_size=1, max_size=3), min_size=1, max_size=4)
    )
    def test_repeating_an_area_earns_nothing(self, areas: list) -> None:
        plain = score_depth(read_completion(chain(*areas)), HALF).value
        for index, area in enumerate(areas):
            repeated = chain(*areas[: index + 1], area, *areas[index + 1 :])
            assert score_depth(read_completion(repeated), HALF).value == plain

    def test_without_areas_or_depth(self) -> None:
        assert score_depth(read_completion("none"), HALF).value == 0
        assert score_depth(read_completion(chain(LEFT)), None).value is None


class TestTermsOfGrounding:
    def test_correction_can_be_left_out(self) -> None:
        # From the right half, IoU 0, to the left half, IoU 1: 1 + (1 − 0), or 1 alone.
        columns = {"completions": [chain(RIGHT, LEFT)], "boxes": [[[0, 0, 0.5, 1]]]}
        assert grounding_reward(**columns) == [2]
        assert grounding_reward(**columns, correction="off") == grounding_reward(**columns, correction=False) == [1]

    def test_corrections_by_name(self) -> None:
        assert [as_correction(value) for value in ("own", "group", "off", True, False)] == [
            "own",
            "group",
            "off",
            "own",
            "off",
        ]
        for value in ("Own", 1, 0, 1.0, None):
            with pytest.raises(ConfigError, match="must be own, group or off"):
                as_correction(value)

    def test_a_group_is_measured_against_its_others(self) -> None:
        # Starts: 0 (right half), 1 (left half), 1/2 (both halves: whole against half). Ends: 1, 1, 1/2.
        both = [((0, 0, 0.5, 1), 0.5), ((0.5, 0, 1, 1), 0.5)]
        completions = [chain(RIGHT, LEFT), chain(LEFT), chain(both), "no area"]
        columns = {"boxes": [[[0, 0, 0.5, 1]]] * 4, "id": ["a"] * 4}
        # The others' mean start: (1 + 1/2) / 2 = 3/4; (0 + 1/2) / 2 = 1/4; (0 + 1) / 2 = 1/2. What has no area is no start.
        assert grounding_reward(completions, **columns, correction="group") == pytest.approx(
            [1 + 1 / 4, 1 + 3 / 4, 1 / 2, 0]
        )
        # A group of its own has no others, and no gain.
        apart = {**columns, "id": ["a", "b", "c", "d"]}
        assert grounding_reward(completions, **apart, correction="group") == pytest.approx([1, 1, 1 / 2, 0])
        with pytest.raises(ConfigError, match="needs a column `id`"):
            grounding_reward(completions, columns["boxes"], correction="group")
        with pytest.raises(ConfigError, match="own, group or off, got 'mine'"):
            grounding_reward(completions, columns["boxes"], correction="mine")

    def test_a_group_may_be_spread_over_processes(self) -> None:
        here = GroundingReward(correction="group")
        here.gather = lambda pairs: [*pairs, ("a", 0.5), ("b", 1.0)]  # two more from another process
        assert here([chain(LEFT)], [[[0, 0, 0.5, 1]]], id=["a"]) == [1.5]

    @given(st.lists(CORNERS, max_size=5), st.lists(st.floats(0, 1), max_size=7))
    def test_no_added_area_raises_a_perfect_chain(self, decoys: list, others: list) -> None:
        # Under `own` a decoy does: from 4.0 to 5.0.
        truth, steps = [[0, 0, 0.5, 1]], [[(corners, 0.5)] for corners in decoys]
        perfect = read_completion(chain(LEFT))
        longer = read_completion(chain(*steps, LEFT))
        settings = {"correction": "group", "others": others}
        best = score_grounding(perfect, truth, **settings).value + score_depth(perfect, HALF).value
        assert score_grounding(longer, truth, **settings).value + score_depth(longer, HALF).value <= best
        assert score_grounding(read_completion(chain(RIGHT, LEFT)), truth).value == 2

    def test_where_the_focus_starts_and_ends_is_logged(self) -> None:
        logged: dict[str, float] = {}
        grounding_reward([chain(RIGHT, LEFT), chain(LEFT), "none"], [[[0, 0, 0.5, 1]]] * 3, log_metric=logged.__setitem__)
        assert logged == {"chain/first_hiou": 0.5, "chain/final_hiou": 1.0}

    def test_the_release_divides_by_the_smaller_number_of_boxes(self) -> None:
        # Two boxes for one: sets 1/2; pairs 1/2 of two or 1 of one. (1/2 + 1/2) / 2 and (1/2 + 1) / 2.
        both = chain([((0, 0, 0.5, 1), 0.5), ((0.5, 0, 1, 1), 0.5)])
        columns = {"completions": [both], "boxes": [[[0, 0, 0.5, 1]]]}
        assert grounding_reward(**columns) == [0.5]
        assert grounding_reward(**columns, denominator="min") == [0.75]


class TestAnswer:
    @pytest.mark.parametrize(
        ("answer", "previous", "value"),
        [
            ("cat", None, 1),  # first visit: s alone
            ("cat", 0.25, 1.75),  # 1 + (1 − 0.25)
            ("cat", 0.0, 2),  # a group that was wholly wrong is no first visit: 1 + (1 − 0)
            ("cat", 1.0, 1),
            ("dog", 0.25, 0),
            ("a black cat", 0.25, 2 / 3 + (2 / 3 - 0.25)),  # one word of two shared: F1 = 2·1 / (2 + 1)
        ],
    )
    def test_by_hand(self, answer: str, previous: float | None, value: float) -> None:
        found = score_answer(read_completion(chain(LEFT, answer=answer)), "cat", previous=previous)
        assert found.value == pytest.approx(value)

    def test_no_answer(self) -> None:
        score = score_answer(read_completion("<answer>cat"), "cat")
        assert (score.value, score.reasons) == (0, ("no_answer",))

    def test_a_judge_that_fails_gives_no_score(self) -> None:
        score = score_answer(read_completion(chain(LEFT)), "cat", previous=0.5, verdict=None)
        assert (score.value, score.reasons) == (None, ("no_verdict",))

    def test_a_judge_is_asked_about_answers_alone(self) -> None:
        """No rule decides the first, the judge says 0.5; the second has no answer; of the third there is no verdict."""
        said = ["a dark feline", None, "a moggy"]
        completions = [chain(LEFT) if text is None else chain(LEFT, answer=text) for text in said]
        completions[1] = completions[1].replace("</answer>", "")
        with serve(lambda request, number: "?" if "moggy" in request["messages"][1]["content"] else "0.5") as (
            url,
            requests,
        ):
            reward = AnswerReward(judge=ModelJudge(Endpoint(url, "j", max_retries=0)))
            found = reward(completions, id=["a"] * 3, answer=["black cat"] * 3, problem=["What is it?"] * 3)
        assert found == [0.5, 0, None]
        assert len(requests) == 2
        assert all("What is it?" in request["messages"][1]["content"] for request in requests)
        assert reward.ledger.to_json() == {"a": 0.25}  # (0.5 + 0) / 2: what was not judged does not count

    def test_the_ledger_remembers_the_group(self) -> None:
        reward = AnswerReward()
        right, wrong = chain(LEFT, answer="cat"), chain(LEFT, answer="dog")
        # First visit: s alone, for every member of the group.
        assert reward([right, wrong, wrong, wrong], id=["a"] * 4, answer=["cat"] * 4) == [1, 0, 0, 0]
        # Second: the group's mean was 1/4.
        assert reward([right, wrong], id=["a"] * 2, answer=["cat"] * 2) == [1.75, 0]
        # Third: it was 1/2. Another sample is on its first visit.
        assert reward([right, right], id=["a", "b"], answer=["cat"] * 2) == [1.5, 1]
        assert reward.ledger.to_json() == {"a": 1, "b": 1}

    def test_progress_can_be_left_out(self) -> None:
        reward = AnswerReward(Ledger({"a": 0.25}), progress=False)
        assert reward([chain(LEFT)], id=["a"], answer=["cat"]) == [1]
        assert reward.ledger.to_json() == {"a": 1}

    def test_evaluation_leaves_the_ledger_alone(self) -> None:
        reward = AnswerReward(Ledger({"a": 0.5}))
        reward.recording = False
        assert reward([chain(LEFT)], id=["a"], answer=["cat"]) == [1.5]
        assert reward.ledger.to_json() == {"a": 0.5}


class TestReferences:
    @pytest.mark.parametrize("boxes", [[], [[10, 20, 30, 40]], [[0.5, 0.5, 0.4, 0.6]], [[0, 0, float("nan"), 1]]])
    @pytest.mark.parametrize("text", ["rubbish", chain(WHOLE, LEFT)])
    def test_boxes_that_no_chain_could_match_are_refused(self, boxes: list, text: str) -> None:
        with pytest.raises(BoxError):
            score_completion(text, Reference("cat", boxes, HALF))

    @pytest.mark.parametrize(
        "change", [{"answer": None}, {"answer": True}, {"depth": 0.5}, {"boxes": [[0, 0, 640, 480]]}, {"boxes": []}]
    )
    def test_rows_that_are_no_reference(self, change: dict) -> None:
        with pytest.raises(SIFError):
            reference_from({"answer": "cat", "boxes": [[0, 0, 1, 1]], **change})

    def test_choices_may_be_an_array_or_numbers(self) -> None:
        row = {"answer": 1, "boxes": [[0, 0, 1, 1]]}
        for choices in (np.array(["1", "2"]), [1, 2], "1\n2", ("1", "2")):
            assert reference_from({**row, "choices": choices}).choices == ("1", "2")
        for choices in (None, "", [], np.array([])):
            assert reference_from({**row, "choices": choices}).choices == ()


class TestTogether:
    def test_a_right_chain(self) -> None:
        scores = score_completion(chain(WHOLE, RIGHT, LEFT), Reference("cat", [[0, 0, 0.5, 1]], HALF))
        assert [scores.format.value, scores.answer.value, scores.grounding.value, scores.depth.value] == [1, 1, 2, 1]
        assert scores.total == 5

    def test_rubbish_scores_nothing_with_reasons(self) -> None:
        scores = score_completion("I think it is a cat", Reference("cat", [[0, 0, 0.5, 1]], HALF))
        assert scores.total == 0
        assert scores.format.reasons == ("stray_text",)
        assert scores.answer.reasons == ("no_answer",)
        assert scores.grounding.reasons == scores.depth.reasons == ("no_area",)

    def test_rgb_only(self) -> None:
        text = render_chain(Chain((Step((Region((0, 0, 0.5, 1)),), "seen"),), "cat"))
        scores = score_completion(text, Reference("cat", [[0, 0, 0.5, 1]]))
        assert (scores.format.value, scores.depth.value, scores.total) == (1, None, 3)

    @given(st.lists(st.tuples(*[st.integers(0, 99)] * 4), min_size=1, max_size=4), st.randoms())
    def test_the_gold_chain_is_maximal_and_order_does_not_matter(self, corners: list, draw: object) -> None:
        boxes = [[min(a, c) / 100, min(b, d) / 100, (max(a, c) + 1) / 100, (max(b, d) + 1) / 100] for a, b, c, d in corners]
        boxes = np.unique(round_boxes(boxes), axis=0).tolist()
        depth = DepthMap(0.1 + 0.9 * np.random.default_rng(0).random((20, 20)))

        def regions(order: list) -> list:
            return [(tuple(box), float(depth.mean([box])[0])) for box in order]

        gold = score_completion(chain(WHOLE, regions(boxes)), Reference("cat", boxes, depth))
        shuffled = boxes.copy()
        draw.shuffle(shuffled)
        other = score_completion(chain(WHOLE, regions(shuffled)), Reference("cat", boxes, depth))
        assert gold.format.value == gold.answer.value == 1
        assert gold.grounding.parts["end"] == pytest.approx(1)
        assert gold.total == pytest.approx(other.total)
        spurious = score_completion(
            chain(WHOLE, [*regions(boxes), ((0, 0, 0.005, 0.005), 0.5)]), Reference("cat", boxes, depth)
        )
        assert spurious.grounding.value < gold.grounding.value

    PIECES = (
        "<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>", "cat", " ", "",
        '[{"bbox_2d":[0,0,0.5,1],"depth":0.5}]', '[{"bbox_2d":[0.2,0.2,0.9,0.9],"depth":0.1}]', "[", "{", "0.5", "NaN",
        '[{"bbox_2d":[0,0,0.5,1],"depth":' + '{"a":' * 600 + "1" + "}" * 600 + "}]",
    )  # fmt: skip

    @given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
    def test_nothing_that_a_model_writes_raises(self, text: str) -> None:
        columns = {"answer": ["cat"], "boxes": [[[0, 0, 0.5, 1]]], "depth": [HALF], "id": ["a"]}
        for reward in (format_reward, answer_reward, grounding_reward, depth_reward, AnswerReward(Ledger({"a": 0.5}))):
            (value,) = reward(completions=[text], **columns)
            assert 0 <= value <= 2
        score_completion(text, Reference("cat", [[0, 0, 0.5, 1]], HALF), previous=0.5)

    def test_mutated_completions(self) -> None:
        """Twenty thousand of them; the slow test takes a million."""
        fuzz(20_000)

    @pytest.mark.slow
    def test_a_million_mutated_completions(self) -> None:
        fuzz(1_000_000)


def fuzz(count: int) -> None:
    """Cut, repeat, swap and overwrite pieces of valid chains; every score must stay in its range and none may raise."""
    draw = random.Random(0)
    seeds = [chain(WHOLE, RIGHT, LEFT), chain(WHOLE, [*LEFT, *RIGHT], LEFT_TOP, answer="a cat")]
    letters = '<>/[]{}",:.-0123456789 \nacehiknrtwx\u2028\ud800é'
    reference = Reference("cat", [[0, 0, 0.5, 1]], HALF)
    for _ in range(count):
        text = draw.choice(seeds)
        for _ in range(draw.randint(1, 4)):
            a, b = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
            kind = draw.randrange(4)
            if kind == 0:
                text = text[:a] + text[b:]
            elif kind == 1:
                text = text[:b] + text[a:b] + text[b:]
            elif kind == 2:
                text = text[:a] + draw.choice(letters) + text[a + 1 :]
            else:
                text = text[b:] + text[a:b] + text[:a]
        scores = score_completion(text, reference, previous=0.5)
        assert scores.format.value in (0, 1)
        assert 0 <= scores.answer.value <= 1.5
        assert 0 <= scores.grounding.value <= 2
        assert 0 <= scores.depth.value <= 1


class TestTRLFunctions:
    def test_every_form_of_completion(self, tmp_path) -> None:
        HALF.write(tmp_path / "d.png")
        text = chain(WHOLE, LEFT)
        forms = [
            text,
            [{"role": "assistant", "content": text}],
            [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
        ]
        columns = {
            "prompts": ["p"] * 3,
            "answer": ["cat"] * 3,
            "boxes": [[[0, 0, 0.5, 1]]] * 3,
            "depth": [str(tmp_path / "d.png"), HALF, None],
            "trainer_state": None,
        }
        assert format_reward(completions=forms, **columns) == [
            1,
            1,
            0,
        ]  # the last is RGB only: depths are a fault there
        assert answer_reward(completions=forms, **columns) == [1, 1, 1]
        assert grounding_reward(completions=forms, **columns) == [1, 1, 0]
        assert depth_reward(completions=forms, **columns) == [1, 1, None]
        assert format_reward(completions=forms) == [1, 1, 1]

    def test_choices_may_be_a_column_of_any_kind(self) -> None:
        for column in (["red\nblue"], np.array(["red\nblue"]), np.array([["red", "blue"]]), [["red", "blue"]]):
            assert answer_reward([chain(LEFT, answer="B")], ["blue"], column) == [1], column
        for column in (None, [], np.array([]), [""]):
            assert answer_reward([chain(LEFT, answer="B")], ["blue"], column) == [0], column

    def test_an_empty_batch(self) -> None:
        assert format_reward([]) == answer_reward([], []) == grounding_reward([], []) == depth_reward([], []) == []

    def test_completion_text(self) -> None:
        assert completion_text([]) == ""
        assert completion_text([{"role": "assistant", "content": None}]) == ""
        parts = [
            {"type": "text", "text": "a"},
            {"type": "image"},
            {"type": "text", "text": None},
            {"type": "text", "text": "b"},
        ]
        assert completion_text([{"role": "assistant", "content": parts}, {"role": "tool"}]) == "ab"


def test_a_completion_is_parsed_once_for_all_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    class Watched(chain_module._Scan):
        def __init__(self, text: str, *given: Any) -> None:
            parsed.append(text)
            super().__init__(text, *given)

    monkeypatch.setattr(chain_module, "_Scan", Watched)
    texts = [
        render_chain(Chain((Step((Region(LEFT[0][0], 0.5),), f"Thing {number}."),), f"{number}")) for number in range(3)
    ]
    columns: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "answer": ["0", "1", "2"],
        "boxes": [[LEFT[0][0]]] * 3,
        "depth": [DepthMap(np.full((4, 4), 0.5))] * 3,
    }
    for reward in (format_reward, AnswerReward(), answer_reward, GroundingReward(), depth_reward):
        assert reward([[{"role": "assistant", "content": text}] for text in texts], **columns) != [0, 0, 0]
    assert sorted(parsed) == sorted(texts)


def test_what_is_given_in_place_of_text() -> None:
    """A number is a fine answer, as in records; everything else that is no text is the caller's mistake."""
    assert Reference(4, [[0, 0, 0.5, 1]]).answer == "4"  # type: ignore[arg-type]
    for answer in (None, True, ["cat"]):
        with pytest.raises(RecordError, match="answer must be text, got "):
            Reference(answer, [[0, 0, 0.5, 1]])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="text must be the completion as text, got None"):
        score_completion(None, Reference("cat", [[0, 0, 0.5, 1]]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="reference must be a Reference, got 'cat'"):
        score_completion("x", "cat")  # type: ignore[arg-type]
