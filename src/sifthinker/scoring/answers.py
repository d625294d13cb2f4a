"""Is this answer right? Rules that need no model.

An answer is read for what it *states*: which option, number, or yes or no; and which of them it denies or calls possible.
What it states is compared with the truth. Two different statements are none; what follows a final-answer phrase ("the answer
is", \\boxed) decides over what was considered before it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from sifthinker.scoring.numbers import SYMBOLS, Item, items
from sifthinker.scoring.text import BOX, canonical, fold, tokens
from sifthinker.scoring.words import (
    ALTERNATIVES,
    ARTICLES,
    BOUNDS,
    CARRIERS,
    CJK_CUES,
    CONJUNCTIONS,
    COPULAS,
    EXCEPTING,
    FILLERS,
    HEDGES,
    INSTEAD,
    JOINS,
    LABELS,
    LINKS,
    NO_ANSWER,
    NOT,
    OPENINGS,
    POLAR,
    SUBJECTS,
    WRONG,
)

_BRACKETS = {"(", ")", "<", ">", BOX}
LONGEST = 20_000  # characters; an answer beyond them is right only if it is the truth word for word

_NO_ITEM = Item("mark", "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How right an answer is.

    Args:
        score: 0 wrong to 1 right; between them for a partial match of free text.
        rule: the rule that decided: `choice`, `yes_no`, `number`, `exact` or `token_f1`.
        reason: what was compared, in words.
    """

    score: float
    rule: str
    reason: str


def judge(answer: str, truth: str, choices: Sequence[str] = ()) -> Verdict:
    """Judge an answer by rules; the right answer decides which one applies.

    Args:
        answer: what the model answered.
        truth: the right answer.
        choices: the possible answers of a closed question. A letter in `answer` or `truth` names them by position, or by
            their own labels where they have them ("A. red").
    Example:
        >>> judge("The answer is (B).", "blue", ["red", "blue"]).score
        1.0
        >>> judge("red or blue", "blue", ["red", "blue"]).score
        0.0
    """
    said, right = _read(answer), _read(truth)
    if choices:
        options = _options(tuple(choices))
        wanted = options.index_of(right)
        # A right answer that is none of its choices is a fault of the data; it is judged as open.
        if wanted is not None:
            got = options.stated(said)
            named = choices[got] if isinstance(got, int) else f"{got!r}, which is no choice" if got else "no choice"
            return _verdict(got == wanted, "choice", named, choices[wanted])
    same = fold(said.text) == fold(right.text)
    if (letter := right.letter) is not None:
        stated = _decide(said, _letters(said, _Options()))
        return _verdict(same or stated == letter, "choice", str(stated or "no letter"), letter)
    if right.key in POLAR:
        stated = _decide(said, _polars(said))
        return _verdict(same or stated == right.key, "yes_no", str(stated or "neither yes nor no"), right.key)
    if (number := right.number) is not None:
        stated = _decide(said, _numbers(said))
        agrees = stated == number and not _other_unit(said, right, SYMBOLS)
        return _verdict(same or agrees, "number", str(stated or "no number"), number)
    if said.key == right.key:
        return Verdict(1.0, "exact", f"{_short(right.key)} is the answer")
    if (labelled := _LABELLED.fullmatch(right.text)) and labelled[1].isupper():
        option = _Options.of([labelled[2]], {labelled[1]: 0})
        if option.mentions(said):
            stated = option.stated(said)
            return _verdict(stated == 0, "choice", "it" if stated == 0 else str(stated or "no one option"), right.text)
        right = _read(labelled[2])
    return _free_text(said, right)


def normalise(text: str) -> str:
    """What texts are compared by: no case, articles, punctuation or extra blanks; numbers as digits, units by their signs.

    Example:
        >>> normalise("The “Twenty-one” Dogs!")
        '21 dogs'
    """
    return _read(text).key


# What a text says


