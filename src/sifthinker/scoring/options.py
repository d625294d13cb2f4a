"""Options of a closed question, and the options that a text names by words, letter or number."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from sifthinker.scoring.reading import (
    Mention,
    Reading,
    decide,
    is_labelled,
    is_letter,
    letters_in,
    mention_at,
    numbers_in,
    polars_in,
    read,
    stands_alone,
)
from sifthinker.scoring.text import canonical
from sifthinker.scoring.words import FILLERS, POLAR

LABELLED = re.compile(
    r"[(\[{<* ]*([A-Za-z]|\d{1,2}) ?(?:(?<=[A-Za-z])[)\]}>.:*]+|[)\]}>.:*]+(?!\d)|- )[ *]*(.*\S)", re.DOTALL
)  # "A. red", "(a) red", "[A] red", "1) red", "A - red"
_CHINESE_LABEL = re.compile(r"^(\w)、")
# Excludes denied, doubted and joined statements.
_PREDICATE = re.compile(r"[^不没非无未别或和与跟及还可能吗]*?[是为選选](\w+?)的?")


Pattern = list[tuple[str, bool]]  # words, each with whether a clause ends before it


@dataclass(slots=True)
class Options:
    """The options of a question: their words, and their letters or numbers."""

    whole: dict[str, int] = field(default_factory=dict)  # key of the whole text → index
    written: dict[str, int] = field(default_factory=dict)  # original text → index, for options with equal keys
    spelling: dict[int, Pattern] = field(default_factory=dict)  # index → words, for the options in `whole`
    patterns: dict[str, list[tuple[Pattern, int]]] = field(default_factory=dict)  # by first word, longest first
    labels: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # if every option is a number
    amounts: dict[str, int | str] = field(default_factory=dict)  # number → the only option that contains it
    polars: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[str], labels: dict[str, int]) -> Options:
        """Build options from their texts without labels, and a mapping from label to index."""
        options = cls(labels=labels)
        readings = [read(text) for text in texts]
        leading: dict[str, list[int]] = {}
        keys = Counter({reading.text: reading.key for reading in readings}.values())
        for index, reading in enumerate(readings):
            options.written.setdefault(reading.text, index)
            if keys[reading.key] > 1:
                continue  # "it's" and "its": only the original text distinguishes them
            options.whole.setdefault(reading.key, index)
            options.spelling[index] = _pattern(reading)
            if reading.key in POLAR:
                options.polars[reading.key] = index
            elif reading.number is not None and len(reading.words) == 1:
                options.numbers.setdefault(reading.number, index)
            elif reading.words and reading.letter is None:
                options._add_pattern(reading, index)
            if reading.key not in POLAR and len(reading.items) > 1 and reading.items[1].key == ",":
                leading.setdefault(reading.items[0].key, []).append(index)  # "Yes, it is"
            amounts = [item.key for item in reading.items if item.kind == "number"]
            if len(amounts) == 1:
                # A number in two options does not distinguish them.
                options.amounts[amounts[0]] = amounts[0] if amounts[0] in options.amounts else index
        if len(options.numbers) < len(options.whole):
            for index in options.numbers.values():
                options._add_pattern(readings[index], index)
            options.numbers = {}
        for word in POLAR:
            if len(leading.get(word, ())) == 1:
                options.polars.setdefault(word, leading[word][0])
        for known in options.patterns.values():
            known.sort(key=lambda pattern: -len(pattern[0]))
        return options

    def _add_pattern(self, reading: Reading, index: int) -> None:
        pattern = _pattern(reading)
        self.patterns.setdefault(pattern[0][0], []).append((pattern, index))

    def lettered(self, letter: str) -> int | str:
        """Return the option of a letter, or the letter itself if no option has it. An unknown letter is a statement too."""
        own = self.whole.get(letter.lower())
        return own if own is not None else self.labels.get(letter, letter)

    def index_of(self, right: Reading) -> int | None:
        """Return the option that a right answer consists of: its words, its letter or both, and nothing else."""
        if (index := self._whole(right)) is not None:
            return index
        named = self.stated(right)
        if not isinstance(named, int):
            return None
        covered = {i for mention in self.mentions(right) for i in range(mention.start, mention.end)}
        rest = {i for i in right.words if i not in covered and right.items[i].key not in FILLERS}
        return None if rest else named

    def _whole(self, reading: Reading) -> int | None:
        """Return the option that equals a text, apart from case, articles and punctuation."""
        bare = reading.text.strip(" \"'*_.,;:!?")
        for text in (reading.text, bare):
            if text and (index := self.written.get(text)) is not None:
                return index
        index = self.whole.get(reading.key)
        return None if index is None or not _matches(reading, 0, self.spelling[index]) else index

    def stated(self, reading: Reading) -> int | str | None:
        """Return the option that a text states: an index, or another value that it states instead, or None."""
        index = self._whole(reading)
        return index if index is not None else decide(reading, self.mentions(reading))

    def mentions(self, reading: Reading) -> list[Mention]:
        """Return all mentions of options in a text, by words, letter or number."""
        found = list(self._spelled(reading))
        taken = [False] * len(reading.items)
        _take(taken, found)
        for mention in list(numbers_in(reading)) if self.numbers or self.amounts or self.labels else ():
            value = self._numbered(reading, mention, taken)
            if value is not None:
                found.append(mention._replace(value=value))
        _take(taken, found)
        found += letters_in(reading, self.lettered, taken)
        if self.polars:
            # If "no" is an option, "A: no" names two options and does not deny the first.
            polars = set(self.polars.values())
            found = [
                mention_at(reading, mention.value, mention.start, mention.end, mention.possible, answered=True)
                if mention.value in polars
                else mention
                for mention in found
            ]
            found += [
                mention._replace(value=self.polars.get(str(mention.value), mention.value)) for mention in polars_in(reading)
            ]
        return _with_labels(reading, found)

    def _numbered(self, reading: Reading, mention: Mention, taken: Sequence[bool]) -> int | str | None:
        """Return the option of a number: the option that is the number, its label, or the only one with that amount."""
        number = str(mention.value)
        if taken[mention.start]:
            return None
        if self.numbers:
            return self.numbers.get(number, number)
        if not stands_alone(reading, mention.start, mention.end, taken) and not is_labelled(reading, mention.end, taken):
            return None
        if "1" in self.labels:
            return self.labels.get(number, number)
        bare = mention.end == mention.start + 1  # a number with a unit would be another option
        return self.amounts.get(number, number) if bare and self.amounts else None

    def _spelled(self, reading: Reading) -> Iterator[Mention]:
        """Yield the options whose words a text contains. If two begin at one place, the longer one counts."""
        listed, words = reading.items, reading.words
        at = 0
        while at < len(words):
            for pattern, index in self.patterns.get(listed[words[at]].key, ()):
                last = at + len(pattern) - 1
                if _matches(reading, at, pattern):
                    yield mention_at(reading, index, words[at], words[last] + 1)
                    at = last
                    break
            else:
                if (named := self._predicated(listed[words[at]].key)) is not None:
                    yield mention_at(reading, named, words[at], words[at] + 1)
            at += 1

    def _predicated(self, run: str) -> int | None:
        """Return the option in a Chinese sentence without word boundaries, such as "杯子是红色的"."""
        if run.isascii() or len(run) > 40 or (match := _PREDICATE.fullmatch(run)) is None:
            return None
        known = self.patterns.get(match[1], ())
        return next((index for pattern, index in known if len(pattern) == 1), None)


def _pattern(reading: Reading) -> Pattern:
    """Return the words of an option, each with whether a clause ends before it."""
    clauses = [reading.clause[index] for index in reading.words]
    gaps = [False, *(clause != before for before, clause in pairwise(clauses))]
    return [(reading.items[index].key, gap) for index, gap in zip(reading.words, gaps, strict=False)]


def _matches(reading: Reading, at: int, pattern: Pattern) -> bool:
    """Whether the words of a text, from a position on, are those of an option."""
    if at + len(pattern) > len(reading.words):
        return False
    for step, (key, gap) in enumerate(pattern):
        here = reading.words[at + step]
        if reading.items[here].key != key:
            return False
        # Two statements side by side are not one option: "red, blue" is not "red blue".
        if step and not gap and reading.clause[here] != reading.clause[reading.words[at + step - 1]]:
            return False
    return True


def _take(taken: list[bool], mentions: Iterable[Mention]) -> None:
    """Mark the items of mentions."""
    for mention in mentions:
        taken[mention.start : mention.end] = [True] * (mention.end - mention.start)


@lru_cache(maxsize=1024)
def options_of(choices: tuple[str, ...]) -> Options:
    """Build the options of a question. If all choices have labels, the labels are removed and used as names."""
    labelled = [LABELLED.fullmatch(canonical(_CHINESE_LABEL.sub(r"\1.", choice))) for choice in choices]
    names = [match[1].upper() if match else "" for match in labelled]
    if all(labelled) and len(set(names)) == len(names):
        numbered = [str(number) for number in range(1, len(names) + 1)]
        if names == numbered or "".join(sorted(names)) in string.ascii_uppercase:  # consecutive letters, in any order
            labels = {name: index for index, name in enumerate(names)}
            if "1" in labels:  # a letter means the option at that position
                labels |= {
                    string.ascii_uppercase[int(name) - 1]: index for index, name in enumerate(names) if int(name) <= 26
                }
            options = Options.of([match[2] for match in labelled if match], labels)
            for index, choice in enumerate(choices):
                options.written.setdefault(canonical(choice), index)
            return options
    return Options.of(choices, {letter: index for index, letter in enumerate(string.ascii_uppercase[: len(choices)])})


def _is_label(reading: Reading, mention: Mention) -> bool:
    first = reading.items[mention.start]
    return mention.end == mention.start + 1 and (is_letter(first) or first.kind == "number")


def _with_labels(reading: Reading, mentions: list[Mention]) -> list[Mention]:
    """Sort mentions. A label and the words after it are denied or possible together: "not A. red"."""
    found = sorted(mentions, key=lambda mention: mention.start)
    for index in range(1, len(found)):
        label, words = found[index - 1], found[index]
        between = reading.items[label.end : words.start]
        if (
            _is_label(reading, label)
            and label.value == words.value
            and between
            and all(item.kind == "mark" for item in between[:3])
        ):
            denied, possible = label.denied or words.denied, label.possible or words.possible
            found[index - 1] = label._replace(denied=denied, possible=possible)
            found[index] = words._replace(denied=denied, possible=possible)
    return found
