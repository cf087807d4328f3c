"""The tables of figures, compared with scikit-learn and with cases computed by hand."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from automl_cxr.results.figures.decisions import plot_risk_coverage
from automl_cxr.results.figures.findings import plot_finding, threshold_table
from automl_cxr.results.figures.hyperparameters import coordinates_table
from automl_cxr.results.figures.quality import (
    confusion_table,
    plot_confusion,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
    precision_recall_table,
    reliability_table,
    roc_table,
)
from automl_cxr.results.figures.search import loss_table
from automl_cxr.scoring.calibration import expected_calibration_error
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.risk_coverage import risk_coverage_table


def random_predictions(seed, n=60, n_classes=3, decimals=None):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(n_classes), n)
    if decimals is not None:  # creates ties
        probabilities = np.round(probabilities * 4) / 4 + 1e-9
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = tuple("abcdef"[:n_classes])
    return Predictions(tuple(map(str, range(n))), rng.integers(0, n_classes, n), probabilities.astype(np.float32), classes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 1])
def test_curves_equal_those_of_scikit_learn(seed, decimals):
    predictions = random_predictions(seed, decimals=decimals)
    roc, recall = roc_table(predictions), precision_recall_table(predictions)
    for position, name in enumerate(predictions.classes):
        truth, probabilities = predictions.labels == position, predictions.probabilities[:, position]
        false_positive_rate, true_positive_rate, thresholds = roc_curve(truth, probabilities, drop_intermediate=False)
        curve = roc[roc["class"] == name]
        np.testing.assert_allclose(curve["false_positive_rate"], false_positive_rate)
        np.testing.assert_allclose(curve["true_positive_rate"], true_positive_rate)
        np.testing.assert_allclose(curve["threshold"], thresholds)
        precision, recalls, _ = precision_recall_curve(truth, probabilities)
        curve = recall[recall["class"] == name]
        np.testing.assert_allclose(curve["precision"], precision[:-1][::-1])
        np.testing.assert_allclose(curve["recall"], recalls[:-1][::-1])


def test_names_of_curves_contain_the_area():
    predictions = random_predictions(7)
    for position, name in enumerate(predictions.classes):
        truth, probabilities = predictions.labels == position, predictions.probabilities[:, position]
        assert plot_roc(predictions, "t").data[position].name == f"{name} (AUC {roc_auc_score(truth, probabilities):.3f})"
        expected = f"{name} (AP {average_precision_score(truth, probabilities):.3f})"
        assert plot_precision_recall(predictions, "t").data[position].name == expected


def test_a_class_without_images_has_no_curve():
    predictions = random_predictions(1)
    two_classes = predictions.take(predictions.labels != 2)
    assert set(roc_table(two_classes)["class"]) == {"a", "b"}
    assert set(roc_table(two_classes.take(two_classes.labels == 0))["class"]) == set()


def test_long_curves_are_thinned_but_contain_their_ends():
    predictions = random_predictions(2, n=5000)
    curve = plot_roc(predictions, "t").data[0]
    assert len(curve.x) <= 400
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)


def test_the_curve_of_one_class_is_that_of_the_table_of_all():
    predictions = random_predictions(2, n=50)
    for table in (roc_table, precision_recall_table):
        every = table(predictions)
        one = table(predictions, position=1)
        assert_frame_equal(one, every[every["class"] == predictions.classes[1]].reset_index(drop=True))


def test_a_long_curve_of_risks_is_thinned():
    predictions = random_predictions(2, n=5000)
    risks = risk_coverage_table(predictions)
    curve = plot_risk_coverage(risks, "t").data[0]
    assert len(curve.x) <= 1000
    assert (curve.x[0], curve.x[-1]) == (risks["coverage"].iloc[0], 1)


def test_reliability_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.55, 0.45], [0.3, 0.7]], dtype=np.float32)
    table = reliability_table(Predictions(("1", "2", "3", "4"), np.array([0, 1, 0, 1]), probabilities, ("a", "b")))
    assert table["images"].tolist() == [1, 1, 2]
    assert table["accuracy"].tolist() == [1.0, 1.0, 0.5]
    np.testing.assert_allclose(table["confidence"], [0.55, 0.7, 0.935], atol=1e-6)
    np.testing.assert_allclose(table["low"], [0.5, 0.6, 0.9])


def test_reliability_matches_the_calibration_error():
    predictions = random_predictions(3)
    error = expected_calibration_error(predictions.labels, predictions.probabilities)
    table = reliability_table(predictions, n_bins=15)
    assert error == pytest.approx((table["images"] * (table["accuracy"] - table["confidence"]).abs()).sum() / len(predictions))
    assert f"ECE {error:.3f}" in plot_reliability(predictions, "t").data[1].name


def test_coordinates_are_positions_on_the_axes(finished):
    table = coordinates_table(finished._store)
    for row in table.itertuples():
        params = finished.trials[row.trial].params
        assert row.dense_units == pytest.approx((params["dense_units"] - 4) / 12)
        assert row.learning_rate == pytest.approx(np.log(params["learning_rate"] / 1e-3) / np.log(100))
    lines = [trace for trace in finished.figures.parallel_coordinates().data if trace.mode == "lines+markers"]
    assert sum(trace.x.count(None) for trace in lines) == len(table)


def test_losses_equal_those_of_the_history(finished):
    best = finished.best.number
    table = loss_table(finished._store, best)
    assert table["epoch"].tolist() == [1, 2]
    assert finished.figures.loss().data[1].y[0] == table["valid_loss"][0]


def test_every_figure_named_in_the_repr_can_be_plotted(finished):
    import re

    figures = finished.figures
    for name in re.findall(r"(\w+)\(", repr(figures)):
        if name != "pareto":
            assert getattr(figures, name)().data, name


def random_findings(seed=0, n=80):
    """Return predictions of three findings, of which some labels are not known."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([1, 0, -1, -2], (n, 3), p=[0.3, 0.5, 0.1, 0.1])
    probabilities = np.round(rng.random((n, 3)), 2).astype(np.float32)
    return Predictions(tuple(map(str, range(n))), labels, probabilities, ("a", "b", "c"), thresholds=np.array([0.5, 0.3, 0.9]))


