"""The dataset column that shows a trainer the pictures that a model is asked about: both come from `images.load_image`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from datasets import Image
from datasets.features.features import register_feature

from sifthinker.errors import ImageError
from sifthinker.images import decode_image, load_image

_TYPE = "sifthinker.LoadedImage"


class UnreadableImageError(ImageError):
    """An `ImageError` that keeps its text on the way from a worker of a DataLoader.

    torch raises the error anew in the main process, from a text with the worker's traceback that ends with the error's own.
    """

    def __init__(self, message: str, code: str = "broken_image") -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip(), code)


@dataclass
class LoadedImage(Image):  # type: ignore[misc]
    """Files of images, decoded when a row is read, by `images.load_image`.

    `datasets` decodes otherwise: it cuts off what 8 bits do not hold, drops transparency, and does not name a broken file.
    """

    _type: str = field(default=_TYPE, init=False, repr=False)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The image of a row's file, upright and in RGB.

        Raises:
            UnreadableImageError: missing, truncated, or no image; names the file.
        """
        if not isinstance(value, dict):
            return value  # decoded already
        try:
            if value["bytes"] is None:
                return load_image(value["path"])
            return decode_image(value["path"] or "an image", value["bytes"])[0]
        except ImageError as error:
            raise UnreadableImageError(
                f"{error}. Put a whole copy in its place, or leave out the examples that show it; `sif data check` on the "
                "dataset names every such file",
                error.code,
            ) from None


# So that columns written to a file, by `Dataset.map` for one, are read back as this kind and not as `datasets.Image`.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # says that the function is experimental
    register_feature(LoadedImage, _TYPE)
