"""Registry of embedded models: the models that the package contains, their folders, and the images that they know.

It is the only module outside `lab` that knows the files of the embedded world. Without these files, the registry is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The text chunk that marks a PNG file as a scene of the embedded world.
WORLD_MARK = "sifthinker-world"


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model that the package contains.

    Args:
        folder: model folder.
        about: what the model can do, in one sentence.
        mark: text chunk of the PNG files that the model knows. Its answers about other images are meaningless.
    """

    folder: Path
    about: str
    mark: str


_WEIGHTS = Path(__file__).parent / "lab" / "weights"
_MODELS = {
    "nano": EmbeddedModel(
        _WEIGHTS / "nano",
        "knows the objects, places and depths of the embedded world; answers directly; not trained on chains",
        WORLD_MARK,
    ),
}
# A folder with the name of an embedded model is written ./nano.
EMBEDDED = {name: model for name, model in _MODELS.items() if model.folder.is_dir()}

# Fingerprints of embedded models: new → old. The weights got the tensor names of published checkpoints; the numbers did not
# change. Runs and evaluations that started with the old fingerprints can therefore resume.
RENAMED = {
    "bbc751c08fb35b93f240542196590d6be8a215d4d24be6971d0eb52c40f7b77a": (
        "93d478427aa8d69a850b948808141e00c4f1865a8f8463ad9ac4c998316116cf"
    ),
}
