import numpy as np
import pytest

from automl_cxr.errors import DataError
from automl_cxr.splicing.ridge_head import PENALTIES, CutFeatures, TrainingImages, fit_ridge_head


def draw(n=60, m=25, sizes=(5, 7), seed=0):
    """Draw features of some cuts, with a first column that depends on the class. Patients have one, two or three images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    labels[:3] = 0, 1, 2
    patients = [f"p{row // 3 if row < 12 else row // 2 if row < 30 else row}" for row in range(n)]
    images = TrainingImages(labels, patients, 3)
    parts = []
    for size in sizes:
        train, valid = rng.normal(2, 3, size=(n, size)), rng.normal(2, 3, size=(m, size))
        train[:, 0] += 3 * labels
        parts.append((train, valid))
    return images, parts


def reference_fit(images, parts, penalty, rows):
    """Fit a weighted ridge regression with an unpenalised intercept on some rows (normal equations); predict all rows."""
    train, valid = (np.concatenate([part[side] for part in parts], axis=1) for side in (0, 1))
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, valid = (np.column_stack([np.ones(len(x)), (x - mean) / deviation]) for x in (train, valid))
    weights = images.roots**2
    weighted = (train[:, 1:] - np.average(train[:, 1:], axis=0, weights=weights)) * images.roots[:, None]
    strength = penalty * (weighted**2).sum() / len(train)
    ridge = np.diag([0.0] + [strength] * (train.shape[1] - 1))
    x, w, y = train[rows], weights[rows, None], np.eye(3)[images.labels[rows]]
    beta = np.linalg.solve(x.T @ (w * x) + ridge, x.T @ (w * y))
    return train @ beta, valid @ beta


def assert_softmax_of(probabilities, fitted):
    """Assert that probabilities are softmax(factor * fitted) for a factor of at least 1."""
    logits, fitted = (x - x.mean(axis=1, keepdims=True) for x in (np.log(probabilities), fitted))
    factor = (logits * fitted).sum() / (fitted * fitted).sum()
    assert factor > 0.999
    np.testing.assert_allclose(logits, factor * fitted, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("sizes", [(5, 7), (40, 45), (6,)], ids=["few features", "few images", "one cut"])
def test_a_head_is_the_ridge_regression_of_the_weighted_images(sizes):
    images, parts = draw(sizes=sizes)
    head = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)
    _, valid = reference_fit(images, parts, head.penalty, np.arange(60))
    assert_softmax_of(head.valid, valid)


@pytest.mark.parametrize("sizes", [(5, 7), (40, 45)], ids=["few features", "few images"])
def test_left_out_predictions_equal_those_of_a_head_without_the_patient(sizes):
    images, parts = draw(sizes=sizes)
    head = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)
    for patient in ("p0", "p7", "p40"):  # three images, two, one
        rows = np.array([name == patient for name in images.patients])
        fitted, _ = reference_fit(images, parts, head.penalty, np.flatnonzero(~rows))
        assert_softmax_of(head.left_out[rows], fitted[rows])


@pytest.mark.parametrize("sizes", [(5, 7), (40, 45)], ids=["few features", "few images"])
def test_a_softmax_layer_on_raw_features_gives_the_same_probabilities(sizes):
    images, parts = draw(sizes=sizes)
    head = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)
    logits = np.concatenate([valid for _, valid in parts], axis=1) @ head.kernel + head.bias
    powers = np.exp(logits)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), head.valid, atol=1e-9)


def test_the_sharpness_maximises_the_left_out_likelihood():
    images, parts = draw()
    head = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)

    def loss(power):
        scaled = head.left_out**power
        true_probabilities = (scaled / scaled.sum(axis=1, keepdims=True))[np.arange(60), images.labels]
        return -(images.roots**2 @ np.log(true_probabilities))

    assert loss(1) <= min(loss(0.8), loss(1.25))


def test_the_penalty_minimises_the_left_out_error():
    images, parts = draw()
    head = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for patient in set(images.patients):
            rows = np.array([name == patient for name in images.patients])
            fitted, _ = reference_fit(images, parts, penalty, np.flatnonzero(~rows))
            residuals = (np.eye(3)[images.labels] - fitted)[rows] * images.roots[rows, None]
            error += (residuals**2).sum()
        errors.append(error)
    assert head.penalty == PENALTIES[int(np.argmin(errors))]


def test_constant_features_have_no_effect():
    images, parts = draw()
    (train, valid), other = parts
    with_constant_feature = np.column_stack([train, np.full(60, 7.0)]), np.column_stack([valid, np.full(25, 9.0)])
    head = fit_ridge_head([CutFeatures(*with_constant_feature, images), CutFeatures(*other, images)], images)
    head_without_constant = fit_ridge_head([CutFeatures(*part, images) for part in parts], images)
    np.testing.assert_allclose(head.valid, head_without_constant.valid, atol=1e-10)
    constant = CutFeatures(np.ones((60, 4)), np.ones((25, 4)), images)
    np.testing.assert_allclose(fit_ridge_head([constant], images).valid, 1 / 3)


def test_a_single_patient_is_rejected():
    with pytest.raises(DataError, match="at least two patients; received 1"):
        TrainingImages(np.array([0, 1]), ("p", "p"), 2)
