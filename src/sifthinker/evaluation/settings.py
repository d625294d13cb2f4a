"""Settings of an evaluation: which questions, who answers them, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import PositiveInt, model_validator

from sifthinker.ask_settings import AskSettings, DepthFiles
from sifthinker.literals import Coordinates, Space
from sifthinker.settings import Flag


class EvalSettings(AskSettings, DepthFiles):
    """One evaluation.

    Example:
        >>> EvalSettings(data="questions.jsonl", model="nano", protocol="direct", limit=100).max_new_tokens
        1024
    """

    data: str
    """Dataset folder, its examples file, or a file of questions (JSON lines or a JSON list)."""
    completions: str | None = None
    """JSON lines of saved completions (`id`, `completion`, perhaps `coordinates` and `resized`) to score instead of asking a
    model."""
    output: Annotated[str | None, Flag("-o", "--output", metavar="FILE.json")] = None
    """JSON file for the results and every completion."""
    images: str | None = None
    """Folder for the image and depth paths in a file of questions; the file's own folder by default."""
    split: str | None = None
    """Split of a benchmark [default: its usual one]."""
    depth: Annotated[str | None, Flag(metavar="MODEL")] = None
    """Depth model, a folder or Hugging Face name, for questions that come without depth."""
    limit: PositiveInt | None = None
    """Ask only the first N questions."""
    rgb_only: bool = False
    """Show the model no depth."""
    show_choices: Annotated[bool, Flag("--show-choices/--no-show-choices")] = False
    """Write the choices of a question under it, as (A) …, (B) …; most benchmarks do by default."""
    batch_size: PositiveInt = 8
    """Questions at once."""
    coordinates: Coordinates | None = None
    """Boxes in the model's words: fractions of the image (unit), whole numbers from 0 to 1000 (per_mille), or pixels of the
    image as its processor resizes it (resized) [default: for chains what the model's training noted, else those of the
    dataset; for structured as the model's family writes]."""
    box_space: Space = "unit"
    """Coordinates of the boxes in a file of questions."""

    @model_validator(mode="after")
    def _one_who_answers(self) -> Self:
        if self.model is not None and self.completions is not None:
            raise ValueError("model and completions are both given; either a model is asked or saved completions are scored")
        return self

    @model_validator(mode="after")
    def _results_are_json(self) -> Self:
        if self.output is not None:
            path = Path(self.output)
            if self.output.endswith(("/", "\\")) or path.is_dir():
                raise ValueError(f"output {path} is a folder; name a file in it, such as {path / 'results.json'}")
            if path.suffix.lower() != ".json":
                raise ValueError(f"output {path}: wanted a JSON file, such as {path.with_suffix('.json')}")
        return self
