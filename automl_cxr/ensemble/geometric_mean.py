"""A weighted geometric mean of the members' probabilities, also called logarithmic opinion pool (Genest & Zidek 1986).

The probability of a class is proportional to the product of the members' probabilities, each to the power of the member's
weight. A sum of weights above 1 makes predictions more certain than those of the members, as for members with independent
errors.
"""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.combiners import Stacking, log_probabilities

PRIOR_DEVIATION = 0.15
"""Standard deviation of the normal prior of a weight, whose mean is equal weights of sum 1. With few images, weights remain
close to equal."""


def fit_geometric_mean(probabilities: np.ndarray, labels: np.ndarray) -> Stacking:
    """Fit the weights of a geometric mean: the maximum of the posterior, with equal total weight of all classes.

    Weights are at least 0. The problem is convex, so that the solution is unique.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        labels: True classes, integers (n,) from 0 to k - 1.

    Returns:
        A regression on log-probabilities with one coefficient for each member and without intercepts.
    """
    from scipy.optimize import minimize  # the import takes 0.2 s

    n_members, n_images, n_classes = probabilities.shape
    logs = log_probabilities(probabilities)
    counts = np.bincount(labels, minlength=n_classes)
    importance = (n_images / (np.count_nonzero(counts) * np.maximum(counts, 1)))[labels]
    of_truth = logs[:, np.arange(n_images), labels]
    equal = np.full(n_members, 1 / n_members)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(weights, logs, 1)
        highest = logits.max(axis=1, keepdims=True)
        powers = np.exp(logits - highest)
        totals = powers.sum(axis=1, keepdims=True)
        losses = (np.log(totals) + highest)[:, 0] - weights @ of_truth
        expected = np.einsum("mnk,nk->mn", logs, powers / totals)
        distance = (weights - equal) / PRIOR_DEVIATION
        return (
            float(importance @ losses + distance @ distance / 2),
            (expected - of_truth) @ importance + distance / PRIOR_DEVIATION,
        )

    solution = minimize(loss_and_gradient, equal, jac=True, method="L-BFGS-B", bounds=[(0, None)] * n_members)
    return Stacking(np.einsum("m,cd->cmd", solution.x, np.eye(n_classes)), np.zeros(n_classes))
