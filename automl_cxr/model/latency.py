"""Measuring the inference time of a network on the machine that trained it."""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np

BATCH_SIZE = 32  # the same for all trials, regardless of their batch size in training
_N_WARM_UPS = 2
_MIN_BATCHES, _MAX_BATCHES, _SECONDS = 5, 30, 2.0


def measure_latency(model: keras.Model, batch: np.ndarray) -> float:
    """Return the milliseconds that a network takes for one image of a batch in memory.

    After two batches to warm up, the result is the median over 5 to 30 batches, as many as fit into two seconds. Other
    processes on the machine increase it.

    Args:
        model: The network.
        batch: Pixels (n, h, w, 1) at the network's input size; ``BATCH_SIZE`` images if there are as many.
    """
    for _ in range(_N_WARM_UPS):
        model.predict_on_batch(batch)
    seconds: list[float] = []
    while len(seconds) < _MIN_BATCHES or (len(seconds) < _MAX_BATCHES and sum(seconds) < _SECONDS):
        started = time.perf_counter()
        model.predict_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / len(batch)
