"""Read a text: its clauses, and the numbers, letters, yes and no that it states, denies or calls possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sifthinker.scoring.numbers import SYMBOLS, Item, items
from sifthinker.scoring.text import BOX, canonical, fold, tokens
from sifthinker.scoring.verdicts import rejected
from sifthinker.scoring.words import (
    ALTERNATIVES,
    ARTICLES,
    ASIDES,
    ASKED,
    ASSERTING,
    BOUNDS,
    CARRIERS,
    CJK_CUES,
    CONJUNCTIONS,
    COPULAS,
    CROSSES,
    DENIALS,
    EXCEPTING,
    EXCLUDE,
    HEDGES,
    INSTEAD,
    JOINS,
    LABELS,
    LINKS,
    NO_ANSWER,
    NOT,
    NOT_COUNTED,
    NOT_SIGNS,
    OTHERS,
    PASSED_OVER,
    POINTERS,
    POLARS,
    RIGHT,
    SPANISH,
    TICKS,
    VERBS,
    WRONG,
)

BRACKETS = {"(", ")", "<", ">"}
LONGEST = 20_000  # characters; a longer text is not an answer and counts as no statement

_NO_ITEM = Item("mark", "")
_PASSIVE = COPULAS | {"been", "being"}  # "B is excluded" denies what precedes it


@dataclass(slots=True)
class Reading:
    """A text as items. For each item: its clause, and whether it is denied or only possible."""

    text: str
    items: list[Item]
    words: list[int] = field(default_factory=list)  # items other than marks and articles
    clause: list[int] = field(default_factory=list)
    denied: list[bool] = field(default_factory=list)
    possible: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)  # answered by no: "B? No."
    cue: int | None = None  # the last item of the first final-answer phrase
    key: str = ""

    @property
    def number(self) -> str | None:
        """The number, if the whole text is one number, perhaps with a symbol as unit ("%", "$"); else None."""
        kinds = [self.items[index] for index in self.words]
        if [item.kind for item in kinds] in (["number"], ["number", "unit"]):
            return kinds[0].key if len(kinds) == 1 or kinds[1].key in SYMBOLS else None
        return None

    @property
    def letter(self) -> str | None:
        """The letter, if the whole text is one Latin letter with or without punctuation; else None."""
        spoken = [item for item in self.items if item.kind != "mark"]
        if len(spoken) > 1 and all(item.key in LABELS for item in spoken[:-1]):
            spoken = spoken[-1:]
        return spoken[0].raw.upper() if len(spoken) == 1 and is_letter(spoken[0]) else None


def read(text: str) -> Reading:
    plain = canonical(text)
    if len(plain) > LONGEST:
        return Reading(plain, [], key=fold(plain))
    reading = Reading(plain, items(tokens(plain)))
    listed = reading.items
    for index, item in enumerate(listed):
        # "A. red" begins with a letter, "a red car" with an article.
        followed = index + 1 < len(listed) and listed[index + 1].kind != "mark" and not is_letter(listed[index + 1])
        if item.kind != "mark" and item.key not in ARTICLES and not (item.key == "a" and followed):
            reading.words.append(index)
    # Keep a text such as "the" or "+", of which nothing else would be left.
    reading.key = " ".join(listed[index].key for index in reading.words) or fold(plain) or text
    _parse(reading)
    return reading


def _parse(reading: Reading) -> None:
    """Find the clauses, and apply each "not" and "maybe" to the rest of its clause."""
    denied = possible = far = wrongly = False
    clause, previous = 0, _NO_ITEM
    listed = reading.items
    for index, item in enumerate(listed):
        after = listed[index + 1] if index + 1 < len(listed) else _NO_ITEM
        excepting = item.key == "but" and previous.key in EXCEPTING
        ends = item.kind == "word" and item.key in CONJUNCTIONS and not excepting
        if ends:
            clause += 1
        elif item.kind == "mark" and item.key not in BRACKETS and item.key != "/":
            clause += 1
            # The denial continues in "not: red" and "neither red, blue nor green".
            ends = not (
                (item.key in (":", "-", "\n", BOX) and previous.key in NOT)
                or (item.key in (":", "-") and wrongly)
                or (item.key == "," and (far or (denied and _goes_on(listed, index))))
            )
        if ends:
            denied = possible = far = wrongly = False
        reading.clause.append(clause)
        reading.denied.append(denied)
        reading.possible.append(possible)
        if item.kind == "mark":
            if item.key == BOX and reading.cue is None:
                reading.cue = index
            continue
        wrongly = (wrongly and item.key in LABELS) or (
            (item.key in WRONG or (item.key in RIGHT and previous.key in NOT))
            and (not index or listed[index - 1].key not in (":", "-", "(", "<"))
        )
        denied |= _denies(item, after) or excepting or (previous.key, item.key) in INSTEAD
        denied |= wrongly and (after.key in (":", "-") or after.key in LABELS)
        denied |= item.key in ("doubt", "doubtful") and previous.key not in ("no", "without")
        denied |= item.key in NOT_SIGNS and (
            not index or clause != reading.clause[index - 1] or listed[index - 1].kind == "mark"
        )
        denied |= item.key in EXCLUDE and previous.key not in _PASSIVE
        far |= item.key == "neither"
        possible |= item.key in HEDGES and not (item.key == "could" and after.key != "be")
        if reading.cue is None and _is_cue(listed, index):
            reading.cue = index
        previous = item
    wrong, reading.refused = rejected(listed, reading.clause)
    reading.denied = [before or behind for before, behind in zip(reading.denied, wrong, strict=True)]


def _goes_on(listed: Sequence[Item], comma: int) -> bool:
    """Whether the list with this comma ends in "or": "not A, B or C" denies all three, "not A, B" only the first."""
    for item in listed[comma + 1 : comma + 13]:
        if item.key in ("or", "nor"):
            return True
        if (item.kind == "mark" and item.key != "," and item.key not in BRACKETS) or item.key in COPULAS | CONJUNCTIONS:
            return False
    return False


def _denies(item: Item, after: Item) -> bool:
    """Whether a word denies the rest of its clause."""
    if item.key in NOT:
        return after.key not in ("only", "just", "merely")
    if item.key == "no":  # "no dogs" and "no B", but not "no it is" nor "no and yes"
        spoken = (after.key not in ASIDES and not is_symbol(after)) or after.key in SPANISH or _is_capital(after)
        return not item.part and after.kind != "mark" and spoken
    return item.kind == "number" and item.raw.lower() in ("none", "no")


def _is_cue(listed: Sequence[Item], index: int) -> bool:
    """Whether a final-answer phrase ends here: "the answer is", "answer:", "I choose"."""
    key = listed[index].key
    before = listed[index - 1].key if index else ""
    after = listed[index + 1].key if index + 1 < len(listed) else ""
    if key in CJK_CUES:
        return True
    if key in ("is", "would", "must", "should"):
        # "The answer to the question is"
        back = next((listed[i].key for i in range(index - 1, max(-1, index - 6), -1) if listed[i].key not in ASKED), "")
        if before in ("answer", "option", "choice") or back == "answer":
            return True
    if key in ("es", "ist", "est", "é", "è") and before in LABELS:
        return True
    return (key in ("answer", "answers") and after in (":", "-", "\n")) or (
        key in ("choose", "pick", "select") and before == "i"
    )


class Mention(NamedTuple):
    """A place where a text names an option, a number, or yes or no.

    Args:
        value: the named thing: an option by index, others by their text.
        start: first item.
        end: index after the last item.
        denied: whether it is denied: "not red".
        possible: whether it is only possible: "maybe red", "red or so", "at least 4". It is not a statement, but can be an
            alternative to one.
        alone: whether its clause contains nothing else.
    """

    value: int | str
    start: int
    end: int
    denied: bool
    possible: bool
    alone: bool = False


def mention_at(
    reading: Reading, value: int | str, start: int, end: int, possible: bool = False, answered: bool = False
) -> Mention:
    """Build the mention of the items from start to end.

    Args:
        reading: the text.
        value: the named thing.
        start: first item.
        end: index after the last item.
        possible: treat it as only possible, whatever the text says.
        answered: whether a plain "no" beside it is a separate answer that does not deny it.
    """
    found = reading.items
    before = next((found[i].key for i in range(start - 1, max(-1, start - 4), -1) if not _passed_over(found[i])), "")
    after = next((found[i].key for i in range(end, min(len(found), end + 3)) if not _passed_over(found[i])), "")
    possible |= reading.possible[start] or before in ALTERNATIVES or after in ALTERNATIVES
    denied = reading.denied[start] or (reading.refused[start] and not answered) or _denied_after(reading, end)
    return Mention(value, start, end, denied, possible, stands_alone(reading, start, end))


def _passed_over(item: Item) -> bool:
    return item.key in BRACKETS or item.key in PASSED_OVER


def _denied_after(reading: Reading, end: int) -> bool:
    """Whether the following words deny a mention: "red is not the answer", "B isn't right", "4 is wrong"."""
    verb = False
    for index in range(end, min(len(reading.items), end + 5)):
        key = reading.items[index].key
        if reading.clause[index] != reading.clause[end - 1] or key in ALTERNATIVES or key == "(":
            return False
        if (verb and key in DENIALS) or (key in NOT and key.endswith("nt")) or key == "cannot":
            return True
        verb |= key in COPULAS
    return False


def stands_alone(reading: Reading, start: int, end: int, taken: Sequence[bool] = ()) -> bool:
    """Whether the clause of a mention contains nothing else, apart from carrier words and numbers."""
    clause = reading.clause[start]
    for step, position in ((-1, start - 1), (1, end)):
        for _ in range(12):
            if not 0 <= position < len(reading.items) or reading.clause[position] != clause:
                break
            item = reading.items[position]
            if item.kind == "word" and not _carries(item) and not (taken and taken[position]):
                return False
            position += step
        else:
            return False
    return True


def decide(reading: Reading, mentions: Iterable[Mention]) -> int | str | None:
    """Return the only statement of a text; None if there is none, if there are two, or if it is also denied."""
    found = list(mentions)
    if reading.cue is not None:
        after = [mention for mention in found if mention.start > reading.cue]
        if any(not (mention.denied or mention.possible) for mention in after):
            # Mentions before the final answer do not count, unless the text begins with one as a statement.
            begun = [mention for mention in found if mention.alone and reading.clause[mention.start] == 0]
            found = [mention for mention in begun if not (mention.denied or mention.possible)] + after
    found = _without_explanation(reading, found)
    named = {mention.value for mention in found if not mention.denied}
    if len(named) != 1 or named & {mention.value for mention in found if mention.denied}:
        return None
    return named.pop() if any(not (mention.denied or mention.possible) for mention in found) else None


def _without_explanation(reading: Reading, found: list[Mention]) -> list[Mention]:
    """Drop mentions that only describe another option after the first statement: "B. The red mug is on the table."

    The first statement is the one after the final-answer phrase, or else one that begins the text and stands alone.
    """
    cue = reading.cue
    last = reading.clause[cue] + 1 if cue is not None else 0
    first = next((m for m in found if not (m.denied or m.possible) and reading.clause[m.start] <= last), None)
    if first is None or not (first.alone or cue is not None):
        return found
    if cue is None and reading.items[first.start].kind == "number":
        return found  # "4. 5 dogs are visible" states two numbers
    return [
        mention
        for mention in found
        if mention.value == first.value
        or mention.start <= first.start
        or reading.clause[mention.start] == reading.clause[first.start]
        or not _only_speaks_of(reading, mention)
    ]


def _only_speaks_of(reading: Reading, mention: Mention) -> bool:
    """Whether a mention only describes the subject of its clause: "the red mug is on the table", "the other is red"."""
    if mention.alone or mention.possible:
        return False
    here = reading.clause[mention.start]
    start, end = mention.start, mention.end
    while start > max(0, mention.start - 12) and reading.clause[start - 1] == here:
        start -= 1
    while end < min(len(reading.items), mention.end + 12) and reading.clause[end] == here:
        end += 1
    before = [reading.items[index].key for index in range(start, mention.start)]
    behind = [reading.items[index].key for index in range(mention.end, end)]
    copula = next((index for index, key in enumerate(behind) if key in COPULAS), None)
    right = copula is not None and copula + 1 < len(behind) and behind[copula + 1] == "right"
    if right or any(key in ASSERTING or key in JOINS for key in before + behind[:1]) or ASSERTING & set(behind):
        return False
    if any(key in OTHERS for key in before):
        return True
    return bool(behind) and copula is not None and copula > 0 and not _carries(reading.items[mention.end])


def numbers_in(reading: Reading) -> list[Mention]:
    """Return the numbers in a text, without the parts of a sum and the line numbers of a list.

    "No dogs" is zero if the text has no other number.
    """
    found = list(_numbers(reading))
    lines = _line_numbers(reading)
    if len(lines) > 1:
        found = [mention for mention in found if mention.start not in lines]
    return _without_parts(reading, found)


def _line_numbers(reading: Reading) -> set[int]:
    """Return the items that are line numbers of a list, counted from 1."""
    found = reading.items
    lines: set[int] = set()
    for index, item in enumerate(found):
        if (
            item.kind == "number"
            and item.key == str(len(lines) + 1)
            and (not index or found[index - 1].key == "\n")
            and index + 2 < len(found)
            and found[index + 1].key in (".", ")")
            and found[index + 2].kind == "word"
        ):
            lines.add(index)
    return lines


def _without_parts(reading: Reading, found: list[Mention]) -> list[Mention]:
    """Drop numbers that add up to the first or the last one: "2 mugs, one red and one blue", "3 + 1 = 4"."""
    values = [str(mention.value) for mention in found]
    if len(found) < 3 or any(mention.denied for mention in found) or not all(v.isdigit() and len(v) < 10 for v in values):
        return found
    amounts = [int(value) for value in values]
    first, last = found[0], found[-1]
    unsure = any(mention.possible for mention in found)
    if amounts[0] == sum(amounts[1:]) and not unsure and not any(mention.alone for mention in found[1:]):
        return [first]
    if amounts[-1] == sum(amounts[:-1]) and reading.items[last.start - 1].raw == "=":
        return [last]
    return found


def _numbers(reading: Reading) -> Iterator[Mention]:
    """Yield every number; "no dogs" is zero if the text has no other number."""
    found = reading.items
    any_number = False
    for index, item in enumerate(found):
        if item.kind != "number":
            continue
        any_number = True
        before, behind = (found[i].key if 0 <= i < len(found) else "" for i in (index - 1, index + 1))
        bound = (
            before in BOUNDS or (before == "to" and index > 1 and found[index - 2].key == "up") or behind in ("+", "<", "≤")
        )
        bound |= before in "<>" and bool(before) and not (before == "<" and behind == ">")
        unit = index + 1 < len(found) and found[index + 1].kind == "unit"
        yield mention_at(reading, item.key, index, index + 1 + unit, bound)
    if any_number:
        return
    for index, item in enumerate(found):
        after = found[index + 1] if index + 1 < len(found) else _NO_ITEM
        none_of = item.key == "no" and after.kind == "word" and after.key not in NOT_COUNTED
        if none_of or (item.key == "any" and reading.denied[index]):
            yield Mention("0", index, index + 1, False, reading.possible[index])


def _clauses(reading: Reading) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each clause."""
    start = 0
    for index in range(1, len(reading.items) + 1):
        if index == len(reading.items) or reading.clause[index] != reading.clause[start]:
            yield start, index
            start = index


