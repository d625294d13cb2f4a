"""Settings of an evaluation: which questions, who answers them, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import PositiveInt, model_validator

from sifthinker.literals import Encoding, Near, Space
from sifthinker.settings import Flag, Settings


class EvalSettings(Settings):
    """One evaluation.

    Example:
        >>> EvalSettings(data="questions.jsonl", model="nano", direct=True, limit=100).max_new_tokens
        1024
    """

    data: str
    """Dataset folder, its examples file, or a file of questions (JSON lines or a JSON list)."""
    model: str | None = None
    """Model folder or Hugging Face name."""
    completions: str | None = None
    """JSON lines of saved completions (`id`, `completion`) to score instead of asking a model."""
    output: Annotated[str | None, Flag("-o", "--output", metavar="FILE.json")] = None
    """JSON file for the results and every completion."""
    images: str | None = None
    """Folder for the image and depth paths in a file of questions; the file's own folder by default."""
    limit: PositiveInt | None = None
    """Ask only the first N questions."""
    direct: bool = False
    """Ask for answers without steps, as of a model that knows no chains."""
    rgb_only: bool = False
    """Show the model no depth."""
    show_choices: bool = False
    """Write the choices of a question under it, as (A) …, (B) …"""
    batch_size: PositiveInt = 8
    """Questions at once."""
    max_new_tokens: PositiveInt = 1024
    """Longest answer, in tokens."""
    max_pixels: PositiveInt | None = None
    """Greatest area of an image, for models that resize by area."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Data type of the weights; `auto` is the checkpoint's own."""
    box_space: Space = "unit"
    """Coordinates of the boxes in a file of questions."""
    depth_encoding: Encoding = "auto"
    """What the numbers in the depth files of a file of questions are."""
    depth_near: Near | None = None
    """Which end of the numbers in depth files is near."""
    depth_hole: Annotated[tuple[float, ...], Flag(metavar="NUMBER")] = ()
    """A number in depth files that stands for 'no reading'. Repeatable."""

    @model_validator(mode="after")
    def _one_who_answers(self) -> Self:
        if self.model is not None and self.completions is not None:
            raise ValueError("model and completions are both given; either a model is asked or saved completions are scored")
        return self
