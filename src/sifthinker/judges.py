"""Is this answer right? Rules that need no model, and a model for what rules cannot decide.

The first rule that applies to the *right* answer decides: multiple choice, yes or no, number, text. Free text that shares
words with the truth without being it is what a `ModelJudge` is asked about; where it fails there is no verdict, which is not
the same as wrong.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sifthinker.endpoint import Endpoint
from sifthinker.errors import EndpointError
from sifthinker.files import atomic_write, sha256, to_json
from sifthinker.json_reply import without_reasoning
from sifthinker.loops import run_coroutine
from sifthinker.prompts import JUDGE_SYSTEM, judge_task

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = dict(
    zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10), strict=True)
)
_WORD_NUMBERS = {word: value for value, word in enumerate(_ONES)} | _TENS | {"none": 0}
_SCALES = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LEADING_LETTER = re.compile(r"\(([A-Za-z])\)|([A-Z])[).:](?=\s|$)")
_ANOTHER_LETTER = re.compile(r"\s*(?:,|/|&|or\b|and\b)\s*(?:or\s+|and\s+)?(?:\([A-Za-z]\)|[A-Z]\b)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BOTH = re.compile(r"(?:yes|no) (?:or|and) ")
_ARTICLES = {"a", "an", "the"}
_NEGATIONS = {"no", "not", "neither", "nor", "never", "cannot", "isnt", "arent", "wasnt", "werent", "dont", "doesnt", "cant"}
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation if mark not in ".-'"} | {"'": ""})


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
    """Judge an answer by rules.

    Args:
        answer: what the model answered.
        truth: the right answer.
        choices: the possible answers of a closed question. A letter in `answer` or `truth` names them by position.
    """
    if choices:
        return _judge_choice(answer, truth, choices)
    said, right = _comparable(answer), _comparable(truth)
    letter = _LETTER.fullmatch(truth.strip())
    if letter and letter[1].isupper():
        got = _stated_letter(answer)
        return _verdict(got == letter[1], "choice", got or "no letter", letter[1])
    if right in ("yes", "no"):
        words = said.split()
        got = words[0] if words and words[0] in ("yes", "no") else ""
        return _verdict(got == right, "yes_no", got or "neither yes nor no", right)
    number = _as_number(right)
    if number is not None:
        stated = _stated_numbers(said)
        return _verdict(stated == [number], "number", str(stated), str(number))
    if said == right:
        return Verdict(1.0, "exact", f"{said!r} is the answer")
    return _token_f1(said, right)


@dataclass(frozen=True, slots=True)
class Question:
    """An answer to be judged: what was asked, what was answered, what is right, the choices of a closed question."""

    question: str
    answer: str
    truth: str
    choices: tuple[str, ...] = ()


# Tokens of a verdict, and of one by a model that reasons before it answers.
_A_NUMBER = 16
_WITH_REASONING = 4096
# A judge that refuses this many requests before it has answered one is set up wrongly.
_FIRST_REFUSALS = 10


_DIGITS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_SCORE = re.compile(
    r"(?:\D{0,40}\b(?:score|verdict|rating)\b)?[^\w.%-]*(?:- )?"
    r"(?P<first>\d+(?:\.\d+)?|\.\d+)(?![\w%.]*[\w%])(?!\s*%)(?:\D.*)?"
    r"|.*?[^\w.%-](?P<last>\d+(?:\.\d+)?|\.\d+)[^\w%]*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(slots=True)
class JudgeCounts:
    """How a model judge's verdicts came about: by rules, by the model, from its cache, or not at all."""

    rules: int = 0
    model: int = 0
    cached: int = 0
    failed: int = 0


