"""Settings of a build, for recipe files, `sif data build` and Python. Imports neither numpy nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sifthinker.ask_settings import DepthFiles, Metered, ServerSettings
from sifthinker.literals import BoxForm, Coordinates, OutsideBoxes, SourceFormat, Space
from sifthinker.settings import Accepts, Flag, Settings, StrPath, default

Share = Annotated[float, Field(ge=0, le=1)]


class Expansion(Settings):
    """Settings of the reverse expansion, see `expansion.expand`.

    Example:
        >>> Expansion(decimals=2).alpha
        0.3333333333333333
    """

    alpha: Annotated[NonNegativeFloat, Flag(default="1/3")] = 1 / 3
    """Distance that each side moves, as a fraction of its distance to the border."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Random variation of `alpha`: each side uses `alpha` times a random number from 1 - jitter to 1 + jitter."""
    distractor: Share = 0.5
    """Probability that a focus path contains a distractor region."""
    decimals: Annotated[int, Field(ge=2, le=3)] = 3
    """Decimal places of the coordinates."""
    margin: Share | None = None
    """Fraction of the image by which each side moves, instead of `alpha`. The paper's release moves each side one pixel."""

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        if self.alpha * (1 + self.jitter) > 1:
            raise ValueError(
                f"alpha {self.alpha:g} with jitter {self.jitter:g} moves a side past the border: alpha * (1 + jitter) must "
                "be at most 1. Lower one of them"
            )
        return self


class TeacherSettings(Metered, ServerSettings):
    """The model that explains the focus paths, and how it is called."""

    teacher: Annotated[str, Flag(metavar="openai|local|NAME")] = "openai"
    """Teacher: an OpenAI-compatible server, a model in this process, or the name of a teacher from an installed package. The
    embedded world's own teacher is scripted."""
    base_url: str = "https://api.openai.com/v1"
    """URL of the teacher's server."""
    model: str | None = None
    """Teacher model: its name on the server, or the folder or Hugging Face name of a local model."""
    timeout_s: Annotated[PositiveFloat, Flag("--timeout")] = 120.0
    """Timeout of one request, in seconds."""
    concurrency: PositiveInt = 8
    """Number of records processed at the same time."""
    max_side: Annotated[int, Field(ge=28)] = 1024
    """Longest side of the images sent to the teacher, in pixels. Larger images are shrunk."""
    max_tokens: PositiveInt | None = None
    """Maximum length of a teacher reply, in tokens [default: the server's limit; 1024 for a local teacher]."""


