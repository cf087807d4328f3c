"""Folds of labelled images by patient, with the classes in nearly equal shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def patient_folds(labels: np.ndarray, patients: Sequence[str], n_folds: int, *, seed: int) -> np.ndarray | None:
    """Deal patients out to folds.

    Patients are ordered by how many images of each class they have, those alike in random order, and dealt out in turn: each
    fold gets its share of every kind of patient, and so of every class.

    Args:
        labels: Classes, integers (n,) from 0.
        patients: The patient of each image, (n,).
        n_folds: Folds, 2 or more.
        seed: Decides which of like patients go where.

    Returns:
        The fold of each image from 0, int64 (n,); or None where some class that there is would be missing outside a fold, so
        that no weights can be fitted there: a class has but one patient.
    """
    names, patient = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    n_classes = int(labels.max()) + 1
    profiles = np.bincount(patient * n_classes + labels, minlength=len(names) * n_classes).reshape(len(names), n_classes)
    chance = np.random.default_rng(seed).random(len(names))
    order = np.lexsort((chance, *profiles.T))
    fold_of_patient = np.empty(len(names), dtype=np.int64)
    fold_of_patient[order] = np.arange(len(names)) % n_folds
    folds = fold_of_patient[patient]
    present = np.unique(labels)
    outside_every_fold = all(np.isin(present, labels[folds != fold]).all() for fold in range(n_folds))
    return folds if outside_every_fold and len(names) >= n_folds else None
