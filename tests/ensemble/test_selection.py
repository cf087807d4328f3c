"""Greedy selection against Caruana's algorithm written out, and the simple weights."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.selection import greedy_selection, single_weights, top_k_weights, uniform_weights
from automl_cxr.ensemble.voting import score_population, weighted_average
from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import log_loss, score_macro_f1


def draw(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(m, n, k)) * rng.uniform(0.8, 3, size=(m, 1, 1)) + np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probabilities.astype(np.float32), labels


def caruana(probabilities: np.ndarray, labels: np.ndarray, n_rounds: int) -> np.ndarray:
    bag: list[int] = []
    bags = []
    for _ in range(n_rounds):
        keys = []
        for member in range(len(probabilities)):
            average = weighted_average(probabilities, np.bincount([*bag, member], minlength=len(probabilities)))
            keys.append((score_macro_f1(labels, average), -log_loss(labels, average)))
        bag.append(keys.index(max(keys)))
        bags.append((max(keys), list(bag)))
    best = max(bags, key=lambda pair: pair[0])[1]
    return np.bincount(best, minlength=len(probabilities)) / len(best)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_is_caruanas(seed: int) -> None:
    probabilities, labels = draw(5, 120, 3, seed)
    np.testing.assert_allclose(
        greedy_selection(probabilities, labels, n_rounds=12), caruana(probabilities, labels, 12), atol=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_is_never_below_the_best_member_nor_an_earlier_prefix(seed: int) -> None:
    probabilities, labels = draw(8, 150, 4, seed)
    prefixes = [greedy_selection(probabilities, labels, n_rounds=n) for n in (1, 5, 20, 50)]
    scores = score_population(probabilities, labels, np.array(prefixes))
    assert scores[0] == score_population(probabilities, labels, np.eye(8)).max()
    assert (np.diff(scores) >= 0).all()
    assert prefixes[-1].sum() == pytest.approx(1)


def test_of_equal_members_the_first_is_taken_and_one_round_is_enough() -> None:
    probabilities, labels = draw(1, 60, 3, 0)
    weights = greedy_selection(np.repeat(probabilities, 4, axis=0), labels)
    assert weights.tolist() == [1, 0, 0, 0]


def test_log_loss_breaks_ties() -> None:
    labels = np.array([0, 1])
    shy, sure = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.1, 0.9]])
    assert greedy_selection(np.array([shy, sure]), labels).tolist() == [0, 1]


def test_no_round_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one round"):
        greedy_selection(*draw(2, 10, 2, 0), n_rounds=0)


def test_simple_weights() -> None:
    assert uniform_weights(4).tolist() == [0.25] * 4
    assert single_weights(3, 1).tolist() == [0, 1, 0]
    assert top_k_weights(np.array([0.1, 0.9, 0.5, 0.9]), 1).tolist() == [0, 1, 0, 0]
    assert top_k_weights(np.array([0.1, 0.9, 0.5, 0.9]), 3).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    for k in (0, 5):
        with pytest.raises(UsageError, match="from 1 to 4"):
            top_k_weights(np.zeros(4), k)
