"""The metadata baseline: what sex, age, view and other metadata alone predict, without a pixel."""

from __future__ import annotations

import numpy as np
import pandas as pd

from automl_cxr.data.audit.shortcut_baseline import Folds
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data_audit.measured_images import MeasuredImages, score_class_baseline, score_finding_baseline
from automl_cxr.scoring.subgroups import NO_GROUP, group_images

_PENALTY = 1.0  # C of the logistic regression, whose features are 0 or 1


def informative_columns(metadata: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns of metadata by which images differ."""
    return tuple(str(name) for name in metadata.columns if metadata[name].nunique() > 1)


def score_metadata(sample: MeasuredImages, metadata: pd.DataFrame, folds: Folds) -> Shortcut | FindingShortcut | None:
    """Score a logistic regression on the metadata of the images, out of fold by patient.

    Its features are the groups of each column (``scoring.subgroups``), such as bands of age; an unknown value is a group, too.
    The classes, and the presence of each finding, have equal weight.

    Args:
        sample: The images.
        metadata: Their metadata, one row for each image in the same order.
        folds: From ``baseline_folds``.

    Returns:
        The scores; None if no column has two values, or there are no folds, or no finding can be scored.
    """
    columns = informative_columns(metadata)
    if not columns or not folds:
        return None
    features = np.concatenate([_one_hot(name, metadata[name].tolist()) for name in columns], axis=1)
    if sample.labels.ndim == 1:
        probabilities = _predict(features, sample.labels, len(sample.classes), folds)
        return score_class_baseline(sample, probabilities, n_folds=len(folds))
    of_findings = [_predict_finding(features, codes, folds) for codes in sample.labels.T]
    return score_finding_baseline(sample, np.stack(of_findings, axis=1), n_folds=len(folds))


def _one_hot(name: str, values: list[str]) -> np.ndarray:
    grouping = group_images(name, values)
    return (grouping.of_image[:, None] == np.arange(NO_GROUP, len(grouping.groups))).astype(np.float32)


def _predict_finding(features: np.ndarray, codes: np.ndarray, folds: Folds) -> np.ndarray:
    """Predict one finding from the images whose label is known, (n,); where it has no two labels, with a constant."""
    known = [(fitted[codes[fitted] >= 0], predicted) for fitted, predicted in folds]
    return _predict(features, codes, 2, known)[:, 1]


def _predict(features: np.ndarray, labels: np.ndarray, n_classes: int, folds: Folds) -> np.ndarray:
    """Predict the classes out of fold, float32 (n, n_classes)."""
    from sklearn.linear_model import LogisticRegression

    probabilities = np.full((len(labels), n_classes), 1 / n_classes, np.float32)
    for fitted, predicted in folds:
        if len(set(labels[fitted].tolist())) < 2:
            continue
        model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000)
        model.fit(features[fitted], labels[fitted])
        probabilities[predicted] = 0
        probabilities[predicted[:, None], model.classes_] = model.predict_proba(features[predicted])
    return probabilities
