"""What long builds meet: SIGKILL at any moment, servers that fail, budgets that end, keys that must not show."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.endpoint import Endpoint
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import GivenDepth
from sifthinker.engine.folder import Counts
from sifthinker.engine.teachers import OpenAITeacher
from sifthinker.errors import BudgetError
from sifthinker.files import write_jsonl
from sifthinker.records import Record

from ..small_data import write_records
from ..stand_in import focuses, serve, thoughts

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def records(count: int) -> Iterator[Record]:
    for number in range(count):
        box = (0.1 + number % 300 / 1000, 0.2, 0.5, 0.6)
        yield Record(f"r{number}", "cat.png", f"What is it, {number}?", "cat", (box,), source=f"f:{number}")


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    source = write_records(tmp_path / "raw", 1200)
    command = [sys.executable, "-m", "tests.small_data", str(source)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=environment)
    out = tmp_path / "broken"
    draw = random.Random(0)
    kills = 0
    while kills < 20:
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, env=environment)
        journal = out / "journal.jsonl"
        start = journal.stat().st_size if journal.exists() else 0
        # Some at once, most after it has gone on for a while: 1,200 lines are about 2.2 MB.
        wanted = start + draw.choice((0, 20_000, 60_000, 100_000)) * draw.random()
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > wanted):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 20, "the build was done before it was killed often enough"
    subprocess.run([*command, str(out)], check=True, capture_output=True, env=environment)
    assert contents(out) == contents(tmp_path / "whole")


FAULTS: dict[str, Any] = {
    "429": (429, {}, "slow down"),
    "429 with Retry-After": (429, {"Retry-After": "0.01"}, "slow down"),
    "500": (500, {}, "oops"),
    "reset": b"",
    "truncated": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{",
    "hang": None,
    "empty body": (200, {}, ""),
    "not JSON": (200, {}, "<html>"),
    "empty reply": "",
    "not the JSON asked for": "I see a cat.",
    "wrong count": json.dumps({"thoughts": ["I look."], "answer": "cat"}),
    "leaking": "leak",
    "wrong answer": "wrong",
}


def test_two_thousand_records_and_a_failing_server(photo_folder: Path, tmp_path: Path) -> None:
    """Three requests in ten fail in one of the ways above."""
    draw = random.Random(0)
    happened = Counter[str]()

    def answer(request: dict[str, Any], number: int) -> Any:
        if draw.random() > 0.3:
            return thoughts(request, "cat")
        name = draw.choice(list(FAULTS))
        happened[name] += 1
        if name == "hang":
            time.sleep(1.6)
            return "late"
        if name in ("leaking", "wrong answer"):
            said = ["As instructed, I look." if name == "leaking" else "I look."] * focuses(request)
            return json.dumps({"thoughts": said, "answer": "cat" if name == "leaking" else "dog"})
        return FAULTS[name]

    with serve(answer) as (url, requests):
        endpoint = Endpoint(url, "vlm", timeout_s=1.2, max_retries=2, backoff_s=0.005, concurrency=24)
        engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(endpoint), concurrency=24)
        counts = engine.build(lambda: records(2000), tmp_path / "out")
    assert set(happened) == set(FAULTS)
    assert counts.done == 2000
    assert counts.accepted > 1800
    assert counts.corrected > 50
    accepted = [json.loads(line)["id"] for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert sorted([*accepted, *(row["id"] for row in rejected)]) == sorted(f"r{number}" for number in range(2000))
    assert all(row["code"].startswith("teacher_") and row["reason"] and row["attempts"] for row in rejected)
    # Requests that the server never saw whole may be missing from its list, none from ours.
    assert len(requests) <= counts.usage.requests <= len(requests) + happened["hang"]
    assert json.loads((tmp_path / "out" / "usage.json").read_text())["requests"] == counts.usage.requests


def test_an_interruption_stops_a_build_that_waits_and_loses_nothing(photo_folder: Path, tmp_path: Path) -> None:
    """The server answers six records and then hangs for longer than anybody waits."""
    write_jsonl(photo_folder / "records.jsonl", [record.to_json() for record in records(20)])
    hanging = threading.Event()

    def answer(request: dict[str, Any], number: int) -> str:
        if number >= 6:
            hanging.set()
            release.wait(120)
        return thoughts(request, "cat")

    release = threading.Event()
    command = [
        sys.executable,
        "-m",
        "sifthinker.cli.main",
        "data",
        "build",
        str(photo_folder / "records.jsonl"),
        "--model",
        "m",
    ]
    out = tmp_path / "out"
    with serve(answer) as (url, requests):
        process = subprocess.Popen(
            [*command, "--base-url", url, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert hanging.wait(60)
        journal = out / "journal.jsonl"
        while journal.read_text().count("\n") < 7:  # the settings and six records
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)  # half of what the server hangs for
        release.set()
        assert process.returncode == 130
        assert "interrupted" in said
    with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
        subprocess.run([*command, "--base-url", url, "-o", str(out)], check=True, capture_output=True)
        assert len(requests) == 14
        subprocess.run([*command, "--base-url", url, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    examples = [(folder / "examples.jsonl").read_bytes() for folder in (out, tmp_path / "whole")]
    assert examples[0] == examples[1]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((401, {}, "who are you?"), ["who are you?", "OPENAI_API_KEY", "--api-key-env"]),
        ((404, {}, "no such route"), ["no such route", "/v1/chat/completions", "--base-url", "--model"]),
        (None, ["cannot connect", "/v1/chat/completions", "--base-url"]),
    ],
)
def test_what_waiting_cannot_mend_stops_the_command_at_once(
    photo_folder: Path, tmp_path: Path, said: Any, words: list[str]
) -> None:
    write_jsonl(photo_folder / "records.jsonl", [record.to_json() for record in records(200)])
    options = ["data", "build", str(photo_folder / "records.jsonl"), "-o", str(tmp_path / "out"), "--model"]
    with serve(lambda request, number: said or "") as (url, requests):
        if said is None:
            url = "http://127.0.0.1:9/v1"
        done = CliRunner().invoke(main, [*options, "wrong", "--base-url", url])
        assert done.exit_code == 2
        assert [word for word in words if word not in " ".join(done.output.split())] == []
        assert len(requests) == (said is not None)
    with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
        done = CliRunner().invoke(main, [*options, "right", "--base-url", url, "--max-tokens", "77"])
        assert (done.exit_code, len(requests)) == (0, 200)
    assert {request["max_tokens"] for request in requests} == {77}


class TestBudget:
    def build(self, photo_folder: Path, out: Path, url: str, budget: float | None) -> Counts:
        # 120 tokens of 1/10,000 each: a reply costs 0.012.
        endpoint = Endpoint(url, "vlm", prompt_price=100, completion_price=100)
        engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(endpoint), concurrency=4)
        return engine.build(lambda: records(40), out, budget=budget)

    def test_it_stops_before_it_is_passed_and_goes_on_with_more(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
            with pytest.raises(BudgetError, match=r"cost 0\.\d+ of 0\.24\. \d+ records.*higher --budget"):
                self.build(photo_folder, out, url, 0.24)
            assert 14 <= len(requests) < 20
            done = len((out / "examples.jsonl").read_text().splitlines())
            assert done == len(requests)
            # What was spent counts in the next run too.
            with pytest.raises(BudgetError):
                self.build(photo_folder, out, url, 0.12)
            assert len(requests) == done
            counts = self.build(photo_folder, out, url, 5)
            assert (counts.accepted, len(requests)) == (40, 40)
            assert counts.usage.cost == pytest.approx(40 * 0.012)
            self.build(photo_folder, tmp_path / "whole", url, None)
        assert contents(out) == contents(tmp_path / "whole")

    def test_it_binds_from_the_first_record(self, photo_folder: Path, tmp_path: Path) -> None:
        with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
            with pytest.raises(BudgetError):
                self.build(photo_folder, tmp_path / "none", url, 0)
            assert requests == []
            with pytest.raises(BudgetError):
                self.build(photo_folder, tmp_path / "one", url, 0.02)
            assert len(requests) == 1

    def test_a_budget_that_is_enough_is_no_error(self, photo_folder: Path, tmp_path: Path) -> None:
        with serve(lambda request, number: thoughts(request, "cat")) as (url, _):
            assert self.build(photo_folder, tmp_path / "out", url, 0.49).accepted == 40

    def test_what_was_built_without_prices_is_priced_later(self, photo_folder: Path, tmp_path: Path) -> None:
        def half(counts: Counts) -> None:
            if counts.done == 10:
                raise KeyboardInterrupt

        with serve(lambda request, number: thoughts(request, "cat")) as (url, requests):
            engine = Engine(photo_folder, GivenDepth(), OpenAITeacher(Endpoint(url, "vlm")), concurrency=4)
            with pytest.raises(KeyboardInterrupt):
                engine.build(lambda: records(40), tmp_path / "out", progress=half)
            before = len(requests)
            with pytest.raises(BudgetError, match=r"cost 0\.1\d+ of 0\.12"):
                self.build(photo_folder, tmp_path / "out", url, 0.12)
            assert len(requests) == before
            # What was under way when it was interrupted is counted too, where its reply had come.
            counts = self.build(photo_folder, tmp_path / "out", url, 5)
            assert 40 <= counts.usage.prompt_tokens / 100 <= len(requests)

    def test_a_server_that_counts_nothing(self, photo_folder: Path, tmp_path: Path) -> None:
        def answer(request: dict[str, Any], number: int) -> Any:
            return 200, {}, json.dumps({"choices": [{"message": {"content": thoughts(request, "cat")}}]})

        with (
            serve(answer) as (url, requests),
            pytest.raises(BudgetError, match="reports no token counts, so the budget cannot be checked"),
        ):
            self.build(photo_folder, tmp_path / "out", url, 1)
        assert len(requests) < 10

    def test_a_budget_without_prices_is_refused(self, photo_folder: Path, tmp_path: Path) -> None:
        (photo_folder / "r.jsonl").write_text("")
        options = ["-o", str(tmp_path / "o"), "--model", "m", "--budget", "3"]
        done = CliRunner().invoke(main, ["data", "build", str(photo_folder / "r.jsonl"), *options])
        assert isinstance(done.exception, SystemExit)
        assert "--prompt-price" in done.output


def test_a_planted_key_shows_nowhere(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server quotes the key in refusals, in broken bodies and in its very replies."""
    key = "sk-planted-4711-secret"
    monkeypatch.setenv("SIF_TEST_KEY", key)
    write_jsonl(photo_folder / "records.jsonl", [record.to_json() for record in records(12)])

    def answer(request: dict[str, Any], number: int) -> Any:
        said = [thoughts(request, "cat"), (422, {}, f"bad {key}"), (500, {}, key), f"I was told {key}", (200, {}, key)]
        return said[number % len(said)]

    out = tmp_path / "out"
    with serve(answer) as (url, requests):
        options = f"--base-url {url} --model m --api-key-env SIF_TEST_KEY --retries 0 --concurrency 1".split()
        done = CliRunner().invoke(main, ["data", "build", str(photo_folder / "records.jsonl"), "-o", str(out), *options])
        assert {request["_headers"]["Authorization"] for request in requests} == {f"Bearer {key}"}
    assert (out / "journal.jsonl").is_file()  # outages keep it
    shown = CliRunner().invoke(main, ["data", "show", str(out), "-o", str(tmp_path / "show")])
    assert shown.exit_code == 0, shown.output
    for place in (out, tmp_path / "show"):
        for path in place.rglob("*"):
            assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert key not in done.output + shown.output
    assert "[key]" in (out / "journal.jsonl").read_text()
    assert os.environ["SIF_TEST_KEY"] == key
