"""Settings of a build: what a recipe file, `sif data build` and Python can say. Light: no numpy, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sifthinker.ask_settings import DepthFiles, Metered, ServerSettings
from sifthinker.literals import BoxForm, Coordinates, OutsideBoxes, SourceFormat, Space
from sifthinker.settings import Flag, Settings

Share = Annotated[float, Field(ge=0, le=1)]


class Expansion(Settings):
    """Settings of the reverse expansion, see `expansion.expand`.

    Example:
        >>> Expansion(decimals=2).alpha
        0.3333333333333333
    """

    alpha: Annotated[NonNegativeFloat, Flag(default="1/3")] = 1 / 3
    """How far each side moves, a fraction of its way to the border."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """`alpha` is multiplied by a number within 1 ± jitter, drawn for each side."""
    distractor: Share = 0.5
    """Probability of a distractor."""
    decimals: Annotated[int, Field(ge=2, le=3)] = 3
    """Digits of the coordinates."""
    margin: Share | None = None
    """Move each side by this fraction of the picture instead; the paper's release moves them one pixel."""

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        if self.alpha * (1 + self.jitter) > 1:
            raise ValueError(f"alpha {self.alpha:g} with jitter {self.jitter:g} moves a side past the border")
        return self


class TeacherSettings(Metered, ServerSettings):
    """Who explains the focus paths, and how it is asked."""

    teacher: Annotated[str, Flag(metavar="openai|local|NAME")] = "openai"
    """An OpenAI-compatible server, a model in this process, or a teacher that an installed package offers: scripted, the
    embedded world's own."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the teacher's server."""
    model: str | None = None
    """The teacher's name on its server; for a local one its folder or Hugging Face name."""
    timeout_s: Annotated[PositiveFloat, Flag("--timeout")] = 120.0
    """Seconds for one request."""
    concurrency: PositiveInt = 8
    """Records under way at once."""
    max_side: Annotated[int, Field(ge=28)] = 1024
    """Longest side of the images that the teacher sees, in pixels."""
    max_tokens: PositiveInt | None = None
    """Longest reply of the teacher [default: its server's bound]."""


