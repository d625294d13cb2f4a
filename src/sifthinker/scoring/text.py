"""Canonical text for comparison: one form for the variants of Unicode, Markdown and LaTeX, split into tokens.

Every step takes time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, NamedTuple

BOX = "\x02"  # replaces LaTeX's \boxed; canonical texts contain no other control characters

_BLANKS = {
    "\t": " ",
    "\n": "\n",
    "\r": "\n",
    "\v": "\n",
    "\f": "\n",
    "\x85": "\n",
    "\u2028": "\n",
    "\u2029": "\n",
    "\u2800": " ",
}
_INVISIBLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}  # default-ignorable characters outside category Cf
_MARKS = {
    "。": ".",
    "।": ".",
    "॥": ".",
    "۔": ".",
    "、": ",",
    "،": ",",
    "؛": ";",
    "؟": "?",
    "⁄": "/",
    "∕": "/",
    "٫": ".",
    "٬": ",",
    "−": "-",
}
_DASHES = "—―⸺⸻"  # these separate clauses; shorter dashes also join words and digits
_NOTHING = "™®©"
# Compatibility forms that differ in meaning from their plain form: 5² is not 52, and 2½ is not 21/2.
_KEPT = ("<super>", "<sub>")


class _Visible(dict[int, str]):
    """Translation table that removes invisible characters and turns every blank into a space or a line break."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _BLANKS:
            shown = _BLANKS[character]
        elif category in ("Cc", "Cf") or code in _INVISIBLE or 0xFE00 <= code <= 0xFE0F or 0xE0000 <= code <= 0xE0FFF:
            shown = ""
        else:
            shown = " " if category == "Zs" else character
        self[code] = shown
        return shown


class _Plain(dict[int, str]):
    """Translation table with one form for quotation marks, dashes, brackets, digits and compatibility characters."""

    def __missing__(self, code: int) -> str:
        self[code] = plain = self._plain(chr(code))
        return plain

    def _plain(self, character: str) -> str:
        category = unicodedata.category(character)
        if character in "'’‘‛ʼʹ′´`":
            return "'"
        if character in _MARKS:
            return _MARKS[character]
        if character in _DASHES:
            return " - "
        if character in _NOTHING:
            return ""
        if character == "№":
            return "#"
        if category == "Pd":
            return "-"
        if category in ("Pi", "Pf"):
            return '"'
        if category == "Nd":
            return str(unicodedata.decimal(character))
        made_of = unicodedata.decomposition(character)
        if character.isascii() or made_of.startswith(_KEPT):
            return character
        compatible = unicodedata.normalize("NFKC", character)
        if compatible != character:
            plain = "".join(self[ord(part)] for part in compatible)
            apart = made_of.startswith("<fraction>") or any(part.isdigit() for part in plain)
            return f" {plain} " if apart else plain
        return {"Ps": "(", "Pe": ")"}.get(category, character)


_VISIBLE, _PLAIN = _Visible(), _Plain()
_MINUS = re.compile(r"(?<![^\n:(] )− (?=\d)")  # a minus sign with a space before its digits
_FRACTION = re.compile(r"\\[dt]?frac ?\{ ?(\d{1,18}) ?\} ?\{ ?(\d{1,18}) ?\}")
_DEGREES = re.compile(r"\^? ?\{? ?\\circ ?\}?")
_BOXED = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])")
# Struck-out text: "~~B~~ A" is A.
_STRUCK = re.compile(r"~~[^~\n]+~~|<(s|del|strike)>[^<]*</\1>", re.IGNORECASE)
_CANCELLED = re.compile(r"\\(?:sout|st|[bx]?cancel) ?\{[^{}]*\}")
_COMMAND = re.compile(r"\\[A-Za-z]+ ?(?=\{)")
_ESCAPED = re.compile(r"\\(?=[^A-Za-z])")
_MATHS = re.compile(r"\$\$?(?=[^\s$])([^$\n]*)(?<=\S)\$\$?(?!\d)")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_CLOSING = re.compile(r"</([A-Za-z]\w{0,20})>")
_TAG = re.compile(r"</?([A-Za-z]\w{0,20})>")
_SPACES = re.compile(r" +")
_LINES = re.compile(r" ?\n[ \n]*")


