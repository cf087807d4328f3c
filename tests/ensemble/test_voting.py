"""Weighted averages, and the batched fitness against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from automl_cxr.ensemble.voting import Ballots, score_population, weighted_average
from automl_cxr.errors import DataError, UsageError


def draw(m: int, n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(m, n, k)) * 1.5 + np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probabilities.astype(np.float32), labels


def test_average_by_hand_is_scaled_and_sums_to_one() -> None:
    probabilities = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    average = weighted_average(probabilities, np.array([1, 3]))
    np.testing.assert_allclose(average, [[0.25, 0.75]])
    assert average.dtype == np.float32
    many, _ = draw(50, 100, 14)
    np.testing.assert_allclose(weighted_average(many, np.arange(50)).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [0.5, -0.5], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [[0.5, 0.5]]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="eights"):
        weighted_average(draw(2, 5, 3)[0], np.array(weights))


@pytest.mark.parametrize(("m", "n", "k"), [(6, 200, 4), (3, 50, 2), (2, 9, 14), (1, 30, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_population_scores_equal_scikit_learn_for_each_individual(m: int, n: int, k: int, seed: int) -> None:
    probabilities, labels = draw(m, n, k, seed)
    population = np.random.default_rng(seed).dirichlet(np.ones(m), size=15)
    expected_f1, expected_loss = [], []
    for weights in population:
        average = weighted_average(probabilities, weights).astype(np.float64)
        average /= average.sum(axis=1, keepdims=True)
        predicted = average.argmax(axis=1)
        expected_f1.append(sklearn.metrics.f1_score(labels, predicted, labels=range(k), average="macro", zero_division=0))
        expected_loss.append(sklearn.metrics.log_loss(labels, average, labels=range(k)))
    assert score_population(probabilities, labels, population) == pytest.approx(expected_f1)
    assert Ballots(probabilities, labels).log_loss(population) == pytest.approx(expected_loss, rel=1e-5)


def test_ties_go_to_the_first_class_as_in_argmax() -> None:
    probabilities = np.array([[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]])
    assert score_population(probabilities, np.array([0, 1, 0]), np.ones((1, 1))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("block_bytes", [1, 5_000, 50_000])
def test_blocks_do_not_change_scores(block_bytes: int) -> None:
    probabilities, labels = draw(5, 301, 4)
    population = np.random.default_rng(0).dirichlet(np.ones(5), size=20)
    whole, blocked = Ballots(probabilities, labels), Ballots(probabilities, labels, block_bytes=block_bytes)
    np.testing.assert_array_equal(blocked.macro_f1(population), whole.macro_f1(population))
    np.testing.assert_allclose(blocked.log_loss(population), whole.log_loss(population), rtol=1e-6)


def test_members_in_any_memory_order_score_alike() -> None:
    probabilities, labels = draw(4, 100, 3)
    population = np.eye(4)
    expected = score_population(probabilities, labels, population)
    for other in (np.asfortranarray(probabilities), probabilities[::-1][::-1], probabilities.astype(np.float64)):
        np.testing.assert_array_equal(score_population(other, labels, population), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_values_that_are_no_probabilities_are_refused(value: float) -> None:
    probabilities, labels = draw(3, 20, 3)
    probabilities[2, 7, 1] = value
    with pytest.raises(DataError, match="Probabilities"):
        Ballots(probabilities, labels)


@pytest.mark.parametrize("labels", [np.full(20, -1), np.full(20, 3), np.zeros(19, int), np.zeros(20)])
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels"):
        Ballots(draw(3, 20, 3)[0], labels)


def test_nothing_to_fit_on_is_refused() -> None:
    for m, n in ((0, 5), (3, 0)):
        with pytest.raises(DataError, match="none of them empty"):
            Ballots(np.zeros((m, n, 2)), np.zeros(n, int))


def test_a_population_of_another_shape_is_refused() -> None:
    ballots = Ballots(*draw(3, 20, 3))
    for weights in (np.ones(3), np.ones((2, 4))):
        with pytest.raises(UsageError, match=r"\(population, 3\)"):
            ballots.macro_f1(weights)
