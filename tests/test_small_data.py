"""The tests' own dataset and model are what the other tests take them for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.depth import DepthMap
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import Reference, score_completion

from .small_data import WALL_DEPTH


def test_answers_are_true_and_gold_chains_earn_every_reward(chains: Path) -> None:
    for example in read_examples(chains):
        assert example.depth is not None
        depth = DepthMap.read(example.depth)
        means = depth.mean(example.boxes).tolist()
        assert all(mean < WALL_DEPTH - 0.05 for mean in means)  # a block fills each box
        if example.family == "count":
            assert example.answer == str(len(example.boxes))
        elif example.family == "side":
            assert example.answer == ("left" if example.boxes[0][0] < example.boxes[1][0] else "right")
        else:
            assert example.answer == example.choices[means.index(min(means))]
        reference = Reference(example.answer, example.boxes, depth, example.choices)
        scores = score_completion(example.chain, reference)
        assert (scores.format.value, scores.answer.value, scores.depth.value) == (1, 1, 1)
        assert scores.grounding.value is not None
        assert scores.grounding.value >= 1


def test_chains_are_short_for_the_tiny_model_and_survive_its_tokenizer(tiny_vlm: Path, chains: Path) -> None:
    pytest.importorskip("torch")
    from sifthinker.models import load_processor

    tokenizer = load_processor(tiny_vlm).tokenizer
    for example in read_examples(chains):
        tokens = tokenizer(example.chain)["input_ids"]
        assert tokenizer.decode(tokens) == example.chain
        assert len(tokens) <= 140
        assert len(tokenizer(example.prompt)["input_ids"]) <= 20  # the task is one token
    for text in ("ünïcode 漢字 \t\n <area>[{", "0.123 1.00 12.5"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