class ResizedPixels(Settings):
    """Which image the pixels of `resized` are of: how a model's processor resizes."""

    processor: Annotated[str | None, Flag(metavar="FOLDER|NAME")] = None
    """For resized: folder or Hugging Face name of the model whose processor resizes the images."""
    min_pixels: PositiveInt | None = None
    """For resized: least area of an image [default: the processor's]."""
    max_pixels: PositiveInt | None = None
    """For resized: greatest area of an image [default: the processor's]."""

    @property
    def stated(self) -> tuple[str, ...]:
        """The names of those that are stated."""
        return tuple(name for name in ResizedPixels.model_fields if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self


class SourceSettings(ResizedPixels):
    """One file, folder or hub dataset of a build; see `sources.read_source` for what the fields mean. A bare text is a file.

    Example:
        >>> SourceSettings(file="cats.csv", format="table", columns={"question": "ask"}, max_boxes=3)
    """

    FROM_TEXT: ClassVar[str | None] = "file"

    file: str
    """File of records, folder or table, relative to the build's `folder`, or `hf://owner/name:split`."""
    images: str = "."
    """Image folder of this source, relative to the build's `images`."""
    format: SourceFormat = "auto"
    """Form of the file."""
    columns: Mapping[str, str] = {}
    """Columns of a table: question=ask,boxes=bbox,…"""
    box_space: Space = "unit"
    """Coordinates of plain records and tables; for resized, the processor or bounds say of which size."""
    box_form: BoxForm = "xyxy"
    """Boxes of a table: two corners, or corner and size."""
    boxes: OutsideBoxes = "clip"
    """What to do with boxes past the image's border."""
    instances: Annotated[str | None, Flag(metavar="FILE")] = None
    """COCO instances with TallyQA's boxes.

    Relative to the build's `folder`."""
    dataset: str | None = None
    """What to call the records' dataset [default: the file's own names]."""
    split: str | None = None
    """What to call the records' split [default: the file's own]."""
    datasets: tuple[str, ...] = ()
    """Keep the records of these datasets alone."""
    without: tuple[str, ...] = ()
    """Leave out the records of these datasets."""
    max_boxes: PositiveInt | None = None
    """Leave out records with more boxes."""
    limit: PositiveInt | None = None
    """Read only the first records, this many."""
    id_prefix: str = ""
    """Put before the ids of the records, for sources that number theirs alike."""

    @model_validator(mode="after")
    def _resized_has_pixels(self) -> Self:
        if self.box_space != "resized" and self.stated:
            raise ValueError(f"{self.stated[0]} is for box_space resized, got box_space {self.box_space}; leave it out")
        return self


class BuildSettings(Expansion, DepthFiles, TeacherSettings, ResizedPixels):
    """Everything that a build can be told.

    A YAML file of it is a recipe: the paths in it are relative to its folder.

    Example:
        >>> BuildSettings(sources=["cats.jsonl"], images="photos", output="chains", model="gpt-4.1", depth="none")
        >>> BuildSettings.from_yaml("recipe.yaml", given={"output": "chains"})
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"timeout": "timeout_s"}

    output: Annotated[Path, Flag("-o", "--output")]
    """Dataset folder to write."""
    sources: tuple[SourceSettings, ...] = ()
    """What to build from, in this order."""
    folder: Path = Path()
    """Where the paths of the sources start."""
    images: Path | None = None
    """Image folder [default: the file's]. Images stored inside a table are written there."""
    cap: PositiveInt | None = None
    """Most records of each dataset, chosen at random by the seed."""
    seed: int = 0
    """Random seed of the focus paths, and of the choice of records."""
    exclude: tuple[Path, ...] = ()
    """Images that must not be used: a folder, or a list of names or SHA-256 hashes, one a line. Repeatable."""
    depth: Annotated[str, Flag(metavar="given|none|MODEL")] = "given"
    """Depth files beside the images, RGB only, or a depth model's folder or Hugging Face name."""
    coordinates: Coordinates = "unit"
    """Boxes in chains and prompts: fractions of the image, whole numbers from 0 to 1000, or pixels of the image as the
    processor of the model to be trained resizes it."""
    processor: Annotated[str | None, Flag(metavar="FOLDER|NAME")] = None
    """For coordinates or box space resized: folder or Hugging Face name of the model to be trained, or that the boxes are
    from."""
    min_pixels: PositiveInt | None = None
    """For coordinates or box space resized: least area of an image [default: the processor's]."""
    max_pixels: PositiveInt | None = None
    """For coordinates or box space resized: greatest area of an image; for coordinates, the same as in training [default:
    the processor's]."""
    budget: NonNegativeFloat | None = None
    """Stop before the teacher has cost more, in the prices' currency."""
    engine: Literal["local", "ray"] = "local"
    """Work in this process, or in many with Ray."""
    ray_address: str | None = None
    """Address of a running Ray cluster [default: Ray on this machine alone]."""
    workers: PositiveInt | None = None
    """Number of Ray's processes [default: one a CPU]."""
    worker_gpus: NonNegativeFloat = 0.0
    """GPUs of one of Ray's processes."""
    fresh: bool = False
    """Start over instead of going on."""

    @property
    def expansion(self) -> Expansion:
        """The settings of the reverse expansion alone."""
        return Expansion(**{name: getattr(self, name) for name in Expansion.model_fields})

    @property
    def image_root(self) -> Path:
        """The folder that every image lies in: `images`, else the folder of the only source, else `folder`."""
        if self.images is not None:
            return self.images
        return (self.folder / self.sources[0].file).parent if len(self.sources) == 1 else self.folder

    def pixels_of(self, source: SourceSettings) -> ResizedPixels:
        """Which image the pixels of a source in box space resized are of: what it states, else what the build states."""
        return source if source.stated else self

    @classmethod
    def placed(cls, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """A recipe's values with their paths from its folder; those of the sources start there by `folder`."""
        home = path.parent

        def at_home(value: Any) -> Any:
            return home / value if isinstance(value, str) else value

        placed = {"images": ".", **values}
        for name in ("images", "output"):
            if name in placed:
                placed[name] = at_home(placed[name])
        exclude = placed.get("exclude")
        placed["exclude"] = list(map(at_home, exclude)) if isinstance(exclude, list) else at_home(exclude) or []
        return {"folder": home, **placed}

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.budget is not None and (self.teacher != "openai" or not (self.prompt_price or self.completion_price)):
            raise ValueError(
                "budget needs teacher openai and its prices: prompt_price and completion_price (--prompt-price, "
                "--completion-price)"
            )
        boxes_resized = any(source.box_space == "resized" for source in self.sources)
        if self.coordinates != "resized" and not boxes_resized and self.stated:
            raise ValueError(
                f"{self.stated[0]} is for coordinates resized and box_space resized, got coordinates {self.coordinates}; "
                "leave it out"
            )
        if self.coordinates == "resized" and self.processor is None and len(self.stated) < 2:
            raise ValueError(
                "coordinates resized need processor, the folder or Hugging Face name of the model to be trained, or "
                "min_pixels and max_pixels of its image processor"
            )
        if self.engine == "ray" and self.rpm is not None and self.workers is None:
            raise ValueError("rpm is shared among Ray's processes: say how many with workers")
        return self
