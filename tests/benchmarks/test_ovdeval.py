"""OVDEval: its files, what counts as a detection, NMS and average precision by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.benchmarks.last_area import last_area
from sifthinker.benchmarks.ovdeval import average_precisions, hits, kept, leniently_found, strictly_found
from sifthinker.boxes import as_boxes
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.questions import Question

from .answered import chain, is_valid, lenient, numbers_of, rows_of, strict

OVDEVAL = benchmark("ovdeval")
SIDE = 100
LEFT, RIGHT, CORNER = (0, 0, 0.5, 1), (0.6, 0, 1, 1), (0, 0, 0.1, 0.1)
LEFT_PIXELS, RIGHT_PIXELS = [0, 0, 50, 100], [60, 0, 40, 100]  # x y width height
RED, BLUE = 0, 1
# Five images: what each shows (category, box), and the category that it does not show.
SHOWN: list[tuple[list[tuple[int, list[int]]], int]] = [
    ([(RED, LEFT_PIXELS)], BLUE),
    ([(RED, LEFT_PIXELS)], BLUE),
    ([(RED, LEFT_PIXELS), (RED, RIGHT_PIXELS)], BLUE),
    ([(BLUE, LEFT_PIXELS)], RED),
    ([(BLUE, LEFT_PIXELS)], RED),
]


def body(shown: list[tuple[list[tuple[int, list[int]]], int]]) -> dict[str, list[dict[str, Any]]]:
    """A file as published."""
    names = ["red car", "blue car"]
    return {
        "categories": [{"supercategory": "object", "id": index, "name": name} for index, name in enumerate(names)],
        "annotations": [
            {"id": 10 * picture + number, "bbox": box, "category_id": category, "image_id": picture, "iscrowd": 0, "area": 1}
            for picture, (objects, _) in enumerate(shown)
            for number, (category, box) in enumerate(objects)
        ],
        "images": [
            {
                "file_name": f"{picture}.jpg",
                "id": picture,
                "height": SIDE,
                "width": SIDE,
                "text": list(dict.fromkeys(names[category] for category, _ in objects)),
                "neg_text": [names[absent]],
            }
            for picture, (objects, absent) in enumerate(shown)
        ],
    }


def write(folder: Path, name: str = "color", written: dict[str, Any] | None = None) -> Path:
    """A sub-dataset beside its unpacked images, as the hub has it."""
    written = body(SHOWN) if written is None else written
    (folder / name).mkdir(exist_ok=True)
    for row in written["images"]:
        Image.new("RGB", (SIDE, SIDE), (90, 120, 30)).save(folder / name / f"{row['id']}.jpg")
    (folder / f"{name}.json").write_text(json.dumps(written))
    return folder


def read(path: Path, split: str = "all", **how: Any) -> list[Question]:
    return OVDEVAL.read(str(path), split, **{"images": None, "limit": None, **how})


def test_each_label_of_an_image_is_a_question(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    assert len(asked) == 10
    first, second = asked[:2]
    assert (first.id, second.id) == ("ovdeval-color-0-0", "ovdeval-color-0-1")
    assert first.question.startswith('Is this in the image: "red car"? Answer yes')
    assert (first.answers, first.boxes) == (("yes",), (LEFT,))
    assert (second.answers, second.boxes) == (("no",), ())
    assert asked[4].boxes == (LEFT, RIGHT)
    assert first.image == tmp_path / "color" / "0.jpg"
    assert (first.dataset, first.split, first.family) == ("ovdeval", "test", "color")
    assert len(read(tmp_path, limit=3)) == 3
    assert read(tmp_path, "color") == read(tmp_path / "color.json") == asked


def test_the_authors_folders_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("annotations", "images"):
        (tmp_path / "theirs" / name).mkdir(parents=True)
    (tmp_path / "color.json").rename(tmp_path / "theirs" / "annotations" / "color.json")
    (tmp_path / "color").rename(tmp_path / "theirs" / "images" / "color")
    asked = read(tmp_path / "theirs")
    assert asked[0].image == tmp_path / "theirs" / "images" / "color" / "0.jpg"
    assert read(tmp_path / "theirs" / "annotations" / "color.json") == asked
    assert read(tmp_path / "theirs" / "annotations", images=tmp_path / "theirs" / "images") == asked


def test_proper_names_are_asked_of_every_image(tmp_path: Path) -> None:
    written = body(SHOWN)
    for row in written["images"]:
        del row["text"], row["neg_text"]
    asked = read(write(tmp_path, "celebrity", written))
    # In the order of the categories, whichever the image shows.
    assert [question.id for question in asked[-2:]] == ["ovdeval-celebrity-4-0", "ovdeval-celebrity-4-1"]
    assert len(asked) == 10


def test_what_is_marked_is_asked_even_where_no_label_says_so(tmp_path: Path) -> None:
    written = body(SHOWN)
    written["images"][0]["text"] = []
    asked = read(write(tmp_path, written=written))
    assert [question.id for question in asked[:2]] == ["ovdeval-color-0-1", "ovdeval-color-0-0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("categories"), "lacks 'categories'"),
        (lambda file: file.update(images={}), "images must be a list, got an empty object"),
        (lambda file: file["images"][1].update(id=0), "the id 0 is already used"),
        (lambda file: file["images"][1].update(id=-1), "id must be 0 or more, got -1"),
        (lambda file: file["images"][0].pop("neg_text"), "lacks 'neg_text'"),
        (lambda file: file["images"][0].update(text="red car"), "text must be a list of labels, got 'red car'"),
        (lambda file: file["images"][0].update(text=["green car"]), "'green car' is not the name of a category"),
        (lambda file: file["images"][0].update(file_name="../0.jpg"), "leads outside"),
        (lambda file: file["images"][0].update(width=None), "width must be a whole number, got null"),
        (lambda file: file["categories"][1].update(name="red car"), "0 and 1 have the same name 'red car'"),
        (lambda file: file["annotations"][0].update(image_id=9), "9 is not an id in images"),
        (lambda file: file["annotations"][0].update(category_id=9), "9 is not an id in categories"),
        (lambda file: file["annotations"][0].update(bbox=[1, 2, 0, 4]), "has no area"),
        (lambda file: file["annotations"][0].update(iscrowd=1), "expected a single object, got a crowd"),
        (lambda file: file["annotations"][0].pop("bbox"), "lacks 'bbox'"),
    ],
)
def test_what_is_not_as_published_is_named(change: Any, message: str, tmp_path: Path) -> None:
    written = body(SHOWN)
    file = write(tmp_path) / "color.json"
    change(written)
    file.write_text(json.dumps(written))
    with pytest.raises(RecordError, match=message) as caught:
        read(tmp_path)
    assert "color.json" in str(caught.value)


def test_files_and_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"expected at least one of celebrity\.json"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no split 'val'; expected one of all, celebrity"):
        read(tmp_path, "val")
    (tmp_path / "logo.json").write_text(json.dumps(body(SHOWN)))
    with pytest.raises(RecordError, match=r"has no folder logo or images/logo. Unpack logo.tar.gz"):
        read(tmp_path)
    (tmp_path / "logo.json").write_text("{")
    (tmp_path / "logo").mkdir()
    with pytest.raises(RecordError, match="not JSON"):
        read(tmp_path)


# --------------------------------------------------------------------------------------------------- average precision


def average(found: str, truths: int, times: str = "") -> float:
    """AP of one category's detections in order, + right, - wrong, each counted so many times, once by default."""
    weights = np.array([float(count) for count in times or "1" * len(found)]).reshape(-1, 1)
    right = np.array([float(mark == "+") for mark in found]).reshape(-1, 1) * weights
    of = np.zeros(len(found), dtype=np.int64)
    return float(average_precisions(right, weights - right, of, np.array([float(truths)]))[0, 0])


