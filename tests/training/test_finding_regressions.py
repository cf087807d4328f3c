import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from automl_cxr.config import TrialConfig
from automl_cxr.tasks import UNCERTAIN, UNKNOWN
from automl_cxr.training.finding_regressions import fit_findings
from automl_cxr.training.regularisation import CANDIDATES
from automl_cxr.training.targets import training_targets


def draw(n=90, d=12, *, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.5, 0.3, 0.2]).astype(int)
    features = rng.normal(size=(n, d)) * rng.uniform(0.5, 20, d) + 5
    features[:, :3] += 8 * labels
    return features, labels, [f"p{row // 2}" for row in range(n)]


def targets_of(labels, **values):
    return training_targets(labels, 3, TrialConfig.from_values({"task": "multilabel", "family": "probe", **values}))


@pytest.mark.parametrize("shape", [(90, 12), (40, 60)], ids=["more images", "more features"])
@pytest.mark.parametrize("imbalance", ["none", "class_weights"])
def test_each_finding_has_the_solution_of_scikit_learn_on_its_known_labels(shape, imbalance):
    features, labels, patients = draw(*shape)
    labels[::4, 0], labels[1::3, 1] = UNKNOWN, UNKNOWN
    targets = targets_of(labels, imbalance=imbalance)
    fitted = fit_findings(features, labels, targets, patients, seed=0, c=0.05)
    inputs = StandardScaler().fit_transform(features)
    for finding in range(3):
        known = labels[:, finding] >= 0
        reference = LogisticRegression(C=0.05, tol=1e-8, max_iter=5000)
        reference.fit(inputs[known], labels[known, finding], sample_weight=targets.weights[known, finding])
        expected = reference.predict_proba(inputs)[:, 1]
        np.testing.assert_allclose(fitted.predict(features)[:, finding], expected, atol=5e-3)


def test_a_target_between_0_and_1_is_a_weight_of_both_labels():
    features, labels, patients = draw()
    labels[::3, 1] = UNCERTAIN
    targets = targets_of(labels, uncertain_targets="0.3-0.3", imbalance="none")
    fitted = fit_findings(features, labels, targets, patients, seed=0, c=0.05)
    inputs, value, weight = StandardScaler().fit_transform(features), targets.values[:, 1], targets.weights[:, 1]
    reference = LogisticRegression(C=0.05, tol=1e-8, max_iter=5000)
    both = np.repeat([1, 0], len(labels))
    reference.fit(np.tile(inputs, (2, 1)), both, sample_weight=np.concatenate([weight * value, weight * (1 - value)]))
    np.testing.assert_allclose(fitted.predict(features)[:, 1], reference.predict_proba(inputs)[:, 1], atol=5e-3)


def test_the_regularisation_is_chosen_out_of_fold():
    features, labels, patients = draw(120)
    noise = np.random.default_rng(1).normal(size=features.shape)
    of_noise, of_signal = (fit_findings(one, labels, targets_of(labels), patients, seed=0).c for one in (noise, features))
    assert of_noise < of_signal


def test_a_finding_that_is_absent_in_a_fold_or_in_all_images_is_predicted_with_a_constant():
    features, labels, patients = draw(60)
    labels[:, 2] = 0
    labels[:, 1] = 0
    labels[:2, 1] = 1  # one patient, so that a fold is fitted without the finding
    fitted = fit_findings(features, labels, targets_of(labels, imbalance="none"), patients, seed=0)
    predicted = fitted.predict(features)
    assert np.isfinite(predicted).all()
    assert predicted[:, 2] == pytest.approx(0.5 / 61, abs=1e-3)
    assert predicted[:2, 1].min() > predicted[2:, 1].mean()


def test_too_few_patients_for_folds_get_a_fixed_regularisation():
    features, labels, _ = draw(30)
    fitted = fit_findings(features, labels, targets_of(labels), ["a"] * 30, seed=0)
    assert fitted.left_out_loss == {}
    assert fitted.c == np.median(CANDIDATES)
