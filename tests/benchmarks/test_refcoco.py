"""RefCOCO: both published forms, and accuracy at IoU 0.5 strictly and leniently."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.last_area import box_around, last_area, last_readable_area, one_box
from sifthinker.chain import Region, render_regions
from sifthinker.coordinates import UNIT, Frame
from sifthinker.errors import ConfigError, ImageError, RecordError
from sifthinker.evaluation.benchmark import Benchmark
from sifthinker.evaluation.questions import Question
from sifthinker.thinker import Thought

from .answered import chain, is_valid, lenient, numbers_of, rows_of, strict

REFCOCO = benchmark("refcoco")
WIDTH, HEIGHT = 100, 80
# The target of every question: the left half.
LEFT = (0.0, 0.0, 0.5, 1.0)


def write(folder: Path, count: int = 10, name: str = "REC_refcoco_unc_val.jsonl", **changes: Any) -> Path:
    """Ten questions as published, with their images."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(folder / "COCO_train2014_000000000001.jpg")
    rows = [
        {
            "img_path": "COCO_train2014_000000000001.jpg",
            "expression": f"left thing {number}",
            "bbox": [0.0, 0.0, 50.0, 80.0],
            "dataset_name": "jxu124/refcoco",
            "height": HEIGHT,
            "width": WIDTH,
            "image_id": 1,
            "sent_id": 70 + number,
            "split": "validation",  # so the rows of the files of val say
            **changes,
        }
        for number in range(count)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def read(path: Path, split: str = "val", of: Benchmark = REFCOCO, **how: Any) -> list[Question]:
    return of.read(str(path), split, **{"images": None, "limit": None, **how})


def test_questions_are_read_as_published(tmp_path: Path) -> None:
    file = write(tmp_path)
    first, second, *_ = asked = read(file)
    assert len(asked) == 10
    assert (first.id, second.id) == ("refcoco-val-70", "refcoco-val-71")
    assert first.question == (
        "Please provide the bounding box coordinate of the region this sentence describes: left thing 0."
    )
    assert first.boxes == (LEFT,)
    assert first.image == tmp_path / "COCO_train2014_000000000001.jpg"
    assert (first.dataset, first.split, first.answers) == ("refcoco", "val", ())
    assert len(read(file, limit=3)) == 3
    assert read(tmp_path) == asked  # a folder that holds the file
    (tmp_path / "photos").mkdir()
    assert read(file, images=tmp_path / "photos")[0].image == tmp_path / "photos" / "COCO_train2014_000000000001.jpg"


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [
        ("refcoco", "REC_refcoco_unc_testA.jsonl", "testA"),
        ("refcoco+", "REC_refcoco+_unc_testB.jsonl", "testB"),
        ("refcocog", "REC_refcocog_umd_test.jsonl", "test"),
    ],
)
def test_each_file_is_found_by_its_published_name(name: str, file: str, split: str, tmp_path: Path) -> None:
    dataset = {"refcoco+": "jxu124/refcocoplus"}.get(name, f"jxu124/{name}")
    write(tmp_path / "REC", 1, file, split=split, dataset_name=dataset)
    (asked,) = read(tmp_path, split, benchmark(name))
    assert asked.id == f"{name}-{split}-70"


def test_a_box_that_ends_past_the_border_is_clipped(tmp_path: Path) -> None:
    write(tmp_path, 1, bbox=[0, 0, 50.0, 80.4])
    assert read(tmp_path)[0].boxes == (LEFT,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [50, 0, 50, 80]}, "has no area"),
        ({"bbox": [0, 0, 50]}, r"a box must be four finite numbers, got \[0, 0, 50\]"),
        ({"bbox": None}, "a box must be four finite numbers, got null"),
        ({"width": None}, "width must be a whole number, got null"),
        ({"expression": " "}, "blank"),
        ({"img_path": "../secret.jpg"}, "leads outside"),
        ({"split": "testA"}, "expected a row of the split 'val', got the split 'testA'"),
        ({"dataset_name": "jxu124/refcocog"}, "expected a row of RefCOCO, got a row of RefCOCOg"),
        ({"sent_id": 5}, "is already used"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, 2, **changes)
    with pytest.raises(RecordError, match=message) as caught:
        read(tmp_path)
    assert "REC_refcoco_unc_val.jsonl:" in str(caught.value)


def test_nothing_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    file.write_text(file.read_text() + "not json\n")
    with pytest.raises(RecordError, match=r"val\.jsonl:3"):
        read(file)
    assert len(read(file, limit=2)) == 2  # what is not asked for is not read


