from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.judges import judge, normalise

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
        ("it is behind", "behind", ("in front", "behind"), 1, "choice"),
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
