"""The exact prompts, from `sifthinker.prompts`."""

from __future__ import annotations

from typing import get_args

from sifthinker import prompts
from sifthinker.chain import Region
from sifthinker.literals import Coordinates, ThinkProtocol

_PROTOCOLS: dict[ThinkProtocol, str] = {
    "chain": "Asks for a chain. Models trained on chains read it in training, in thinking and in evaluation.",
    "direct": "Asks for the answer alone (`--direct`).",
    "structured": "Asks for the steps as JSON, of models that have not learned to write chains (`--protocol structured`).",
}
_QUESTION = "QUESTION"


def page() -> str:
    """Return the sections of the page as Markdown."""
    lines = [f"The version of these prompts is {prompts.PROMPT_VERSION} (`prompt_version` in a dataset).", ""]
    for protocol, about in _PROTOCOLS.items():
        lines += [f"## {protocol.capitalize()}", "", about, ""]
        for heading, with_depth in (("With a depth view", True), ("Without one", False)):
            lines += [f"{heading}:", "", *_block(prompts.user_prompt(_QUESTION, with_depth=with_depth, protocol=protocol))]
    lines += [
        "## Coordinates",
        "",
        "The part of the chain and structured prompts that describes the coordinates of boxes:",
        "",
        "| `coordinates` | words |",
        "| --- | --- |",
        *(f"| `{name}` | {words} |" for name, words in _coordinates().items()),
        "",
        "## Choices and several images",
        "",
        "If choices are shown, they follow the question:",
        "",
        *_block(prompts.with_choices(_QUESTION, ["FIRST CHOICE", "SECOND CHOICE"])),
        "If a question has several images, this line precedes it:",
        "",
        *_block(prompts.with_several_images(_QUESTION, 3)),
        "## Teacher",
        "",
        "System prompt:",
        "",
        *_block(prompts.TEACHER_SYSTEM),
        "The task, then one line and one image for each focus:",
        "",
        *_block(
            prompts.teacher_task(_QUESTION, "ANSWER", 3),
            prompts.teacher_focus(1, [Region((0.0, 0.0, 1.0, 1.0), 0.5)]),
            "…",
        ),
        "The next message if a reply fails a check:",
        "",
        *_block(prompts.teacher_correction(["PROBLEM", "PROBLEM"])),
        "## Judge",
        "",
        "System prompt:",
        "",
        *_block(prompts.JUDGE_SYSTEM),
        "The task:",
        "",
        *_block(prompts.judge_task(_QUESTION, "ANSWER", "ANSWER OF THE MODEL")),
    ]
    return "\n".join(lines)


def _coordinates() -> dict[str, str]:
    """Return the words of each kind of coordinates."""
    return {name: prompts._COORDINATES[name] for name in get_args(Coordinates)}


def _block(*texts: str) -> list[str]:
    return ["```{code-block} text", ":class: prompt", "", *texts, "```", ""]
