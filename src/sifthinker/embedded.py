"""The registry of embedded models: which models the package carries, where they lie, and which pictures they know.

The only module of the product that knows about the files of the embedded world; without them the registry is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The text chunk that marks a PNG file as a scene of the embedded world.
WORLD_MARK = "sifthinker-world"


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model that the package carries.

    Args:
        folder: its model folder.
        about: what it can do, in one sentence.
        mark: text chunk of the PNG files that it knows; what it says about other pictures means nothing.
    """

    folder: Path
    about: str
    mark: str


_WEIGHTS = Path(__file__).parent / "lab" / "weights"
_MODELS = {
    "nano": EmbeddedModel(
        _WEIGHTS / "nano",
        "knows the embedded world's objects, places and depths, and answers directly; has seen no chain",
        WORLD_MARK,
    ),
}
# A folder of such a name is written ./nano.
EMBEDDED = {name: model for name, model in _MODELS.items() if model.folder.is_dir()}

# Fingerprints of embedded models: now → before their weights got the names of published checkpoints. The numbers are the
# same, so runs and evaluations that began with these go on.
RENAMED = {
    "bbc751c08fb35b93f240542196590d6be8a215d4d24be6971d0eb52c40f7b77a": (
        "93d478427aa8d69a850b948808141e00c4f1865a8f8463ad9ac4c998316116cf"
    ),
}
