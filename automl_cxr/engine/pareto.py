"""Several objectives at once: who dominates whom, and who of a rung goes on.

Losses here are float (n, m): n candidates, m objectives, less is better. One candidate dominates another that is no better in
any objective and worse in one.
"""

from __future__ import annotations

import numpy as np

_REDUCTION = 3


def is_on_front(losses: np.ndarray) -> np.ndarray:
    """Mark the candidates that no other dominates, bool (n,); of equal ones all or none."""
    on_front = np.zeros(len(losses), dtype=bool)
    left = np.lexsort(losses.T[::-1])  # a candidate can only be dominated by one before it in this order
    while left.size:
        best = losses[left[0]]
        is_equal = (losses[left] == best).all(axis=1)
        on_front[left[is_equal]] = True
        left = left[(losses[left] < best).any(axis=1)]
    return on_front


def nondominated_ranks(losses: np.ndarray) -> np.ndarray:
    """Rank candidates, int (n,): 0 on the front, 1 on the front of the others, and so on (Deb et al. 2002, NSGA-II)."""
    ranks = np.zeros(len(losses), dtype=np.int64)
    left, rank = np.arange(len(losses)), 0
    while left.size:
        on_front = is_on_front(losses[left])
        ranks[left[on_front]] = rank
        left, rank = left[~on_front], rank + 1
    return ranks


def crowding_distances(losses: np.ndarray) -> np.ndarray:
    """Tell how lonely each candidate of one front is, float (n,); infinite at the ends of the front (Deb et al. 2002)."""
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
    """Tell whether a candidate stays in the race: a third does, at least one, by rank and then by crowding distance.

    Candidates that tie with the last of the third stay too. Objectives that are not known of all (NaN) take no part.
    """
    known = losses[:, ~np.isnan(losses).any(axis=0)]
    if known.shape[1] == 0:
        return True
    ranks = nondominated_ranks(known)
    rivals = ranks == ranks[candidate]
    n_better = int((ranks < ranks[candidate]).sum())
    lonely = crowding_distances(known[rivals])
    n_better += int((lonely > lonely[np.flatnonzero(rivals) == candidate]).sum())
    return n_better < max(1, len(losses) // _REDUCTION)


class ParetoHalving:
    """Asynchronous successive halving by Pareto rank, as Syne Tune's MOASHA (Schmucker et al. 2021, arXiv:2106.12639).

    Its rungs are those of ``asha``: an epoch, and three, nine, ... times as many. It decides from the record alone.
    """

    def __init__(self, first_rung: int) -> None:
        self._first_rung = first_rung

    def is_rung(self, epoch: int) -> bool:
        """Tell whether trials are compared after an epoch."""
        rung = self._first_rung
        while rung < epoch:
            rung *= _REDUCTION
        return rung == epoch
