"""Every reason for leaving a record out, each by a record that has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.coordinates import Resizer
from sifthinker.depth import DepthMap
from sifthinker.engine import compose
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import GivenDepth, NoDepth
from sifthinker.engine.recipe import Recipe, read_recipe
from sifthinker.engine.settings import BuildSettings
from sifthinker.engine.sources import read_source
from sifthinker.engine.teachers import CHECKS, Attempt, Task
from sifthinker.errors import EndpointError
from sifthinker.files import write_jsonl
from sifthinker.records import REJECTS, Record, Reject
from sifthinker.responses import Reply

from .test_published import COCO, REFCOCO, write

GOOD: dict[str, Any] = {
    "id": "good",
    "image": "cat.png",
    "question": "What?",
    "answer": "cat",
    "boxes": [[0.1, 0.2, 0.5, 0.6]],
}

# Reason → the change that makes a good line one that is left out for it; None takes a key away.
CHANGES: dict[str, dict[str, Any]] = {
    "missing_key": {"boxes": None},
    "unknown_key": {"colour": "red"},
    "bad_record": {"choices": "x"},
    "bad_text": {"question": "half \ud83d"},
    "tag_in_answer": {"answer": "<area>"},
    **{f"blank_{name}": {name: " "} for name in ("id", "image", "question", "answer", "dataset", "split")},
    "no_box": {"boxes": []},
    "bad_box": {"boxes": [["a", 0, 1, 1]]},
    "degenerate_box": {"boxes": [[0.5, 0.2, 0.1, 0.6]]},
    "box_outside": {"boxes": [[1.2, 0.2, 1.5, 0.6]]},
    "duplicate_id": {"id": "good", "question": "Other?"},
    "duplicate": {"question": "what?"},
    "excluded": {"image": "kept-out.png"},
    "bad_path": {"image": "a\0b.png"},
    "path_outside_root": {"image": "../cat.png"},
    "missing_image": {"image": "none.png"},
    "broken_image": {"image": "broken.png"},
    "size_mismatch": {"size": [400, 300], "question": "Size?"},
    "bad_depth": {"depth": "none.depth.png", "question": "Depth?"},
    "depth_hole": {"depth": "holes.png", "question": "Hole?"},
    "depth_too_near": {"depth": "near.png", "question": "Near?"},
}


class Teacher:
    """Says what a record's answer names, or the right thing."""

    name = "test"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str | Reply:
        good = {"thoughts": ["I look."] * len(task.focuses), "answer": task.record.answer}
        last = len(task.focuses) - 1
        match task.record.answer:
            case "not_json":
                return "rubbish"
            case "count":
                return json.dumps({**good, "thoughts": ["I look."] * (last + 2)})
            case "answer":
                return json.dumps({**good, "answer": "something else"})
            case "endpoint":
                raise EndpointError("down", "timeout", 3)
            case "refused_request":
                raise EndpointError("too large", "status_413", 1, "request")
            case "cut_off" | "refused" | "no_content" as code:
                return Reply("", code=code, reason=code)
            case "ambiguous":
                return json.dumps(good) + json.dumps({**good, "note": "?"})
            case "blank" | "leak" | "length" | "tag" | "placeholder" as code:
                said = {"blank": " ", "leak": "the green box", "length": "word " * 200, "tag": "<area>"}.get(code, "<image>")
                return json.dumps({**good, "thoughts": ["I look."] * last + [said]})
        return json.dumps(good)


def rejects(items: Any) -> list[str]:
    return [item.code for item in items if isinstance(item, Reject)]


