"""Options of published multiple-choice questions: splitting them from the text, ordering them, and their letters."""

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
    """Split a text into its question and its options: "(A) … (B) …" on one or several lines, or "A. …" on separate lines.

    The question itself may contain such letters. The options therefore begin at the last "(A)" that starts a sentence or a
    line and is followed by "(B)". An instruction to answer with the option's letter is removed, because prompts have their
    own. Options count by position, so a repeated letter does no harm.

    Returns:
        The question and its options; the complete text and no options if it has none.
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
    """Return the marks "(A)", "(B)" … of the options; none if the options do not begin with "(A)"."""
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
    """Return options in an order that depends only on `seed`, the same on every machine.

    Some files always list the right option first. Without a new order, always answering "A" would be right.
    """
    found = list(options)
    random.Random(seed).shuffle(found)
    return tuple(found)


def right_answer(options: Sequence[str], index: int) -> str:
    """Return the right answer: the text of the option, or its letter if another option has the same text."""
    words = [" ".join(option.lower().split()) for option in options]
    return options[index] if words.count(words[index]) == 1 else f"({ascii_uppercase[index]})"


def index_of_letter(letter: str, options: Sequence[str], place: str) -> int:
    """Return the index of the option with a letter: "A", "(A)", "A."

    Raises:
        RecordError: no option has this letter.
    """
    name = letter.strip().strip("()[].:").upper()
    if len(name) != 1 or name not in ascii_uppercase[: len(options)]:
        raise RecordError(f"{place}: the right answer must be a letter of the {len(options)} options, got {shown(letter)}")
    return ascii_uppercase.index(name)


def right_letter(question: Question) -> str:
    """Return the letter of a question's right option; "" if it has no options."""
    for index in range(len(question.choices)):
        if question.answers == (right_answer(question.choices, index),):
            return ascii_uppercase[index]
    return ""