def test_the_original_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for path in (tmp_path, tmp_path / "refs(unc).p"):
        with pytest.raises(RecordError, match=r"pickle files are not read, because .* Give JSON lines .*lmms-lab/RefCOCO"):
            read(path)


def test_splits_and_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="no split 'dev'; expected one of val, testA, testB"):
        read(tmp_path, "dev")
    with pytest.raises(RecordError, match=r"lacks REC_refcoco_unc_testA.jsonl; it has REC_refcoco_unc_val.jsonl"):
        read(tmp_path, "testA")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RecordError, match="contains no question"):
        read(tmp_path / "empty.jsonl")


def write_table(folder: Path, split: str = "val", **changes: Any) -> Path:
    """Two objects with three expressions as lmms-lab's tables have them."""
    datasets = pytest.importorskip("datasets")
    picture = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30)).save(picture, "PNG")
    columns = {
        "question_id": ["469306", "469307"],
        "image": [{"bytes": picture.getvalue(), "path": None}] * 2,
        "question": ["Describe it."] * 2,
        "answer": [["the left one", "left"], ["right"]],
        "segmentation": [[0.0, 1.0]] * 2,
        "bbox": [[0.0, 0.0, 50.0, 80.0], [50.0, 40.0, 50.0, 40.0]],  # x y width height
        "iscrowd": [0, 0],
        "file_name": ["COCO_train2014_000000000001_0.jpg"] * 2,
        **changes,
    }
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    (folder / "data").mkdir(parents=True)
    table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def test_the_table_of_the_hub_asks_each_expression_of_an_object(tmp_path: Path) -> None:
    write_table(tmp_path)
    asked = read(tmp_path)
    assert [question.id for question in asked] == [f"refcoco-val-{name}" for name in ("469306-0", "469306-1", "469307-0")]
    assert [question.boxes for question in asked] == [(LEFT,), (LEFT,), ((0.5, 0.5, 1.0, 1.0),)]
    assert asked[1].question.endswith("describes: left.")
    assert asked[2].load()[0].getpixel((0, 0)) == (200, 30, 30)
    assert len(read(tmp_path, limit=2)) == 2
    # The pictures are part of what makes these questions others.
    assert asked[0].identity(tmp_path) != asked[1].identity(tmp_path)
    numbers = numbers_of(REFCOCO, asked, [chain(question.boxes, "here") for question in asked], tmp_path)
    assert strict(numbers)["accuracy at IoU 0.5"] == 1


def test_an_object_whose_picture_is_not_there_costs_its_own_questions(tmp_path: Path) -> None:
    write_table(tmp_path / "whole")
    (first, *_) = read(tmp_path / "whole")
    first.picture().save(tmp_path / "gone.png")  # whoever wrote the table had it
    bytes_of = (tmp_path / "gone.png").read_bytes()
    gone = [{"bytes": bytes_of, "path": None}, {"bytes": None, "path": str(tmp_path / "gone.png")}]
    asked = read(write_table(tmp_path / "part", image=gone))
    assert [question.boxes for question in asked] == [(LEFT,), (LEFT,), ()]
    with pytest.raises(ImageError, match=r"image has the path .* and no bytes; expected the bytes of the image"):
        asked[2].load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": [["left"], []]}, r"val\[1\]: answer must list the expressions of the object, got none"),
        ({"answer": [["left"], [" "]]}, r"val\[1\]: answer must be a list of texts that are not blank"),
        ({"bbox": [[0.0, 0.0, 50.0, 80.0], [0.0, 0.0, 0.0, 80.0]]}, r"val\[1\]: box .* has no area"),
        ({"bbox": [[0.0, 0.0, 50.0, 80.0], None]}, r"val\[1\]: lacks 'bbox'"),
        ({"image": [None, None]}, r"val\[0\]: expected one image in column image, got 0"),
        ({"question_id": ["1", "1"]}, "is already used"),
    ],
)
def test_a_row_of_the_table_that_is_not_as_published_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_table(tmp_path, **changes)
    with pytest.raises(RecordError, match=message):
        read(tmp_path)


# ------------------------------------------------------------------------------------------------------------- scoring

