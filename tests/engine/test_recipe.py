"""Recipes: several sources, caps, filters, duplicates, images kept out; and as the command builds from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.depth import DepthMap
from sifthinker.engine.recipe import Left, Recipe, fingerprint, read_recipe
from sifthinker.engine.settings import BuildSettings, SourceSettings
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import sha256, write_jsonl
from sifthinker.records import Record, Reject, read_examples

from ..small_data import write_records
from ..stand_in import explain, serve


def row(number: int, **change: object) -> dict:
    return {
        "id": f"r{number}", "image": f"{number}.png", "question": f"What is {number}?", "answer": "a",
        "boxes": [[0.1, 0.1, 0.5, 0.5]], "dataset": "d", **change,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("one", "two"):
        (tmp_path / "images" / part).mkdir(parents=True)
        for number in range(10):
            colour = (number, 0 if part == "one" else 9, 0)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / part / f"{number}.png")
    write_jsonl(tmp_path / "one.jsonl", [row(n) for n in range(10)])
    write_jsonl(tmp_path / "two.jsonl", [row(n, id=f"s{n}", dataset="e") for n in range(10)])
    return tmp_path


def source(file: str, **change: Any) -> SourceSettings:
    return SourceSettings(file=file, **change)


def recipe(folder: Path, *sources: SourceSettings, **change: Any) -> Recipe:
    both = sources or (source("one.jsonl", images="one"), source("two.jsonl", images="two"))
    return Recipe(BuildSettings(sources=both, folder=folder, images=folder / "images", output=folder / "out", **change))


def ids(items: object) -> list[str]:
    return [item.id if isinstance(item, Record) else f"{item.code} {item.id}" for item in items]


def test_sources_follow_each_other_with_their_images(folder: Path) -> None:
    found = list(read_recipe(recipe(folder)))
    assert ids(found) == [f"r{n}" for n in range(10)] + [f"s{n}" for n in range(10)]
    assert (found[0].image, found[10].image) == ("one/0.png", "two/0.png")


def test_a_cap_holds_for_each_dataset_and_goes_by_the_seed(folder: Path) -> None:
    left = Left()
    first = list(read_recipe(recipe(folder, cap=4), left=left))
    assert Counter(record.dataset for record in first) == {"d": 4, "e": 4}
    assert left.over_cap == {"d": 6, "e": 6}
    assert ids(first) == sorted(ids(first))  # in the order of the sources
    assert ids(read_recipe(recipe(folder, cap=4))) == ids(first)
    others = [ids(read_recipe(recipe(folder, cap=4, seed=seed))) for seed in range(1, 5)]
    assert any(other != ids(first) for other in others)
    assert len(list(read_recipe(recipe(folder, cap=50)))) == 20


@pytest.mark.parametrize(
    ("first", "cap", "expected"),
    [
        ({}, None, 21),
        ({"limit": 3}, None, 13),
        ({"limit": 99}, None, 21),
        ({"without": ["x"]}, None, None),  # how many pass is not known before they have been read
        ({"datasets": ["d"]}, None, None),
        ({"max_boxes": 5}, None, None),
        ({}, 4, 9),  # four of each dataset, and the line that is no JSON
        ({"without": ["d"]}, 4, 5),
    ],
)
def test_how_many_are_expected(folder: Path, first: dict, cap: int | None, expected: int | None) -> None:
    with open(folder / "one.jsonl", "a") as stream:
        stream.write("rubbish\n")
    left = Left()
    made = recipe(folder, source("one.jsonl", images="one", **first), source("two.jsonl", images="two"), cap=cap)
    found = list(read_recipe(made, left=left))
    assert left.expected == expected
    assert expected in (None, len(found))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.rstrip("\n"), 10),  # the last line has no end
        (lambda text: text.replace("\n", "\r\n\n  \n"), 10),  # blank lines
        (lambda text: "\ufeff" + text, 10),
        (lambda text: "", 0),
        (lambda text: json.dumps([json.loads(line) for line in text.splitlines()], indent=1), None),  # a list
        (lambda text: json.dumps(json.loads(text.splitlines()[0]), indent=1), None),  # an object that spans lines
    ],
)
def test_as_many_are_expected_as_come_however_lines_end(
    folder: Path, change: Callable[[str], str], expected: int | None
) -> None:
    file, left = folder / "one.jsonl", Left()
    file.write_bytes(change(file.read_text()).encode())
    found = list(read_recipe(recipe(folder, source("one.jsonl", images="one")), left=left))
    assert left.expected == expected
    assert expected in (None, len(found))


def test_filters_are_counted(folder: Path) -> None:
    write_jsonl(folder / "mixed.jsonl", [row(0), row(1, dataset="text"), row(2, boxes=[[0, 0, 1, 1], [0, 0, 0.5, 0.5]])])
    left = Left()
    mixed = source("mixed.jsonl", images="one", without=["text"], max_boxes=1)
    assert ids(read_recipe(recipe(folder, mixed), left=left)) == ["r0"]
    assert left.filtered == {"text": 1, "d": 1}
    assert ids(read_recipe(recipe(folder, source("mixed.jsonl", images="one", datasets=["text"])))) == ["r1"]
    named = list(read_recipe(recipe(folder, source("mixed.jsonl", images="one", dataset="mine", split="val", limit=2))))
    assert [(record.dataset, record.split) for record in named] == [("mine", "val")] * 2


def test_sources_that_number_alike(folder: Path) -> None:
    write_jsonl(folder / "more.jsonl", [row(n) for n in range(5, 8)])
    more = source("more.jsonl", images="two")
    assert ids(read_recipe(recipe(folder, source("one.jsonl", images="one"), more)))[10:] == [
        f"duplicate_id r{n}" for n in range(5, 8)
    ]
    apart = recipe(folder, source("one.jsonl", images="one"), more.replace(id_prefix="b-"))
    assert ids(read_recipe(apart))[10:] == [f"b-r{n}" for n in range(5, 8)]


def test_files_of_one_name_stay_apart(folder: Path) -> None:
    """A place has the path that the recipe states. One file of that name needs no folder."""
    (folder / "sub").mkdir()
    write_jsonl(folder / "sub" / "one.jsonl", [row(0, id="r0"), row(1, id="new", boxes=[[0, 0, 50, 200]])])
    first = source("one.jsonl", images="one")
    for other in ("sub/one.jsonl", str(folder / "sub" / "one.jsonl")):
        found = list(read_recipe(recipe(folder, first, source(other, images="two"))))
        *records, twin, past = found
        assert {item.source for item in records} == {f"one.jsonl:{n}" for n in range(1, 11)}
        assert (twin.source, "already used at one.jsonl:1." in twin.reason) == (f"{other}:1", True)
        assert (past.source, past.code) == (f"{other}:2", "bad_box")
    (alone,) = {item.source.partition(":")[0] for item in read_recipe(recipe(folder, source(other, images="two")))}
    assert alone == "one.jsonl"
    write_jsonl(folder / "sub" / "one.jsonl", [row(3, id="past", boxes=[[0, 0, 0.5, 1.05]])])
    *_, past = read_recipe(recipe(folder, first, source("sub/one.jsonl", images="two")))
    assert past.notes == ("sub/one.jsonl:1: box [0.0, 0.0, 0.5, 1.05] ends past the image (0 to 1); clipped",)


def test_the_same_content_twice_is_a_reject(folder: Path) -> None:
    (folder / "images" / "one" / "copy.png").write_bytes((folder / "images" / "one" / "0.png").read_bytes())
    rows = [
        row(0),
        row(0, id="copy", image="copy.png", question="what  IS 0?"),
        row(0, id="other-image", image="1.png"),
        row(0, id="other-box", boxes=[[0.1, 0.1, 0.6, 0.5]]),
        row(0, id="gone", image="none.png"),
        row(1, id="two-boxes", boxes=[[0, 0, 0.1, 0.1], [0.5, 0.5, 1, 1]]),
        row(1, id="the-other-way-round", boxes=[[0.5, 0.5, 1, 1], [0, 0, 0.1, 0.1]]),
    ]
    write_jsonl(folder / "twice.jsonl", rows)
    found = list(read_recipe(recipe(folder, source("twice.jsonl", images="one"))))
    names = ["r0", "duplicate copy", "other-image", "other-box", "gone", "two-boxes", "duplicate the-other-way-round"]
    assert ids(found) == names
    assert isinstance(found[1], Reject)
    assert "as twice.jsonl:1" in found[1].reason
    again = list(read_recipe(recipe(folder, source("one.jsonl", images="one"), source("one.jsonl", images="one"))))
    assert ids(again)[10:] == [f"duplicate_id r{n}" for n in range(10)]


def test_excluded_images_by_name(folder: Path) -> None:
    (folder / "list.txt").write_text("# benchmark\none/3.png\n\n4.png\n")
    left = Left()
    made = recipe(folder, exclude=[folder / "list.txt"])
    found = ids(read_recipe(made, left=left))
    assert [item for item in found if item.startswith("excluded")] == ["excluded r3", "excluded r4", "excluded s4"]
    assert left.whole
    assert made.excluded.warnings([]) == []


def test_excluded_images_by_the_path_that_the_source_wrote(folder: Path) -> None:
    (folder / "images" / "one" / "val").mkdir()
    write_jsonl(folder / "val.jsonl", [row(n, image=f"val/{n}.png") for n in range(3)])
    (folder / "list.txt").write_text("elsewhere/val/1.png\r\none\\val\\2.png\r\n", newline="")
    made = recipe(folder, source("val.jsonl", images="one"), exclude=[folder / "list.txt"])
    assert ids(read_recipe(made)) == ["r0", "excluded r1", "excluded r2"]


def test_a_line_counts_whose_image_is_left_out_for_another_reason(folder: Path) -> None:
    (folder / "list.txt").write_text("".join(f"{part}/{n}.png\n" for part in ("one", "two") for n in range(10)))
    made = recipe(folder, exclude=[folder / "list.txt"], cap=1)
    assert len(list(read_recipe(made))) == 2
    assert made.excluded.warnings([]) == []


def test_every_file_counts_in_the_fingerprint(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        write_jsonl(folder / name / "d.jsonl", [row(0)])
    both = recipe(folder, source(str(folder / "a" / "d.jsonl")), source(str(folder / "b" / "d.jsonl")))
    before = fingerprint(both)
    assert len(before["inputs"]) == 2
    assert str(folder) not in str(before["inputs"])
    for name in ("a", "b"):
        write_jsonl(folder / name / "d.jsonl", [row(1)])
        assert fingerprint(both) != before
        before = fingerprint(both)
    (folder / "list.txt").write_text("9.png\n")
    before = fingerprint(recipe(folder, exclude=[folder / "list.txt"]))["exclude"]
    assert before == sha256(b"9.png")
    for text in ("/elsewhere/9.png", f"{folder}/images/9.png", "9.png/"):
        (folder / "list.txt").write_text(text)
        assert fingerprint(recipe(folder, exclude=[folder / "list.txt"]))["exclude"] not in (before, None)
    with pytest.raises(RecordError, match=r"none\.jsonl: cannot read"):
        fingerprint(recipe(folder, source("none.jsonl")))


def sif(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


class TestCommand:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        """Of a teacher that explains anything."""
        with serve(explain) as (url, _):
            yield url

    def blocks(self, tmp_path: Path, url: str, **recipe: object) -> Path:
        for seed in (0, 1):
            write_records(tmp_path / "w" / str(seed), 9, seed=seed)
        values = {
            "images": "w",
            "base_url": url,
            "model": "vlm",
            "decimals": 2,
            "sources": [
                {"file": "w/0/records.jsonl", "images": "0"},
                {"file": "w/1/records.jsonl", "images": "1", "dataset": "second"},
            ],
            **recipe,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    def test_it_builds_from_a_recipe_and_refuses_a_changed_one(self, tmp_path: Path, url: str) -> None:
        path = self.blocks(tmp_path, url, cap=5)
        result = sif("data", "build", path, "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "second: 4 over the cap" in result.stderr
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["counts"]["accepted"] == 10
        assert manifest["cap"] == 5
        assert set(manifest["inputs"]) == {"w/0/records.jsonl", "w/1/records.jsonl"}  # two files of one name
        assert sif("data", "build", path, "-o", tmp_path / "again").exit_code == 0
        for name in ("examples.jsonl", "rejects.jsonl", "manifest.json"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        result = sif("data", "build", path, "--cap", 6, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert "cap was 5, now 6" in result.stderr
        assert "--fresh" in result.stderr

    def test_images_of_a_benchmark_stay_out(self, tmp_path: Path, url: str) -> None:
        path = self.blocks(tmp_path, url)
        (tmp_path / "bench").mkdir()
        first = sorted((tmp_path / "w" / "0" / "images").glob("*[0-9].png"))[0]
        (tmp_path / "bench" / "other-name.png").write_bytes(first.read_bytes())
        result = sif("data", "build", path, "-o", tmp_path / "out", "--exclude", tmp_path / "bench", "--allow-rejects")
        assert result.exit_code == 0, result.output
        (reject,) = (json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
        assert reject["code"] == "excluded"

    def test_options_come_before_the_recipe(self, tmp_path: Path, url: str) -> None:
        path = self.blocks(tmp_path, url, depth="none", distractor=0)
        result = sif("data", "build", path, "-o", tmp_path / "out", "--distractor", 1)
        assert result.exit_code == 0, result.output
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert (manifest["depth"], manifest["expansion"]["distractor"]) == ("none", 1)
        result = sif("data", "build", path, "-o", tmp_path / "x", "--box-form", "xywh")
        assert "--box-form applies only to a single file" in result.stderr

    @pytest.mark.parametrize("hole", [10000, [10000, -1]])
    def test_how_depth_files_are_read(self, tmp_path: Path, url: str, hole: object) -> None:
        path = self.blocks(tmp_path, url, depth_encoding="metres", depth_hole=hole)
        for file in (tmp_path / "w").rglob("*.depth.png"):
            metres = (DepthMap.read(file).values * 8).astype(np.float32)
            metres[0, 0] = 10000
            Image.fromarray(metres).save(file, "TIFF")
        result = sif("data", "build", path, "-o", tmp_path / "out", "--allow-rejects")
        assert result.exit_code == 0, result.output
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["depth_encoding"] == "metres"
        assert manifest["depth_hole"] == ([10000] if hole == 10000 else hole)
        assert "bad_depth" not in manifest["counts"]["rejected"]
        for example in read_examples(tmp_path / "out"):
            depth = DepthMap.read(example.depth, encoding="sif")
            assert (~depth.valid).sum() == 1
            assert (depth.values.min(), depth.values.max()) == (0, 1)
        result = sif("data", "build", path, "-o", tmp_path / "other", "--depth-hole", -2, "--depth-encoding", "auto")
        assert result.exit_code == 3
        reject = json.loads((tmp_path / "other" / "rejects.jsonl").read_text().splitlines()[0])
        assert reject["code"] == "bad_depth"
        assert "--depth-encoding" in reject["reason"]
        result = sif("data", "build", path, "-o", tmp_path / "bad", "--depth-near", "high")
        assert (result.exit_code, "--depth-encoding inverse" in result.stderr) == (2, True)
        path.write_text(json.dumps({**json.loads(path.read_text()), "depth_hole": "none"}))
        result = sif("data", "build", path, "-o", tmp_path / "bad")
        assert (result.exit_code, "depth_hole must be a list of numbers, got 'none'" in result.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"sources": [{"file": "a", "images": None}]}, r"sources\[0\]\.images has no value"),
            ({"sources": [{"file": "a", "instances": 5}]}, "instances must be text, got 5"),
            ({"sources": [{"file": "a", "dataset": 2024}]}, "dataset must be text, got 2024"),
            ({"sources": []}, "sources: nothing to build from"),
            ({"sources": [{}]}, r"sources\[0\]: lacks file"),
            ({"sources": [{"file": "a", "imags": "b"}]}, "unknown key 'imags'; did you mean 'images'"),
            ({"sources": [{"file": "a", "format": "xml"}]}, "format must be one of"),
            ({"sources": [{"file": "a", "limit": 0}]}, "limit must be a positive whole number, got 0"),
            ({"sources": [{"file": "a", "columns": 5}]}, "columns must be keys and values, got 5"),
            ({"caps": 5}, "unknown key 'caps'; did you mean 'cap'"),
            ({"cap": "many"}, "cap must be a positive whole number, got 'many'"),
            ({"cap": -1}, "cap must be a positive whole number, got -1"),
            ({"sources": [{"file": "a", "max_boxes": True}]}, "max_boxes must be a positive whole number"),
            ({"exclude": 5}, "exclude must be a list of paths, got 5"),
        ],
    )
    def test_faults_are_named(self, tmp_path: Path, change: dict, words: str) -> None:
        path = tmp_path / "r.yaml"
        path.write_text(json.dumps({"sources": ["a.jsonl"], **change}))
        with pytest.raises(ConfigError, match=words):
            Recipe(BuildSettings.from_yaml(path, given={"output": "out"}))

    def test_a_dataset_of_the_hub_needs_a_folder_for_its_images(self, tmp_path: Path) -> None:
        result = sif("data", "build", "hf://owner/name:train", "-o", tmp_path / "out", "--model", "m")
        assert result.exit_code == 2
        assert "Set --images FOLDER" in result.stderr

    def test_settings_of_the_wrong_kind(self, tmp_path: Path, url: str) -> None:
        path = self.blocks(tmp_path, url, concurrency="many")
        result = sif("data", "build", path, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert "concurrency must be a positive whole number, got 'many'" in result.stderr
        for change in ({"alpha": None}, {"depth": None}):
            path.write_text(json.dumps({**json.loads(path.read_text()), "concurrency": 2, **change}))
            result = sif("data", "build", path, "-o", tmp_path / "out")
            assert (result.exit_code, "has no value" in result.stderr) == (2, True)


def test_the_papers_recipe_is_read() -> None:
    path = Path(__file__).parents[2] / "configs" / "sif50k.yaml"
    made = BuildSettings.from_yaml(path, given={"output": "out"})
    assert made.cap == 10_000
    files = " ".join(source.file for source in made.sources)
    assert "tallyqa" in files
    assert not any(name in files for name in ("docvqa", "dude", "textvqa", "sroie", "infographicsvqa", "textcap"))
