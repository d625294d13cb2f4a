"""Run the engine on Ray Data: the same results, computed on the cores of one machine or a cluster.

Workers read the images and write the images of the dataset themselves, so every machine must have both folders under the
same path. The process that started the build writes the journal and can resume.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.errors import ConfigError, EndpointError, ModelError, SIFError, need
from sifthinker.files import atomic_write, make_folder, to_json
from sifthinker.loops import run_coroutine, together
from sifthinker.records import Example, Record, Reject

if TYPE_CHECKING:
    from sifthinker.engine.build import Engine, Feed

_KINDS = {Example: "example", Reject: "reject", type(None): "stopped"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A `build.Runner` on Ray.

    Args:
        address: address of a running cluster, for example `auto`; None starts Ray on this machine for the build.
        workers: number of processes, each with `concurrency` records at the same time; by default one per CPU.
        gpus: GPUs per worker, for depth models and local teachers; can be a fraction.
        batch: records per batch of a worker; at least twice the engine's concurrency.
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
        """Process the records of a feed.

        Raises:
            ConfigError: the cluster cannot be reached.
            SIFError: an error in a worker.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        engine = replace(engine, root=engine.root.absolute())  # workers may start in another folder
        out = out.absolute()
        waiting = out / ".waiting"
        shutil.rmtree(waiting, ignore_errors=True)  # left by a build that was killed
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
                    place = self.address or "this machine"
                    raise ConfigError(f"cannot use Ray at {place}: {error}. Check --ray-address") from None
            ray.data.DataContext.get_current().enable_progress_bars = False
            workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            stop = ray.remote(num_cpus=0)(_Stop).remote()
            # One block per part, because a worker returns its results after each block.
            records = ray.data.read_json(str(waiting), file_extensions=["jsonl"], lines=True, override_num_blocks=parts)
            results = records.map_batches(
                _Worker,
                fn_constructor_args=(engine, out, stop),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                batch_size=None,
                num_gpus=self.gpus or None,
            )
            try:
                _take_all(results.iter_rows(), feed, stop)
            except SIFError:
                stop.set.remote()  # otherwise the workers would continue
                raise
        finally:
            if started:
                ray.shutdown()
            shutil.rmtree(waiting, ignore_errors=True)

    def _greet(self) -> None:
        """Check that a process listens at `host:port`, because Ray itself retries for many minutes."""
        host, _, port = (self.address or "").rpartition(":")
        if not host or "/" in host or not port.isdigit():
            return
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"cannot use Ray at {self.address}: {error}. Check --ray-address") from None


def _take_all(rows: Iterable[dict[str, Any]], feed: Feed, stop: Any) -> None:
    """Take the results of the workers as they arrive."""
    for row in rows:
        used = json.loads(row["used"])
        if row["kind"] in ("stopped", "error"):
            feed.take_usage(used)
            if row["kind"] == "error":
                raise _error_from(json.loads(row["result"]))
            continue
        value = json.loads(row["result"])
        if row["kind"] == "example":
            feed.take(int(row["index"]), Example.from_json(value), used)
        else:
            feed.take(int(row["index"]), Reject(**{**value, "attempts": tuple(value["attempts"])}), used)
        if feed.spent:
            stop.set.remote()  # records in progress are finished and kept


def _write_parts(engine: Engine, feed: Feed, out: Path, folder: Path, size: int) -> int:
    """Write the records into files of `size` lines for Ray, and return the number of files.

    Rejects are finished here. If the cost of a record is still unknown, the first record is processed here too.
    """

    def lines() -> Iterator[str]:
        for index, item in feed:
            if isinstance(item, Reject):
                feed.take(index, item, {})
            elif feed.unpriced:
                before = copy.copy(engine.usage)
                results, error = run_coroutine(_work(engine, [item], out))
                if error is not None:
                    raise error
                (result,) = results
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
    """Tells all workers not to start another record."""

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
        """Process a batch: index, record → index, kind, result, used.

        The first processed row has the usage of the complete batch in `used`. After an error, the last row has the kind
        `error` and contains it.
        """
        records = [Record.from_json(json.loads(text)) for text in batch["record"]]
        before = copy.copy(self._engine.usage)
        results: list[Example | Reject | None] = []
        error: SIFError | None
        try:
            results, error = run_coroutine(_work(self._engine, records, self._out, self._stop))
        except SIFError as raised:  # Ray would wrap it in a long message
            error = raised
        rows = [
            (index, _KINDS[type(result)], "" if result is None else to_json(result.to_json()))
            for index, result in zip(batch["index"], results, strict=False)
        ]
        if error is not None:
            rows.append((batch["index"][0], "error", to_json(_error_to(error))))
        used = [to_json({})] * len(rows)
        first = next((number for number, (_, kind, _) in enumerate(rows) if kind in ("example", "reject")), 0)
        used[first] = to_json(self._engine.usage.since(before))
        index, kind, result = zip(*rows, strict=True)
        return {"index": list(index), "kind": list(kind), "result": list(result), "used": used}


def _error_to(error: SIFError) -> dict[str, Any]:
    """Return an error as JSON, to send it from a worker to the process that started the build."""
    return {"type": type(error).__name__, "message": str(error), **vars(error)}


def _error_from(row: dict[str, Any]) -> SIFError:
    if row["type"] == "EndpointError":
        return EndpointError(row["message"], row["code"], row["attempts"], row["kind"])
    return {"ConfigError": ConfigError, "ModelError": ModelError}.get(row["type"], SIFError)(row["message"])


async def _work(
    engine: Engine, records: list[Record], out: Path, stop: Any = None
) -> tuple[list[Example | Reject | None], EndpointError | None]:
    """Return the results of records, and the error of the teacher's server that ended the work, if any.

    Processes `concurrency` records at the same time. The result is None for records not started before the stop.
    """
    stopped: EndpointError | None = None

    async def one(record: Record) -> Example | Reject | None:
        nonlocal stopped
        if stopped is not None or (stop is not None and await stop.get.remote()):
            return None
        try:
            return await engine.example(record, out)
        except EndpointError as error:
            stopped = stopped or error
            return None

    async with engine.at_work():
        results = await together((one(record) for record in records), engine.concurrency)
    return results, stopped
