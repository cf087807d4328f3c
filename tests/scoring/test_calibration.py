"""Calibration error by hand, and recovery of a known temperature."""

import numpy as np
import pytest

from automl_cxr.scoring.calibration import expected_calibration_error, fit_temperature, log_loss, with_temperature


def draw(n, seed=0):
    """Draw probabilities, and labels with these probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.7] * 3, size=n)
    labels = (rng.random(n)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
    return labels, probabilities.astype(np.float32)


def test_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    # bins of 0.2: (0.6, 0.8] holds 0.7, right; (0.4, 0.6] holds 0.6, right; (0.8, 1] holds 0.9 twice, half right
    assert expected_calibration_error(labels, probabilities, n_bins=5) == pytest.approx((0.3 + 0.4 + 2 * 0.4) / 4)
    assert np.isnan(expected_calibration_error(np.array([], int), np.empty((0, 2))))


def test_calibrated_probabilities_have_little_error():
    labels, probabilities = draw(20_000)
    assert expected_calibration_error(labels, probabilities) < 0.015
    assert fit_temperature(labels, probabilities) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_a_known_temperature_is_recovered(temperature):
    labels, probabilities = draw(5_000)
    distorted = with_temperature(probabilities, temperature)
    found = fit_temperature(labels, distorted)
    assert found == pytest.approx(1 / temperature, rel=0.1)
    calibrated = with_temperature(distorted, found)
    assert log_loss(labels, calibrated) < log_loss(labels, distorted)
    assert expected_calibration_error(labels, calibrated) < expected_calibration_error(labels, distorted) / 2
    assert (calibrated.argmax(axis=1) == distorted.argmax(axis=1)).mean() > 0.999


def test_probabilities_of_0_and_1_give_finite_errors():
    certain = with_temperature(np.array([[1.0, 0.0], [0.5, 0.5]]), 0.05)
    assert np.isfinite(certain).all()
    np.testing.assert_allclose(certain.sum(axis=1), 1)
