"""Stacking: a regularised multinomial logistic regression on the members' log-probabilities (Wolpert 1992)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.combiners import Stacking, log_probabilities
from automl_cxr.scoring.calibration import log_loss

# Inverse strengths of the L2 penalty, strongest penalty first; in a tie the stronger penalty is used.
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_FOLDS = 4
MAX_STEPS = 300
_LOGIT_OF_ABSENT_CLASS = -30.0


def fit_stacking(probabilities: np.ndarray, labels: np.ndarray, patients: Sequence[str], *, seed: int = 0) -> Stacking:
    """Fit a stacking with the penalty that minimises log loss over folds by patient.

    It minimises log loss, regardless of the objective. It is the only method here whose fit has a unique solution.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        labels: True classes, integers (n,) from 0 to k - 1; a class without images is never predicted.
        patients: The patient of each image, (n,).
        seed: Seed of the folds.
    """
    folds = patient_folds(labels, patients, N_FOLDS, seed=seed)
    strength = INVERSE_STRENGTHS[0] if folds is None else _choose_strength(probabilities, labels, folds)
    return _fit(probabilities, labels, strength)


def _choose_strength(probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    losses = []
    for strength in INVERSE_STRENGTHS:
        predicted = np.empty((len(labels), probabilities.shape[2]), dtype=np.float32)
        for fold in np.unique(folds):
            inside = folds == fold
            predicted[inside] = _fit(probabilities[:, ~inside], labels[~inside], strength).combine(probabilities[:, inside])
        losses.append(log_loss(labels, predicted))
        if losses[-1] > min(losses):
            break  # the loss is nearly convex in the strength: weaker penalties overfit more
    return INVERSE_STRENGTHS[int(np.argmin(losses))]


def _fit(probabilities: np.ndarray, labels: np.ndarray, strength: float) -> Stacking:
    from sklearn.linear_model import LogisticRegression  # the import takes 1 s
    from threadpoolctl import threadpool_limits

    n_members, n_images, n_classes = probabilities.shape
    inputs = log_probabilities(probabilities).transpose(1, 0, 2).reshape(n_images, -1)
    coefficients, intercepts = np.zeros((n_classes, inputs.shape[1])), np.full(n_classes, _LOGIT_OF_ABSENT_CLASS)
    present = np.unique(labels)
    if len(present) == 1:
        intercepts[present] = 0.0
    else:
        with threadpool_limits(1):
            model = LogisticRegression(C=strength, max_iter=MAX_STEPS, tol=1e-3).fit(inputs, labels)
        # For two classes scikit-learn returns the second class only: the sigmoid of z is the softmax of (-z / 2, z / 2).
        is_pair = len(present) == 2
        coefficients[present] = np.concatenate([-model.coef_, model.coef_]) / 2 if is_pair else model.coef_
        intercepts[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2 if is_pair else model.intercept_
    return Stacking(coefficients.reshape(n_classes, n_members, n_classes), intercepts)
