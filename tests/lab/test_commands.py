"""The commands of the embedded world, and of the product where they meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sifthinker.cli.main import main
from sifthinker.errors import EXTRAS
from sifthinker.files import write_jsonl

from ..test_extras import assert_extra_is_named, assert_torch_is_named, run


def sif(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_scenes_become_chains_that_a_model_is_measured_on(nano: Path, tmp_path: Path) -> None:
    world, chains = tmp_path / "world", tmp_path / "chains"
    assert sif("world", "build", "-n", 7, "-o", world).exit_code == 0
    result = sif("data", "build", world / "records.jsonl", "-o", chains, "--teacher", "scripted", "--decimals", 2)
    assert result.exit_code == 0, result.output
    assert sif("data", "check", chains).exit_code == 0
    result = sif("eval", "world", "--model", nano, "-n", 2, "--max-new-tokens", 5, "-o", tmp_path / "e.json")
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "e.json").read_text())
    assert saved["results"]["valid format"]["count"] == len(saved["rows"]) == 2
    assert "final HIoU" in result.stdout


def test_an_untrained_nano(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert sif("world", "nano", "-o", tmp_path / "nano").exit_code == 0
    assert (tmp_path / "nano" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "build", "r.jsonl", "-o", "out", "--teacher", "scripted"], "is not from the embedded world"),
        (["eval", "world", "--model", "empty"], "config.json is missing"),
    ],
)
def test_misuse(photo_folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(photo_folder)
    Path("empty").mkdir()
    row = {"id": "cat", "image": "cat.png", "question": "What is it?", "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]]}
    write_jsonl("r.jsonl", [row])
    result = sif(*words)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    assert "Traceback" not in result.output


MODEL = {
    "think": ["think", "cat.png", "What is it?", "--depth", "none"],  # the embedded model answers
    "eval": ["eval", "world", "--model", "nano", "-n", "1"],
    "nano": ["world", "nano", "-o", "c"],
    "pack": ["world", "pack", "./model", "-o", "d", "--about", "x"],
}
TRAIN = {
    "pretrain": ["world", "pretrain", "-o", "f"],
    "demo": ["demo", "-o", "g"],
    "study": ["world", "study", "-o", "h"],
}


@pytest.mark.parametrize("missing", ["torch", "transformers", "accelerate", "trl", "peft", "datasets", "pyarrow"])
def test_every_command_names_the_extra_in_one_line(photo_folder: Path, missing: str) -> None:
    (photo_folder / "model").mkdir()
    (photo_folder / "model" / "config.json").write_text("{}")
    assert_extra_is_named(photo_folder, missing, {**MODEL, **TRAIN} if missing in ("torch", "transformers") else TRAIN)


def test_scenes_chains_and_baselines_need_no_extra(tmp_path: Path) -> None:
    commands = [
        ["world", "build", "-n", "3", "-o", "w"],
        ["data", "build", "w/records.jsonl", "-o", "chains", "--teacher", "scripted", "--decimals", "2"],
        ["world", "baselines", "-n", "9"],
    ]
    found = run(tmp_path, sorted(EXTRAS), commands)
    assert [(words, status, stderr) for words, (status, stderr, _) in zip(commands, found, strict=True) if status] == []


@pytest.mark.parametrize(
    "code", ["from sifthinker.lab.nano import build_processor; build_processor()", "import sifthinker.lab.pretrain"]
)
def test_python_callers_get_the_same_message(code: str) -> None:
    assert_torch_is_named(code)
