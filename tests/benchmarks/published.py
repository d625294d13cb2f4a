"""Small files in the layouts in which benchmarks are published, ten questions or so each; pictures of one colour."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CV_CARD = """---
configs:
- config_name: default
  data_files:
  - split: test
    path: "test*.parquet"
- config_name: 2D
  data_files:
  - split: test
    path: "test_2d.parquet"
---
"""
SAT_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: "SAT_train.parquet"
  - split: static
    path: "SAT_static.parquet"
  - split: val
    path: "SAT_val.parquet"
  - split: test
    path: "SAT_test.parquet"
dataset_info:
  features:
  - name: image_bytes
    list:
      dtype: image
  - name: question
    dtype: string
  - name: answers
    list:
      dtype: string
  - name: question_type
    dtype: string
  - name: correct_answer
    dtype: string
---
"""


def picture(colour: str, size: tuple[int, int] = (40, 20)) -> bytes:
    """A PNG file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "png")
    return stream.getvalue()


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], **features: Any) -> Path:
    """A Parquet file as `datasets` writes it; columns that are named have these features."""
    import datasets

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    others = {name: cells for name, cells in columns.items() if name not in features}
    kinds = {**datasets.Dataset.from_dict(others).features, **features}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features({name: kinds[name] for name in columns}))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return path


def cv_row(idx: int, task: str, source: str, answer: str, choices: Sequence[str], **changes: Any) -> dict[str, Any]:
    """A row of CV-Bench."""
    kind = "2D" if task in ("Count", "Relation") else "3D"
    row = {
        "idx": idx,
        "type": kind,
        "task": task,
        "image": {"bytes": picture("red"), "path": None},
        "question": f"Question {idx}?",
        "choices": list(choices),
        "answer": answer,
        "prompt": "…",
        "filename": f"img/{kind}/{idx}.png",
        "source": source,
    }
    return row | changes


# Four of ADE20K, two of COCO, four of Omni3D.
CV_ROWS = [
    cv_row(0, "Count", "ADE20K", "(C)", ["1", "0", "3", "2"]),
    cv_row(1, "Count", "ADE20K", "(A)", ["4", "5", "6", "7"]),
    cv_row(2, "Relation", "ADE20K", "(A)", ["left", "right"]),
    cv_row(3, "Relation", "ADE20K", "(B)", ["above", "below"]),
    cv_row(4, "Count", "COCO", "(B)", ["8", "9"]),
    cv_row(5, "Relation", "COCO", "(A)", ["left", "right"]),
    cv_row(6, "Depth", "Omni3D", "(A)", ["chair", "table"]),
    cv_row(7, "Depth", "Omni3D", "(B)", ["books", "lamp"]),
    cv_row(8, "Distance", "Omni3D", "(B)", ["door", "sofa"]),
    cv_row(9, "Distance", "Omni3D", "(A)", ["bed", "desk"]),
]


def write_cv_bench(folder: Path, rows: Sequence[Mapping[str, Any]] = CV_ROWS) -> Path:
    """CV-Bench's folder: the card and the two tables."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CV_CARD)
    for kind in ("2D", "3D"):
        chosen = [row for row in rows if row["type"] == kind]
        if chosen:
            write_table(folder / f"test_{kind.lower()}.parquet", chosen, image=datasets.Image())
    return folder


def sat_row(question: str, answers: Sequence[str], right: str, kind: str, *colours: str, **changes: Any) -> dict[str, Any]:
    """A row of SAT, with a picture for each colour."""
    row = {
        "image_bytes": [picture(colour) for colour in colours],
        "question": question,
        "answers": list(answers),
        "question_type": kind,
        "correct_answer": right,
    }
    return row | changes


SAT_ROWS = [
    *(sat_row(f"Which way did it turn, {n}?", ["left", "right"], "left", "ego_movement", "red", "blue") for n in range(6)),
    *(sat_row(f"What is nearer, {n}?", ["the chair", "the bed"], "the bed", "perspective", "green") for n in range(4)),
]


def write_sat(folder: Path, split: str = "test", rows: Sequence[Mapping[str, Any]] = SAT_ROWS) -> Path:
    """SAT's folder: the card and the table of one split, whose pictures are plain bytes."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(SAT_CARD)
    write_table(folder / f"SAT_{split}.parquet", rows, image_bytes=datasets.List(datasets.Value("binary")))
    return folder


VSTAR_OPTIONS = ["red", "blue", "green", "white"]


def write_vstar(folder: Path, *, lines: bool = False) -> Path:
    """V*Bench's folder: six questions of attributes, four of positions, 80 by 40 pixels; the first option is right."""
    written = []
    for number in range(10):
        kind = "direct_attributes" if number < 6 else "relative_position"
        options = VSTAR_OPTIONS if number < 6 else ["It is on the left.", "It is on the right."]
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        (place / f"sa_{number}.jpg").write_bytes(picture("white", (80, 40)))
        told = {
            "target_object": ["glove"],
            "bbox": [[8, 4, 16, 8]],
            "question": f"What of glove {number}?",
            "options": options,
        }
        (place / f"sa_{number}.json").write_text(json.dumps(told))
        shown = [*options[1:], options[0]]  # the right one last
        text = "\n".join(
            [told["question"], *(f"({letter}) {option}" for letter, option in zip("ABCD", shown, strict=False))]
        )
        written.append(
            {
                "image": f"{kind}/sa_{number}.jpg",
                "text": f"{text}\nAnswer with the option's letter from the given choices directly.",
                "category": kind,
                "question_id": str(number),
                "label": "ABCD"[len(options) - 1],
            }
        )
    if lines:
        (folder / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return folder


SPATIAL_ROWS = {
    "existence": [("Is there a cup behind the box?", "Yes"), ("Is there a cup before the box?", "No")],
    "counting": [("How many cups are there?", "4"), ("How many boxes are there?", "2")],
    "positional": [
        ("Which is nearer? (A) the cup (B) the box. Answer with the option's letter from the given choices directly.", "A"),
        ("Which is farther? (A) the cup (B) the box.", "B"),
    ],
    "size": [("Is the cup taller than the box?", "Yes"), ("Is the box taller than the cup?", "No")],
    "reach": [("Has the gripper touched the cup?", "No"), ("Has the gripper touched the box?", "Yes")],
}


def write_spatialbench(
    folder: Path, rows: Mapping[str, Sequence[tuple[str, str]]] = SPATIAL_ROWS, *, depth: bool = True
) -> Path:
    """SpatialBench's folder: five files of two questions, with images and depth in millimetres, 1 m at the left to 2 m."""
    for name, questions in rows.items():
        for end in ("", "_d"):
            (folder / f"{name}{end}").mkdir(parents=True, exist_ok=True)
        written = []
        for number, (question, answer) in enumerate(questions):
            (folder / name / f"{number}.jpg").write_bytes(picture("blue"))
            if depth:
                millimetres = np.tile(np.linspace(1000, 2000, 40).astype(np.uint16), (20, 1))
                Image.fromarray(millimetres).save(folder / f"{name}_d" / f"{number}.png")
            written.append({"id": number, "image": f"{name}/{number}.jpg", "question": question, "answer": answer})
        (folder / f"{name}.json").write_text(json.dumps(written))
    return folder
