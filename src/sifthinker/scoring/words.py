"""The English words, and a few Chinese ones, that say how an answer states what it states."""

from __future__ import annotations


def listed(words: str) -> list[str]:
    """Words from a line of them."""
    return words.split()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


POLAR = _set("yes no")
ARTICLES = _set("an the")  # and "a", where a word follows
ALTERNATIVES = _set("or /")
JOINS = _set("and or nor plus vs versus")
CONJUNCTIONS = _set("but because since so therefore thus hence although though however while whereas")  # they end a clause

# Words that deny what follows them in their clause
NOT = _set(
    "not neither nor never cannot without except excluding hardly unlike non isnt arent wasnt werent dont doesnt didnt cant "
    "couldnt wont wouldnt shouldnt hasnt havent hadnt aint mustnt"
)
EXCEPTING = _set("anything everything all nothing any none anyone everyone")  # … but red
INSTEAD = {("rather", "than"), ("instead", "of"), ("other", "than"), ("apart", "from"), ("aside", "from")}
WRONG = _set("wrong incorrect false impossible")
NO_ANSWER = _set("idea clue answer doubt question information problem thanks")  # "no doubt" is neither no nor zero

# Words that make what follows a possibility
HEDGES = _set("maybe perhaps possibly might may could either")
BOUNDS = _set("than least most almost nearly over under above below exceeds upto ≥ ≤ ±")  # right before a number

# Words that carry a statement without adding to it
COPULAS = _set(
    "is are was were be seems looks would must should can does do did has it its thats theyre isnt arent wasnt werent"
)
LABELS = _set("answer option choice letter")
CJK_CUES = _set("答案 答案是 正确答案 正确答案是 最终答案 最终答案是 我选 我选择")
FILLERS = COPULAS | LABELS | ARTICLES | CJK_CUES | _set(
    "a i im id ill my this that these those they there here we answers options choices correct right final best true "
    "think believe choose chose pick picked select selected say said go going with will to by as of most likely probably "
    "definitely clearly obviously also too sure well ok okay only just like given both one "
    "ones you your see sees seen shown which 选 选择 选项 是"
)  # fmt: skip
LINKS = JOINS | HEDGES | {"both"}
CARRIERS = FILLERS | LINKS | NOT | CONJUNCTIONS
# What may stand before free text without being part of it
OPENINGS = CONJUNCTIONS | _set(
    "it its this that these those they theyre is are was were there theres answer final correct my a i think believe says "
    "reads shows"
)
ASIDES = CARRIERS | POLAR | WRONG  # beside the letter of an option
DENIALS = NOT | WRONG
DENYING = NOT | POLAR
PASSED_OVER = ARTICLES | HEDGES | {"a"}
VERBS = (COPULAS | NOT) - {"it", "its", "thats", "theyre"}
NOT_COUNTED = FILLERS | NO_ANSWER | _set("way longer more less fewer")  # "no more" counts nothing
# Beside a free text's answer, these rival nothing: "red, of course".
REMARKS = (
    OPENINGS
    | DENYING
    | _set("of course sure definitely probably clearly obviously most likely too also only just well ok okay")
)
