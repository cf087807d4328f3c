"""Calibration slope and intercept against another package, and where they are undefined."""

import numpy as np
import pytest

from automl_cxr.scoring.outcomes import Outcome
from automl_cxr.scoring.recalibration import recalibrate
from tests.scoring import two_models

_CORRECTION = np.sqrt(30 / 29)  # for the number of patients


def width(coefficient):
    return (coefficient.interval.high - coefficient.interval.low) / (2 * 1.959964)


def test_slope_and_intercept_agree_with_another_package():
    outcome = Outcome("a", two_models.IS_POSITIVE, two_models.PROBABILITIES[0], two_models.PATIENTS)
    found = recalibrate(outcome)
    assert found.slope.value == pytest.approx(two_models.SLOPE, abs=1e-6)
    assert found.intercept.value == pytest.approx(two_models.INTERCEPT, abs=1e-6)
    assert width(found.slope) == pytest.approx(two_models.SLOPE_ERROR * _CORRECTION, rel=1e-5)
    assert width(found.intercept) == pytest.approx(two_models.INTERCEPT_ERROR * _CORRECTION, rel=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, 0), (1, 1)])
def test_intervals_contain_a_known_distortion_of_the_logits_in_95_of_100_runs(slope, intercept):
    rng, contained = np.random.default_rng(2), []
    patients = [str(number // 2) for number in range(300)]
    for _ in range(300):
        logits = np.repeat(rng.normal(size=150), 2) + 0.3 * rng.normal(size=300)
        is_positive = rng.random(300) < 1 / (1 + np.exp(-(slope * logits + intercept)))
        found = recalibrate(Outcome("x", is_positive, 1 / (1 + np.exp(-logits)), patients))
        of_slope, of_intercept = found.slope.interval, found.intercept.interval
        contained.append((of_slope.low < slope < of_slope.high, of_intercept.low < intercept < of_intercept.high))
    of_slope, of_intercept = np.mean(contained, axis=0)
    assert 0.92 < of_slope < 0.98
    if slope == 1:  # otherwise the intercept with a slope of 1 is another quantity
        assert 0.92 < of_intercept < 0.98


@pytest.mark.parametrize("probabilities", [[0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]])
def test_the_slope_is_undefined_without_an_overlap(probabilities):
    found = recalibrate(Outcome("x", np.array([0, 0, 1, 1], dtype=bool), np.array(probabilities, dtype=float), list("abcd")))
    assert np.isnan(found.slope.value)
    assert np.isfinite(found.intercept.value)


def test_extreme_probabilities_on_the_wrong_side_have_coefficients():
    is_positive = np.arange(40) % 2 == 0
    probabilities = np.where(np.arange(40) < 30, is_positive, ~is_positive).astype(float)
    found = recalibrate(Outcome("x", is_positive, probabilities, [str(number) for number in range(40)]))
    assert 0 < found.slope.value < 0.2
    assert abs(found.intercept.value) < 1
