"""Selection of ensemble members, and detection of members with nearly equal errors."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.baselines import rank_members
from automl_cxr.ensemble.weight_scoring import WeightScorer

NEAR_DUPLICATE = 0.98  # correlation of errors above which a member hardly improves an ensemble
_WEIGHT_OF_DISAGREEMENT = 0.1  # relative to the objective: ten points of disagreement count as one point of score


def choose_diverse(scorer: WeightScorer, n_chosen: int) -> list[int]:
    """Choose members greedily by their common score and the differences between their predictions.

    The first is the best single member. Each step adds the candidate with the highest sum of two terms: the score of the
    uniform average with the members chosen so far, and a tenth of the share of images that the candidate classifies
    differently from their average.

    Args:
        scorer: Candidates' probabilities, labels and the objective.
        n_chosen: Members to choose; all candidates if there are fewer.

    Returns:
        Indices of the candidates, in the order of choice.
    """
    n_chosen = min(n_chosen, scorer.n_members)
    chosen = [int(rank_members(scorer)[0])]
    predicted = scorer.probabilities.argmax(axis=2)
    while len(chosen) < n_chosen:
        is_chosen = np.isin(np.arange(scorer.n_members), chosen).astype(np.float64)
        candidates = np.flatnonzero(is_chosen == 0)
        weights = (is_chosen + np.eye(scorer.n_members)[candidates]) / (len(chosen) + 1)
        average = scorer.probabilities[chosen].mean(axis=0).argmax(axis=1)
        disagreement = (predicted[candidates] != average).mean(axis=1)
        scores = scorer.score(weights) + _WEIGHT_OF_DISAGREEMENT * disagreement
        chosen.append(int(candidates[scores.argmax()]))
    return chosen


def error_correlations(scorer: WeightScorer) -> np.ndarray:
    """Correlate members' errors (probabilities minus truth, over images and classes), (n_members, n_members).

    A member without any error has correlation 0 with all others.
    """
    truth = np.eye(scorer.n_classes, dtype=np.float32)[scorer.labels].ravel()
    products = np.empty((scorer.n_members, scorer.n_members))
    for row, member in enumerate(scorer.probabilities):
        error = member.ravel() - truth
        for column in range(row + 1):
            products[row, column] = error @ (scorer.probabilities[column].ravel() - truth)
            products[column, row] = products[row, column]
    # The errors of an image sum to 0 over its classes, so their mean is 0 and centring is not needed.
    sizes = np.sqrt(np.diag(products))
    scale = np.outer(sizes, sizes)
    correlations = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(correlations, 1.0)
    return correlations


def near_duplicates(scorer: WeightScorer, *, threshold: float = NEAR_DUPLICATE) -> list[tuple[int, int, float]]:
    """List pairs of members whose errors correlate above ``threshold``, the highest first: (index, index, correlation)."""
    correlations = error_correlations(scorer)
    rows, columns = np.triu_indices(scorer.n_members, k=1)
    pairs = [
        (int(one), int(other), float(correlations[one, other]))
        for one, other in zip(rows, columns, strict=True)
        if correlations[one, other] > threshold
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
