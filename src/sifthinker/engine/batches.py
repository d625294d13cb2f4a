"""Join the work of many threads into batches, for models that process several inputs as fast as one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """A function of one item for many threads, built from a function of several items.

    While one batch is processed, the items of further callers collect. The thread that gets the lock first processes the
    next batch.

    Args:
        work: items → their answers, in order; called by one thread at a time.
        size: maximum number of items in a batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Answer]], size: int) -> None:
        self._work = work
        self._size = size
        self._waiting: deque[tuple[Item, Future[Answer]]] = deque()
        self._lock = threading.Lock()

    def __call__(self, item: Item) -> Answer:
        """Return the item's answer. Raises the error of its batch."""
        mine: Future[Answer] = Future()
        self._waiting.append((item, mine))
        while not mine.done():
            with self._lock:
                if not mine.done():
                    self._next()
        return mine.result()

    def _next(self) -> None:
        self._answer([self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))])

    def _answer(self, batch: list[tuple[Item, Future[Answer]]]) -> None:
        try:
            answers = self._work([item for item, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        except BaseException as error:  # noqa: BLE001 - every caller must wake up
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:  # retry one by one, so only a bad item fails
                self._answer([one])

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process has its own queue.
        return (type(self), (self._work, self._size))
