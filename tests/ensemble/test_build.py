"""Fitting ensembles and comparing methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.ensemble.build import METHODS, compare_methods, ensemble_predictions, fit_ensemble
from automl_cxr.ensemble.combiners import WeightedAverage
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.objective import Objective
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.predictions import Predictions
from tests.ensemble.drawing import draw_members

SMALL = GeneticSettings(population=20, generations=20, patience=10, halvings=1)
BARE = replace(SMALL, halvings=0, brier_weight=0.0, shrinkage=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_of_a_fit_is_the_score_of_its_predictions(method: str) -> None:
    members = draw_members(METHODS[method].n_members or 5)
    fitted = fit_ensemble(members, method=method, settings=SMALL)
    predictions = ensemble_predictions(members, fitted.combiner)
    assert fitted.method == method
    assert fitted.combiner.shares.sum() == pytest.approx(1)
    assert fitted.score == score_predictions(predictions)["macro_f1"]
    assert predictions.ids == members[0].ids
    assert predictions.patients == members[0].patients


@pytest.mark.parametrize("seed", range(4))
def test_all_methods_are_compared(seed: int) -> None:
    members = draw_members(6, seed=seed)
    fitted = compare_methods(members, settings=BARE)
    assert list(fitted) == ["best", "average", "geometric", "greedy", "ga", "ga-by-class", "stacking"]
    singles = [score_predictions(member)["macro_f1"] for member in members]
    assert fitted["best"].score == max(singles)
    assert fitted["best"].combiner.shares[int(np.argmax(singles))] == 1
    assert fitted["average"].combiner.shares.tolist() == pytest.approx([1 / 6] * 6)
    assert fitted["ga"].score >= max(fitted[name].score for name in ("average", "greedy", "best"))
    assert fitted["greedy"].score >= fitted["best"].score


def test_the_result_depends_on_the_seed() -> None:
    members = draw_members(8, seed=1)
    seeded = [replace(SMALL, seed=seed) for seed in range(4)]
    same = [fit_ensemble(members, settings=seeded[3], method="ga-by-class").combiner.shares.tobytes() for _ in range(2)]
    assert same[0] == same[1]
    others = {fit_ensemble(members, settings=settings, method="ga-by-class").combiner.shares.tobytes() for settings in seeded}
    assert len(others) > 1


def test_unlabelled_images_can_be_predicted_but_not_fitted_on() -> None:
    members = [Predictions(member.ids, np.full(150, -1), member.probabilities, member.classes) for member in draw_members(2)]
    assert set(ensemble_predictions(members, WeightedAverage(np.ones(2))).labels) == {-1}
    with pytest.raises(DataError, match="150 of 150 images without one"):
        fit_ensemble(members, method="ga-by-class")


def test_invalid_arguments_are_refused() -> None:
    members = draw_members(2)
    with pytest.raises(UnknownNameError, match="Did you mean 'greedy'"):
        fit_ensemble(members, method="gredy")
    with pytest.raises(UsageError, match="at least one member"):
        fit_ensemble([], method="ga-by-class")
    with pytest.raises(UsageError, match="2 members needs as many weights"):
        ensemble_predictions(members, WeightedAverage(np.ones(3)))
    with pytest.raises(UsageError, match="'sweep' is for 2 members; received 3"):
        fit_ensemble(draw_members(3), method="sweep")
    with pytest.raises(DataError, match="the same images"):
        fit_ensemble([members[0], members[1].take(slice(9))], method="ga-by-class")


def test_a_metric_to_minimise_is_minimised() -> None:
    members = draw_members(5, n=300)
    objective = Objective.named("log_loss")
    fitted = compare_methods(members, objective=objective, settings=BARE)
    assert fitted["ga"].score <= min(fitted[name].score for name in ("best", "average", "greedy")) + 1e-6
    assert fitted["best"].score == pytest.approx(min(objective.score(m.labels, m.probabilities) for m in members))