@dataclass(slots=True)
class _Reading:
    """A text as items, and for each of them the clause it is in and whether it is denied or merely possible there."""

    text: str
    items: list[Item]
    words: list[int] = field(default_factory=list)  # items other than marks and articles
    clause: list[int] = field(default_factory=list)
    denied: list[bool] = field(default_factory=list)
    possible: list[bool] = field(default_factory=list)
    cue: int | None = None  # the last item of the first final-answer phrase
    key: str = ""

    @property
    def number(self) -> str | None:
        """The number that the whole text is, a unit in signs ("%", "$") aside; None where it is something else."""
        kinds = [self.items[index] for index in self.words]
        if [item.kind for item in kinds] in (["number"], ["number", "unit"]):
            return kinds[0].key if len(kinds) == 1 or kinds[1].key in SYMBOLS else None
        return None

    @property
    def letter(self) -> str | None:
        """The one Latin letter that the whole text is, whatever its punctuation; None where it is something else."""
        spoken = [item for item in self.items if item.kind != "mark"]
        if len(spoken) > 1 and all(item.key in LABELS for item in spoken[:-1]):
            spoken = spoken[-1:]
        return spoken[0].raw.upper() if len(spoken) == 1 and _is_letter(spoken[0]) else None


def _read(text: str) -> _Reading:
    plain = canonical(text)
    if len(plain) > LONGEST:
        return _Reading(plain, [], key=fold(plain))
    reading = _Reading(plain, items(tokens(plain)))
    listed = reading.items
    for index, item in enumerate(listed):
        # "A. red" begins with a letter, "a red car" with an article.
        followed = index + 1 < len(listed) and listed[index + 1].kind != "mark"
        if item.kind != "mark" and item.key not in ARTICLES and not (item.key == "a" and followed):
            reading.words.append(index)
    # "The" or "+" is what it is, although nothing would be left of it.
    reading.key = " ".join(listed[index].key for index in reading.words) or fold(plain) or text
    _parse(reading)
    return reading


def _parse(reading: _Reading) -> None:
    """Find the clauses, and carry each "not" and "maybe" forward to the end of its own."""
    denied = possible = far = False
    clause, previous = 0, _NO_ITEM
    listed = reading.items
    for index, item in enumerate(listed):
        after = listed[index + 1] if index + 1 < len(listed) else _NO_ITEM
        excepting = item.key == "but" and previous.key in EXCEPTING
        ends = item.kind == "word" and item.key in CONJUNCTIONS and not excepting
        if ends:
            clause += 1
        elif item.kind == "mark" and item.key not in _BRACKETS and item.key != "/":
            clause += 1
            # "Not: red" and "neither red, blue nor green" go on.
            ends = not (item.key in ":-\n" and previous.key in NOT) and not (item.key == "," and far)
        if ends:
            denied = possible = far = False
        reading.clause.append(clause)
        reading.denied.append(denied)
        reading.possible.append(possible)
        if item.kind == "mark":
            if item.key == BOX and reading.cue is None:
                reading.cue = index
            continue
        denied |= _denies(item, after) or excepting or (previous.key, item.key) in INSTEAD
        far |= item.key == "neither"
        possible |= item.key in HEDGES and not (item.key == "could" and after.key != "be")
        if reading.cue is None and _is_cue(listed, index):
            reading.cue = index
        previous = item


def _denies(item: Item, after: Item) -> bool:
    """Whether a word denies what follows it in its clause."""
    if item.key in NOT:
        return after.key not in ("only", "just", "merely")
    if item.key == "no":  # "no dogs", but not "no, there are" nor "no there are"
        return not item.part and after.kind != "mark" and after.key not in SUBJECTS
    return item.kind == "number" and item.raw.lower() in ("none", "no")


def _is_cue(listed: Sequence[Item], index: int) -> bool:
    """Whether a final-answer phrase ends here: "the answer is", "answer:", "I choose"."""
    key = listed[index].key
    before = listed[index - 1].key if index else ""
    after = listed[index + 1].key if index + 1 < len(listed) else ""
    if key in CJK_CUES:
        return True
    if key in ("is", "would", "must", "should") and before in ("answer", "option", "choice"):
        return True
    return (key in ("answer", "answers") and after in (":", "-", "\n")) or (
        key in ("choose", "pick", "select") and before == "i"
    )


