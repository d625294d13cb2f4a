"""Word lists for reading answers: English, and the most common words of other languages."""

from __future__ import annotations


def listed(words: str) -> list[str]:
    """Split a line into words."""
    return words.split()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


POLAR = _set("yes no")
# Other words for yes and no. The meaning of "non" and "no" depends on the next word.
SAID_YES = _set("yes yep yeah yup yea aye sí oui ja sim да はい 是的 네 evet tak ναι نعم हाँ")
SAID_NO = _set("no nope nah nay nein non não нет いいえ 不 不是 아니요 hayır όχι لا")
POLARS = dict.fromkeys(SAID_YES, "yes") | dict.fromkeys(SAID_NO, "no")
ARTICLES = _set("an the")  # and "a", where a word follows
ALTERNATIVES = _set("or / ou oder или 或 或者 または 또는")
JOINS = _set("and or nor plus vs versus ou oder или et und и ni")
CONJUNCTIONS = _set("but because since so therefore thus hence although though however while whereas")  # they end a clause

# Words that deny what follows them in their clause
NOT = _set(
    "not neither nor never cannot without except excluding hardly unlike non isnt arent wasnt werent dont doesnt didnt cant "
    "couldnt wont wouldnt shouldnt hasnt havent hadnt aint mustnt "
    "nicht kein keine keinen keiner pas не ни não nunca niet geen inte ikke nie jamais ليس bukan tidak không"
)
NOT_SIGNS = _set("≠ ¬")  # they deny what follows; between two items they join them
NOT_BEHIND = _set("değil नहीं 아님 아니다 아닙니다 ではない じゃない ではありません")  # these deny what precedes them
EXCEPTING = _set("anything everything all nothing any none anyone everyone")  # … but red
INSTEAD = {
    ("rather", "than"), ("instead", "of"), ("other", "than"), ("apart", "from"), ("aside", "from"), ("far", "from"),
    ("opposite", "of"), ("opposite", "to"), ("contrary", "to"), ("impossible", "to"), ("rule", "out"), ("rules", "out"),
    ("ruled", "out"), ("ruling", "out"),
}  # fmt: skip
EXCLUDE = _set(
    "exclude excludes excluded excluding eliminate eliminates eliminated eliminating reject rejects rejected discard "
    "discarded dismiss dismissed"
)
WRONG = _set("wrong incorrect false impossible untrue mistaken inaccurate invalid falsch faux falso неверно 错误 错 不对")
RIGHT = _set("right correct true accurate valid")
FALSE = _set("false falsch faux falso untrue")  # these can also be answers: "true, false"
PLURAL = _set("are were arent werent theyre")
ADVERBS = _set("all both clearly definitely also actually probably simply just therefore obviously certainly completely "
               "totally really either neither too thus surely then")  # fmt: skip
CROSSES = _set("❌ ✗ ✘ ✖ ✕ ❎ ☒ 🚫 ⛔ 👎 🙅")
TICKS = _set("✅ ✔ ✓ ☑ 🗸 👍 💯")
OUT = {("ruled", "out"), ("out", "of")}  # "is ruled out", "is out of the question"
NO_ANSWER = _set("idea clue answer doubt question information problem thanks")  # "no doubt" is neither no nor zero

# Words that make what follows a possibility
HEDGES = _set("maybe perhaps possibly might may could either")
BOUNDS = _set("than least most almost nearly over under above below exceeds upto ≥ ≤ ±")  # right before a number

