"""Published files by hub name, through the real clients and a stand-in for the hub, and from disk; pictures in tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.benchmarks.hub import StoredPicture, TableQuestion, file_in, folder_of, side_by_side, table_rows
from sifthinker.errors import ImageError, RecordError
from sifthinker.evaluation.questions import identity_of

from .. import hub
from .published import picture, write_cv_bench, write_sat, write_spatialbench, write_table, write_vstar

# Reads every benchmark by its hub name, then says what it found; one process, since importing the clients takes a while.
CODE = """
import json
from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.hub import folder_of, table_rows
from sifthinker.errors import RecordError

said = {}
for name, split in (("cv-bench", "test"), ("sat", "test"), ("vstar", "test"), ("spatialbench", "all")):
    found = benchmark(name)
    questions = found.read(found.hub, split, images=None, limit=None)
    image, depth = questions[0].load()
    said[name] = [len(questions), questions[0].id, list(questions[0].answers), list(image.size), depth is not None]
for key, call in {
    "no split": lambda: list(table_rows("nyu-visionx/CV-Bench", "val", pictures=[])),
    "no table": lambda: list(table_rows("no/such", "test", pictures=[])),
    "no folder": lambda: folder_of("no/such"),
    "gated table": lambda: list(table_rows("closed/one", "test", pictures=[])),
    "gated folder": lambda: folder_of("closed/one"),
}.items():
    try:
        said[key] = str(call())
    except RecordError as error:
        said[key] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What a process said that read all by hub names, and what it asked of the hub."""
    folder = tmp_path_factory.mktemp("hub")
    sat = write_sat(folder / "sat")
    write_sat(folder / "sat", "train")
    datasets = {
        "nyu-visionx/CV-Bench": write_cv_bench(folder / "cv"),
        "array/SAT": sat,
        "craigwu/vstar_bench": write_vstar(folder / "vstar", lines=True),
        "RussRobin/SpatialBench": write_spatialbench(folder / "sb"),
        "closed/one": write_cv_bench(folder / "closed"),
    }
    (folder / "vstar" / "OCR").mkdir()
    (folder / "vstar" / "OCR" / "other.jpg").write_bytes(picture("red"))
    with hub.serve(datasets, gated=("closed/one",)) as (endpoint, asked):
        return json.loads(hub.run_with(endpoint, folder / "home", CODE)), list(asked)


def test_benchmarks_are_read_by_their_hub_names(published: tuple[dict[str, Any], list[str]]) -> None:
    said, _ = published
    assert said["cv-bench"] == [10, "2D-Count-0", ["3"], [40, 20], False]
    assert said["sat"] == [10, "test-000000", ["left"], [88, 20], False]
    assert said["vstar"] == [10, "direct_attributes/sa_0", ["red"], [80, 40], False]
    assert said["spatialbench"] == [10, "existence-0000", ["Yes"], [40, 20], True]


def test_what_is_not_needed_is_not_fetched(published: tuple[dict[str, Any], list[str]]) -> None:
    _, asked = published
    fetched = [line for line in asked if line.startswith("GET /datasets/")]
    assert any("SAT_test.parquet" in line for line in fetched)
    assert not any("SAT_train.parquet" in line for line in asked)
    # The client fetches files of one content once, so that which of the pictures it is does not matter.
    assert any("direct_attributes/sa_" in line and line.endswith(".jpg") for line in fetched)
    assert not any("OCR" in line for line in asked)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("no split", "expected the split 'val'"),
        ("no table", "there is no local file or folder of this name either"),
        ("no folder", "there is no local file or folder of this name either"),
        ("gated table", "accept its terms at https://huggingface.co/datasets/closed/one"),
        ("gated folder", "accept its terms at https://huggingface.co/datasets/closed/one"),
    ],
)
def test_what_the_hub_refuses_is_an_error_that_says_what_to_do(
    key: str, wanted: str, published: tuple[dict[str, Any], list[str]]
) -> None:
    assert wanted in published[0][key]


def rows_of(data: str | os.PathLike[str], split: str = "test", **options: Any) -> list[Any]:
    return list(table_rows(data, split, pictures=["image"], **options))


def table(path: Path, **columns: list[Any]) -> Path:
    import datasets

    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return write_table(path, rows, **({"image": datasets.Image()} if "image" in columns else {}))


def cell(colour: str) -> dict[str, Any]:
    return {"bytes": picture(colour), "path": None}


def test_a_file_a_folder_and_a_saved_dataset_are_the_same(tmp_path: Path) -> None:
    import datasets

    file = table(tmp_path / "published" / "test.parquet", name=["a", "b"], image=[cell("red"), cell("blue")])
    datasets.load_dataset(str(file.parent), split="test").save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": datasets.load_from_disk(str(tmp_path / "saved"))}).save_to_disk(str(tmp_path / "splits"))
    for data in (file, file.parent, tmp_path / "saved", tmp_path / "splits"):
        found = rows_of(data)
        assert [dict(row.values) for row in found] == [{"name": "a"}, {"name": "b"}]
        assert [row.pictures["image"][0].load().getpixel((0, 0)) for row in found] == [(255, 0, 0), (0, 0, 255)]
        assert [row.place for row in found] == [f"{data} test[0]", f"{data} test[1]"]
        assert len(rows_of(data, limit=1)) == 1
    with pytest.raises(RecordError, match="has no split 'val'; it has test"):
        rows_of(tmp_path / "splits", "val")
    with pytest.raises(RecordError, match="expected the split 'val'"):
        rows_of(file.parent, "val")


def test_pictures_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    (row,) = rows_of(table(tmp_path / "x.parquet", name=["a"], image=[cell("red")]))
    (found,) = row.pictures["image"]
    assert isinstance(found, StoredPicture)
    assert found.size() == (40, 20)
    assert found.length == len(picture("red"))
    question = TableQuestion("1", Path("a"), "What?", pictures=(found,))
    assert not question.lacks_image()
    assert question.file_sizes() == (len(picture("red")), None)
    assert question.image_name(tmp_path) == "a"
    assert question.load()[0].getpixel((0, 0)) == (255, 0, 0)


def test_questions_are_told_apart_by_the_content_of_their_pictures(tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "x.parquet", image=[cell("red"), cell("red"), cell("blue")]))
    questions = [TableQuestion("1", Path("a"), "What?", pictures=row.pictures["image"]) for row in rows]
    identities = [identity_of([question], root) for question in questions for root in (tmp_path, Path("elsewhere"))]
    assert len(set(identities[:4])) == 1  # wherever the folder of the images is
    assert identities[0] != identities[4]


def test_a_picture_on_its_side_is_put_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    (row,) = rows_of(table(tmp_path / "x.parquet", image=[{"bytes": (tmp_path / "x.jpg").read_bytes(), "path": None}]))
    (found,) = row.pictures["image"]
    assert found.load().size == found.size() == (20, 40)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (row,) = rows_of(table(tmp_path / "x.parquet", image=[{"bytes": b"no picture", "path": None}]))
    (found,) = row.pictures["image"]
    with pytest.raises(ImageError, match=r"x\.parquet test\[0\]\.image: cannot read the image: unknown image format"):
        found.load()
    with pytest.raises(RecordError, match=r"x\.parquet test\[0\]\.image: the image is broken"):
        found.size()


def test_a_path_in_place_of_a_picture_is_refused(tmp_path: Path) -> None:
    """Nothing that a table names on this machine is opened."""
    (tmp_path / "secret.png").write_bytes(picture("red"))
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    (row,) = rows_of(table(tmp_path / "x.parquet", image=cells))
    (found,) = row.pictures["image"]
    said = r"x\.parquet test\[0\]: image has the path '.*' and no bytes; expected the bytes of the image"
    with pytest.raises(ImageError, match=said) as caught:
        found.load()
    assert caught.value.code == "missing_image"
    with pytest.raises(RecordError, match=said):
        found.size()


def test_pictures_side_by_side_are_scaled_to_the_highest() -> None:
    images = [Image.new("RGB", (10, 10), "red"), Image.new("RGB", (30, 20), "blue")]
    whole = side_by_side(images)
    # 10 by 10 becomes 20 by 20; a gap of 8; 30 by 20.
    assert whole.size == (20 + 8 + 30, 20)
    pixels = np.asarray(whole)
    assert (pixels[:, :20] == (255, 0, 0)).all()
    assert (pixels[:, 20:28] == 128).all()
    assert (pixels[:, 28:] == (0, 0, 255)).all()
    assert side_by_side(images[:1]) is images[0]


def test_fields_of_a_row_are_checked(tmp_path: Path) -> None:
    (row,) = rows_of(table(tmp_path / "x.parquet", name=[" a "], blank=[" "], number=[3], several=[["a", "b "]]))
    assert (row.text("name"), row.value("number"), row.texts("several")) == ("a", 3, ("a", "b"))
    for name, said in (
        ("blank", "must be text that is not blank, got"),
        ("number", "must be text that is not blank, got"),
        ("absent", "lacks 'absent'; it has name"),
    ):
        with pytest.raises(RecordError, match=rf"x\.parquet test\[0\]: .*{said}"):
            row.text(name)
    with pytest.raises(RecordError, match="must be a list of texts"):
        row.texts("name")


def test_what_is_not_there_or_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file or folder; give an existing one, or the Hugging Face name"):
        rows_of(tmp_path / "absent")
    with pytest.raises(RecordError, match="no such file or folder; give an existing one, or the Hugging Face name"):
        folder_of(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"expected the folder .* got a file"):
        folder_of(tmp_path / "file")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(RecordError, match=r"x\.parquet: cannot read the data"):
        rows_of(tmp_path / "x.parquet")


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_pointer_of_git_lfs_is_named(as_folder: bool, tmp_path: Path) -> None:
    file = write_sat(tmp_path / "sat") / "SAT_test.parquet"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\n")
    with pytest.raises(RecordError, match=r"expected the file, got a Git LFS pointer\. Fetch the files with `git lfs pull`"):
        rows_of(file.parent if as_folder else file)


@pytest.mark.parametrize("path", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "", "link.jpg"])
def test_files_that_data_name_stay_in_their_folder(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "x.jpg").touch()
    (folder / "link.jpg").symlink_to(tmp_path / "x.jpg")
    with pytest.raises(RecordError, match="leads outside"):
        file_in(folder, path, "somewhere")


def test_links_of_the_hub_cache_are_followed_into_it_alone(tmp_path: Path) -> None:
    dataset = tmp_path / "datasets--a--b"
    folder = dataset / "snapshots" / "0123"
    (dataset / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    (dataset / "blobs" / "content").write_text("x")
    (tmp_path / "outside").write_text("x")
    (folder / "good.jpg").symlink_to("../../blobs/content")
    (folder / "bad.jpg").symlink_to(tmp_path / "outside")
    found = file_in(folder, "good.jpg", "somewhere")
    assert (found.name, found.read_text()) == ("good.jpg", "x")
    with pytest.raises(RecordError, match="leads outside"):
        file_in(folder, "bad.jpg", "somewhere")


def test_reading_holds_no_picture_in_memory(tmp_path: Path) -> None:
    """Tables of pictures are larger than memory; a question keeps no more than where its picture is."""
    import tracemalloc

    draw = np.random.default_rng(0)
    cells = []
    for number in range(20):
        Image.fromarray(draw.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        cells.append({"bytes": (tmp_path / f"{number}.png").read_bytes(), "path": None})
    size = sum(len(each["bytes"]) for each in cells)
    assert size > 2_000_000
    file = table(tmp_path / "x.parquet", image=cells)
    tracemalloc.start()
    rows = rows_of(file)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 20
    assert sum(row.pictures["image"][0].length for row in rows) == size
    assert held < size / 2
