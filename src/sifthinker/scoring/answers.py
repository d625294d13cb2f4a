"""Judge answers by rules, without a model.

The rules read what an answer *states*: an option, a number, or yes or no. They also read what it denies or calls possible.
The statement is compared with the truth. Two different statements count as none. A statement after a final-answer phrase
("the answer is", \\boxed) overrides those before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sifthinker.scoring.numbers import SAME_UNIT
from sifthinker.scoring.options import LABELLED, Options, options_of
from sifthinker.scoring.reading import BRACKETS, Reading, decide, is_symbol, letters_in, numbers_in, polars_in, read
from sifthinker.scoring.rivals import joins_by_letter, names_rival, share_at_most
from sifthinker.scoring.text import fold
from sifthinker.scoring.words import (
    ALTERNATIVES,
    ANDS,
    ARTICLES,
    DENYING,
    FUNCTION,
    LINKS,
    NOT,
    OPENINGS,
    POLAR,
    POLARS,
    REMARKS,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on an answer.

    Args:
        score: from 0 (wrong) to 1 (right); values between are partial matches of free text.
        rule: the rule that decided: `choice`, `yes_no`, `number`, `exact` or `token_f1`.
        reason: the comparison in words.
    """

    score: float
    rule: str
    reason: str


def judge(answer: str, truth: str, choices: Sequence[str] = ()) -> Verdict:
    """Judge an answer by rules. The form of the right answer decides which rule applies.

    Args:
        answer: the answer of the model.
        truth: the right answer.
        choices: the possible answers of a closed question. A letter in `answer` or `truth` means the choice at that
            position, or the choice with that label ("A. red").
    Example:
        >>> judge("The answer is (B).", "blue", ["red", "blue"]).score
        1.0
        >>> judge("red or blue", "blue", ["red", "blue"]).score
        0.0
    """
    said, right = read(answer), read(truth)
    if choices:
        options = options_of(tuple(choices))
        wanted = options.index_of(right)
        # If the right answer is not among the choices, the data is wrong; treat the question as open.
        if wanted is not None:
            got = options.stated(said)
            named = choices[got] if isinstance(got, int) else f"{got!r}, which is not a choice" if got else "no choice"
            return _verdict(got == wanted, "choice", named, choices[wanted])
    same = fold(said.text) == fold(right.text)
    if (letter := right.letter) is not None:
        stated = decide(said, letters_in(said))
        return _verdict(same or stated == letter, "choice", str(stated or "no letter"), letter)
    if (polar := POLARS.get(right.key)) is not None:
        stated = decide(said, polars_in(said))
        return _verdict(same or stated == polar, "yes_no", str(stated or "neither yes nor no"), polar)
    if (number := right.number) is not None:
        stated = decide(said, numbers_in(said))
        if stated == number and not same and _other_unit(said, right):
            return Verdict(0.0, "number", f"got {_short(said.key)}, expected the unit of {_short(right.key)}")
        return _verdict(same or stated == number, "number", str(stated or "no number"), number)
    if said.key == right.key or _same_amount(said, right):
        return Verdict(1.0, "exact", f"{_short(right.key)} is the answer")
    if (labelled := LABELLED.fullmatch(right.text)) and labelled[1].isupper():
        option = Options.of([labelled[2]], {labelled[1]: 0})
        if option.mentions(said):
            stated = option.stated(said)
            return _verdict(
                stated == 0, "choice", right.text if stated == 0 else str(stated or "no single option"), right.text
            )
        right = read(labelled[2])
    return _free_text(said, right)


def normalise(text: str) -> str:
    """Normalise a text for comparison: no case, articles, punctuation or extra blanks; numbers as digits, units as symbols.

    Example:
        >>> normalise("The “Twenty-one” Dogs!")
        '21 dogs'
    """
    return read(text).key


def _same_amount(said: Reading, right: Reading) -> bool:
    """Whether both texts are the same number with the same unit, written in two ways: "£5", "5 pounds"."""
    kinds = [[(item.kind, item.key) for item in (reading.items[i] for i in reading.words)] for reading in (said, right)]
    measured = all([kind for kind, _ in each] == ["number", "unit"] for each in kinds)
    return measured and kinds[0][0] == kinds[1][0] and not _other_unit(said, right)


def _other_unit(said: Reading, right: Reading) -> bool:
    """Whether an answer gives the truth's number in another unit."""
    units, given = (
        {unit for item in reading.items if item.kind == "unit" for unit in SAME_UNIT.get(item.key, {item.key})}
        for reading in (right, said)
    )
    return bool(units) and bool(given) and not units & given


def _free_text(said: Reading, right: Reading) -> Verdict:
    """Return the token F1 of an answer. If its precision is below a half, the score is at most the precision.

    F1 alone rewards guessing: an answer with four guesses at one word, one of them right, would score 0.4 instead of 0.25.
    An answer scores 0 if it denies what the truth states, offers alternatives, names a rival of the same kind, gives other
    numbers or another unit, or says no for yes.
    """
    fault = _contradiction(said, right)
    if fault:
        return Verdict(0.0, "token_f1", fault)
    kept = _stated_words(said, right)
    truth = _opened(right, right.words)
    if kept and kept == truth:
        return Verdict(1.0, "exact", f"{_short(right.key)} is the answer")
    got, wanted = Counter(kept), Counter(truth)
    shared = got & wanted
    if not any(word not in DENYING for word in shared):
        return Verdict(0.0, "token_f1", f"got {_short(said.key)}, which shares no word with {_short(right.key)}")
    count = shared.total()
    score, precision = 2 * count / (got.total() + wanted.total()), count / got.total()
    if precision < 0.5:
        score = min(score, precision)
    score = min(score, share_at_most(said, kept, truth))
    return Verdict(score, "token_f1", f"{count} words shared with {_short(right.key)}")


