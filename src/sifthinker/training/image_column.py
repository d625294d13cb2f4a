"""A dataset column that decodes images for training with `images.load_image`, as the package does for inference."""

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
    """An `ImageError` that keeps its message when it comes from a DataLoader worker.

    torch raises the error again in the main process. The new message starts with the worker's traceback and ends with the
    original message.
    """

    def __init__(self, message: str, code: str = "broken_image") -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip(), code)


@dataclass
class LoadedImage(Image):  # type: ignore[misc]
    """Image files that `images.load_image` decodes when a row is read.

    The decoder of `datasets` differs: it clips values above 8 bits, drops transparency, and does not report the name of a
    broken file.
    """

    _type: str = field(default=_TYPE, init=False, repr=False)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Return the image of a row, upright and in RGB.

        Raises:
            UnreadableImageError: the file is missing, truncated or not an image. The message has its name.
        """
        if not isinstance(value, dict):
            return value  # decoded already
        try:
            if value["bytes"] is None:
                return load_image(value["path"])
            return decode_image(value["path"] or "an image", value["bytes"])[0]
        except ImageError as error:
            raise UnreadableImageError(
                f"{error}. Replace the file with an intact copy, or remove the examples that use it. `sif data check` on "
                "the dataset lists all unreadable images",
                error.code,
            ) from None


# Columns that `Dataset.map` and others write to files must be read back as this type, not as `datasets.Image`.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # warns that the function is experimental
    register_feature(LoadedImage, _TYPE)
