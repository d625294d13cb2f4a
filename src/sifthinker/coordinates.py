"""Coordinates of boxes in a model's text: fractions of the image, 0 to 1000, or pixels of the image as the model saw it.

Inside sifthinker boxes are unit (`boxes`). A `Frame` is what the numbers of one text stand for; readers and writers of
chains take one, and convert there. A `Resizer` knows how large Qwen-VL's image processors make an image, which the pixels
of Qwen2.5-VL refer to.
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

DECIMALS = 3  # of fractions


@dataclass(frozen=True, slots=True)
class Frame:
    """What the numbers of boxes in a text stand for.

    Args:
        space: `unit`, fractions of width and height with at most 3 decimals; `per_mille`, whole numbers from 0 to 1000;
            `resized`, whole pixels of the image as the model's processor resized it.
        size: (width, height) of the resized image; for `resized` alone.
    Raises:
        BoxError: an unknown space, `resized` without a size, or a size where there is none.
    Example:
        >>> frame = Frame("resized", (644, 476))
        >>> frame.write((0.25, 0, 0.5, 1)), frame.read((161, 0, 322, 476))
        (['161', '0', '322', '476'], (0.25, 0.0, 0.5, 1.0))
    """

    space: Coordinates = "unit"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.space not in get_args(Coordinates):
            raise BoxError(f"coordinates is {self.space!r}, wanted one of {', '.join(get_args(Coordinates))}")
        if self.space != "resized" and self.size is not None:
            raise BoxError(f"resized is {self.size!r}, but coordinates {self.space} refer to no image size; leave it out")
        if self.space == "resized":
            object.__setattr__(self, "size", _as_size(self.size))

    @property
    def scale(self) -> tuple[int, int]:
        """The numbers of the text that stand for the image's right and lower border."""
        return self.size or ((1000, 1000) if self.space == "per_mille" else (1, 1))

    @property
    def wanted(self) -> str:
        """What a number may be, in words."""
        if self.space == "unit":
            return f"0 to 1 with at most {DECIMALS} decimals"
        width, height = self.scale
        return "whole numbers from 0 to 1000" if width == height == 1000 else f"whole pixels up to {width} and {height}"

    def grid(self, decimals: int = DECIMALS) -> tuple[int, int]:
        """Into how many steps the text divides width and height, fractions having so many decimals. Fewer decimals make
        thousandths coarser just so; pixels stay pixels."""
        return self.size or (10**decimals, 10**decimals)

    def snap(self, box: Sequence[float]) -> Box:
        """The unit box that a text can state nearest to a unit box; a side that would vanish is kept open.

        Raises:
            BoxError: see `boxes.as_unit_boxes`.
        """
        x1, y1, x2, y2 = snap_boxes([box], self.grid())[0].tolist()
        return x1, y1, x2, y2

    def write(self, box: Sequence[float]) -> list[str]:
        """A unit box as the text's four numbers, x1 < x2 and y1 < y2.

        Raises:
            BoxError: see `boxes.as_unit_boxes`.
        """
        snapped = self.snap(box)
        if self.space == "unit":
            return [f"{side:.{DECIMALS}f}" for side in snapped]
        return [str(round(side * scale)) for side, scale in zip(snapped, self.scale * 2, strict=True)]

    def read(self, numbers: Sequence[float]) -> Box:
        """The text's four numbers as a unit box, neither checked nor rounded."""
        width, height = self.scale
        x1, y1, x2, y2 = numbers
        return x1 / width, y1 / height, x2 / width, y2 / height

    def columns(self) -> dict[str, Any]:
        """The frame as the keys `coordinates` and `resized` of a JSON object; nothing for `unit`, as `frame_of` reads it."""
        if self.space == "unit":
            return {}
        return {"coordinates": self.space, **({} if self.size is None else {"resized": list(self.size)})}


UNIT = Frame()


def check_frame(frame: object) -> None:
    """See that what should be a frame is one; the name of coordinates alone is not.

    Raises:
        BoxError: something else.
    """
    if not isinstance(frame, Frame):
        example = f"Frame({frame!r})" if frame in get_args(Coordinates)[:-1] else 'Frame("per_mille")'
        raise BoxError(f"frame is {frame!r:.100}, wanted a Frame, such as {example}")


