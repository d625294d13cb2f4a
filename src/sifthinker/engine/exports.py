"""Export a finished dataset for other trainers (TRL, LLaMA-Factory, verl, ms-swift), for the Hugging Face Hub, and for tools
that show boxes (COCO, Label Studio)."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sifthinker.engine.stats import counts_in_words
from sifthinker.errors import ConfigError, DepthError, ImageError, RecordError, need
from sifthinker.files import atomic_write, make_folder, to_json, write_jsonl
from sifthinker.literals import ExportForm
from sifthinker.records import Example, no_example, read_examples, write_choices
from sifthinker.results import example_to_json, label_studio_config, to_coco, to_label_studio

logger = logging.getLogger(__name__)

# How to open each export.
FORMS: dict[ExportForm, str] = {
    "trl": "datasets.load_from_disk(FOLDER): prompt, completion, images, and the columns of the rewards",
    "llamafactory": "dataset_dir and media_dir FOLDER, dataset sif: ShareGPT turns, described in dataset_info.json",
    "verl": "data.train_files FOLDER/train.parquet, reward.custom_reward_function.path pkg://sifthinker.scoring.verl",
    "swift": "--dataset FOLDER/train.jsonl --external_plugins examples/swift_plugin.py; images are not copied",
    "hf": "datasets.load_dataset(FOLDER): every field of an example, images in the Parquet files",
    "coco": "pycocotools.coco.COCO('FOLDER/annotations.json'): boxes of every step, one category per step; images in FOLDER",
    "label-studio": "FOLDER/label_config.xml and FOLDER/tasks.json; LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=FOLDER",
}


def export(dataset: str | os.PathLike[str], out: str | os.PathLike[str], to: ExportForm) -> int:
    """Write a dataset in another format.

    Args:
        dataset: a dataset folder or its examples file.
        out: output folder; must be new or empty.
        to: one of `FORMS`.
    Returns:
        Number of examples written.
    Raises:
        ConfigError: the folder is not empty.
        RecordError: the dataset cannot be read, is empty, or has a missing file. The folder stays empty.
    """
    written: dict[str, Callable[[str | os.PathLike[str], Path], int]] = {
        "llamafactory": _llamafactory,
        "swift": _swift,
        "coco": _coco,
        "label-studio": _label_studio,
    }
    if to not in written:
        need(f"export to {to}", "datasets", "pyarrow")
    folder = make_folder(out)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Choose a new or empty folder for the export")
    try:
        spaces: Counter[str] = Counter(example.coordinates for example in read_examples(dataset))
        if not spaces:
            raise no_example(dataset)
        if len(spaces) > 1:
            logger.warning(
                "%s: the chains use %s. Each row states its coordinates, but `sif train` does not accept a mixture, because "
                "a model learns one kind at a time",
                dataset,
                counts_in_words(spaces),
            )
        return written[to](dataset, folder) if to in written else _table(dataset, folder, to, spaces.keys() != {"unit"})
    except BaseException as error:
        for part in folder.iterdir():
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        if isinstance(error, OSError):
            raise RecordError(f"{error.filename or dataset}: {error.strerror or error}", "missing_image") from None
        raise


def _table(dataset: str | os.PathLike[str], folder: Path, to: ExportForm, other_spaces: bool) -> int:
    rows: dict[str, Callable[[Example], dict[str, Any]]] = {"trl": _trl_row, "verl": _verl_row, "hf": _hf_row}
    # Tables of chains in unit coordinates have no columns for coordinates.
    framed = to != "verl" and other_spaces

    def lines() -> Iterator[dict[str, Any]]:
        for example in read_examples(dataset):
            row = rows[to](example)
            yield {**row, "coordinates": example.coordinates, "resized": example.resized} if framed else row

    from datasets import Dataset, Features, Image, List, Value
    from datasets.exceptions import DatasetGenerationError

    text = Value("string")
    turns = List({"role": text, "content": text})
    truth = {"answer": text, "boxes": List(List(Value("float64"))), "choices": text, "depth": text}
    features = {
        "trl": Features(
            {"prompt": turns, "completion": turns, "images": List(Image()), "id": text, "problem": text, **truth}
        ),
        "verl": Features(
            {
                "data_source": text,
                "prompt": turns,
                "images": List({"bytes": Value("binary")}),
                "ability": text,
                "reward_model": {"style": text, "ground_truth": text},
                "extra_info": {"index": text, "split": text, "chain": text},
            }
        ),
        "hf": Features(
            {
                **dict.fromkeys(("id", "dataset", "split", "problem", "family", "provenance"), text),
                **truth,
                "depth": Image(),
                "images": List(Image()),
                "messages": turns,
            }
        ),
    }[to]
    if framed:
        features = Features({**features, "coordinates": text, "resized": List(Value("int64"))})
    # Rows go through Arrow files in the output folder, not through memory.
    try:
        made = Dataset.from_generator(lines, features=features, cache_dir=str(folder / ".cache"))
    except DatasetGenerationError as error:  # the error in `lines` is its cause
        raise (error.__cause__ or error) from None
    if to == "trl":
        made.save_to_disk(folder)
    elif to == "verl":
        made.to_parquet(folder / "train.parquet")
    else:
        make_folder(folder / "data")
        made.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    count = len(made)
    del made
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return count


def _truth(example: Example) -> dict[str, Any]:
    return {
        "answer": example.answer,
        "boxes": [list(box) for box in example.boxes],
        "choices": write_choices(example.choices),
        "depth": example.depth,
    }


def _trl_row(example: Example) -> dict[str, Any]:
    return {
        "prompt": [dict(example.messages[0])],
        "completion": [dict(example.messages[1])],
        "images": list(example.images),
        "id": example.id,
        "problem": example.problem,
        **_truth(example),
    }


def _verl_row(example: Example) -> dict[str, Any]:
    return {
        "data_source": f"sifthinker/{example.dataset}",
        "prompt": [{"role": "user", "content": "<image>" * len(example.images) + example.prompt}],
        "images": [{"bytes": Path(image).read_bytes()} for image in example.images],
        "ability": "visual reasoning",
        "reward_model": {"style": "rule", "ground_truth": to_json({**_truth(example), **example.frame.columns()})},
        "extra_info": {"index": example.id, "split": example.split, "chain": example.chain},
    }


def _hf_row(example: Example) -> dict[str, Any]:
    row = asdict(example)
    del row["coordinates"], row["resized"]
    # 16-bit depth goes into the table as file bytes.
    depth = None if example.depth is None else {"bytes": Path(example.depth).read_bytes(), "path": None}
    images = [{"bytes": Path(image).read_bytes(), "path": None} for image in example.images]
    return {**row, "boxes": [list(box) for box in example.boxes], "images": images, "depth": depth} | {
        "provenance": to_json(dict(example.provenance)),
        "messages": [dict(message) for message in example.messages],
        "choices": write_choices(example.choices),
    }


def _llamafactory(dataset: str | os.PathLike[str], folder: Path) -> int:
    rows = []
    taken: dict[str, Path] = {}
    for example in read_examples(dataset):
        images = [_linked(Path(image), folder, taken) for image in example.images]
        rows.append(
            {
                "conversations": [
                    {"from": "human", "value": "<image>" * len(images) + example.prompt},
                    {"from": "gpt", "value": example.chain},
                ],
                "images": images,
                **example.frame.columns(),
            }
        )
    described = {
        "sif": {
            "file_name": "sif.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
        }
    }
    atomic_write(folder / "sif.json", "[\n" + ",\n".join(map(to_json, rows)) + "\n]\n")
    atomic_write(folder / "dataset_info.json", to_json(described) + "\n")
    return len(rows)


def _swift(dataset: str | os.PathLike[str], folder: Path) -> int:
    """Write standard messages of ms-swift, with separate columns for the rewards. Images are referenced, not copied."""
    rows = []
    for example in read_examples(dataset):
        for file in (*example.images, *filter(None, [example.depth])):
            if not Path(file).is_file():
                raise RecordError(f"{file}: no such image", "missing_image")
        user = {"role": "user", "content": "<image>" * len(example.images) + example.prompt}
        messages = [user, {"role": "assistant", "content": example.chain}]
        told = {**_truth(example), **example.frame.columns()}
        rows.append({"id": example.id, "messages": messages, "images": list(example.images), **told})
    write_jsonl(folder / "train.jsonl", rows)
    return len(rows)


def _coco(dataset: str | os.PathLike[str], folder: Path) -> int:
    """Write a COCO file with one category per step, and the images."""
    found = to_coco(_thoughts(dataset, folder))
    atomic_write(folder / "annotations.json", to_json(found) + "\n")
    return len(found["thoughts"])


def _label_studio(dataset: str | os.PathLike[str], folder: Path) -> int:
    """Write Label Studio tasks with the steps as predictions, the labelling interface, and the images."""
    tasks = to_label_studio(_thoughts(dataset, folder), model="chains")
    atomic_write(folder / "tasks.json", to_json(tasks) + "\n")
    atomic_write(folder / "label_config.xml", label_studio_config(tasks))
    return len(tasks)


def _thoughts(dataset: str | os.PathLike[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the chains in the thought format of `results`. Link their images into the folder."""
    taken: dict[str, Path] = {}
    for example in read_examples(dataset):
        file = _linked(Path(example.images[0]), folder, taken)
        try:
            yield example_to_json(example, file=file)
        except (ImageError, DepthError) as error:
            raise RecordError(str(error), "missing_image") from None


def _linked(file: Path, folder: Path, taken: dict[str, Path]) -> str:
    """Link a file of the dataset into the export folder, or copy it if links are not possible. Return its relative path.

    `taken` contains the names used so far, because several folders can have files of the same name.
    """
    relative, number = f"{file.parent.name}/{file.name}", 1
    while taken.setdefault(relative, file) != file:
        number += 1
        relative = f"{file.parent.name}/{file.stem}-{number}{file.suffix}"
    target = folder / relative
    if not target.is_file():
        make_folder(target.parent)
        try:
            os.link(file, target)
        except FileNotFoundError:
            raise RecordError(f"{file}: no such image", "missing_image") from None
        except OSError:
            shutil.copyfile(file, target)
    return relative
