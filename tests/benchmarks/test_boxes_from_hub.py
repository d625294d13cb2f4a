"""RefCOCO and OVDEval by their hub names, through the real clients and a stand-in for the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .. import hub
from .test_ovdeval import write as write_ovdeval
from .test_refcoco import write_table

CODE = """
import json
from sifthinker.benchmarks import benchmark

said = {}
for name, split, images in (("refcoco", "val", None), ("refcoco+", "testA", None), ("ovdeval", "color", IMAGES)):
    found = benchmark(name)
    questions = found.read(found.hub, split, images=images, limit=None)
    image, _ = questions[0].load()
    said[name] = [len(questions), questions[0].id, [list(box) for box in questions[0].boxes], list(image.size)]
print(json.dumps(said))
"""


def test_tables_and_files_of_the_hub_are_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    images = tmp_path / "unpacked"
    images.mkdir()
    write_ovdeval(images)  # the archives of images are unpacked elsewhere
    served = {
        "lmms-lab/RefCOCO": write_table(tmp_path / "refcoco"),
        "lmms-lab/RefCOCOplus": write_table(tmp_path / "plus", "testA"),
        "omlab/OVDEval": tmp_path / "ovdeval",
    }
    (tmp_path / "ovdeval").mkdir()
    (images / "color.json").rename(tmp_path / "ovdeval" / "color.json")
    (tmp_path / "ovdeval" / "color.tar.gz").write_bytes(b"an archive that nobody asks for")
    with hub.serve(served) as (endpoint, asked):
        said = json.loads(hub.run_with(endpoint, tmp_path / "home", CODE.replace("IMAGES", repr(str(images)))))
    left = [[0.0, 0.0, 0.5, 1.0]]
    assert said == {
        "refcoco": [3, "refcoco-val-469306-0", left, [100, 80]],
        "refcoco+": [3, "refcoco+-testA-469306-0", left, [100, 80]],
        "ovdeval": [10, "ovdeval-color-0-0", left, [100, 100]],
    }
    assert not any(path.endswith("color.tar.gz") and "resolve" in path for path in asked)
