"""Benchmarks of the data engine: CPU time per record, large builds, a faulty server, and exclusion lists.

    python benchmarks/engine.py photos           one record per photo, 640×480, coloured and grey depth files
    python benchmarks/engine.py world            10,000 and 50,000 records of the embedded world: time and peak memory
    python benchmarks/engine.py faults           10,000 records; three in ten replies of the server are unusable
    python benchmarks/engine.py exclude          reading 5,000 records with lists of 50 and 5,000 excluded names

CPU times are compared with the time to decode the photo and its depth file. This ratio depends less on the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from sifthinker.depth import DepthMap
from sifthinker.endpoint import Endpoint
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import GivenDepth
from sifthinker.engine.recipe import Recipe, read_recipe
from sifthinker.engine.settings import BuildSettings, Expansion
from sifthinker.engine.sources import read_source
from sifthinker.engine.teachers import Attempt, OpenAITeacher, Task
from sifthinker.files import write_jsonl
from sifthinker.lab.questions import write_world
from sifthinker.lab.teacher import ScriptedTeacher
from sifthinker.records import Record


class Instant:
    """A teacher that takes almost no time, so that the benchmark measures the engine."""

    name = "instant"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        return json.dumps({"thoughts": ["I look here."] * len(task.focuses), "answer": task.record.answer})


def photos(count: int = 100) -> None:
    """Measure the CPU time per record, summed over all threads."""
    draw = np.random.default_rng(0)
    for kind in ("coloured", "grey"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for number in range(count):
                noise = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480), 3)
                grain = Image.fromarray(draw.integers(0, 256, (480, 640, 3), dtype=np.uint8))
                Image.blend(noise, grain, 0.12).save(root / f"{number}.jpg", quality=90)
                smooth = Image.fromarray(draw.integers(0, 256, (12, 16), dtype=np.uint8)).resize((640, 480), 3)
                depth = DepthMap.from_levels(np.asarray(smooth.filter(ImageFilter.GaussianBlur(3))))
                (depth.coloured() if kind == "coloured" else depth.view().convert("L")).save(root / f"{number}.depth.png")
            box = ((0.3, 0.4, 0.45, 0.6),)
            items = [Record(f"r{n}", f"{n}.jpg", "What?", "cat", box, source=f"f:{n}") for n in range(count)]
            Engine(root, GivenDepth(near="high"), Instant()).build(lambda items=items[:3]: iter(items), root / "warm")  # type: ignore[misc]
            for concurrency in (1, 8):
                engine = Engine(root, GivenDepth(near="high"), Instant(), concurrency=concurrency)
                decoding, ours = [], []
                for turn in range(3):
                    started = time.process_time()
                    for number in range(count):
                        for name in (f"{number}.jpg", f"{number}.depth.png"):
                            Image.open(io.BytesIO((root / name).read_bytes())).load()
                    decoding.append((time.process_time() - started) / count)
                    started = time.process_time()
                    counts = engine.build(lambda items=items: iter(items), root / f"out-{concurrency}-{turn}")  # type: ignore[misc]
                    ours.append((time.process_time() - started) / count)
                    assert counts.accepted == count
                ratio = median(ours) / median(decoding)
                print(
                    f"{kind} depth, concurrency {concurrency}: {median(ours) * 1e3:.1f} ms of CPU time per record, "
                    f"{ratio:.2f} times the time of decoding with Pillow ({median(decoding) * 1e3:.1f} ms)"
                )


def _build_world(source: Path, count: int, out: Path, results: Any) -> None:
    engine = Engine(source.parent, GivenDepth(), ScriptedTeacher(), Expansion(decimals=2))
    started = time.monotonic()

    def items() -> Iterator[Any]:
        for number, item in enumerate(read_source(source)):
            if number == count:
                return
            yield item

    counts = engine.build(items, out)
    assert counts.accepted == count, counts
    results.put((time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def world(sizes: Sequence[int] = (10_000, 50_000)) -> None:
    """Measure time and peak memory of large builds.

    Each build and the rendering of the world run in separate processes. A new process starts with the memory of its parent,
    which would count in its peak.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "world" / "records.jsonl"
        context = multiprocessing.get_context("spawn")
        rendering = context.Process(target=write_world, args=(source.parent, max(sizes)))
        rendering.start()
        rendering.join()
        for size in sizes:
            results = context.Queue()
            process = context.Process(target=_build_world, args=(source, size, Path(folder) / f"out-{size}", results))
            process.start()
            seconds, peak = results.get()
            process.join()
            print(f"{size:,} records: {size / seconds:.0f} records/s, {seconds:.0f} s, peak memory {peak:.0f} MB")


