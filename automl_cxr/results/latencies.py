"""Latencies of saved models, measured one after the other on the same machine, so that they are comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from automl_cxr.records import TrialState
from automl_cxr.study.store import StudyStore


def measure_latencies(
    stores: Sequence[StudyStore], *, on_progress: Callable[[int, int], None] | None = None
) -> Mapping[tuple[str, int], float]:
    """Measure the milliseconds per image of the COMPLETE trials that have a saved model, one after the other.

    Each model predicts batches of 32 random images of its input size. The time does not depend on the content of the images,
    so the data of the study are not needed.

    Args:
        stores: The studies.
        on_progress: Called with (measured models, all models).

    Returns:
        Milliseconds by study and trial.

    Raises:
        TrialError: A model file is damaged.
    """
    saved = [
        (store, record.number)
        for store in stores
        for record in store.records(TrialState.COMPLETE)
        if store.has_model(record.number)
    ]
    measured = {}
    for store, number in saved:
        measured[store.name, number] = _measure(store, number)
        if on_progress is not None:
            on_progress(len(measured), len(saved))
    return measured


def _measure(store: StudyStore, number: int) -> float:
    from automl_cxr.model.inference import load_model
    from automl_cxr.model.latency import BATCH_SIZE, measure_latency  # imports Keras

    model = load_model(str(store.model_file(number)))
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *model.input_shape[1:]))
    return measure_latency(model, pixels.astype(np.float32))
