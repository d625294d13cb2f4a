from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.endpoint import Endpoint
from sifthinker.judges import ModelJudge, Question, judge, normalise

from .stand_in import serve

ANIMALS = ("a cat", "a dog", "two dogs")


@pytest.mark.parametrize(
    ("answer", "truth", "choices", "score", "rule"),
    [
        # multiple choice: letter, letter with brackets or stop, text, text inside a sentence
        ("B", "B", (), 1, "choice"),
        ("(b)", "B", (), 1, "choice"),
        ("B. a dog", "B", (), 1, "choice"),
        ("A", "B", (), 0, "choice"),
        ("a dog", "B", (), 0, "choice"),
        ("B", "a dog", ANIMALS, 1, "choice"),
        ("(C)", "a dog", ANIMALS, 0, "choice"),
        ("The dog.", "a dog", ANIMALS, 1, "choice"),
        ("It is a cat", "a dog", ANIMALS, 0, "choice"),
        ("a cat or a dog", "a dog", ANIMALS, 0, "choice"),
        ("Z", "a dog", ANIMALS, 0, "choice"),
        ("in front", "behind", ("in front", "behind"), 0, "choice"),
        ("...", "A", ("A", "B", "C", "D"), 0, "choice"),
        ("the", "A", ("A", "B", "C", "D"), 0, "choice"),
        ("a", "A", ("A", "B", "C", "D"), 1, "choice"),
        ("-", "+", ("+", "-"), 0, "choice"),
        ("two", "2", ("1", "2", "3", "4"), 1, "choice"),
        ("There are 2 of them.", "2", ("1", "2", "3", "4"), 1, "choice"),
        ("-", "+", (), 0, "token_f1"),
        ("it is behind", "behind", ("in front", "behind"), 1, "choice"),
        # nothing is chosen by saying what it is not, or two things at once
        ("not red", "red", ("red", "blue"), 0, "choice"),
        ("It isn't red.", "red", ("red", "blue"), 0, "choice"),
        ("It isn’t the red one", "red", ("red", "blue"), 0, "choice"),
        ("It is the red one, not the green one", "red", ("red", "blue"), 1, "choice"),
        ("not 3", "3", ("3", "4"), 0, "choice"),
        ("yes or no", "yes", ("yes", "no"), 0, "choice"),
        ("not sure", "not sure", ("sure", "not sure"), 1, "choice"),
        ("No, it is not.", "no", ("yes", "no"), 1, "choice"),
        ("(A) or (B)", "red", ("red", "blue"), 0, "choice"),
        ("A. or B.", "A", (), 0, "choice"),
        ("A. Vitamin C", "A", (), 1, "choice"),
        # a word that begins with a letter of the alphabet is no letter
        ("Bananas", "B", (), 0, "choice"),
        # yes or no
        ("Yes", "yes", (), 1, "yes_no"),
        ("yes, it is", "Yes.", (), 1, "yes_no"),
        ("No", "yes", (), 0, "yes_no"),
        ("Maybe yes", "yes", (), 0, "yes_no"),
        # numbers, in words and digits
        ("4", "4", (), 1, "number"),
        ("four", "4", (), 1, "number"),
        ("There are four dogs.", "4", (), 1, "number"),
        ("4.0", "4", (), 1, "number"),
        ("1,200", "1200", (), 1, "number"),
        ("twenty-one", "21", (), 1, "number"),
        ("twenty one", "21", (), 1, "number"),
        ("3 or 4", "4", (), 0, "number"),
        ("five", "4", (), 0, "number"),
        ("44", "4", (), 0, "number"),
        ("", "4", (), 0, "number"),
        (".5", "0.5", (), 1, "number"),
        (".5", "5", (), 0, "number"),
        ("minus 7", "-7", (), 1, "number"),
        ("negative seven", "7", (), 0, "number"),
        ("one hundred", "1", (), 0, "number"),
        ("a hundred and twenty-one", "121", (), 1, "number"),
        ("two thousand and twelve", "2012", (), 1, "number"),
        ("one million three hundred thousand six", "1300006", (), 1, "number"),
        ("1.5 million", "1500000", (), 1, "number"),
        ("twenty thirty", "20", (), 0, "number"),
        ("no one", "1", (), 0, "number"),
        ("No one.", "0", (), 1, "number"),
        # text
        ("The silver car.", "silver car", (), 1, "exact"),
        ("Fallen leaves", "fallen leaves", (), 1, "exact"),
        ("the car", "The silver car.", (), 2 * 1 / (1 + 2), "token_f1"),
        ("bus", "The silver car.", (), 0, "token_f1"),
        ("", "The silver car.", (), 0, "token_f1"),
    ],
)
def test_rules(answer: str, truth: str, choices: tuple[str, ...], score: float, rule: str) -> None:
    verdict = judge(answer, truth, choices)
    assert verdict.score == pytest.approx(score)
    assert verdict.rule == rule
    assert verdict.reason


