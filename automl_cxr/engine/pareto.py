"""Pareto fronts for several objectives, and successive halving by Pareto rank.

Losses are float arrays (n, m): n candidates, m objectives, lower is better. A candidate dominates another one if it is not
worse in any objective and better in at least one.
"""

from __future__ import annotations

import numpy as np

_REDUCTION = 3


def is_on_front(losses: np.ndarray) -> np.ndarray:
    """Return which candidates are not dominated, bool (n,). Equal candidates get the same value."""
    on_front = np.zeros(len(losses), dtype=bool)
    remaining = np.lexsort(losses.T[::-1])  # a candidate can only be dominated by an earlier one in this order
    while remaining.size:
        best = losses[remaining[0]]
        is_equal = (losses[remaining] == best).all(axis=1)
        on_front[remaining[is_equal]] = True
        remaining = remaining[(losses[remaining] < best).any(axis=1)]
    return on_front


def nondominated_ranks(losses: np.ndarray) -> np.ndarray:
    """Return the rank of each candidate, int (n,): 0 on the front, 1 on the next front, ... (Deb et al. 2002, NSGA-II)."""
    ranks = np.zeros(len(losses), dtype=np.int64)
    remaining, rank = np.arange(len(losses)), 0
    while remaining.size:
        on_front = is_on_front(losses[remaining])
        ranks[remaining[on_front]] = rank
        remaining, rank = remaining[~on_front], rank + 1
    return ranks


def crowding_distances(losses: np.ndarray) -> np.ndarray:
    """Return the crowding distance of each candidate of one front, float (n,); infinite at its ends (Deb et al. 2002)."""
    distances = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span == 0:
            continue
        distances[column == column[order[0]]] = np.inf
        distances[column == column[order[-1]]] = np.inf
        distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distances


def is_among_best_third(losses: np.ndarray, candidate: int) -> bool:
    """Return whether a candidate is among the best third (at least one), by rank and then by crowding distance.

    Candidates that are equal to the last one of this third are included. Objectives with NaN for any candidate are ignored.
    """
    known = losses[:, ~np.isnan(losses).any(axis=0)]
    if known.shape[1] == 0:
        return True
    ranks = nondominated_ranks(known)
    is_same_rank = ranks == ranks[candidate]
    n_better = int((ranks < ranks[candidate]).sum())
    distances = crowding_distances(known[is_same_rank])
    n_better += int((distances > distances[np.flatnonzero(is_same_rank) == candidate]).sum())
    return n_better < max(1, len(losses) // _REDUCTION)


class ParetoHalving:
    """Asynchronous successive halving by Pareto rank, as Syne Tune's MOASHA (Schmucker et al. 2021, arXiv:2106.12639).

    Its rungs are those of ``asha``: the first rung's epoch times 1, 3, 9, ... Its decisions depend only on the stored trials.
    """

    def __init__(self, first_rung: int) -> None:
        self._first_rung = first_rung

    def is_rung(self, epoch: int) -> bool:
        """Return whether trials are compared after an epoch."""
        rung = self._first_rung
        while rung < epoch:
            rung *= _REDUCTION
        return rung == epoch