def canonical(text: str) -> str:
    """Normalise everything in a text that does not change its meaning; letters keep their case.

    Removes struck-out text, invisible characters, LaTeX commands and closed tags. Unifies Unicode composition, character
    widths, quotation marks, dashes, blanks and digits.
    """
    plain = text.translate(_VISIBLE)
    if not plain.isascii():
        plain = _MINUS.sub("-", unicodedata.normalize("NFC", plain))
        plain = plain.translate(_PLAIN)
        plain = unicodedata.normalize("NFC", plain)
    else:
        plain = plain.replace("`", "'")
    if "~~" in plain or "</" in plain:
        plain = _STRUCK.sub(" ", plain)
    if "\\" in plain:
        plain = _CANCELLED.sub(" ", plain)
        plain = _DEGREES.sub("°", _FRACTION.sub(r" \1/\2 ", plain))
        plain = _ESCAPED.sub("", _COMMAND.sub("", _BOXED.sub(BOX, plain)))
    if "$" in plain:
        plain = _MATHS.sub(r" \1 ", plain)
    if "<" in plain:
        plain = _BREAK.sub("\n", plain)
        closed = set(_CLOSING.findall(plain))
        plain = _TAG.sub(lambda tag: " " if tag[1] in closed else tag[0], plain)
    return _LINES.sub("\n", _SPACES.sub(" ", plain)).strip()


def fold(text: str) -> str:
    """Remove the case from a canonical text."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


class Token(NamedTuple):
    """A piece of a canonical text.

    Args:
        kind: a word, a numeral, a sign before a numeral ("$5"), letters glued to one ("5kg"), or a punctuation mark.
        key: form used for comparison.
        raw: original text, with case.
        part: whether it is part of a hyphenated word. Such a part is not a separate number, letter or "no".
    """

    kind: Literal["word", "numeral", "prefix", "glued", "mark"]
    key: str
    raw: str
    part: bool = False


_CJK = ((0x3005, 0x3007), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_SIGNS = {
    "\n": "\n", " ": " ", "*": " ", '"': " ", "_": " ", "\\": " ", "'": "'", "-": "-", "^": "^", "/": "/",
    "(": "(", "[": "(", "{": "(", ")": ")", "]": ")", "}": ")", "<": "<", ">": ">", BOX: BOX,
    ",": ",", "|": ";", "~": ";", "=": ";", ";": ";", ".": ".", "!": "!", "?": "?", ":": ":",
    "+": "+", "#": "#", "%": "%", "‰": "%", "°": "%", "&": "S", "@": "S",
}  # fmt: skip


class _Classes(dict[int, str]):
    """The kind of each character: Letter, Han (and other scripts without spaces), Digit, Number sign, Symbol, a mark."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _SIGNS:
            kind = _SIGNS[character]
        elif any(low <= code <= high for low, high in _CJK):
            kind = "H"
        elif category in ("Nl", "No"):
            kind = "N"
        elif 0x2190 <= code <= 0x21FF or 0x27F0 <= code <= 0x27FF:  # arrows
            kind = ";"
        elif category == "Sc":
            kind = "$"
        elif category[0] in "SP":
            kind = "S" if category[0] == "S" else ","
        else:
            kind = "D" if "0" <= character <= "9" else "L"
        self[code] = kind
        return kind


_CLASSES = _Classes()
_TOKEN = re.compile(
    r"""
      (?P<abbreviation>(?<![LND])L(?:\.L)+(?![LND])\.?)
    | (?P<name>(?<![LND])L[+\#]+(?![LHDN]))
    | (?P<word>[LN][LND]*(?:['\-][LND]+)*)
    | (?P<han>H+)
    | (?P<sign>(?<![LHDN)'])[-+])?(?P<prefix>[$\#]?)
      (?P<numeral>(?<![.,D]\ )D{1,3}(?:\ D{3})+(?!D|[.,:/'^\-]D)|D+(?:[.,:/'^\-]D+)*|(?<![LHDN)])\.D+)
      (?P<glued>-?[LN%$][LND]*(?:['\-][LND]+)*(?:/L{1,3}(?![LND]))?|H+|(?=))
    | (?P<symbol>[S+\#%$])
    | (?P<mark>[,;.!?:\n()<>/\-^\x02])
    """,
    re.VERBOSE,
)

_NUMERALS = re.compile(
    r"""
      \d+ | \d*\.\d+ | \d+\.\d*
    | \d{1,3} (?:,\d{3})+ (?:\.\d+)? | \d{1,2} (?:,\d{2})+ ,\d{3} (?:\.\d+)?  # 1,234.5 and 12,34,567
    | \d{1,3} (?:'\d{3})+ (?:\.\d+)? | \d{1,3} (?:\ \d{3})+                   # 1'234 and 1 234
    """,
    re.VERBOSE,
)
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+")
_RATIO = re.compile(r"(\d{1,18})/(\d{1,18})")
_EXPONENT = re.compile(r"e[-+]?\d{1,3}")
_ORDINAL = re.compile(r"st|nd|rd|th")
_THOUSANDS = {"k": "thousand", "bn": "billion"}


