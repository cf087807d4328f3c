"""Blocks of consecutive images that are read and processed by several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from automl_cxr.hardware import n_usable_cores

_BLOCK = 256  # images

Result = TypeVar("Result")


def map_blocks(
    function: Callable[[slice], Result], n_images: int, *, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[Result]:
    """Call a function for blocks of consecutive images in threads, and yield the results in order.

    At most two blocks for each thread are in work, so that the images of few blocks are in memory.

    Args:
        function: Called with the rows of a block. NumPy, Pillow and hashlib release the interpreter's lock.
        n_images: Number of images.
        on_progress: Called in the calling thread with (images that are done, all images).
    """
    n_threads = n_usable_cores()
    pending: deque[tuple[int, Future[Result]]] = deque()

    def finish_first() -> Result:
        n_done, future = pending.popleft()
        result = future.result()
        if on_progress is not None:
            on_progress(n_done, n_images)
        return result

    with ThreadPoolExecutor(n_threads, thread_name_prefix="audit") as pool:
        try:
            for first in range(0, n_images, _BLOCK):
                stop = min(first + _BLOCK, n_images)
                pending.append((stop, pool.submit(function, slice(first, stop))))
                if len(pending) >= 2 * n_threads:
                    yield finish_first()
            while pending:
                yield finish_first()
        finally:
            pool.shutdown(cancel_futures=True)
