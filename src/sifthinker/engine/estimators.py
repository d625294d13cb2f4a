"""Depth sources: files beside the images, a depth model, or no depth (RGB only)."""

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

# Suffixes tried in this order, beside the image, if a record has no depth file.
BESIDE = tuple(f".depth{suffix}" for suffix in (".png", ".npy", ".npz", ".tiff", ".tif", ".pfm"))


class DepthSource(Protocol):
    """Interface of a depth source: the depth of a record's image, or None for RGB-only data.

    `name` is written into each example's provenance.
    """

    name: str

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap | None:
        """Return the depth of an image.

        Args:
            record: the record; may have the path of a depth file.
            root: image root.
            image: upright RGB image.
        Returns:
            A map of the image's size, or None.
        Raises:
            DepthError: the depth is missing, broken, or differs in size from the image.
        """
        ...


class NoDepth:
    """RGB only: prompts, chains and rewards have no depth."""

    name = "none"

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap | None:
        return None


class GivenDepth:
    """Existing depth files: the file in the record, else `<stem>.depth.png` beside the image, or the same
    with `.npy`, `.npz`, `.tiff`, `.tif` or `.pfm`.

    Args:
        encoding: meaning of the numbers in the files, see `DepthMap.read`.
        near: which end of them is near.
        holes: values that stand for "no reading".
    Raises:
        DepthError: the settings contradict each other.
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
            f"{record.image}: no depth file: the record has none, and there is no {stem.name}{BESIDE[0]} beside the image. "
            "Make one, use a depth model with --depth MODEL, or use RGB only with --depth none"
        )


class ModelDepth:
    """A transformers depth-estimation model, for example `depth-anything/Depth-Anything-V2-Small-hf`.

    Its output is read as disparity (high is near), as of Depth Anything, and scaled to [0, 1] for each image.

    Args:
        model: folder or Hugging Face name.
        cache: folder for finished maps, by model and image content.
        near: which end of the model's output is near; `low` for models that predict distance.
        device: torch device; by default the GPU, if there is one.
        batch_size: images per batch; by default 16 on a GPU and 1 on a CPU. Batches are always full, if necessary with
            copies, so a map does not depend on the other images in its batch.
    Raises:
        ModelError: the model does not exist or cannot be loaded.
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
        except ModelError:  # report this before the first record, not after minutes of Hub requests
            raise ModelError(
                f"depth {model}: no such depth model. Set given, none, a folder with config.json, or a Hugging Face name "
                "such as depth-anything/Depth-Anything-V2-Small-hf"
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
        """Return the depth of an upright RGB image at its own size, from the cache if possible. Threads share batches."""
        file = self._cache_file(image)
        if file is not None and file.is_file():
            return DepthMap.read(file, encoding="sif")
        found = self._predictions(image)
        if file is not None:
            found.write(file)
        return found

    def _cache_file(self, image: Image.Image) -> Path | None:
        """Return the cache file of an image; None without a cache."""
        if self._cache is None:
            return None
        key = sha256(f"{self.name}\0{self._near}\0{image.size}\0".encode() + image.tobytes())
        return self._cache / key[:2] / f"{key[:32]}.png"

    def _predict(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        import torch

        processor, model = self._load()
        full = self._batch_size or (16 if model.device.type == "cuda" else 1)
        # Processors that keep the aspect ratio make images of many sizes. A batch has one size.
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
                    # Rounded, so a map is the same with and without the cache.
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
    """Return the depth source of some settings.

    Args:
        settings: `depth`, and the settings for reading depth files.
        cache: folder for the maps of a depth model.
    Raises:
        DepthError: the settings contradict each other.
        ModelError: the depth model does not exist.
    """
    if settings.depth == "none":
        return NoDepth()
    if settings.depth == "given":
        return given_depth(settings)
    return ModelDepth(settings.depth, cache=cache)


def given_depth(settings: DepthFiles) -> GivenDepth:
    """Return the depth source for depth files, with the settings for reading them.

    Raises:
        DepthError: the settings contradict each other.
    """
    return GivenDepth(settings.depth_encoding, settings.depth_near, settings.depth_hole)