def _carries(item: Item) -> bool:
    """Whether a word only accompanies a statement, as the letter of an option accompanies its yes or no."""
    return not item.part and (item.key in CARRIERS or is_letter(item) or is_symbol(item))


def is_symbol(item: Item) -> bool:
    """Whether an item is an emoji or another symbol: "B ✅"."""
    return item.kind == "word" and len(item.key) == 1 and not item.key.isalnum()


def polars_in(reading: Reading) -> Iterator[Mention]:
    """Yield every yes and no that is an answer: it begins its clause, stands alone in it, or is joined to such a word.

    In "there is no dog" and "yes, there is no dog", the "no" is not an answer.
    """
    found = reading.items
    said = False
    for start, end in _clauses(reading):
        spoken = [index for index in range(start, end) if found[index].kind != "mark"]
        polar = [_polar(found, index) for index in spoken]
        at = 0
        while at < len(spoken) and not polar[at] and _carries(found[spoken[at]]):
            at += 1
        if at and not all(polar[later] or _carries(found[spoken[later]]) for later in range(at, len(spoken))):
            continue
        if said and at < len(spoken) and polar[at] == "no" and _counts_none(found, spoken[at]):
            continue  # "Yes. No dogs are on the bed."
        while at < len(spoken) and (polar[at] or found[spoken[at]].key in LINKS or is_symbol(found[spoken[at]])):
            if polar[at]:
                said = True
                index = spoken[at]
                # "Yes is wrong" denies the yes, "yes, it is not blocked" does not.
                judged = index + 1 < end and found[index + 1].key in VERBS
                denied = reading.denied[index] or (judged and _denied_after(reading, index + 1))
                yield mention_at(reading, polar[at], index, index + 1)._replace(denied=denied)
            at += 1


