"""Metrics of several findings against scikit-learn on the known labels, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.finding_counts import count_decisions
from automl_cxr.scoring.finding_labels import describe_unscored, mean_of_findings
from automl_cxr.scoring.finding_ranking import areas_under_roc, auc_influence, average_precisions, rounded_areas_under_roc
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.metrics import METRICS, metrics_for, score_predictions
from automl_cxr.scoring.objectives import Requirement, check_for_data, direction_of, measure, needs_normal_class
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.thresholds import choose_thresholds, thresholds_of, with_thresholds
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from tests.scoring.findings import draw_findings, draw_models

DEFINED = [name for name, row in METRICS.items() if MULTILABEL in row.tasks]


def known(predictions: Predictions, number: int) -> tuple[np.ndarray, np.ndarray]:
    labels = predictions.labels[:, number]
    return labels[labels >= 0], predictions.probabilities[labels >= 0, number].astype(np.float64)


@pytest.mark.parametrize(("seed", "unknown"), [(0, 0.0), (1, 0.4)])
def test_scores_equal_scikit_learn_on_the_known_labels(seed: int, unknown: float) -> None:
    predictions = draw_findings(seed=seed, unknown=unknown)
    thresholds = np.array([0.3, 0.5, 0.62, 0.7])
    score = score_predictions(replace(predictions, thresholds=thresholds))
    all_labels, all_probabilities, all_decided = [], [], []
    for number, finding in enumerate(predictions.classes):
        labels, probabilities = known(predictions, number)
        decided = probabilities >= thresholds[number]
        all_labels.append(labels), all_probabilities.append(probabilities), all_decided.append(decided)
        assert score[f"auc_{finding}"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, probabilities))
        precision = sklearn.metrics.average_precision_score(labels, probabilities)
        assert score[f"average_precision_{finding}"] == pytest.approx(precision)
        assert score[f"f1_{finding}"] == pytest.approx(sklearn.metrics.f1_score(labels, decided))
        assert score[f"precision_{finding}"] == pytest.approx(sklearn.metrics.precision_score(labels, decided))
        assert score[f"recall_{finding}"] == pytest.approx(sklearn.metrics.recall_score(labels, decided))
        specificity = sklearn.metrics.recall_score(labels, decided, pos_label=0)
        assert score[f"specificity_{finding}"] == pytest.approx(specificity)
    for kind, mean in (("auc", "macro_auc"), ("average_precision", "macro_average_precision"), ("f1", "macro_f1")):
        assert score[mean] == pytest.approx(np.mean([score[f"{kind}_{finding}"] for finding in predictions.classes]))
    labels = np.concatenate(all_labels)
    assert score["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, np.concatenate(all_decided)))
    clipped = np.concatenate(all_probabilities).clip(np.finfo(np.float32).eps, 1 - np.finfo(np.float32).eps)
    assert score["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, clipped), rel=1e-6)


@pytest.mark.parametrize("percent", [90, 95])
def test_sensitivity_at_a_specificity_is_the_mean_of_points_of_the_roc_curves(percent: int) -> None:
    predictions = draw_findings(300)
    expected = []
    for number in range(4):
        false_alarms, sensitivity, _ = sklearn.metrics.roc_curve(*known(predictions, number), drop_intermediate=False)
        expected.append(sensitivity[false_alarms <= 1 - percent / 100 + 1e-12].max())
    name = f"sensitivity_at_{percent}_specificity"
    assert METRICS[name].function(predictions.labels, predictions.probabilities, None) == pytest.approx(np.mean(expected))


def test_calibration_error_by_hand() -> None:
    """Two bins: probability 0.1 with frequency 0.5, and 0.9 with frequency 1; a finding in which no label is known."""
    labels = np.array([[0, -1], [1, -1], [1, -2], [-1, -1]])
    probabilities = np.array([[0.1, 0.5], [0.1, 0.5], [0.9, 0.5], [0.4, 0.5]])
    expected = (2 * 0.4 + 0.1) / 3
    assert METRICS["calibration_error"].function(labels, probabilities, None) == pytest.approx(expected)


@pytest.mark.parametrize("name", [*DEFINED, *(f"{kind}_f1" for kind in CLASS_METRICS)])
def test_weights_equal_repeated_images_and_stacks_equal_single_models(name: str) -> None:
    predictions, other = draw_models(2, n=80)
    thresholds = choose_thresholds(predictions.labels, predictions.probabilities)
    row = metrics_for(predictions.classes, task=MULTILABEL, thresholds=thresholds)[name]
    labels, probabilities = predictions.labels, predictions.probabilities
    weights = np.random.default_rng(0).integers(0, 4, size=(80, 6)).astype(np.float32)
    weighted = row.score_weighted(labels, probabilities, weights, None)
    for column, score in zip(weights.T.astype(int), weighted, strict=True):
        rows = np.repeat(np.arange(80), column)
        assert score == pytest.approx(row.function(labels[rows], probabilities[rows], None), abs=1e-6)
    stack = np.stack([probabilities, other.probabilities])
    expected = [row.function(labels, one, None) for one in stack]
    assert row.score_stack(labels, stack, None).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_has_the_highest_f1_of_all_cuts(seed: int) -> None:
    predictions = draw_findings(120, seed=seed)
    thresholds = choose_thresholds(predictions.labels, predictions.probabilities)
    for number in range(4):
        labels, probabilities = known(predictions, number)
        precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, probabilities)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert sklearn.metrics.f1_score(labels, probabilities >= thresholds[number]) == pytest.approx(best)
        assert np.abs(probabilities - thresholds[number]).min() > 1e-4, "a threshold must not be a probability of an image"


def test_thresholds_of_findings_without_a_choice() -> None:
    labels = np.array([[0, 1, 1], [-1, 1, 0]])
    probabilities = np.array([[0.9, 0.2, 0.0], [0.8, 0.4, 0.0]], dtype=np.float32)
    thresholds = choose_thresholds(labels, probabilities)
    assert thresholds.tolist() == pytest.approx([0.5, 0.1, 0.5])
    assert ((thresholds > 0) & (thresholds <= 1)).all()


def test_thresholds_of_models_are_theirs_or_chosen() -> None:
    one, other = draw_models(2)
    given = replace(one, thresholds=np.full(4, 0.25))
    chosen = choose_thresholds(other.labels, other.probabilities)
    np.testing.assert_array_equal(thresholds_of([given, other]), [given.thresholds, chosen])
    np.testing.assert_array_equal(with_thresholds(other).thresholds, chosen)


def test_findings_without_one_of_the_labels_are_left_out_of_means_and_named() -> None:
    predictions = draw_findings()
    labels = predictions.labels.copy()
    labels[labels[:, 0] == 1, 0] = 0
    labels[labels[:, 1] == 0, 1] = -1
    score = score_predictions(replace(predictions, labels=labels))
    assert np.isnan([score["auc_f0"], score["f1_f0"], score["auc_f1"], score["specificity_f1"]]).all()
    assert score["macro_auc"] == pytest.approx((score["auc_f2"] + score["auc_f3"]) / 2)
    assert score["macro_f1"] == pytest.approx((score["f1_f1"] + score["f1_f2"] + score["f1_f3"]) / 3)
    sentence = describe_unscored(labels, predictions.classes)
    assert "f0 (without an image in which it is present)" in sentence
    assert "f1 (without an image in which it is absent)" in sentence
    assert describe_unscored(predictions.labels, predictions.classes) == ""
    assert np.isnan(mean_of_findings(np.full(3, np.nan)))


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "cohen_kappa", "fnfr"])
def test_metrics_of_classes_are_refused_and_the_defined_ones_listed(name: str) -> None:
    predictions = draw_findings(30)
    with pytest.raises(UsageError, match=r"not defined for several findings.*macro_auc"):
        METRICS[name].function(predictions.labels, predictions.probabilities, None)
    with pytest.raises(UsageError, match="not defined for several findings"):
        named_metric(name, predictions.classes, None, task=MULTILABEL)
    assert name not in score_predictions(predictions)


def test_micro_f1_is_refused_for_classes() -> None:
    with pytest.raises(UsageError, match="not defined for classes"):
        METRICS["micro_f1"].function(np.array([0, 1]), np.eye(2), None)


def test_metrics_of_one_finding_as_objectives_and_requirements() -> None:
    predictions = draw_findings()
    requirement = Requirement.parse("auc_Pleural effusion >= 0.8")
    assert (requirement.name, requirement.limit) == ("auc_Pleural effusion", 0.8)
    assert direction_of(requirement.name) == "maximize"
    value = measure(
        "auc_f1", predictions.labels, predictions.probabilities, normal_class=None, costs={}, classes=predictions.classes
    )
    assert value == score_predictions(predictions)["auc_f1"]
    check_for_data(["macro_auc", "f1_f2", "parameters"], task=MULTILABEL, classes=predictions.classes)
    with pytest.raises(UnknownNameError, match="Unknown metric 'auc_f9'"):
        check_for_data(["auc_f9"], task=MULTILABEL, classes=predictions.classes)
    with pytest.raises(UsageError, match="not defined for several findings"):
        check_for_data(["fnfr"], task=MULTILABEL, classes=predictions.classes)
    assert not needs_normal_class("sensitivity_at_90_specificity", task=MULTILABEL)
    assert needs_normal_class("sensitivity_at_90_specificity", task=MULTICLASS)


def test_fast_ranking_equals_that_of_other_number_types() -> None:
    """float32 probabilities are sorted as integers, all other scores by comparison."""
    rng = np.random.default_rng(0)
    positive = rng.random(70) < 0.3
    scores = np.round(rng.random((3, 2, 70)), 1).astype(np.float32)
    for function in (areas_under_roc, average_precisions):
        np.testing.assert_allclose(function(positive, scores), function(positive, scores.astype(np.float64)), rtol=1e-12)
        np.testing.assert_allclose(function(positive, scores), function(positive, scores - 2), rtol=1e-12)
    for index in np.ndindex(3, 2):
        expected = sklearn.metrics.roc_auc_score(positive, scores[index])
        assert areas_under_roc(positive, scores)[index] == pytest.approx(expected)


def test_rounded_areas_are_nearly_equal_for_frequent_and_rare_findings() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.3, 0.02):
        positive = rng.random(5000) < rate
        logits = rng.normal(size=(6, 5000)) + 1.5 * positive + np.log(rate)
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
        scores[0, :2500] = 0
        rounded = rounded_areas_under_roc(positive, scores.reshape(2, 3, 5000))
        np.testing.assert_allclose(rounded, areas_under_roc(positive, scores).reshape(2, 3), atol=5e-5, rtol=0)
        assert rounded[0, 1] == rounded_areas_under_roc(positive, scores[1]), "does not depend on the other models"
    assert np.isnan(rounded_areas_under_roc(np.ones(4, dtype=bool), scores[:, :4])).all()
    equal = rounded_areas_under_roc(np.array([True, False, False]), np.full((1, 3), 0.2, np.float32))
    assert equal.tolist() == [0.5]


def test_influences_predict_the_area_without_an_image() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.4
    scores = np.round(rng.random(400) + 0.3 * positive, 2).astype(np.float32) / 2
    influence = auc_influence(positive, scores)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    area = areas_under_roc(positive, scores)
    without = np.array([areas_under_roc(np.delete(positive, one), np.delete(scores, one)) for one in range(50)])
    np.testing.assert_allclose(area - without, influence[:50], atol=3e-5)


def test_decisions_are_counted_over_known_labels() -> None:
    labels = np.array([[1, 0], [1, -1], [0, 1], [-2, 1]])
    decided = np.array([[True, True], [False, True], [True, False], [True, True]])
    assert count_decisions(labels, decided).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