def test_curves_of_findings_equal_those_of_scikit_learn_over_known_labels():
    predictions = random_findings()
    roc = roc_table(predictions)
    for position, name in enumerate(predictions.classes):
        known = predictions.labels[:, position] >= 0
        truth, probabilities = predictions.labels[known, position], predictions.probabilities[known, position]
        false_positive_rate, true_positive_rate, _ = roc_curve(truth, probabilities, drop_intermediate=False)
        curve = roc[roc["class"] == name]
        np.testing.assert_allclose(curve["false_positive_rate"], false_positive_rate)
        np.testing.assert_allclose(curve["true_positive_rate"], true_positive_rate)
        table = threshold_table(predictions, position)
        for row in table.iloc[::9].itertuples():
            decided = probabilities >= np.float32(row.threshold)
            assert row.f1 == pytest.approx(f1_score(truth, decided))
            assert row.sensitivity == pytest.approx(recall_score(truth, decided))
            assert row.specificity == pytest.approx(recall_score(1 - truth, ~decided))


def test_decisions_on_findings_are_counted_at_the_thresholds():
    predictions = random_findings(1)
    table = confusion_table(predictions)
    for position, (name, threshold) in enumerate(zip("abc", (0.5, 0.3, 0.9), strict=True)):
        present, decided = (
            predictions.labels[:, position] == 1,
            predictions.probabilities[:, position].astype(float) >= threshold,
        )
        absent = predictions.labels[:, position] == 0
        expected = [(present & decided).sum(), (present & ~decided).sum(), (absent & decided).sum(), (absent & ~decided).sum()]
        assert table.loc[name].tolist() == expected
    assert plot_confusion(predictions, "t").data[0].text.tolist() == table.to_numpy().tolist()


def test_the_reliability_of_a_finding_is_its_share_of_present_labels():
    predictions = random_findings(2)
    table = reliability_table(predictions, finding=1)
    known = predictions.labels[:, 1] >= 0
    assert table["images"].sum() == known.sum()
    assert (table["accuracy"] * table["images"]).sum() == pytest.approx((predictions.labels[:, 1] == 1).sum())
    assert reliability_table(predictions)["images"].sum() == (predictions.labels >= 0).sum()


def test_the_figure_of_a_finding_marks_the_stored_threshold():
    predictions = random_findings(3)
    figure = plot_finding(predictions, 0, "a")
    marked = next(trace for trace in figure.data if trace.name == "threshold")
    known = predictions.labels[:, 0] >= 0
    truth, decided = predictions.labels[known, 0], predictions.decided[known, 0]
    assert marked.y[0] == pytest.approx(recall_score(truth, decided))
    assert marked.x[0] == pytest.approx(1 - recall_score(1 - truth, ~decided))