@dataclass(slots=True)
class ModelJudge:
    """Rules first; free text that they leave open goes to a served model.

    Args:
        endpoint: its server; timeout, retries and concurrency are the endpoint's.
        cache: folder for verdicts, keyed by model, prompt and texts; None keeps none.
        counts: running totals.
    """

    endpoint: Endpoint
    cache: str | os.PathLike[str] | None = None
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    _max_tokens: int = field(default=_A_NUMBER, repr=False)
    _refusals: int = field(default=0, repr=False)  # requests refused before one was answered

    def judge_all(self, items: Sequence[Question]) -> list[Verdict | None]:
        """Judge answers at once; works in notebooks too.

        Returns:
            A verdict for each item, None where the server failed, hung or answered nonsense after every retry.
        Raises:
            EndpointError: the judge cannot be asked at all before something is changed: its key, address, model or credit is
                wrong, or it refused each of its first requests.
        """
        return run_coroutine(self.judge_all_async(items))

    async def judge_all_async(self, items: Sequence[Question]) -> list[Verdict | None]:
        """`judge_all` for callers with an event loop."""
        async with self.endpoint:
            # Equal questions, common within a group, are asked once.
            asked = {item: asyncio.create_task(self._judge(item)) for item in dict.fromkeys(items)}
            try:
                return [await asked[item] for item in items]
            finally:
                for task in asked.values():
                    task.cancel()
                await asyncio.gather(*asked.values(), return_exceptions=True)

    async def _judge(self, item: Question) -> Verdict | None:
        ruled = judge(item.answer, item.truth, item.choices)
        if ruled.rule != "token_f1":
            self.counts.rules += 1
            return ruled
        file = self._file(item)
        if file is not None and (score := _read_verdict(file)) is not None:
            self.counts.cached += 1
            return Verdict(score, "model", "from the cache")
        said = await self._ask(item)
        score = None if said is None else _stated_score(said)
        if said is None or score is None:
            self.counts.failed += 1
            return None
        self.counts.model += 1
        if file is not None:
            atomic_write(file, to_json({"score": score}))
        return Verdict(score, "model", f"the judge said {said.strip()[:80]!r}")

    async def _ask(self, item: Question) -> str | None:
        """What the model says; None where it failed."""
        messages = [
            {"role": "system", "content": JUDGE_SYSTEM},
            {"role": "user", "content": judge_task(item.question, item.truth, item.answer)},
        ]
        try:
            asked_for = self._max_tokens
            reply = await self.endpoint.chat(messages, temperature=0, max_tokens=asked_for)
            if reply.code == "cut_off" and asked_for < _WITH_REASONING:
                # A model that reasons; from now on it gets room for it at once.
                self._max_tokens = _WITH_REASONING
                reply = await self.endpoint.chat(messages, temperature=0, max_tokens=_WITH_REASONING)
        except EndpointError as error:
            if error.kind == "outage" or (error.kind == "request" and not self._refuses_all()):
                return None
            raise EndpointError(f"the judge cannot be asked: {error}", error.code, error.attempts, "setup") from None
        self._refusals = 0
        return None if reply.code else without_reasoning(reply.text)

    def _refuses_all(self) -> bool:
        """Count a refused request; whether the first ones all were."""
        self._refusals += not self.counts.model
        return self._refusals >= _FIRST_REFUSALS

    def _file(self, item: Question) -> Path | None:
        if self.cache is None:
            return None
        key = to_json([self.endpoint.model, JUDGE_SYSTEM, item.question, item.truth, item.answer])
        name = sha256(key.encode("utf-8", "replace"))
        return Path(self.cache) / name[:2] / f"{name}.json"


def _stated_score(text: str) -> float | None:
    """The score that a judge states: one number in [0, 1] that begins its reply, ends it, or follows the word "score".

    A number in the middle of a sentence ("the 1 cat is black") is no score, nor is a percentage or one below 0.
    """
    if len({float(number) for number in _DIGITS.findall(text)}) != 1:
        return None
    found = _SCORE.fullmatch(text.strip())
    score = None if found is None else float(found["first"] or found["last"])
    return score if score is not None and score <= 1 else None


