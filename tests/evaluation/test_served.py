"""Evaluations of models on servers: faults, kills, interruptions, outages, budgets, secrets."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.evaluation.run import evaluate, journal_path
from sifthinker.evaluation.settings import EvalSettings

from ..stand_in import serve

ROOT = Path(__file__).parents[2]
WORDS = ("red", "green", "blue")


def write_questions(folder: Path, count: int, *, size: int = 8) -> Path:
    """Questions about pictures of a few pixels; the right answer of number n is `WORDS[n % 3]`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{number % 7}.png"
        if number < 7:
            Image.new("RGB", (size, size), (30 * number, 99, 9)).save(folder / name)
        box = [0.1, 0.2, 0.6, 0.9]
        rows.append(
            {
                "id": f"q{number}", "image": name, "question": f"What is number {number}?", "answer": WORDS[number % 3],
                "boxes": [box], "family": WORDS[number % 3],
            }
        )  # fmt: skip
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_in(request: dict[str, Any]) -> int:
    """Which question a request asks."""
    text = request["messages"][0]["content"][-1]["text"]
    found = re.search(r"What is number (\d+)\?", text)
    assert found is not None
    return int(found[1])


def structured(number: int) -> str:
    """What the model says to a question, always the same: now and then wrong, in words, in box, or in form."""
    draw = random.Random(f"model {number}")
    if draw.random() < 0.1:
        return "I would rather not say."
    box = [0.1, 0.2, 1.5 if draw.random() < 0.1 else 0.6, round(draw.uniform(0.5, 1), 3)]
    step = {"regions": [{"bbox_2d": box}], "text": f"Here is number {number}."}
    return json.dumps({"steps": [step], "answer": WORDS[(number + (draw.random() < 0.3)) % 3]})


def settings(data: Path, url: str, **changes: Any) -> EvalSettings:
    return EvalSettings(
        **{
            "data": str(data),
            "base_url": url,
            "model": "vlm",
            "protocol": "structured",
            "timeout_s": 5,
            "retries": 0,
            **changes,
        }
    )


def numbers(asked: list[dict[str, Any]]) -> Counter[int]:
    return Counter(map(number_in, asked))


def table(path: Path) -> dict[str, Any]:
    """What an evaluation's file says but where its server was."""
    body = json.loads(path.read_text())
    del body["settings"]["base_url"]
    return body


class Faulty:
    """A server's answers with faults: three requests in ten come to nothing in one of these ways.

    Which request fails how is drawn from its question and how often that was asked, so that every run of a test sees the
    same faults. `delivered` counts whole replies that were handed to the connection, by question.
    """

    KINDS = (
        "429",
        "429 with Retry-After",
        "500",
        "error in 200",
        "reset",
        "cut",
        "hang",
        "not JSON",
        "empty body",
        "no choices",
    )

    def __init__(self, hang_s: float) -> None:
        self.asked = Counter[int]()
        self.delivered = Counter[int]()
        self.happened = Counter[str]()
        self.hang_s = hang_s
        self.lock = threading.Lock()

    def __call__(self, request: dict[str, Any], _: int) -> Any:
        number = number_in(request)
        with self.lock:
            draw = random.Random(f"{number} {self.asked[number]}")
            self.asked[number] += 1
            if draw.random() > 0.3:
                self.delivered[number] += 1
                return structured(number)
            kind = draw.choice(self.KINDS)
            self.happened[kind] += 1
        if kind == "hang":
            time.sleep(self.hang_s)
        whole = json.dumps({"choices": [{"message": {"content": structured(number)}}]})
        kinds: dict[str, Any] = {
            "429": (429, {}, "slow down"),
            "429 with Retry-After": (429, {"Retry-After": "0.05"}, "slow down"),
            "500": (500, {}, "oops"),
            "error in 200": (200, {}, '{"error": {"message": "the host hung up", "code": 502}}'),
            "reset": b"",
            "cut": f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n{whole[: len(whole) // 2]}".encode(),
            "hang": (500, {}, "late"),
            "not JSON": (200, {}, "<html><title>Gateway</title>"),
            "empty body": (200, {}, ""),
            "no choices": (200, {}, '{"choices": []}'),
        }
        return kinds[kind]


def sif(*words: str | os.PathLike[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "COLUMNS": "200", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "sifthinker.cli", *map(os.fspath, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "kills"), [(80, 2), pytest.param(500, 5, marks=pytest.mark.slow)], ids=["few", "five hundred"]
)
def test_kills_and_a_failing_server_change_nothing(tmp_path: Path, count: int, kills: int) -> None:
    """`sif eval` of many questions on a server that fails three times in ten, killed at random moments and begun again.

    Nothing that the journal holds is asked again. What was delivered and not yet in it when the process died, no more than
    were under way at once, is.
    """
    concurrency = 16
    data = write_questions(tmp_path / "data", count)
    with serve(lambda request, _: structured(number_in(request))) as (url, requests):
        evaluate(settings(data, url, output=str(tmp_path / "whole.json")))
        assert set(numbers(requests).values()) == {1}
    out = tmp_path / "cut.json"
    journal = journal_path(out)
    faulty = Faulty(hang_s=1.5)
    draw = random.Random(count)

    def answered() -> set[int]:
        """The questions whose answers the journal holds, by whole lines."""
        if not journal.exists():
            return set()
        lines = journal.read_bytes().split(b"\n")[1:-1]
        rows = [row for line in lines for row in json.loads(line)]
        return {int(row["id"][1:]) for row in rows if not row["error"]}

    with serve(faulty) as (url, _):
        words = ["eval", data, "--base-url", url, "--model", "vlm", "--protocol", "structured", "-o", out, "--timeout", "1"]
        words += ["--retries", "12", "--concurrency", str(concurrency)]
        for kill in range(kills):
            before, begun = answered(), faulty.asked.copy()
            process = sif(*words)
            wanted = len(before) + draw.uniform(0.3, 0.9) * (count - len(before)) / (kills - kill)
            while process.poll() is None and len(answered()) < wanted:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not out.exists()
            again = faulty.asked - begun
            assert not before & again.keys(), "a question was asked again whose answer was kept"
            time.sleep(1.6)  # for what hangs
            assert before < answered()
        before, begun = answered(), faulty.asked.copy()
        _, said = sif(*words).communicate(timeout=300)
        assert out.exists(), said
        assert not before & (faulty.asked - begun).keys()
    assert table(out) == table(tmp_path / "whole.json")
    assert not journal.exists()
    assert set(faulty.happened) == set(faulty.KINDS) if count == 500 else len(faulty.happened) > 5
    assert set(faulty.delivered) == set(range(count))
    # Delivered twice: what was under way when a process was killed.
    assert sum(faulty.delivered.values()) - count <= kills * concurrency
    assert "Traceback" not in said
