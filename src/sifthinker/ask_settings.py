"""Settings for asking a model: which model or server, how it answers, how depth files are read. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from sifthinker.errors import ConfigError
from sifthinker.literals import Coordinates, Dtype, Encoding, ImageFormat, Near, Space, ThinkProtocol
from sifthinker.settings import Accepts, Flag, Settings, StrPath, default

MAX_NEW_TOKENS = 1024
NO_KEY = "SIFTHINKER_NO_KEY"  # an environment variable that nobody sets: a server without a key


class DepthFiles(Settings):
    """How to read depth files; see `DepthMap.read`."""

    depth_encoding: Encoding = "auto"
    """Meaning of the numbers in depth files: depth in [0, 1] (sif, grey8, spectral, npy), distance in any unit (metres,
    millimetres), or disparity or inverse depth in any unit (inverse)."""
    depth_near: Near | None = None
    """Whether low or high numbers in depth files mean near."""
    depth_hole: Annotated[tuple[float, ...], Flag(metavar="NUMBER")] = ()
    """A number in depth files that means "no reading", such as 10000 or -1. Repeatable."""


class ServerSettings(Settings):
    """An OpenAI-compatible server; see `endpoint.open_endpoint`."""

    base_url: str
    """Address of an OpenAI-compatible server."""
    model: str | None = None
    """Name of the model on the server."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that contains the API key."""
    timeout_s: PositiveFloat = 120.0
    """Timeout of one request, in seconds."""
    retries: NonNegativeInt = 5
    """Retries of a failed request."""
    concurrency: PositiveInt = 8
    """Maximum number of simultaneous requests."""


class Metered(Settings):
    """Rate limit and prices of a server."""

    rpm: PositiveFloat | None = None
    """Maximum number of requests per minute."""
    prompt_price: NonNegativeFloat = 0.0
    """Price of a million prompt tokens."""
    completion_price: NonNegativeFloat = 0.0
    """Price of a million completion tokens."""


class AskSettings(Metered):
    """Which model answers, and how: a model in this process or, with `base_url`, a model on a server."""

    model: str | None = None
    """Model folder or Hugging Face name. With --base-url: name of the model on the server."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server (vLLM, SGLang, transformers serve, hosted) that runs the model."""
    protocol: ThinkProtocol = "chain"
    """What to ask the model for: a chain, from a model trained on chains (chain); the same steps as JSON, from any capable
    model (structured); or only the answer (direct)."""
    coordinates: Coordinates | None = None
    """How the model writes boxes: fractions of the image (unit), whole numbers from 0 to 1000 (per_mille), or pixels of the
    image after its processor resized it (resized) [default: for chains, what the training recorded, else unit; for
    structured, the convention of the model family]."""
    max_new_tokens: PositiveInt = MAX_NEW_TOKENS
    """Maximum length of an answer, in tokens."""
    max_pixels: PositiveInt | None = None
    """Maximum image area in pixels [default: the limit of the model's processor; 4194304 for images sent to a server]."""
    dtype: Dtype = "auto"
    """Data type of the weights; auto keeps the type of the checkpoint."""
    grammar: bool = False
    """Make the server decode only valid chains (vLLM's structured_outputs)."""
    image_format: ImageFormat = "png"
    """Format of images sent to a server: png is lossless, jpeg is smaller."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that contains the API key of the server."""
    timeout_s: Annotated[PositiveFloat, Flag("--timeout")] = 120.0
    """Timeout of one request to a server, in seconds."""
    retries: NonNegativeInt = 5
    """Retries of a failed request."""
    concurrency: PositiveInt = 8
    """Maximum number of simultaneous requests to a server."""
    budget: NonNegativeFloat | None = None
    """Stop before the answers cost more than this, in the currency of the prices."""

    @model_validator(mode="before")
    @classmethod
    def _direct_is_a_protocol(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "direct" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "direct"}
        if not isinstance(values["direct"], bool) and str(values["direct"]).lower() not in ("true", "false"):
            raise ValueError(f"direct must be true or false, got {values['direct']!r:.100}. Or set protocol to direct")
        if str(values["direct"]).lower() == "false":
            return rest
        if rest.get("protocol", "direct") != "direct":
            raise ValueError(f"direct and protocol {rest['protocol']} exclude each other. Leave one out")
        return {**rest, "protocol": "direct"}

    @model_validator(mode="after")
    def _server_has_what_it_needs(self) -> Self:
        if self.base_url is None and not getattr(self, "compare_base_url", None):
            for name in ("grammar", "budget", *SERVER_FIELDS):
                field = type(self).model_fields[name]
                if name != "base_url" and getattr(self, name) != field.default:
                    raise ValueError(
                        f"{name} applies only to a model on a server. Set base_url (--base-url), or leave {name} out"
                    )
        if self.base_url is not None and self.dtype != "auto":
            raise ValueError(f"dtype applies only to a model in this process, got {self.dtype} with base_url. Leave one out")
        if self.base_url is not None and self.model is None:
            raise ValueError("base_url needs model (--model), the name of the model on that server")
        if self.grammar and self.protocol != "chain":
            raise ValueError(f"grammar needs protocol chain, got {self.protocol}. Leave grammar out, or change the protocol")
        if self.budget is not None and not (self.prompt_price or self.completion_price):
            raise ValueError(
                "budget needs prices. Set prompt_price and completion_price (--prompt-price, --completion-price)"
            )
        return self

    @property
    def direct(self) -> bool:
        """Whether the model is asked for the answer alone."""
        return self.protocol == "direct"

    @property
    def server(self) -> ServerSettings:
        """The settings of the server alone.

        Raises:
            ConfigError: the settings have no server; the model is in this process.
        """
        if self.base_url is None:
            raise ConfigError("the settings have no server. Set base_url")
        return ServerSettings(**{name: getattr(self, name) for name in ServerSettings.model_fields})


