"""How long a network takes to classify an image where it was trained."""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np

BATCH_SIZE = 32  # the same for all trials, whatever they were trained with
_WARM_UPS = 2
_FEWEST, _MOST, _SECONDS = 5, 30, 2.0


def measure_latency(model: keras.Model, batch: np.ndarray) -> float:
    """Measure the milliseconds that a network takes for one image of a batch that lies ready in memory.

    After two batches to warm up, the median of 5 to 30 is taken, of as many as fit into two seconds. Neighbours on the same
    machine slow it down.

    Args:
        model: The network.
        batch: Pixels as the network takes them, (n, h, w, 1); ``BATCH_SIZE`` images where there are as many.
    """
    for _ in range(_WARM_UPS):
        model.predict_on_batch(batch)
    seconds: list[float] = []
    while len(seconds) < _FEWEST or (len(seconds) < _MOST and sum(seconds) < _SECONDS):
        started = time.perf_counter()
        model.predict_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / len(batch)
