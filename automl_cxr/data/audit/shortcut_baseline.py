"""Classification by non-anatomical statistics: a random forest on all of them, and a small tree on each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from automl_cxr.data.audit.image_statistics import FORMAT
from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.tasks import PRESENT

MAX_FOLDS = 5
_N_TREES = 50  # 100 trees reached macro-F1 0.861 instead of 0.857 on 910 radiographs, a difference within the interval
_MAX_IMAGES_PER_TREE = 10_000  # so that a large data set takes minutes
_MAX_LEAVES = 8  # of a tree on one statistic

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""For each fold the rows to fit on and the rows to predict."""


def baseline_folds(labels: np.ndarray, patients: Sequence[str], *, seed: int = 0) -> Folds:
    """Divide images into folds by patient, stratified by class or by all findings.

    Args:
        labels: Index of the class of each image, int (n,); or label codes of several findings, (n, n_findings).
        patients: Patient of each image.
        seed: Seed of the assignment of patients to folds.

    Returns:
        Five folds, or as many as the rarest class has patients; empty if it has fewer than two. Of several findings, five
        folds, or as many as there are patients.
    """
    if labels.ndim == 2:
        n_folds = min(MAX_FOLDS, len(set(patients)))
        return _as_rows(patient_folds(labels, patients, n_folds, seed=seed) if n_folds > 1 else None)
    n_patients = pd.DataFrame({"label": labels, "patient": list(patients)}).groupby("label")["patient"].nunique()
    n_folds = min(MAX_FOLDS, int(n_patients.min()))
    return _as_rows(patient_folds(labels, patients, n_folds, seed=seed) if n_folds > 1 else None)


def _as_rows(folds: np.ndarray | None) -> Folds:
    if folds is None:
        return []
    return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(folds.max() + 1)]


def forest_out_of_fold(
    statistics: pd.DataFrame, labels: np.ndarray, n_classes: int, folds: Folds, *, seed: int = 0
) -> np.ndarray:
    """Predict the classes out of fold with a random forest (Breiman 2001) on all statistics.

    Args:
        statistics: From ``measure_image_statistics``, one row for each image.
        labels: Index of the class of each image, int (n,).
        n_classes: Number of classes.
        folds: From ``baseline_folds``; each image is predicted once.
        seed: Seed of the trees.

    Returns:
        Probabilities, float32 (n, n_classes).
    """
    from sklearn import config_context
    from sklearn.ensemble import RandomForestClassifier

    values = _as_numbers(statistics)
    probabilities = np.zeros((len(labels), n_classes), np.float32)
    for fitted, predicted in folds:
        forest = RandomForestClassifier(
            _N_TREES,
            min_samples_leaf=2,
            class_weight="balanced",
            max_samples=min(len(fitted), _MAX_IMAGES_PER_TREE),
            random_state=seed,
        )
        with config_context(skip_parameter_validation=True):  # validation takes longer than fitting a tree to few images
            forest.fit(values[fitted], labels[fitted])
            probabilities[predicted[:, None], forest.classes_] = forest.predict_proba(values[predicted])
    return probabilities


def findings_out_of_fold(statistics: pd.DataFrame, labels: np.ndarray, folds: Folds, *, seed: int = 0) -> np.ndarray:
    """Predict several findings out of fold with one random forest on all statistics.

    The forest regresses the labels of all findings, which have mean 0 and standard deviation 1, so that a rare finding counts
    as much as a frequent one. Labels that are unknown have the value 0 and do not favour any split.

    Args:
        statistics: From ``measure_image_statistics``, one row for each image.
        labels: Label codes, (n, n_findings).
        folds: From ``baseline_folds``; each image is predicted once.
        seed: Seed of the trees.

    Returns:
        Probabilities, float32 (n, n_findings). A finding that is not known to be both present and absent outside of a fold has
        the same probability in the fold.
    """
    from sklearn import config_context
    from sklearn.ensemble import RandomForestRegressor

    values = _as_numbers(statistics)
    targets = np.where(labels >= 0, labels, np.nan)
    probabilities = np.zeros(labels.shape, np.float32)
    for fitted, predicted in folds:
        is_known = ~np.isnan(targets[fitted])
        share = np.where(is_known, targets[fitted], 0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
        spread = np.sqrt(share * (1 - share))
        standardised = np.where(is_known, targets[fitted] - share, 0) / np.where(spread > 0, spread, 1)
        forest = RandomForestRegressor(
            _N_TREES,
            min_samples_leaf=2,
            max_features="sqrt",  # as in the classifier
            max_samples=min(len(fitted), _MAX_IMAGES_PER_TREE),
            random_state=seed,
        )
        with config_context(skip_parameter_validation=True):  # as above
            forest.fit(values[fitted], standardised[:, 0] if labels.shape[1] == 1 else standardised)
            scores = forest.predict(values[predicted]).reshape(len(predicted), -1)
        probabilities[predicted] = np.clip(share + spread * scores, 0, 1)
    return probabilities


def auc_of_statistics(statistics: pd.DataFrame, labels: np.ndarray) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    """Compute how well each statistic alone separates images with a finding from images without it.

    Args:
        statistics: From ``measure_image_statistics``, one row for each image.
        labels: Label codes, (n, n_findings).

    Yields:
        Name of the statistic; and its ROC AUC for each finding over the known labels, at least 0.5, because its sign does not
        count. None if the finding is not known to be both present and absent, and for file formats, which have no order.
    """
    from scipy.stats import rankdata

    for name in statistics.columns:
        aucs: list[float | None] = []
        for codes in labels.T:
            positive = codes[codes >= 0] == PRESENT
            n_positive = int(positive.sum())
            if name == FORMAT or n_positive in (0, len(positive)):
                aucs.append(None)
                continue
            ranks = rankdata(statistics[name].to_numpy()[codes >= 0])
            wins = ranks[positive].sum() - n_positive * (n_positive + 1) / 2  # of pairs, as in the test of Mann and Whitney
            auc = float(wins / (n_positive * (len(positive) - n_positive)))
            aucs.append(max(auc, 1 - auc))
        yield name, tuple(aucs)


def tree_predictions_out_of_fold(
    statistics: pd.DataFrame, labels: np.ndarray, n_classes: int, folds: Folds, *, seed: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Predict the classes out of fold with a tree of eight leaves on each statistic; see ``forest_out_of_fold``.

    Yields:
        Name of the statistic, and probabilities (n, n_classes).
    """
    from sklearn import config_context
    from sklearn.tree import DecisionTreeClassifier

    values = _as_numbers(statistics)
    for column, name in enumerate(statistics.columns):
        probabilities = np.zeros((len(labels), n_classes), np.float32)
        for fitted, predicted in folds:
            tree = DecisionTreeClassifier(
                max_leaf_nodes=_MAX_LEAVES, min_samples_leaf=2, class_weight="balanced", random_state=seed
            )
            with config_context(skip_parameter_validation=True):
                tree.fit(values[fitted, column : column + 1], labels[fitted])
                fold_probabilities = tree.predict_proba(values[predicted, column : column + 1])
            probabilities[predicted[:, None], tree.classes_] = fold_probabilities
        yield name, probabilities


def _as_numbers(statistics: pd.DataFrame) -> np.ndarray:
    """Replace each file format by its frequency rank."""
    codes = {name: code for code, name in enumerate(statistics[FORMAT].value_counts().index)}
    return statistics.assign(**{FORMAT: statistics[FORMAT].map(codes)}).to_numpy(np.float32)