class _Mention(NamedTuple):
    """A place where a text names an option, a number, or yes or no.

    Args:
        value: what it names; options by index, others by their own words.
        start: its first item.
        end: behind its last.
        denied: "not red".
        possible: "maybe red", "red or so", "at least 4"; it is no statement, but may be another one's alternative.
        alone: nothing else is said in its clause.
    """

    value: int | str
    start: int
    end: int
    denied: bool
    possible: bool
    alone: bool = False


def _mention(reading: _Reading, value: int | str, start: int, end: int, possible: bool = False) -> _Mention:
    found = reading.items
    before = next((found[i].key for i in range(start - 1, max(-1, start - 4), -1) if not _passed_over(found[i])), "")
    after = next((found[i].key for i in range(end, min(len(found), end + 3)) if not _passed_over(found[i])), "")
    possible |= reading.possible[start] or before in ALTERNATIVES or after in ALTERNATIVES
    return _Mention(
        value, start, end, reading.denied[start] or _denied_after(reading, end), possible, _alone(reading, start, end)
    )


def _passed_over(item: Item) -> bool:
    return item.key in _BRACKETS or item.key in ARTICLES or item.key in ("a", *HEDGES)


def _denied_after(reading: _Reading, end: int) -> bool:
    """Whether what follows denies it: "red is not the answer", "B isn't right", "4 is wrong"."""
    verb = False
    for index in range(end, min(len(reading.items), end + 5)):
        key = reading.items[index].key
        if reading.clause[index] != reading.clause[end - 1] or key in ALTERNATIVES:
            return False
        if (verb and key in (*NOT, *WRONG)) or (key in NOT and key.endswith("nt")) or key == "cannot":
            return True
        verb |= key in COPULAS
    return False


def _alone(reading: _Reading, start: int, end: int) -> bool:
    """Whether the clause of a mention holds nothing else but fillers; clauses of more than a dozen items do not."""
    clause = reading.clause[start]
    for step, position in ((-1, start - 1), (1, end)):
        for _ in range(12):
            if not 0 <= position < len(reading.items) or reading.clause[position] != clause:
                break
            item = reading.items[position]
            if item.kind == "number" or (item.kind == "word" and (item.part or item.key not in FILLERS | CONJUNCTIONS)):
                return False
            position += step
        else:
            return False
    return True


def _decide(reading: _Reading, mentions: Iterable[_Mention]) -> int | str | None:
    """The one thing that a text states; None where it states none, or two, or denies what it states."""
    found = list(mentions)
    if reading.cue is not None:
        after = [mention for mention in found if mention.start > reading.cue]
        if any(not (mention.denied or mention.possible) for mention in after):
            # What was considered before the final answer does not count, unless the text began by stating it.
            found = [mention for mention in found if mention.alone and reading.clause[mention.start] == 0] + after
    named = {mention.value for mention in found if not mention.denied}
    if len(named) != 1 or named & {mention.value for mention in found if mention.denied}:
        return None
    return named.pop() if any(not (mention.denied or mention.possible) for mention in found) else None


def _numbers(reading: _Reading) -> Iterator[_Mention]:
    """Every number; "no dogs" is zero where no number stands."""
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
        yield _mention(reading, item.key, index, index + 1 + unit, bound)
    if any_number:
        return
    for index, item in enumerate(found):
        after = found[index + 1] if index + 1 < len(found) else _NO_ITEM
        none_of = item.key == "no" and after.kind == "word" and after.key not in NO_ANSWER and after.key not in FILLERS
        if none_of or (item.key == "any" and reading.denied[index]):
            yield _Mention("0", index, index + 1, False, reading.possible[index])


def _clauses(reading: _Reading) -> Iterator[tuple[int, int]]:
    """Where each clause begins and ends."""
    start = 0
    for index in range(1, len(reading.items) + 1):
        if index == len(reading.items) or reading.clause[index] != reading.clause[start]:
            yield start, index
            start = index