def frame_of(coordinates: Any = None, resized: Any = None) -> Frame:
    """A frame from the columns `coordinates` and `resized` of a row; None and "" are `unit`.

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
    """The frame of a completion's own line: what its `coordinates` and `resized` say, and the rest of another's frame.

    Args:
        row: the line.
        default: of the example or question that the line is about.
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
            f"resized is {value!r:.100}; coordinates resized need the [width, height] in pixels of the image as the model's "
            "processor resized it"
        )
    return whole[0], whole[1]


# transformers' image processors that resize by area to multiples of a factor: those of Qwen2-VL and all Qwen-VL since.
_BY_AREA = re.compile(r"Qwen2(?:VL|_5_VL)ImageProcessor")
# Of `Qwen2VLImageProcessor`, where a model's file states none.
_DEFAULTS = {"patch_size": 14, "merge_size": 2, "shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
_CONFIGS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Resizer:
    """How large a Qwen-VL image processor makes an image, see `boxes.smart_resize`.

    Args:
        factor: patch size times merge size: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL.
        min_pixels: least area.
        max_pixels: greatest area.
    Raises:
        BoxError: a factor or an area that is not positive.
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
        """(width, height) of an image of that (width, height), resized.

        Raises:
            BoxError: see `boxes.smart_resize`.
        """
        return smart_resize(size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def convert(
        self, boxes: ArrayLike, *, source: Space, target: Space, size: tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """Boxes in another space, see `boxes.convert`; `resized` are pixels of the image as this makes it.

        Args:
            boxes: (N, 4) xyxy in `source`.
            source: space of `boxes`.
            target: space wanted.
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
        """The frame of texts about an image of that (width, height)."""
        return Frame("resized", self.size(size))

    @classmethod
    def of_processor(cls, processor: Any) -> Resizer | None:
        """What a loaded processor does; None where it does not resize as Qwen-VL's do."""
        found = getattr(processor, "image_processor", processor)
        if not any(_BY_AREA.match(kind.__name__) for kind in type(found).__mro__):
            return None
        size = found.size if isinstance(found.size, Mapping) else vars(found.size)
        return cls(found.patch_size * found.merge_size, size["shortest_edge"], size["longest_edge"])

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Resizer | None:
        """What an image processor does, by its file's JSON object; None where it does not resize as Qwen-VL's do."""
        if not _BY_AREA.match(str(config.get("image_processor_type", ""))):
            return None
        size = config["size"] if isinstance(config.get("size"), dict) else {}
        # Files of earlier versions state the bounds by other names, beside the size or in it.
        stated = {**_DEFAULTS, **{key: value for key, value in {**size, **config}.items() if value is not None}}
        return cls(
            int(stated["patch_size"]) * int(stated["merge_size"]),
            int(stated.get("min_pixels", stated["shortest_edge"])),
            int(stated.get("max_pixels", stated["longest_edge"])),
        )

    @classmethod
    def of_model(cls, name: str | os.PathLike[str]) -> Resizer:
        """What a model's processor does, by its files alone: neither torch nor the model is loaded.

        Args:
            name: model folder or Hugging Face name.
        Raises:
            ModelError: no such processor, or one that does not resize as Qwen-VL's do.
        """
        config = _read_config(os.fspath(name))
        try:
            found = cls.of_config(config)
        except (TypeError, ValueError, KeyError):
            raise ModelError(
                f"{name}: the size of its image processor cannot be read: {config.get('size')!r:.200}"
            ) from None
        if found is None:
            raise ModelError(
                f"{name}: its image processor, {config.get('image_processor_type')}, does not resize images by area as "
                "Qwen2.5-VL's does, so there are no coordinates resized for it; wanted unit or per_mille"
            )
        return found

    @classmethod
    def chosen(
        cls, processor: str | os.PathLike[str] | None = None, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> Resizer:
        """What a model's processor does, with other bounds where they are stated.

        Args:
            processor: model folder or Hugging Face name; Qwen2.5-VL's factor and published bounds by default.
            min_pixels: least area.
            max_pixels: greatest area.
        Raises:
            ModelError: see `of_model`.
        """
        return (cls() if processor is None else cls.of_model(processor)).within(min_pixels, max_pixels)

    def within(self, min_pixels: int | None = None, max_pixels: int | None = None) -> Resizer:
        """The same with other bounds; None keeps its own. The least area goes down with the greatest, see
        `processors.bound_area`."""
        most = self.max_pixels if max_pixels is None else max_pixels
        return replace(self, min_pixels=min(self.min_pixels if min_pixels is None else min_pixels, most), max_pixels=most)


def _read_config(name: str) -> dict[str, Any]:
    """The JSON object of a model's image processor."""
    if Path(name).is_dir():
        files = [str(Path(name) / file) for file in _CONFIGS if (Path(name) / file).is_file()]
    elif Path(name).exists() or name.startswith((".", "/", "~", "runs/")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder; wanted a folder or a name like Qwen/Qwen2.5-VL-7B-Instruct")
    else:
        files = _fetched(name)
    for file in files:
        try:
            config = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: cannot be read: {error}") from None
        found = config.get("image_processor", config) if isinstance(config, dict) else None
        if isinstance(found, dict) and "image_processor_type" in found:
            return found
    raise ModelError(f"{name}: holds no image processor; wanted one of {', '.join(_CONFIGS)}")


def _fetched(name: str) -> list[str]:
    """The files of a Hugging Face name: those in its cache, or else fetched."""
    need("reading the image processor of a Hugging Face name", "huggingface_hub")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        cached = [path for file in _CONFIGS if isinstance(path := try_to_load_from_cache(name, file), str)]
        found = list(cached)
        for file in () if cached else _CONFIGS:
            try:
                found.append(hf_hub_download(name, file))
            except LocalEntryNotFoundError:  # one of them, which says that there is no way out
                raise ModelError(f"{name}: its image processor is not in the cache and cannot be fetched") from None
            except EntryNotFoundError:
                continue
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        words = str(error).strip().splitlines()
        raise ModelError(f"{name}: cannot fetch its image processor: {words[0] if words else error!r}") from None
    return found


_LEARNT = "sif_coordinates"  # in tokenizer_config.json, which is saved with every checkpoint, adapter and merged model


def note_learnt(tokenizer: Any, coordinates: Coordinates) -> None:
    """Let a tokenizer say, wherever it is saved, in which coordinates its model learns to state boxes."""
    if coordinates == "unit":
        tokenizer.init_kwargs.pop(_LEARNT, None)
    else:
        tokenizer.init_kwargs[_LEARNT] = coordinates


def learnt_by(tokenizer: Any) -> Coordinates | None:
    """The coordinates that a model has learnt to state boxes in, by its tokenizer; None where none were noted.

    Args:
        tokenizer: loaded, or the path of a model folder, whose tokenizer_config.json is read.
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


# Family, by its type in config.json or its name → coordinates that its models were trained to write.
_FAMILIES: tuple[tuple[re.Pattern[str], Coordinates], ...] = (
    (re.compile(r"qwen[-_]?2[._-]?5[-_]?vl", re.IGNORECASE), "resized"),
    (re.compile(r"qwen[-_]?2[-_]?vl", re.IGNORECASE), "per_mille"),
    # A version, not a size: qwen3_8b is a model of text. Others of text may match, and are never shown an image.
    (re.compile(r"qwen[-_]?3[-_]?vl|qwen[-_]?3[._](?:[5-9]|\d\d)(?![\d.]*b(?:\b|_))", re.IGNORECASE), "per_mille"),
    (re.compile(r"intern[-_]?vl", re.IGNORECASE), "per_mille"),
    (re.compile(r"\bgemini\b|gemini[-_]\d", re.IGNORECASE), "per_mille"),
    (re.compile(r"glm[-_]?[4-9](?:[._]\d)?v", re.IGNORECASE), "per_mille"),
)


def default_for(model: str) -> Coordinates:
    """The coordinates that a published model writes when it is asked for boxes in its own way, without having learnt chains.

    For callers that ask in that way. Chains are asked for in the coordinates that `sif think`, `sif eval` and the training
    state, fractions unless they are told others, so these take no default from here; `sif think` names it in a hint.

    Args:
        model: the type in its config.json, or its name.
    Returns:
        `unit` for a family that is not known.
    Example:
        >>> default_for("Qwen/Qwen2.5-VL-7B-Instruct"), default_for("qwen3_vl"), default_for("llava")
        ('resized', 'per_mille', 'unit')
    Source: see docs/data.md, "Box coordinates".
    """
    return next((space for pattern, space in _FAMILIES if pattern.search(model)), "unit")
