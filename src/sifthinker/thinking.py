"""One question about one image file, by settings: the depth found, the model loaded and asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from sifthinker.ask_settings import DepthFiles, ThinkSettings
from sifthinker.depth import DepthMap
from sifthinker.engine.estimators import BESIDE, ModelDepth, given_depth
from sifthinker.errors import ConfigError
from sifthinker.evaluation.questions import Question
from sifthinker.images import load_image
from sifthinker.records import Record
from sifthinker.served import open_thinker
from sifthinker.thinker import Thinker, Thought


def think(
    settings: ThinkSettings, image: str | os.PathLike[str], question: str, *, thinker: Thinker | None = None
) -> Thought:
    """Ask a model about an image file.

    Args:
        settings: which model, how it answers, and where depth comes from: by default from a depth file beside the image,
            and nowhere if there is none.
        image: the file.
        question: in words.
        thinker: a loaded model, asked instead of `settings.model`; a notebook loads it once.
    Raises:
        ConfigError: settings that are none, or neither they nor `thinker` name a model.
        ImageError, DepthError, ModelError: the image, its depth or the model cannot be loaded.
    Example:
        >>> thought = think(ThinkSettings(model="runs/grpo"), "kitchen.jpg", "What is on the shelf?")  # doctest: +SKIP
        >>> thought.answer, len(thought.steps)  # doctest: +SKIP
        ('a blue mug', 3)
    """
    ThinkSettings.expect(settings)
    path = Path(image)
    picture = load_image(path)
    depth = depth_of(path, picture, settings.depth or ("given" if has_depth_beside(path) else "none"), settings)
    if thinker is None:
        if settings.model is None:
            raise ConfigError("think: no model; name one in the settings, or give a loaded thinker")
        thinker = open_thinker(settings)
    return thinker.think(picture, question, depth, protocol=settings.protocol, coordinates=settings.coordinates)


def with_depth(questions: Iterable[Question], model: str, *, cache: str | os.PathLike[str] | None = None) -> list[Question]:
    """Questions whose depth is estimated when they are asked; those that come with depth keep it.

    Args:
        questions: of a file or a benchmark.
        model: of depth estimation, a folder or Hugging Face name.
        cache: folder for the maps, so that they are estimated once; None for none.
    Raises:
        ModelError: there is no such model.
    """
    estimator = ModelDepth(model, cache=cache)
    return [replace(question, estimator=estimator) if question.depth is None else question for question in questions]


def has_depth_beside(image: Path) -> bool:
    """Whether a depth file lies beside an image, see `estimators.GivenDepth`."""
    return any(Path(f"{image.with_suffix('')}{suffix}").is_file() for suffix in BESIDE)


def depth_of(image: Path, picture: Image.Image, source: str, files: DepthFiles) -> DepthMap | None:
    """The depth of an image.

    Args:
        image: its file.
        picture: the same, loaded.
        source: `given` for the file beside it, `none`, a depth file, or a depth model's folder or Hugging Face name.
        files: how depth files are read.
    Raises:
        DepthError: the depth file is missing, cannot be read, or has another size than the image.
        ModelError: the depth model cannot be loaded.
    """
    if source == "none":
        return None
    named = Path(source) if source != "given" and Path(source).is_file() else None
    whole = ((0.0, 0.0, 1.0, 1.0),)
    depth = None if named is None else named.name
    record = Record(id="image", image=image.name, question="?", answer="?", boxes=whole, depth=depth)
    root = image.parent if named is None else named.parent
    found = given_depth(files) if source == "given" or named is not None else ModelDepth(source)
    return found.read(record, root, picture)
