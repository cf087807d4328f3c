import numpy as np
import pytest

from automl_cxr.ensemble.geometric_mean import fit_geometric_mean
from automl_cxr.scoring.calibration import log_loss
from tests.ensemble.drawing import draw


def weights_of(stacking):
    """Return the weight of each member."""
    return stacking.coefficients[0, :, 0]


def test_each_member_has_one_weight_for_all_classes():
    probabilities, labels = draw(3, 200, 4, 0)
    stacking = fit_geometric_mean(probabilities, labels)
    for weight, of_member in zip(weights_of(stacking), stacking.coefficients.transpose(1, 0, 2), strict=True):
        np.testing.assert_allclose(of_member, weight * np.eye(4), atol=1e-12)
    expected = np.prod(probabilities ** weights_of(stacking)[:, None, None], axis=0)
    np.testing.assert_allclose(stacking.combine(probabilities), expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


def test_copies_of_a_member_keep_equal_weights():
    probabilities, labels = draw(1, 300, 3, 1)
    weights = weights_of(fit_geometric_mean(np.repeat(probabilities, 3, axis=0), labels))
    assert weights == pytest.approx([weights[0]] * 3, abs=1e-4)


def test_a_member_of_random_predictions_has_a_low_weight_if_there_are_enough_images():
    probabilities, labels = draw(3, 500, 3, 2)
    noise = np.random.default_rng(0).dirichlet([1, 1, 1], 500)[None]
    members = np.concatenate([probabilities, noise])
    weights = weights_of(fit_geometric_mean(members, labels))
    assert weights.argmin() == 3
    assert 0 <= weights[3] < 0.05
    assert weights_of(fit_geometric_mean(members[:, :5], labels[:5]))[3] > 0.15


def test_the_log_loss_is_lower_than_with_equal_weights():
    probabilities, labels = draw(4, 600, 3, 4)
    fitted = log_loss(labels, fit_geometric_mean(probabilities, labels).combine(probabilities))
    equal = np.exp(np.log(probabilities).mean(axis=0))
    assert fitted < log_loss(labels, equal / equal.sum(axis=1, keepdims=True))


def test_classes_have_equal_total_weight():
    """Copies of the images of a class do not change the fit, apart from the weight of the prior."""
    probabilities, labels = draw(2, 4000, 2, 5)
    copied = np.concatenate([np.arange(4000), *[np.flatnonzero(labels == 1)] * 3])
    once = weights_of(fit_geometric_mean(probabilities, labels))
    assert weights_of(fit_geometric_mean(probabilities[:, copied], labels[copied])) == pytest.approx(once, abs=0.02)


def test_a_class_without_images_is_accepted():
    probabilities, labels = draw(2, 100, 3, 6)
    present = labels < 2
    assert np.isfinite(weights_of(fit_geometric_mean(probabilities[:, present], labels[present]))).all()
