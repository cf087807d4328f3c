"""Greedy selection against a plain implementation of Caruana's algorithm, and the simple weights."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.ensemble.weighted_average import weighted_average
from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import score_macro_f1
from tests.ensemble.drawing import draw, draw_weight_scorer


def caruana(probabilities: np.ndarray, labels: np.ndarray, n_rounds: int) -> np.ndarray:
    bag: list[int] = []
    bags = []
    for _ in range(n_rounds):
        keys = []
        for member in range(len(probabilities)):
            average = weighted_average(probabilities, np.bincount([*bag, member], minlength=len(probabilities)))
            brier = ((average - np.eye(probabilities.shape[2])[labels]) ** 2).sum(axis=1).mean()
            keys.append((score_macro_f1(labels, average), -brier))
        bag.append(keys.index(max(keys)))
        bags.append((max(keys), list(bag)))
    best = max(bags, key=lambda pair: pair[0])[1]
    return np.bincount(best, minlength=len(probabilities)) / len(best)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_equals_the_algorithm_of_caruana(seed: int) -> None:
    probabilities, labels = draw(5, 120, 3, seed)
    np.testing.assert_allclose(
        greedy_weights(WeightScorer(probabilities, labels), n_rounds=12), caruana(probabilities, labels, 12), atol=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_is_never_below_the_best_member_nor_an_earlier_prefix(seed: int) -> None:
    scorer = draw_weight_scorer(8, 150, 4, seed)
    prefixes = [greedy_weights(scorer, n_rounds=n) for n in (1, 5, 20, 50)]
    scores = scorer.score(np.array(prefixes))
    assert scores[0] == scorer.score(np.eye(8)).max()
    assert (np.diff(scores) >= 0).all()
    assert prefixes[-1].sum() == pytest.approx(1)


def test_the_first_of_equal_members_is_selected_in_one_round() -> None:
    probabilities, labels = draw(1, 60, 3, 0)
    weights = greedy_weights(WeightScorer(np.repeat(probabilities, 4, axis=0), labels))
    assert weights.tolist() == [1, 0, 0, 0]


def test_the_brier_score_breaks_ties() -> None:
    labels = np.array([0, 1])
    unconfident, confident = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.1, 0.9]])
    assert greedy_weights(WeightScorer(np.array([unconfident, confident]), labels)).tolist() == [0, 1]


def test_zero_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one round"):
        greedy_weights(draw_weight_scorer(2, 10, 2, 0), n_rounds=0)


def test_simple_weights() -> None:
    assert uniform_weights(4).tolist() == [0.25] * 4
    assert top_k_weights(np.array([1, 3, 2, 0]), 1).tolist() == [0, 1, 0, 0]
    assert top_k_weights(np.array([1, 3, 2, 0]), 3).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    for k in (0, 5):
        with pytest.raises(UsageError, match="from 1 to 4"):
            top_k_weights(np.arange(4), k)


def test_members_are_ranked_by_the_objective() -> None:
    scorer = draw_weight_scorer(6, 200, 3, 0)
    scores = scorer.score(np.eye(6))
    assert (np.diff(scores[rank_members(scorer)]) <= 0).all()
