"""Assignment of patients with several findings to folds or to parts of chosen sizes, stratified by all findings.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the Stratification of Multi-Label Data), in which a patient
with all images takes the place of an example.
"""

from __future__ import annotations

import numpy as np

from automl_cxr.tasks import ABSENT, PRESENT


def count_labels(labels: np.ndarray, patient: np.ndarray, n_patients: int) -> np.ndarray:
    """Count the known labels of each patient. Unknown and uncertain ones do not count.

    Args:
        labels: Label codes, (n, n_findings).
        patient: Index of the patient of each image, (n,).
        n_patients: Number of patients.

    Returns:
        Number of images with each finding, then without each finding, (n_patients, 2 * n_findings).
    """
    known = np.concatenate([labels == PRESENT, labels == ABSENT], axis=1)
    counts = np.zeros((n_patients, known.shape[1]))
    np.add.at(counts, patient, known)
    return counts


def stratify(
    counts: np.ndarray, n_images: np.ndarray, part_of_patient: np.ndarray, shuffled: np.ndarray, shares: np.ndarray
) -> None:
    """Assign every patient without a part.

    The label with the fewest remaining images is assigned first. Each of its patients goes to the part that lacks most images
    of this label; among several, to the one that lacks most images. The patients with the most images of the label are assigned
    first, while every part still has room for them.

    Args:
        counts: Number of images of each patient with each label, (n_patients, n_labels).
        n_images: Number of images of each patient, (n_patients,).
        part_of_patient: Part of each patient, or -1; changed in place.
        shuffled: The patients in random order.
        shares: Share of the images for each part, above 0; they sum to 1.
    """
    assigned = [part_of_patient == part for part in range(len(shares))]
    lacking = shares[:, None] * counts.sum(axis=0) - np.stack([counts[rows].sum(axis=0) for rows in assigned])
    lacking_images = shares * n_images.sum() - np.array([n_images[rows].sum() for rows in assigned])

    def assign(patient: int, lack: np.ndarray) -> None:
        ties = np.flatnonzero(lack >= lack.max() - 1e-9)
        part = ties[lacking_images[ties].argmax()]
        part_of_patient[patient] = part
        lacking[part] -= counts[patient]
        lacking_images[part] -= n_images[patient]

    while True:
        is_open = part_of_patient < 0
        remaining = counts[is_open].sum(axis=0)
        if not (remaining > 0).any():
            break
        label = np.where(remaining > 0, remaining, np.inf).argmin()
        chosen = shuffled[is_open[shuffled] & (counts[shuffled, label] > 0)]
        for patient in chosen[np.argsort(-counts[chosen, label], kind="stable")]:
            assign(patient, lacking[:, label])
    unlabelled = shuffled[part_of_patient[shuffled] < 0]
    for patient in unlabelled[np.argsort(-n_images[unlabelled], kind="stable")]:
        assign(patient, lacking_images)
