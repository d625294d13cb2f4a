"""Whose run a folder holds: data and models are told by content, and what another run left is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sifthinker import fingerprint
from sifthinker.errors import ConfigError
from sifthinker.fingerprint import data_fingerprint, model_fingerprint
from sifthinker.training.settings import make_config

pytest.importorskip("trl")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What counts as a model folder before anything is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "examples.jsonl").write_text('{"id": "a"}\n')
    return folder


def test_content_counts_and_places_do_not(model: Path, data: Path, tmp_path: Path) -> None:
    of_model, of_data = model_fingerprint(model), data_fingerprint(data)
    assert of_data == data_fingerprint(data / "examples.jsonl")
    shutil.move(data, tmp_path / "elsewhere")
    assert data_fingerprint(tmp_path / "elsewhere") == of_data
    shutil.move(model, tmp_path / "trained")
    (tmp_path / "trained" / "README.md").write_text("a card")
    assert model_fingerprint(tmp_path / "trained") == of_model
    (tmp_path / "trained" / "config.json").write_text("{ }")
    assert model_fingerprint(tmp_path / "trained") != of_model
    assert (data_fingerprint(tmp_path / "none"), model_fingerprint(tmp_path / "none")) == (None, None)
    assert model_fingerprint("Qwen/Qwen2.5-VL-7B-Instruct") is None


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_one_shape_with_other_numbers(model: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names, sizes and header; of a large file samples are read, its first and last bytes among them."""
    if not whole:
        monkeypatch.setattr(fingerprint, "_WHOLE", 1000)
        monkeypatch.setattr(fingerprint, "_SAMPLE", 16)
    weights, before = model / "model.safetensors", model_fingerprint(model)
    held = weights.read_bytes()
    for changed in (held[:-1] + b"\0", b"\1" + held[1:], held[:1000] + bytes(len(held) - 1000)):
        weights.write_bytes(changed)
        assert model_fingerprint(model) != before
    weights.write_bytes(held)
    assert model_fingerprint(model) == before


def begun(model: Path, data: Path, output: Path) -> None:
    """A run that was interrupted after its first checkpoint."""
    from sifthinker.training.runs import claim, record

    config = make_config({"model": model, "data": data, "output": output}, "sft")
    record(config, claim(config, "sft"))
    (output / "checkpoint-1").mkdir()


def test_the_same_run_goes_on_wherever_its_data_and_model_lie(model: Path, data: Path, tmp_path: Path) -> None:
    begun(model, data, tmp_path / "run")
    begun_again = make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft")
    from sifthinker.training.runs import claim

    assert claim(begun_again, "sft")
    shutil.move(data, tmp_path / "d")
    shutil.copytree(model, tmp_path / "m")
    assert claim(make_config({"model": tmp_path / "m", "data": tmp_path / "d", "output": tmp_path / "run"}, "sft"), "sft")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limit": 5}, "limit was None, now 5"),
        ({"sample": 5}, "sample was None, now 5"),
        ({"max_pixels": 9}, "max_pixels was None, now 9"),
        ({"freeze": "visual"}, r"freeze was \[\], now \['visual'\]"),
        ({"lora": {"r": 2}}, "lora was None, now"),
        ({"rewards": {"depth": 0}}, "rewards was"),
        ({"reward_terms": {"progress": False}}, "reward_terms was"),
    ],
)
def test_what_makes_a_run_another_one(model: Path, data: Path, tmp_path: Path, change: dict, words: str) -> None:
    from sifthinker.training.runs import claim, record

    values = {"model": model, "data": data, "output": tmp_path / "run"}
    record(make_config(values, "grpo"), claim(make_config(values, "grpo"), "grpo"))
    (tmp_path / "run" / "checkpoint-1").mkdir()
    with pytest.raises(ConfigError, match=f"contains another run: {words}"):
        claim(make_config({**values, **change}, "grpo"), "grpo")
    assert claim(make_config({**values, "training": {"learning_rate": 1e-3}}, "grpo"), "grpo")  # may change on the way


def test_a_path_may_be_written_in_another_way(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an older version kept no content to go by."""
    from sifthinker.training.runs import claim

    begun(model, data, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    del kept["content"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)
    assert claim(make_config({"model": "./model", "data": "data/", "output": "run"}, "sft"), "sft")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, data: (data / "examples.jsonl").write_text('{"id": "b"}\n'), "data .* has changed since then"),
        (lambda model, data: (model / "model.safetensors").write_bytes(bytes(256_000)), "model .* has changed since then"),
    ],
)
def test_other_content_at_the_same_path_is_another_run(
    model: Path, data: Path, tmp_path: Path, change: Callable[[Path, Path], object], words: str
) -> None:
    from sifthinker.training.runs import claim

    begun(model, data, tmp_path / "run")
    kept = (tmp_path / "run" / "run.json").read_bytes()
    change(model, data)
    with pytest.raises(ConfigError, match=f"contains another run: {words}"):
        claim(make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft"), "sft")
    assert (tmp_path / "run" / "run.json").read_bytes() == kept
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")  # nothing is left of the other run
    assert claim(make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft"), "sft")


def test_a_run_of_an_older_version_goes_on(
    model: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sifthinker.training.runs import claim, record

    begun(model, data, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    older = json.loads(path.read_text())
    del older["content"]
    path.write_text(json.dumps(older))
    config = make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft")
    with caplog.at_level(logging.WARNING):
        record(config, claim(config, "sft"))
    assert "is from an older version and has no fingerprint of data" in caplog.text
    assert "changed settings" not in caplog.text
    caplog.clear()
    assert claim(config, "sft")  # from here on it does
    assert caplog.text == ""
    path.write_text(json.dumps({**older, "data": "other"}))
    with pytest.raises(ConfigError, match="data was 'other'"):
        claim(config, "sft")


@pytest.mark.parametrize("name", ["README.md", "config.json", "model-00001-of-00002.safetensors", "history.jsonl"])
def test_a_folder_with_something_of_somebody_else_is_refused(model: Path, data: Path, tmp_path: Path, name: str) -> None:
    from sifthinker.training.runs import claim, claim_parts

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(ConfigError, match="was not written by a sif run, and this run would overwrite it"):
        claim(make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft"), "sft")
    with pytest.raises(ConfigError, match="was not written by a sif run, and this run would overwrite it"):
        claim_parts(tmp_path / "run", {"stage": "pretrain"})
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def test_a_finished_run_needs_its_data_no_more(model: Path, data: Path, tmp_path: Path) -> None:
    from sifthinker.training.runs import claim

    begun(model, data, tmp_path / "run")
    (tmp_path / "run" / "finished.json").write_text("{}")
    shutil.rmtree(data)
    assert not claim(make_config({"model": model, "data": data, "output": tmp_path / "run"}, "sft"), "sft")
