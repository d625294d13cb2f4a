"""The engine's work on a local Ray: the same set of results, journal and budget as in one process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifthinker.endpoint import Endpoint
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import GivenDepth
from sifthinker.engine.ray import Cluster, _work
from sifthinker.engine.settings import Expansion
from sifthinker.engine.sources import read_source
from sifthinker.engine.teachers import OpenAITeacher
from sifthinker.errors import BudgetError, ConfigError, EndpointError, SIFError
from sifthinker.records import Record, Reject

from ..small_data import BlockTeacher, write_records
from ..stand_in import serve, thoughts


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    """One Ray for all tests here: starting it takes seconds."""
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=200_000_000
    )
    yield
    ray.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_dataset_comes_out(tmp_path: Path) -> None:
    source = write_records(tmp_path / "raw", 90)
    (tmp_path / "raw/images/2.png").unlink()
    with open(source, "a") as stream:
        stream.write("rubbish\n")
    engine = Engine(tmp_path / "raw", GivenDepth(), BlockTeacher(), Expansion(decimals=2))
    here = engine.build(lambda: read_source(source), tmp_path / "here")
    there = engine.build(lambda: read_source(source), tmp_path / "there", runner=Cluster(workers=2, batch=16))
    assert here == there
    assert here.rejected == {"missing_image": 1, "not_json": 1}
    assert here.accepted == 89
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_an_interrupted_build_goes_on_there(tmp_path: Path) -> None:
    source = write_records(tmp_path / "raw", 40)
    engine = Engine(tmp_path / "raw", GivenDepth(), BlockTeacher(), Expansion(decimals=2))
    engine.build(lambda: read_source(source), tmp_path / "whole")

    def half(counts: object) -> None:
        if counts.done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.build(lambda: read_source(source), tmp_path / "out", progress=half)
    begun = len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) - 1
    assert 0 < begun < 40
    engine.build(lambda: read_source(source), tmp_path / "out", runner=Cluster(workers=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_costs_of_the_workers_are_added_up_and_bounded(photo_folder: Path, tmp_path: Path) -> None:
    def items() -> Iterator[Record | Reject]:
        for number in range(60):
            yield Record(f"r{number}", "cat.png", "What?", "cat", ((0.1, 0.2, 0.5, 0.6),), source=f"f:{number}")

    with serve(lambda request, number: time.sleep(0.1) or thoughts(request, "cat")) as (url, requests):
        endpoint = Endpoint(url, "vlm", prompt_price=100, completion_price=100)
        engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(endpoint))
        cluster = Cluster(workers=1, batch=5)
        with pytest.raises(BudgetError, match="greater --budget"):
            engine.build(items, tmp_path / "out", budget=0.2, runner=cluster)
        assert 16 <= len(requests) < 45
        with pytest.raises(BudgetError):  # what is left of it is worth a few records, no more
            engine.build(items, tmp_path / "out", budget=0.6, runner=cluster)
        assert 40 <= len(requests) < 60
        counts = engine.build(items, tmp_path / "out", budget=9, runner=cluster)
    assert counts.accepted == 60
    assert counts.usage.requests == len(requests) == 60
    assert json.loads((tmp_path / "out" / "usage.json").read_text())["requests"] == 60


def test_what_a_worker_refuses_is_told(photo_folder: Path, tmp_path: Path) -> None:
    """The blocks' teacher knows no other records; parts of a build that was killed are not worked on again."""
    (tmp_path / "out" / ".waiting").mkdir(parents=True)
    (tmp_path / "out" / ".waiting" / "000009.jsonl").write_text("rubbish")
    record = Record("r", "cat.png", "What?", "cat", ((0.1, 0.2, 0.5, 0.6),))
    with pytest.raises(ConfigError, match="their teacher knows no other"):
        Engine(photo_folder, GivenDepth(), BlockTeacher()).build(
            lambda: iter([record]), tmp_path / "out", runner=Cluster(workers=1)
        )


def test_a_wrong_setup_stops_the_workers_and_keeps_what_is_finished(photo_folder: Path, tmp_path: Path) -> None:
    """The account's credit ends after seven records; once there is more, the build goes on, here inside a running loop."""

    def items() -> Iterator[Record]:
        for number in range(40):
            yield Record(f"r{number}", "cat.png", "What?", "cat", ((0.1, 0.2, 0.5, 0.6),), source=f"f:{number}")

    def answer(request: dict, number: int) -> object:
        return thoughts(request, "cat") if number < 7 else (402, {}, "no credit")

    out, cluster = tmp_path / "out", Cluster(workers=1, batch=10)
    with serve(answer) as (url, requests):
        engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(Endpoint(url, "vlm")), concurrency=1)
        with pytest.raises(EndpointError, match=r'"no credit"\. Add credit.* 7 records are finished') as caught:
            engine.build(items, out, runner=cluster)
        assert (caught.value.kind, caught.value.code) == ("setup", "status_402")
        assert 8 <= len(requests) <= 11  # a block that was under way may have asked once more
    assert len((out / "examples.jsonl").read_text().splitlines()) == 7

    async def cell(url: str) -> int:
        engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(Endpoint(url, "vlm")))
        return engine.build(items, out, runner=cluster).accepted

    with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
        assert asyncio.run(cell(url)) == 40
        assert len(requests) == 33


def test_a_cluster_that_is_not_there(photo_folder: Path, tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    engine = Engine(photo_folder, GivenDepth(), BlockTeacher())
    record = Record("r", "cat.png", "What?", "cat", ((0.1, 0.2, 0.5, 0.6),))
    with pytest.raises(ConfigError, match="cannot be used"):
        engine.build(lambda: iter([record]), tmp_path / "out", runner=Cluster("127.0.0.1:9"))
    assert not (tmp_path / "out" / ".waiting").exists()


def test_an_error_ends_the_records_in_progress(photo_folder: Path, tmp_path: Path) -> None:
    """Before the teacher's connections close; otherwise the others fail because of that."""
    ended: list[str] = []

    class Failing(BlockTeacher):
        async def reply(self, task: object, earlier: object) -> str:
            if task.record.id == "r0":
                await asyncio.sleep(0.2)
                raise SIFError("the disk is full")
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(task.record.id)
            return ""

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *error: object) -> None:
            ended.append("closed")

    records = [Record(f"r{n}", "cat.png", "What?", "cat", ((0.1, 0.2, 0.5, 0.6),), source=f"f:{n}") for n in range(9)]
    engine = Engine(photo_folder, GivenDepth(), Failing(), concurrency=3)
    with pytest.raises(SIFError, match="disk is full"):
        asyncio.run(_work(engine, records, tmp_path / "out"))
    assert (sorted(ended[:-1]), ended[-1]) == (["r1", "r2"], "closed")