def _polars(reading: _Reading) -> Iterator[_Mention]:
    """Every yes and no that answers: one that opens its clause or stands in it alone, and what is joined to it.

    "There is no dog" and "Yes, there is no dog" hold a "no" that answers nothing.
    """
    for start, end in _clauses(reading):
        spoken = [index for index in range(start, end) if reading.items[index].kind != "mark"]
        at = 0
        while at < len(spoken) and reading.items[spoken[at]].key in CARRIERS and not reading.items[spoken[at]].part:
            at += 1
        polar = [reading.items[index].key in POLAR and not reading.items[index].part for index in spoken]
        if at == len(spoken) or not polar[at]:
            continue
        if at and any(reading.items[index].key not in CARRIERS | POLAR for index in spoken[at:]):
            continue
        while at < len(spoken) and (polar[at] or reading.items[spoken[at]].key in LINKS):
            if polar[at]:
                yield _mention(reading, reading.items[spoken[at]].key, spoken[at], spoken[at] + 1)
            at += 1


def _is_letter(item: Item) -> bool:
    return item.kind == "word" and not item.part and len(item.raw) == 1 and item.raw.isascii() and item.raw.isalpha()


def _letters(reading: _Reading, options: _Options, taken: Sequence[bool] = ()) -> Iterator[_Mention]:
    """Every letter that stands for an option: bracketed, alone, with a label, or with nothing but fillers in its clause.

    The article "A", the pronoun "I" and letters in names ("Vitamin C", "plan B") do not.

    Args:
        reading: the text.
        options: whose letters they are.
        taken: items that are an option's words, for each item; they count as fillers.
    """
    found = reading.items
    label = found[1].key if len(found) > 1 and _is_letter(found[0]) and found[1].kind == "mark" else ""
    for start, end in _clauses(reading):
        letters = [i for i in range(start, end) if _is_letter(found[i]) and not (taken and taken[i])]
        if not letters:
            continue
        here = set(letters)
        others = [i for i in range(start, end) if found[i].kind != "mark" and i not in here]
        bare = all(found[i].key in JOINS for i in others)
        filled = all(found[i].key in CARRIERS or found[i].key in WRONG or (taken and taken[i]) for i in others)
        for index in letters:
            if _stands_for_option(reading, index, start, end, bare, filled):
                yield _mention(reading, options.lettered(found[index].raw.upper()), index, index + 1)
            elif label and index + 2 < len(found) and found[index + 1].key == label and found[index + 2].kind != "mark":
                # "A. red B. blue": the labels of a list
                yield _mention(reading, options.lettered(found[index].raw.upper()), index, index + 1, possible=True)


def _stands_for_option(reading: _Reading, index: int, start: int, end: int, bare: bool, filled: bool) -> bool:
    """Whether a letter in the clause from start to end names an option."""
    found = reading.items
    before = found[index - 1] if index > start else Item("mark", "")
    after = found[index + 1] if index + 1 < end else Item("mark", "")
    if before.key in ("(", "<") and after.key in (")", ">"):
        return True
    if index == start and after.key in (")", ">"):  # "b) red"
        return True
    letter = found[index].raw
    last = after.kind == "mark" or _rest_is_marks(reading, index + 1, end)
    pointed = before.key in LABELS or (last and before.key in COPULAS)
    if letter in ("a", "i"):
        introduced = (
            start > 0 and next((found[i].key for i in range(start - 1, -1, -1) if found[i].kind != "mark"), "") in LABELS
        )
        answered = filled and last and any(found[i].key in LABELS for i in range(start, index))
        return (
            (bare and last and (start == 0 or introduced or index != start)) or answered or (last and before.key in LABELS)
        )
    if letter in ("A", "I") and not last and not (after.key in COPULAS or after.key in JOINS or _is_letter(after)):
        # An article or a pronoun: "A dog", "I think".
        return False
    if letter == "I" and after.key in ("would", "must", "should", "can", "do", "did"):
        return False
    return bare or pointed or (filled and letter.isupper())


