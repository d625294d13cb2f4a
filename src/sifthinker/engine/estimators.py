"""Where an image's depth comes from: a file beside it, a depth model, or nowhere (RGB only)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sifthinker.ask_settings import DepthFiles
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.engine.batches import Batches
from sifthinker.engine.settings import BuildSettings
from sifthinker.errors import DepthError, ModelError, RecordError, need
from sifthinker.files import inside, sha256
from sifthinker.literals import Encoding, Near
from sifthinker.models import model_source
from sifthinker.records import Record

# Tried in this order beside `street.jpg` when a record names no depth file.
BESIDE = tuple(f".depth{suffix}" for suffix in (".png", ".npy", ".npz", ".tiff", ".tif", ".pfm"))


class DepthSource(Protocol):
    """Gives the depth of a record's image, or None for RGB-only work. `name` goes into the provenance."""

    name: str

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap | None:
        """
        Args:
            record: names the depth file, if it has one.
            root: image root.
            image: upright RGB.
        Returns:
            A map of the image's size, or None.
        Raises:
            DepthError: the depth is missing, broken, or of another size.
        """
        ...


class NoDepth:
    """RGB only: prompts, chains and rewards leave depth out."""

    name = "none"

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap | None:
        return None


class GivenDepth:
    """Depth files that exist: the one a record names, else `<stem>.depth.png` (or one of `BESIDE`) beside the image.

    Args:
        encoding: what the numbers in the files are, see `DepthMap.read`.
        near: which end of them is near.
        holes: values that stand for "no reading".
    Raises:
        DepthError: settings that no file can be read by.
    """

    def __init__(self, encoding: Encoding = "auto", near: Near | None = None, holes: Sequence[float] = ()) -> None:
        self.name = "given"
        self._reading = DepthReading(encoding, near, tuple(holes))

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap:
        return self._reading.read(self._find(record, root), image.size)

    def _find(self, record: Record, root: Path) -> Path:
        if record.depth is not None:
            try:
                return inside(root, record.depth)
            except RecordError as error:
                raise DepthError(str(error)) from None
        stem = Path(record.image).with_suffix("")
        for suffix in BESIDE:
            try:
                path = inside(root, f"{stem}{suffix}")
            except RecordError as error:
                raise DepthError(str(error)) from None
            if path.is_file():
                return path
        raise DepthError(
            f"{record.image}: no depth file: the record names none and there is no {stem.name}{BESIDE[0]} beside the "
            "image; make one, name a depth model with --depth MODEL, or work in RGB with --depth none"
        )


class ModelDepth:
    """A transformers depth-estimation model, for instance `depth-anything/Depth-Anything-V2-Small-hf`.

    Its output is taken as disparity, near high, as Depth Anything's is, and scaled to [0, 1] for each image.

    Args:
        model: folder or Hugging Face name.
        cache: folder for finished maps, keyed by model and image content.
        near: which end of the model's output is near; `low` for models that predict distance.
        device: torch device; the GPU if there is one by default.
        batch_size: images at once; 16 on a GPU and 1 on a CPU by default. Batches are always full, if need be with copies,
            so that a map does not depend on what shares its batch.
    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: str | os.PathLike[str] | None = None,
        near: Near = "high",
        device: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        try:
            model_source(model)
        except ModelError:  # told before the first record, not after minutes of asking the hub
            raise ModelError(
                f"{model}: neither a depth file nor a depth model; wanted a folder with config.json, or a name like "
                "depth-anything/Depth-Anything-V2-Small-hf"
            ) from None
        self.name = model
        self._near = near
        self._device = device
        self._batch_size = batch_size
        self._predictions = Batches(self._predict, batch_size or 16)
        self._cache = None if cache is None else Path(cache)
        self._loaded: tuple[Any, Any] | None = None

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap:
        return self.estimate(image)

    def estimate(self, image: Image.Image) -> DepthMap:
        """Depth of an upright RGB image at its own size, from the cache if it is there; threads share batches."""
        file = self._cache_file(image)
        if file is not None and file.is_file():
            return DepthMap.read(file, encoding="sif")
        found = self._predictions(image)
        if file is not None:
            found.write(file)
        return found

    def _cache_file(self, image: Image.Image) -> Path | None:
        """Where the map of an image is kept; None without a cache."""
        if self._cache is None:
            return None
        key = sha256(f"{self.name}\0{self._near}\0{image.size}\0".encode() + image.tobytes())
        return self._cache / key[:2] / f"{key[:32]}.png"

    def _predict(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        import torch

        processor, model = self._load()
        full = self._batch_size or (16 if model.device.type == "cuda" else 1)
        # Processors that keep the aspect make pictures of many sizes; one batch holds one.
        groups: dict[tuple[int, ...], list[int]] = {}
        pixels = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        for index, one in enumerate(pixels):
            groups.setdefault(tuple(one.shape), []).append(index)
        maps: dict[int, DepthMap] = {}
        for group in groups.values():
            for start in range(0, len(group), full):
                batch = group[start : start + full]
                filled = batch + batch[:1] * (full - len(batch))
                with torch.inference_mode():
                    outputs = model(pixel_values=torch.cat([pixels[index] for index in filled]).to(model.device))
                sizes = [(images[index].height, images[index].width) for index in filled]
                found = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
                for index, item in zip(batch, found, strict=False):
                    raw = item["predicted_depth"].float().cpu().numpy().astype(np.float64)
                    # Rounded, so that a map is the same whether it comes from the cache or not.
                    maps[index] = DepthMap.from_metric(-raw if self._near == "high" else raw).rounded()
        return [maps[index] for index in range(len(images))]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            need("a depth model", "torch", "transformers")
            import torch
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation

            try:
                processor = AutoImageProcessor.from_pretrained(self.name)
                model = AutoModelForDepthEstimation.from_pretrained(self.name, use_safetensors=True)
            except (OSError, ValueError, ImportError) as error:
                raise ModelError(f"{self.name}: cannot load the depth model: {error}") from None
            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._loaded = processor, model.to(device).eval()
        return self._loaded


def make_depth(settings: BuildSettings, *, cache: str | os.PathLike[str] | None = None) -> DepthSource:
    """The depth source that settings name.

    Args:
        settings: `depth`, and how depth files are read.
        cache: folder for the maps of a depth model.
    Raises:
        DepthError: settings that no depth file can be read by.
        ModelError: there is no such depth model.
    """
    if settings.depth == "none":
        return NoDepth()
    if settings.depth == "given":
        return given_depth(settings)
    return ModelDepth(settings.depth, cache=cache)


def given_depth(settings: DepthFiles) -> GivenDepth:
    """Depth files, read as settings say.

    Raises:
        DepthError: settings that no file can be read by.
    """
    return GivenDepth(settings.depth_encoding, settings.depth_near, settings.depth_hole)