SERVER_FIELDS = (
    "base_url", "grammar", "image_format", "api_key_env", "timeout_s", "retries", "concurrency", "rpm", "prompt_price",
    "completion_price", "budget",
)  # fmt: skip
"""Fields of `AskSettings` that apply only to a server."""


class ThinkSettings(AskSettings, DepthFiles):
    """Settings of `sif think`: one question about one image, or many questions.

    Example:
        >>> ThinkSettings(model="nano", direct=True, depth="none").max_new_tokens
        1024
    """

    model: str | None = None
    """Model folder or Hugging Face name. With --base-url: name of the model on the server [default: the embedded model]."""
    depth: Annotated[str | None, Flag(metavar="given|none|FILE|MODEL")] = None
    """Source of the depth: the depth file beside the image (given), no depth (none), a depth file, or a depth model
    [default: given if there is a file, else none]."""
    output: Annotated[Accepts[StrPath | None, Path | None], Flag("-o", "--output")] = default(None)
    """File to write: a page (.html) or an image (.png); for many questions, JSON lines (.jsonl) [default:
    IMAGE.thought.html, or FILE.thoughts.jsonl]."""

    @field_validator("output")
    @classmethod
    def _page_or_picture(cls, value: Path | None) -> Path | None:
        if value is not None and not names_thought(value) and value.suffix.lower() != ".jsonl":
            raise ValueError(f"expected a name that ends in .html or .png, or in .jsonl for many questions, got {value}")
        return value


class AppSettings(AskSettings, DepthFiles):
    """Settings of `sif app`: which model answers, where depth comes from, which questions the page offers, who can reach it.

    See `show.app`.

    Example:
        >>> AppSettings(model="runs/grpo", compare="runs/sft").second.model
        'runs/sft'
    """

    model: str | None = None
    """Model folder or Hugging Face name. With --base-url: name of the model on the server [default: the embedded model]."""
    compare: str | None = None
    """A second model that answers the same questions beside the first."""
    compare_base_url: str | None = None
    """Address of the server that runs the second model [default: the same as --base-url]."""
    compare_api_key_env: str | None = None
    """Environment variable that contains the API key of the second server [default: --api-key-env if both models are on
    one server, else no key]."""
    depth: Annotated[str | None, Flag(metavar="MODEL")] = None
    """Folder or Hugging Face name of a depth model, for photographs without a depth file."""
    data: Annotated[str | None, Flag(metavar="DATASET")] = None
    """Dataset folder or question file to offer on the page."""
    images: str | None = None
    """Folder that image and depth paths in a question file are relative to [default: the folder of the file]."""
    box_space: Space = "unit"
    """Box space of a question file."""
    show_choices: bool = False
    """Append the choices to the question, as (A) …, (B) …"""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines connect; the page has no password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 7860
    """Port to listen on."""
    max_upload: Annotated[PositiveInt, Flag(metavar="MB")] = 64
    """Maximum size of an uploaded file, in megabytes."""

    @model_validator(mode="after")
    def _second_is_named(self) -> Self:
        for name in ("compare_base_url", "compare_api_key_env"):
            if getattr(self, name) is not None and self.compare is None:
                raise ValueError(f"{name} needs compare (--compare), the name of the second model on that server")
        if self.compare_api_key_env is not None and not (self.compare_base_url or self.base_url):
            raise ValueError(
                "compare_api_key_env applies only to a model on a server. Set compare_base_url, or leave it out"
            )
        return self

    @property
    def second(self) -> AppSettings:
        """The same settings with the second model in place of the first.

        Raises:
            ConfigError: the settings have no second model.
        """
        if self.compare is None:
            raise ConfigError("the settings have no second model. Set compare")
        url = self.compare_base_url or self.base_url
        # Never send the key of one server to another.
        key = self.compare_api_key_env or (self.api_key_env if url == self.base_url else NO_KEY)
        rest = {"compare": None, "compare_base_url": None, "compare_api_key_env": None}
        return self.replace(model=self.compare, base_url=url, api_key_env=key, **rest)


def names_thought(path: Path) -> bool:
    """Whether one thought can be written to this path: a page or an image by its ending, or a device or a pipe."""
    return path.suffix.lower() in (".html", ".htm", ".png") or (path.exists() and not path.is_file())
