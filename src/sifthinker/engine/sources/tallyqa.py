"""TallyQA: counting questions, with boxes from COCO instances of the same images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from sifthinker.engine.sources.instances import Category, Picture, counted, read_instances
from sifthinker.engine.sources.rows import FAULTS, list_or_lines, name_of, path_of, reject, text_of, whole_of
from sifthinker.errors import RecordError
from sifthinker.literals import OutsideBoxes
from sifthinker.records import Record, Reject, shown

Item = TypeVar("Item")
Parts = tuple[str, ...]  # the components of a path


def tallyqa(path: Path, instances: Path | None, root: Path | None, outside: OutsideBoxes) -> Iterator[Record | Reject]:
    """Yield TallyQA's counting questions with boxes from COCO instances of the same images.

    A question is kept if it counts one category of the instances (`counted_category`) and the number of its objects in the
    image equals the answer. All other questions become rejects with a reason.

    Args:
        path: TallyQA's JSON list, or JSON lines: `image, question, answer, question_id, issimple, data_source`.
        instances: COCO instances file that covers the images.
        root: image folder.
        outside: see `read_source`.
    """
    if instances is None:
        raise RecordError(
            f"{path}: TallyQA has no boxes. Set a COCO instances file for its images with --instances", "no_instances"
        )
    asked = list(list_or_lines(path))
    boxed = read_instances(instances)
    forms = spoken(boxed.names)
    pictures = _Pictures(
        boxed.pictures,
        instances.name,
        [item[1].get("image") for item in asked if isinstance(item, tuple) and isinstance(item[1], Mapping)],
    )
    for index, item in enumerate(asked):
        if isinstance(item, Reject):
            yield item
            continue
        place, row = item
        try:
            image, question = path_of(row, "image", place), text_of(row, "question", place)
            answer = whole_of(row, "answer", place)
            picture = pictures.find(image, place)
            category = counted_category(question, forms, place)
            number = len(picture.pixels(category))
            fault = picture.fault(category)
            if fault is None and number != answer:
                fault = "count_mismatch", f"{instances.name} has {number} of {category!r} in the image"
            if fault is not None:
                code = "count_mismatch" if fault[0] == "crowd" else fault[0]
                raise RecordError(f"{place}: the answer is {answer}, but {fault[1]}", code)
            identity = f"tallyqa-{name_of(row, ('question_id',), index)}"
            yield counted(picture, category, question, root, outside, place, "tallyqa", identity, image)
        except FAULTS as error:
            yield reject(place, row, error)


# ------------------------------------------------------------------------------------------------------------ images


class _Pictures:
    """Images of an instances file, indexed by the tails of their paths.

    TallyQA's images lie in folders (train2014/, val2014/, VG_100K/) that instances files omit or write in full. Two paths
    can be the same image if one is the tail of the other. If several paths fit, the image is ambiguous.
    """

    def __init__(self, pictures: Sequence[Picture], source: str, asked: Sequence[Any]) -> None:
        self._source = source
        self._pictures: _Tails[Picture] = _Tails((_parts(picture.file), picture) for picture in pictures)
        named = {_parts(image) for image in asked if isinstance(image, str)}
        self._asked: _Tails[None] = _Tails((parts, None) for parts in sorted(named))

    def find(self, image: str, place: str) -> Picture:
        """Return the annotations of the image of a question.

        Raises:
            RecordError: the image is missing or ambiguous.
        """
        parts = _parts(image)
        fitting = self._pictures.whole.get(parts) or list(islice(self._pictures.fitting(parts), 4))
        if not fitting:
            near = self._pictures.ending.get(parts[-1:])
            others = f" (it has {near[0][1].file})" if near else ""
            raise RecordError(f"{place}: {self._source} has no image {image}{others}", "no_instances")
        if len(fitting) > 1:
            files = " and ".join(picture.file for _, picture in fitting[:3])
            raise RecordError(f"{place}: image {image} fits several images of {self._source}: {files}", "ambiguous_image")
        ((found, picture),) = fitting
        rival = next((other for other, _ in self._asked.fitting(found) if not _fit(other, parts)), None)
        if rival and found != parts:
            raise RecordError(
                f"{place}: {picture.file} of {self._source} fits both {image} and {'/'.join(rival)} of the questions",
                "ambiguous_image",
            )
        return picture


class _Tails(Generic[Item]):
    """Paths by their tails, each with a value. The lookup time does not depend on how many paths have the same tail.

    Args:
        items: components of a path, and its value.
    """

    def __init__(self, items: Iterable[tuple[Parts, Item]]) -> None:
        self.whole: dict[Parts, list[tuple[Parts, Item]]] = defaultdict(list)
        self.ending: dict[Parts, list[tuple[Parts, Item]]] = defaultdict(list)  # tail (shorter than the path) → paths
        for parts, item in items:
            self.whole[parts].append((parts, item))
            for start in range(1, len(parts)):
                self.ending[parts[start:]].append((parts, item))

    def fitting(self, parts: Parts) -> Iterator[tuple[Parts, Item]]:
        """Yield the paths that this path is the tail of, or that are its tail."""
        for start in range(len(parts)):
            yield from self.whole.get(parts[start:], ())
        yield from self.ending.get(parts, ())


def _parts(image: str) -> Parts:
    return tuple(part for part in image.replace("\\", "/").split("/") if part not in ("", ".")) or ("",)


def _fit(one: Parts, other: Parts) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


# --------------------------------------------------------------------------------------------------------- questions

_CUE = re.compile(
    r"how many\s+|(?:what|which)(?: is|'s| are|s)? (?:the )?(?:total |exact |overall )?(?:number|count|quantity) of\s+"
    r"|(?:the )?(?:total )?number of\s+|^(?:please )?count(?: up)?\s+"
)
_BEFORE = re.compile(r"(?:(?:in|on|at|from|about|approximately|roughly|exactly|so|please|can you|could you|tell me)\b.*)?")
# Words allowed between "how many" and the category: counting words, colours, sizes, ages.
_MODIFIER = re.compile(
    r"(?:of|the|these|those|all|total|visible|individual|actual|real|separate|single|whole|and"
    r"|black|white|red|green|blue|yellow|brown|grey|gray|orange|pink|purple|tan|beige|gold|golden|silver|dark|light|colou?red"
    r"|big|large|small|little|tiny|huge|tall|short|long|young|old|adult|male|female)[\s,]+"
)
# Words allowed after a counted category. Another noun is not: "dog bowls" counts bowls, "people's hats" counts hats.
_AFTER = re.compile(
    r"\s*[?.!:]*\s*$|,? +(?:is|are|was|were|do|does|did|has|have|had|can|could|there|here|that|which|who|whose|with|without"
    r"|in|on|at|of|off|by|from|to|near|beside|behind|under|above|below|inside|outside|around|along|across|against|between|among"
    r"|over|through|next|this|these|those|you|we|i|it|they|the|not|only|altogether|total|visible|present|shown|seen|sit"
    r"|stand|lie|lay|wear|hold|ride|carry|play|walk|run|fly|eat|drink|look|use|appear|exist"
    r"|(?!(?:thing|string|spring|ceiling|building|painting|drawing|clothing|bedding|seed|shed)\b)(?:\w{2,}ing|\w{2,}ed))\b"
)
# The question asks for another number than that of all objects in the image.
_OTHER_NUMBER = re.compile(
    r"\b(?:each|every|per|than|besides|except|excluding|apart|aside|missing|fits?|needed|usually|normally|if|more|fewer|less"
    r"|another|would|will|should|may|might|must|other than|in addition|not (?:including|counting)|how many\b.*\bhow many"
    r"|(?:do|does|did)\b.*\b(?:seat|hold|carry|take|need|support|sleep|accommodate|pull|tow)"
    r"|(?:do|does|did)\b(?! (?:you|we|i|the (?:picture|image|photo|photograph|scene))\b).*\b(?:have|own|contain|consist))\b"
)
_POSSIBLE = re.compile(r"\b(?:can|could)\b(?!.*\b(?:see|seen|spot|spotted|count|counted|find|found|identify|identified)\b)")


@dataclass(frozen=True, slots=True)
class Spoken:
    """The words for categories in questions.

    Args:
        category: word form ("dog", "dogs") → categories that it may stand for.
        singular: forms that are only singular.
        pattern: matches any of the forms, the longest first.
    """

    category: Mapping[str, set[Category]]
    singular: frozenset[str]
    pattern: re.Pattern[str]


def spoken(names: Iterable[Category]) -> Spoken:
    """Return the singular and plural words for categories. Names with brackets, as in LVIS, never occur in questions."""
    category: dict[str, set[Category]] = defaultdict(set)
    singular = set()
    for name in names:
        if re.fullmatch(r"\w+(?:[ '-]\w+)*", name):
            plurals = _plurals(name)
            for form in (name, *plurals):
                category[form].add(name)
            if name not in plurals:
                singular.add(name)
    longest_first = sorted(category, key=lambda form: (-len(form), form))
    any_of = rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b" if longest_first else r"(?!)"
    return Spoken(category, frozenset(singular), re.compile(any_of))


def counted_category(question: str, forms: Spoken, place: str) -> Category:
    """Return the category whose number a question asks for.

    "How many dogs are on the bed" asks for dogs. The category must follow "how many" (or "what number of", "count the");
    only a colour, a size or similar words may come between. It must not be part of another name (dog bowls, people's hats),
    of a list (dogs and cats), or of a question for another number (on each bed, more than). A question with a restriction
    ("How many red cars") is valid if the count agrees, because the restriction then applies to all of them.

    Args:
        question: in English.
        forms: see `spoken`.
        place: file and line, for messages.
    Raises:
        RecordError: `no_category`: the question names no category. `ambiguous_question`: it does not clearly count one.
    """
    if len(question) > _LONGEST_QUESTION:
        raise RecordError(
            f"{place}: the question must have at most {_LONGEST_QUESTION:,} characters, got {len(question):,}",
            "ambiguous_question",
        )
    words = re.sub(r"[\s_]+", " ", question.replace("’", "'").replace("(s)", "s").lower()).strip()
    named = forms.pattern.search(words)
    if named is None:
        raise RecordError(f"{place}: the question names no category of the instances: {shown(question)}", "no_category")
    cue = _CUE.search(words)
    if cue and _BEFORE.fullmatch(words[: cue.start()].strip(" ,")) and not _OTHER_NUMBER.search(words):
        starts = [cue.end()]
        while modifier := _MODIFIER.match(words, starts[-1]):
            starts.append(modifier.end())
        for start in reversed(starts):  # "orange" is both a colour and a fruit
            found = forms.pattern.match(words, start)
            if found and _AFTER.match(words, found.end()) and not _POSSIBLE.search(words, found.end()):
                (category, *others) = sorted(forms.category[found[0]])
                if category in _PARTS and _PARTS[category].search(words):
                    break
                # "the number of the bus" is a label on it, not a count
                if not others and (cue[0].startswith("how") or found[0] not in forms.singular):
                    return category
    raise RecordError(
        f"{place}: the question names {named[0]!r}, but does not clearly ask for their number: {shown(question)}",
        "ambiguous_question",
    )


# Categories whose words can also mean something else, and the words that show that meaning.
_PARTS = {
    "car": re.compile(
        r"\b(?:trains?|trams?|trolleys?|streetcars?|subways?|metros?|monorails?|locomotives?|engine|railroads?|railways?|rails?"
        r"|roller ?coasters?|ferris wheels?|cable|freight|passenger)\b"
    ),
    "bed": re.compile(r"\b(?:trucks?|pickups?|flowers?|gardens?)\b"),
    "tie": re.compile(r"\b(?:trains?|tracks?|railroads?|railways?|rails?)\b"),
    "chair": re.compile(r"\blifts?\b"),
    "clock": re.compile(r"\bfaces?\b"),
    "bowl": re.compile(r"\btoilets?\b"),
    "bench": re.compile(r"\bpicnic tables?\b"),
}
_LONGEST_QUESTION = 1000  # the patterns above take quadratic time


_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "knife": "knives", "leaf": "leaves", "loaf": "loaves",
    "shelf": "shelves", "wolf": "wolves", "calf": "calves", "scarf": "scarves", "half": "halves", "bus": "buses",
}  # fmt: skip
_ALIKE = frozenset(
    ("sheep", "deer", "fish", "skis", "scissors", "aircraft", "glasses", "pants", "shorts", "jeans", "goggles")
)


def _plurals(name: str) -> list[str]:
    """Return the plural forms of a name, by its last word: hot dogs, wine glasses."""
    rest, _, last = name.rpartition(" ")
    before = rest + " " * bool(rest)
    if last in _ALIKE:
        return [name]
    if last in _IRREGULAR:
        return [before + _IRREGULAR[last]] + [f"{name}s"] * (last == "person")
    for end, plural in _IRREGULAR.items():
        if last.endswith(end) and end in ("man", "woman", "knife"):  # fireman, penknife
            return [name.removesuffix(end) + plural]
    if last.endswith(("s", "x", "z", "sh", "ch")):
        return [f"{name}es"]
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return [f"{name[:-1]}ies"]
    return [f"{name}s", f"{name}es"] if last.endswith("o") else [f"{name}s"]