def _read_verdict(file: Path) -> float | None:
    try:
        score = json.loads(file.read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation and extra white space; decimal points and minus signs stay."""
    words = _THOUSANDS.sub("", text.lower().replace("’", "'")).translate(_PUNCTUATION).split()
    kept = [word.strip(".-") if not _NUMBER.fullmatch(word.rstrip(".")) else word.rstrip(".") for word in words]
    return " ".join(word for word in kept if word and word not in _ARTICLES)


def _comparable(text: str) -> str:
    """A normalised text; one of which nothing would be left, such as "A" or "+", as it stands."""
    return normalise(text) or text.strip().casefold()


def _judge_choice(answer: str, truth: str, choices: Sequence[str]) -> Verdict:
    texts = [_comparable(choice) for choice in choices]
    right = _choice_index(truth, texts)
    if right is None:
        # A right answer that is none of its choices is a fault of the data; judge it as open.
        return judge(answer, truth)
    said = _choice_index(answer, texts)
    return _verdict(said == right, "choice", choices[said] if said is not None else "no choice", choices[right])


def _choice_index(text: str, choices: list[str]) -> int | None:
    """Which choice a text names: its exact words, its letter, or the only choice whose words it contains."""
    words = _comparable(text)
    if words in choices:
        return choices.index(words)
    numbers = [_as_number(choice) for choice in choices]
    stated = _stated_numbers(words)
    if None not in numbers and len(stated) == 1 and stated[0] in numbers and not _NEGATIONS & set(words.split()):
        return numbers.index(stated[0])
    letter = _stated_letter(text)
    if letter and ord(letter) - ord("A") < len(choices):
        return ord(letter) - ord("A")
    first = words.partition(" ")[0]
    if first in ("yes", "no") and first in choices and not _BOTH.match(words):
        return choices.index(first)
    named = [index for index, choice in enumerate(choices) if choice and f" {choice} " in f" {words} "]
    if len(named) != 1:
        return None
    before = f" {words} ".partition(f" {choices[named[0]]} ")[0].split()
    return None if _NEGATIONS & set(before) else named[0]


def _stated_letter(text: str) -> str:
    """The letter that an answer states: alone, or leading with brackets or a stop: "B", "(b)", "B. a cat"; "" for none, or
    for "(A) or (B)"."""
    alone = _LETTER.fullmatch(text.strip())
    if alone:
        return alone[1].upper()
    leading = _LEADING_LETTER.match(text.strip())
    if leading is None or _ANOTHER_LETTER.match(text.strip(), leading.end()):
        return ""
    return (leading[1] or leading[2]).upper()


def _as_number(text: str) -> float | None:
    """The number that a normalised text is, in digits or in words."""
    words = _number_words(text)
    value, end = _number_at(words, 0)
    return value if end == len(words) else None


def _stated_numbers(text: str) -> list[float]:
    """Every number in a normalised answer, in order; an answer that states two different ones has not decided."""
    found: list[float] = []
    words, position = _number_words(text), 0
    while position < len(words):
        value, end = _number_at(words, position)
        if value is not None:
            found.append(value)
        position = max(end, position + 1)
    return list(dict.fromkeys(found))


def _number_words(text: str) -> list[str]:
    """The words of a normalised text, those of numbers apart: "twenty-one" is two, "no one" is "none"."""
    words: list[str] = []
    for word in text.split():
        parts = word.split("-")
        if word == "one" and words[-1:] == ["no"]:
            words[-1] = "none"
        elif all(part in _WORD_NUMBERS for part in parts):
            words += parts
        else:
            words.append(word)
    return words


def _number_at(words: list[str], start: int) -> tuple[float | None, int]:
    """The number whose words begin at a position, and where they end; None and the position where none begins."""
    negative = words[start : start + 1] in (["minus"], ["negative"])
    at = start + negative
    total, scale = 0.0, math.inf  # thousands and more, and the last of these
    part: float | None = None  # what is below them
    end = start
    while at < len(words):
        word = words[at]
        if word in _SCALES and _SCALES[word] < scale and (part is not None or end == start):
            scale = _SCALES[word]
            total, part = total + (1 if part is None else part) * scale, None
        elif word == "hundred" and (part is None or 0 < part < 100):
            part = 100 * (1 if part is None else part)
        elif _NUMBER.fullmatch(word) and part is None and not total:
            part = float(word)
        elif word in _WORD_NUMBERS and _follows(_WORD_NUMBERS[word], part):
            part = (part or 0) + _WORD_NUMBERS[word]
        elif word == "and" and end > start and words[at - 1] in ("hundred", *_SCALES):
            at += 1
            continue
        else:
            break
        at += 1
        end = at
    if end == start:
        return None, start
    value = total + (part or 0)
    return (-value if negative else value), end


def _follows(value: int, part: float | None) -> bool:
    """Whether a word of a number goes on with what was said since the last thousand: twenty|one, hundred|twelve."""
    if part is None:
        return True
    return bool((part >= 100 and part % 100 == 0 and value) or (part % 100 in _TENS.values() and 0 < value < 10))


def _token_f1(said: str, right: str) -> Verdict:
    said_words, right_words = Counter(said.split()), Counter(right.split())
    shared = sum((said_words & right_words).values())
    if not shared:
        return Verdict(0.0, "token_f1", f"{said[:80]!r} shares no word with {right!r}")
    score = 2 * shared / (said_words.total() + right_words.total())
    return Verdict(score, "token_f1", f"{shared} words shared with {right!r}")


def _verdict(agrees: bool, rule: str, got: str, wanted: str) -> Verdict:
    return Verdict(float(agrees), rule, f"got {got[:80]}, wanted {wanted}")
