import numpy as np
import pytest

from automl_cxr.ensemble.baselines import greedy_weights, uniform_weights
from automl_cxr.ensemble.cross_fitting import _at_least_as_good_as_simple, evolve_on_halves
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from tests.ensemble.drawing import draw_weight_scorer

QUICK = GeneticSettings(population=20, generations=10, patience=5, halvings=1)


@pytest.mark.parametrize("seed", range(5))
def test_evolved_weights_are_not_worse_than_simple_ones_where_they_are_fitted(seed):
    scorer = draw_weight_scorer(4, 60, 3, seed)
    patients = [f"p{i // 2}" for i in range(60)]
    weights = evolve_on_halves(scorer, patients, QUICK)
    simple = np.stack([*np.eye(4), uniform_weights(4), greedy_weights(scorer)])
    assert scorer.score(weights[None])[0] >= scorer.score(simple).max() - 1e-9
    assert weights.sum() == pytest.approx(1)


def test_weights_that_are_good_enough_are_not_changed():
    scorer = draw_weight_scorer(4, 60, 3, 0)
    good = greedy_weights(scorer)
    assert np.array_equal(_at_least_as_good_as_simple(good, scorer), good)


def test_weights_are_moved_only_as_far_as_necessary():
    scorer = draw_weight_scorer(4, 60, 3, 1)
    worst = np.eye(4)[scorer.score(np.eye(4)).argmin()]
    moved = _at_least_as_good_as_simple(worst, scorer)
    target = scorer.score(np.stack([*np.eye(4), uniform_weights(4), greedy_weights(scorer)])).max()
    assert scorer.score(moved[None])[0] >= target > scorer.score(worst[None])[0]
