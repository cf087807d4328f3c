"""Metrics against scikit-learn, FNFR and the normal class by hand."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn.metrics

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.confusion import (
    balanced_accuracy,
    cohen_kappa,
    confusion_matrix,
    f1_per_class,
    fnfr,
    macro_f1,
    specificity_per_class,
)
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.metrics import METRICS, find_normal_class, metric, metrics_for, score_macro_f1, score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import MULTICLASS

METRICS_OF_CLASSES = [name for name, row in METRICS.items() if MULTICLASS in row.tasks]
SHAPES = [(200, 2), (200, 4), (37, 14), (1, 3), (5, 3)]  # classes are missing in the last three


def draw(n: int, k: int, seed: int) -> Predictions:
    """Draw predictions better than chance, with tied probabilities as in quantised models."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    probabilities = rng.dirichlet(np.ones(k), size=n) + np.eye(k)[labels] / 5
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True) * 20) + 0.1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions(tuple(map(str, range(n))), labels, probabilities, tuple(f"c{i}" for i in range(k)))


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn(n: int, k: int, seed: int) -> None:
    predictions = draw(n, k, seed)
    truth, guess, names = predictions.labels, predictions.predicted, range(k)
    scores = score_predictions(predictions, normal_class=0)

    kwargs = {"labels": names, "zero_division": 0}
    assert scores["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, guess, average="macro", **kwargs))
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predicted classes without a true image, which scikit-learn omits too
        expected = sklearn.metrics.balanced_accuracy_score(truth, guess)
    assert scores["balanced_accuracy"] == pytest.approx(expected)
    exact = predictions.probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # otherwise scikit-learn warns about float32 rounding
    assert scores["log_loss"] == pytest.approx(sklearn.metrics.log_loss(truth, exact, labels=names), rel=1e-5)
    for kind in ("precision", "recall", "f1"):
        expected = getattr(sklearn.metrics, f"{kind}_score")(truth, guess, average=None, **kwargs)
        assert [scores[f"{kind}_c{i}"] for i in names] == pytest.approx(expected)
    assert score_macro_f1(truth, predictions.probabilities) == scores["macro_f1"]


@pytest.mark.parametrize(("n", "k"), [(200, 2), (200, 4), (500, 14)])
@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_scikit_learn(n: int, k: int, seed: int) -> None:
    predictions = draw(n, k, seed)
    probabilities = predictions.probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = probabilities[:, 1] if k == 2 else probabilities
    expected = sklearn.metrics.roc_auc_score(predictions.labels, scores, multi_class="ovr", labels=range(k))
    assert 0.55 < expected < 0.99
    assert METRICS["macro_auc"].function(predictions.labels, probabilities, None) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(60, 2), (60, 3), (40, 6), (4, 3)])
@pytest.mark.parametrize("seed", range(10))
def test_every_score_of_a_class_equals_scikit_learn(n: int, k: int, seed: int) -> None:
    """Probabilities have ties; with four or forty images classes are missing."""
    predictions = draw(n, k, seed)
    scores, guess = score_predictions(predictions), predictions.predicted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about a single label
        expected = sklearn.metrics.cohen_kappa_score(predictions.labels, guess, labels=range(k))
    assert scores["cohen_kappa"] == pytest.approx(expected, nan_ok=True)
    precisions = []
    for number in range(k):
        is_of_class, probability = predictions.labels == number, predictions.probabilities[:, number]
        others_right = ((guess != number) & ~is_of_class).sum()
        expected = np.nan if is_of_class.all() else others_right / (~is_of_class).sum()
        assert scores[f"specificity_c{number}"] == pytest.approx(expected, nan_ok=True)
        if is_of_class.any() and not is_of_class.all():
            assert scores[f"auc_c{number}"] == pytest.approx(sklearn.metrics.roc_auc_score(is_of_class, probability))
            precisions.append(sklearn.metrics.average_precision_score(is_of_class, probability))
            assert scores[f"average_precision_c{number}"] == pytest.approx(precisions[-1])
        else:
            assert np.isnan(scores[f"auc_c{number}"])
    if len(precisions) == k:
        assert scores["macro_average_precision"] == pytest.approx(np.mean(precisions))
    else:
        assert np.isnan(scores["macro_auc"])


@pytest.mark.parametrize("name", [*METRICS_OF_CLASSES, *(f"{kind}_c1" for kind in CLASS_METRICS)])
def test_weights_equal_repeated_rows(name: str) -> None:
    predictions = draw(80, 3, 1)
    row = metrics_for(predictions.classes, normal_class=2)[name]
    weights = np.random.default_rng(0).poisson(1, size=(80, 20)).astype(np.float32)
    weights[predictions.labels == 2, 0] = 0
    weights[predictions.labels != 1, 1] = 0
    repeated = [np.repeat(np.arange(80), column.astype(int)) for column in weights.T]
    expected = [row.function(predictions.labels[rows], predictions.probabilities[rows], 2) for rows in repeated]
    if row.of_weights is not None:
        given = row.of_weights(predictions.labels, predictions.probabilities, weights, 2)
    else:
        matrices = [confusion_matrix(predictions.labels, predictions.predicted, 3, column) for column in weights.T]
        given = row.of_confusions(np.array(matrices), 2)
    assert given == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", METRICS_OF_CLASSES)
