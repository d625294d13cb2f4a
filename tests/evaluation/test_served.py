"""Evaluations of models on servers: faults, kills, interruptions, outages, budgets, secrets."""

from __future__ import annotations

import asyncio
import gc
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.endpoint import Endpoint
from sifthinker.errors import BudgetError, ConfigError, EndpointError, ModelError
from sifthinker.evaluation.run import Evaluation, evaluate, evaluate_async, journal_path
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.served import ServedThinker

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


class TestTheEngine:
    def test_rows_are_in_order_and_say_how_they_were_asked(self, tmp_path: Path) -> None:
        data = write_questions(tmp_path, 20)

        def answer(request: dict[str, Any], _: int) -> str:
            time.sleep(random.random() * 0.02)  # answers come in any order
            return structured(number_in(request))

        with serve(answer) as (url, requests):
            found = evaluate(settings(data, url, output=str(tmp_path / "e.json")))
        assert [row.id for row in found.rows] == [f"q{number}" for number in range(20)]
        assert [row.reply for row in found.rows] == [structured(number) for number in range(20)]
        assert {row.prompt for row in found.rows} == {request["messages"][0]["content"][-1]["text"] for request in requests}
        assert found.rows[0].tokens == (100, 20)
        assert {code for row in found.rows for code, _ in row.faults} == {"not_json", "box_range"}
        said = [json.loads(structured(n))["answer"] if structured(n)[0] == "{" else None for n in range(20)]
        right = [found == WORDS[number % 3] for number, found in enumerate(said)]
        assert found.results["answer accuracy"].mean == pytest.approx(sum(right) / 20)
        # Valid, in words and in box: the chains that were composed without fault.
        assert found.results["valid format"].mean == sum(not row.faults for row in found.rows) / 20
        assert Evaluation.read(tmp_path / "e.json").rows == found.rows

    def test_no_more_are_asked_at_once_than_allowed(self, tmp_path: Path) -> None:
        under_way, most = 0, 0
        lock = threading.Lock()

        def answer(request: dict[str, Any], _: int) -> str:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.03)
            with lock:
                under_way -= 1
            return structured(number_in(request))

        with serve(answer) as (url, _):
            evaluate(settings(write_questions(tmp_path, 24), url, concurrency=3))
        assert 1 < most <= 3

    def test_an_event_loop_goes_on(self, tmp_path: Path) -> None:
        data = write_questions(tmp_path, 12)

        async def both(url: str) -> tuple[Evaluation, Evaluation, int]:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.001)

            ticking = asyncio.create_task(tick())
            waited = await evaluate_async(settings(data, url))
            seen = ticks
            ticking.cancel()
            return waited, evaluate(settings(data, url)), seen  # in a notebook, whose loop waits

        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            one, two, ticks = asyncio.run(both(url))
        assert one.rows == two.rows
        assert ticks > 3

    def test_a_server_that_moved_is_the_same_and_other_images_are_not(self, tmp_path: Path) -> None:
        data, out = write_questions(tmp_path, 3), str(tmp_path / "e.json")
        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            evaluate(settings(data, url, output=out))
        with serve(lambda request, _: pytest.fail("was asked")) as (url, requests):
            assert evaluate(settings(data, url, output=out, concurrency=2, timeout_s=9)).known
            for change, message in (
                ({"image_format": "jpeg"}, "image_format was 'png', now 'jpeg'"),
                ({"protocol": "direct"}, "protocol was 'structured', now 'direct'"),
                ({"model": "other"}, "model was 'vlm', now 'other'"),
                ({"max_pixels": 4096}, "max_pixels was None, now 4096"),
            ):
                with pytest.raises(ConfigError, match=message):
                    evaluate(settings(data, url, output=out, **change))
            assert requests == []

    @pytest.mark.parametrize(("written", "asked"), [([100, 200, 600, 900], None), ([0.1, 0.2, 0.6, 0.9], "per_mille")])
    def test_boxes_in_other_coordinates_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, written: list[float], asked: Any
    ) -> None:
        said = json.dumps({"steps": [{"regions": [{"bbox_2d": written}], "text": "a"}], "answer": "b"})
        with serve(lambda request, _: said) as (url, _):
            evaluate(settings(write_questions(tmp_path, 3), url, coordinates=asked))
            assert "3 of 3 replies have boxes that do not fit the requested coordinates" in caplog.text
            assert "Set --coordinates to" in caplog.text
            caplog.clear()
            evaluate(settings(write_questions(tmp_path, 3), url, coordinates=None if asked else "per_mille"))
            assert caplog.text == ""

    def test_a_thinker_of_the_caller_s(self, tmp_path: Path) -> None:
        data = write_questions(tmp_path, 3)
        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            thinker = ServedThinker(Endpoint(url, "vlm"))
            found = evaluate(EvalSettings(data=str(data), protocol="structured"), thinker=thinker)
        assert [row.reply for row in found.rows] == [structured(number) for number in range(3)]
        assert thinker.usage.requests == 3