# Words around a statement that do not change it
COPULAS = _set(
    "is are was were be seems looks would must should can does do did has it its thats theyre isnt arent wasnt werent "
    "es ist est é è is"
)
SPANISH = _set("es está son hay fue era")  # verbs that "no" denies: "no es azul"
LABELS = _set(
    "answer option options choice choices letter respuesta antwort réponse resposta risposta ответ antwoord svar cevap "
    "opción opção"
)
ASKED = _set("to the this your my our that above question problem of final")  # "the answer to the question is"
# In a clause with one of these words, an option is stated again, not only described.
ASSERTING = LABELS | _set("correct true also too equally both either as well one ones fits matches match same")
OTHERS = _set("other others another")
POINTERS = _set("point points object region box marker panel")  # "Point B" is a point in the image
CJK_CUES = _set(
    "答案 答案是 答案为 正确答案 正确答案是 正确选项是 正确选项为 最终答案 最终答案是 我选 我选择 故选 应选 因此选 所以选 "
    "答えは 答え 正解は 正解 正答は 정답은 정답 답은 답"
)
FILLERS = COPULAS | LABELS | ARTICLES | CJK_CUES | _set(
    "a i im id ill my this that these those they there here we answers options choices correct right final best true "
    "think believe choose chose pick picked select selected say said go going with will to by as of most likely probably "
    "question definitely clearly obviously also too sure well ok okay only just like given both one actually really "
    "ones you your see sees seen shown which 选 选择 选项 是 です である 입니다 이다 "
    "la die der das richtige richtig correcta correcte correta corretta correct bonne"
)  # fmt: skip
LINKS = JOINS | HEDGES | {"both"}
QUANTIFIERS = _set("any all each every some")
CARRIERS = FILLERS | LINKS | NOT | CONJUNCTIONS | QUANTIFIERS
# Words that may precede free text without being part of it
OPENINGS = CONJUNCTIONS | _set(
    "it its this that these those they theyre is are was were there theres answer final correct my a i think believe says "
    "reads shows"
)
ASIDES = (
    CARRIERS | POLAR | WRONG | EXCLUDE | _set("rather than instead of other opposite far from rule ruled out")
)  # allowed beside the letter of an option
DENIALS = NOT | WRONG | EXCLUDE
DENYING = NOT | POLAR
PASSED_OVER = ARTICLES | HEDGES | {"a"}
VERBS = (COPULAS | NOT) - {"it", "its", "thats", "theyre"}
NOT_COUNTED = FILLERS | NO_ANSWER | _set("way longer more less fewer")  # "no more" counts nothing
# These words beside a free-text answer are not rivals: "red, of course".
REMARKS = (
    OPENINGS
    | DENYING
    | _set("of course sure definitely probably clearly obviously most likely too also only just well ok okay")
)

# For free text
ANDS = _set("and plus et und и")
LETTER_JOINS = _set("o y e u")  # "and" and "or" in Spanish, Italian and Portuguese, between two words
GENERIC = _set("side sign colour color hand one ones thing object shape direction region area part half corner")
FUNCTION = (
    CARRIERS
    | OPENINGS
    | ANDS
    | _set(
        "in on at by with from to for of near next beside behind above below under over between inside outside against "
        "along across around through into onto off up down while who whose that where"
    )
)
# Words of one kind exclude each other. Most also describe a noun that follows: "red mug", "left hand".
KINDS: dict[str, str] = {
    word: words.split()[0]
    for words in (
        "red blue green yellow orange purple pink brown black white gray grey silver gold golden beige tan maroon navy teal "
        "turquoise violet magenta cyan cream",
        "rot blau grün gelb schwarz weiß rouge bleu vert jaune noir blanc rojo azul verde amarillo negro blanco",
        "left right centre center middle",
        "links rechts gauche droite izquierda derecha esquerda direita",
        "top bottom",
        "upper lower",
        "up down",
        "above below under",
        "front behind back",
        "inside outside",
        "indoors outdoors",
        "near far",
        "nearer farther closer further",
        "north south east west",
        "true false",
        "open closed shut",
        "stop go yield",
        "male female",
        "man woman boy girl",
        "day night",
        "morning noon afternoon evening",
        "spring summer autumn fall winter",
        "sunny cloudy rainy snowy foggy",
        "monday tuesday wednesday thursday friday saturday sunday",
        "january february march april june july august september october november december",
        "small medium big large huge tiny",
        "short tall",
        "short long",
        "old new young",
        "hot cold warm cool",
        "wet dry",
        "full empty",
        "light dark bright pale",
        "wooden metal plastic glass stone brick concrete leather paper ceramic",
        "round square rectangular triangular oval circular",
        "striped plain plaid checkered dotted",
        "standing sitting lying walking running jumping",
        "smiling frowning",
        "happy sad angry",
        "1st 2nd 3rd 4th 5th 6th last",
        "same different",
        "clean dirty",
    )
    for word in words.split()
}
