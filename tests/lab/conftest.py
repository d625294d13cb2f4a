"""Fixtures of the embedded world's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano model folder with random weights, smaller than the shipped shape."""
    pytest.importorskip("transformers")
    from sifthinker.lab.nano import write_nano

    folder = tmp_path_factory.mktemp("nano")
    write_nano(folder, width=64, vision_layers=1, text_layers=2)
    return folder


@pytest.fixture(scope="session")
def world_chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 18 world examples, two of each family."""
    from sifthinker.engine.build import Engine
    from sifthinker.engine.estimators import GivenDepth
    from sifthinker.engine.settings import Expansion
    from sifthinker.engine.sources import read_source
    from sifthinker.lab.questions import write_world
    from sifthinker.lab.teacher import ScriptedTeacher

    folder = tmp_path_factory.mktemp("world")
    records = write_world(folder / "raw", 18)
    engine = Engine(folder / "raw", GivenDepth(), ScriptedTeacher(), Expansion(decimals=2))
    counts = engine.build(lambda: read_source(records), folder / "chains")
    assert counts.accepted == 18
    return folder / "chains"
