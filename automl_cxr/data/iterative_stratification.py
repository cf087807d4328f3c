"""Assignment of patients with several findings to folds or to parts of chosen sizes, stratified by all findings.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the Stratification of Multi-Label Data), in which a patient
with all images takes the place of an example. It assigns each patient by one label only. Some patients have many images, so
patients are then moved while this brings all labels closer to their targets: without it, the prevalence of a finding differed
by up to 6 points between folds of 500 simulated patients with 1 to 60 images, and with it by up to 2.5 points. Patients of
small studies are then exchanged (``patient_exchange``).
"""

from __future__ import annotations

import numpy as np

from automl_cxr.tasks import ABSENT, PRESENT

_MAX_PASSES = 2  # further ones improve little
_TOLERANCE = 0.005  # deviation of a count from its target that is not improved, as a share of all images with the label
_CHECKED_EVERY = 512  # patients


def count_labels(labels: np.ndarray, patient: np.ndarray, n_patients: int) -> np.ndarray:
    """Count the images and the known labels of each patient. Unknown and uncertain labels do not count.

    Args:
        labels: Label codes, (n, n_findings).
        patient: Index of the patient of each image, (n,).
        n_patients: Number of patients.

    Returns:
        Number of images with each finding, then without each finding, then of all images, float (n_patients, 2 * n_findings
        + 1).
    """
    columns = [*(labels == PRESENT).T, *(labels == ABSENT).T, np.ones(len(labels))]
    return np.stack([np.bincount(patient, weights=column, minlength=n_patients) for column in columns], axis=1)


def stratify(counts: np.ndarray, part_of_patient: np.ndarray, shuffled: np.ndarray, shares: np.ndarray) -> None:
    """Assign every patient without a part, then improve the assignment of these patients.

    Args:
        counts: Counts of each patient, as ``count_labels`` returns them.
        part_of_patient: Part of each patient, or -1; changed in place.
        shuffled: The patients in random order.
        shares: Share of the images for each part, above 0; they sum to 1.
    """
    assigned = np.stack([counts[part_of_patient == part].sum(axis=0) for part in range(len(shares))])
    target = shares[:, None] * counts.sum(axis=0)
    movable = shuffled[part_of_patient[shuffled] < 0]
    _assign_by_rarest_label(counts, part_of_patient, movable, target - assigned)
    assigned = np.stack([counts[part_of_patient == part].sum(axis=0) for part in range(len(shares))])
    for _ in range(_MAX_PASSES):
        if not _move_patients(counts, part_of_patient, movable, assigned, target):
            break


def _assign_by_rarest_label(counts: np.ndarray, part_of_patient: np.ndarray, patients: np.ndarray, lacking: np.ndarray) -> None:
    """Assign patients in the order of iterative stratification.

    The label with the fewest remaining images is assigned first. Each of its patients goes to the part that lacks most images
    of this label; among several, to the one that lacks most images. The patients with the most images of the label are assigned
    first, while every part still has room for them.

    Args:
        counts: Counts of each patient; the last column are all images.
        part_of_patient: Part of each patient; changed in place.
        patients: The patients to assign, in random order.
        lacking: Number of images that each part lacks of each label, (n_parts, n_labels + 1); changed in place.
    """
    while True:
        remaining = patients[part_of_patient[patients] < 0]
        if not len(remaining):
            break
        n_remaining = counts[remaining].sum(axis=0)
        label = np.where(n_remaining > 0, n_remaining, np.inf).argmin()  # the last one are all images
        chosen = remaining[counts[remaining, label] > 0]
        for patient in chosen[np.argsort(-counts[chosen, label], kind="stable")]:
            lack = lacking[:, label]
            part = np.where(lack >= lack.max() - 1e-9, lacking[:, -1], -np.inf).argmax()
            part_of_patient[patient] = part
            lacking[part] -= counts[patient]


def _move_patients(
    counts: np.ndarray, part_of_patient: np.ndarray, patients: np.ndarray, assigned: np.ndarray, target: np.ndarray
) -> bool:
    """Move each patient to the part that minimises the sum over parts and labels of (count - target)^2 / target.

    No patient leaves a part that would then lack a label.

    Args:
        counts: Counts of each patient.
        part_of_patient: Part of each patient; changed in place.
        patients: The patients to move.
        assigned: Counts of each part; changed in place.
        target: Targets of these counts.

    Returns:
        Whether a patient was moved.
    """
    is_moved = False
    scale = np.maximum(target, 1e-9)
    enough = np.maximum(0.5, _TOLERANCE * target.sum(axis=0))
    for number, patient in enumerate(patients.tolist()):
        if number % _CHECKED_EVERY == 0 and (np.abs(assigned - target) <= enough).all():
            return False
        images, part = counts[patient], part_of_patient[patient]
        rest = assigned[part] - images
        if ((rest <= 0) & (images > 0)).any():
            continue
        assigned[part] = rest
        cost = (images * (images + 2 * (assigned - target)) / scale).sum(axis=1)
        best = cost.argmin()
        if cost[best] < cost[part] - 1e-9:
            part_of_patient[patient], is_moved = best, True
        assigned[part_of_patient[patient]] += images
    return is_moved
