"""Preparation of items in another thread, ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(prepare: Callable[[int], Item], n: int, *, n_ahead: int = 2) -> Iterator[Item]:
    """Yield ``prepare(0)`` to ``prepare(n - 1)`` in order, while another thread prepares the next items.

    An exception of ``prepare`` is raised where its item would be yielded.

    Args:
        prepare: Returns an item by its number. It is called in one other thread, in ascending order.
        n: Number of items.
        n_ahead: Number of items that are prepared before they are needed, at least 1; as many are in memory.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        waiting = deque(thread.submit(prepare, number) for number in range(min(n_ahead, n)))
        try:
            for number in range(n):
                item = waiting.popleft().result()
                if number + n_ahead < n:
                    waiting.append(thread.submit(prepare, number + n_ahead))
                yield item
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
