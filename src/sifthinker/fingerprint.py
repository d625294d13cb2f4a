"""Fingerprints of the data and model of a run, by content. They change with the content, not with the path."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sifthinker.embedded import RENAMED
from sifthinker.errors import ModelError, RecordError
from sifthinker.models import model_source
from sifthinker.records import examples_file

# Files of a model folder that training starts from. Cards, histories and checkpoints in the folder may change.
_MODEL_FILES = (
    "config.json", "tokenizer.json", "chat_template.jinja", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
_WHOLE = 64 << 20  # bytes; only samples of larger files are hashed
_SAMPLES = 256
_SAMPLE = 16 << 10  # bytes


def data_fingerprint(path: str | os.PathLike[str]) -> str | None:
    """Return the SHA-256 of a dataset's examples file; None if there is none.

    Images count by their names in this file. In a dataset built by sifthinker, names are hashes of the content. In a
    third-party dataset, replacing an image under its old name is not detected.

    Args:
        path: dataset folder or examples file.
    """
    try:
        with open(examples_file(path), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, RecordError):
        return None  # reading the examples reports the error


def model_fingerprint(name: str | os.PathLike[str]) -> str | None:
    """Return a hash of a local model: configuration, tokenizer, processor and weights; None for a Hub name.

    Files up to 64 MiB are hashed completely. For a larger weights file, the size and 256 blocks of 16 KiB are hashed, spread
    evenly from the first byte to the last. This is much faster than loading the model. Training changes the weights in all
    blocks (a merged LoRA on a few layers, in many). A manual edit of a single tensor may not be detected.

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
        return None  # loading the model reports the error
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
