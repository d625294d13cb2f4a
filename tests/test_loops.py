from __future__ import annotations

import _thread
import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from sifthinker.loops import in_thread, run_coroutine, threads

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