def tokens(text: str) -> list[Token]:
    """The words, numerals and marks of a canonical text, in order."""
    classes = text.translate(_CLASSES)
    found: list[Token] = []
    end = -1  # end of a numeral with an exponent, which the pattern splits
    for match in _TOKEN.finditer(classes):
        start, stop = match.span()
        if start < end:
            continue
        kind = match.lastgroup
        written = text[start:stop]
        if kind == "mark":
            found.append(Token("mark", match[0] if match[0] != "^" else ",", written))
        elif kind == "word":
            found += _words(written)
        elif kind == "abbreviation":
            found.append(Token("word", fold(written.replace(".", "")), written))
        elif kind == "glued":
            exponent = _EXPONENT.match(fold(text[match.end("numeral") : match.end("numeral") + 6]))
            if exponent and not text[match.end("numeral") + exponent.end() :][:1].isalnum():
                end = match.end("numeral") + exponent.end()
                found += _numeral(match["sign"], "", text[match.start("numeral") : end].lower(), "")
            else:
                prefix, run, glued = (text[slice(*match.span(part))] for part in ("prefix", "numeral", "glued"))
                found += _numeral(match["sign"], prefix, run, glued)
        elif written != "#":  # a heading
            found.append(Token("word", "and" if written == "&" else fold(written), written))
    return found


def _words(written: str) -> Iterator[Token]:
    """Yield a word, or the parts of a hyphenated word. Only number words use them as separate words: twenty-one."""
    key = fold(written)
    if "-" not in key or any(character.isdigit() for character in key):
        yield Token("word", key.replace("'", ""), written)
        return
    for raw in written.split("-"):
        yield Token("word", fold(raw).replace("'", ""), raw, part=True)


def _numeral(sign: str | None, prefix: str, run: str, glued: str) -> Iterator[Token]:
    """Yield a numeral with its prefix and suffix, or a word for an ordinal, a date, a range, a version or "2x4"."""
    minus = "-" if sign == "-" else ""
    suffix = fold(glued)
    key = numeral_key(run)
    whole = f"{minus}{run}{suffix}"
    if key is None and "," in run:  # a list: 3,4
        pieces = run.split(",")
        for index, piece in enumerate(pieces):
            if index:
                yield Token("mark", ",", ",")
            last = index == len(pieces) - 1
            yield from _numeral(sign if not index else None, prefix if not index else "", piece, glued if last else "")
        return
    if key is None and _RATIO.fullmatch(run):  # 4/2: an alternative of two numbers
        first, _, second = run.partition("/")
        yield from _numeral(sign, prefix, first, "")
        yield Token("mark", "/", "/")
        yield from _numeral(None, "", second, glued)
        return
    compound = suffix.startswith("-") or bool(suffix and (suffix[0] in "²³" or any(c.isdigit() for c in suffix)))
    decade = suffix == "s" and re.fullmatch(r"\d{3}0", run)
    if key is None or compound or decade or _ORDINAL.fullmatch(suffix):
        yield Token("word", whole, whole)
        return
    if prefix and prefix != "#":
        yield Token("prefix", prefix, prefix)
    yield Token("numeral", minus + key if key != "0" else key, minus + run)
    if suffix in _THOUSANDS:
        yield Token("word", _THOUSANDS[suffix], glued)
    elif suffix:
        yield Token("glued", suffix, glued)


def numeral_key(run: str) -> str | None:
    """Return a numeral without sign as the shortest equal decimal; None for a date, a time, a range or a version.

    Digits are compared as text, which is exact for any length: "1,234.50" is "1234.5". A ratio is kept, except one with an
    integer value: "4/2" reads as an alternative of two numbers.
    """
    mantissa, _, exponent = run.partition("e")
    if exponent:
        return _shifted(mantissa, int(exponent))
    if _EUROPEAN.fullmatch(run):
        run = run.replace(".", "").replace(",", ".")
    elif ratio := _RATIO.fullmatch(run):
        return run if int(ratio[2]) and int(ratio[1]) % int(ratio[2]) else None
    elif not _NUMERALS.fullmatch(run):
        return None
    return _shortest(run.replace(",", "").replace("'", "").replace(" ", ""))


def _shifted(mantissa: str, places: int) -> str | None:
    """Return a numeral times a power of ten."""
    key = numeral_key(mantissa)
    if key is None or "/" in key:
        return None
    whole, _, decimals = key.partition(".")
    digits, point = whole + decimals, len(whole) + places
    if point <= 0:
        return _shortest(f"0.{'0' * -point}{digits}")
    return _shortest(f"{digits[:point].ljust(point, '0')}.{digits[point:]}")


def _shortest(decimal: str) -> str:
    whole, _, decimals = decimal.partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole
