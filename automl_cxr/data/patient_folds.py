"""Assignment of patients to folds or to parts of chosen sizes, stratified by class or by all findings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from automl_cxr.data.iterative_stratification import count_labels, stratify
from automl_cxr.data.patient_exchange import exchange_patients


def patient_folds(labels: np.ndarray, patients: Sequence[str], n_folds: int, *, seed: int) -> np.ndarray | None:
    """Divide images into folds of nearly equal size by patient, without exchanges of patients (``assign_patients``).

    Fits divide patients many times, and an exchange takes up to half a second.

    Args:
        labels: Classes, integers (n,) from 0; or label codes (``tasks``) of several findings, (n, n_findings).
        patients: The patient of each image, (n,).
        n_folds: Number of folds, 2 or more.
        seed: Seed of the assignment.

    Returns:
        The fold of each image from 0, int64 (n,). None if there are fewer patients than folds, or if one fold would contain
        all images of a class, because a model that is fitted on the other folds could not predict this class. One fold may
        contain all images with a finding, because the others can be predicted without it.
    """
    if len(set(patients)) < n_folds:
        return None
    folds = assign_patients(labels, patients, [1 / n_folds] * n_folds, seed=seed, exchanges=False)
    if labels.ndim == 2:
        return folds if len(set(folds.tolist())) == n_folds else None
    classes = np.unique(labels)
    is_usable = all((folds == fold).any() and np.isin(classes, labels[folds != fold]).all() for fold in range(n_folds))
    return folds if is_usable else None


def assign_patients(
    labels: np.ndarray,
    patients: Sequence[str],
    shares: Sequence[float],
    *,
    seed: int,
    pinned: Collection[str] = (),
    exchanges: bool = True,
) -> np.ndarray:
    """Assign each image to one of several parts, so that no patient is in two parts.

    As in scikit-learn's StratifiedGroupKFold, the patients with the most images are assigned first. In addition, parts may have
    different sizes, and each part gets a patient of each class if there are enough. Every other patient goes to the part that
    is then closest to its share of every class. The result does not depend on the order of the images.

    Several findings are stratified iteratively (``iterative_stratification``), after each part got a patient with each finding
    and one without it. Unknown labels do not count. If a prevalence then deviates by more than one point, patients are
    exchanged (``patient_exchange``).

    Args:
        labels: Classes, integers (n,) from 0; or label codes (``tasks``) of several findings, (n, n_findings).
        patients: The patient of each image, (n,).
        shares: Share of the images for each part, above 0; they sum to 1.
        seed: Seed of the order in which patients of equal size are assigned.
        pinned: Patients who must be in part 0.
        exchanges: Whether to exchange patients, for several findings.

    Returns:
        The part of each image from 0, int64 (n,). A part lacks a class or finding only if it has too few patients.
    """
    names, patient = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    part_of_patient = np.where(np.isin(names, list(pinned)), 0, -1)
    sizes = np.asarray(shares, dtype=float)
    if labels.ndim == 2:
        table, may_move = count_labels(labels, patient, len(names)), part_of_patient < 0
        _cover_classes(table, part_of_patient, shuffled, len(shares))
        stratify(table, part_of_patient, shuffled, sizes)
        if exchanges:
            exchange_patients(table, part_of_patient, shuffled[may_move[shuffled]], sizes)
        return part_of_patient[patient]
    n_classes = int(labels.max(initial=0)) + 1
    counts = np.bincount(patient * n_classes + labels, minlength=len(names) * n_classes)
    table = counts.reshape(len(names), n_classes).astype(float)
    _cover_classes(table, part_of_patient, shuffled, len(shares))
    _balance_classes(table, part_of_patient, shuffled, sizes)
    return part_of_patient[patient]


def _cover_classes(table: np.ndarray, part_of_patient: np.ndarray, shuffled: np.ndarray, n_parts: int) -> None:
    """Assign one patient of each class to each part.

    The rarest class and the patients with the fewest images are assigned first. Balancing alone could leave a part
    without a class that has few patients.

    Args:
        table: Images of each patient in each class, (n_patients, n_classes).
        part_of_patient: Part of each patient, or -1; changed in place.
        shuffled: The patients in random order.
        n_parts: Number of parts.
    """
    has_class = table > 0
    by_size = shuffled[np.argsort(table[shuffled].sum(axis=1), kind="stable")]
    for label in np.argsort(has_class.sum(axis=0), kind="stable"):
        for part in range(n_parts):
            if has_class[part_of_patient == part, label].any():
                continue
            candidates = by_size[has_class[by_size, label] & (part_of_patient[by_size] == -1)]
            if candidates.size:
                part_of_patient[candidates[0]] = part


def _balance_classes(table: np.ndarray, part_of_patient: np.ndarray, shuffled: np.ndarray, shares: np.ndarray) -> None:
    """Assign every other patient to the part that minimises the sum over parts and classes of (count - target)^2 / target.

    ``part_of_patient`` is changed in place.
    """
    target = np.maximum(shares[:, None] * table.sum(axis=0), 1e-9)
    counts = np.stack([table[part_of_patient == part].sum(axis=0) for part in range(len(shares))])
    for patient in shuffled[np.argsort(-table[shuffled].sum(axis=1), kind="stable")]:
        if part_of_patient[patient] >= 0:
            continue
        images = table[patient]
        cost = (images * (images + 2 * (counts - target)) / target).sum(axis=1)
        part_of_patient[patient] = cost.argmin()
        counts[part_of_patient[patient]] += images
