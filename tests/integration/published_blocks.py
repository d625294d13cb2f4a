"""The questions about blocks of `small_data`, in the layouts in which others publish benchmarks, ten of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker.depth import DepthMap

from ..small_data import SIDE, write_records

COUNT = 10


def _records(folder: Path, family: str) -> list[dict[str, Any]]:
    lines = write_records(folder, 3 * COUNT, seed=3).read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["family"] == family]


def write_tallyqa(folder: Path) -> Path:
    """TallyQA's folder: ten counts."""
    rows = [
        {
            "image": row["image"],
            "question": row["question"],
            "answer": int(row["answer"]),
            "question_id": number,
            "image_id": number,
            "issimple": number % 2 == 0,
            "data_source": "amt",
        }
        for number, row in enumerate(_records(folder, "count"))
    ]
    (folder / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def write_viscot(folder: Path) -> Path:
    """VisCoT's folder, in the form of its metadata: ten questions of what is nearer, as of vsr."""
    rows = [
        {
            "question": row["question"],
            "answer": row["answer"],
            "image": row["image"],
            "width": SIDE,
            "height": SIDE,
            "bboxs": [[side * SIDE for side in box] for box in row["boxes"]],
            "dataset": "vsr",
            "split": "val",
        }
        for row in _records(folder, "nearer")
    ]
    (folder / "vsr_cot_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_sat_static(folder: Path) -> Path:
    """SAT's folder: ten questions of which side something is on, with their pictures in the table."""
    import datasets

    rows = _records(folder, "side")
    table = {
        "image_bytes": [[{"bytes": (folder / row["image"]).read_bytes(), "path": None}] for row in rows],
        "question": [row["question"] for row in rows],
        "answers": [row["choices"] for row in rows],
        "question_type": ["obj_position"] * len(rows),
        "correct_answer": [row["answer"] for row in rows],
    }
    features = datasets.Features(
        {
            "image_bytes": datasets.List(datasets.Image()),
            "question": datasets.Value("string"),
            "answers": datasets.List(datasets.Value("string")),
            "question_type": datasets.Value("string"),
            "correct_answer": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "SAT_static.parquet")
    return folder


def write_spatialbench(folder: Path) -> Path:
    """SpatialBench's folder: two questions of each of the five, about sides, counts and what is nearer, with depth."""
    families = {"existence": "side", "counting": "count", "positional": "nearer", "size": "side", "reach": "nearer"}
    for start, (name, family) in zip((0, 0, 2, 4, 6), families.items(), strict=True):
        rows = []
        for row in _records(folder, family)[start : start + 2]:
            image = f"{name}/{row['id']}"
            for end in ("", "_d"):
                (folder / f"{name}{end}").mkdir(exist_ok=True)
            Image.open(folder / row["image"]).save(folder / f"{image}.png")
            metres = np.asarray(DepthMap.read(folder / row["depth"]).values) * 5 + 0.5
            Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(folder / f"{name}_d" / f"{row['id']}.png")
            rows.append({"image": f"{image}.png", "question": row["question"], "answer": row["answer"]})
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder
