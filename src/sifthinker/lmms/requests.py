"""Read requests of lmms-eval: images, depth, and the question without instructions on the form of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sifthinker.benchmarks.choices import split_options
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError
from sifthinker.images import as_loaded, load_image
from sifthinker.prompts import with_several_images
from sifthinker.records import shown

# Instructions on the form of the answer at the end of questions in lmms-eval 0.7.3. They allow nothing but the answer, and
# so forbid chains. Taken from its task files; the comments list some of the tasks.
_ENDINGS = (
    r"(?:please )?answer with the (?:correct )?option'?s? letters?(?: \([^()\n]*\))? from the given choices(?: directly)?"
    r"(?: and only give the best option)?\.?",  # LLaVA's: ai2d, blink, vstar_bench
    r"(?:please )?answer with (?:only )?the option'?s? letter(?: only)?\.?",  # mmmu, mmstar, vstat
    r"(?:please )?answer directly with only the letter of the correct option and nothing else\.?",  # realworldqa
    r"(?:please )?only output the letter of the correct option and nothing else\.?",  # sat
    r"(?:please )?answer the question with (?:the option letter|[A-H](?:, [A-H])*,? or [A-H])\.?",  # lvbench, videomme
    r"(?:please )?answer this question with [A-H](?:, [A-H])*,? or [A-H]\.?",  # mme_realworld
    r"(?:please )?respond with only the letter \([^()\n]*\) of the correct option\.?",  # mme_realworld
    r"select the best answer to the above multiple-choice question based on the (?:image|video)\.?",  # precedes the last one
    r"please select the correct answer and respond with only one option letter\.?",  # spatial_dise
    r"give me the answer letter directly\.?",  # sitebench
    r"only give the best option\.?",  # mvbench
    r"(?:best option: ?\(|the best answer is:?)",  # mvbench, sitebench: the start of the answer
    r"(?:please )?answer the question (?:using|with) a single (?:word or phrase|word only|word)\.?",  # LLaVA's: gqa, docvqa
    r"do not response anything other than a single number!?",  # vsibench
    r"answer:",
)
# The same at the beginning of questions.
_BEGINNINGS = (
    r"note: you only need to respond with [^\n]*? without providing any additional information\.",  # cv_bench
    r"question:",
    # refcoco, screenspot: chains have their own box format; the reply converts the boxes of the last area
    r"bounding box coordinates are specified in the format \([^()\n]*\)\. all values are floating point numbers bounded "
    r"between 0 and 1(?: with two decimal places of precision(?: \([^()\n]*\))?)?\.",
)
_ENDING = re.compile(rf"(?:^|(?<=\s))(?:{'|'.join(_ENDINGS)})\s*$", re.IGNORECASE)
_BEGINNING = re.compile(rf"^\s*(?:{'|'.join(_BEGINNINGS)})\s*", re.IGNORECASE)
_IMAGE_MARK = re.compile(r"<image>[ \t]*\n?")
_OPTION = re.compile(r"^\s*\(?([A-Z])[).:]\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """The content of a request.

    Args:
        text: the question, with its choices.
        images: RGB, upright.
        depth: depth of the only image; None if the task provides none.
    """

    text: str
    images: tuple[Image.Image, ...]
    depth: DepthMap | None = None


def asked_in(messages: Any, where: str) -> Asked:
    """Read the messages of a chat request.

    System turns are ignored: they describe the form of answers, and sifthinker prompts do that too. Text parts are joined
    with line breaks. A depth map is in the list of images, after its image.

    Args:
        messages: messages from a task's `doc_to_messages`: `role` and `content`, a text or a list of parts.
        where: task and question, for messages.
    Raises:
        ConfigError: the conversation has several turns, a video or audio, or an invalid message.
        ImageError: an image cannot be read, or is too large.
    Example:
        >>> asked_in([{"role": "user", "content": "What is it?\\nAnswer with the option letter only."}], "task").text
        'What is it?'
    """
    texts: list[str] = []
    images: list[Image.Image] = []
    depths: list[DepthMap] = []
    for message in messages if isinstance(messages, Sequence) else [messages]:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "system"):
            raise ConfigError(f"{where}: expected only user turns, without example turns, got {shown(message)}")
        if role == "system":
            continue
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            value = part.get("text" if kind == "text" else "url") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(value, str):
                texts.append(value)
            elif kind == "image" and isinstance(value, DepthMap):
                depths.append(value)
            elif kind == "image" and isinstance(value, Image.Image):
                images.append(as_loaded(value, where))
            elif kind == "image" and isinstance(value, str):
                images.append(load_image(value))
            else:
                raise ConfigError(f"{where}: expected only texts and images, got {shown(part)}")
    if len(depths) > 1 or (depths and len(images) != 1):
        raise ConfigError(
            f"{where}: expected at most one depth map, with a single image, got {len(depths)} depth maps for {len(images)} "
            "images"
        )
    text = with_several_images(bare_question("\n".join(texts)), len(images))
    return Asked(text, tuple(images), depths[0] if depths else None)


def bare_question(text: str) -> str:
    """Remove instructions on the form of the answer from a question. Its choices stay.

    Example:
        >>> bare_question("Which?\\nA. red\\nB. blue\\nAnswer with the option's letter from the given choices directly.")
        'Which?\\nA. red\\nB. blue'
    """
    found = _IMAGE_MARK.sub("", text).strip()
    while (shorter := _BEGINNING.sub("", _ENDING.sub("", found)).strip()) != found:
        found = shorter
    return found


def options_in(text: str) -> tuple[str, ...]:
    """Return the lettered options of a question, in order from A: on separate lines, or "(A) … (B) …" in one line.

    Example:
        >>> options_in("Which?\\nA. red\\nB. blue"), options_in("Which? (A) red (B) blue")
        (('red', 'blue'), ('red', 'blue'))
    """
    found = _OPTION.findall(text)
    if len(found) > 1 and [letter for letter, _ in found] == [chr(ord("A") + i) for i in range(len(found))]:
        return tuple(words for _, words in found)
    return split_options(text)[1]
