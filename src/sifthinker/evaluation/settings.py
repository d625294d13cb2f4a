"""Settings of an evaluation: the questions, the model that answers them, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import PositiveInt, model_validator

from sifthinker.ask_settings import AskSettings, DepthFiles
from sifthinker.literals import Coordinates, Space
from sifthinker.settings import Flag


class EvalSettings(AskSettings, DepthFiles):
    """Settings of one evaluation.

    Example:
        >>> EvalSettings(data="questions.jsonl", model="nano", protocol="direct", limit=100).max_new_tokens
        1024
    """

    data: str
    """Dataset folder, its examples file, or a question file (JSON lines or a JSON list)."""
    completions: str | None = None
    """JSON lines file of saved completions to score instead of asking a model (keys: `id`, `completion`, optional
    `coordinates` and `resized`)."""
    output: Annotated[str | None, Flag("-o", "--output", metavar="FILE.json")] = None
    """JSON file for the results and all completions."""
    images: str | None = None
    """Folder that image and depth paths in a question file are relative to [default: the folder of the file]."""
    split: str | None = None
    """Split of a benchmark [default: the first split in the help of `sif eval BENCHMARK`]."""
    depth: Annotated[str | None, Flag(metavar="MODEL")] = None
    """Depth model (folder or Hugging Face name) for questions without depth."""
    limit: PositiveInt | None = None
    """Ask only the first N questions."""
    rgb_only: bool = False
    """Do not show depth to the model."""
    show_choices: Annotated[bool, Flag("--show-choices/--no-show-choices")] = False
    """Add the choices below the question as (A) …, (B) …; on by default for most benchmarks."""
    batch_size: PositiveInt = 8
    """Questions per batch."""
    coordinates: Coordinates | None = None
    """Coordinates of the boxes in the model's text: fractions of the image (unit), whole numbers from 0 to 1000 (per_mille),
    or pixels of the image after the processor resized it (resized) [default: for chains, the coordinates recorded in
    training, else those of the dataset; for structured replies, those of the model family]."""
    box_space: Space = "unit"
    """Box space of a question file."""

    @model_validator(mode="after")
    def _one_who_answers(self) -> Self:
        if self.model is not None and self.completions is not None:
            raise ValueError("model and completions are both set. Set model to ask it, or completions to score them")
        return self

    @model_validator(mode="after")
    def _results_are_json(self) -> Self:
        if self.output is not None:
            path = Path(self.output)
            if self.output.endswith(("/", "\\")) or path.is_dir():
                raise ValueError(f"output {path} is a folder; give a file in it, such as {path / 'results.json'}")
            if path.suffix.lower() != ".json":
                raise ValueError(f"output {path}: expected a JSON file, such as {path.with_suffix('.json')}")
        return self
