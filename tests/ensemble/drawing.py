"""Random ensemble members."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.scoring.predictions import Predictions


def draw(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw probabilities (m, n, k) of members with different scores, and labels of classes with different sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits = rng.normal(size=(m, n, k)) * rng.uniform(0.8, 3, size=(m, 1, 1)) + np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probabilities.astype(np.float32), labels


def draw_weight_scorer(m: int, n: int, k: int, seed: int) -> WeightScorer:
    return WeightScorer(*draw(m, n, k, seed))


def draw_members(m: int, n: int = 150, k: int = 3, seed: int = 0) -> list[Predictions]:
    """Draw members with three images for each patient, in different orders."""
    probabilities, labels = draw(m, n, k, seed)
    ids, patients = tuple(f"i{i}" for i in range(n)), tuple(f"p{i // 3}" for i in range(n))
    rng = np.random.default_rng(seed)
    return [
        Predictions(ids, labels, member, tuple(f"c{i}" for i in range(k)), patients).take(rng.permutation(n))
        for member in probabilities
    ]