def test_stacks_of_models_are_scored_like_single_models(name: str) -> None:
    models = [draw(50, 3, seed) for seed in range(4)]
    labels, stack = models[0].labels, np.stack([model.probabilities for model in models]).reshape(2, 2, 50, 3)
    stacked = METRICS[name].of_stacks(labels, stack, 0)
    for index in np.ndindex(2, 2):
        assert stacked[index] == pytest.approx(METRICS[name].function(labels, stack[index], 0))


def test_kappa_and_specificity_by_hand() -> None:
    agreeing = np.array([[20, 5], [10, 15]])  # the example of Cohen's kappa: 0.7 observed, 0.5 by chance
    assert cohen_kappa(agreeing) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa(np.array([[7, 0], [0, 0]])))
    assert specificity_per_class(agreeing).tolist() == [0.6, 0.8]


def test_means_over_the_classes_that_have_images() -> None:
    """Absent classes do not lower the means, and predictions of them are errors of the true class, as in scikit-learn."""
    predictions = draw(200, 4, seed=3)
    predictions = predictions.take(predictions.labels != 1)
    labels, present = predictions.labels, [0, 2, 3]
    rows = metrics_for(predictions.classes, present=present)
    score = {name: row.function(labels, predictions.probabilities, None) for name, row in rows.items()}
    assert score["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, predictions.predicted, labels=present, average="macro")
    )
    areas = [sklearn.metrics.roc_auc_score(labels == number, predictions.probabilities[:, number]) for number in present]
    assert score["macro_auc"] == pytest.approx(np.mean(areas))
    assert not any(name.endswith(f"_{predictions.classes[1]}") for name in rows)
    weights = np.ones((len(labels), 1), dtype=np.float32)
    weighted = rows["macro_auc"].score_weighted(labels, predictions.probabilities, weights, None)
    assert weighted == pytest.approx(score["macro_auc"])


def test_auc_is_undefined_without_one_of_the_classes() -> None:
    predictions = draw(50, 3, 0)
    assert np.isnan(score_predictions(predictions.take(predictions.labels != 1))["macro_auc"])
    assert np.isnan(score_predictions(predictions.take(predictions.labels == 1))["macro_auc"])


