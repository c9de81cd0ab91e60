"""Look-ahead: from a function and an iterable to its results in order, some of them computed ahead in threads."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_ahead(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    threads: int,
    ahead: int,
    on_close: Callable[[], None] = lambda: None,
) -> Iterator[Made]:
    """`map` in order with `threads` threads and at most `ahead` results not yet taken.

    The items are drawn by the thread that takes the results, so stages chain without threads of their own.
    An error of `function` comes out at its place; what was not started then never is. `on_close` wakes threads
    that wait for something which will not come any more.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        on_close()
        pool.shutdown(wait=True, cancel_futures=True)


class Budget:
    """An amount (bytes, pixels) that the samples in flight share; the oldest one always gets through.

    Samples are taken in order, so if younger ones could hold everything that the oldest needs, all would
    wait for ever. Orders count from 0 and each must be released once, whatever became of its sample.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._used = 0
        self._oldest = 0
        self._released: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False

    def acquire(self, order: int, amount: int) -> None:
        """Wait until `amount` fits, or until every older order is released."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._used + amount <= self._limit or order == self._oldest)
            self._used += amount
            self._held[order] = amount

    def release(self, order: int) -> None:
        """Give back what the order holds (perhaps nothing)."""
        with self._changed:
            self._used -= self._held.pop(order, 0)
            self._released.add(order)
            while self._oldest in self._released:
                self._released.remove(self._oldest)
                self._oldest += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody through: the chunk was given up, and its threads must not wait for one another."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