def test_a_truth_outside_its_choices_is_judged_as_open() -> None:
    assert judge("a fish", "a fish", ANIMALS).rule == "exact"


@given(st.text(max_size=40), st.text(max_size=40), st.lists(st.text(max_size=10), max_size=4))
def test_no_text_raises_and_scores_stay_in_range(answer: str, truth: str, choices: list[str]) -> None:
    assert 0 <= judge(answer, truth, tuple(choices)).score <= 1


@given(st.sampled_from(["a cat", "No", "yes", "12", "seven", "(B)", "the red ball", "A. dog"]))
def test_the_truth_is_right(truth: str) -> None:
    assert judge(truth, truth).score == 1


def test_normalise() -> None:
    assert normalise("  The  Dog's, 3.5 kg -- really! ") == "dogs 3.5 kg really"


class TestModelJudge:
    """Free text goes to a served model; closed questions never do."""

    def questions(self) -> list[Question]:
        return [
            Question("What is it?", "a dark feline", "black cat"),  # no rule decides
            Question("What is it?", "black cat", "black cat"),
            Question("Is it?", "yes", "no"),
            Question("What is it?", "a dark feline", "black cat"),  # again: asked once
        ]

    def test_only_what_rules_leave_open_is_asked(self, tmp_path: Path) -> None:
        with serve(lambda request, number: "0.8") as (url, requests):
            judge = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            scores = [verdict.score for verdict in judge.judge_all(self.questions())]
            assert scores == [0.8, 1, 0, 0.8]
            assert len(requests) == 1
            assert "dark feline" in requests[0]["messages"][1]["content"]
            again = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            assert [verdict.score for verdict in again.judge_all(self.questions())] == scores
            assert len(requests) == 1
        assert (judge.counts.rules, judge.counts.model, again.counts.cached) == (2, 1, 1)

    @pytest.mark.parametrize("said", ["I cannot say", "", "7", "between 0 and 1", (500, {}, ""), (200, {}, "<html>")])
    def test_failure_is_no_verdict_and_not_kept(self, tmp_path: Path, said: object) -> None:
        with serve(lambda request, number: said) as (url, _):
            judge = ModelJudge(Endpoint(url, "j", max_retries=1, backoff_s=0.01), cache=tmp_path)
            assert judge.judge_all(self.questions()[:1]) == [None]
        assert judge.counts.failed == 1
        assert not list(tmp_path.rglob("*.json"))

    @pytest.mark.parametrize(("said", "score"), [("1", 1), ("0", 0), ("Score: 0.5.", 0.5), ("1.0", 1)])
    def test_what_counts_as_a_score(self, said: str, score: float) -> None:
        with serve(lambda request, number: said) as (url, _):
            (verdict,) = ModelJudge(Endpoint(url, "j")).judge_all(self.questions()[:1])
        assert verdict.score == score

    def test_a_broken_cache_is_asked_anew(self, tmp_path: Path) -> None:
        with serve(lambda request, number: "1") as (url, requests):
            judge = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            judge.judge_all(self.questions()[:1])
            (file,) = tmp_path.rglob("*.json")
            file.write_text("rubbish")
            judge.judge_all(self.questions()[:1])
            assert len(requests) == 2
