"""The tools that people look at boxes in, on what we write for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.chain import parse_chain
from sifthinker.engine.exports import export
from sifthinker.records import read_examples

from .environments import Environment, prepare

pytestmark = pytest.mark.integration

CHAIN = (
    '<think><area>[{"bbox_2d":[0.1,0.2,0.5,0.8],"depth":0.25},{"bbox_2d":[0.6,0,1,0.5],"depth":0.75}]</area><text>a</text>'
    '<area>[{"bbox_2d":[0.2,0.4,0.4,0.6],"depth":0.3}]</area><text>b</text></think><answer>cat</answer>'
)


@pytest.fixture(scope="module")
def viewers() -> Environment:
    return prepare("viewers")


@pytest.fixture(scope="module")
def seen(viewers: Environment, chains: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("viewers")
    export(chains, folder / "coco", "coco")
    export(chains, folder / "label", "label-studio")
    (folder / "thought.json").write_text(json.dumps({"size": [100, 50], "chain": CHAIN}))
    return viewers.run("viewers", folder / "coco", folder / "label", folder / "thought.json")


def boxes_of(chains: Path) -> list[list[Any]]:
    """[step, x, y, width, height] in pixels of the images, 64 by 64, of every region of the dataset."""
    found = []
    for example in read_examples(chains):
        for number, step in enumerate(parse_chain(example.chain).steps, 1):
            for region in step.regions:
                x1, y1, x2, y2 = region.box
                found.append([f"step {number}", *(64 * side for side in (x1, y1, x2 - x1, y2 - y1))])
    return found


def test_coco(seen: dict[str, Any], chains: Path) -> None:
    """pycocotools and supervision read our COCO export: every box of every step, on the images"""
    found = seen["coco"]
    names = found["names"]
    assert names[:2] == ["target", "step 1"]
    assert found["classes"] == names
    read = [[names[item[0] - 1], *item[1:]] for items in found["boxes"].values() for item in items]
    steps = sorted(item for item in read if item[0] != "target")
    for ours, theirs in zip(steps, sorted(boxes_of(chains)), strict=True):
        assert ours[0] == theirs[0]
        assert ours[1:] == pytest.approx(theirs[1:], abs=0.021)
    assert sum(map(len, found["supervision"].values())) == len(read)


def test_label_studio(seen: dict[str, Any], chains: Path) -> None:
    """Label Studio's own checks accept our interface and every prediction, its converter reads the boxes back"""
    found = seen["label_studio"]
    assert found["tasks"] == len(list(read_examples(chains)))
    assert found["faults"] == []
    assert found["caught"]  # the check would have said so
    for ours, theirs in zip(sorted(found["boxes"]), sorted(boxes_of(chains)), strict=True):
        assert ours[0] == theirs[0]
        assert ours[1:] == pytest.approx(theirs[1:], abs=0.021)


def test_supervision(seen: dict[str, Any]) -> None:
    """`to_detections` gives Detections that its annotators draw and its filters take"""
    found = seen["supervision"]
    # Fractions of 100 by 50 pixels.
    assert found["xyxy"] == [pytest.approx(box) for box in ([10, 10, 50, 40], [60, 0, 100, 25], [20, 20, 40, 30])]
    assert found["dtype"] == "float32"
    assert (found["class_id"], found["data"]["step"]) == ([0, 0, 1], [1, 1, 2])
    assert found["data"]["class_name"] == ["step 1", "step 1", "step 2"]
    assert found["data"]["depth"] == [0.25, 0.75, 0.3]
    assert found["data"]["words"] == ["a", "a", "b"]
    assert found["last"] == [pytest.approx([20, 20, 40, 30])]
    assert found["first"] == found["xyxy"][:2]
    assert found["kept"] == ["step 1", "step 2"]
    assert found["drawn"][:2] == [10, 0]
    assert found["labelled"]