# Ten answers about the left half, each with its IoU (None: wrong strictly) and that of the box around its boxes.
# The left 0.3 of the image lies in the target: 0.3 / 0.5 = 0.6. The left 0.8 holds it: 0.5 / 0.8 = 0.625; the whole, 0.5.
ANSWERS = [
    (chain([LEFT], "left"), 1.0, 1.0),
    (chain([(0, 0, 0.3, 1)], "left"), 0.6, 0.6),
    (chain([(0, 0, 1, 1)], "left"), 0.5, 0.5),  # exactly a half is right
    (chain([(0, 0, 0.2, 1)], "left"), 0.4, 0.4),
    (chain([(0.5, 0, 1, 1)], "right"), 0.0, 0.0),
    # Two boxes: wrong strictly; the box around them is the target.
    (chain([(0, 0, 0.5, 0.5), (0, 0.5, 0.5, 1)], "left"), 0.0, 1.0),
    # The true box and another one: the box around both is the whole image.
    (chain([LEFT, (0.9, 0.9, 1, 1)], "left"), 0.0, 0.5),
    # The last area cannot be read: wrong strictly, whatever stands before it.
    (chain([LEFT], "left").replace("</think>", '<area>[{"bbox_2d":[0.5,0,0.2]}]</area><text>?</text></think>'), 0.0, 1.0),
    ("I do not see it.", 0.0, 0.0),
    ("", 0.0, 0.0),
]