REFUSALS: dict[str, tuple[Any, str]] = {
    "key": ((401, {}, '{"error": {"message": "bad key"}}'), r"bad key.*SIF_TEST_KEY.*--api-key-env"),
    "model": ((404, {}, '{"error": {"message": "The model `vlm` does not exist."}}'), "does not exist.*--model"),
    "address": ((404, {}, '{"detail": "Not Found"}'), "Not Found.*--base-url"),
    "quota": ((402, {}, '{"error": {"message": "Insufficient Balance"}}'), "Insufficient Balance.*Add credit"),
}


class TestWhatEndsIt:
    @pytest.mark.parametrize("what", REFUSALS)
    def test_a_wrong_setup_ends_it_at_once(self, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
        said, words = REFUSALS[what]
        data, out = write_questions(tmp_path, 30), tmp_path / "e.json"
        with serve(lambda request, _: said) as (url, requests):
            with pytest.raises(EndpointError, match=words) as caught:
                evaluate(settings(data, url, output=str(out), retries=5, api_key_env="SIF_TEST_KEY"))
            assert (caught.value.kind, len(requests)) == ("setup", 1)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.glob("e.json*")) == []  # a start that failed leaves nothing behind
        gc.collect()
        assert "exception" not in caplog.text.lower()  # asyncio logs the errors of tasks that nobody waited for

    def test_no_server_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(EndpointError, match=r"cannot connect.*Check that the server is running"):
            evaluate(settings(write_questions(tmp_path, 3), "http://127.0.0.1:9/v1", retries=5))

    def test_the_key_that_ends_in_the_middle(self, tmp_path: Path) -> None:
        data, out = write_questions(tmp_path, 30), str(tmp_path / "e.json")
        said = REFUSALS["key"][0]
        with (
            serve(lambda request, number: structured(number_in(request)) if number < 10 else said) as (url, _),
            pytest.raises(EndpointError, match="bad key"),
        ):
            evaluate(settings(data, url, output=out, concurrency=4))
        assert len(self.kept(out)) == 10
        self.resume(data, out, self.kept(out))

    def kept(self, out: str) -> set[int]:
        lines = journal_path(Path(out)).read_text().splitlines()[1:]
        return {int(row["id"][1:]) for line in lines for row in json.loads(line) if not row["error"]}

    def resume(self, data: Path, out: str, kept: set[int], **changes: Any) -> None:
        """Asks what is left and nothing else, and comes to what an evaluation without faults comes to."""
        with serve(lambda request, _: structured(number_in(request))) as (url, requests):
            found = evaluate(settings(data, url, output=out, **changes))
            whole = evaluate(settings(data, url))
        every = set(range(len(whole.rows)))
        assert set(numbers(requests[: len(every) - len(kept)])) == every - kept
        assert len(requests) == 2 * len(every) - len(kept)
        assert found.rows == whole.rows

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_an_outage_ends_it_and_loses_nothing(self, tmp_path: Path, concurrency: int) -> None:
        data, out = write_questions(tmp_path, 60), str(tmp_path / "e.json")

        def answer(request: dict[str, Any], number: int) -> Any:
            return structured(number_in(request)) if number < 20 else (503, {}, "gone")

        with (
            serve(answer) as (url, requests),
            pytest.raises(
                EndpointError, match=r"did not answer 10 questions in a row\. Run the same command to resume.*gone"
            ) as caught,
        ):
            evaluate(settings(data, url, output=out, concurrency=concurrency))
        assert caught.value.code == "gave_up"
        assert 30 <= len(requests) <= 30 + concurrency
        assert self.kept(out) == set(numbers(requests[:20]))
        self.resume(data, out, self.kept(out))

    @pytest.mark.parametrize(("count", "error"), [(40, EndpointError), (4, ModelError)])
    def test_an_outage_from_the_beginning(self, tmp_path: Path, count: int, error: type[Exception]) -> None:
        data, out = write_questions(tmp_path, count), tmp_path / "e.json"
        with serve(lambda request, _: (503, {}, "gone")) as (url, _), pytest.raises(error, match="gone"):
            evaluate(settings(data, url, output=str(out)))
        assert list(tmp_path.glob("e.json*")) == []

    def test_single_failures_are_rows_and_asked_again_when_repeated(self, tmp_path: Path) -> None:
        """One in three is not answered, never ten in a row; one is refused for itself."""
        data, out = write_questions(tmp_path, 30), str(tmp_path / "e.json")

        def answer(request: dict[str, Any], _: int) -> Any:
            number = number_in(request)
            if number == 5:
                return 400, {}, '{"error": {"message": "this picture is too strange"}}'
            return (500, {}, "oops") if number % 3 == 0 else structured(number)

        with serve(answer) as (url, _):
            found = evaluate(settings(data, url, output=out))
        named = {int(row.id[1:]): row.error for row in found.rows if row.error}
        assert set(named) == {5, *range(0, 30, 3)}
        assert "this picture is too strange" in named[5]
        assert "status 500" in named[3]
        assert found.results["answer accuracy"].count == 30 - len(named)
        self.resume(data, out, set(range(30)) - set(named))

    def test_a_reply_is_kept_before_anything_else_happens(self, tmp_path: Path) -> None:
        """Stopped by whoever is told of the first answer, the journal has it already."""
        data, out = write_questions(tmp_path, 9), str(tmp_path / "e.json")

        def stop(done: int, _: int) -> None:
            if done:
                raise KeyboardInterrupt

        with (
            serve(lambda request, _: structured(number_in(request))) as (url, requests),
            pytest.raises(KeyboardInterrupt),
        ):
            evaluate(settings(data, url, output=out, concurrency=1), progress=stop)
        assert self.kept(out) == set(numbers(requests)) == {0}
        self.resume(data, out, {0})

    def test_a_cancelled_evaluation_keeps_its_answers(self, tmp_path: Path) -> None:
        data, out = write_questions(tmp_path, 12), str(tmp_path / "e.json")
        answered = threading.Event()
        let_go = threading.Event()

        def answer(request: dict[str, Any], number: int) -> str:
            if number >= 6:
                answered.set()
                let_go.wait(20)
            return structured(number_in(request))

        async def run(url: str) -> None:
            task = asyncio.create_task(evaluate_async(settings(data, url, output=out, concurrency=2)))
            await asyncio.to_thread(answered.wait, 20)
            await asyncio.sleep(0.2)
            task.cancel()
            await task

        with serve(answer) as (url, requests):
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(run(url))
            let_go.set()
        assert self.kept(out) == set(numbers(requests[:6]))
        self.resume(data, out, self.kept(out))