def _rest_is_marks(reading: _Reading, start: int, end: int) -> bool:
    return all(reading.items[i].kind == "mark" for i in range(start, min(end, start + 4)))


# Options


_LABELLED = re.compile(
    r"[(\[{<* ]*([A-Za-z]|\d{1,2}) ?(?:(?<=[A-Za-z])[)\]}>.:,*]+|[)\]}>.:,*]+(?!\d)|- )[ *]*(.*\S)", re.DOTALL
)  # "A. red", "(a) red", "[A] red", "1) red", "A - red"


@dataclass(slots=True)
class _Options:
    """The options of a question: their words, and the letters or numbers that name them."""

    whole: dict[str, int] = field(default_factory=dict)  # key of the whole text → index
    written: dict[str, int] = field(default_factory=dict)  # the text as it is written, for options whose keys are equal
    patterns: dict[str, list[tuple[list[tuple[str, bool]], int]]] = field(
        default_factory=dict
    )  # by first word, longest first
    labels: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # where every option is a number
    amounts: dict[str, int] = field(default_factory=dict)  # the number of an option that states just one
    polars: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[str], labels: dict[str, int]) -> _Options:
        """Options from their texts without labels, and what names each."""
        options = cls(labels=labels)
        readings = [_read(text) for text in texts]
        keys = Counter({reading.text: reading.key for reading in readings}.values())
        for index, reading in enumerate(readings):
            options.written.setdefault(reading.text, index)
            if keys[reading.key] > 1:
                continue  # "it's" and "its": only the very text tells them apart
            options.whole.setdefault(reading.key, index)
            if reading.key in POLAR:
                options.polars[reading.key] = index
            elif reading.number is not None and len(reading.words) == 1:
                options.numbers.setdefault(reading.number, index)
            elif reading.words and reading.letter is None:
                options._add_pattern(reading, index)
            amounts = [item.key for item in reading.items if item.kind == "number"]
            if len(amounts) == 1:
                options.amounts[amounts[0]] = -1 if amounts[0] in options.amounts else index
        if len(options.numbers) < len(options.whole):
            for index in options.numbers.values():
                options._add_pattern(readings[index], index)
            options.numbers = {}
        for known in options.patterns.values():
            known.sort(key=lambda pattern: -len(pattern[0]))
        return options

    def _add_pattern(self, reading: _Reading, index: int) -> None:
        pattern = []
        last = -1
        for position in reading.words:
            gap = any(item.kind == "mark" and item.key not in _BRACKETS for item in reading.items[last + 1 : position])
            pattern.append((reading.items[position].key, gap and last >= 0))
            last = position
        self.patterns.setdefault(pattern[0][0], []).append((pattern, index))

    def lettered(self, letter: str) -> int | str:
        """The option of a letter; the letter itself where none has it, which is a statement of its own."""
        own = self.whole.get(letter.lower())
        return own if own is not None else self.labels.get(letter, letter)

    def index_of(self, right: _Reading) -> int | None:
        """The option that a right answer is: its words or its letter or both, and nothing else."""
        if (index := self._whole(right)) is not None:
            return index
        named = self.stated(right)
        if not isinstance(named, int):
            return None
        covered = {i for mention in self.mentions(right) for i in range(mention.start, mention.end)}
        rest = {i for i in right.words if i not in covered and right.items[i].key not in FILLERS}
        return None if rest else named

    def _whole(self, reading: _Reading) -> int | None:
        if (index := self.written.get(reading.text)) is not None:
            return index
        return self.whole.get(reading.key)

    def stated(self, reading: _Reading) -> int | str | None:
        """The option that a text states: an index, or what it names instead of one; None where it states none."""
        index = self._whole(reading)
        return index if index is not None else _decide(reading, self.mentions(reading))

    def mentions(self, reading: _Reading) -> list[_Mention]:
        """Every place where a text names an option by its words, its letter or its number."""
        found = list(self._spelled(reading))
        taken = [False] * len(reading.items)
        for mention in found:
            taken[mention.start : mention.end] = [True] * (mention.end - mention.start)
        found += _letters(reading, self, taken)
        for mention in _numbers(reading) if self.numbers or self.amounts or self.labels else ():
            value = mention.value
            if taken[mention.start]:
                continue
            if mention.alone and value in self.labels:
                found.append(mention._replace(value=self.labels[str(value)]))
            elif self.numbers:
                found.append(mention._replace(value=self.numbers.get(str(value), value)))
            elif mention.alone and mention.end == mention.start + 1 and self.amounts.get(str(value), -1) >= 0:
                found.append(mention._replace(value=self.amounts[str(value)]))
        if self.polars:
            found += [
                mention._replace(value=self.polars.get(str(mention.value), mention.value)) for mention in _polars(reading)
            ]
        return found

    def _spelled(self, reading: _Reading) -> Iterator[_Mention]:
        """The options whose words a text holds; of two that begin at one place, the longer."""
        listed, words = reading.items, reading.words
        at = 0
        while at < len(words):
            for pattern, index in self.patterns.get(listed[words[at]].key, ()):
                last = at + len(pattern) - 1
                if last < len(words) and self._matches(reading, at, pattern):
                    yield _mention(reading, index, words[at], words[last] + 1)
                    at = last
                    break
            at += 1

    @staticmethod
    def _matches(reading: _Reading, at: int, pattern: list[tuple[str, bool]]) -> bool:
        for step, (key, gap) in enumerate(pattern):
            here = reading.words[at + step]
            if reading.items[here].key != key:
                return False
            # Two statements side by side are not one option: "red, blue" is not "red blue".
            if step and not gap and reading.clause[here] != reading.clause[reading.words[at + step - 1]]:
                return False
        return True


