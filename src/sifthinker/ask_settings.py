"""Settings of asking a model: which model or server, how it answers, how depth files are read. Light: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from sifthinker.literals import Coordinates, Dtype, Encoding, Near
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


class ServerSettings(Settings):
    """An OpenAI-compatible server that is asked, see `endpoint.open_endpoint`."""

    base_url: str
    """Address of an OpenAI-compatible server."""
    model: str | None = None
    """The model's name on its server."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    timeout_s: PositiveFloat = 120.0
    """Seconds for one request."""
    retries: NonNegativeInt = 5
    """Further tries of a failed request."""
    concurrency: PositiveInt = 8
    """Requests under way at once."""


class AskSettings(Settings):
    """Who answers, and how."""

    model: str | None = None
    """Model folder or Hugging Face name."""
    direct: bool = False
    """Ask for the answer alone, as of a model that knows no chains."""
    coordinates: Coordinates | None = None
    """Boxes in the model's chains, as it has learnt them: fractions of the image (unit), whole numbers from 0 to 1000
    (per_mille), or pixels of the image as its processor resizes it (resized) [default: as its training noted, else unit]."""
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

    @field_validator("output")
    @classmethod
    def _page_or_picture(cls, value: Path | None) -> Path | None:
        if value is not None and not names_thought(value):
            raise ValueError(f"{value}: wanted a name that ends in .html or .png")
        return value


def names_thought(path: Path) -> bool:
    """Whether a thought can be written to a path: a page or a picture by its ending, or a device or pipe as it is."""
    return path.suffix.lower() in (".html", ".htm", ".png") or (path.exists() and not path.is_file())