@pytest.mark.parametrize("killed", [False, True])
def test_a_trial_of_the_first_questions_goes_on_with_all(tmp_path: Path, killed: bool) -> None:
    data, out = write_questions(tmp_path, 9), str(tmp_path / "e.json")

    def answer(request: dict[str, Any], number: int) -> Any:
        return (401, {}, "no key") if killed and number == 2 else structured(number_in(request))

    with serve(answer) as (url, requests):
        trial = settings(data, url, output=out, limit=4, concurrency=1)
        if killed:
            with pytest.raises(EndpointError):
                evaluate(trial)
        else:
            assert len(evaluate(trial).rows) == 4
        evaluate(settings(data, url, output=out, limit=6))
        found = evaluate(settings(data, url, output=out))
        assert found.rows == evaluate(settings(data, url)).rows[:9]
        answered = [request for number, request in enumerate(requests[:-9]) if not (killed and number == 2)]
        assert set(numbers(answered).values()) == {1}
    # Fewer questions than were asked are another run.
    with pytest.raises(ConfigError, match="limit was None, now 3"):
        evaluate(settings(data, "http://127.0.0.1:9/v1", output=out, limit=3))


def test_images_that_cannot_be_read_do_not_hide_an_outage(tmp_path: Path) -> None:
    """Nobody is asked about a broken image, so that it says nothing of the server."""
    data = write_questions(tmp_path, 40)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (tmp_path / "broken.png").write_text("no image")
    for row in rows[3::4]:
        row["image"] = str(Path(row["image"]).with_name("broken.png"))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(request: dict[str, Any], number: int) -> Any:
        return structured(number_in(request)) if number == 0 else (500, {}, "oops")

    with serve(answer) as (url, requests), pytest.raises(EndpointError, match="did not answer 10 questions in a row"):
        evaluate(settings(data, url, concurrency=1))
    assert len(requests) == 11


