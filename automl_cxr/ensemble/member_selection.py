"""Selection of ensemble members, and detection of members with nearly equal errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.ensemble.baselines import rank_members
from automl_cxr.ensemble.finding_diversity import decisions, disagreements, logit_correlations
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer

NEAR_DUPLICATE = 0.98  # correlation of errors above which a member hardly improves an ensemble
_WEIGHT_OF_DISAGREEMENT = 0.1  # relative to the objective: ten points of disagreement count as one point of score
_BONUS_OF_A_NEW_KIND = 0.02  # added to the objective: networks of another kind make other errors on new images, too


def choose_diverse(scorer: BaseWeightScorer, n_chosen: int, *, kinds: Sequence[str] | None = None) -> list[int]:
    """Choose members greedily by common score, differences between predictions, and kinds of networks.

    The first is the best single member. Each step adds the candidate with the highest sum of three terms: the score of the
    uniform average with the members chosen so far, a tenth of the share of images that the candidate classifies differently
    from their average (for findings, of the reported findings that only one of the two reports), and 0.02 if no chosen member
    is of its kind. A candidate whose errors are nearly equal to those of a chosen member (``near_duplicates``) is added only if
    no other one is left.

    Args:
        scorer: Candidates' probabilities, labels and the objective.
        n_chosen: Members to choose; all candidates if there are fewer.
        kinds: Kind of the network of each candidate, such as its family; by default all are of the same kind.

    Returns:
        Indices of the candidates, in the order of choice.
    """
    n_chosen = min(n_chosen, scorer.n_members)
    kind = np.asarray(kinds if kinds is not None else [""] * scorer.n_members, dtype=np.str_)
    is_duplicate = error_correlations(scorer) > NEAR_DUPLICATE
    chosen = [int(rank_members(scorer)[0])]
    predicted = _predict(scorer, scorer.probabilities)
    while len(chosen) < n_chosen:
        is_chosen = np.isin(np.arange(scorer.n_members), chosen)
        is_distinct = ~is_chosen & ~is_duplicate[chosen].any(axis=0)
        candidates = np.flatnonzero(is_distinct if is_distinct.any() else ~is_chosen)
        weights = (is_chosen + np.eye(scorer.n_members)[candidates]) / (len(chosen) + 1)
        average = _predict(scorer, scorer.probabilities[chosen].mean(axis=0))
        disagreement = _disagreements(scorer, predicted[candidates], average)
        is_new = ~np.isin(kind[candidates], kind[chosen])
        scores = scorer.score(weights) + _WEIGHT_OF_DISAGREEMENT * disagreement + _BONUS_OF_A_NEW_KIND * is_new
        chosen.append(int(candidates[scores.argmax()]))
    return chosen


def _predict(scorer: BaseWeightScorer, probabilities: np.ndarray) -> np.ndarray:
    """Return the predicted classes (..., n), or the decisions on findings (..., n, k)."""
    return decisions(scorer.labels, probabilities) if scorer.labels.ndim == 2 else probabilities.argmax(axis=-1)


def _disagreements(scorer: BaseWeightScorer, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return disagreements(predicted, reference) if scorer.labels.ndim == 2 else (predicted != reference).mean(axis=1)


def error_correlations(scorer: BaseWeightScorer) -> np.ndarray:
    """Correlate members' errors (probabilities minus truth, over images and classes), (n_members, n_members).

    A member without any error has correlation 0 with all others. For findings, see ``logit_correlations``.
    """
    if scorer.labels.ndim == 2:
        return logit_correlations(scorer.labels, scorer.probabilities)
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


def near_duplicates(scorer: BaseWeightScorer, *, threshold: float = NEAR_DUPLICATE) -> list[tuple[int, int, float]]:
    """List pairs of members whose errors correlate above ``threshold``, the highest first: (index, index, correlation)."""
    correlations = error_correlations(scorer)
    rows, columns = np.triu_indices(scorer.n_members, k=1)
    pairs = [
        (int(one), int(other), float(correlations[one, other]))
        for one, other in zip(rows, columns, strict=True)
        if correlations[one, other] > threshold
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