@lru_cache(maxsize=1024)
def _options(choices: tuple[str, ...]) -> _Options:
    """The options of a question; labels that all of them bear are taken off and name them."""
    labelled = [_LABELLED.fullmatch(canonical(choice)) for choice in choices]
    names = [match[1].upper() if match else "" for match in labelled]
    if all(labelled) and len(set(names)) == len(names):
        numbered = [str(number) for number in range(1, len(names) + 1)]
        if names == numbered or sorted(names) == sorted(string.ascii_uppercase[: len(names)]):
            return _Options.of([match[2] for match in labelled if match], {name: index for index, name in enumerate(names)})
    return _Options.of(choices, {letter: index for index, letter in enumerate(string.ascii_uppercase[: len(choices)])})


# Free text


def _other_unit(said: _Reading, right: _Reading, among: Iterable[str] | None = None) -> bool:
    """Whether an answer gives the truth's number in another unit."""
    units = {item.key for item in right.items if item.kind == "unit"}
    given = {item.key for item in said.items if item.kind == "unit"}
    return bool(units) and bool(given) and not units & given


def _free_text(said: _Reading, right: _Reading) -> Verdict:
    """Token F1 of what an answer states; at most the share of its words that are right where that is below a half.

    F1 alone pays for guessing: of four guesses at one word one is right, and F1 would give 0.4, not 0.25. An answer earns nothing that
    denies what the truth states, offers alternatives, or gives other numbers, another unit, or no for yes.
    """
    fault = _contradiction(said, right)
    if fault:
        return Verdict(0.0, "token_f1", fault)
    kept = _stated_words(said, right)
    truth = _opened(right, right.words)
    got, wanted = Counter(kept), Counter(truth)
    shared = got & wanted
    if not any(word not in NOT and word not in POLAR for word in shared):
        return Verdict(0.0, "token_f1", f"{_short(said.key)} shares no word with {_short(right.key)}")
    count = shared.total()
    score, precision = 2 * count / (got.total() + wanted.total()), count / got.total()
    if precision < 0.5:
        score = min(score, precision)
    return Verdict(score, "token_f1", f"{count} words shared with {_short(right.key)}")