class TestTheBudget:
    PRICES = {"prompt_price": 1000.0, "completion_price": 5000.0}  # 100 and 20 tokens: 0.1 + 0.1 = 0.2 an answer

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_it_stops_before_it_is_passed_and_goes_on_with_a_greater_one(self, tmp_path: Path, concurrency: int) -> None:
        data, out = write_questions(tmp_path, 20), str(tmp_path / "e.json")
        how = {**self.PRICES, "output": out, "concurrency": concurrency}
        with serve(lambda request, _: structured(number_in(request))) as (url, requests):
            # 1.5 pays for seven answers: 7 × 0.2 = 1.4.
            with pytest.raises(
                BudgetError, match=r"cost 1\.4 of the budget of 1\.5.*13 questions are left.*larger --budget"
            ):
                evaluate(settings(data, url, budget=1.5, **how))
            assert len(requests) == 7
            with pytest.raises(BudgetError, match=r"cost 1\.4 of the budget of 1\.5"):  # what was paid before counts
                evaluate(settings(data, url, budget=1.5, **how))
            assert len(requests) == 7
            found = evaluate(settings(data, url, budget=4.1, **how))
            assert set(numbers(requests).values()) == {1}
            assert found.rows == evaluate(settings(data, url)).rows

    def test_one_goes_ahead_to_see_what_an_answer_costs(self, tmp_path: Path) -> None:
        with serve(lambda request, _: structured(number_in(request))) as (url, requests):
            with pytest.raises(BudgetError, match=r"cost 0\.2 of the budget of 0\.1.*4 questions are left"):
                evaluate(settings(write_questions(tmp_path, 5), url, budget=0.1, concurrency=8, **self.PRICES))
            assert len(requests) == 1
            with pytest.raises(BudgetError, match="cost 0 of the budget of 0"):
                evaluate(settings(write_questions(tmp_path, 5), url, budget=0, concurrency=8, **self.PRICES))
            assert len(requests) == 1

    def test_a_budget_that_is_just_enough(self, tmp_path: Path) -> None:
        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            asked = settings(write_questions(tmp_path, 5), url, budget=1, **self.PRICES)
            assert evaluate(asked).errors == 0
            # 4 × (100 × 2.5 + 20 × 10) / 10⁶, which floats miss by a last digit.
            asked = settings(write_questions(tmp_path, 4), url, budget=0.0018, prompt_price=2.5, completion_price=10)
            assert evaluate(asked).errors == 0

    def test_what_a_thinker_was_asked_before_is_not_counted(self, tmp_path: Path) -> None:
        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            thinker = ServedThinker(Endpoint(url, "vlm"))
            for _ in range(3):
                asked = settings(write_questions(tmp_path, 5), url, budget=1, **self.PRICES)
                assert evaluate(asked, thinker=thinker).errors == 0
        assert thinker.usage.requests == 15

    def test_a_server_that_counts_no_tokens_ends_it(self, tmp_path: Path) -> None:
        """The first answer shows it; that one is kept, and the rest can be asked without a budget."""

        def answer(request: dict[str, Any], number: int) -> Any:
            body = {"choices": [{"message": {"content": structured(number_in(request))}}]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body)

        data, out = write_questions(tmp_path, 9), str(tmp_path / "e.json")
        with serve(answer) as (url, requests):
            with pytest.raises(BudgetError, match="does not report how many tokens"):
                evaluate(settings(data, url, budget=5, output=out, concurrency=8, **self.PRICES))
            assert len(requests) == 1
            found = evaluate(settings(data, url, output=out))
            assert set(numbers(requests).values()) == {1}
        assert (found.errors, len(found.rows)) == (0, 9)

    def test_failures_do_not_keep_it_waiting(self, tmp_path: Path) -> None:
        """Nobody knows what an answer costs until one is there, and the first three are none."""

        def answer(request: dict[str, Any], number: int) -> Any:
            return (500, {}, "oops") if number < 3 else structured(number_in(request))

        with serve(answer) as (url, _):
            found = evaluate(settings(write_questions(tmp_path, 12), url, budget=99, **self.PRICES))
        assert found.errors == 3

    def test_questions_that_cannot_be_asked_are_not_left(self, tmp_path: Path) -> None:
        data = write_questions(tmp_path, 12)
        (tmp_path / "3.png").write_bytes(b"no picture")  # of questions 3 and 10
        with serve(lambda request, _: structured(number_in(request))) as (url, _):
            found = evaluate(settings(data, url, budget=2, **self.PRICES))
        assert found.errors == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"budget": 1}, "budget needs prices"),
            ({"budget": 1, "base_url": None, "prompt_price": 1}, "budget applies only to a model on a server"),
            ({"grammar": True, "base_url": None}, "grammar applies only to a model on a server"),
            ({"grammar": True}, "grammar needs protocol chain, got structured"),
            ({"model": None}, "base_url needs model"),
        ],
    )
    def test_settings_that_make_no_sense(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            EvalSettings.from_values(
                {"data": "q.jsonl", "base_url": "http://h/v1", "model": "m", "protocol": "structured", **change}
            )


CHAIN = (
    '<think>\n<area>[{"bbox_2d":[0.100,0.200,0.600,0.900]}]</area>\n<text>Here.</text>\n</think>\n<answer>\nred\n</answer>'
)

THINK = CHAIN.removeprefix("<think>").partition("</think>")[0]
PART = THINK[:50].strip()


def choice(content: Any, finish: str = "stop", **more: Any) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps({"choices": [{"message": {"content": content, **more}, "finish_reason": finish}]})


@pytest.mark.parametrize(
    ("said", "protocol", "completion", "problems", "complete"),
    [
        (choice(CHAIN), "chain", CHAIN, (), True),
        # A reasoning parser has taken the think part for reasoning, and its tags away; a template has opened it.
        (choice("<answer>\nred\n</answer>", reasoning_content=THINK), "chain", CHAIN, (), True),
        (choice(CHAIN.removeprefix("<think>")), "chain", CHAIN, (), True),
        (choice(None, reasoning_content=PART), "chain", f"<think>\n{PART}", ("no_content", "missing_tag"), True),
        (choice(None, "length", reasoning=PART), "chain", f"<think>\n{PART}", ("cut_off", "missing_tag"), False),
        (choice(CHAIN[:60], "length"), "chain", CHAIN[:60], ("missing_tag",), False),
        (choice(None, refusal="I won't."), "chain", "", ("refused", "missing_tag"), True),
        (choice(None, "content_filter"), "chain", "", ("refused", "missing_tag"), True),
        (choice(None, reasoning_content="hm"), "chain", "", ("no_content", "missing_tag"), True),
        (choice(None, tool_calls=[{"id": "1"}]), "chain", "", ("no_content", "missing_tag"), True),
        (choice(""), "chain", "", ("missing_tag",), True),
        (choice("red"), "direct", "red", (), True),
        (choice("hm</think>red"), "direct", "hm</think>red", (), True),
        (choice(None, refusal="I won't."), "direct", "", ("refused",), True),
        (choice(None, reasoning_content="hm"), "direct", "", ("no_content",), True),
        (choice(None, "length", reasoning_content="hm"), "direct", "", ("cut_off",), False),
        (choice("re", "length"), "direct", "re", (), False),
        (choice('{"steps": [', "length"), "structured", '{"steps": [', ("cut_off",), False),
        (choice(None, "length", reasoning="hm"), "structured", "", ("cut_off",), False),
        (choice(None, refusal="I won't."), "structured", "", ("refused", "not_json"), True),
        (choice(None, reasoning_content='{"steps": [], "answer": "a"}'), "structured", "", ("no_content", "not_json"), True),
        (choice("Sorry."), "structured", "Sorry.", ("not_json",), True),
    ],
)  # fmt: skip
def test_replies_that_are_none_are_rows_with_their_reason(
    tmp_path: Path, said: Any, protocol: str, completion: str, problems: tuple[str, ...], complete: bool
) -> None:
    with serve(lambda request, _: said) as (url, _):
        found = evaluate(settings(write_questions(tmp_path, 1), url, protocol=protocol))
    (row,) = found.rows
    assert (row.error, row.completion, row.problems, row.complete) == ("", completion, problems, complete)
    assert found.results["answer accuracy"].mean == ("red" in completion)
    assert all(words for _, words in row.faults)
    assert {code for code, _ in row.faults} <= set(problems)


KEY = "planted-secret-key-123"


class TestTheCommand:
    def test_an_interruption_ends_it_cleanly(self, tmp_path: Path) -> None:
        data, out = write_questions(tmp_path / "data", 40), tmp_path / "e.json"
        hanging, release = threading.Event(), threading.Event()

        def answer(request: dict[str, Any], number: int) -> str:
            if number >= 10:
                hanging.set()
                release.wait(60)
            return structured(number_in(request))

        with serve(answer) as (url, requests):
            words = ["eval", data, "--base-url", url, "--model", "vlm", "--protocol", "structured", "-o", out]
            process = sif(*words)
            assert hanging.wait(120), process.communicate()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            release.set()
        assert process.returncode == 130
        assert "to resume, repeat the command" in said
        assert "Traceback" not in said
        assert "exception" not in said.lower()
        TestWhatEndsIt().resume(data, str(out), set(numbers(requests[:10])))

    def test_no_file_and_no_message_holds_the_key(self, tmp_path: Path) -> None:
        """The server quotes it in replies and refusals; an address that holds one is refused before it is written down."""
        data, out = write_questions(tmp_path / "data", 3), tmp_path / "out" / "e.json"

        def answer(request: dict[str, Any], number: int) -> Any:
            if number_in(request) == 1:
                return 400, {}, json.dumps({"error": {"message": f"refused for {KEY}"}})
            return f"You sent {KEY}. {structured(number_in(request))}"

        with serve(answer) as (url, requests):
            words = ["eval", data, "--model", "vlm", "--protocol", "structured", "-o", out, "--api-key-env", "SIF_TEST_KEY"]
            process = sif(*words, "--base-url", url, env={"SIF_TEST_KEY": KEY})
            _, said = process.communicate(timeout=120)
        assert process.returncode == 3, said  # finished, one could not be asked
        assert requests[0]["_headers"]["Authorization"] == f"Bearer {KEY}"
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert out in files
        assert out.with_suffix(".html") in files
        assert [path for path in files if KEY.encode() in path.read_bytes()] == []
        assert KEY not in said
        assert "[key]" in out.read_text()

    @pytest.mark.parametrize("url", [f"http://me:{KEY}@127.0.0.1:9/v1", f"http://127.0.0.1:9/v1?api_key={KEY}"])
    def test_an_address_with_a_secret_is_written_down_nowhere(
        self, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, noted = write_questions(tmp_path, 3), []
        real: Callable[..., None] = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda self, **more: (noted.append(self.read_bytes()), real(self, **more)))
        with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
            evaluate(settings(data, url, output=str(tmp_path / "e.json")))
        assert KEY not in str(caught.value)
        assert noted == []  # nothing was written and taken back
        assert [path for path in tmp_path.rglob("*.json*") if KEY.encode() in path.read_bytes()] == []
