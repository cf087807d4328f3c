"""Weights without evolution: everyone alike, one alone, the best k, and greedy selection."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UsageError


def uniform_weights(n_members: int) -> np.ndarray:
    """Weigh all members alike, float64 (n_members,)."""
    return np.full(n_members, 1 / n_members)


def top_k_weights(order: np.ndarray, k: int) -> np.ndarray:
    """Weigh the k best members alike and leave the others out, float64 (n_members,).

    Args:
        order: The members from the best, indices (n_members,).
        k: From 1 to n_members.

    Raises:
        UsageError: If k is out of range.
    """
    if not 1 <= k <= len(order):
        raise UsageError(f"The best k of {len(order)} members needs k from 1 to {len(order)}. Received {k}.")
    weights = np.zeros(len(order))
    weights[order[:k]] = 1 / k
    return weights


def rank_members(ballots: WeightScorer) -> np.ndarray:
    """Order the members from the best one by the objective, indices (n_members,); of equals the surer, then the first."""
    return ballots.rank(np.eye(ballots.n_members))


def greedy_weights(ballots: WeightScorer, *, n_rounds: int = 50) -> np.ndarray:
    """Select members one after another, with replacement; weights are how often each was taken.

    Caruana et al. 2004, "Ensemble selection from libraries of models": each round adds the member that makes the
    average of all taken so far best. The score may fall on the way (a round always adds someone), so the shortest best
    prefix is kept. Macro-F1 moves in steps and ties often; the Brier score decides then, and of equals the first member.

    Args:
        ballots: Members' probabilities, the truth and the objective.
        n_rounds: Number of rounds, at least 1.

    Returns:
        float64 (n_members,), sum 1. On the same images never below the best single member.

    Raises:
        UsageError: If there is no round.
    """
    if n_rounds < 1:
        raise UsageError(f"Greedy selection needs at least one round. Received {n_rounds}.")
    taken = np.zeros(ballots.n_members)
    prefixes = []
    for n_taken in range(1, n_rounds + 1):
        candidates = (taken + np.eye(ballots.n_members)) / n_taken
        added = ballots.rank(candidates)[0]
        taken[added] += 1
        prefixes.append(candidates[added])
    return prefixes[ballots.rank(np.array(prefixes))[0]]
