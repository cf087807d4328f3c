"""Scores of several findings at stored thresholds, compared with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from automl_cxr.errors import DataError
from automl_cxr.results.finding_scores import score_findings
from automl_cxr.scoring.predictions import Predictions

FINDINGS = ("Effusion", "Mass", "Hernia")
THRESHOLDS = np.array([0.4, 0.7, 0.5])


def predictions(thresholds=THRESHOLDS) -> Predictions:
    """Return predictions of 60 images of 30 patients; Hernia is absent in all of them, and some labels are not known."""
    rng = np.random.default_rng(0)
    labels = rng.choice([1, 0, -1, -2], (60, 3), p=[0.3, 0.5, 0.1, 0.1])
    labels[:, 2] = np.where(labels[:, 2] == 1, 0, labels[:, 2])
    patients = tuple(f"p{number // 2}" for number in range(60))
    probabilities = rng.random((60, 3)).astype(np.float32)
    return Predictions(tuple(map(str, range(60))), labels, probabilities, FINDINGS, patients, thresholds=thresholds)


def test_scores_are_those_of_known_labels_at_the_thresholds():
    given = predictions()
    found = score_findings(given, seed=0, n_resamples=50)
    for number, name in enumerate(FINDINGS[:2]):
        known = given.labels[:, number] >= 0
        truth, probabilities = given.labels[known, number], given.probabilities[known, number]
        decided = probabilities.astype(float) >= THRESHOLDS[number]
        row = found.per_finding.loc[name]
        assert row["auc"] == pytest.approx(roc_auc_score(truth, probabilities))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, probabilities))
        assert row["f1"] == pytest.approx(f1_score(truth, decided))
        assert row["precision"] == pytest.approx(precision_score(truth, decided))
        assert row["specificity"] == pytest.approx(recall_score(1 - truth, ~decided))
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert (row["present"], row["absent"], row["threshold"]) == (truth.sum(), (1 - truth).sum(), THRESHOLDS[number])
        assert found.decisions.loc[name, "true_positives"] == (truth * decided).sum()
    assert found.scores["macro_auc"] == pytest.approx(found.per_finding["auc"][:2].mean())
    assert "accuracy" not in found.intervals
    assert found.intervals["macro_auc"].low < found.scores["macro_auc"] < found.intervals["macro_auc"].high


def test_a_finding_without_positives_is_named_and_left_out():
    found = score_findings(predictions(), seed=0, n_resamples=20)
    assert np.isnan(found.per_finding.loc["Hernia", "auc"])
    assert found.notes == ("Means over the findings leave out Hernia (without an image in which it is present).",)


def test_predictions_without_thresholds_or_labels_are_refused():
    with pytest.raises(DataError, match="need a threshold for each finding"):
        score_findings(predictions(None), seed=0)
    unlabelled = predictions()
    unlabelled.labels[:] = -1
    with pytest.raises(DataError, match="a known label of a finding"):
        score_findings(unlabelled, seed=0)
