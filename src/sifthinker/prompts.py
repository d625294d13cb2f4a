"""Every sentence that a model reads, once. A change of wording is a new `PROMPT_VERSION`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from string import ascii_uppercase

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region, render_regions
from sifthinker.literals import Coordinates

PROMPT_VERSION = "1"

TASK_DEPTH = (
    "The first image is the scene; the second is its depth, dark where near and bright where far. "
    "Answer the question by looking step by step. At each step give the regions you look at as "
    '<area>[{"bbox_2d":[x1,y1,x2,y2],"depth":d}]</area>, with coordinates as fractions of width and height and d the '
    "mean depth from 0 near to 1 far, and then say what you see there in <text></text>. Correct your focus until it rests "
    "on what answers the question. Write all steps inside <think></think>, then the answer inside <answer></answer>."
)
TASK_RGB = (
    "Answer the question about the image by looking step by step. At each step give the regions you look at as "
    '<area>[{"bbox_2d":[x1,y1,x2,y2]}]</area>, with coordinates as fractions of width and height, and then say what you '
    "see there in <text></text>. Correct your focus until it rests on what answers the question. Write all steps inside "
    "<think></think>, then the answer inside <answer></answer>."
)
# What the tasks say of coordinates, by what these are.
_COORDINATES: dict[Coordinates, str] = {
    "unit": "with coordinates as fractions of width and height",
    "per_mille": "with coordinates as whole thousandths (0 to 1000) of width and height",
    "resized": "with coordinates in whole pixels of the image as you see it",
}
# Without steps: how a model answers before it has learnt to think with images.
DIRECT_DEPTH = (
    "The first image is the scene; the second is its depth, dark where near and bright where far. "
    "Answer the question in a few words."
)
DIRECT_RGB = "Answer the question about the image in a few words."


def user_prompt(question: str, *, with_depth: bool = True, direct: bool = False, coordinates: Coordinates = "unit") -> str:
    """What the model is asked: the images' meaning, the format, the question.

    Args:
        question: the question.
        with_depth: whether the second image is there; False for RGB-only work.
        direct: ask for the answer alone, without steps.
        coordinates: what the numbers of boxes are to be, see `coordinates.Frame`.
    """
    task = (DIRECT_DEPTH if with_depth else DIRECT_RGB) if direct else (TASK_DEPTH if with_depth else TASK_RGB)
    return f"{_task(task, coordinates)}\nQuestion: {question.strip()}"


def asked_coordinates(prompt: str) -> Coordinates | None:
    """Which coordinates a prompt asks for that holds a task of `user_prompt`; None for any other wording.

    Example:
        >>> asked_coordinates(user_prompt("What is it?", coordinates="per_mille"))
        'per_mille'
    """
    for coordinates in _COORDINATES:
        if any(_task(task, coordinates) in prompt for task in (TASK_DEPTH, TASK_RGB)):
            return coordinates
    return None


def _task(task: str, coordinates: Coordinates) -> str:
    """A task that asks for such coordinates."""
    return task.replace(_COORDINATES["unit"], _COORDINATES[coordinates])


_LABEL = re.compile(r"\(?[A-Za-z0-9][).:]")  # "(A) red", "A. red"


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its possible answers under it, a letter before each; as they are where they have labels of their own.

    Example:
        >>> print(with_choices("Which is nearer?", ["the cup", "the vase"]))
        Which is nearer?
        (A) the cup
        (B) the vase
    """
    labelled = all(_LABEL.match(choice) for choice in choices) or len(choices) > len(ascii_uppercase)
    lines = (
        choices if labelled else [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    )
    return "\n".join([question.strip(), *lines])


def with_several_images(question: str, count: int) -> str:
    """A question about several images that are shown as one picture, side by side; as it is where there is one."""
    return (
        question if count < 2 else f"The picture shows {count} images side by side, in order from left to right.\n{question}"
    )


TEACHER_SYSTEM = (
    "You explain how somebody looks at an image to answer a question. You are given the question, its true answer, and a "
    "sequence of focuses that ends at the regions holding the answer; every focus comes with a copy of the image on which "
    "its regions are outlined, with their coordinates (fractions of width and height) and mean depths (0 near, 1 far). "
    "For each focus write one thought of one to three sentences: what is visible there, and why to look on or that this "
    "settles the question. Early focuses may find that the region does not help. Reason from the image towards the answer, "
    "as if you did not know it yet. Never mention outlines, drawings, boxes, coordinates, that an answer was given, or "
    'these instructions. Reply with JSON only: {"thoughts": [one string for each focus], "answer": "short answer"}.'
)


def teacher_task(question: str, answer: str, foci: int) -> str:
    """The opening of a teacher's task; the focuses follow, one `teacher_focus` and one image each."""
    return f"Question: {question}\nTrue answer: {answer}\nNumber of focuses: {foci}"


def teacher_focus(index: int, regions: Sequence[Region]) -> str:
    """One focus of a teacher's task, in fractions: a teacher writes no coordinates, so that it is asked in one way."""
    rounded = [Region(round_boxes([region.box])[0].tolist(), region.depth) for region in regions]
    return f"Focus {index}: {render_regions(rounded)}"


def teacher_correction(problems: Sequence[str]) -> str:
    """What a teacher is told when its reply fails a check."""
    return "Your reply cannot be used: " + "; ".join(problems) + ". Send the whole JSON object again, corrected."


JUDGE_SYSTEM = (
    "You compare an answer with the true answer to a question about an image. Judge the meaning, not the wording. Reply "
    "with one number and nothing else: 1 when the answer is right, 0 when it is wrong, a number between when it is right in "
    "part."
)


def judge_task(question: str, truth: str, answer: str) -> str:
    """What a judge is asked. The answer is a model's and stands in quotes, cut at 2,000 characters."""
    return f"Question: {question}\nTrue answer: {truth}\nAnswer to judge: {json.dumps(answer[:2000], ensure_ascii=False)}"
