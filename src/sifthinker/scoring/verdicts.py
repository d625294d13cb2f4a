"""Find verdicts of a text on its own statements: "A, C and D are wrong", "B (incorrect)", "4? No.", "B ❌"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sifthinker.scoring.numbers import Item
from sifthinker.scoring.words import (
    ADVERBS,
    ARTICLES,
    CONJUNCTIONS,
    COPULAS,
    CROSSES,
    EXCLUDE,
    FALSE,
    HEDGES,
    JOINS,
    LABELS,
    NOT,
    NOT_BEHIND,
    OUT,
    PLURAL,
    POINTERS,
    POLARS,
    RIGHT,
    SAID_NO,
    TICKS,
    WRONG,
)

_LEADING = {":", "-", "(", "<", ";", ","}  # marks before a verdict: "B: wrong", "B (wrong)"
_PRONOUNS = frozenset(["it", "its", "that", "thats", "this", "which", "they", "theyre", "these", "those", "there"])
_AROUND = _PRONOUNS | CONJUNCTIONS | JOINS | ADVERBS
_LONGEST = 8  # maximum number of items in a verdict

Strength = Literal["no", "wrong"]


def rejected(items: Sequence[Item], clause: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Return which items a verdict calls wrong, and which items a plain "no" follows: "B? No.", "B: no".

    The two are separate because a "no" can be the answer to a yes/no question. The time is linear in the text, since no
    verdict reaches back past the one before it.
    """
    wrong, refused = [False] * len(items), [False] * len(items)
    marks = [index for index, item in enumerate(items) if item.key in CROSSES or item.key in TICKS]
    prefixed = bool(marks) and all(item.kind == "mark" for item in items[: marks[0]])
    if prefixed:  # "❌ A\n✅ B"
        for index, end in zip(marks, [*marks[1:], len(items)], strict=True):
            if items[index].key in CROSSES:
                _reject(items, wrong, range(index + 1, end), spare_no=True)
    done = index = 0
    while index < len(items):
        if items[index].key in CROSSES or items[index].key in TICKS:
            if items[index].key in CROSSES and not prefixed:
                _reject(items, wrong, _subject(items, clause, index, done, joined=False))
            index = done = index + 1
            continue
        found = _verdict_at(items, clause, index)
        if found is None:
            index += 1
            continue
        end, strength = found
        start = index + 1 if items[index].kind == "mark" and items[index].key not in _LEADING else index
        subject = _subject(items, clause, start, done, joined=items[index].key in PLURAL or items[index].key not in COPULAS)
        it = any(item.key in _PRONOUNS for item in items[max(0, start - 1) : end])
        _reject(items, wrong if strength == "wrong" else refused, subject, spare_no=it)
        index = done = end
    return wrong, refused


def _reject(items: Sequence[Item], rejected: list[bool], span: range, spare_no: bool = False) -> None:
    """Mark items as rejected. `spare_no` spares a "no" that agrees with the verdict: "❌ No, it is not"."""
    for index in span:
        if not (spare_no and items[index].raw.lower() in SAID_NO):
            rejected[index] = True


