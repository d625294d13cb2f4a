from __future__ import annotations

import _thread
import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar

import pytest

from sifthinker.loops import in_thread, iterate, run_coroutine, threads, ticking, together

HERE: ContextVar[str] = ContextVar("HERE", default="nowhere")


async def answer() -> str:
    await asyncio.sleep(0)
    return HERE.get()


async def fail() -> None:
    raise LookupError("lost")


def test_without_a_loop() -> None:
    HERE.set("outside")
    assert run_coroutine(answer()) == "outside"
    with pytest.raises(LookupError, match="lost"):
        run_coroutine(fail())


def test_inside_a_running_loop() -> None:
    async def cell() -> str:
        HERE.set("in a notebook")
        with pytest.raises(LookupError, match="lost"):
            run_coroutine(fail())
        return run_coroutine(answer())

    assert asyncio.run(cell()) == "in a notebook"


@pytest.mark.parametrize("runner", ["asyncio.run", "a kernel's loop"])
def test_an_interruption_cancels_the_work(runner: str) -> None:
    """Ctrl-C while the main thread waits for a loop in another one, which must clean up before it is left."""
    happened: list[str] = []

    async def work() -> None:
        try:
            threading.Timer(0.05, _thread.interrupt_main).start()
            await asyncio.sleep(600)
        finally:
            happened.append("cleaned up")

    async def cell() -> None:
        try:
            run_coroutine(work())
        except BaseException:
            happened.append("interrupted")
            raise

    if runner == "asyncio.run":  # takes the signal itself, and cancels the caller's task
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(cell())
    else:
        loop = asyncio.new_event_loop()
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
        loop.close()
    assert happened == ["cleaned up", "interrupted"]


def test_threads_are_ours_and_not_the_loops() -> None:
    async def go() -> tuple[int, object, object]:
        loop = asyncio.get_running_loop()
        before = loop._default_executor
        running, most = 0, 0

        def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.02)
            running -= 1

        with threads(3):
            await asyncio.gather(*(in_thread(work) for _ in range(9)))
        return most, before, loop._default_executor

    most, before, after = asyncio.run(go())
    assert 1 < most <= 3
    assert before is after is None


def test_in_thread_takes_the_context_along() -> None:
    async def go() -> str:
        HERE.set("with me")
        return await in_thread(HERE.get)

    assert asyncio.run(go()) == "with me"


async def count(most: int, happened: list[str], wait_s: float = 0.0) -> AsyncGenerator[int, None]:
    try:
        for number in range(most):
            yield number
            await asyncio.sleep(wait_s)
    finally:
        happened.append("cleaned up")


class TestIterate:
    def test_items_come_as_they_are_made(self) -> None:
        happened: list[str] = []
        times = []
        started = time.monotonic()
        for item in iterate(count(3, happened, 0.2)):
            times.append(time.monotonic() - started)
            assert item == len(times) - 1
        assert times[2] - times[0] > 0.3
        assert happened == ["cleaned up"]

    def test_nothing_runs_before_the_first_is_asked_for(self) -> None:
        happened: list[str] = []
        before = threading.active_count()
        items = iterate(count(3, happened))
        assert threading.active_count() == before
        assert list(items) == [0, 1, 2]
        assert threading.active_count() == before

    def test_errors_come_behind_the_items(self) -> None:
        async def breaks() -> AsyncIterator[int]:
            yield 1
            raise LookupError("lost")

        items = iterate(breaks())
        assert next(items) == 1
        with pytest.raises(LookupError, match="lost"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)

    def test_who_stops_listening_ends_it(self) -> None:
        """Even while it waits for long, and it has cleaned up when `close` returns."""
        happened: list[str] = []
        before = threading.active_count()
        items = iterate(count(3, happened, 600))
        assert next(items) == 0
        items.close()  # type: ignore[attr-defined]
        assert happened == ["cleaned up"]
        assert threading.active_count() == before

    def test_inside_a_running_loop(self) -> None:
        async def cell() -> list[int]:
            HERE.set("in a notebook")

            async def here() -> AsyncIterator[str]:
                yield HERE.get()

            assert list(iterate(here())) == ["in a notebook"]
            return list(iterate(count(3, [])))

        assert asyncio.run(cell()) == [0, 1, 2]

    @pytest.mark.parametrize("where", ["no loop", "asyncio.run", "a kernel's loop"])
    def test_an_interruption_ends_it(self, where: str) -> None:
        happened: list[str] = []

        async def work() -> AsyncIterator[int]:
            try:
                yield 0
                threading.Timer(0.05, _thread.interrupt_main).start()
                await asyncio.sleep(600)
            finally:
                happened.append("cleaned up")

        def listen() -> None:
            try:
                for _ in iterate(work()):
                    pass
            finally:
                happened.append("interrupted")

        async def cell() -> None:
            listen()

        if where == "no loop":
            with pytest.raises(KeyboardInterrupt):
                listen()
        elif where == "asyncio.run":  # takes the signal itself, and cancels the caller's task
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(cell())
        else:
            loop = asyncio.new_event_loop()
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(cell())
            loop.close()
        assert happened == ["cleaned up", "interrupted"]


