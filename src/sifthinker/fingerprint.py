"""What a run is made from, by content: a rebuilt dataset or a retrained start model is another one, a moved one is not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sifthinker.embedded import RENAMED
from sifthinker.errors import ModelError, RecordError
from sifthinker.models import model_source
from sifthinker.records import examples_file

# Of a model's folder: what training starts from. Cards, histories and checkpoints may change beside it.
_MODEL_FILES = (
    "config.json", "tokenizer.json", "chat_template.jinja", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
_WHOLE = 64 << 20  # bytes; of a larger file, samples are hashed
_SAMPLES = 256
_SAMPLE = 16 << 10  # bytes


def data_fingerprint(path: str | os.PathLike[str]) -> str | None:
    """SHA-256 of a dataset's examples file; None where there is none.

    The images count by their names in it. In a dataset of ours these are hashes of their content; in one that somebody else
    made, an image that was replaced under its old name is not noticed.

    Args:
        path: dataset folder or examples file.
    """
    try:
        with open(examples_file(path), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, RecordError):
        return None  # whoever reads the examples says what is wrong


def model_fingerprint(name: str | os.PathLike[str]) -> str | None:
    """A hash of a local model: its configuration, tokenizer, processor and weights; None for a name of the hub.

    Files up to 64 MiB are hashed whole. Of a larger weights file the size and 256 blocks of 16 KiB are hashed, spread evenly
    from its first byte to its last. That takes no time beside loading the model, and training moves weights in all of them
    (a merged LoRA on a few layers, in many). An edit of a single tensor by hand may go unnoticed.

    Args:
        name: folder, Hugging Face name, or name of an embedded model.
    """
    try:
        folder = Path(model_source(name))
        files = [folder / part for part in _MODEL_FILES if (folder / part).is_file()]
        files += sorted(folder.glob("*.safetensors"))
        digest = hashlib.sha256()
        for file in files:
            _add(digest, file)
    except (OSError, ModelError):
        return None  # whoever loads the model says what is wrong
    found = digest.hexdigest() if files else None
    return RENAMED.get(found, found) if found else None


def _add(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name}\0{size}\0".encode())
    with open(file, "rb") as stream:
        if size <= _WHOLE:
            while block := stream.read(1 << 20):
                digest.update(block)
            return
        for sample in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
