"""Scoring saved completions: statistics by hand, and no more in memory than the scores need."""

from __future__ import annotations

import json
import math
import weakref
from pathlib import Path

import numpy as np
import pytest

from sifthinker import depth_cache
from sifthinker.depth import DepthMap
from sifthinker.depth_cache import DepthCache
from sifthinker.evaluation.completions import score_file, summarise_scores
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import Score, Scores

CHAIN = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8],"depth":0.5}]</area><text>a</text></think><answer>cat</answer>'


def test_statistics_by_hand() -> None:
    right, wrong, none = Score(1.0), Score(0.0, {}, ("judged_exact",)), Score(None, {}, ("no_depth",))
    found = summarise_scores(iter([Scores(right, right, right, none), Scores(right, wrong, wrong, none)]))
    assert list(found) == ["format", "answer", "grounding"]  # nothing has a depth reward
    answer = found["answer"]
    assert (answer.count, answer.mean, answer.std, answer.low, answer.high) == (2, 0.5, 0.5, 0, 1)
    assert answer.reasons == {"judged_exact": 1}
    assert summarise_scores([]) == {}


def test_a_map_is_held_no_longer_than_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number in range(20):
        DepthMap(np.full((50, 50), 0.5)).write(tmp_path / f"{number}.png")
        rows.append({"completion": CHAIN, "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]], "depth": f"{number}.png"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    maps: list[weakref.ref[DepthMap]] = []
    full = DepthMap(np.zeros((50, 50))).full_nbytes
    monkeypatch.setattr(depth_cache, "_cache", DepthCache(3 * full))
    read = depth_cache.dataset_depth

    def watched(path: str) -> DepthMap:
        found = read(path)
        maps.append(weakref.ref(found))
        return found

    monkeypatch.setattr(depth_cache, "dataset_depth", watched)
    scored = list(score_file(tmp_path / "rows.jsonl"))
    assert [item.scores.depth.value for item in scored] == [1] * 20
    assert scored[0].depth == str(tmp_path / "0.png")
    held = [found for ref in maps if (found := ref()) is not None]
    assert len(maps) == 20
    assert sum(depth.nbytes for depth in held) <= 3 * full
    assert len(held) <= math.ceil(3 * full / (50 * 50 * 4))


def test_a_completion_is_held_against_its_example(chains: Path, tmp_path: Path) -> None:
    example = next(read_examples(chains))
    letter = "AB"[example.choices.index(example.answer)]  # right only where the example's choices are known
    rows = [
        {"id": example.id, "completion": f"<answer>{letter}</answer>", "answer": "something else"},
        {"id": example.id, "completion": example.chain},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, gold = score_file(tmp_path / "rows.jsonl", chains)
    assert (first.id, first.question, first.answer, first.images) == (
        example.id, example.problem, example.answer, example.images,
    )  # fmt: skip
    assert first.scores.answer.value == 1
    assert [getattr(gold.scores, name).value for name in ("format", "answer", "depth")] == [1, 1, 1]


def test_a_completion_with_its_own_reference_is_named_by_its_place(tmp_path: Path) -> None:
    row = {"completion": CHAIN, "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]], "images": ["i.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": 7}) + "\n")
    first, second = score_file(tmp_path / "rows.jsonl")
    assert (first.id, second.id) == (f"{tmp_path / 'rows.jsonl'}:1", "7")
    assert first.images == (str(tmp_path / "i.png"),)
    assert first.scores.format.reasons == ("unknown_key",)  # without a depth map a stated depth is a fault
