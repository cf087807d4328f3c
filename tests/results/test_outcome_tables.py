"""Calibration and net benefit of predictions, and their figure."""

import itertools

import numpy as np
import pytest

from automl_cxr.results.figures.decisions import decision_curves, plot_decision_curves
from automl_cxr.results.outcome_tables import calibration_table, net_benefits
from automl_cxr.scoring.predictions import Predictions

CLASSES = ("covid", "normal", "pneumonia")


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(1.5 * logits) / np.exp(1.5 * logits).sum(axis=1, keepdims=True)
    patients = tuple(f"p{number // 2}" for number in range(300))
    return Predictions(tuple(map(str, range(300))), labels, probabilities, CLASSES, patients)


def test_each_class_has_slope_and_intercept_with_intervals(predictions):
    table = calibration_table(predictions).set_index("class")
    assert list(table.index) == list(CLASSES)
    for name in ("slope", "intercept"):
        assert ((table[f"{name}_low"] < table[name]) & (table[name] < table[f"{name}_high"])).all()
    np.testing.assert_allclose(table["observed"], np.bincount(predictions.labels) / 300)
    np.testing.assert_allclose(table["expected"], predictions.probabilities.mean(axis=0), atol=1e-6)


def test_a_class_without_images_has_no_row(predictions):
    without = predictions.take(predictions.labels != 0)
    assert calibration_table(without)["class"].tolist() == ["normal", "pneumonia"]
    assert net_benefits(without, None)["outcome"].unique().tolist() == ["normal", "pneumonia"]
    only_normal = predictions.take(predictions.labels == 1)
    assert net_benefits(only_normal, 1).empty
    assert calibration_table(only_normal).empty


def test_the_curve_of_the_abnormal_images_has_the_values_of_the_table(predictions):
    curves = decision_curves(predictions, 1)
    assert curves["outcome"].unique().tolist() == ["not normal"]
    at_thresholds = curves[curves["threshold"].isin([0.05, 0.1, 0.2, 0.3, 0.5])].reset_index(drop=True)
    assert at_thresholds.equals(net_benefits(predictions, 1))
    figure = plot_decision_curves(curves, "title")
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines) == ["95% interval by patient", "treat none", "treat all", "model"]
    np.testing.assert_array_equal(lines["model"].y, curves["net_benefit"])


def test_each_outcome_has_a_panel_and_the_legend_is_shown_once(predictions):
    figure = plot_decision_curves(decision_curves(predictions, None), "title")
    assert [annotation.text for annotation in figure.layout.annotations] == list(CLASSES)
    assert sum(trace.showlegend for trace in figure.data) == 4


def test_panels_of_many_outcomes_do_not_overlap_and_end_at_the_largest_probability():
    rng = np.random.default_rng(0)
    findings = tuple(f"finding {number}" for number in range(13))
    predictions = Predictions(tuple(map(str, range(60))), rng.integers(0, 2, (60, 13)), 0.2 * rng.random((60, 13)), findings)
    figure = plot_decision_curves(decision_curves(predictions, None), "title")
    rows = sorted({tuple(figure.layout[name].domain) for name in figure.layout if name.startswith("yaxis")})
    assert len(rows) == 7
    plot_height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert min(upper[0] - lower[1] for lower, upper in itertools.pairwise(rows)) * plot_height > 90
    assert figure.layout.xaxis.range[1] < 0.3