def _counts_none(found: Sequence[Item], index: int) -> bool:
    """Whether a "no" belongs to the noun after it: "no dogs are …"."""
    after = found[index + 1 : index + 3]
    return len(after) == 2 and after[0].kind == "word" and after[0].key not in CARRIERS and after[1].key in COPULAS


def _polar(found: Sequence[Item], index: int) -> str:
    """Return "yes" or "no" if an item means it, else "". "No one" means no; "no doubt" does not."""
    item = found[index]
    if item.kind == "number" and item.raw.lower() == "no":
        return "no"
    doubt = item.key == "no" and index + 1 < len(found) and found[index + 1].key in NO_ANSWER
    return POLARS.get(item.key, "") if not item.part and not doubt else ""


def is_letter(item: Item) -> bool:
    return item.kind == "word" and not item.part and len(item.raw) == 1 and item.raw.isascii() and item.raw.isalpha()


def _is_capital(item: Item) -> bool:
    return is_letter(item) and item.raw.isupper()


def letters_in(reading: Reading, named: Callable[[str], int | str] = str, taken: Sequence[bool] = ()) -> Iterator[Mention]:
    """Yield every letter that means an option: in brackets, alone, after a label word, or with only fillers in its clause.

    The article "A", the pronoun "I" and letters in names ("Vitamin C", "plan B") do not count.

    Args:
        reading: the text.
        named: function from a letter to the value of its mention.
        taken: for each item, whether it belongs to an option's words; such items count as fillers.
    """
    found = reading.items
    label = found[1].key if len(found) > 1 and is_letter(found[0]) and found[1].kind == "mark" else ""
    for start, end in _clauses(reading):
        here = [i for i in range(start, end) if is_letter(found[i]) and not (taken and taken[i])]
        if not here:
            continue
        named_here = set(here)
        others = [
            i for i in range(start, end) if found[i].kind != "mark" and i not in named_here and not is_symbol(found[i])
        ]
        bare = all(found[i].key in JOINS for i in others)
        filled = all(found[i].key in ASIDES or (taken and taken[i]) for i in others)
        labels = next((i for i in others if found[i].key in LABELS), end)
        led = start > 0 and next((found[i].key for i in range(start - 1, -1, -1) if found[i].kind != "mark"), "") in LABELS
        clause = _Clause(start, end, bare, filled, labels, led)
        for index in here:
            if is_labelled(reading, index + 1, taken) or _stands_for_option(reading, index, clause):
                yield mention_at(reading, named(found[index].raw.upper()), index, index + 1)
            elif label and index + 2 < len(found) and found[index + 1].key == label and found[index + 2].kind != "mark":
                # "A. red B. blue": a list of labelled options
                yield mention_at(reading, named(found[index].raw.upper()), index, index + 1, possible=True)