def _contradiction(said: Reading, right: Reading) -> str:
    """Return why an answer scores 0 in spite of the words that it shares with the truth; "" if there is no reason."""
    ours, theirs = _sides(said), _sides(right)
    if ours[1] & theirs[0] - ours[0] or ours[0] & theirs[1] - theirs[0] or (ours[0] & ours[1] & theirs[0]):
        return "denies what the truth states, or states what it denies"
    keys, wanted = ({item.key for item in reading.items} for reading in (said, right))
    for word in (*ALTERNATIVES, "either", "any"):
        if word in keys and word not in wanted:
            return f"offers alternatives: {_short(said.key)}"
    if (join := joins_by_letter(said)) and join not in wanted:
        return f"offers alternatives: {_short(said.key)}"
    numbers, right_numbers = (_figures(reading) for reading in (said, right))
    if right_numbers and numbers - right_numbers:
        return f"gives other numbers than {_short(right.key)}"
    if _other_unit(said, right) or _other_noun(said, right):
        return f"gives another unit than {_short(right.key)}"
    first, right_first = (reading.items[0].key if reading.items else "" for reading in (said, right))
    if {first, right_first} == POLAR:
        return f"says {first}, not {right_first}"
    if _lists_others(said, right) or names_rival(said, _opened(right, right.words)):
        return f"states another answer beside {_short(right.key)}"
    return ""


def _figures(reading: Reading) -> set[str]:
    """Return the numbers, times, dates and codes in a text."""
    return {item.key for item in reading.items if item.kind == "number" or any(map(str.isdigit, item.key))}


def _sides(reading: Reading) -> tuple[set[str], set[str]]:
    """Return (stated words, denied words) of a text."""
    stated: set[str] = set()
    denied: set[str] = set()
    for index in reading.words:
        key = reading.items[index].key
        if key not in DENYING:
            (denied if _denied(reading, index) else stated).add(key)
    return stated, denied


def _denied(reading: Reading, index: int) -> bool:
    return reading.denied[index] or reading.refused[index]


def _other_noun(said: Reading, right: Reading) -> bool:
    """Whether the answer gives the truth's number with another noun or unit: "5 m" for "5 kg"."""
    ours, theirs = ([reading.items[index] for index in reading.words] for reading in (said, right))
    if [item.kind for item in theirs] not in (["number", "word"], ["number", "unit"]):
        return False
    return len(ours) == 2 and ours[0].key == theirs[0].key and ours[1].key != theirs[1].key and not _same_amount(said, right)


def _lists_others(said: Reading, right: Reading) -> bool:
    """Whether an answer states the truth and something else: "red and blue", "red, blue".

    A part after a comma or full stop counts as an explanation if it is longer than the truth by more than one word.
    """
    truth = _opened(right, right.words)
    words = set(truth)
    counted = set(said.words)
    pieces: list[tuple[list[int], bool]] = [([], False)]  # (items, whether "and" precedes them)
    for index, item in enumerate(said.items):
        parted = index and said.clause[index] != said.clause[index - 1]
        # "A cat a dog": an article after a noun begins another part.
        article = item.key in ARTICLES or (item.key == "a" and index not in counted)
        anew = article and index and index - 1 in counted and said.items[index - 1].key not in FUNCTION
        if item.key in ANDS or item.key in BRACKETS or parted or anew:
            pieces.append(([], item.key in ANDS))
        if index in counted and item.key not in ANDS and not _denied(said, index):
            pieces[-1][0].append(index)
    stated = [
        (_without_opening([key for i in piece if (key := said.items[i].key) not in LINKS]), joined)
        for piece, joined in pieces
    ]
    if words & ANDS or not any(piece == truth for piece, _ in stated):
        return False
    return any(
        (joined or len(piece) <= len(truth) + 1) and not words & set(piece) and set(piece) - REMARKS
        for piece, joined in stated
    )


def _stated_words(said: Reading, right: Reading) -> list[str]:
    """Return the words of an answer that count, without repeated clauses.

    If the truth denies nothing, denied words are left out.
    """
    symbols = any(is_symbol(item) for item in right.items)
    denies = any(_denied(right, index) for index in range(len(right.items)))
    clauses: dict[int, list[str]] = {}
    for index in said.words:
        if is_symbol(said.items[index]) and not symbols:
            continue
        if denies or not (_denied(said, index) or said.items[index].key in NOT):
            clauses.setdefault(said.clause[index], []).append(said.items[index].key)
    flat = [key for clause in dict.fromkeys(map(tuple, clauses.values())) for key in clause]
    return flat if denies else _without_opening(flat)


def _opened(reading: Reading, group: Sequence[int]) -> list[str]:
    return _without_opening([reading.items[index].key for index in group])


def _without_opening(keys: list[str]) -> list[str]:
    """Drop openings such as "it is" and "the answer is", unless nothing else is left."""
    opening = next((index for index, key in enumerate(keys) if key not in OPENINGS), len(keys))
    return keys[opening:] or keys


def _verdict(agrees: bool, rule: str, got: str, wanted: str) -> Verdict:
    return Verdict(float(agrees), rule, f"got {_short(got)}, expected {_short(wanted)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