def _verdict_at(items: Sequence[Item], clause: Sequence[int], start: int) -> tuple[int, Strength] | None:
    """Return (end, strength) of the negative verdict that begins at an item; None if there is none."""
    at, copula = start, False
    first = items[start]
    opens = start == 0 or items[start - 1].kind == "mark"
    asked = first.key == "?"
    if first.kind == "mark":
        if first.key not in _LEADING and not asked:
            return None
        at += 1
        while at < min(len(items), start + 4) and items[at].kind == "mark":
            at += 1
    elif start and first.key in SAID_NO and _named(items[start - 1]) and _ends(items, start + 1, frozenset()):
        return start + 1, "no"  # "B no"
    elif first.key not in COPULAS and first.key not in NOT and not opens and first.key not in NOT_BEHIND:
        return None
    limit = min(len(items), start + _LONGEST)
    if first.key in NOT_BEHIND:
        return start + 1, "wrong"
    while at < limit and (items[at].key in COPULAS or items[at].key in ("been", "being")) and items[at].key not in NOT:
        copula = True
        at += 1
    while at < limit and (items[at].key in ADVERBS or items[at].key in HEDGES or items[at].key in JOINS):
        at += 1
        while at < limit and items[at].key in ("be", "been", "being"):
            at += 1
    if at >= limit:
        return None
    key, after = items[at].key, items[at + 1].key if at + 1 < len(items) else ""
    if copula and key == "out" and _ends(items, at + 1, frozenset()):
        return at + 1, "wrong"
    if copula and ((key, after) in OUT or key in EXCLUDE):
        return at + 1, "wrong"
    if copula or key in NOT or first.kind == "mark" or opens:
        if key in WRONG and _ends(items, at + 1, LABELS) and (copula or start or not opens):
            alone = not copula and first.key not in ("(", "<", "-", ":")
            return None if key in FALSE and alone else (at + 1, "wrong")
        if key in NOT:
            known = at + 1
            while known < limit and (items[known].key in ADVERBS or items[known].key in ARTICLES or items[known].key == "a"):
                known += 1
            if known < limit and (items[known].key in RIGHT or items[known].key in LABELS or items[known].key == "it"):
                return (known + 1, "wrong") if _ends(items, known + 1, LABELS) else None
            if _ends(items, at + 1, frozenset()) and start and key == "not":
                return at + 1, "wrong"
    if first.kind == "mark" and first.key != "," and POLARS.get(items[at].raw.lower()) == "no":
        ended = at + 1 == len(items) or items[at + 1].kind == "mark"
        return (at + 1, "no") if asked or ended else None
    return None


def _named(item: Item) -> bool:
    return item.kind == "number" or (
        item.kind == "word" and len(item.raw) == 1 and item.raw.isalpha() and item.raw.isupper()
    )


def _ends(items: Sequence[Item], at: int, also: frozenset[str]) -> bool:
    """Whether a verdict may end before an item: only a mark, a join or a reason may follow."""
    if at >= len(items):
        return True
    item = items[at]
    return item.kind == "mark" or item.key in CONJUNCTIONS or item.key in JOINS or item.key in also or item.key in POINTERS


def _subject(items: Sequence[Item], clause: Sequence[int], end: int, done: int, joined: bool) -> range:
    """Return the subject of a verdict: the part of its clause before it, with the whole list if that part ends a list.

    If there is no such part, or only a pronoun, the subject is the clause before.
    """
    at = end
    while at > done and items[at - 1].kind == "mark" and items[at - 1].key not in (")", ">"):
        at -= 1
    if at <= done:
        return range(end, end)
    here = clause[at - 1]
    words = 0
    lists = joined
    pronoun = True
    depth = 0
    while at > done:
        item = items[at - 1]
        depth += (item.key in (")", ">")) - (item.key in ("(", "<"))
        if words and (depth < 0 or item.key in CONJUNCTIONS):
            break  # "B (A is wrong)", "B, since A is wrong"
        if clause[at - 1] != here:
            if pronoun:  # "B. That is wrong."
                here = clause[at - 1]
                lists = joined
            elif item.key == "," or items[at].key == ",":
                if not lists or _predicates(items, clause, at - 1, done):
                    break
                here = clause[at - 1]
            else:
                break
        predicate = (
            item.key in COPULAS
            or item.key in WRONG
            or (item.key in RIGHT and at > 1 and (items[at - 2].key in COPULAS or items[at - 2].key == ":"))
        )
        if predicate and not pronoun:
            break
        lists |= item.key in JOINS
        if item.kind != "mark" and item.key not in COPULAS and item.key not in _AROUND:
            pronoun = False
            words += 1
        at -= 1
    return range(at, end) if words else range(end, end)


def _predicates(items: Sequence[Item], clause: Sequence[int], last: int, done: int) -> bool:
    """Whether a clause that ends at an item is a separate statement, not a member of a list."""
    at = last
    while at >= done and clause[at] == clause[last] and last - at < 12:
        if items[at].key in COPULAS:
            return True
        if items[at].key in CONJUNCTIONS:
            return False
        at -= 1
    return last - at >= 12
