"""Settings of asking a model about images: which model, how it answers, how depth files are read. Light: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PositiveInt

from sifthinker.literals import Dtype, Encoding, Near
from sifthinker.settings import Flag, Settings

MAX_NEW_TOKENS = 1024


class DepthFiles(Settings):
    """How depth files are read, see `DepthMap.read`."""

    depth_encoding: Encoding = "auto"
    """What the numbers in depth files are: depth in [0, 1] (sif, grey8, spectral, npy), distances in any unit (metres,
    millimetres), or disparity or inverse depth in any unit (inverse)."""
    depth_near: Near | None = None
    """Which end of the numbers is near."""
    depth_hole: Annotated[tuple[float, ...], Flag(metavar="NUMBER")] = ()
    """A number in depth files that stands for "no reading", such as 10000 or -1. Repeatable."""


class AskSettings(Settings):
    """Who answers, and how."""

    model: str | None = None
    """Model folder or Hugging Face name."""
    direct: bool = False
    """Ask for the answer alone, as of a model that knows no chains."""
    max_new_tokens: PositiveInt = MAX_NEW_TOKENS
    """Longest answer, in tokens."""
    max_pixels: PositiveInt | None = None
    """Greatest area of an image, for models that resize by area."""
    dtype: Dtype = "auto"
    """Data type of the weights; `auto` is the checkpoint's own."""


class ThinkSettings(AskSettings, DepthFiles):
    """One question about one image, as `sif think` asks it.

    Example:
        >>> ThinkSettings(model="nano", direct=True, depth="none").max_new_tokens
        1024
    """

    model: str | None = None
    """Model folder or Hugging Face name [default: the embedded model, where there is one]."""
    depth: Annotated[str | None, Flag(metavar="given|none|FILE|MODEL")] = None
    """The depth file beside the image, RGB only, a depth file, or a depth model [default: the file if there is one]."""
    output: Annotated[Path | None, Flag("-o", "--output")] = None
    """Page to write, or with the ending .png one picture [default: IMAGE's name .thought.html]."""
