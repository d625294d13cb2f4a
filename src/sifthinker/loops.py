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

_GLANCE_S = 0.1  # between looks for an interruption

_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


def run_coroutine(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end and return its result, whether or not an event loop runs in this thread.

    Where one does, as in a notebook, the coroutine gets a loop in a thread of its own, with a copy of the caller's context;
    the caller's loop waits. An interruption (Ctrl-C) cancels the coroutine and waits until it has cleaned up.

    Raises:
        BaseException: what the coroutine raises.
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
    """The items of an asynchronous iterator for synchronous code, each as soon as it is there; see `run_coroutine`.

    It runs in a thread of its own. When the caller stops listening, or is interrupted, it is cancelled, and waited for until
    it has cleaned up.

    Raises:
        BaseException: what the iterator raises.
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
    """The items of an asynchronous generator, and None each time that none came for so long.

    Who listens can look at other things between, such as whether to go on. When it stops listening, the generator is
    cancelled where it waits, and closed.

    Args:
        items: none of them None.
        seconds: between two items, or an item and None, at most.
    Raises:
        BaseException: what the generator raises.
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
    """The results of coroutines in order, so many of them at once; they are taken from `calls` as their turn comes.

    The first that fails ends the others. They have cleaned up when this raises.

    Args:
        calls: any number.
        most: how many run at once.
    Raises:
        BaseException: what the first raises.
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
    """Let `in_thread` use this many threads inside the block; the loop's own executor stays as it is."""
    with ThreadPoolExecutor(count) as pool:
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)
            pool.shutdown(wait=False, cancel_futures=True)  # of an interrupted build; what runs is waited for


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread of the enclosing `threads`, or of the loop's executor, and return its result."""
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_POOL.get(), call)
