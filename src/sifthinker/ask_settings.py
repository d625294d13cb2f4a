"""Settings of asking a model: which model or server, how it answers, how depth files are read. Light: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from sifthinker.errors import ConfigError
from sifthinker.literals import Coordinates, Dtype, Encoding, ImageFormat, Near, Space, ThinkProtocol
from sifthinker.settings import Flag, Settings

MAX_NEW_TOKENS = 1024
NO_KEY = "SIFTHINKER_NO_KEY"  # an environment variable that nobody sets: a server without a key


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


class Metered(Settings):
    """How fast a server is asked, and what it costs."""

    rpm: PositiveFloat | None = None
    """Most requests in a minute."""
    prompt_price: NonNegativeFloat = 0.0
    """Price of a million tokens that the model reads."""
    completion_price: NonNegativeFloat = 0.0
    """Price of a million tokens that the model writes."""


class AskSettings(Metered):
    """Who answers, and how: a model in this process, or with `base_url` one on a server."""

    model: str | None = None
    """Model folder or Hugging Face name; with --base-url, the model's name on its server."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server (vLLM, SGLang, transformers serve, hosted) that runs the model."""
    protocol: ThinkProtocol = "chain"
    """Ask for a chain, as of a model that was trained on chains; for the same steps as JSON, as of any capable model
    (structured); or for the answer alone (direct)."""
    coordinates: Coordinates | None = None
    """Boxes in the model's words: fractions of the image (unit), whole numbers from 0 to 1000 (per_mille), or pixels of the
    image as its processor resizes it (resized) [default: for chains as its training noted, else unit; for structured as its
    family writes]."""
    max_new_tokens: PositiveInt = MAX_NEW_TOKENS
    """Longest answer, in tokens."""
    max_pixels: PositiveInt | None = None
    """Greatest area of an image, for models that resize by area; of an image that is sent to a server [default there:
    4194304]."""
    dtype: Dtype = "auto"
    """Data type of the weights; `auto` is the checkpoint's own."""
    grammar: bool = False
    """Hold chains to their grammar while the server decodes them (vLLM's structured_outputs)."""
    image_format: ImageFormat = "png"
    """How images are sent to a server: exactly, or smaller."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    timeout_s: Annotated[PositiveFloat, Flag("--timeout")] = 120.0
    """Seconds for one request to a server."""
    retries: NonNegativeInt = 5
    """Further tries of a failed request."""
    concurrency: PositiveInt = 8
    """Requests to a server under way at once."""
    budget: NonNegativeFloat | None = None
    """Stop before the server's model has cost more, in the prices' currency."""

    @model_validator(mode="before")
    @classmethod
    def _direct_is_a_protocol(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "direct" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "direct"}
        if not isinstance(values["direct"], bool) and str(values["direct"]).lower() not in ("true", "false"):
            raise ValueError(f"direct is {values['direct']!r:.100}, wanted true or false; or say protocol direct")
        if str(values["direct"]).lower() == "false":
            return rest
        if rest.get("protocol", "direct") != "direct":
            raise ValueError(f"direct and protocol {rest['protocol']} are both given; leave one out")
        return {**rest, "protocol": "direct"}

    @model_validator(mode="after")
    def _server_has_what_it_needs(self) -> Self:
        if self.base_url is None and not getattr(self, "compare_base_url", None):
            for name in ("grammar", "budget", *SERVER_FIELDS):
                field = type(self).model_fields[name]
                if name != "base_url" and getattr(self, name) != field.default:
                    raise ValueError(f"{name} is for a model on a server; say which with base_url (--base-url)")
        if self.base_url is not None and self.dtype != "auto":
            raise ValueError(f"dtype {self.dtype} is for a model in this process; the server has loaded its own")
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url needs model (--model): the model's name on that server")
        if self.grammar and self.protocol != "chain":
            raise ValueError(f"grammar is for protocol chain, got {self.protocol}; leave one out")
        if self.budget is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("budget needs prices: prompt_price and completion_price (--prompt-price, --completion-price)")
        return self

    @property
    def direct(self) -> bool:
        """Whether the answer alone is asked for."""
        return self.protocol == "direct"

    @property
    def server(self) -> ServerSettings:
        """The server alone.

        Raises:
            ConfigError: the model is in this process.
        """
        if self.base_url is None:
            raise ConfigError("the settings name no server; say base_url")
        return ServerSettings(**{name: getattr(self, name) for name in ServerSettings.model_fields})


SERVER_FIELDS = (
    "base_url", "grammar", "image_format", "api_key_env", "timeout_s", "retries", "concurrency", "rpm", "prompt_price",
    "completion_price", "budget",
)  # fmt: skip
"""Fields of `AskSettings` that speak of a server alone."""


class ThinkSettings(AskSettings, DepthFiles):
    """How `sif think` asks: one question about one image, or many.

    Example:
        >>> ThinkSettings(model="nano", direct=True, depth="none").max_new_tokens
        1024
    """

    model: str | None = None
    """Model folder or Hugging Face name [default: the embedded model, where there is one]."""
    depth: Annotated[str | None, Flag(metavar="given|none|FILE|MODEL")] = None
    """The depth file beside the image, RGB only, a depth file, or a depth model [default: the file if there is one]."""
    output: Annotated[Path | None, Flag("-o", "--output")] = None
    """Page to write, or with the ending .png one picture; for many questions JSON lines, .jsonl [default: the name of IMAGE
    and .thought.html, of FILE or FOLDER and .thoughts.jsonl]."""

    @field_validator("output")
    @classmethod
    def _page_or_picture(cls, value: Path | None) -> Path | None:
        if value is not None and not names_thought(value) and value.suffix.lower() != ".jsonl":
            raise ValueError(f"{value}: wanted a name that ends in .html or .png, or for many questions in .jsonl")
        return value


class AppSettings(AskSettings, DepthFiles):
    """The page that asks, see `show.app`: who answers, where depth comes from, what is browsed, who may come.

    Example:
        >>> AppSettings(model="runs/grpo", compare="runs/sft").second.model
        'runs/sft'
    """

    model: str | None = None
    """Model folder or Hugging Face name; with --base-url, the model's name on its server [default: the embedded model, where
    there is one]."""
    compare: str | None = None
    """A second model, asked the same and shown beside the first."""
    compare_base_url: str | None = None
    """Address of the server that runs the second model [default: that of the first]."""
    compare_api_key_env: str | None = None
    """Environment variable that holds the key of the second model's server [default: that of the first if they are one
    server, else no key]."""
    depth: Annotated[str | None, Flag(metavar="MODEL")] = None
    """Depth model, folder or Hugging Face name, that estimates the depth of photographs without a depth file."""
    data: Annotated[str | None, Flag(metavar="DATASET")] = None
    """Dataset folder or file of questions to browse and ask."""
    images: str | None = None
    """Folder for the image and depth paths in a file of questions; the file's own folder by default."""
    box_space: Space = "unit"
    """Coordinates of the boxes in a file of questions."""
    show_choices: bool = False
    """Write the choices of a question under it, as (A) …, (B) …"""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in, and there is no password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 7860
    """Port to listen at."""
    max_upload: Annotated[PositiveInt, Flag(metavar="MB")] = 64
    """Largest file that is taken, in megabytes."""

    @model_validator(mode="after")
    def _second_is_named(self) -> Self:
        if self.compare_base_url is not None and self.compare is None:
            raise ValueError("compare_base_url needs compare (--compare): the second model's name on that server")
        return self

    @property
    def second(self) -> AppSettings:
        """The same settings with the second model as the one that answers.

        Raises:
            ConfigError: there is none.
        """
        if self.compare is None:
            raise ConfigError("the settings name no second model; say compare")
        url = self.compare_base_url or self.base_url
        # A key is for the server that it was made for, and no other is shown it.
        key = self.compare_api_key_env or (self.api_key_env if url == self.base_url else NO_KEY)
        rest = {"compare": None, "compare_base_url": None, "compare_api_key_env": None}
        return self.replace(model=self.compare, base_url=url, api_key_env=key, **rest)


def names_thought(path: Path) -> bool:
    """Whether a thought can be written to a path: a page or a picture by its ending, or a device or pipe as it is."""
    return path.suffix.lower() in (".html", ".htm", ".png") or (path.exists() and not path.is_file())
