"""All prompts that models read. If the wording changes, `PROMPT_VERSION` changes too."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from string import ascii_uppercase

from sifthinker.boxes import round_boxes
from sifthinker.chain import Region, render_regions
from sifthinker.literals import Coordinates, ThinkProtocol

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
# The part of each task that describes the coordinates.
_COORDINATES: dict[Coordinates, str] = {
    "unit": "with coordinates as fractions of width and height",
    "per_mille": "with coordinates as whole thousandths (0 to 1000) of width and height",
    "resized": "with coordinates in whole pixels of the image as you see it",
}
# Without steps: for models that have not learned to think with images.
DIRECT_DEPTH = (
    "The first image is the scene; the second is its depth, dark where near and bright where far. "
    "Answer the question in a few words."
)
DIRECT_RGB = "Answer the question about the image in a few words."
# The steps as JSON: for models that have not learned to write chains.
STRUCTURED_DEPTH = (
    "The first image is the scene; the second is its depth, dark where near and bright where far. Both show the same view. "
    "Answer the question by looking step by step: begin with the regions that may matter, then correct your focus until it "
    "rests on what answers the question, as tightly as you can. At each step give the regions you look at, with coordinates "
    "as fractions of width and height and the mean depth in each from 0 near to 1 far, and then say in one to three "
    'sentences what you see there. Reply with JSON only: {"steps":[{"regions":[{"bbox_2d":[x1,y1,x2,y2],"depth":d}],'
    '"text":"what you see"}],"answer":"short answer"}.'
)
STRUCTURED_RGB = (
    "Answer the question about the image by looking step by step: begin with the regions that may matter, then correct your "
    "focus until it rests on what answers the question, as tightly as you can. At each step give the regions you look at, "
    "with coordinates as fractions of width and height, and then say in one to three sentences what you see there. Reply "
    'with JSON only: {"steps":[{"regions":[{"bbox_2d":[x1,y1,x2,y2]}],"text":"what you see"}],"answer":"short answer"}.'
)

# Protocol → (task with a depth image, task without one).
_TASKS: dict[ThinkProtocol, tuple[str, str]] = {
    "direct": (DIRECT_DEPTH, DIRECT_RGB),
    "chain": (TASK_DEPTH, TASK_RGB),
    "structured": (STRUCTURED_DEPTH, STRUCTURED_RGB),
}


def user_prompt(
    question: str, *, with_depth: bool = True, protocol: ThinkProtocol = "chain", coordinates: Coordinates = "unit"
) -> str:
    """Return the user's prompt: the meaning of the images, the format of the answer, and the question.

    Args:
        question: the question.
        with_depth: whether there is a depth image; False for RGB-only prompts.
        protocol: format of the answer: the answer only (`direct`), a chain (`chain`), or its steps as JSON (`structured`).
        coordinates: coordinates of the boxes, see `coordinates.Frame`.
    """
    task = _TASKS[protocol][0 if with_depth else 1]
    return f"{_task(task, coordinates)}\nQuestion: {question.strip()}"


def asked_coordinates(prompt: str) -> Coordinates | None:
    """Return the coordinates that a prompt from `user_prompt` asks for, or None for any other wording.

    Example:
        >>> asked_coordinates(user_prompt("What is it?", coordinates="per_mille"))
        'per_mille'
    """
    for coordinates in _COORDINATES:
        if any(_task(task, coordinates) in prompt for task in (TASK_DEPTH, TASK_RGB)):
            return coordinates
    return None


def _task(task: str, coordinates: Coordinates) -> str:
    """Return a task that asks for these coordinates."""
    return task.replace(_COORDINATES["unit"], _COORDINATES[coordinates])


_LABEL = re.compile(r"\(?[A-Za-z0-9][).:]")  # "(A) red", "A. red"


def with_choices(question: str, choices: Sequence[str]) -> str:
    """Return a question with its choices below it, each with a letter. Choices that already have labels do not change.

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
    """Return a question about several images, combined side by side. With one image, the question does not change."""
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


def teacher_task(question: str, answer: str, focuses: int) -> str:
    """Return the start of a teacher's task. The focuses follow, each as one `teacher_focus` and one image."""
    return f"Question: {question}\nTrue answer: {answer}\nNumber of focuses: {focuses}"


def teacher_focus(index: int, regions: Sequence[Region]) -> str:
    """Return one focus of a teacher's task. Boxes are always fractions, because a teacher does not write coordinates."""
    rounded = [Region(round_boxes([region.box])[0].tolist(), region.depth) for region in regions]
    return f"Focus {index}: {render_regions(rounded)}"


def teacher_correction(problems: Sequence[str]) -> str:
    """Return the message to a teacher whose reply failed a check."""
    return "Your reply cannot be used: " + "; ".join(problems) + ". Send the whole JSON object again, corrected."


JUDGE_SYSTEM = (
    "You compare an answer with the true answer to a question about an image. Judge the meaning, not the wording. Reply "
    "with one number and nothing else: 1 when the answer is right, 0 when it is wrong, a number between when it is right in "
    "part."
)


def judge_task(question: str, truth: str, answer: str) -> str:
    """Return the prompt for a judge. The model's answer is quoted and cut at 2,000 characters."""
    return f"Question: {question}\nTrue answer: {truth}\nAnswer to judge: {json.dumps(answer[:2000], ensure_ascii=False)}"
