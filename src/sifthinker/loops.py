"""Run coroutines from synchronous code, in notebooks too, and blocking functions from coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")

_GLANCE_S = 0.1  # interval between checks for an interruption

_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


def run_coroutine(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end and return its result, whether or not an event loop runs in this thread.

    If a loop runs, as in a notebook, the coroutine runs in another thread, in its own loop, with a copy of the caller's
    context. The caller's loop is blocked meanwhile. An interruption (Ctrl-C) cancels the coroutine and waits for its
    cleanup.

    Raises:
        BaseException: any exception of the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    caller = asyncio.current_task()
    asked = caller.cancelling() if caller is not None else 0
    outcome: Future[_T] = Future()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def main() -> _T:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001  # the caller's thread raises it
            outcome.set_exception(error)

    # A daemon, so that a second interruption can end the process.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        # Under `asyncio.run` an interruption does no more than ask the caller's task to end.
        while not wait([outcome], timeout=_GLANCE_S).done:
            if caller is not None and caller.cancelling() > asked:
                break
    finally:
        if not outcome.done():
            loop, task = begun.result()
            with contextlib.suppress(RuntimeError):  # the loop came to its end meanwhile
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
    return outcome.result()


_END: Any = object()


def _item_of(taken: tuple[Any, BaseException | None]) -> Any:
    item, error = taken
    if error is not None:
        raise error
    return item


def iterate(items: AsyncIterator[_T]) -> Iterator[_T]:
    """Yield the items of an asynchronous iterator in synchronous code, each as soon as it arrives; see `run_coroutine`.

    The iterator runs in its own thread. If the caller stops or is interrupted, the iterator is cancelled, and this waits for
    its cleanup.

    Raises:
        BaseException: any exception of the iterator.
    """
    try:
        caller = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        caller = None
    asked = caller.cancelling() if caller is not None else 0
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        async for item in items:
            ready.put((item, None))

    def work() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(main())
        except BaseException as raised:  # noqa: BLE001  # the caller's thread raises it
            error = raised
        ready.put((_END, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()

    def take() -> tuple[Any, BaseException | None]:
        while True:
            with contextlib.suppress(queue.Empty):
                found: tuple[Any, BaseException | None] = ready.get(timeout=_GLANCE_S)
                return found
            # Under `asyncio.run` an interruption does no more than ask the caller's task to end.
            if caller is not None and caller.cancelling() > asked:
                raise asyncio.CancelledError

    try:
        # No `while` here: CPython 3.11 lets an interruption at the jump back to its head go past `finally`.
        yield from iter(lambda: _item_of(take()), _END)
    finally:
        loop, task = begun.result()
        with contextlib.suppress(RuntimeError):  # the loop came to its end meanwhile
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def ticking(items: AsyncGenerator[_T, None], seconds: float) -> AsyncGenerator[_T | None, None]:
    """Yield the items of an asynchronous generator, and None whenever no item arrives in time.

    The caller can use the pauses, for instance to check whether to continue. If the caller stops, the generator is cancelled
    and closed.

    Args:
        items: a generator that never yields None.
        seconds: maximum time without an item before None is yielded.
    Raises:
        BaseException: any exception of the generator.
    """
    following = asyncio.ensure_future(anext(items))
    try:
        while True:
            await asyncio.wait([following], timeout=seconds)
            if not following.done():
                yield None
                continue
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
            following = asyncio.ensure_future(anext(items))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await items.aclose()


async def together(calls: Iterable[Coroutine[Any, Any, _T]], most: int) -> list[_T]:
    """Run coroutines, at most `most` at once, and return their results in order.

    If one fails, the others are cancelled. This raises after their cleanup.

    Args:
        calls: the coroutines; each is taken only when it can run.
        most: maximum number of coroutines that run at once.
    Raises:
        BaseException: the exception of the first coroutine that fails.
    """
    found: dict[int, _T] = {}
    numbered = enumerate(calls)

    async def work() -> None:
        for number, call in numbered:
            found[number] = await call

    workers = [asyncio.create_task(work()) for _ in range(most)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [found[number] for number in range(len(found))]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let `in_thread` use `count` threads inside the block. The loop's own executor does not change."""
    with ThreadPoolExecutor(count) as pool:
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupted build drops waiting calls; running ones finish


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread of the enclosing `threads`, or of the loop's executor, and return its result."""
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_POOL.get(), call)
