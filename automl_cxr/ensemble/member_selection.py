"""Which members to take, and which of them say the same."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.baselines import rank_members
from automl_cxr.ensemble.weight_scoring import WeightScorer

NEAR_DUPLICATE = 0.98  # correlation of errors above which a member adds next to nothing
_WORTH_OF_DISAGREEMENT = 0.1  # of the objective: ten points of disagreement count as one point of it


def choose_diverse(ballots: WeightScorer, n_chosen: int) -> list[int]:
    """Choose members that are good together and disagree, one after another.

    The best member comes first. Each step adds the one with which the plain average of those chosen is best, a tenth of the
    share of images that it classifies otherwise than that average added.

    Args:
        ballots: Candidates' probabilities, the truth and the objective.
        n_chosen: Members to choose; all candidates if there are fewer.

    Returns:
        Indices of the candidates, in the order of choice.
    """
    n_chosen = min(n_chosen, ballots.n_members)
    chosen = [int(rank_members(ballots)[0])]
    predicted = ballots.probabilities.argmax(axis=2)
    while len(chosen) < n_chosen:
        taken = np.isin(np.arange(ballots.n_members), chosen).astype(np.float64)
        candidates = np.flatnonzero(taken == 0)
        together = (taken + np.eye(ballots.n_members)[candidates]) / (len(chosen) + 1)
        average = ballots.probabilities[chosen].mean(axis=0).argmax(axis=1)
        disagreement = (predicted[candidates] != average).mean(axis=1)
        worth = ballots.merit(together) + _WORTH_OF_DISAGREEMENT * disagreement
        chosen.append(int(candidates[worth.argmax()]))
    return chosen


def error_correlations(ballots: WeightScorer) -> np.ndarray:
    """Correlate members' errors (probabilities less the truth, over images and classes), (n_members, n_members).

    A member without any error correlates with nothing: 0.
    """
    truth = np.eye(ballots.n_classes, dtype=np.float32)[ballots.labels].ravel()
    products = np.empty((ballots.n_members, ballots.n_members))
    for row, member in enumerate(ballots.probabilities):
        error = member.ravel() - truth
        for column in range(row + 1):
            products[row, column] = error @ (ballots.probabilities[column].ravel() - truth)
            products[column, row] = products[row, column]
    # The errors of an image sum to 0 over its classes, so their mean is 0 and no centring is needed.
    sizes = np.sqrt(np.diag(products))
    scale = np.outer(sizes, sizes)
    correlations = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(correlations, 1.0)
    return correlations


def near_duplicates(ballots: WeightScorer, *, threshold: float = NEAR_DUPLICATE) -> list[tuple[int, int, float]]:
    """List pairs of members whose errors correlate above ``threshold``, the most alike first: (one, other, correlation)."""
    correlations = error_correlations(ballots)
    rows, columns = np.triu_indices(ballots.n_members, k=1)
    pairs = [
        (int(one), int(other), float(correlations[one, other]))
        for one, other in zip(rows, columns, strict=True)
        if correlations[one, other] > threshold
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
