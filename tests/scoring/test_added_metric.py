"""A metric that is added as one row with a plain function works in ensembles, intervals, objectives and requirements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.ensemble.build import methods_for
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.genetic import evolve_weights
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.ensemble.weighted_average import weighted_average
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring import metrics
from automl_cxr.scoring.intervals import bootstrap_interval, paired_difference
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metric_table import Direction
from automl_cxr.scoring.metrics import metrics_for, score_predictions
from automl_cxr.scoring.objectives import Requirement, check_objectives, direction_of, measure
from tests.ensemble.drawing import draw, draw_members

QUICK = GeneticSettings(population=10, generations=4, patience=2, halvings=1)


def brier(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean())


def hamming(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
    return float((probabilities.argmax(axis=1) != labels).mean())


def finding_probability(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
    assert normal_class is not None
    return float(1 - probabilities[labels != normal_class, normal_class].mean())


ROWS = (
    ("brier", "minimize", brier, False),
    ("hamming_loss", "minimize", hamming, False),
    ("finding_probability", "maximize", finding_probability, True),
)


@pytest.fixture(params=ROWS, ids=[row[0] for row in ROWS])
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Metric:
    name, direction, function, needs_normal_class = request.param
    return add(monkeypatch, name, direction, function, needs_normal_class=needs_normal_class)


def add(
    monkeypatch: pytest.MonkeyPatch, name: str, direction: Direction, function: Callable, *, needs_normal_class: bool
) -> Metric:
    row = Metric(name, direction, "added by a test", function, needs_normal_class=needs_normal_class)
    monkeypatch.setitem(metrics._BY_NAME, name, row)
    return row


def test_ensemble_weights_are_scored_by_the_added_metric(row: Metric) -> None:
    probabilities, labels = draw(4, 120, 3, 1)
    scorer = WeightScorer(probabilities, labels, objective=Objective.named(row.name, normal_class=1))
    population = np.random.default_rng(0).random((9, 4)) + 0.01
    expected = np.array([row.function(labels, weighted_average(probabilities, weights), 1) for weights in population])
    sign = 1 if row.direction == "maximize" else -1
    assert scorer.score(population) == pytest.approx(sign * expected, abs=1e-6)
    evolved = evolve_weights(scorer, replace(QUICK, brier_weight=0.0))
    assert evolved.score >= scorer.score(np.eye(4)).max()
    achieved = row.function(labels, weighted_average(probabilities, evolved.weights), 1)
    assert evolved.score == pytest.approx(sign * achieved, abs=1e-6)


def test_two_members_get_the_best_weights_of_a_grid_by_the_added_metric(row: Metric) -> None:
    probabilities, labels = draw(2, 60, 3, 0)
    scorer = WeightScorer(probabilities, labels, objective=Objective.named(row.name, normal_class=1))
    first = np.linspace(0, 1, 101)
    best = scorer.score(np.stack([first, 1 - first], axis=1)).max()
    assert scorer.score(exact_two_member_weights(scorer)[None])[0] >= best


def test_an_undefined_score_is_below_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "undefined", "maximize", lambda *_: float("nan"), needs_normal_class=False)
    scorer = WeightScorer(*draw(3, 20, 2, 0), objective=Objective.named("undefined"))
    assert (scorer.score(np.eye(3)) == -np.inf).all()


@pytest.mark.slow
def test_an_ensemble_is_built_and_compared_by_the_added_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    row = add(monkeypatch, "finding_probability", "maximize", finding_probability, needs_normal_class=True)
    members = draw_members(3, n=60)
    objective = Objective.named(row.name, normal_class=1)
    built = combine_members(members, names=("a", "b", "c"), method="greedy", objective=objective, settings=QUICK)
    assert built.comparison is not None
    assert set(built.comparison.methods) == set(methods_for(3))
    out_of_fold = built.comparison.methods["greedy"]
    expected = row.function(out_of_fold.predictions.labels, out_of_fold.predictions.probabilities, 1)
    assert out_of_fold.score == pytest.approx(expected)
    assert row.name in built.verdict()


def test_intervals_resample_the_added_metric(row: Metric) -> None:
    one, other = draw_members(2, n=150)
    interval = bootstrap_interval(one, metric=row.name, n_resamples=200, normal_class=1)
    score = row.function(one.labels, one.probabilities, 1)
    assert interval.low < score < interval.high
    difference, _ = paired_difference(one, other, metric=row.name, n_resamples=50, normal_class=1)
    assert difference == pytest.approx(score - row.function(other.labels, other.probabilities, 1))


def test_resamples_of_an_added_metric_equal_those_of_the_row_with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = add(monkeypatch, "plain_log_loss", "minimize", metrics.METRICS["log_loss"].function, needs_normal_class=False)
    predictions = draw_members(1, n=90)[0]
    intervals = [bootstrap_interval(predictions, metric=name, n_resamples=100) for name in (plain.name, "log_loss")]
    assert (intervals[0].low, intervals[0].high) == pytest.approx((intervals[1].low, intervals[1].high), rel=1e-5)


def test_objectives_and_requirements_accept_the_added_metric(row: Metric) -> None:
    predictions = draw_members(1)[0]
    assert check_objectives([row.name, "parameters"]) == (row.name, "parameters")
    assert direction_of(row.name) == row.direction
    assert Requirement.parse(f"{row.name}<=0.5").name == row.name
    value = measure(row.name, predictions.labels, predictions.probabilities, normal_class=1, costs={})
    assert value == score_predictions(predictions, normal_class=1)[row.name]


def test_an_added_metric_that_needs_the_normal_class_is_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "finding_probability", "maximize", finding_probability, needs_normal_class=True)
    with pytest.raises(UsageError, match="class without a finding"):
        Objective.named("finding_probability")
    with pytest.raises(UsageError, match="requires a normal class"):
        bootstrap_interval(draw_members(1)[0], metric="finding_probability")
    assert "finding_probability" not in metrics_for(("a", "b"))


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'macro_f1'"):
        Objective.named("macro_f2")
