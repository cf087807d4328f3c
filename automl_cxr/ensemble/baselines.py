"""Ensemble weights without a genetic algorithm: uniform, the best k members, and greedy selection."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.errors import UsageError


def uniform_weights(n_members: int) -> np.ndarray:
    """Return equal weights for all members, float64 (n_members,)."""
    return np.full(n_members, 1 / n_members)


def top_k_weights(order: np.ndarray, k: int) -> np.ndarray:
    """Return equal weights for the k best members and 0 for the others, float64 (n_members,).

    Args:
        order: Indices of the members, best first, (n_members,).
        k: From 1 to n_members.

    Raises:
        UsageError: k is out of range.
    """
    if not 1 <= k <= len(order):
        raise UsageError(f"The number of best members must be from 1 to {len(order)}. Received {k}.")
    weights = np.zeros(len(order))
    weights[order[:k]] = 1 / k
    return weights


def rank_members(scorer: BaseWeightScorer) -> np.ndarray:
    """Rank the members, best first: by the objective, then by squared error, then by position; indices (n_members,)."""
    return scorer.rank(np.eye(scorer.n_members))


def greedy_weights(scorer: BaseWeightScorer, *, n_rounds: int = 50) -> np.ndarray:
    """Select members one after another, with replacement. The weight of a member is how often it was selected.

    Caruana et al. 2004, "Ensemble selection from libraries of models": each round adds the member with which the average of
    all selected members scores best. The score may decrease in a round, because every round adds a member. Therefore the
    selection after the round with the best score is returned, the earliest in a tie. Ties in
    macro-F1 are frequent and are broken by the Brier score, then by position.

    Args:
        scorer: Members' probabilities, labels and the objective.
        n_rounds: Number of rounds, at least 1.

    Returns:
        float64 (n_members,), sum 1. On the same images the score is never below that of the best single member.

    Raises:
        UsageError: n_rounds is below 1.
    """
    if n_rounds < 1:
        raise UsageError(f"Greedy selection needs at least one round. Received {n_rounds}.")
    weights: np.ndarray = scorer.compute_once(("greedy", n_rounds), lambda: _select_greedily(scorer, n_rounds))
    return weights


def _select_greedily(scorer: BaseWeightScorer, n_rounds: int) -> np.ndarray:
    counts = np.zeros(scorer.n_members)
    selections = []
    for n_selected in range(1, n_rounds + 1):
        candidates = (counts + np.eye(scorer.n_members)) / n_selected
        added = scorer.rank(candidates)[0]
        counts[added] += 1
        selections.append(candidates[added])
    return selections[scorer.rank(np.array(selections))[0]]
