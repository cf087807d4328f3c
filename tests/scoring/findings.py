"""Random predictions of several findings, of which some labels are not known."""

from __future__ import annotations

import numpy as np

from automl_cxr.scoring.predictions import Predictions


def draw_findings(n: int = 200, k: int = 4, *, seed: int = 0, unknown: float = 0.2, decimals: int = 2) -> Predictions:
    """Draw predictions better than chance, with ties and three images for each patient."""
    rng = np.random.default_rng(seed)
    present = rng.random((n, k)) < np.linspace(0.1, 0.5, k)
    labels = np.where(rng.random((n, k)) < unknown, rng.choice([-1, -2], (n, k)), present.astype(np.int64))
    probabilities = np.round(rng.random((n, k)) * 0.7 + 0.3 * present, decimals).astype(np.float32)
    findings = tuple(f"f{number}" for number in range(k))
    return Predictions(
        tuple(f"i{number}" for number in range(n)), labels, probabilities, findings, tuple(f"p{i // 3}" for i in range(n))
    )


def draw_models(m: int, n: int = 150, k: int = 4, *, seed: int = 0) -> list[Predictions]:
    """Draw several models of the same images, with different amounts of noise."""
    first = draw_findings(n, k, seed=seed)
    rng = np.random.default_rng(seed + 1)
    models = []
    for number in range(m):
        noise = rng.normal(size=(n, k)) * (0.1 + 0.1 * number)
        probabilities = np.clip(first.probabilities + noise, 0.001, 0.999).astype(np.float32)
        models.append(Predictions(first.ids, first.labels, probabilities, first.classes, first.patients))
    return models
