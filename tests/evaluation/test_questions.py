"""Questions that are read, and those that are refused with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap, DepthReading
from sifthinker.errors import DepthError, ImageError, RecordError
from sifthinker.evaluation.questions import Question, identity_of, read_questions
from sifthinker.records import read_examples

PLAIN: dict[str, Any] = {"image": "cat.png", "question": "What is it?"}


def write(folder: Path, *rows: Any, name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(folder: Path, **changes: Any) -> Question:
    return read_questions(write(folder, {**PLAIN, **changes}))[0]


def test_a_dataset_of_ours(chains: Path) -> None:
    examples = list(read_examples(chains))
    questions = read_questions(chains)
    assert [question.id for question in questions] == [example.id for example in examples]
    first, example = questions[0], examples[0]
    assert (first.question, first.answers, first.choices, first.boxes) == (
        example.problem, (example.answer,), example.choices, example.boxes,
    )  # fmt: skip
    assert (first.dataset, first.split, first.family) == (example.dataset, example.split, example.family)
    image, depth = first.load()
    assert image.size == depth.size
    assert first.load(with_depth=False)[1] is None
    assert first.image_name(chains) == json.loads((chains / "examples.jsonl").open().readline())["images"][0]
    assert len(read_questions(chains / "examples.jsonl", limit=5)) == 5


def test_a_plain_question_knows_no_more_than_it_states(photo_folder: Path) -> None:
    found = one(photo_folder)
    assert (found.id, found.question, found.answers, found.choices, found.boxes) == ("1", "What is it?", (), (), ())
    assert (found.depth, found.dataset, found.split, found.family, found.tags) == (None, "", "", "", {})
    assert found.load()[0].size == (40, 20)
    assert found.image_name(photo_folder) == "cat.png"


def test_a_plain_question_with_everything(photo_folder: Path) -> None:
    found = one(
        photo_folder, id=7, answers=["cat", 2.0], choices=["cat", "dog"], boxes=[[10, 5, 20, 15]], box_space="pixel",
        depth="cat.depth.png", dataset="d", split="test", family="f", tags={"kind": "easy"}, extra={"x": 1},
    )  # fmt: skip
    assert (found.id, found.answers, found.choices) == ("7", ("cat", "2"), ("cat", "dog"))
    assert found.boxes == ((0.25, 0.25, 0.5, 0.75),)  # of 40 by 20 pixels
    assert (found.dataset, found.split, found.family, found.tags) == ("d", "test", "f", {"kind": "easy"})
    assert found.load()[1].size == (40, 20)
    assert one(photo_folder, boxes=[[0, 0, 500, 1000]], box_space="per_mille").boxes == ((0, 0, 0.5, 1),)
    stated = one(photo_folder, image="missing.png", boxes=[[0, 0, 5, 5]], box_space="pixel", size=[10, 10])
    assert stated.boxes == ((0, 0, 0.5, 0.5),)  # the size is stated, so that no image is needed
    # The division makes 1.0000000000000002 of the right border, which is no box past it.
    padded = [[0, 0.06451612903225806, 1, 0.903225806451613]]
    stated = one(photo_folder, image="missing.png", boxes=padded, box_space="padded_square", size=[31, 26])
    assert stated.boxes == ((0, 0, 1, 1),)
    path = write(photo_folder, {**PLAIN, "boxes": [[0, 0, 20, 20]]})
    assert read_questions(path, box_space="pixel")[0].boxes == ((0, 0, 0.5, 1),)


def test_a_json_list_and_a_folder_of_images(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("q") / "q.json"
    path.write_text(json.dumps([PLAIN, {**PLAIN, "answer": "cat"}], indent=1))
    first, second = read_questions(path, images=photo_folder)
    assert (first.id, second.id, second.answers) == ("1", "2", ("cat",))
    assert first.load()[0].size == (40, 20)
    assert first.image_name(photo_folder) == "cat.png"


def test_a_missing_folder_of_images_is_named(photo_folder: Path) -> None:
    path = write(photo_folder, PLAIN)
    with pytest.raises(RecordError, match=r"photoz: no such image folder\. Set --images to an existing folder"):
        read_questions(path, images=photo_folder / "photoz")


def test_records_are_questions(photo_folder: Path) -> None:
    row = {"id": "a", **PLAIN, "answer": "cat", "boxes": [[0, 0, 1, 1]], "dataset": "d", "source": "s:1", "notes": ["n"]}
    assert one(photo_folder, **row).answers == ("cat",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "lacks image"),
        ({"question": None}, "lacks question"),
        ({"question": " "}, "question must be text that is not blank, got ' '"),
        ({"question": "<image>\nWhat is it?"}, "contains <image>.*Remove it"),
        ({"question": "\ud800"}, "surrogate"),
        ({"questoin": "x"}, "unknown key 'questoin'; did you mean 'question'"),
        ({"answer": "a", "answers": ["a"]}, "both answer and answers"),
        ({"answer": ["a", "b"]}, "Put several right answers under 'answers'"),
        ({"answer": True}, "answer must be one text .*, got true"),
        ({"answers": "a"}, "answers must be a list of right answers, got 'a'"),
        ({"answers": [""]}, "answers must be text that is not blank, got ''"),
        ({"choices": {"a": 1}}, "choices must be a list"),
        ({"boxes": [[0, 0, 2, 1]]}, "outside the image .0 to 1., read as unit. .*--box-space pixel.*the key box_space"),
        (
            {"boxes": [[0, 0, 40, 20]], "box_space": "padded_square"},
            "looks like pixels or thousandths.*read as padded_square. .*--box-space pixel or per_mille, or",
        ),
        (
            {"boxes": [[10, 5, 20, 15]]},
            "looks like pixels or thousandths.*read as unit. .*--box-space pixel",
        ),
        (
            {"boxes": [[0.1, 0.2, 0.5, 0.9]], "box_space": "pixel"},
            "looks like fractions.*or the key box_space",
        ),
        ({"boxes": [[0.1, 0.2, 0.5, 0.9]], "box_space": "per_mille"}, "looks like fractions.*expected thousandths"),
        ({"size": [30, 20]}, "size is 30×20, but cat.png is 40×20; check that it is the right image"),
        ({"choices": "cat, dog"}, "choices must be a list of texts, got one text 'cat, dog'"),
        (
            {"choices": ["cat", "dog"], "answer": "cow"},
            "one of the choices .'cat', 'dog'. or its letter as the right answer, got 'cow'",
        ),
        ({"answers": []}, "answers is empty"),
        ({"family": 3}, "family must be text, got 3"),
        ({"dataset": ["d"]}, "dataset must be text, got .'d'."),
        ({"anwser": "x"}, "did you mean 'answer'. Put other data under 'extra'$"),
        ({"bboxs": [[0, 0, 1, 1]]}, "looks like VisCoT.*sif data build"),
        ({"expression": "the cat", "bbox": [0, 0, 1, 1]}, "looks like RefCOCO.*sif data build"),
        ({"boxes": [0, 0, 1, 1]}, "Put a single box"),
        ({"boxes": [[0, 0, 1, 1]], "box_space": "yards"}, "unknown box space 'yards'"),
        (
            {"boxes": [[0, 0, 9, 9]], "box_space": "pixel", "size": [0, 4]},
            "size must be .width, height. in pixels, got .0, 4.",
        ),
        (
            {"boxes": [[0, 0, 99, 9]], "box_space": "pixel"},
            r"box \[0.0, 0.0, 99.0, 9.0\] is outside the image .width 40, height 20., read as pixel. Correct the box$",
        ),
        ({"image": "../cat.png"}, "leads outside.*--images"),
        ({"image": "/etc/passwd"}, "leads outside"),
        ({"depth": "../cat.png"}, "depth: the path .* leads outside"),
        ({"image": "data:image/png;base64,AAAA"}, "base64"),
        ({"tags": ["a"]}, "tags must be an object of texts, got"),
        ({"family": {"a": 1}}, "family must be text, got an object"),
    ],
)
def test_a_broken_line_is_an_error_with_its_place(photo_folder: Path, change: dict[str, Any], message: str) -> None:
    path = write(photo_folder, PLAIN, {**PLAIN, **change})
    with pytest.raises(RecordError, match=message) as caught:
        read_questions(path)
    assert f"{path}:2" in str(caught.value)


def test_closed_questions_whose_answer_is_a_choice(photo_folder: Path) -> None:
    choices = ["a cat", "a dog"]
    for answer in ("A cat.", "B", None):
        assert one(photo_folder, choices=choices, answer=answer).choices == ("a cat", "a dog")
    assert one(photo_folder, choices=choices, answers=["kitten", "cat"]).answers == (
        "kitten",
        "cat",
    )  # one is enough
    assert one(photo_folder, choices='["a cat", "a dog"]').choices == ("a cat", "a dog")  # as our datasets write it
    # A size may be a scaled copy's: its boxes are in the pixels of that size.
    assert one(photo_folder, size=[80, 40], boxes=[[0, 0, 40, 40]], box_space="pixel").boxes == ((0, 0, 0.5, 1),)


def test_a_limit_of_any_length(photo_folder: Path) -> None:
    assert len(read_questions(write(photo_folder, PLAIN, PLAIN), limit=10**21)) == 2


def test_what_is_no_question_is_refused(photo_folder: Path) -> None:
    with pytest.raises(RecordError, match="expected a JSON object, got 3"):
        read_questions(write(photo_folder, 3))
    with pytest.raises(RecordError, match=r"q.jsonl:2: the id 'a' is already used at .*q.jsonl:1"):
        read_questions(write(photo_folder, {"id": "a", **PLAIN}, {"id": "a", **PLAIN}))
    with pytest.raises(RecordError, match="contains no question"):
        read_questions(write(photo_folder))
    with pytest.raises(RecordError, match="cannot read"):
        read_questions(photo_folder / "none.jsonl")
    with pytest.raises(RecordError, match="no such examples file"):
        read_questions(photo_folder)
    (photo_folder / "torn.json").write_text('[{"image": "cat.png"')
    with pytest.raises(RecordError, match="starts like a JSON list"):
        read_questions(photo_folder / "torn.json")


def test_what_cannot_be_loaded_is_said_when_it_is_loaded(photo_folder: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png"):
        one(photo_folder, image="gone.png").load()
    DepthMap(np.zeros((5, 5))).write(photo_folder / "small.png")
    small = one(photo_folder, depth="small.png")
    with pytest.raises(DepthError, match=r"size of its image, 40×20, got 5×5"):
        small.load()
    assert small.load(with_depth=False)[0].size == (40, 20)


def test_depth_files_of_others_are_read_as_told(photo_folder: Path) -> None:
    levels = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (20, 1))
    Image.fromarray(levels).save(photo_folder / "grey.png")
    path = write(photo_folder, {**PLAIN, "depth": "grey.png"})
    near_high = read_questions(path, reading=DepthReading("grey8", "high"))[0].load()[1]
    assert near_high.values[0, 0] == 1
    assert near_high.values[0, -1] == 0
    with pytest.raises(DepthError, match="near"):
        read_questions(path)[0].load()
    with pytest.raises(DepthError, match="unknown depth encoding"):
        DepthReading("colour")  # type: ignore[arg-type]


def test_images_in_memory(ramp: DepthMap) -> None:
    image = Image.new("RGB", (10, 10))
    question = Question("a", image, "What?", depth=ramp)
    assert question.load() == (image, ramp)
    assert (question.image_name(Path()), question.depth_name(Path())) == ("", "")
    assert question.load(with_depth=False) == (image, None)
    with pytest.raises(RecordError, match="answers must be a list of texts, got one text 'red'"):
        Question("a", image, "What?", answers="red")  # type: ignore[arg-type]


def test_other_questions_have_another_identity(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(photo_folder, {**PLAIN, "answer": "cat"}, {**PLAIN, "answer": "dog"})
    questions = read_questions(path)
    same = identity_of(questions, photo_folder)
    assert same == identity_of(read_questions(path), photo_folder)
    assert same != identity_of(questions[::-1], photo_folder)
    assert same != identity_of(questions[:1], photo_folder)
    changed = write(photo_folder, {**PLAIN, "answer": "cat"}, {**PLAIN, "answer": "cow"})
    assert same != identity_of(read_questions(changed), photo_folder)
    # A folder that was moved holds the same questions, whether an image is there or not.
    moved = tmp_path_factory.mktemp("moved")
    (moved / "cat.png").write_bytes((photo_folder / "cat.png").read_bytes())
    write(moved, {**PLAIN, "answer": "cat"}, {**PLAIN, "answer": "dog"})
    assert same == identity_of(read_questions(moved / "q.jsonl"), moved)
    (moved / "cat.png").unlink()
    gone = read_questions(moved / "q.jsonl")
    assert same == identity_of(gone, moved)
    assert (gone[0].file_sizes()[0], questions[0].file_sizes()) == (None, ((photo_folder / "cat.png").stat().st_size, None))
