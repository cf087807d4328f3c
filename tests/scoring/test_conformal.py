"""Conformal sets: their limits, their coverage on new images, and few calibration images."""

import numpy as np
import pytest

from automl_cxr.errors import UsageError
from automl_cxr.scoring.conformal import calibrate_sets
from automl_cxr.scoring.predictions import Predictions
from tests.scoring import two_models


def draw(rng, n, *, noise=1.0, n_classes=3) -> Predictions:
    labels = rng.choice(n_classes, n, p=[0.2, 0.5, 0.3][:n_classes])
    logits = noise * rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(tuple(map(str, range(n))), labels, probabilities, ("covid", "normal", "pneumonia")[:n_classes])


def test_the_limit_is_the_quantile_of_the_images_of_the_class():
    probabilities = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3])
    both = np.column_stack([probabilities, 1 - probabilities])
    labels = np.zeros(9, int)
    one = Predictions(tuple("abcdefghi"), labels, both, ("x", "y"))
    assert calibrate_sets(one, 0.5).limits[0] == pytest.approx(0.6)  # ceil(10 * 0.5) = 5th largest
    assert calibrate_sets(one, 0.9).limits[0] == pytest.approx(0.3)  # 9th, although 10 * 0.9 is 9.000000000000002 or less
    too_high = calibrate_sets(one, 0.95)
    assert too_high.limits.tolist() == [0, 0]
    assert too_high.is_always_included.tolist() == [True, True]
    assert calibrate_sets(one, 0.9).is_always_included.tolist() == [False, True]
    assert calibrate_sets(one, 0.5).n_images.tolist() == [9, 0]


def test_each_class_is_covered_as_stated_over_500_resplits():
    rng = np.random.default_rng(0)
    coverage = np.zeros((500, 3))
    for number in range(500):
        sets = calibrate_sets(draw(rng, 120), 0.9)
        new = draw(rng, 300)
        contains = sets.contains(new.probabilities)
        coverage[number] = [contains[new.labels == label, label].mean() for label in range(3)]
    mean, error = coverage.mean(axis=0), coverage.std(axis=0) / np.sqrt(500)
    assert (mean > 0.9 - 3 * error).all(), "at least the stated coverage, on average over calibrations"
    assert (mean < 0.9 + 0.05).all(), "for the rarest class, 1 / (n + 1) more"


def test_findings_are_covered_when_present_and_when_absent():
    rng = np.random.default_rng(1)

    def draw_findings(n):
        labels = (rng.random((n, 2)) < [0.1, 0.4]).astype(int)
        probabilities = 1 / (1 + np.exp(-(rng.normal(size=(n, 2)) + 2 * labels - 1.5)))
        labels[::9, 0] = -1
        return Predictions(tuple(map(str, range(n))), labels, probabilities, ("Mass", "Edema"))

    coverage = np.zeros((200, 2, 2))
    for number in range(200):
        sets, new = calibrate_sets(draw_findings(300), 0.8), draw_findings(400)
        contains = sets.contains(new.probabilities)
        assert contains.shape == (400, 2, 2)
        for finding, state in np.ndindex(2, 2):
            coverage[number, finding, state] = contains[new.labels[:, finding] == state, finding, state].mean()
    mean, error = coverage.mean(axis=0), coverage.std(axis=0) / np.sqrt(200)
    assert (mean > 0.8 - 3 * error).all()
    assert (mean < 0.8 + 0.05).all()


def test_limits_agree_with_another_package():
    predictions = Predictions(
        tuple(map(str, range(60))), two_models.IS_POSITIVE.astype(int),
        np.column_stack([1 - two_models.PROBABILITIES[0], two_models.PROBABILITIES[0]]), ("no", "yes"),
    )  # fmt: skip
    for coverage, limits in two_models.CONFORMAL_LIMITS.items():
        np.testing.assert_allclose(calibrate_sets(predictions, coverage).limits, limits, atol=1e-6)


@pytest.mark.parametrize("coverage", [0, 1, 90, -0.1, float("nan")])
def test_an_impossible_coverage_is_refused(coverage):
    with pytest.raises(UsageError, match="between 0 and 1"):
        calibrate_sets(draw(np.random.default_rng(0), 20), coverage)
