"""Open what `sif data export` and `results` wrote with the tools that people look at boxes in; prints what they saw.

    python viewers.py COCO_FOLDER LABEL_STUDIO_FOLDER THOUGHT.json

THOUGHT.json holds `size` and `chain`, the text of a chain with depths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import supervision
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from pycocotools.coco import COCO

from sifthinker.chain import parse_chain
from sifthinker.results import to_detections


def of_coco(folder: Path) -> dict:
    found = COCO(str(folder / "annotations.json"))
    boxes = {}
    for image in found.loadImgs(found.getImgIds()):
        with Image.open(folder / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
        kept = found.loadAnns(found.getAnnIds(imgIds=[image["id"]], iscrowd=False))
        boxes[image["file_name"]] = [[item["category_id"], *item["bbox"]] for item in kept]
    names = [category["name"] for category in found.loadCats(found.getCatIds())]
    # supervision's own reader of COCO.
    read = supervision.DetectionDataset.from_coco(str(folder), str(folder / "annotations.json"))
    seen = {Path(path).name: found.xyxy.tolist() for path, _, found in read}
    return {"boxes": boxes, "names": names, "supervision": seen, "classes": read.classes}


def of_label_studio(folder: Path) -> dict:
    interface = LabelInterface((folder / "label_config.xml").read_text(encoding="utf-8"))
    interface.validate()
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    faults = []
    for task in tasks:
        for prediction in task["predictions"]:
            faults += interface.validate_prediction(prediction, return_errors=True)
    wrong = json.loads(json.dumps(tasks[0]["predictions"][0]))
    wrong["result"][0]["value"]["rectanglelabels"] = ["no such label"]
    # Its converter reads exports, in which a person has accepted the prediction.
    accepted = [
        {"id": number, "data": task["data"], "annotations": [{"id": number, "result": task["predictions"][0]["result"]}]}
        for number, task in enumerate(tasks, 1)
    ]
    (folder / "accepted").mkdir()
    (folder / "accepted" / "export.json").write_text(json.dumps(accepted))
    converter = Converter((folder / "label_config.xml").read_text(encoding="utf-8"), str(folder), download_resources=False)
    converter.convert_to_coco(str(folder / "accepted"), str(folder / "converted"), is_dir=True)
    converted = json.loads((folder / "converted" / "result.json").read_text())
    names = {category["id"]: category["name"] for category in converted["categories"]}
    boxes = [[names[item["category_id"]], *item["bbox"]] for item in converted["annotations"]]
    return {
        "tasks": len(tasks),
        "faults": faults,
        "caught": interface.validate_prediction(wrong, return_errors=True),
        "boxes": boxes,
    }


def of_supervision(file: Path) -> dict:
    told = json.loads(file.read_text())
    size = tuple(told["size"])
    chain = parse_chain(told["chain"])
    found = to_detections(chain, None, size=size)
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(blank.copy(), found)
    labelled = supervision.LabelAnnotator().annotate(blank.copy(), found)
    rows, columns = np.nonzero(drawn.any(axis=2))
    return {
        "xyxy": found.xyxy.tolist(),
        "dtype": str(found.xyxy.dtype),
        "class_id": found.class_id.tolist(),
        "data": {name: values.tolist() for name, values in found.data.items()},
        "last": to_detections(chain, size=size).xyxy.tolist(),
        "first": to_detections(chain, 1, size=size).xyxy.tolist(),
        "kept": found[found.data["depth"] < 0.5].data["class_name"].tolist(),
        "drawn": [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())],
        "labelled": bool(labelled.any()),
    }


if __name__ == "__main__":
    coco, label_studio, thought = map(Path, sys.argv[1:])
    seen = {"coco": of_coco(coco), "label_studio": of_label_studio(label_studio), "supervision": of_supervision(thought)}
    print("\n" + json.dumps(seen))