class ResizedPixels(Settings):
    """How a model's processor resizes images. Coordinates in `resized` are pixels of the resized image."""

    processor: Annotated[str | None, Flag(metavar="FOLDER|NAME")] = None
    """For resized coordinates: folder or Hugging Face name of the model whose processor resizes the images."""
    min_pixels: PositiveInt | None = None
    """For resized coordinates: minimum image area, in pixels [default: the processor's]."""
    max_pixels: PositiveInt | None = None
    """For resized coordinates: maximum image area, in pixels [default: the processor's]."""

    @property
    def stated(self) -> tuple[str, ...]:
        """Names of the fields that are set."""
        return tuple(name for name in ResizedPixels.model_fields if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels must not exceed max_pixels, got {self.min_pixels} and {self.max_pixels}")
        return self


class SourceSettings(ResizedPixels):
    """One file, folder or Hub dataset of a build. `sources.read_source` explains the fields. Plain text stands for `file`.

    Example:
        >>> SourceSettings(file="cats.csv", format="table", columns={"question": "ask"}, max_boxes=3)
    """

    FROM_TEXT: ClassVar[str | None] = "file"

    file: str
    """Records file, dataset folder or table, relative to the build's `folder`; or `hf://owner/name:split`."""
    images: str = "."
    """Image folder of this source, relative to the build's `images`."""
    format: SourceFormat = "auto"
    """File format."""
    columns: Mapping[str, str] = {}
    """Column names of a table, as FIELD=COLUMN pairs: question=ask,boxes=bbox,…"""
    box_space: Space = "unit"
    """Box space of plain records and tables. For resized, the processor or the pixel bounds set the image size."""
    box_form: BoxForm = "xyxy"
    """Box format in a table: two corners, or corner and size."""
    boxes: OutsideBoxes = "clip"
    """What to do with boxes that extend past the image border."""
    instances: Annotated[str | None, Flag(metavar="FILE")] = None
    """COCO instances file with the boxes for TallyQA.

    Relative to the build's `folder`."""
    dataset: str | None = None
    """Dataset name of the records [default: the names in the file]."""
    split: str | None = None
    """Split name of the records [default: the splits in the file]."""
    datasets: tuple[str, ...] = ()
    """Keep only the records of these datasets."""
    without: tuple[str, ...] = ()
    """Leave out the records of these datasets."""
    max_boxes: PositiveInt | None = None
    """Leave out records with more boxes than this."""
    limit: PositiveInt | None = None
    """Read at most this many records, from the start of the file."""
    id_prefix: str = ""
    """Prefix of the record ids. Set it if several sources use the same ids."""

    @model_validator(mode="after")
    def _resized_has_pixels(self) -> Self:
        if self.box_space != "resized" and self.stated:
            raise ValueError(f"{self.stated[0]} needs box_space resized, got box_space {self.box_space}. Remove it")
        return self


_Source = SourceSettings | StrPath | Mapping[str, Any]
_Sources = _Source | Sequence[_Source]


class BuildSettings(Expansion, DepthFiles, TeacherSettings, ResizedPixels):
    """All settings of a build.

    A recipe is a YAML file with these settings. Paths in a recipe are relative to its folder.

    Example:
        >>> BuildSettings(sources=["cats.jsonl"], images="photos", output="chains", model="gpt-4.1", depth="none")
        >>> BuildSettings.from_yaml("recipe.yaml", given={"output": "chains"})
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"timeout": "timeout_s"}

    output: Annotated[Accepts[StrPath, Path], Flag("-o", "--output")]
    """Dataset folder to write."""
    sources: Accepts[_Sources, tuple[SourceSettings, ...]] = default(())
    """Sources to build from, in this order."""
    folder: Accepts[StrPath, Path] = default(Path())
    """Folder that the paths of the sources are relative to."""
    images: Accepts[StrPath | None, Path | None] = default(None)
    """Image folder [default: the folder of the file]. Images stored inside a table are written there."""
    cap: PositiveInt | None = None
    """Maximum number of records per dataset. The seed sets which records are chosen."""
    seed: int = 0
    """Random seed of the focus paths and of the choice of records."""
    exclude: Accepts[StrPath | Sequence[StrPath], tuple[Path, ...]] = default(())
    """Images that must not be used: a folder, or a list file with one name or SHA-256 hash per line. Repeatable."""
    depth: Annotated[str, Flag(metavar="given|none|MODEL")] = "given"
    """Depth source: depth files beside the images (given), no depth (none), or the folder or Hugging Face name of a depth
    model."""
    coordinates: Coordinates = "unit"
    """Box coordinates in chains and prompts: fractions of the image (unit), whole numbers from 0 to 1000 (per_mille), or
    pixels of the image after the processor of the model to be trained has resized it (resized)."""
    processor: Annotated[str | None, Flag(metavar="FOLDER|NAME")] = None
    """For resized coordinates or box space: folder or Hugging Face name of the model to be trained, or of the model that the
    boxes come from."""
    min_pixels: PositiveInt | None = None
    """For resized coordinates or box space: minimum image area, in pixels [default: the processor's]."""
    max_pixels: PositiveInt | None = None
    """For resized coordinates or box space: maximum image area, in pixels [default: the processor's]. For coordinates, use
    the same value in training."""
    budget: NonNegativeFloat | None = None
    """Maximum cost of the teacher, in the currency of the prices. The build stops before it exceeds this."""
    engine: Literal["local", "ray"] = "local"
    """Run in this process (local) or in several processes (ray)."""
    ray_address: str | None = None
    """Address of a running Ray cluster [default: start Ray on this machine]."""
    workers: PositiveInt | None = None
    """Number of Ray processes [default: one per CPU]."""
    worker_gpus: NonNegativeFloat = 0.0
    """Number of GPUs per Ray process. Can be a fraction."""
    fresh: bool = False
    """Start over instead of resuming."""

    @property
    def expansion(self) -> Expansion:
        """Only the settings of the reverse expansion."""
        return Expansion(**{name: getattr(self, name) for name in Expansion.model_fields})

    @property
    def image_root(self) -> Path:
        """Folder that contains every image: `images`, else the folder of the only source, else `folder`."""
        if self.images is not None:
            return self.images
        return (self.folder / self.sources[0].file).parent if len(self.sources) == 1 else self.folder

    def pixels_of(self, source: SourceSettings) -> ResizedPixels:
        """Return the resize settings of a source in box space `resized`: its own if it has any, else the build's."""
        return source if source.stated else self

    @classmethod
    def placed(cls, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return a recipe's values with paths relative to its folder. `folder` does the same for the sources' paths."""
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
                f"budget needs teacher openai and a price, got teacher {self.teacher}, prompt_price {self.prompt_price:g} "
                f"and completion_price {self.completion_price:g}. Set the prices (--prompt-price, --completion-price)"
            )
        boxes_resized = any(source.box_space == "resized" for source in self.sources)
        if self.coordinates != "resized" and not boxes_resized and self.stated:
            raise ValueError(
                f"{self.stated[0]} needs coordinates resized or a source with box_space resized, got coordinates "
                f"{self.coordinates}. Remove it"
            )
        if self.coordinates == "resized" and self.processor is None and len(self.stated) < 2:
            raise ValueError(
                "coordinates resized needs the resize settings of the model to be trained. Set processor to its folder or "
                "Hugging Face name, or set min_pixels and max_pixels to the values of its image processor"
            )
        if self.engine == "ray" and self.rpm is not None and self.workers is None:
            raise ValueError("rpm with engine ray needs workers, because the Ray processes share the limit. Set workers")
        return self