def test_every_reason_is_met(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photo_folder / "broken.png").write_bytes(b"\x89PNG rubbish")
    Image.new("RGB", (40, 20)).save(photo_folder / "kept-out.png")
    DepthMap(np.ones((20, 40)), np.zeros((20, 40))).write(photo_folder / "holes.png")
    DepthMap(np.full((20, 40), 0.0045)).write(photo_folder / "near.png")  # 0.004 and 0.005 are both 11 % off
    lines = [json.dumps(GOOD), "rubbish", "[1]"]
    for code, change in CHANGES.items():
        row = {**GOOD, "id": code, **change}
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}))
    for code in CHECKS:
        lines.append(json.dumps({**GOOD, "id": f"teacher {code}", "question": code, "answer": code}))
    source = photo_folder / "records.jsonl"
    source.write_text("\n".join(lines))
    (tmp_path / "exclude.txt").write_text("kept-out.png\n")
    recipe = Recipe(
        BuildSettings(
            sources=["records.jsonl"],
            folder=photo_folder,
            images=photo_folder,
            output="out",
            exclude=[tmp_path / "exclude.txt"],
        )
    )
    out = tmp_path / "out"
    counts = Engine(photo_folder, GivenDepth(), Teacher()).build(lambda: read_recipe(recipe), out)
    assert counts.accepted == 1
    rows = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    wanted = ["not_json", "not_an_object", *CHANGES, *(f"teacher_{code}" for code in CHECKS)]
    assert [row["code"] for row in rows] == wanted
    assert [row for row in rows if not row["source"].startswith("records.jsonl:")] == []
    assert [row for row in rows if row["source"] in row["reason"]] == []
    (answered,) = (row["reason"] for row in rows if row["code"] == "teacher_answer")
    assert answered == (
        "unusable reply of the teacher: the answer 'something else' disagrees with the true answer, and must state only "
        "that; expected 'answer'"
    )
    tries = [len(row["attempts"]) for row in rows if row["code"].startswith("teacher_")]
    once = ("cut_off", "refused", "no_content", "refused_request", "endpoint")
    assert tries == [1 if code in once else 3 for code in CHECKS]
    met = set(wanted)

    # What only the forms of others can have.
    met |= set(rejects(read_source(write(tmp_path / "i.json", COCO))))
    met |= set(rejects(read_source(write(tmp_path / "many.json", {**COCO, "annotations": COCO["annotations"][:1] * 21}))))
    spoilt = {
        **COCO,
        "images": [*COCO["images"], {**COCO["images"][1], "id": 3}],
        "annotations": [{"image_id": 9, "category_id": 5, "bbox": [0, 0, 5, 5]}, COCO["annotations"][3]],
    }
    met |= set(rejects(read_source(write(tmp_path / "spoilt.json", spoilt))))
    met |= set(rejects(read_source(write(tmp_path / "r.jsonl", {**REFCOCO, "img_path": None}), format="refcoco")))
    asked = [
        {"image": image, "question_id": 1, "question": question, "answer": 9, "issimple": True}
        for image, question in (
            ("a.jpg", "How many dogs?"), ("a.jpg", "How many elks?"), ("x/9.jpg", "How many dogs?"),
            ("a.jpg", "How many dog bowls?"),
        )
    ]  # fmt: skip
    met |= set(rejects(read_source(write(tmp_path / "t.json", asked), instances=tmp_path / "i.json")))
    spoken = {
        "image": ["cot/vsr/cat.png", "cot/vsr/cat.png###[0, 0, 9, 9]"],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "[0.5, 0.5, 0.9, 0.7]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "cat"},
        ],
    }
    (photo_folder / "cot/vsr").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(photo_folder / "cot/vsr/cat.png")
    conversations = write(tmp_path / "c.json", [spoken])
    met |= set(rejects(read_source(conversations))) | set(rejects(read_source(conversations, images=photo_folder)))

    # What the engine itself would have to get wrong.
    record = Record.from_json(GOOD)
    monkeypatch.setattr(compose, "check_chain", lambda chain, **how: ["wrong"])
    (found,) = [asyncio.run(Engine(photo_folder, GivenDepth(), Teacher()).example(record, tmp_path / "o"))]
    met |= set(rejects([found]))

    # What no processor of the model to be trained would take.
    Image.new("RGB", (402, 2)).save(photo_folder / "narrow.png")
    narrow = replace(record, image="narrow.png")
    engine = Engine(photo_folder, NoDepth(), Teacher(), coordinates="resized", resizer=Resizer())
    met |= set(rejects([asyncio.run(engine.example(narrow, tmp_path / "o"))]))
    assert met == set(REJECTS) | {f"teacher_{code}" for code in CHECKS}


@pytest.mark.parametrize("code", ["because", "teacher", "typo", ""])
def test_a_reason_that_nobody_knows_is_a_fault(code: str) -> None:
    with pytest.raises(KeyError, match="not a reason code"):
        Reject("f:1", "r", code, "words")


def test_an_image_is_excluded_by_its_content_too(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "renamed.png").write_bytes((photo_folder / "cat.png").read_bytes())
    write_jsonl(photo_folder / "records.jsonl", [GOOD])
    recipe = Recipe(
        BuildSettings(
            sources=["records.jsonl"], folder=photo_folder, images=photo_folder, output="out", exclude=[tmp_path / "bench"]
        )
    )
    engine = Engine(photo_folder, GivenDepth(), Teacher(), exclude=recipe.excluded.hashes)
    assert dict(engine.build(lambda: read_recipe(recipe), tmp_path / "out").rejected) == {"excluded": 1}
