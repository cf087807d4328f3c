"""Exchange of patients between the parts of a stratified assignment, until the prevalence of each finding is nearly equal.

Iterative stratification and moves of single patients (``iterative_stratification``) leave deviations of several points if there
are a few hundred patients of whom some have many images. An exchange of two patients changes the shares of findings without
changing the sizes of the parts much, and there are many more pairs than patients.

The largest deviation of a prevalence among 14 findings of 50 to 0.5 %, in six simulations each, without and with exchanges: 200
patients with 1 to 60 images in three parts 5.2 and 2.5 points, in five folds 4.7 and 2.4; 500 patients 1.2 and 1.0, and 1.5 and
1.0. With few images for most patients and up to 60 for some, 500 patients had 7.7 and 7.3, and 5.4 and 4.7 points: there, one
patient has most images of a rare finding.
"""

from __future__ import annotations

import numpy as np

TOLERANCE = 0.01
"""Deviation of a finding's prevalence in a part from that in all images, or of a part's size, that is not improved."""
_MAX_ROUNDS = 100
_MAX_FAILURES = 6  # rounds without an exchange, each with other patients
_N_CANDIDATES = 48  # patients of each part in a round; more pairs take longer and improve little
_POWER = 8  # a sum of such powers is minimised, because it is nearly the largest deviation, and smooth
_SMALLEST_GAIN = 1e-3  # of this sum, as a share


def exchange_patients(counts: np.ndarray, part_of_patient: np.ndarray, patients: np.ndarray, shares: np.ndarray) -> None:
    """Exchange or move patients while this lowers the largest deviation of a prevalence or of a size.

    A round considers the part with the largest deviation, some of its patients and some of each other part, and makes the best
    exchange of two patients, or move of one. No exchange increases the sum over labels of (count - target)^2 / target, which
    assignment minimises and in which rare findings count as much as frequent ones; and no part loses its last image with a
    label. The result depends on the order of the patients only. Parts that deviate by at most one point are not changed.

    Args:
        counts: Number of images of each patient with each finding, without it, and of all images, (n_patients, 2 * n_findings +
            1); see ``iterative_stratification.count_labels``.
        part_of_patient: Part of each patient; changed in place.
        patients: The patients that may be exchanged, in random order.
        shares: Share of the images for each part; they sum to 1.
    """
    measure = _Measure(counts, shares)
    assigned = np.stack([counts[part_of_patient == part].sum(axis=0) for part in range(len(shares))])
    n_failures = 0
    for number in range(_MAX_ROUNDS):
        deviations = np.abs(np.stack([measure.deviations(assigned[part], part) for part in range(len(shares))]))
        if deviations.max() <= TOLERANCE or n_failures == _MAX_FAILURES:
            break
        worst = int(deviations.max(axis=1).argmax())
        candidates = {part: _rotated(patients[part_of_patient[patients] == part], number) for part in range(len(shares))}
        n_failures = 0 if _exchange_best(counts, part_of_patient, assigned, candidates, worst, measure) else n_failures + 1


class _Measure:
    """Deviations and costs of the counts of a part.

    Args:
        counts: Counts of each patient.
        shares: Share of the images for each part.
    """

    def __init__(self, counts: np.ndarray, shares: np.ndarray) -> None:
        self._total, self._shares = counts.sum(axis=0), shares
        self._n_findings = counts.shape[1] // 2
        present, absent = np.split(self._total[:-1], 2)
        self._prevalence = present / np.maximum(present + absent, 1)

    def deviations(self, of_part: np.ndarray, part: int) -> np.ndarray:
        """Return the deviations of the prevalence of each finding and of the size, (..., n_labels) to (..., n_findings + 1)."""
        present, absent = of_part[..., : self._n_findings], of_part[..., self._n_findings : -1]
        n_known = present + absent
        unchanged = np.broadcast_to(self._prevalence, n_known.shape)  # without a known label
        prevalence = np.divide(present, n_known, out=unchanged.copy(), where=n_known > 0)
        size = of_part[..., -1:] / self._total[-1] - self._shares[part]
        return np.concatenate([prevalence - self._prevalence, size], axis=-1)

    def power(self, of_part: np.ndarray, part: int) -> np.ndarray:
        """Return the sum of powers of the deviations, (..., n_labels) to (...)."""
        return (self.deviations(of_part, part) ** _POWER).sum(axis=-1)

    def cost(self, of_part: np.ndarray, part: int) -> np.ndarray:
        """Return the sum over the labels of (count - target)^2 / target, (..., n_labels) to (...)."""
        target = np.maximum(self._shares[part] * self._total, 1e-9)
        return ((of_part - target) ** 2 / target).sum(axis=-1)


def _rotated(patients: np.ndarray, number: int) -> np.ndarray:
    """Return some of the patients, others in each round."""
    return np.roll(patients, -number * _N_CANDIDATES)[:_N_CANDIDATES]


def _exchange_best(
    counts: np.ndarray,
    part_of_patient: np.ndarray,
    assigned: np.ndarray,
    candidates: dict[int, np.ndarray],
    worst: int,
    measure: _Measure,
) -> bool:
    """Make the best exchange between a part and any other one.

    Args:
        counts: Counts of each patient.
        part_of_patient: Part of each patient; changed in place.
        assigned: Counts of each part; changed in place.
        candidates: The patients that may be exchanged, by part.
        worst: The part with the largest deviation.
        measure: Measures deviations and costs.

    Returns:
        Whether patients were exchanged.
    """
    nobody = np.zeros((1, counts.shape[1]))  # an exchange with nobody is a move
    own = np.concatenate([nobody, counts[candidates[worst]]])
    best_gain, best = 0.0, None
    for other in candidates.keys() - {worst}:
        change = np.concatenate([nobody, counts[candidates[other]]]) - own[:, np.newaxis]
        ends = ((assigned[worst] + change, worst), (assigned[other] - change, other))
        before = sum(measure.power(assigned[part], part) for _, part in ends)
        gains = before - sum(measure.power(changed, part) for changed, part in ends)
        highest_cost = sum(measure.cost(assigned[part], part) for _, part in ends) * (1 + 1e-9)
        is_refused = sum(measure.cost(changed, part) for changed, part in ends) > highest_cost
        for changed, part in ends:
            is_refused |= ((changed <= 0) & (assigned[part] > 0)).any(axis=-1)
        gains = np.where(is_refused, -np.inf, gains)
        pair = np.unravel_index(gains.argmax(), gains.shape)
        if gains[pair] > max(best_gain, _SMALLEST_GAIN * before):
            best_gain, best = float(gains[pair]), (other, int(pair[0]), int(pair[1]), change[pair])
    if best is None:
        return False
    other, leaving, entering, change = best
    if leaving:
        part_of_patient[candidates[worst][leaving - 1]] = other
    if entering:
        part_of_patient[candidates[other][entering - 1]] = worst
    assigned[worst] += change
    assigned[other] -= change
    return True