def test_hand_worked_verdicts(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    rows = rows_of(REFCOCO, asked, [said for said, _, _ in ANSWERS], tmp_path)
    for row, (said, own, around) in zip(rows, ANSWERS, strict=True):
        found = [row.values[name] for name in ("box IoU", "lenient box IoU", "box accuracy", "lenient box accuracy")]
        assert found == pytest.approx([own, around, float(own >= 0.5), float(around >= 0.5)]), said
    numbers = REFCOCO.numbers(rows)
    # Strictly three of ten; leniently also the two halves, the true box with another, and the one before a broken area.
    assert numbers["accuracy at IoU 0.5"].strict.mean == pytest.approx(0.3)
    assert lenient(numbers)["accuracy at IoU 0.5"] == 0.6
    assert numbers["mean IoU"].strict.mean == pytest.approx((1 + 0.6 + 0.5 + 0.4) / 10)
    assert lenient(numbers)["mean IoU"] == pytest.approx((1 + 0.6 + 0.5 + 0.4 + 1 + 0.5 + 1) / 10)
    # HIoU pays half for the two halves: set IoU 1, paired IoU (0.5 + 0) / 2.
    # The true box with a corner: set IoU 0.5 / 0.51, paired IoU 1 / 2.
    halves, corner = (1 + 0.25) / 2, (0.5 / 0.51 + 0.5) / 2
    assert numbers["HIoU"].strict.mean == pytest.approx((1 + 0.6 + 0.5 + 0.4 + halves + corner) / 10)
    # Leniently the area before the broken one counts, as it does in the general "final HIoU".
    assert lenient(numbers)["HIoU"] == pytest.approx((1 + 0.6 + 0.5 + 0.4 + halves + corner + 1) / 10, abs=1e-4)
    assert sum(row.values["final HIoU"] or 0 for row in rows) / 10 == pytest.approx(lenient(numbers)["HIoU"], abs=1e-4)
    assert numbers["accuracy at IoU 0.5"].strict.count == 10


def test_right_boxes_score_all(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    said = [chain(question.boxes, "here") for question in asked]
    assert all(map(is_valid, said))
    numbers = numbers_of(REFCOCO, asked, said, tmp_path)
    assert strict(numbers) == {"accuracy at IoU 0.5": 1, "mean IoU": 1, "HIoU": 1}
    assert lenient(numbers) == strict(numbers)


def test_guessing_one_of_four_halves_scores_a_quarter(tmp_path: Path) -> None:
    asked = read(write(tmp_path, 400))
    # The left half has IoU 1 with itself, 0.25 / 0.75 with the upper and the lower half, and 0 with the right one.
    halves = [LEFT, (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)]
    draw = np.random.default_rng(0)
    said = [chain([halves[draw.integers(4)]], "here") for _ in asked]
    result = numbers_of(REFCOCO, asked, said, tmp_path)["accuracy at IoU 0.5"].strict
    assert result.mean == pytest.approx(0.25, abs=0.07)  # three standard deviations of 400 guesses
    assert result.low < 0.25 < result.high


def test_boxes_in_thousandths_are_read_in_their_coordinates(tmp_path: Path) -> None:
    asked = read(write(tmp_path, 1))
    said = '<think><area>[{"bbox_2d":[0,0,500,1000]}]</area><text>It.</text></think><answer>left</answer>'
    (row,) = rows_of(REFCOCO, asked, [said], tmp_path, frame=Frame("per_mille"))
    assert row.values["box IoU"] == 1


@pytest.mark.parametrize(
    ("said", "own", "first"),
    [
        ("[0, 0, 0.5, 1]", 1.0, 1.0),
        ("(0.0, 0.0, 0.3, 1.0).", 0.6, 0.6),
        ("It is at [0, 0, 0.5, 1].", 0.0, 1.0),  # strictly a box and nothing else
        ("[0, 0, 0.5, 1] or [0.5, 0, 1, 1]", 0.0, 1.0),
        ("[0, 0, 50, 80]", 0.0, 0.0),  # pixels
        ("[0.5, 0, 0, 1]", 0.0, 0.0),
        ("[0, 0, 0.5]", 0.0, 0.0),
        ("left", 0.0, 0.0),
    ],
)
def test_a_direct_answer_is_a_box_in_fractions(said: str, own: float, first: float, tmp_path: Path) -> None:
    asked = read(write(tmp_path, 1))
    (row,) = rows_of(REFCOCO, asked, [said], tmp_path, direct=True)
    assert [row.values["box IoU"], row.values["lenient box IoU"]] == pytest.approx([own, first])
    assert row.values["final HIoU"] is row.values["HIoU of the last area"] is None


def test_a_depth_that_is_missing_or_too_many_leaves_the_box() -> None:
    text = '<think><area>[{"bbox_2d":[0,0,0.5,1],"depth":0.4}]</area><text>It.</text></think><answer>left</answer>'
    for stated in (text, text.replace(',"depth":0.4', "")):
        assert last_area(stated, frame=UNIT).tolist() == [list(LEFT)]
    assert last_area(text.replace("</area>", ""), frame=UNIT).shape == (0, 4)
    thought = Thought("?", Image.new("RGB", (4, 4)), None, text)
    assert one_box(thought).tolist() == box_around(thought).tolist() == [list(LEFT)]


def test_depths_in_a_run_without_depth_leave_the_hiou(tmp_path: Path) -> None:
    asked = read(write(tmp_path, 1))
    said = chain([LEFT], "left").replace("}]", ',"depth":0.4}]')
    (row,) = rows_of(REFCOCO, asked, [said], tmp_path)
    assert (row.values["final HIoU"], row.problems) == (0.0, ("unknown_key",))
    assert row.values["HIoU of the last area"] == row.values["HIoU of the last readable area"] == 1


@pytest.mark.parametrize(
    ("numbers", "frame", "boxes"),
    [
        ("[0,0,0.50001,1]", UNIT, [(0, 0, 0.50001, 1)]),  # more decimals than the format allows
        ("[-0.1,0,5e-1,1.2]", UNIT, [LEFT]),  # clipped
        ("[0,0,499.5,1000]", Frame("per_mille"), [(0, 0, 0.4995, 1)]),
        ("[0,0,100,50.5]", Frame("resized", (200, 100)), [(0, 0, 0.5, 0.505)]),
        ("[0.5,0,0.5,1]", UNIT, []),  # nothing is left of it
        ("[0,0,1e999,1]", UNIT, [(0.25, 0, 0.75, 1)]),  # none that can be read: the area before it
        ("[0,0,1]", UNIT, [(0.25, 0, 0.75, 1)]),
        (f"[0,0,1{'0' * 400},1]", UNIT, [(0.25, 0, 0.75, 1)]),
    ],
)
def test_the_lenient_area_takes_numbers_of_any_form(numbers: str, frame: Frame, boxes: list[Any]) -> None:
    first = render_regions([Region((0.25, 0, 0.75, 1))], frame=frame)
    text = f'<area>{first}</area><area>[{{"bbox_2d":{numbers}}}]</area>'
    assert last_area(text, frame=frame).tolist() == []
    assert last_readable_area(text, frame=frame) == pytest.approx(np.array(boxes).reshape(-1, 4))


def test_an_iou_of_exactly_a_half_is_right(tmp_path: Path) -> None:
    """The truth is [0, 0, 0.1, 0.5], the answer its upper half: in floats the IoU is 0.49999999999999994."""
    write(tmp_path, 1, bbox=[0, 0, 64, 214], width=640, height=428)
    (asked,) = read(tmp_path)
    (row,) = rows_of(REFCOCO, [asked], [chain([(0, 0, 0.1, 0.25)], "it")], tmp_path)
    assert 0.5 - 1e-12 < (row.values["box IoU"] or 0) < 0.5
    assert row.values["box accuracy"] == row.values["lenient box accuracy"] == 1
