"""Coordinates of boxes in a model's text: fractions of the image, 0 to 1000, or pixels of the resized image.

Inside sifthinker, boxes are unit (`boxes`). A `Frame` describes the coordinates of one text. Functions that read or write
chains take a frame and convert the boxes. A `Resizer` computes the size to which Qwen-VL's image processors resize an image.
The pixels in texts of Qwen2.5-VL refer to that size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sifthinker.boxes import QWEN_FACTOR, QWEN_MAX_PIXELS, QWEN_MIN_PIXELS, check_bounds, convert, smart_resize, snap_boxes
from sifthinker.errors import BoxError, ModelError, need
from sifthinker.literals import Coordinates, Space

Box = tuple[float, float, float, float]

DECIMALS = 3  # decimal places of fractions


@dataclass(frozen=True, slots=True)
class Frame:
    """Coordinates of the boxes in one text: their space, and the image size for `resized`.

    Args:
        space: `unit`, fractions of width and height with at most 3 decimals; `per_mille`, whole numbers from 0 to 1000;
            `resized`, whole pixels of the image after the model's processor has resized it.
        size: (width, height) of the resized image; only for `resized`.
    Raises:
        BoxError: an unknown space, `resized` without a size, or another space with a size.
    Example:
        >>> frame = Frame("resized", (644, 476))
        >>> frame.write((0.25, 0, 0.5, 1)), frame.read((161, 0, 322, 476))
        (['161', '0', '322', '476'], (0.25, 0.0, 0.5, 1.0))
    """

    space: Coordinates = "unit"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.space not in get_args(Coordinates):
            raise BoxError(f"coordinates must be one of {', '.join(get_args(Coordinates))}, got {self.space!r}")
        if self.space != "resized" and self.size is not None:
            raise BoxError(f"resized is {self.size!r}, but coordinates {self.space} need no image size. Remove it")
        if self.space == "resized":
            object.__setattr__(self, "size", _as_size(self.size))

    @property
    def scale(self) -> tuple[int, int]:
        """Numbers in the text that stand for the right and the lower border of the image."""
        return self.size or ((1000, 1000) if self.space == "per_mille" else (1, 1))

    @property
    def numbers(self) -> str:
        """Valid numbers, in words."""
        if self.space == "unit":
            return f"numbers from 0 to 1 with at most {DECIMALS} decimals"
        width, height = self.scale
        return "whole numbers from 0 to 1000" if width == height == 1000 else f"whole pixels up to {width} and {height}"

    def grid(self, decimals: int = DECIMALS) -> tuple[int, int]:
        """Return the number of steps into which a text divides width and height.

        Args:
            decimals: decimal places of fractions. `per_mille` uses the same grid; pixels do not depend on it.
        """
        return self.size or (10**decimals, 10**decimals)

    def snap(self, box: Sequence[float]) -> Box:
        """Return the nearest unit box that a text can state. A side that would vanish keeps one step.

        Raises:
            BoxError: see `boxes.as_unit_boxes`.
        """
        x1, y1, x2, y2 = snap_boxes([box], self.grid())[0].tolist()
        return x1, y1, x2, y2

    def write(self, box: Sequence[float]) -> list[str]:
        """Return a unit box as the four numbers of a text, x1 < x2 and y1 < y2.

        Raises:
            BoxError: see `boxes.as_unit_boxes`.
        """
        snapped = self.snap(box)
        if self.space == "unit":
            return [f"{side:.{DECIMALS}f}" for side in snapped]
        return [str(round(side * scale)) for side, scale in zip(snapped, self.scale * 2, strict=True)]

    def read(self, numbers: Sequence[float]) -> Box:
        """Return the four numbers of a text as a unit box, neither checked nor rounded."""
        width, height = self.scale
        x1, y1, x2, y2 = numbers
        return x1 / width, y1 / height, x2 / width, y2 / height

    def columns(self) -> dict[str, Any]:
        """Return the keys `coordinates` and `resized` of a JSON object, as `frame_of` reads them; empty for `unit`."""
        if self.space == "unit":
            return {}
        return {"coordinates": self.space, **({} if self.size is None else {"resized": list(self.size)})}


UNIT = Frame()


def check_frame(frame: object) -> None:
    """Check that a value is a `Frame`. The name of the coordinates is not enough.

    Raises:
        BoxError: it is something else.
    """
    if not isinstance(frame, Frame):
        example = f"Frame({frame!r})" if frame in get_args(Coordinates)[:-1] else 'Frame("per_mille")'
        raise BoxError(f"frame must be a Frame, such as {example}, got {frame!r:.100}")


def frame_of(coordinates: Any = None, resized: Any = None) -> Frame:
    """Return the frame for the columns `coordinates` and `resized` of a row. None and "" mean `unit`.

    Raises:
        BoxError: see `Frame`.
    Example:
        >>> frame_of("resized", [644, 476]).size
        (644, 476)
    """
    if coordinates in (None, "", "unit") and resized is None:
        return UNIT
    return Frame(coordinates or "unit", resized)


def frame_stated(row: Mapping[str, Any], default: Frame) -> Frame:
    """Return the frame of a completion's line: its `coordinates` and `resized`, else those of the default frame.

    Args:
        row: the line.
        default: frame of the example or question that the line belongs to.
    Raises:
        BoxError: see `Frame`.
    Example:
        >>> frame_stated({"coordinates": "per_mille"}, UNIT).space, frame_stated({}, Frame("per_mille")).space
        ('per_mille', 'per_mille')
    """
    coordinates, resized = row.get("coordinates") or None, row.get("resized")
    if resized is None and coordinates in (None, default.space):
        return default
    return frame_of(coordinates or default.space, resized)


def _as_size(value: Any) -> tuple[int, int]:
    found = value.tolist() if hasattr(value, "tolist") else value
    sides = list(found) if isinstance(found, list | tuple) else []
    numbers = [
        side for side in sides if isinstance(side, int | float | np.integer | np.floating) and not isinstance(side, bool)
    ]
    whole = [int(side) for side in numbers if side == side // 1]
    if len(sides) != 2 or len(whole) != 2 or min(whole) <= 0:
        raise BoxError(
            f"resized must be the [width, height] in pixels of the image after the model's processor has resized it, got "
            f"{value!r:.100}"
        )
    return whole[0], whole[1]


# Image processors in transformers that resize by area to multiples of a factor: Qwen2-VL and all later Qwen-VL models.
_BY_AREA = re.compile(r"Qwen2(?:VL|_5_VL)ImageProcessor")
# Defaults of `Qwen2VLImageProcessor`, if the model's file has no value.
_DEFAULTS = {"patch_size": 14, "merge_size": 2, "shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
_CONFIGS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Resizer:
    """Computes the size to which a Qwen-VL image processor resizes an image, see `boxes.smart_resize`.

    Args:
        factor: patch size times merge size: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL.
        min_pixels: minimum area.
        max_pixels: maximum area.
    Raises:
        BoxError: the factor or an area is not positive.
    Example:
        >>> Resizer(max_pixels=262144).frame((4000, 3000))
        Frame(space='resized', size=(588, 420))
    """

    factor: int = QWEN_FACTOR
    min_pixels: int = QWEN_MIN_PIXELS
    max_pixels: int = QWEN_MAX_PIXELS

    def __post_init__(self) -> None:
        check_bounds(self.factor, self.min_pixels, self.max_pixels)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) of the resized image for an image of this (width, height).

        Raises:
            BoxError: see `boxes.smart_resize`.
        """
        return smart_resize(size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def convert(
        self, boxes: ArrayLike, *, source: Space, target: Space, size: tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """Convert boxes to another space, see `boxes.convert`. `resized` are pixels of the image resized by this resizer.

        Args:
            boxes: (N, 4) xyxy in `source`.
            source: space of `boxes`.
            target: space of the result.
            size: (width, height) of the original image.
        Returns:
            (N, 4) float64 in `target`.
        Raises:
            BoxError: see `boxes.convert`.
        Example:
            >>> resizer = Resizer(max_pixels=262144)
            >>> resizer.convert([[294, 210, 588, 420]], source="resized", target="unit", size=(640, 480))
            array([[0.5, 0.5, 1. , 1. ]])
        """
        bounds = {"factor": self.factor, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return convert(boxes, source=source, target=target, size=size, **bounds)

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return the frame of texts about an image of this (width, height)."""
        return Frame("resized", self.size(size))

    @classmethod
    def of_processor(cls, processor: Any) -> Resizer | None:
        """Return the resizer of a loaded processor; None if it does not resize like a Qwen-VL processor."""
        found = getattr(processor, "image_processor", processor)
        if not any(_BY_AREA.match(kind.__name__) for kind in type(found).__mro__):
            return None
        size = found.size if isinstance(found.size, Mapping) else vars(found.size)
        return cls(found.patch_size * found.merge_size, size["shortest_edge"], size["longest_edge"])

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Resizer | None:
        """Return the resizer for a processor file's JSON object; None if it does not resize like a Qwen-VL processor."""
        if not _BY_AREA.match(str(config.get("image_processor_type", ""))):
            return None
        size = config["size"] if isinstance(config.get("size"), dict) else {}
        # Older files use other names for the bounds, next to the size or inside it.
        stated = {**_DEFAULTS, **{key: value for key, value in {**size, **config}.items() if value is not None}}
        return cls(
            int(stated["patch_size"]) * int(stated["merge_size"]),
            int(stated.get("min_pixels", stated["shortest_edge"])),
            int(stated.get("max_pixels", stated["longest_edge"])),
        )

    @classmethod
    def of_model(cls, name: str | os.PathLike[str]) -> Resizer:
        """Return the resizer of a model. Reads only its processor files and loads neither torch nor the model.

        Args:
            name: model folder or Hugging Face name.
        Raises:
            ModelError: there is no processor, or it does not resize like a Qwen-VL processor.
        """
        config = _read_config(os.fspath(name))
        try:
            found = cls.of_config(config)
        except (TypeError, ValueError, KeyError):
            raise ModelError(
                f"{name}: cannot read the size in its image processor file, got {config.get('size')!r:.200}"
            ) from None
        if found is None:
            raise ModelError(
                f"{name}: its image processor, {config.get('image_processor_type')}, does not resize images by area like "
                "that of Qwen2.5-VL, so coordinates resized cannot be used. Use unit or per_mille"
            )
        return found

    @classmethod
    def chosen(
        cls, processor: str | os.PathLike[str] | None = None, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> Resizer:
        """Return the resizer of a model's processor, with other bounds if given.

        Args:
            processor: model folder or Hugging Face name. The default is Qwen2.5-VL's factor with its published bounds.
            min_pixels: minimum area.
            max_pixels: maximum area.
        Raises:
            ModelError: see `of_model`.
        """
        return (cls() if processor is None else cls.of_model(processor)).within(min_pixels, max_pixels)

    def within(self, min_pixels: int | None = None, max_pixels: int | None = None) -> Resizer:
        """Return a resizer with other bounds; None keeps a bound.

        The minimum area never exceeds the maximum area, see `processors.bound_area`.
        """
        most = self.max_pixels if max_pixels is None else max_pixels
        return replace(self, min_pixels=min(self.min_pixels if min_pixels is None else min_pixels, most), max_pixels=most)


def _read_config(name: str) -> dict[str, Any]:
    """Return the JSON object of a model's image processor."""
    if Path(name).is_dir():
        files = [str(Path(name) / file) for file in _CONFIGS if (Path(name) / file).is_file()]
    elif Path(name).exists() or name.startswith((".", "/", "~", "runs/")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder. Expected a folder or a name such as Qwen/Qwen2.5-VL-7B-Instruct")
    else:
        files = _fetched(name)
    for file in files:
        try:
            config = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: cannot read: {error}") from None
        found = config.get("image_processor", config) if isinstance(config, dict) else None
        if isinstance(found, dict) and "image_processor_type" in found:
            return found
    raise ModelError(f"{name}: contains no image processor, expected one in {' or '.join(_CONFIGS)}")


def _fetched(name: str) -> list[str]:
    """Return the processor files of a Hugging Face model, from the cache or downloaded."""
    need("reading the image processor of a Hugging Face name", "huggingface_hub")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        cached = [path for file in _CONFIGS if isinstance(path := try_to_load_from_cache(name, file), str)]
        found = list(cached)
        for file in () if cached else _CONFIGS:
            try:
                found.append(hf_hub_download(name, file))
            except LocalEntryNotFoundError:  # a subclass of EntryNotFoundError: the Hub cannot be reached
                raise ModelError(
                    f"{name}: its image processor is not in the local cache, and the Hugging Face Hub cannot be reached"
                ) from None
            except EntryNotFoundError:
                continue
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        words = str(error).strip().splitlines()
        raise ModelError(f"{name}: cannot download its image processor: {words[0] if words else error!r}") from None
    return found


_LEARNT = "sif_coordinates"  # in tokenizer_config.json, which is saved with every checkpoint, adapter and merged model


def record_coordinates(tokenizer: Any, coordinates: Coordinates) -> None:
    """Store in a tokenizer the coordinates that its model learns for boxes. Every saved copy then contains them."""
    if coordinates == "unit":
        tokenizer.init_kwargs.pop(_LEARNT, None)
    else:
        tokenizer.init_kwargs[_LEARNT] = coordinates


def recorded_coordinates(tokenizer: Any) -> Coordinates | None:
    """Return the coordinates that a model has learned for boxes, from its tokenizer; None if it stores none.

    Args:
        tokenizer: a loaded tokenizer, or the path of a model folder with a tokenizer_config.json.
    """
    if isinstance(tokenizer, str | os.PathLike):
        try:
            noted = json.loads((Path(tokenizer) / "tokenizer_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    else:
        noted = tokenizer.init_kwargs
    found = noted.get(_LEARNT) if isinstance(noted, Mapping) else None
    return found if found in get_args(Coordinates) else None


# Model family (model type in config.json, or name) → coordinates that its models were trained to write.
_FAMILIES: tuple[tuple[re.Pattern[str], Coordinates], ...] = (
    (re.compile(r"qwen[-_]?2[._-]?5[-_]?vl", re.IGNORECASE), "resized"),
    (re.compile(r"qwen[-_]?2[-_]?vl", re.IGNORECASE), "per_mille"),
    # Match versions, not sizes: qwen3_8b is a text model. Other text models may match, but they never see an image.
    (re.compile(r"qwen[-_]?3[-_]?vl|qwen[-_]?3[._](?:[5-9]|\d\d)(?![\d.]*b(?:\b|_))", re.IGNORECASE), "per_mille"),
    (re.compile(r"intern[-_]?vl", re.IGNORECASE), "per_mille"),
    (re.compile(r"\bgemini\b|gemini[-_]\d", re.IGNORECASE), "per_mille"),
    (re.compile(r"glm[-_]?[4-9](?:[._]\d)?v", re.IGNORECASE), "per_mille"),
)


def default_for(model: str) -> Coordinates:
    """Return the coordinates that a published model uses in its own box format, before it has learned chains.

    For callers that use the model's own box format. `sif think`, `sif eval` and training ask for chains in the coordinates
    of their settings, which are fractions by default. They do not use this default; `sif think` only mentions it in a hint.

    Args:
        model: the model type in its config.json, or its name.
    Returns:
        The coordinates; `unit` for an unknown family.
    Example:
        >>> default_for("Qwen/Qwen2.5-VL-7B-Instruct"), default_for("qwen3_vl"), default_for("llava")
        ('resized', 'per_mille', 'unit')
    Source: docs/reference/files.md, "Box coordinates".
    """
    return next((space for pattern, space in _FAMILIES if pattern.search(model)), "unit")