class TestTogether:
    def test_results_are_in_order_and_so_many_at_once(self) -> None:
        running, most = 0, 0

        async def call(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01 * (number % 3))
            running -= 1
            return number

        assert asyncio.run(together((call(number) for number in range(20)), 4)) == list(range(20))
        assert most == 4
        assert asyncio.run(together([], 4)) == []

    def test_the_first_that_fails_ends_the_others(self) -> None:
        happened: list[str] = []
        begun = []

        async def call(number: int) -> None:
            begun.append(number)
            try:
                if number == 1:
                    raise LookupError("lost")
                await asyncio.sleep(600)
            finally:
                happened.append(f"{number} cleaned up")

        async def run() -> int:
            with pytest.raises(LookupError, match="lost"):
                await together((call(number) for number in range(99)), 3)
            return len(asyncio.all_tasks()) - 1

        assert asyncio.run(run()) == 0
        assert begun == [0, 1, 2]
        assert sorted(happened) == ["0 cleaned up", "1 cleaned up", "2 cleaned up"]

    def test_a_cancelled_one_ends_all(self) -> None:
        happened: list[str] = []

        async def call() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                happened.append("cleaned up")

        async def run() -> None:
            async with asyncio.timeout(0.05):
                await together((call() for _ in range(5)), 2)

        with pytest.raises(TimeoutError):
            asyncio.run(run())
        assert happened == ["cleaned up"] * 2


class TestTicking:
    def test_silence_is_told_between_the_items(self) -> None:
        happened: list[str] = []
        told = list(iterate(ticking(count(2, happened, 0.5), 0.2)))
        assert [item for item in told if item is not None] == [0, 1]
        # Of the half second behind each item a tick tells at least 0.2 s and 0.4 s, fewer on a machine under load.
        assert None in told[1 : told.index(1)]
        assert happened == ["cleaned up"]

    def test_a_silent_one_is_left_at_a_tick(self) -> None:
        """The generator waits for ten minutes; who listens ends it at once, and it has cleaned up."""
        happened: list[str] = []
        started = time.monotonic()
        items = iterate(ticking(count(2, happened, 600), 0.05))
        assert [next(items), next(items)] == [0, None]
        items.close()  # type: ignore[attr-defined]
        assert happened == ["cleaned up"]
        assert time.monotonic() - started < 30

    def test_errors_come_behind_the_items(self) -> None:
        async def breaks() -> AsyncGenerator[int, None]:
            yield 1
            raise LookupError("lost")

        items = iterate(ticking(breaks(), 60))
        assert next(items) == 1
        with pytest.raises(LookupError, match="lost"):
            next(items)
