"""Scores of a population against the metrics of each weighting; memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import sklearn.metrics

from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.ensemble.weighted_average import weighted_average
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.tasks import MULTICLASS
from tests.ensemble.drawing import draw, draw_weight_scorer


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if MULTICLASS in row.tasks])
def test_the_score_is_the_metric_of_each_average_and_higher_is_better(name: str, by_class: bool) -> None:
    probabilities, labels = draw(4, 300, 3, 1)
    objective = Objective.named(name, normal_class=1)
    scorer = WeightScorer(probabilities, labels, objective=objective)
    population = np.random.default_rng(0).random((12, 4, 3) if by_class else (12, 4)) + 0.01
    expected = [objective.score(labels, weighted_average(probabilities, weights)) for weights in population]
    sign = 1 if METRICS[name].direction == "maximize" else -1
    assert scorer.score(population) == pytest.approx(sign * np.array(expected), abs=5e-5)  # float32 may swap two ranks
    assert scorer.score(population)[scorer.rank(population)[0]] == scorer.score(population).max()


def test_an_undefined_score_is_minus_infinity() -> None:
    probabilities, _ = draw(3, 20, 2, 0)
    scorer = WeightScorer(probabilities, np.zeros(20, int), objective=Objective.named("macro_auc"))
    assert (scorer.score(np.eye(3)) == -np.inf).all()


def test_squared_error_is_the_brier_score() -> None:
    probabilities, labels = draw(4, 200, 3, 0)
    population = np.random.default_rng(0).dirichlet(np.ones(4), size=9)
    expected = [
        ((weighted_average(probabilities, weights) - np.eye(3)[labels]) ** 2).sum(axis=1).mean() for weights in population
    ]
    assert WeightScorer(probabilities, labels).squared_error(population) == pytest.approx(expected, abs=1e-6)


def test_an_objective_without_its_normal_class_is_refused() -> None:
    with pytest.raises(UsageError, match="class without a finding"):
        Objective.named("fnfr")


def test_take_keeps_the_objective() -> None:
    objective = Objective.named("accuracy")
    probabilities, labels = draw(3, 90, 3, 0)
    part = WeightScorer(probabilities, labels, objective=objective).take(labels > 0)
    assert part.objective is objective
    assert set(part.labels) == {1, 2}
    assert (part.probabilities == probabilities[:, labels > 0]).all()


def test_a_population_on_many_images_takes_little_extra_memory() -> None:
    scorer = draw_weight_scorer(8, 20_000, 14, 0)
    population = np.random.default_rng(0).dirichlet(np.ones(8), size=100)
    tracemalloc.start()
    try:
        scorer.score(population)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20, "votes of all images at once would take 107 MiB"


@pytest.mark.parametrize(("m", "n", "k"), [(6, 200, 4), (3, 50, 2), (2, 9, 14), (1, 30, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_population_scores_equal_scikit_learn_for_each_weighting(m: int, n: int, k: int, seed: int) -> None:
    probabilities, labels = draw(m, n, k, seed)
    population = np.random.default_rng(seed).dirichlet(np.ones(m), size=15)
    expected_f1, expected_loss = [], []
    for weights in population:
        average = weighted_average(probabilities, weights).astype(np.float64)
        average /= average.sum(axis=1, keepdims=True)
        predicted = average.argmax(axis=1)
        expected_f1.append(sklearn.metrics.f1_score(labels, predicted, labels=range(k), average="macro", zero_division=0))
        expected_loss.append(sklearn.metrics.log_loss(labels, average, labels=range(k)))
    assert WeightScorer(probabilities, labels).score(population) == pytest.approx(expected_f1)
    assert WeightScorer(probabilities, labels).log_loss(population) == pytest.approx(expected_loss, rel=1e-5)


def test_ties_go_to_the_first_class_as_in_argmax() -> None:
    probabilities = np.array([[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]])
    assert WeightScorer(probabilities, np.array([0, 1, 0])).score(np.ones((1, 1))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("block_bytes", [1, 5_000, 50_000])
def test_blocks_do_not_change_scores(block_bytes: int) -> None:
    probabilities, labels = draw(5, 301, 4, 0)
    population = np.random.default_rng(0).dirichlet(np.ones(5), size=20)
    whole, blocked = WeightScorer(probabilities, labels), WeightScorer(probabilities, labels, block_bytes=block_bytes)
    np.testing.assert_array_equal(blocked.score(population), whole.score(population))
    np.testing.assert_allclose(blocked.log_loss(population), whole.log_loss(population), rtol=1e-6)


def test_scores_do_not_depend_on_the_memory_order() -> None:
    probabilities, labels = draw(4, 100, 3, 0)
    population = np.eye(4)
    expected = WeightScorer(probabilities, labels).score(population)
    for other in (np.asfortranarray(probabilities), probabilities[::-1][::-1], probabilities.astype(np.float64)):
        np.testing.assert_array_equal(WeightScorer(other, labels).score(population), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_values_that_are_not_probabilities_are_refused(value: float) -> None:
    probabilities, labels = draw(3, 20, 3, 0)
    probabilities[2, 7, 1] = value
    with pytest.raises(DataError, match="Probabilities"):
        WeightScorer(probabilities, labels)


@pytest.mark.parametrize("labels", [np.full(20, -1), np.full(20, 3), np.zeros(19, int), np.zeros(20)])
def test_invalid_labels_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels"):
        WeightScorer(draw(3, 20, 3, 0)[0], labels)


def test_empty_arrays_are_refused() -> None:
    for m, n in ((0, 5), (3, 0)):
        with pytest.raises(DataError, match="none of them empty"):
            WeightScorer(np.zeros((m, n, 2)), np.zeros(n, int))


def test_a_population_of_another_shape_is_refused() -> None:
    scorer = WeightScorer(*draw(3, 20, 3, 0))
    for weights in (np.ones(3), np.ones((2, 4)), np.ones((2, 3, 2))):
        with pytest.raises(UsageError, match=r"\(population, 3\)"):
            scorer.score(weights)
