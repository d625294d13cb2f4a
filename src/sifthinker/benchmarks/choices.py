"""The options of published multiple-choice questions: read out of a question's text, put in an order, named by letters."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_uppercase

from sifthinker.errors import RecordError
from sifthinker.evaluation.questions import Question
from sifthinker.records import shown

_MARK = re.compile(r"\(([A-Z])\)\s*")
_LINE = re.compile(r"^[ \t]*([A-Z])[.:)][ \t]+", re.MULTILINE)
_SENTENCE_END = re.compile(r"[?.!:\n][ \t]*$")
_INSTRUCTION = re.compile(r"\s*\bAnswer with the option'?s letter[^.\n]*\.?\s*", re.IGNORECASE)


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and the options that its text holds: "(A) … (B) …" on lines of their own or in a row, or "A. …" on lines of
    their own.

    A question may speak of things by letters itself: of marks "(A)" with "(B)" next, the options begin with the last one
    that opens a sentence or a line. An instruction to answer with the option's letter is left out: prompts bring their own.
    Options count by their place, so that a letter which is there twice does no harm.

    Returns:
        The question and its options; the whole text and none where it holds no such options.
    Example:
        >>> split_options("Which is red? (A) the cup (B) the vase")
        ('Which is red?', ('the cup', 'the vase'))
    """
    bare = _INSTRUCTION.sub("\n", text).strip()
    marks = _option_marks(bare)
    if len(marks) < 2:
        marks = list(_LINE.finditer(bare))
        if "".join(mark[1] for mark in marks) != ascii_uppercase[: len(marks)]:
            return bare, ()
    if len(marks) < 2 or not bare[: marks[0].start()].strip():
        return bare, ()
    ends = [mark.start() for mark in marks[1:]] + [len(bare)]
    options = tuple(bare[mark.end() : end].strip().rstrip(".,;") for mark, end in zip(marks, ends, strict=True))
    return (bare[: marks[0].start()].strip(), options) if all(options) else (bare, ())


def _option_marks(text: str) -> list[re.Match[str]]:
    """The marks "(A)", "(B)" … from the one on with which the options begin; none where no "(A)" does."""
    marks = list(_MARK.finditer(text))
    starts = [
        number
        for number, (mark, following) in enumerate(pairwise(marks))
        if (mark[1], following[1]) == ("A", "B") and _SENTENCE_END.search(text[: mark.start()])
    ]
    if starts:
        return marks[starts[-1] :]
    return marks if marks and marks[0][1] == "A" else []


def in_seeded_order(options: Sequence[str], seed: str) -> tuple[str, ...]:
    """Options in an order that a text decides, the same on every machine.

    Files that always put the right one first would reward whoever always says "A".
    """
    found = list(options)
    random.Random(seed).shuffle(found)
    return tuple(found)


def right_answer(options: Sequence[str], index: int) -> str:
    """How the right option is told: by its words, or by its letter where another option has the same words."""
    words = [" ".join(option.lower().split()) for option in options]
    return options[index] if words.count(words[index]) == 1 else f"({ascii_uppercase[index]})"


def index_of_letter(letter: str, options: Sequence[str], place: str) -> int:
    """The index of the option that a right answer names by its letter: "A", "(A)", "A."

    Raises:
        RecordError: it is no letter of the options.
    """
    name = letter.strip().strip("()[].:").upper()
    if len(name) != 1 or name not in ascii_uppercase[: len(options)]:
        raise RecordError(f"{place}: the right answer is {shown(letter)}, wanted a letter of the {len(options)} options")
    return ascii_uppercase.index(name)


def right_letter(question: Question) -> str:
    """The letter under which a question's right option is shown; "" where it has no options."""
    for index in range(len(question.choices)):
        if question.answers == (right_answer(question.choices, index),):
            return ascii_uppercase[index]
    return ""