@pytest.mark.parametrize(
    ("found", "truths", "precisions"),
    [
        # Highest precision at each of the 101 recalls: (how many of them, precision).
        ("+", 1, [(101, 1.0)]),
        ("", 1, []),
        ("-", 1, []),
        ("+-", 1, [(101, 1.0)]),  # what is wrong after the last right one costs nothing
        ("-+", 1, [(101, 1 / 2)]),
        ("+", 2, [(51, 1.0)]),  # recalls 0 to 0.50
        ("+-+", 2, [(51, 1.0), (50, 2 / 3)]),
        ("-++", 2, [(101, 2 / 3)]),  # the precision at recall 1 is higher than that at a half
        ("++-+", 4, [(51, 1.0), (25, 3 / 4)]),  # recalls to 0.50, then to 0.75
    ],
)
def test_average_precision_by_hand(found: str, truths: int, precisions: list[tuple[int, float]]) -> None:
    expected = sum(count * precision for count, precision in precisions) / 101
    assert average(found, truths) == pytest.approx(expected)


def test_what_counts_several_times_weighs_so_much() -> None:
    assert average("+-+", 2, "121") == average("+--+", 2)
    assert average("+-+", 2, "101") == average("++", 2) == 1
    assert average("-++", 2, "011") == 1


def test_categories_and_thresholds_are_kept_apart() -> None:
    # Category 0: +-, 1: nothing, 2: -+; at a second threshold all are wrong.
    right = np.array([[1.0, 0], [0, 0], [0, 0], [1, 0]])
    found = average_precisions(right, 1 - right, np.array([0, 0, 2, 2]), np.ones(3))
    assert found.tolist() == [[1, 0], [0, 0], [0.5, 0]]


