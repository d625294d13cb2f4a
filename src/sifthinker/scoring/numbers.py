"""Find numbers in a text: numerals, number words and units, as items with comparable keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from sifthinker.scoring.text import Token
from sifthinker.scoring.words import listed

_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = {word: 10 * ten for ten, word in enumerate(listed("twenty thirty forty fifty sixty seventy eighty ninety"), 2)}
_VALUES = {word: value for value, word in enumerate(_ONES)} | _TENS | {"none": 0}
_VALUES |= {sign: value for value, sign in enumerate("一二三四五六七八九十", 1)} | {"两": 2, "零": 0}
_SCALES = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_NUMBER_WORDS = {*_VALUES, *_SCALES, "hundred", "dozen"}
_PLACES = listed(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
)
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_ORDINALS = {word: f"{place}{_ENDINGS.get(place, 'th')}" for place, word in enumerate(_PLACES, 1)}
# After these words, "one" means a thing, not a number: "the one on the left".
_POINTING = {"the", "this", "that", "each", "every", "another", "which", "other", "last", "any", *_ORDINALS}
_EXACT_DIGITS = 30  # longer numerals are compared as text; no number word follows them

_UNITS = {
    "percent": "%", "pct": "%", "dollar": "$", "dollars": "$", "usd": "$", "us$": "$", "euro": "€", "euros": "€", "eur": "€",
    "kilogram": "kg", "kilograms": "kg", "kilogramme": "kg", "kilogrammes": "kg", "kgs": "kg", "gram": "g", "grams": "g",
    "milligram": "mg", "milligrams": "mg", "kilometre": "km", "kilometres": "km", "kilometer": "km", "kilometers": "km",
    "metre": "m", "metres": "m", "meter": "m", "meters": "m", "centimetre": "cm", "centimetres": "cm", "centimeter": "cm",
    "centimeters": "cm", "millimetre": "mm", "millimetres": "mm", "millimeter": "mm", "millimeters": "mm", "litre": "l",
    "litres": "l", "liter": "l", "liters": "l", "second": "s", "seconds": "s", "sec": "s", "secs": "s", "minute": "min",
    "minutes": "min", "mins": "min", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "foot": "ft", "feet": "ft",
    "inch": "inch", "inches": "inch", "mile": "mi", "miles": "mi", "degrees": "°", "degree": "°", "deg": "°", "lbs": "lb",
    "kmh": "km/h", "kph": "km/h", "pound": "pounds", "quid": "£",
}  # fmt: skip
# "5 pounds" is a weight or an amount of money.
SAME_UNIT = {"pounds": frozenset({"pounds", "£", "lb"})}
SYMBOLS = {"%", "‰", "°", "$", "€", "£", "¥", "₹", "₩", "₽", "¢"}  # units that an answer may omit
_MEASURES = {
    "pounds",
    *_UNITS.values(),
    *SYMBOLS,
    "ml",
    "cl",
    "kmh",
    "mph",
    "km/h",
    "m/s",
    "°c",
    "°f",
    "lb",
    "oz",
    "yd",
    "pm",
    "am",
}


class Item(NamedTuple):
    """A word, a number (key: a decimal or a ratio), the unit of a number, or a mark. For `raw` and `part` see `Token`."""

    kind: Literal["word", "number", "unit", "mark"]
    key: str
    raw: str = ""
    part: bool = False


def items(tokens: Sequence[Token]) -> list[Item]:
    """Convert tokens to items: numbers in digits or words, units after them, "third" as "3rd", "no one" as 0."""
    tokens = _apart(tokens)
    found: list[Item] = []
    position = 0
    while position < len(tokens):
        prefix = tokens[position].key if tokens[position].kind == "prefix" else ""
        number, end = _number_at(tokens, position + bool(prefix))
        if number is None:
            token = tokens[position]
            position += 1
            if token.kind == "mark":
                found.append(Item("mark", token.key, token.raw))
            else:
                found.append(Item("word", _ORDINALS.get(token.key, token.key), token.raw, token.part))
            continue
        found.append(Item("number", number, tokens[position].raw))
        unit, position = _unit_at(tokens, end)
        if prefix or unit:
            found.append(Item("unit", prefix or unit))
        if prefix and unit and unit != prefix:
            found.append(Item("unit", unit))
    return found


def _apart(tokens: Sequence[Token]) -> list[Token]:
    """Split hyphenated number words: "twenty-one" becomes two words, "four-legged" stays one."""
    apart: list[Token] = []
    position = 0
    while position < len(tokens):
        end = position
        while end < len(tokens) and tokens[end].part:
            end += 1
        run = tokens[position:end]
        if run and all(token.key in _NUMBER_WORDS for token in run):
            apart += [token._replace(part=False) for token in run]
        else:
            apart += run or [tokens[position]]
        position = max(end, position + 1)
    return apart


def _unit_at(tokens: Sequence[Token], position: int) -> tuple[str, int]:
    """Return (unit at a position, its end); the unit is "" if there is none."""
    if position < len(tokens):
        token = tokens[position]
        if position + 2 < len(tokens) and tokens[position + 1].key == "/":
            ratio = f"{token.key}/{tokens[position + 2].key}"
            if ratio in _MEASURES:
                return ratio, position + 3
        unit = _UNITS.get(token.key, token.key)
        if (
            unit == "in"
            and token.kind == "word"
            and all(later.kind == "mark" for later in tokens[position + 1 : position + 4])
        ):
            return "inch", position + 1  # at the end of a text, "in" is not a preposition
        if token.kind == "glued" or (token.kind in ("word", "prefix") and not token.part and unit in _MEASURES):
            return unit, position + 1
    return "", position


def _number_at(tokens: Sequence[Token], start: int) -> tuple[str | None, int]:
    """Return (key of the number at a position, its end); the key is None if there is none."""
    key = _word(tokens, start)
    if key == "no" and _word(tokens, start + 1) == "one":
        return "0", start + 2
    if key == "one":
        before = start - 2 if _word(tokens, start - 1) == "only" else start - 1
        if _word(tokens, before) in _POINTING:
            return None, start
    negative = key in ("minus", "negative")
    at = end = start + negative
    total, scale = Fraction(0), math.inf  # the sum from thousands up, and the last scale used
    part: Fraction | None = None  # the part below a thousand
    while at < len(tokens):
        word = _word(tokens, at)
        begun = end > start + negative
        if tokens[at].kind == "numeral":
            numeral = tokens[at].key
            if begun:
                # 2 1/2: a ratio below one continues a whole number; anything else is another number.
                if part is None or total or part.denominator > 1 or "/" not in numeral or not 0 < Fraction(numeral) < 1:
                    break
                part += Fraction(numeral)
            elif len(numeral) > _EXACT_DIGITS:
                return (f"-{numeral}" if negative else numeral), at + 1
            else:
                part = Fraction(numeral)
        elif word in _SCALES and _SCALES[word] < scale and (part is not None or not begun):
            scale = _SCALES[word]
            total, part = total + (1 if part is None else part) * scale, None
        elif word == "hundred" and (part is None or 0 < part < 100):
            part = Fraction(100) * (1 if part is None else part)
        elif word == "dozen" and (part is None or 0 < part < 100) and not total:
            part = Fraction(12) * (1 if part is None else part)
        elif word in _VALUES and _follows(_VALUES[word], part):
            part = (part or 0) + Fraction(_VALUES[word])
        elif word == "and" and begun and _word(tokens, at - 1) in ("hundred", *_SCALES):
            at += 1
            continue
        else:
            break
        at += 1
        end = at
    if end == start + negative:
        return None, start
    value = total + (part or 0)
    for half in (["and", "half"], ["and", "a", "half"]):
        if [_word(tokens, end + step) for step in range(len(half))] == half:
            value += Fraction(1, 2)
            end += len(half)
    return _key(-value if negative else value), end


def _word(tokens: Sequence[Token], position: int) -> str:
    """Return the word at a position; "" if there is none or it is part of a hyphenated word."""
    if 0 <= position < len(tokens) and tokens[position].kind == "word" and not tokens[position].part:
        return tokens[position].key
    return ""


def _follows(value: int, part: Fraction | None) -> bool:
    """Whether a number word continues the number since the last thousand: twenty|one, hundred|twelve."""
    if part is None:
        return True
    return bool((part >= 100 and part % 100 == 0 and value) or (part % 100 in _TENS.values() and 0 < value < 10))


def _key(value: Fraction) -> str:
    """Return a number as a decimal, or as a ratio in lowest terms if it has no finite decimal."""
    places, rest = 0, value.denominator
    while rest % 10 == 0 or rest % 2 == 0 or rest % 5 == 0:
        rest = rest // 10 if rest % 10 == 0 else rest // 2 if rest % 2 == 0 else rest // 5
        places += 1
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    if not places:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    decimals = digits[-places:].rstrip("0")
    whole = digits[:-places]
    return f"{'-' if value < 0 else ''}{whole}{'.' + decimals if decimals else ''}"
