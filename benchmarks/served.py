"""Evaluation of a model on a server: speed-up from concurrent requests, and CPU time per question.

    python benchmarks/served.py

A server in a separate process on loopback answers every request after 1 s, with unlimited concurrency. The evaluation sends
questions about 640×480 photos with depth, first one at a time and then 32 at a time. The ideal ratio is 32. A second
evaluation has no delay. It measures the CPU time per question, compared with reading the two images and encoding them as
PNG.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from sifthinker.depth import DepthMap
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.images import data_url

CHAIN = json.dumps({"steps": [{"regions": [{"bbox_2d": [0, 0, 1, 1], "depth": 0.5}], "text": "All."}], "answer": "a"})


def serve(delay_s: float, port: Any) -> None:
    """Answer requests forever. `port` receives the port number."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay_s)
            body = json.dumps({"choices": [{"message": {"content": CHAIN}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def questions(folder: Path, count: int) -> list[Question]:
    """Return questions about twenty photos with depth."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(20):
        noise = Image.fromarray(draw.integers(0, 256, (480, 640, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(6)).save(folder / f"{number}.jpg")
        DepthMap(np.tile(np.linspace(0, 1, 640, dtype=np.float32), (480, 1))).write(folder / f"{number}.depth.png")
    for number in range(count):
        photo = folder / f"{number % 20}.jpg"
        found.append(Question(str(number), photo, "Which?", answers=("a",), depth=photo.with_suffix(".depth.png")))
    return found


def run(address: str, asked: list[Question], concurrency: int) -> tuple[float, float]:
    """Run an evaluation. Return (seconds, seconds of CPU time)."""
    settings = EvalSettings(
        data="photos", base_url=address, model="m", protocol="structured", concurrency=concurrency, timeout_s=600
    )
    started, worked = time.perf_counter(), time.process_time()
    found = evaluate(settings, questions=asked)
    assert found.results["answer accuracy"].mean == 1
    return time.perf_counter() - started, time.process_time() - worked


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder), 400)
        for delay_s in (1.0, 0.0):
            port: Any = multiprocessing.Queue()
            server = multiprocessing.Process(target=serve, args=(delay_s, port), daemon=True)
            server.start()
            address = f"http://127.0.0.1:{port.get()}/v1"
            if delay_s:
                (alone, _), (many, _) = run(address, asked[:10], 1), run(address, asked, 32)
                print(f"32 concurrent requests are {40 * alone / many:.1f} times as fast as single requests")
            else:
                _, worked = run(address, asked, 8)
                started = time.process_time()
                for question in asked:
                    image, depth = question.load()
                    assert depth is not None
                    for picture in (image, depth.view()):
                        data_url(picture, form="png")
                pictures = time.process_time() - started
                print(f"CPU time per question: {2.5 * worked:.1f} ms, of which the images need {2.5 * pictures:.1f} ms")
            server.terminate()


if __name__ == "__main__":
    main()
