"""What an evaluation can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sifthinker.boxes import Space
from sifthinker.depth_files import Encoding, Near


class EvalSettings(BaseModel):
    """One evaluation: which questions, who answers them, and how.

    Example:
        >>> settings = EvalSettings(data="questions.jsonl", model="nano", direct=True)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(description="Dataset folder, its examples file, or a file of questions (JSON lines or a JSON list).")
    model: str | None = Field(default=None, description="Model folder or Hugging Face name.")
    completions: str | None = Field(
        default=None, description="JSON lines of saved completions (id, completion) to score instead of asking a model."
    )
    output: str | None = Field(default=None, description="JSON file for results and every completion.")
    images: str | None = Field(
        default=None, description="Folder for image and depth paths of a file of questions [default: its own]."
    )
    limit: int | None = Field(default=None, ge=1, description="Ask the first N questions.")
    direct: bool = Field(default=False, description="Ask for answers alone, without steps.")
    rgb_only: bool = Field(default=False, description="Show the model no depth.")
    show_choices: bool = Field(default=False, description="Write a question's choices under it, as (A) …, (B) ….")
    batch_size: int = Field(default=8, ge=1, description="Questions at once.")
    max_new_tokens: int = Field(default=1024, ge=1, description="Most tokens of an answer.")
    max_pixels: int | None = Field(
        default=None, ge=1, description="Greatest area of an image, for models that resize by area."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="Of the weights.")
    box_space: Space = Field(default="unit", description="Coordinates of boxes in a file of questions.")
    depth_encoding: Encoding = Field(
        default="auto", description="What the numbers in depth files of a file of questions are."
    )
    depth_near: Near | None = Field(default=None, description="Which end of the numbers is near.")
    depth_hole: tuple[float, ...] = Field(default=(), description="A number in depth files that stands for 'no reading'.")

    @model_validator(mode="after")
    def _one_source(self) -> EvalSettings:
        if self.model is not None and self.completions is not None:
            raise ValueError("model and completions are both given; a model is asked, or saved completions are scored")
        return self
