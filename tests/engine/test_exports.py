"""Each export, opened by the loader it is meant for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.engine.exports import FORMS, export
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import read_jsonl, write_jsonl
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.scoring.swift import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding
from sifthinker.scoring.verl import compute_score

datasets = pytest.importorskip("datasets")


@pytest.fixture
def examples(chains: Path) -> list:
    return list(read_examples(chains))


def test_trl(chains: Path, examples: list, tmp_path: Path) -> None:
    assert export(chains, tmp_path / "x", "trl") == 18
    found = datasets.load_from_disk(tmp_path / "x")
    assert found["id"] == [example.id for example in examples]
    assert found["problem"] == [example.problem for example in examples]
    assert found[0]["completion"] == [{"role": "assistant", "content": examples[0].chain}]
    assert [image.size for image in found[0]["images"]] == [(64, 64), (64, 64)]
    from sifthinker import AnswerReward, depth_reward, format_reward, grounding_reward

    columns = {name: found[name] for name in ("id", "answer", "boxes", "choices", "depth")}
    completions = [row["completion"] for row in found]
    assert format_reward(completions, **columns) == [1] * 18
    assert AnswerReward()(completions, **columns) == [1] * 18
    assert depth_reward(completions, **columns) == [1] * 18
    assert min(grounding_reward(completions, **columns)) >= 1


def test_verl(chains: Path, tmp_path: Path) -> None:
    shutil.copytree(chains, tmp_path / "val")
    rows = (tmp_path / "val" / "examples.jsonl").read_text()
    (tmp_path / "val" / "examples.jsonl").write_text(rows.replace('"split":"train"', '"split":"val"'))
    examples = list(read_examples(tmp_path / "val"))
    assert export(tmp_path / "val", tmp_path / "x", "verl") == 18
    found = datasets.load_dataset("parquet", data_files=str(tmp_path / "x" / "train.parquet"), split="train")
    row = found[3]
    assert row["prompt"][0]["content"].startswith("<image><image>The first image")
    assert row["images"][0]["bytes"] == Path(examples[3].images[0]).read_bytes()
    assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (examples[3].id, "val")
    score = compute_score(row["data_source"], row["extra_info"]["chain"], row["reward_model"]["ground_truth"])
    assert score["format"] == score["answer"] == score["depth"] == 1


def test_hub(chains: Path, examples: list, tmp_path: Path) -> None:
    assert export(chains, tmp_path / "x", "hf") == 18
    found = datasets.load_dataset(str(tmp_path / "x"), split="train")
    row = found[5]
    assert row["messages"][1]["content"] == examples[5].chain
    assert row["images"][0].size == (64, 64)
    assert row["depth"].mode.startswith("I")  # 16 bits
    assert json.loads(row["provenance"])["teacher"] == "blocks:1"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["data"]


def test_llamafactory(chains: Path, examples: list, tmp_path: Path) -> None:
    """Its documented ShareGPT layout: turns from human and gpt, as many <image> as images, files below media_dir."""
    assert export(chains, tmp_path / "x", "llamafactory") == 18
    described = json.loads((tmp_path / "x" / "dataset_info.json").read_text())["sif"]
    assert described["formatting"] == "sharegpt"
    turns, images = described["columns"]["messages"], described["columns"]["images"]
    found = datasets.load_dataset("json", data_files=str(tmp_path / "x" / described["file_name"]), split="train")
    for row, example in zip(found, examples, strict=True):
        asked, told = row[turns]
        assert (asked["from"], told["from"], told["value"]) == ("human", "gpt", example.chain)
        assert asked["value"].count("<image>") == len(row[images]) == 2
        for image, ours in zip(row[images], example.images, strict=True):
            assert (tmp_path / "x" / image).samefile(ours), "another name of the same file costs no disk"


def test_swift(chains: Path, examples: list, tmp_path: Path) -> None:
    """Its standard messages and, as columns, what its plugin's rewards are called with; all paths are absolute."""
    assert export(chains, tmp_path / "x", "swift") == 18
    found = datasets.load_dataset("json", data_files=str(tmp_path / "x" / "train.jsonl"), split="train")
    for row, example in zip(found, examples, strict=True):
        asked, told = row["messages"]
        assert (asked["role"], asked["content"]) == ("user", "<image><image>" + example.prompt)
        assert (told["role"], told["content"]) == ("assistant", example.chain)
        assert row["images"] == list(example.images)
        assert all(Path(place).is_absolute() for place in [*row["images"], row["depth"]])
    columns = {name: found[name] for name in ("answer", "boxes", "choices", "depth")}
    chains_alone = [example.chain for example in examples]
    for reward in (SwiftFormat, SwiftAnswer, SwiftDepth):
        assert reward(args=None)(chains_alone, **columns) == [1] * 18
    assert min(SwiftGrounding(args=None)(chains_alone, **columns)) >= 1