def is_labelled(reading: Reading, end: int, taken: Sequence[bool]) -> bool:
    """Whether a mark and an option's words follow; the item before them is then their label."""
    return end + 1 < len(taken) and reading.items[end].kind == "mark" and taken[end + 1]


class _Clause(NamedTuple):
    """A clause that contains letters.

    Args:
        start: first item.
        end: index after the last item.
        bare: whether it contains only letters, joins and symbols.
        filled: whether it contains only those and carrier words.
        label: position of its first label word ("answer", "option" and similar); `end` if there is none.
        led: whether a label word precedes it: "Answer: a".
    """

    start: int
    end: int
    bare: bool
    filled: bool
    label: int
    led: bool


def _stands_for_option(reading: Reading, index: int, clause: _Clause) -> bool:
    """Whether a letter means an option."""
    found = reading.items
    start, end, bare, filled = clause.start, clause.end, clause.bare, clause.filled
    before = found[index - 1] if index > start else _NO_ITEM
    after = found[index + 1] if index + 1 < end else _NO_ITEM
    if before.key in ("(", "<") and after.key in (")", ">"):
        return True
    if index == start and after.key in (")", ">"):  # "b) red"
        return True
    letter = found[index].raw
    last = after.kind == "mark" or after.key in CROSSES | TICKS or _rest_is_marks(reading, index + 1, end)
    pointed = before.key in LABELS or (last and before.key in COPULAS) or (letter.isupper() and before.key in POINTERS)
    if letter in ("a", "i"):
        return last and (
            (bare and (start == 0 or clause.led or index != start))
            or (filled and clause.label < index)
            or before.key in LABELS
        )
    if letter in ("A", "I") and not (
        last
        or after.key in COPULAS
        or after.key in JOINS
        or is_letter(after)
        or is_symbol(after)
        or _contrasts(found, index)
    ):
        # An article or a pronoun: "A dog", "I think".
        return False
    if letter == "I" and after.key in ("would", "must", "should", "can", "do", "did"):
        return False
    return bare or pointed or (filled and letter.isupper()) or (letter.isupper() and _called_best(found, index, end))


def _contrasts(found: Sequence[Item], index: int) -> bool:
    """Whether "rather than" or "instead of" follows: "A rather than B"."""
    return index + 2 < len(found) and (found[index + 1].key, found[index + 2].key) in INSTEAD


def _called_best(found: Sequence[Item], index: int, end: int) -> bool:
    """Whether a letter is called the best or the right one: "B is the best match"."""
    at = index + 1
    if at >= end or found[at].key not in COPULAS:
        return False
    at += 1
    while at < end and (found[at].key in ARTICLES or found[at].key in ("clearly", "definitely", "likely", "most")):
        at += 1
    return at < end and found[at].key in ("best", "correct", "right")


def _rest_is_marks(reading: Reading, start: int, end: int) -> bool:
    return all(reading.items[i].kind == "mark" for i in range(start, min(end, start + 4)))
