"""Every finding once, by spoiling one thing of a dataset that is right; and the release's layout."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.depth import DepthMap
from sifthinker.engine.checks import FINDINGS, check_dataset
from sifthinker.engine.stats import Stats, reject_counts
from sifthinker.files import write_jsonl


@pytest.fixture
def dataset(chains: Path, tmp_path: Path) -> Path:
    shutil.copytree(chains, tmp_path / "d")
    return tmp_path / "d"


def rows(dataset: Path) -> list[dict]:
    return [json.loads(line) for line in (dataset / "examples.jsonl").read_text().splitlines()]


def spoil(dataset: Path, change: Callable[[dict], object]) -> None:
    found = rows(dataset)
    change(found[1])
    (dataset / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def codes(dataset: Path, **options: bool) -> list[str]:
    return [finding.code for finding in check_dataset(dataset, **options)]


def test_what_the_engine_built_is_right(dataset: Path) -> None:
    stats = Stats()
    assert list(check_dataset(dataset, stats=stats)) == []
    assert stats.examples == 18
    assert stats.sizes == {(64, 64): 18}
    assert stats.lines == 18
    assert sum(stats.boxes.values()) == 18
    assert stats.by_family == {"nearer": 6, "side": 6, "count": 6}


def last_area(row: dict, old: str, new: str) -> None:
    chain = row["messages"][1]["content"]
    head, mark, tail = chain.rpartition("<area>")
    assert old in tail
    row["messages"][1]["content"] = head + mark + tail.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda row: row.update(extra=1), "not_an_example"),
        (lambda row: row.update(messages=row["messages"][:1]), "bad_messages"),
        (lambda row: row.update(images=[]), "bad_images"),
        (lambda row: row.update(boxes=[[0, 0, 2, 1]]), "bad_box"),
        (lambda row: row.update(boxes=[]), "no_box"),
        (lambda row: row.update(id="blocks-0-0"), "duplicate_id"),
        (lambda row: row.update(depth="../../x.png"), "path"),
        (lambda row: row["images"].__setitem__(0, "images/none.png"), "missing_image"),
        # Its last area gone, the one before it is the last.
        (lambda row: last_area(row, "</area>", ""), "bad_chain boxes_disagree"),
        (lambda row: row.update(boxes=[[0.0, 0.0, 0.1, 0.1]]), "boxes_disagree"),
        (lambda row: row["boxes"][0].__setitem__(0, row["boxes"][0][0] + 0.01), "boxes_disagree"),
        (lambda row: last_area(row, '"depth":0.', '"depth":0.0'), "depth_off"),
        (lambda row: row.update(answer="never", choices=""), "answer_disagrees"),
        (lambda row: row["messages"][0].update(content="What is in <image>?"), "placeholder"),
        (lambda row: row.update(answer="left or so", choices=""), "answer_disagrees"),  # shares a word
    ],
)
def test_one_thing_wrong(dataset: Path, change: Callable[[dict], object], found: str) -> None:
    assert [row["answer"] for row in rows(dataset)[:2]] == ["red block", "left"]
    spoil(dataset, change)
    assert codes(dataset) == found.split()
    assert set(found.split()) <= set(FINDINGS)


def test_an_id_that_stands_there_three_times(dataset: Path) -> None:
    changed = rows(dataset)
    for row in changed[1:3]:
        row["id"] = changed[0]["id"]
    write_jsonl(dataset / "examples.jsonl", changed)
    found = [(finding.where, finding.message) for finding in check_dataset(dataset)]
    assert found == [(f"examples.jsonl:{line}", "the id is already used at examples.jsonl:1") for line in (2, 3)]


def test_files_that_are_wrong(dataset: Path) -> None:
    row = rows(dataset)[1]
    (dataset / row["images"][0]).write_bytes(b"no image")
    DepthMap.read(dataset / row["depth"])
    Image.new("L", (10, 10)).save(dataset / row["images"][1])
    found = codes(dataset)
    assert {"broken_image", "size_mismatch"} <= set(found)
    (dataset / row["depth"]).write_bytes(b"no depth")
    assert "bad_depth" in codes(dataset)
    assert codes(dataset, files=False) == []


def test_depth_is_read_as_training_reads_it(dataset: Path) -> None:
    """A file that could be read by other rules is a finding, for rewards read our own format alone."""
    row = rows(dataset)[1]
    depth = DepthMap.read(dataset / row["depth"])
    foreign: dict[str, Callable[[Path], object]] = {
        "colours": lambda path: depth.coloured().save(path, "PNG"),
        "grey": lambda path: Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path, "PNG"),
        "floats": lambda path: Image.fromarray(depth.values).save(path, "TIFF"),
        "array": lambda path: path.write_bytes(_npy(depth.values)),
    }
    for name, write in foreign.items():
        write(dataset / row["depth"])
        (finding,) = check_dataset(dataset)
        assert (finding.code, "encoding 'sif'" in finding.message) == ("bad_depth", True), name
    Image.fromarray((depth.values * 65535).round().astype(np.uint16)).save(dataset / row["depth"])  # of older versions
    assert codes(dataset) == []


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_images_that_trainers_would_see_otherwise(dataset: Path) -> None:
    row = rows(dataset)[1]
    path = dataset / row["images"][0]
    with Image.open(path) as image:
        picture = image.convert("RGB")
    opaque = picture.convert("RGBA")
    opaque.save(path)
    assert codes(dataset) == []
    opaque.putpixel((0, 0), (0, 0, 0, 0))
    opaque.save(path)
    assert codes(dataset) == ["not_plain_rgb"]
    picture.save(path, transparency=picture.getpixel((0, 0)))
    assert codes(dataset) == ["not_plain_rgb"]
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200).save(path)
    assert codes(dataset) == ["not_plain_rgb"]


def test_an_image_that_is_cut_off(dataset: Path) -> None:
    row = rows(dataset)[0]
    whole = Image.open(dataset / row["images"][0]).convert("RGB").resize((400, 400))
    size = whole.size
    for name in row["images"]:
        whole.save(dataset / name, "JPEG")  # Pillow goes by content
    cut = dataset / row["images"][0]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert Image.open(cut).size == size
    assert "broken_image" in codes(dataset)


def test_an_image_for_each_kind(dataset: Path) -> None:
    changed = rows(dataset)
    changed[0]["images"] = changed[0]["images"][:1]
    write_jsonl(dataset / "examples.jsonl", changed)
    assert "bad_images" in codes(dataset, files=False)


def test_a_line_that_is_not_json(dataset: Path) -> None:
    with open(dataset / "examples.jsonl", "a") as stream:
        stream.write("{\n")
    assert codes(dataset, files=False) == ["not_json"]


RELEASE = {
    "messages": [
        {"role": "user", "content": "<image><image>What is it?"},
        {
            "role": "assistant",
            "content": '<think><area>[{"bbox_2d":[0.1,0.1,0.51234,0.5],"depth":0.4}]</area><text>a</text></think>'
            "<answer>cat</answer>",
        },
    ],
    "images": ["a.png", "b.png"],
    "depth_image": "b.png",
    "normalized_solution_round": {"bbox_3d": [0.1, 0.1, 0.512, 0.5, 0.4]},
}


def said(old: str, new: str) -> dict:
    """The release's assistant turn with one thing replaced."""
    assert old in RELEASE["messages"][1]["content"]
    return {"role": "assistant", "content": RELEASE["messages"][1]["content"].replace(old, new)}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"messages": RELEASE["messages"][:1]}, ["bad_messages"]),
        ({"images": ["a.png"]}, ["bad_images"]),
        ({"images": ["a.png", "none.png"]}, ["missing_image"]),
        ({"images": ["a.png", "clear.png"]}, ["not_plain_rgb"]),
        ({"normalized_solution_round": {"bbox_3d": [[0.7, 0.7, 0.9, 0.9, 0.4]]}}, ["boxes_disagree"]),
        ({"normalized_solution_round": {"bbox_3d": [1, 2]}}, ["not_an_example"]),
        ({"messages": [RELEASE["messages"][0], {"role": "assistant", "content": "a cat"}]}, ["bad_chain"]),
        ({"messages": [RELEASE["messages"][0], said("<answer>cat</answer>", "")]}, ["bad_chain"]),
        ({"messages": [RELEASE["messages"][0], said(',"depth":0.4', "")]}, []),  # RGB only
        ({"messages": [{"role": "system", "content": "You see."}, *RELEASE["messages"]]}, []),
        ({"messages": [{"role": "user", "content": "What is it?"}, RELEASE["messages"][1]]}, []),  # images come apart
        ({"normalized_solution_round": []}, ["no_box"]),
        # The chain's 0.4 of a height of 0.45: 8/9, below the 0.9 that is asked for.
        ({"normalized_solution_round": {"bbox_3d": [0.1, 0.1, 0.512, 0.55, 0.4]}}, ["boxes_disagree"]),
        ({"normalized_solution_round": [{"bbox_3d": [[0.1, 0.1, 0.5, 0.5, 0.4]]}]}, []),
        ({"messages": [RELEASE["messages"][0], said("[0.1,0.1,0.51234,0.5]", "[100,100,512,500]")]}, ["other_space"]),
        ({"normalized_solution_round": {"bbox_3d": [100, 100, 512, 500, 0.4]}}, ["other_space"]),
        ({"normalized_solution_round": {"bbox_3d": [0.1, 0.1, 1.1, 0.5, 0.4]}}, ["bad_box"]),
        ({"normalized_solution_round": {"bbox_3d": [0.5, 0.1, 0.5, 0.5, 0.4]}}, ["bad_box"]),
    ],
)
def test_the_releases_layout(tmp_path: Path, change: dict, wanted: list[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    (tmp_path / "sif.json").write_text(json.dumps([RELEASE | change]))
    assert codes(tmp_path / "sif.json") == wanted


@pytest.mark.parametrize(("name", "content"), [("examples.jsonl", ""), ("examples.jsonl", "\n \n"), ("sif.json", "[]")])
def test_a_file_that_holds_nothing(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (finding,) = check_dataset(tmp_path / name)
    assert (finding.where, finding.code) == (name, "no_example")
    found = CliRunner().invoke(main, ["data", "check", str(tmp_path / name)])
    assert (found.exit_code, "1 × no_example: the file contains no example" in found.stderr) == (3, True)


def test_examples_with_depth_and_without(dataset: Path) -> None:
    """Training refuses them."""
    changed = rows(dataset)
    for row in changed[:5]:
        row.update(depth=None, images=row["images"][:1])
        turn = row["messages"][1]
        turn["content"] = re.sub(r',"depth":[\d.]+', "", turn["content"])
    write_jsonl(dataset / "examples.jsonl", changed)
    (finding,) = check_dataset(dataset)
    assert (finding.where, finding.code) == ("examples.jsonl", "mixed_depth")
    assert finding.message.startswith("examples have depth (13) and no depth (5)")


def test_statistics_by_hand(tmp_path: Path) -> None:
    stats = Stats()
    area = '<area>[{"bbox_2d":[0,0,1,1],"depth":%s}]</area><text>%s</text>'
    stats.add("d", "side", [[0, 0, 0.5, 0.5]], area % (0.5, "one two") + area % (0.2, "three"), (4, 3))
    stats.add("d", "", [[0, 0, 1, 1], [0, 0, 0.5, 1]], "<area>[", None)
    assert (stats.areas, stats.words, stats.depths) == ([0.25, 1, 0.5], [3, 0], [0.2])
    assert (dict(stats.boxes), dict(stats.steps)) == ({1: 1, 2: 1}, {2: 1, 0: 1})
    assert (dict(stats.by_family), dict(stats.sizes)) == ({"side": 1, "unknown": 1}, {(4, 3): 1})
    # Bins of 0.25 to 0.625 and to 1.
    assert stats.histograms(bins=2)["share of the image covered by a target box"] == [(0.4375, 2), (0.8125, 1)]
    tables = stats.tables(Counter({f"code {n}": 30 - n for n in range(22)}))
    assert tables["words per chain"][2] == ("median", "2")  # between 0 and 3
    assert tables["rejected records"][0] == ("code 0", "30 (7.0%)")  # of 30 + 29 + … + 9 = 429
    assert tables["rejected records"][-1] == ("others", "19")  # 10 + 9
    assert reject_counts(tmp_path) == Counter()


def test_the_commands(dataset: Path, tmp_path: Path) -> None:
    def sif(*words: object):
        return CliRunner().invoke(main, [str(word) for word in words])

    assert sif("data", "check", dataset).exit_code == 0
    good = (dataset / "examples.jsonl").read_text()
    spoil(dataset, lambda row: row.update(answer="never", choices="", depth=None))
    result = sif("data", "check", dataset)  # three faults of the line, and one of the file
    assert result.stderr.endswith("18 examples, 1 of them with findings (4 findings)\n"), result.output
    (dataset / "examples.jsonl").write_text(good)
    spoil(dataset, lambda row: row.update(problem="<script>alert(1)</script>", answer="never", choices=""))
    result = sif("data", "check", dataset, "-o", tmp_path / "findings.jsonl")
    assert result.exit_code == 3
    assert "examples.jsonl:2: answer_disagrees" in result.stdout
    assert "18 examples, 1 of them with findings (1 finding)\n" in result.stderr
    assert len((tmp_path / "findings.jsonl").read_text().splitlines()) == 1
    result = sif("data", "stats", dataset, "-o", tmp_path / "stats.html")
    assert result.exit_code == 0, result.output
    assert "18 examples by dataset" in result.stdout
    assert "64×64" in result.stdout
    assert "share of the image covered by a target box" in result.stdout  # the title is one line
    page = (tmp_path / "stats.html").read_text()
    assert page.count("<polyline") == 3
    assert "nearer" in page
    assert sif("data", "stats", tmp_path / "none").exit_code == 2