def exported(folder: Path, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The chain of each row of an export, and what its own row tells the rewards of it."""
    if form == "trl":
        for row in datasets.load_from_disk(folder).remove_columns("images"):
            yield row["completion"][0]["content"], row
    elif form == "hf":
        for row in datasets.load_dataset(str(folder), split="train").remove_columns("images"):
            yield row["messages"][1]["content"], row
    elif form == "verl":
        file = str(folder / "train.parquet")
        for row in datasets.load_dataset("parquet", data_files=file, split="train").remove_columns("images"):
            yield row["extra_info"]["chain"], json.loads(row["reward_model"]["ground_truth"])
    elif form == "swift":
        for _, row in read_jsonl(folder / "train.jsonl"):
            yield row["messages"][1]["content"], row
    else:
        for row in json.loads((folder / "sif.json").read_text()):
            yield row["conversations"][1]["value"], row


@pytest.mark.parametrize("space", ["unit", "per_mille", "resized"])
@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"coco", "label-studio"}))  # those of trainers
def test_a_row_tells_the_rewards_all_that_its_gold_chain_earns(
    form: str, space: str, chains_in: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever is left out of a row, such as the coordinates of its chain, costs the chain its rewards."""
    examples = list(read_examples(chains_in(space)))
    assert export(chains_in(space), tmp_path / "x", form) == 6
    found = list(exported(tmp_path / "x", form))
    assert [chain for chain, _ in found] == [example.chain for example in examples]
    for (chain, row), example in zip(found, examples, strict=True):
        if form == "llamafactory":  # trained on and not rewarded: its rows hold no truth, but how chains are read
            row |= {"answer": example.answer, "boxes": example.boxes, "depth": example.depth}
        elif form == "hf":  # its depth is an image in the table, and no path
            row["depth"] = example.depth
        scores = score_completion(chain, reference_from(row))
        assert scores.format.value == scores.answer.value == scores.depth.value == 1
        assert scores.grounding.value >= 1
    if form == "swift":
        rows = [row for _, row in found]
        columns = {name: [row.get(name) for row in rows] for name in rows[0].keys() - {"messages", "images"}}
        texts = [chain for chain, _ in found]
        for reward in (SwiftFormat, SwiftAnswer, SwiftDepth):
            assert reward(args=None)(texts, **columns) == [1] * 6
        assert min(SwiftGrounding(args=None)(texts, **columns)) >= 1


def test_the_command(chains: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x")
    result = CliRunner().invoke(main, ["data", "export", str(chains), "--to", "llamafactory", "-o", out])
    assert result.exit_code == 0, result.output
    assert "18 examples" in result.stderr
    assert FORMS["llamafactory"].replace("FOLDER", out) in result.stderr


def test_misuse(chains: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        export(chains, tmp_path / "x", "trl")
    (tmp_path / "examples.jsonl").write_text("")
    with pytest.raises(RecordError, match="contains no example"):
        export(tmp_path, tmp_path / "y", "trl")


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_image_is_named_and_nothing_is_left(chains: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(chains, tmp_path / "chains")
    gone = sorted((tmp_path / "chains" / "images").iterdir())[-1]
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(RecordError, match=gone.name):
        export(tmp_path / "chains", tmp_path / "out", form)
    assert list((tmp_path / "out").iterdir()) == []
    gone.write_bytes(content)
    assert export(tmp_path / "chains", tmp_path / "out", form) == len(list(read_examples(chains)))


def test_images_of_one_name_stay_apart(chains: Path, tmp_path: Path) -> None:
    rows = []
    for number, (_, row) in zip((1, 2), read_jsonl(chains / "examples.jsonl"), strict=False):
        places = [f"{number}/{folder}/same.png" for folder in ("images", "depth")]
        for image, place in zip(row["images"], places, strict=True):
            (tmp_path / "d" / place).parent.mkdir(parents=True)
            shutil.copyfile(chains / image, tmp_path / "d" / place)
        rows.append({**row, "images": places, "depth": places[1]})
    write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
    export(tmp_path / "d", tmp_path / "out", "llamafactory")
    exported = json.loads((tmp_path / "out" / "sif.json").read_text())
    for row, made in zip(rows, exported, strict=True):
        for ours, theirs in zip(row["images"], made["images"], strict=True):
            assert (tmp_path / "out" / theirs).read_bytes() == (tmp_path / "d" / ours).read_bytes()
