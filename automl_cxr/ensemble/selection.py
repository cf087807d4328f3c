"""Weights without evolution: everyone alike, one alone, the best k, and greedy selection."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.voting import Ballots
from automl_cxr.errors import UsageError


def uniform_weights(n_members: int) -> np.ndarray:
    """Weigh all members alike, float64 (n_members,)."""
    return np.full(n_members, 1 / n_members)


def single_weights(n_members: int, index: int) -> np.ndarray:
    """Give all weight to one member, float64 (n_members,)."""
    return np.eye(n_members)[index]


def top_k_weights(scores: np.ndarray, k: int) -> np.ndarray:
    """Weigh the k members of highest score alike and leave the others out, float64 (n_members,).

    Args:
        scores: (n_members,), higher is better; of equals the first are taken.
        k: From 1 to n_members.

    Raises:
        UsageError: If k is out of range.
    """
    if not 1 <= k <= len(scores):
        raise UsageError(f"The best k of {len(scores)} members needs k from 1 to {len(scores)}. Received {k}.")
    weights = np.zeros(len(scores))
    weights[np.argsort(-np.asarray(scores), kind="stable")[:k]] = 1 / k
    return weights


def greedy_selection(probabilities: np.ndarray, labels: np.ndarray, *, n_rounds: int = 50) -> np.ndarray:
    """Select members one after another, with replacement, by macro-F1; weights are how often each was taken.

    Caruana et al. 2004, "Ensemble selection from libraries of models": each round adds the member that makes the
    average of all taken so far best. The score may fall on the way (a round always adds someone), so the shortest best
    prefix is kept. Macro-F1 moves in steps and ties often; log loss decides then, and of equals the first member.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        labels: True classes, integers (n,) from 0 to k - 1.
        n_rounds: Number of rounds, at least 1.

    Returns:
        float64 (n_members,), sum 1. On the same images never below the best single member.

    Raises:
        DataError: If probabilities and labels do not fit together, or are out of range.
        UsageError: If there is no round.
    """
    return select_greedily(Ballots(probabilities, labels), n_rounds=n_rounds)


def select_greedily(ballots: Ballots, *, n_rounds: int = 50) -> np.ndarray:
    """Do ``greedy_selection`` on ballots that are laid out already."""
    if n_rounds < 1:
        raise UsageError(f"Greedy selection needs at least one round. Received {n_rounds}.")
    taken = np.zeros(ballots.n_members)
    best, best_key = taken, (-np.inf, -np.inf)
    for n_taken in range(1, n_rounds + 1):
        candidates = (taken + np.eye(ballots.n_members)) / n_taken
        scores = ballots.macro_f1(candidates)
        tied = np.flatnonzero(scores == scores.max())
        losses = ballots.log_loss(candidates[tied])
        added = tied[losses.argmin()]
        taken[added] += 1
        key = (scores[added], -losses.min())
        if key > best_key:
            best, best_key = candidates[added], key
    return best
