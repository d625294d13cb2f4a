"""Detect free text that names the truth and a rival, so one of the two is right by chance.

Only a lexicon distinguishes "cat dog" from "black cat", or "left right" from "left side". `words.KINDS` is a small one:
words that exclude each other ("left", "right") and can describe the noun after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from sifthinker.scoring.reading import BRACKETS, Reading, is_symbol
from sifthinker.scoring.words import ANDS, ARTICLES, FUNCTION, GENERIC, JOINS, KINDS, LETTER_JOINS, REMARKS


def names_rival(said: Reading, truth: Sequence[str]) -> bool:
    """Whether an answer names a word of the same kind beside the truth, or joins another word to it with "and".

    This holds for "red blue mug", "man in red and blue shirt" and "on the left, on the right". It does not hold for "the red
    mug beside a blue plate", because other words stand between.
    """
    words = set(truth)
    kinds = {KINDS[word] for word in words if word in KINDS}
    right: set[str] = set()  # kinds with a word of the truth, or another word, since the last separating word
    other: set[str] = set()
    for index, item in enumerate(said.items):
        kind = KINDS.get(item.key, "")
        if said.denied[index] or said.refused[index]:
            continue
        if kind in kinds:
            (right if item.key in words else other).add(kind)
            if right & other:
                return True
        elif not (item.kind == "mark" or is_symbol(item) or item.key in words | JOINS or _is_article(item.key)):
            right.clear()
            other.clear()
    return not words & ANDS and any(words & {left} and not words & {behind} for left, behind in _joined(said, words))


def _joined(said: Reading, words: set[str]) -> list[tuple[str, str]]:
    """Return the pairs of words joined by "and"; a word of the truth comes first."""
    pairs = []
    for index, item in enumerate(said.items):
        if item.key in ANDS:
            sides = [_beside(said, index, step) for step in (-1, 1)]
            if all(side and side not in FUNCTION and side not in REMARKS for side in sides):
                pairs.append((sides[0], sides[1]) if sides[0] in words else (sides[1], sides[0]))
    return pairs


def _beside(said: Reading, index: int, step: int) -> str:
    """Return the word next to an item, skipping articles and brackets; "" if none is near or it is denied."""
    for at in range(index + step, index + 4 * step, step):
        if not 0 <= at < len(said.items):
            return ""
        item = said.items[at]
        if not _is_article(item.key) and item.key not in BRACKETS:
            return "" if item.kind == "mark" or said.denied[at] else item.key
    return ""


def _is_article(key: str) -> bool:
    return key in ARTICLES or key == "a"


def joins_by_letter(said: Reading) -> str:
    """Return a one-letter "or" or "and" of Spanish, Italian or Portuguese between two words; "" if there is none."""
    for before, (item, after) in zip(said.items, pairwise(said.items[1:]), strict=False):
        if item.raw in LETTER_JOINS and all(side.kind == "word" and len(side.raw) > 1 for side in (before, after)):
            return item.raw
    return ""


def share_at_most(said: Reading, kept: Sequence[str], truth: Sequence[str]) -> float:
    """Return the maximum score of an answer whose words `kept` contain the truth and other words.

    - 0 for a bare list with at least as many wrong words as right ones: "cat dog". A list is not bare if its words describe
      the noun after them ("black cat" for "cat", "red mug" for "red"), or if it has an article or a preposition.
    - 1/3 if another noun follows a one-word truth: "a cat dog" is not a cat. Together with the 2/3 of "a cat dog" for "dog",
      naming both is worth no more than guessing one.
    - the share of right words if other words stand before or between the words of a longer truth. "Tin beer mug" for "tin
      mug" or "beer mug" is then worth no more than guessing one.
    """
    if not kept or not truth or Counter(truth) - Counter(kept):
        return 1.0
    left, extra = Counter(truth), []
    for position, word in enumerate(kept):
        if left[word]:
            left[word] -= 1
        else:
            extra.append(position)
    if not extra:
        return 1.0
    others = set(extra)
    own = [position for position in range(len(kept)) if position not in others]
    described = all(
        kept[position] in GENERIC
        or (
            kept[position] in KINDS or kept[position].isdigit()
            if position < own[-1]
            else truth[-1] in KINDS and kept[position] not in KINDS
        )
        for position in extra
    )
    bare = not any(item.key in FUNCTION or _is_article(item.key) for item in said.items)
    if bare and len(extra) >= len(truth) and not described:
        return 0.0
    if len(truth) == 1:
        follows = kept[own[0] + 1] if own[0] + 1 < len(kept) else ""
        return 1 / 3 if follows and follows not in FUNCTION and not described else 1.0
    return len(truth) / len(kept) if extra[0] < own[-1] else 1.0
