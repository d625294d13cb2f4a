"""The engine's work on Ray Data: the same records in, the same results out, on one machine's cores or a cluster's.

Workers read images and write the dataset's pictures themselves, so both folders must lie where every machine finds them
under the same path. The journal, and with it resuming, stays with the process that started the build.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.errors import ConfigError, ModelError, SIFError, need
from sifthinker.files import atomic_write, make_folder, to_json
from sifthinker.records import Example, Record, Reject

if TYPE_CHECKING:
    from sifthinker.engine.build import Engine, Feed

_KINDS = {Example: "example", Reject: "reject", type(None): "stopped"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A `build.Runner` on Ray.

    Args:
        address: of a running cluster, for instance `auto`; None starts Ray on this machine for the build.
        workers: processes that work on records, each on the engine's `concurrency` records at once; by default one a CPU.
        gpus: of one worker, for depth models and local teachers; may be a fraction.
        batch: records that a worker takes at once, at least twice the engine's concurrency.
    Raises:
        MissingExtraError: Ray is not installed.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0
    batch: int = 64

    def __post_init__(self) -> None:
        need("the Ray engine", "ray")

    def __call__(self, engine: Engine, feed: Feed, out: Path) -> None:
        """Work through the records.

        Raises:
            ConfigError: the cluster cannot be reached.
            SIFError: what a worker raised.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        engine = replace(engine, root=engine.root.absolute())  # workers may start elsewhere
        out = out.absolute()
        waiting = out / ".waiting"
        shutil.rmtree(waiting, ignore_errors=True)  # of a build that was killed
        make_folder(waiting)
        started = not ray.is_initialized()
        try:
            parts = _write_parts(engine, feed, out, waiting, max(self.batch, 2 * engine.concurrency))
            if not parts:
                return
            if started:
                self._greet()
                try:
                    ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
                except (ConnectionError, RuntimeError, ValueError) as error:
                    raise ConfigError(f"Ray at {self.address or 'this machine'} cannot be used: {error}") from None
            ray.data.DataContext.get_current().enable_progress_bars = False
            workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            stop = ray.remote(num_cpus=0)(_Stop).remote()
            # A block for each part: a worker's results come when it is done with a block.
            records = ray.data.read_json(str(waiting), file_extensions=["jsonl"], lines=True, override_num_blocks=parts)
            results = records.map_batches(
                _Worker,
                fn_constructor_args=(engine, out, stop),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                batch_size=None,
                num_gpus=self.gpus or None,
            )
            for row in results.iter_rows():
                if row["kind"] == "stopped":
                    continue
                if row["kind"] == "error":
                    kind, message = json.loads(row["result"])
                    raise {"ConfigError": ConfigError, "ModelError": ModelError}.get(kind, SIFError)(message)
                value = json.loads(row["result"])
                result = (
                    Example.from_json(value)
                    if row["kind"] == "example"
                    else Reject(**{**value, "attempts": tuple(value["attempts"])})
                )
                feed.take(int(row["index"]), result, json.loads(row["used"]))
                if feed.spent:
                    stop.set.remote()  # what is under way comes to an end and is kept
        finally:
            if started:
                ray.shutdown()
            shutil.rmtree(waiting, ignore_errors=True)

    def _greet(self) -> None:
        """See that somebody listens at `host:port`: Ray itself tries for many minutes."""
        host, _, port = (self.address or "").rpartition(":")
        if not host or "/" in host or not port.isdigit():
            return
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"Ray at {self.address} cannot be used: {error}") from None


def _write_parts(engine: Engine, feed: Feed, out: Path, folder: Path, size: int) -> int:
    """Write the records into files of `size` lines, which Ray reads as it needs them, and return how many files there are.
    Rejects are done already, and so is a first record where nobody knows yet what one costs."""

    def lines() -> Iterator[str]:
        for index, item in feed:
            if isinstance(item, Reject):
                feed.take(index, item, {})
            elif feed.unpriced:
                before = copy.copy(engine.usage)
                (result,) = asyncio.run(_work(engine, [item], out))
                assert result is not None
                feed.take(index, result, engine.usage.since(before))
            else:
                yield to_json({"index": index, "record": to_json(item.to_json())})

    rest, parts = lines(), 0
    while part := list(itertools.islice(rest, size)):
        atomic_write(folder / f"{parts:06}.jsonl", "\n".join(part) + "\n")
        parts += 1
    return parts


class _Stop:
    """Says to all workers that no record may be begun any more."""

    def __init__(self) -> None:
        self._stopped = False

    def set(self) -> None:
        self._stopped = True

    def get(self) -> bool:
        return self._stopped


class _Worker:
    """One of Ray's processes."""

    def __init__(self, engine: Engine, out: Path, stop: Any) -> None:
        self._engine = engine
        self._out = out
        self._stop = stop

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """index, record → index, kind, result, used (by the whole batch, in the first row that was worked on); or one row of
        kind `error` with what was raised."""
        records = [Record.from_json(json.loads(text)) for text in batch["record"]]
        before = copy.copy(self._engine.usage)
        try:
            results = asyncio.run(_work(self._engine, records, self._out, self._stop))
        except SIFError as error:  # Ray would wrap it in pages of its own
            message = to_json([type(error).__name__, str(error)])
            return {"index": [batch["index"][0]], "kind": ["error"], "result": [message], "used": [to_json({})]}
        used = [to_json({})] * len(results)
        first = next((number for number, result in enumerate(results) if result is not None), 0)
        used[first] = to_json(self._engine.usage.since(before))
        return {
            "index": list(batch["index"]),
            "kind": [_KINDS[type(result)] for result in results],
            "result": ["" if result is None else to_json(result.to_json()) for result in results],
            "used": used,
        }


async def _work(engine: Engine, records: list[Record], out: Path, stop: Any = None) -> list[Example | Reject | None]:
    """The results of records, as many at once as the engine may; None for those that were not begun before the stop."""
    gate = asyncio.Semaphore(engine.concurrency)

    async def one(record: Record) -> Example | Reject | None:
        async with gate:
            if stop is not None and await stop.get.remote():
                return None
            return await engine.example(record, out)

    async with engine.at_work():
        return await asyncio.gather(*(one(record) for record in records))