def faults(count: int = 10_000) -> None:
    """Build with a server whose replies are unusable in three of ten cases."""
    draw = random.Random(0)
    happened = Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            foci = sum(part["type"] == "image_url" for part in body["messages"][1]["content"])
            fault = draw.choice(("429", "500", "rubbish", "count", "leak", "close")) if draw.random() < 0.3 else "none"
            happened[fault] += 1
            if fault == "close":
                self.close_connection = True
                return
            thoughts = ["as instructed" if fault == "leak" else "I look."] * (foci + (fault == "count"))
            said = "rubbish" if fault == "rubbish" else json.dumps({"thoughts": thoughts, "answer": "cat"})
            reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(int(fault) if fault.isdigit() else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Image.new("RGB", (64, 48), "orange").save(root / "cat.png")
        DepthMap.from_levels(np.full((48, 64), 90, dtype=np.uint8)).write(root / "cat.depth.png")
        box = ((0.3, 0.4, 0.45, 0.6),)
        items = (Record(f"r{n}", "cat.png", "What?", "cat", box, source=f"f:{n}") for n in range(count))
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", backoff_s=0.01, max_retries=3, concurrency=32)
        started = time.monotonic()
        counts = Engine(root, GivenDepth(), OpenAITeacher(endpoint), concurrency=32).build(lambda: items, root / "out")
        seconds = time.monotonic() - started
    server.shutdown()
    assert counts.done == count
    print(
        f"{count:,} records: {counts.accepted:,} accepted, {counts.corrected:,} corrected, {dict(counts.rejected)} rejected"
    )
    print(f"{dict(happened)}: {counts.usage.requests:,} requests, {counts.done / seconds:.0f} records/s")


def exclude(count: int = 5_000) -> None:
    """Measure the time to read a record with a short and a long list of excluded names. The two alternate."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        box = [[0.3, 0.4, 0.45, 0.6]]
        rows = [
            {"id": f"r{n}", "image": f"train/{n}.jpg", "question": f"What is {n}?", "answer": "cat", "boxes": box}
            for n in range(count)
        ]
        write_jsonl(root / "records.jsonl", rows)
        taken: dict[int, list[float]] = {50: [], 5_000: []}
        for turn in range(6):
            for size, seconds in taken.items():
                lines = (f"val/{n}.jpg\n/data/coco/val/{n}.jpg\n" for n in range(size // 2))
                (root / "list.txt").write_text("".join(lines))
                settings = {"sources": ["records.jsonl"], "folder": root, "images": root, "exclude": root / "list.txt"}
                recipe = Recipe(BuildSettings.from_values({**settings, "output": "out"}))
                assert recipe.excluded.find("train/none.jpg") is None  # the list is read and indexed
                started = time.process_time()
                assert sum(isinstance(item, Record) for item in read_recipe(recipe)) == count
                if turn:
                    seconds.append((time.process_time() - started) / count)
        few, many = (median(seconds) for seconds in taken.values())
        print(
            f"{many * 1e6:.0f} µs per record with 5,000 excluded names, {few * 1e6:.0f} µs with 50: "
            f"{many / few:.2f} times as long"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="photos", choices=["photos", "world", "faults", "exclude"])
    parser.add_argument("-n", type=int, help="number of records; for `world`, of the larger build")
    chosen = parser.parse_args()
    if chosen.part != "world":
        {"photos": photos, "faults": faults, "exclude": exclude}[chosen.part](*([chosen.n] if chosen.n else []))
    else:
        world(*([(max(1, chosen.n // 5), chosen.n)] if chosen.n else []))