def test_a_true_box_is_found_once_and_by_how_much_it_is_overlapped() -> None:
    # 0.8 of the right object: up to IoU 0.80, the seventh threshold.
    part = (0.6, 0, 0.92, 1)
    found = hits(as_boxes([LEFT, part, LEFT, CORNER]), as_boxes([LEFT, RIGHT]))
    assert found.sum(axis=1).tolist() == [10, 7, 0, 0]
    assert found[1].tolist() == [True] * 7 + [False] * 3
    assert hits(as_boxes([]), as_boxes([LEFT])).shape == (0, 10)
    assert not hits(as_boxes([LEFT]), as_boxes([])).any()


def test_one_box_is_kept_for_each_true_box() -> None:
    left, labels = as_boxes([LEFT]), np.array([RED])

    def keeps(boxes: Any, of: list[int], *, strictly: bool) -> list[bool]:
        return kept(as_boxes(boxes), np.array(of, dtype=np.int64), left, labels, strict=strictly).tolist()

    # The wrong label strictly, wherever it stands; the last one by the authors' script.
    assert keeps([LEFT, LEFT], [RED, BLUE], strictly=True) == [False, True]
    assert keeps([LEFT, LEFT], [BLUE, RED], strictly=True) == [True, False]
    assert keeps([LEFT, LEFT], [BLUE, RED], strictly=False) == [False, True]
    # Of the right label's several, the first and the last. What overlaps no true box stays.
    assert keeps([LEFT, LEFT, CORNER], [RED, RED, RED], strictly=True) == [True, False, True]
    assert keeps([LEFT, LEFT, CORNER], [RED, RED, RED], strictly=False) == [False, True, True]
    # An IoU of exactly a half does not compete: the whole image, with its left half.
    assert keeps([LEFT, (0, 0, 1, 1)], [RED, BLUE], strictly=True) == [True, True]


def test_a_box_that_is_kept_for_one_true_box_is_kept() -> None:
    # Two true boxes that overlap: the second box competes for both, and wins the second alone.
    truth = as_boxes([(0, 0, 0.5, 1), (0.1, 0, 0.6, 1)])
    boxes = as_boxes([(0, 0, 0.5, 1), (0.1, 0, 0.6, 1)])
    labels = np.array([RED, RED])
    # IoU of one with the other: 0.4 / 0.6 = 0.667. Strictly the first is kept for both, so the second goes.
    assert kept(boxes, labels, truth, labels, strict=True).tolist() == [True, False]
    # Of two labels, each is the wrong one of the other's true box, and both are kept.
    other = np.array([RED, BLUE])
    assert kept(boxes, other, truth, other, strict=True).tolist() == [True, True]


