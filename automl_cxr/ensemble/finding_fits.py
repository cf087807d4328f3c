"""Fits of combiners for several findings that minimise the log loss: a weighted mean of logits, and stacking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.finding_combiners import FindingStacking
from automl_cxr.ensemble.geometric_mean import PRIOR_DEVIATION
from automl_cxr.ensemble.stacking import INVERSE_STRENGTHS, MAX_STEPS, N_FOLDS
from automl_cxr.scoring.finding_calibration import log_loss, logits, sigmoid
from automl_cxr.scoring.finding_labels import count_labels, known_images
from automl_cxr.tasks import PRESENT


def fit_logit_mean(probabilities: np.ndarray, labels: np.ndarray) -> FindingStacking:
    """Fit the weights of a mean of the members' logits: the geometric mean of their odds.

    As ``fit_geometric_mean`` for classes: the maximum of the posterior with weights of at least 0 and a normal prior around
    equal weights, where each finding has the same total weight. The problem is convex.

    Args:
        probabilities: (n_members, n, k).
        labels: Label codes (n, k).

    Returns:
        A regression on logits with the same coefficients for all findings and without intercepts.
    """
    from scipy.optimize import minimize  # the import takes 0.2 s

    n_members, n_images, n_findings = probabilities.shape
    is_known, is_present = (labels >= 0).ravel(), (labels == PRESENT).ravel()
    n_known = (labels >= 0).sum(axis=0)
    importance = np.tile(n_images / (np.count_nonzero(n_known) * np.maximum(n_known, 1)), n_images)[is_known]
    of_members = np.stack([logits(member).ravel()[is_known] for member in probabilities])
    is_present = is_present[is_known]
    equal = np.full(n_members, 1 / n_members)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        combined = weights @ of_members
        losses = np.logaddexp(0, combined) - combined * is_present
        distance = (weights - equal) / PRIOR_DEVIATION
        gradient = of_members @ (importance * (sigmoid(combined) - is_present))
        return float(importance @ losses + distance @ distance / 2), gradient + distance / PRIOR_DEVIATION

    solution = minimize(loss_and_gradient, equal, jac=True, method="L-BFGS-B", bounds=[(0, None)] * n_members)
    return FindingStacking(np.tile(solution.x, (n_findings, 1)), np.zeros(n_findings))


def fit_stacking_of_findings(
    probabilities: np.ndarray, labels: np.ndarray, patients: Sequence[str], *, seed: int = 0
) -> FindingStacking:
    """Fit a logistic regression for each finding on the members' logits, with one penalty for all findings.

    The penalty minimises the log loss over folds by patient. A finding that is present or absent in all images gets the mean of
    the logits.

    Args:
        probabilities: (n_members, n, k).
        labels: Label codes (n, k).
        patients: The patient of each image, (n,).
        seed: Seed of the folds.
    """
    folds = patient_folds(labels, patients, N_FOLDS, seed=seed)
    of_members = np.stack([logits(member) for member in probabilities])
    if folds is None:
        return _fit(of_members, labels, INVERSE_STRENGTHS[0])
    losses: list[float] = []
    for strength in INVERSE_STRENGTHS:
        predicted = np.empty(labels.shape, dtype=np.float32)
        for fold in np.unique(folds):
            inside = folds == fold
            predicted[inside] = _fit(of_members[:, ~inside], labels[~inside], strength).combine(probabilities[:, inside])
        losses.append(float(log_loss(labels, predicted)))
        if losses[-1] > min(losses):
            break  # the loss is nearly convex in the strength: weaker penalties overfit more
    return _fit(of_members, labels, INVERSE_STRENGTHS[int(np.argmin(losses))])


def correct_intercepts(stacking: FindingStacking, sample_labels: np.ndarray, labels: np.ndarray) -> FindingStacking:
    """Correct a regression that was fitted to a sample in which findings are more or less frequent than in all images.

    The intercept is lowered by the difference of the logarithms of the odds (prior correction, King and Zeng 2001, Logistic
    Regression in Rare Events Data). Findings that the sample contains in no image or in all images do not change.

    Args:
        stacking: Regressions that were fitted to the sample.
        sample_labels: Label codes of the sample, (n_sample, k).
        labels: Label codes of all images, (n, k).
    """
    (present, absent), (all_present, all_absent) = count_labels(sample_labels), count_labels(labels)
    is_fitted = (present > 0) & (absent > 0)
    ratio = np.divide(all_present * absent, all_absent * present, out=np.ones(len(present)), where=is_fitted)
    return FindingStacking(stacking.coefficients, stacking.intercepts + np.log(ratio))


def _fit(of_members: np.ndarray, labels: np.ndarray, strength: float) -> FindingStacking:
    from sklearn.linear_model import LogisticRegression  # the import takes 1 s
    from threadpoolctl import threadpool_limits

    n_members, _, n_findings = of_members.shape
    coefficients, intercepts = np.full((n_findings, n_members), 1 / n_members), np.zeros(n_findings)
    with threadpool_limits(1):
        for number, rows, positive in known_images(labels):
            if positive.any() and not positive.all():
                model = LogisticRegression(C=strength, max_iter=MAX_STEPS, tol=1e-3)
                model.fit(of_members[:, rows, number].T, positive)
                coefficients[number], intercepts[number] = model.coef_[0], model.intercept_[0]
    return FindingStacking(coefficients, intercepts)