def test_confusions_have_rows_of_truth_and_may_be_weighted() -> None:
    labels, predicted = np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0])
    counts = confusion_matrix(labels, predicted, 3)
    assert counts.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.dtype == np.int64
    weighted = confusion_matrix(labels, predicted, 3, np.array([0.5, 1.0, 2.0, 0.0]))
    assert weighted.tolist() == [[0, 1.5, 0], [0, 2.0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("labels", "predicted"), [([-1, 0], [0, 0]), ([0, 2], [0, 0]), ([0, 0], [0, 2])])
def test_a_class_out_of_range_is_refused(labels: list[int], predicted: list[int]) -> None:
    with pytest.raises(DataError, match="from 0 to 1"):
        confusion_matrix(np.array(labels), np.array(predicted), 2)


def test_stacks_of_confusions_are_scored_like_single_confusions() -> None:
    stack = np.random.default_rng(0).integers(0, 5, size=(3, 7, 4, 4))
    stack[0, 0] = 0
    for function in (f1_per_class, macro_f1, balanced_accuracy, specificity_per_class, cohen_kappa, lambda c: fnfr(c, 2)):
        stacked = function(stack)
        for index in np.ndindex(3, 7):
            np.testing.assert_array_equal(stacked[index], function(stack[index]))


def test_a_class_without_predictions_lowers_macro_f1() -> None:
    perfect_on_two_of_three = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    assert f1_per_class(perfect_on_two_of_three).tolist() == [1, 1, 0]
    assert macro_f1(perfect_on_two_of_three) == pytest.approx(2 / 3)
    assert balanced_accuracy(perfect_on_two_of_three) == 1


@pytest.mark.parametrize(
    ("confusion", "normal_class", "expected"),
    [
        ([[90, 10], [3, 97]], 0, 0.03),  # 3 of 100 abnormal images; the 10 false alarms do not count
        ([[90, 10], [3, 97]], 1, 0.10),
        ([[5, 1, 1], [2, 7, 1], [1, 4, 5]], 0, 3 / 20),  # a wrong finding does not count
        ([[0, 0], [0, 8]], 0, 0.0),
        ([[0, 0], [8, 0]], 0, 1.0),
    ],
)
def test_fnfr_by_hand(confusion: list[list[int]], normal_class: int, expected: float) -> None:
    assert fnfr(np.array(confusion), normal_class) == pytest.approx(expected)


def test_fnfr_is_undefined_when_all_are_normal() -> None:
    assert np.isnan(fnfr(np.array([[5, 2], [0, 0]]), 0))


def test_fnfr_is_omitted_without_a_normal_class() -> None:
    predictions = draw(50, 3, 0)
    without, with_one = score_predictions(predictions), score_predictions(predictions, normal_class=1)
    needs_one = {"fnfr", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity"}
    assert set(with_one) - set(without) == needs_one
    has_finding = predictions.labels != 1
    assert with_one["fnfr"] == pytest.approx((predictions.predicted[has_finding] == 1).mean())
    with pytest.raises(UsageError, match="must be from 0 to 2"):
        score_predictions(predictions, normal_class=3)


def test_unlabelled_images_cannot_be_scored() -> None:
    predictions = draw(5, 3, 0)
    unlabelled = Predictions(predictions.ids, np.full(5, -1), predictions.probabilities, predictions.classes)
    with pytest.raises(DataError, match="5 of 5"):
        score_predictions(unlabelled)


def test_each_metric_states_its_direction() -> None:
    assert {name: row.direction for name, row in METRICS.items()} == {
        "macro_f1": "maximize",
        "micro_f1": "maximize",
        "accuracy": "maximize",
        "balanced_accuracy": "maximize",
        "cohen_kappa": "maximize",
        "macro_auc": "maximize",
        "macro_average_precision": "maximize",
        "log_loss": "minimize",
        "calibration_error": "minimize",
        "fnfr": "minimize",
        "sensitivity_at_90_specificity": "maximize",
        "sensitivity_at_95_specificity": "maximize",
    }
    assert all(name == row.name for name, row in METRICS.items())
    perfect, wrong = np.eye(3)[[0, 1, 2]] * 0.97 + 0.01, np.eye(3)[[1, 0, 0]] * 0.97 + 0.01
    for row in map(METRICS.__getitem__, METRICS_OF_CLASSES):
        better, worse = (row.function(np.arange(3), p, 0) for p in (perfect, wrong))
        assert (better > worse) == (row.direction == "maximize"), row.name


def test_the_error_for_an_unknown_metric_suggests_a_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'macro_f1'"):
        metric("macro-f1")


def test_fnfr_requires_a_normal_class() -> None:
    with pytest.raises(UsageError, match="requires a normal class"):
        metric("fnfr").function(np.array([0, 1]), np.eye(2), None)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"], 2),
        (["Atelectasis", "Effusion", "Infiltration", "No Finding"], 3),
        (["covid", "no_finding"], 1),
        (["NoFinding", "Mass"], 0),
        (["01_NORMAL", "02_PNEUMONIA"], 0),
        (["healthy lungs", "sick lungs"], 0),
        (["positive", "negative"], 1),
        (["Abnormal", "Lung Opacity"], None),
        (["Normal", "Lung Opacity", "No Lung Opacity / Not Normal"], 0),
        (["normal", "healthy"], None),
        (["COVID-negative pneumonia", "COVID"], None),
        (["0", "1", "2"], None),
        ([], None),
    ],
)
def test_the_normal_class_is_found_by_whole_names(classes: list[str], expected: int | None) -> None:
    assert find_normal_class(classes) == expected


def test_scoring_imports_no_heavy_library() -> None:
    heavy = ("sklearn", "scipy", "pandas", "keras", "optuna")
    script = f"import sys, automl_cxr.scoring.intervals; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_sensitivity_at_a_specificity_by_hand() -> None:
    """Ten normal images with P(normal) 0.1, 0.2 ... 1.0: at 90 % specificity one may be predicted abnormal, the one at 0.1."""
    normal = np.arange(1, 11) / 10
    findings = np.array([0.05, 0.1, 0.15, 0.2, 0.9])  # below 0.2: three of five; 0.2 itself ties with a normal one
    of_normal = np.concatenate([normal, findings])
    labels = np.array([1] * 10 + [0, 0, 2, 2, 2])
    probabilities = np.stack([(1 - of_normal) / 4, of_normal, 3 * (1 - of_normal) / 4], axis=1)
    assert metric("sensitivity_at_90_specificity").function(labels, probabilities, 1) == pytest.approx(3 / 5)
    assert metric("sensitivity_at_95_specificity").function(labels, probabilities, 1) == pytest.approx(1 / 5)


@pytest.mark.parametrize("percent", [90, 95])
@pytest.mark.parametrize("seed", range(4))
def test_sensitivity_at_a_specificity_is_a_point_of_the_roc_curve(percent: int, seed: int) -> None:
    predictions = draw(300, 4, seed)
    suspicion = -predictions.probabilities[:, 2].astype(np.float64)
    false_alarms, sensitivity, _ = sklearn.metrics.roc_curve(predictions.labels != 2, suspicion, drop_intermediate=False)
    expected = sensitivity[false_alarms <= 1 - percent / 100 + 1e-12].max()
    name = f"sensitivity_at_{percent}_specificity"
    assert metric(name).function(predictions.labels, predictions.probabilities, 2) == pytest.approx(expected)


def test_sensitivity_at_a_specificity_is_undefined_without_one_of_the_kinds() -> None:
    row = metric("sensitivity_at_90_specificity")
    assert np.isnan(row.function(np.zeros(3, int), np.eye(3), 0))
    assert np.isnan(row.function(np.ones(3, int), np.eye(3), 0))
    with pytest.raises(UsageError, match="requires a normal class"):
        row.function(np.array([0, 1]), np.eye(2), None)