# ------------------------------------------------------------------------------------------------------------- scoring

PART = (0.6, 0, 0.92, 1)  # 0.8 of the right object
# Ten answers, by image and label, and whether each says rightly if it is there.
ANSWERS = [
    (chain([LEFT], "yes"), 1),  # image 0, red: found
    (chain([(0, 0, 1, 1)], "no"), 1),  # image 0, blue
    (chain([LEFT], "yes"), 1),  # image 1, red: found, but the wrong label competes for it
    (chain([LEFT], "yes"), 0),  # image 1, blue: wrong, and kept in its place
    (chain([LEFT, PART], "Yes."), 1),  # image 2, red: two, the second up to IoU 0.80
    (chain([CORNER], "maybe"), 0),  # image 2, blue: neither yes nor no
    (chain([LEFT], "yes"), 1),  # image 3, blue: found
    (chain([LEFT], "no"), 1),  # image 3, red: the area of a no finds nothing
    (chain([LEFT], "the blue car"), 0),  # image 4, blue: neither yes nor no
    (chain([CORNER], "yes"), 0),  # image 4, red: wrong
]


def test_hand_worked_numbers(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    rows = rows_of(OVDEVAL, asked, [said for said, _ in ANSWERS], tmp_path)
    assert [row.values["presence"] for row in rows] == [right for _, right in ANSWERS]
    numbers = OVDEVAL.numbers(rows)
    # Strictly, red: 4 detections of 4 true boxes (images 0, 2, 2, 4), 3 of them right up to IoU 0.80, 2 above.
    # P = 3/4 at R = 3/4, 76 of the 101 recalls; P = 2/4 at R = 2/4, 51 of them.
    red = (7 * 3 / 4 * 76 + 3 * 2 / 4 * 51) / 10 / 101
    # Blue: 3 detections (images 1, 2, 3) of 2 true boxes, 1 right: P = 1/3 at R = 1/2.
    blue = 1 / 3 * 51 / 101
    assert numbers["color"].strict.mean == pytest.approx((red + blue) / 2)
    assert numbers["NMS-AP at 0.5"].strict.mean == pytest.approx((3 / 4 * 76 / 101 + blue) / 2)
    # Leniently, red in order: + + + -, above 0.80 + + - -. Blue: - - + +, since an area counts unless the answer is no.
    red, blue = (7 * 76 + 3 * 51) / 10 / 101, 1 / 2
    assert numbers["color"].lenient is not None
    assert numbers["color"].lenient.mean == pytest.approx((red + blue) / 2)
    assert numbers["NMS-AP"].strict == numbers["color"].strict  # the mean of one sub-dataset
    assert numbers["presence"].strict.mean == 0.6
    assert numbers["color"].strict.count == 10
    assert "logo" not in numbers
    spread = numbers["color"].strict
    assert 0 <= spread.low < spread.mean < spread.high <= 1
    said = [chain([CORNER], "yes") if number == 7 else gold(question) for number, question in enumerate(asked)]
    high = numbers_of(OVDEVAL, asked, said, tmp_path)["color"].strict
    assert high.mean < high.high == 1  # 1.96 standard deviations above it would be more than all


def test_each_answer_is_read_once_for_all_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_texts: list[str] = []

    def counted(text: str, *, frame: Any) -> Any:
        read_texts.append(text)
        return last_area(text, frame=frame)

    asked = read(write(tmp_path))
    rows = rows_of(OVDEVAL, asked, [chain([LEFT], "yes")] * 10, tmp_path)
    monkeypatch.setattr("sifthinker.benchmarks.ovdeval.last_area", counted)
    OVDEVAL.numbers(rows)
    assert len(read_texts) == 10


@pytest.mark.parametrize(
    ("said", "strictly", "leniently"),
    [
        # Boxes and further false detections, where the label is there and where it is not.
        (chain([LEFT], "yes"), [(1, 0), (1, 0)], 1),
        (chain([LEFT], "no"), [(0, 0), (0, 0)], 0),
        (chain([LEFT], "yes or no"), [(0, 0), (0, 1)], 1),
        (chain([LEFT], "a car"), [(0, 0), (0, 1)], 1),
        ("yes", [(0, 0), (0, 1)], 0),  # no chain, so no answer
        ("", [(0, 0), (0, 1)], 0),
        # A last area that cannot be read: the one before it counts leniently alone.
        (chain([LEFT], "yes").replace("</think>", "<area>[]</area><text>?</text></think>"), [(0, 0), (0, 1)], 1),
        (chain([LEFT] * 200, "yes"), [(100, 0), (100, 0)], 100),  # 100 count
    ],
)
def test_what_an_answer_finds(said: str, strictly: list[tuple[int, int]], leniently: int, tmp_path: Path) -> None:
    asked = read(write(tmp_path))[:2]
    rows = rows_of(OVDEVAL, asked, [said] * 2, tmp_path)
    assert [(len(boxes), false) for boxes, false in map(strictly_found, rows)] == strictly
    assert [(len(boxes), false) for boxes, false in map(leniently_found, rows)] == [(leniently, 0)] * 2


def gold(question: Question) -> str:
    return chain(question.boxes or [(0, 0, 1, 1)], question.answers[0])


def test_right_answers_score_all(tmp_path: Path) -> None:
    write(tmp_path, "celebrity")
    asked = read(write(tmp_path))
    assert len(asked) == 20
    said = [gold(question) for question in asked]
    assert all(map(is_valid, said))
    numbers = numbers_of(OVDEVAL, asked, said, tmp_path)
    assert strict(numbers) == dict.fromkeys(("NMS-AP", "NMS-AP at 0.5", "celebrity", "color", "presence"), 1)
    assert lenient(numbers) == dict.fromkeys(("NMS-AP", "NMS-AP at 0.5", "celebrity", "color"), 1)


def test_each_sub_dataset_counts_alike(tmp_path: Path) -> None:
    write(tmp_path, "logo", body(SHOWN[:1]))
    asked = read(write(tmp_path))
    assert len(asked) == 12
    said = [gold(question) if question.family == "logo" else chain([LEFT], "no") for question in asked]
    found = strict(numbers_of(OVDEVAL, asked, said, tmp_path))
    assert (found["logo"], found["color"], found["NMS-AP"]) == (1, 0, 0.5)


def test_both_labels_for_every_object_are_not_paid_for(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    shown = {question.image: question.boxes for question in asked if question.boxes}
    said = [chain(shown[question.image], "yes") for question in asked]
    assert strict(numbers_of(OVDEVAL, asked, said, tmp_path))["NMS-AP"] == 0


def test_guessing_scores_chance(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    count = 200
    asked = read(write(tmp_path, written=body([([(int(draw.integers(2)), LEFT_PIXELS)], BLUE) for _ in range(count)])))
    halves = [LEFT, (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)]
    said = [chain([halves[draw.integers(4)]], ("yes", "no")[draw.integers(2)]) for _ in asked]
    numbers = numbers_of(OVDEVAL, asked, said, tmp_path)
    assert numbers["presence"].strict.mean == pytest.approx(0.5, abs=0.08)  # three standard deviations
    # A true box is found where the guess is yes and its half, one in eight. Where the label is there one in four yeses is
    # right, and of the red label all others are too: precision at most 1/4, recall some 1/8, 13 of the 101 recalls.
    assert numbers["NMS-AP"].strict.mean < 1 / 4 * 20 / 101


def test_a_direct_answer_says_whether_it_is_there_and_finds_nothing(tmp_path: Path) -> None:
    asked = read(write(tmp_path))
    said = [question.answers[0] for question in asked]
    assert strict(numbers_of(OVDEVAL, asked, said, tmp_path, direct=True)) == {"presence": 1}