def _contradiction(said: _Reading, right: _Reading) -> str:
    """Why an answer earns nothing whatever words it shares with the truth; "" where nothing speaks against it."""
    ours, theirs = _sides(said), _sides(right)
    if ours[1] & theirs[0] - ours[0] or ours[0] & theirs[1] - theirs[0] or (ours[0] & ours[1] & theirs[0]):
        return "denies what the truth states, or states what it denies"
    keys, wanted = ({item.key for item in reading.items} for reading in (said, right))
    for word in (*ALTERNATIVES, "either"):
        if word in keys and word not in wanted:
            return f"offers alternatives: {_short(said.key)}"
    numbers, right_numbers = ({item.key for item in r.items if item.kind == "number"} for r in (said, right))
    if right_numbers and numbers - right_numbers:
        return f"gives other numbers than {_short(right.key)}"
    if _other_unit(said, right) or _other_noun(said, right):
        return f"gives another unit than {_short(right.key)}"
    first, right_first = (reading.items[0].key if reading.items else "" for reading in (said, right))
    if {first, right_first} == POLAR:
        return f"says {first}, not {right_first}"
    if _lists_others(said, right):
        return f"states another answer beside {_short(right.key)}"
    return ""


def _sides(reading: _Reading) -> tuple[set[str], set[str]]:
    """The words that a text states and the words that it denies."""
    stated: set[str] = set()
    denied: set[str] = set()
    for index in reading.words:
        key = reading.items[index].key
        if key not in NOT and key not in POLAR:
            (denied if reading.denied[index] else stated).add(key)
    return stated, denied


def _other_noun(said: _Reading, right: _Reading) -> bool:
    """Whether the truth is a number of something, and the answer that number of something else: "5 m" for "5 kg"."""
    ours, theirs = ([reading.items[index] for index in reading.words] for reading in (said, right))
    if [item.kind for item in theirs] not in (["number", "word"], ["number", "unit"]):
        return False
    return len(ours) == 2 and ours[0].key == theirs[0].key and ours[1].key != theirs[1].key


def _lists_others(said: _Reading, right: _Reading) -> bool:
    """Whether an answer states the truth and, beside it, something else: "red and blue", "red, blue".

    What follows a comma or a stop in more words than the truth has, and one more, explains it rather than rivals it.
    """
    truth = _opened(right, right.words)
    words = set(truth)
    counted = set(said.words)
    pieces: list[tuple[list[int], bool]] = [([], False)]  # and whether "and" leads to them
    for index, item in enumerate(said.items):
        if item.key in ("and", *_BRACKETS) or (index and said.clause[index] != said.clause[index - 1]):
            pieces.append(([], item.key == "and"))
        if index in counted and item.key != "and" and not said.denied[index]:
            pieces[-1][0].append(index)
    stated = [(_opened(said, piece), joined) for piece, joined in pieces]
    if "and" in words or not any(piece == truth for piece, _ in stated):
        return False
    return any(
        (joined or len(piece) <= len(truth) + 1) and not words & set(piece) and set(piece) - CARRIERS - POLAR
        for piece, joined in stated
    )


def _stated_words(said: _Reading, right: _Reading) -> list[str]:
    """The words of an answer that count: without what it denies where the truth denies nothing, and said once."""
    denies = any(right.items[index].key in NOT for index in right.words)
    clauses: dict[int, list[str]] = {}
    for index in said.words:
        if denies or not (said.denied[index] or said.items[index].key in NOT):
            clauses.setdefault(said.clause[index], []).append(said.items[index].key)
    flat = [key for clause in dict.fromkeys(map(tuple, clauses.values())) for key in clause]
    return flat if denies else _without_opening(flat)


def _opened(reading: _Reading, group: Sequence[int]) -> list[str]:
    return _without_opening([reading.items[index].key for index in group])


def _without_opening(keys: list[str]) -> list[str]:
    """The words behind "it is", "the answer is" and the like; all of them where nothing else is said."""
    opening = next((index for index, key in enumerate(keys) if key not in OPENINGS), len(keys))
    return keys[opening:] or keys


def _verdict(agrees: bool, rule: str, got: str, wanted: str) -> Verdict:
    return Verdict(float(agrees), rule, f"got {_short(got)}, wanted {_short(wanted)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
