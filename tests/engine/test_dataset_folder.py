"""What a build writes: which files examples share, how files are named, what is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import NoDepth
from sifthinker.engine.teachers import Attempt, Task
from sifthinker.records import Record, Reject, read_examples


class Corrected:
    """A teacher that is right, the first time or where it is told to be, the second."""

    name = "corrected"

    def __init__(self, *late: str) -> None:
        self.late = late

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        if task.record.id in self.late and not earlier:
            return "no"
        return json.dumps({"thoughts": ["I look here."] * len(task.focuses), "answer": task.record.answer})


class Maps:
    """A source of depth: record id → map."""

    name = "maps"

    def __init__(self, **maps: DepthMap) -> None:
        self._maps = maps

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap:
        return self._maps[record.id]


def record(name: str, **change: object) -> Record:
    box = (0.1, 0.2, 0.5, 0.6)
    return Record(**{"id": name, "image": "cat.png", "question": "What?", "answer": "cat", "boxes": (box,), **change})


def test_depth_maps_are_shared_where_their_files_would_be_equal(photo_folder: Path, tmp_path: Path) -> None:
    grey = np.full((20, 40), 0.5)
    hole = np.ones((20, 40), dtype=bool)
    hole[0, 0] = False
    beside = np.where(hole, 0.5, 0.0)  # what a hole holds
    maps = {
        "one": DepthMap(grey),
        "two": DepthMap(grey + 1e-6),  # less than half a level of 65535: the same once written
        "hole": DepthMap(grey, hole),
        "near": DepthMap(beside),
        "other": DepthMap(grey + 1e-4),
    }
    items = [record(name) for name in maps]
    Engine(photo_folder, Maps(**maps), Corrected()).build(lambda: iter(items), tmp_path / "out")
    files = {example.id: example.depth for example in read_examples(tmp_path / "out")}
    assert files["one"] == files["two"]
    assert len(set(files.values())) == 4
    for name, file in files.items():
        found = DepthMap.read(file)
        np.testing.assert_allclose(found.values, maps[name].values, atol=1 / 65535)
        assert (found.valid is None) == (name != "hole")


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".jpg"), ("TIFF", ".png")])
def test_an_images_name_says_what_it_is(tmp_path: Path, form: str, suffix: str) -> None:
    """A file that trainers read alike is kept with the name it had; another is written anew as PNG."""
    Image.new("RGB", (40, 20), "red").save(tmp_path / "cat.jpg", form)
    engine = Engine(tmp_path, NoDepth(), Corrected())
    engine.build(lambda: iter([record("r", image="cat.jpg")]), tmp_path / "out")
    (example,) = read_examples(tmp_path / "out")
    assert Path(example.images[0]).suffix == suffix
    assert Image.open(example.images[0]).format == "PNG"


@pytest.mark.parametrize(
    ("size", "accepted"),
    [((40, 20), 1), ((80, 40), 1), ((1333, 667), 1), ((41, 20), 1), ((20, 40), 0), ((44, 20), 0), ((640, 480), 0)],
)
def test_an_image_may_be_a_scaled_copy(photo_folder: Path, tmp_path: Path, size: tuple[int, int], accepted: int) -> None:
    """Of 40 × 20, up to a pixel of rounding on the longer side."""
    engine = Engine(photo_folder, NoDepth(), Corrected())
    counts = engine.build(lambda: iter([record("r", size=size)]), tmp_path / "out")
    assert (counts.accepted, counts.rejected["size_mismatch"]) == (accepted, 1 - accepted)


def test_what_is_counted(photo_folder: Path, tmp_path: Path) -> None:
    items: list[Record | Reject] = [
        record("plain"),
        record("clipped", notes=("a box was clipped",)),
        record("late"),
        record("both", notes=("a box was clipped",)),
        record("gone", image="none.png"),
        Reject("f:9", "", "not_json", "f:9: not JSON"),
    ]
    engine = Engine(photo_folder, NoDepth(), Corrected("late", "both"))
    wanted = {"accepted": 4, "clipped": 2, "corrected": 2, "rejected": {"missing_image": 1, "not_json": 1}}
    assert engine.build(lambda: iter(items), tmp_path / "out").to_json() == wanted
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"] == wanted
    assert engine.build(lambda: iter(items), tmp_path / "out").to_json() == wanted  # read from the manifest
