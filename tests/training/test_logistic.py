import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from automl_cxr.training import regularisation
from automl_cxr.training.logistic import fit_logistic
from automl_cxr.training.regularisation import CANDIDATES, images_for_choice


def draw(n, d, *, n_classes=3, shift=1.0, seed=0):
    """Draw features whose first dimension has another mean in each class, and other scales in each dimension."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    features = rng.normal(0, 1, (n, d))
    features[:, 0] += shift * labels
    return features * np.geomspace(1e-3, 1e3, d), labels, [f"patient{i // 2}" for i in range(n)]


def expected_probabilities(features, labels, weights, new, c):
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    regression = LogisticRegression(C=c, max_iter=5000, tol=1e-6)
    regression.fit((features - mean) / deviation, labels, sample_weight=weights)
    return regression.predict_proba((new - mean) / deviation)


@pytest.mark.parametrize(("n", "d", "n_classes"), [(60, 4, 3), (30, 50, 3), (60, 4, 2), (30, 50, 2)])
def test_the_fit_is_that_of_scikit_learn_on_standardised_features(n, d, n_classes):
    features, labels, patients = draw(n, d, n_classes=n_classes)
    weights = np.where(labels == 0, 2.0, 0.5)
    new, _, _ = draw(20, d, n_classes=n_classes, seed=1)
    fit = fit_logistic(features, labels, weights, patients, seed=0, c=0.05)
    assert fit.c == 0.05
    assert fit.kernel.shape == (d, n_classes)
    assert fit.predict(new) == pytest.approx(expected_probabilities(features, labels, weights, new, 0.05), abs=5e-3)


def test_a_constant_feature_is_not_used():
    features, labels, patients = draw(60, 4)
    features[:, 2] = 1e6
    fit = fit_logistic(features, labels, np.ones(60), patients, seed=0, c=1.0)
    assert (fit.kernel[2] == 0).all()
    assert np.isfinite(fit.predict(features)).all()


def test_noise_is_regularised_more_than_a_signal():
    noise, labels, patients = draw(80, 40, shift=0.0)
    signal, _, _ = draw(80, 40, shift=6.0)
    of_noise, of_signal = (fit_logistic(features, labels, np.ones(80), patients, seed=0).c for features in (noise, signal))
    assert of_noise < of_signal
    assert {of_noise, of_signal} <= set(CANDIDATES)


def test_patients_are_left_out_together():
    """Each patient has two equal images; if one of them was fitted, a weak regularisation would predict the other."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(0, 1, (60, 100)), 2, axis=0)
    labels = np.repeat(np.arange(60) % 3, 2)
    patients = np.repeat([f"p{i}" for i in range(60)], 2)
    grouped = fit_logistic(features, labels, np.ones(120), list(patients), seed=0)
    ungrouped = fit_logistic(features, labels, np.ones(120), [str(i) for i in range(120)], seed=0)
    assert grouped.c < ungrouped.c


def test_too_few_patients_for_folds_get_a_fixed_regularisation():
    features, labels, _ = draw(30, 4)
    fit = fit_logistic(features, labels, np.ones(30), ["a"] * 30, seed=0)
    assert fit.left_out_loss == {}
    assert fit.c == np.median(CANDIDATES)


def test_the_strength_is_chosen_on_a_part_of_the_patients_if_there_are_many(monkeypatch):
    features, labels, patients = draw(240, 4, shift=3.0)
    everything = fit_logistic(features, labels, np.ones(240), patients, seed=0)
    monkeypatch.setattr(regularisation, "MOST_FOR_CHOICE", 80)
    rows = images_for_choice(labels, patients, seed=0)
    assert 60 <= len(rows) <= 100
    assert not {patients[row] for row in rows} & {patients[row] for row in set(range(240)) - set(rows)}
    assert set(labels[rows]) == {0, 1, 2}
    part = fit_logistic(features, labels, np.ones(240), patients, seed=0)
    assert part.left_out_loss != everything.left_out_loss
    agreement = (part.predict(features).argmax(axis=1) == everything.predict(features).argmax(axis=1)).mean()
    assert agreement > 0.95, "the classifier itself is fitted to all images"
