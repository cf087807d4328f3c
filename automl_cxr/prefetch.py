"""Preparation of items in another thread, ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """Items by their number; another thread prepares those that follow the item that was requested last.

    Items can be requested in any order and several times, but only ascending order is fast. Iterating yields all of them in
    order. An exception of ``prepare`` is raised where its item is requested.

    Args:
        prepare: Returns an item by its number, from 0. It is called in one other thread.
        n: Number of items.
        n_ahead: Number of items that are prepared before they are requested; as many are in memory.
    """

    def __init__(self, prepare: Callable[[int], Item], n: int, *, n_ahead: int = 2) -> None:
        self._prepare = prepare
        self._n = n
        self._n_ahead = n_ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Item]] = {}

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: int) -> Item:
        with self._lock:
            wanted = range(number, min(number + self._n_ahead + 1, self._n))
            for skipped in self._waiting.keys() - set(wanted):
                self._waiting.pop(skipped).cancel()
            for following in wanted:
                if following not in self._waiting:
                    self._waiting[following] = self._thread.submit(self._prepare, following)
            item = self._waiting.pop(number)
        return item.result()

    def __iter__(self) -> Iterator[Item]:
        try:
            for number in range(self._n):
                yield self[number]
        finally:
            self._thread.shutdown(cancel_futures=True)
