"""Corrected scores of drawn predictions, whose true scores are known."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from automl_cxr.errors import UsageError
from automl_cxr.scoring.intervals import bootstrap_interval
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.selection_bias import corrected_score

CLASSES = ("normal", "opacity", "effusion")


def draw(n_candidates, *, accuracy, n_patients=90, images_per_patient=2, seed=0, by_patient=False):
    """Draw candidates that are right with the same probability, independently for each image or for each patient."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), images_per_patient)
    labels = (np.arange(n_patients) % 3)[patients]
    drawn = rng.random((n_candidates, n_patients if by_patient else len(labels))) < accuracy
    is_right = drawn[:, patients] if by_patient else drawn
    predicted = np.where(is_right, labels, (labels + 1) % 3)
    ids = tuple(f"{row}.png" for row in range(len(labels)))
    names = tuple(f"p{patient}" for patient in patients)
    return [Predictions(ids, labels, np.eye(3)[each] * 0.7 + 0.1, CLASSES, names) for each in predicted]


def test_the_best_of_equal_candidates_is_too_high_and_the_corrected_score_is_not():
    raw, corrected, covered = [], [], []
    for seed in range(40):
        score = corrected_score(draw(50, accuracy=0.8, seed=seed), metric="accuracy", seed=seed)
        raw.append(score.raw)
        corrected.append(score.value)
        covered.append(score.interval.low <= 0.8 <= score.interval.high)
    all_are_below = binom.cdf(np.arange(180), 180, 0.8) ** 50  # that none of 50 candidates has more correct images
    expected_best = 1 - all_are_below.sum() / 180
    assert expected_best == pytest.approx(0.864, abs=0.001)
    assert np.mean(raw) == pytest.approx(expected_best, abs=0.006)
    assert np.mean(corrected) == pytest.approx(0.8, abs=0.015)
    assert np.mean(covered) >= 0.85


def test_macro_f1_of_few_images_is_not_corrected_too_much():
    errors = []
    for seed in range(20):
        candidates = draw(20, accuracy=0.8, n_patients=30, images_per_patient=1, seed=seed)
        errors.append(corrected_score(candidates, metric="macro_f1", seed=seed).value - 0.8)
    assert np.mean(errors) == pytest.approx(0, abs=0.03), "macro-F1 of folds of 6 images is 0.07 below that of all images"


def test_a_clearly_better_candidate_is_hardly_corrected():
    better = draw(1, accuracy=0.95, seed=1)
    score = corrected_score([*draw(10, accuracy=0.6), *better], metric="macro_f1")
    assert score.best == 10
    assert score.n_candidates == 11
    assert score.value == pytest.approx(score.raw, abs=1e-9)


def test_one_candidate_has_its_plain_score_and_interval():
    (only,) = draw(1, accuracy=0.8)
    score = corrected_score([only], metric="macro_f1", seed=3)
    assert score.value == score.raw == METRICS["macro_f1"].function(only.labels, only.probabilities, None)
    assert score.interval == bootstrap_interval(only, metric="macro_f1", seed=3)


def test_identical_candidates_are_not_corrected():
    (only,) = draw(1, accuracy=0.8)
    score = corrected_score([only] * 5, metric="macro_f1")
    assert score.value == pytest.approx(score.raw)
    assert score.best == 0


@pytest.mark.parametrize("metric", ["fnfr", "log_loss", "calibration_error"])
def test_a_minimised_metric_is_corrected_upwards(metric):
    score = corrected_score(draw(30, accuracy=0.8), metric=metric, normal_class=0)
    assert score.value > score.raw
    assert score.interval.low <= score.value <= score.interval.high
    assert score.interval.low >= 0


@pytest.mark.parametrize("metric", ["balanced_accuracy", "cohen_kappa", "macro_auc", "sensitivity_at_90_specificity"])
def test_a_maximised_metric_is_corrected_downwards(metric):
    score = corrected_score(draw(30, accuracy=0.8), metric=metric, normal_class=0)
    assert score.value < score.raw
    assert score.interval.low <= score.value <= score.interval.high <= 1


def test_images_of_a_patient_are_used_together():
    """Whole patients are right or wrong, so a choice on other images of the same patients finds hardly any bias."""
    by_patient, by_image = [], []
    for seed in range(10):
        candidates = draw(20, accuracy=0.8, n_patients=40, images_per_patient=4, seed=seed, by_patient=True)
        by_patient.append(corrected_score(candidates, metric="accuracy").value)
        ungrouped = [Predictions(each.ids, each.labels, each.probabilities, each.classes) for each in candidates]
        by_image.append(corrected_score(ungrouped, metric="accuracy").value)
    assert np.mean(by_patient) == pytest.approx(0.8, abs=0.03)
    assert np.mean(by_image) > 0.87


def test_the_result_depends_only_on_the_predictions_and_the_seed():
    candidates = draw(10, accuracy=0.8)
    score = corrected_score(candidates, metric="macro_f1", seed=5)
    assert corrected_score(candidates, metric="macro_f1", seed=5) == score
    assert corrected_score(candidates, metric="macro_f1", seed=6).value != score.value
    order = np.random.default_rng(0).permutation(len(candidates[0]))
    shuffled = [candidates[0], *(each.take(order) for each in candidates[1:])]
    assert corrected_score(shuffled, metric="macro_f1", seed=5) == score


def test_many_candidates_are_scored_in_parts_with_the_same_result(monkeypatch):
    candidates = draw(12, accuracy=0.8)
    whole = corrected_score(candidates, metric="macro_f1")
    monkeypatch.setattr("automl_cxr.scoring.selection_bias._MAX_CELLS", 9 * 250 * 5)  # five candidates at a time
    assert corrected_score(candidates, metric="macro_f1") == whole


def test_few_patients_and_missing_classes_are_no_errors():
    for n_patients in (2, 3, 4):  # with two patients, the images contain two of the three classes
        score = corrected_score(draw(8, accuracy=0.7, n_patients=n_patients, images_per_patient=4), metric="macro_f1")
        assert score.interval.low <= score.value <= score.raw
    one_patient = corrected_score(draw(8, accuracy=0.7, n_patients=1, images_per_patient=9), metric="macro_f1")
    assert math.isnan(one_patient.value)
    assert math.isnan(one_patient.interval.low)
    assert one_patient.raw > 0
    undefined = corrected_score(draw(8, accuracy=0.7, n_patients=2), metric="macro_auc")
    assert math.isnan(undefined.value)
    assert math.isnan(undefined.raw)


def test_a_correction_needs_a_candidate():
    with pytest.raises(UsageError, match="at least one"):
        corrected_score([], metric="macro_f1")
