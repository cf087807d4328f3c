"""Errors among the most confident decisions."""

import numpy as np
import pytest

from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.risk_coverage import risk_coverage_table, risks_at


def test_the_risk_is_the_share_of_errors_among_the_most_confident_images():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.7, 0.3], [0.55, 0.45]])
    table = risk_coverage_table(Predictions(tuple("abcde"), np.array([0, 1, 0, 0, 1]), probabilities, ("x", "y")))
    assert table["coverage"].tolist() == [0.2, 0.4, 0.8, 1.0], "two images with equal confidence are decided together"
    np.testing.assert_allclose(table["risk"], [0, 0, 1 / 4, 2 / 5])
    assert risks_at(table, (0.1, 0.5, 0.6, 1.0))["coverage"].tolist() == [0.4, 1.0]


def test_decisions_on_findings_are_ranked_by_their_distance_from_the_threshold():
    labels, probabilities = np.array([[1, 0], [0, -1]]), np.array([[0.9, 0.05], [0.3, 0.9]])
    predictions = Predictions(("a", "b"), labels, probabilities, ("Mass", "Edema"), thresholds=np.array([0.2, 0.1]))
    table = risk_coverage_table(predictions)
    assert table["confidence"].tolist() == pytest.approx([0.7 / 0.8, 0.05 / 0.1, 0.1 / 0.8])
    np.testing.assert_allclose(table["risk"], [0, 0, 1 / 3])
