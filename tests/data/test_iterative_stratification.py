"""Patients with several findings are assigned to parts and folds with the shares of all findings."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.data.patient_folds import assign_patients, patient_folds
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

PARTS, FOLDS = (0.7, 0.15, 0.15), (0.2,) * 5


def draw(seed: int, *, n_patients: int = 500, unknown: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """Draw labels of six findings that images of a patient share, and the patient of each image."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), random.geometric(0.5, n_patients))
    prevalence = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.03])
    of_patient = (random.random((n_patients, 6)) < prevalence)[patient]
    labels = np.where(random.random(of_patient.shape) < 0.8, of_patient, random.random(of_patient.shape) < prevalence)
    codes = np.where(labels, PRESENT, ABSENT)
    codes[random.random(codes.shape) < unknown] = random.choice([UNKNOWN, UNCERTAIN])
    order = random.permutation(len(patient))
    return codes[order], [f"P{number}" for number in patient[order]]


def prevalence(labels: np.ndarray) -> np.ndarray:
    return (labels == PRESENT).sum(axis=0) / (labels >= 0).sum(axis=0)


@pytest.mark.parametrize("shares", [PARTS, FOLDS], ids=["parts", "folds"])
@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_patients_stay_together_and_the_shares_of_findings_are_equal(
    shares: tuple[float, ...], unknown: float, seed: int
) -> None:
    labels, patients = draw(seed, unknown=unknown)
    parts = assign_patients(labels, patients, shares, seed=seed)
    assert len(set(zip(patients, parts.tolist(), strict=True))) == len(set(patients))
    for part, share in enumerate(shares):
        in_part = parts == part
        assert abs(in_part.mean() - share) < 0.01
        assert np.abs(prevalence(labels[in_part]) - prevalence(labels)).max() < 0.02
        n_positive = (labels == PRESENT).sum(axis=0)
        of_positive = (labels[in_part] == PRESENT).sum(axis=0) / n_positive
        assert (np.abs(of_positive - share) <= np.maximum(0.02, 1.5 / n_positive)).all()


def draw_unequal(seed: int, n_patients: int) -> tuple[np.ndarray, list[str]]:
    """Draw labels of eight findings, and patients of whom each has 1 to 60 images with similar labels."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), random.integers(1, 61, n_patients))
    prevalence = np.array([0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06])
    of_patient = (random.random((n_patients, 8)) < prevalence)[patient]
    labels = np.where(random.random(of_patient.shape) < 0.8, of_patient, random.random(of_patient.shape) < prevalence)
    return np.where(labels, PRESENT, ABSENT), [f"P{number}" for number in patient]


@pytest.mark.parametrize("shares", [PARTS, FOLDS], ids=["parts", "folds"])
@pytest.mark.parametrize("seed", range(2))
def test_exchanges_of_patients_lower_the_largest_deviation(shares: tuple[float, ...], seed: int) -> None:
    labels, patients = draw_unequal(seed, 200)

    def largest_deviation(*, exchanges: bool) -> float:
        parts = assign_patients(labels, patients, shares, seed=seed, pinned=patients[:90], exchanges=exchanges)
        assert set(parts[:90]) == {0}
        assert all(abs((parts == part).mean() - share) < 0.015 for part, share in enumerate(shares))
        return max(float(np.abs(prevalence(labels[parts == part]) - prevalence(labels)).max()) for part in range(len(shares)))

    before, after = largest_deviation(exchanges=False), largest_deviation(exchanges=True)
    assert before > 0.015
    assert after < 0.7 * before


def test_parts_without_large_deviations_are_not_changed() -> None:
    labels, patients = draw(0, n_patients=3000)
    with_exchanges = assign_patients(labels, patients, PARTS, seed=0)
    np.testing.assert_array_equal(with_exchanges, assign_patients(labels, patients, PARTS, seed=0, exchanges=False))


def test_the_assignment_depends_on_the_seed_and_not_on_the_order_of_images() -> None:
    labels, patients = draw(7, n_patients=60)
    order = np.random.default_rng(0).permutation(len(patients))
    first, again = (assign_patients(labels, patients, FOLDS, seed=seed) for seed in (0, 0))
    shuffled = assign_patients(labels[order], [patients[row] for row in order], FOLDS, seed=0)
    assert first.tolist() == again.tolist()
    assert first[order].tolist() == shuffled.tolist()
    assert first.tolist() != assign_patients(labels, patients, FOLDS, seed=1).tolist()


def test_each_part_gets_a_patient_with_a_rare_finding_and_pinned_patients_are_in_the_first() -> None:
    labels, patients = draw(1, n_patients=80)
    rare = np.zeros((len(labels), 1), np.int64)
    for patient in ("P3", "P40", "P41"):
        rare[patients.index(patient)] = PRESENT
    labels = np.concatenate([labels, rare], axis=1)
    parts = assign_patients(labels, patients, PARTS, seed=0)
    assert sorted(parts[rare[:, 0] == PRESENT].tolist()) == [0, 1, 2]
    pinned = assign_patients(labels, patients, PARTS, seed=0, pinned={"P3", "P40"})
    assert {int(pinned[patients.index(patient)]) for patient in ("P3", "P40")} == {0}


def test_folds_of_findings_need_a_patient_each() -> None:
    labels = np.array([[PRESENT], [ABSENT], [UNKNOWN]])
    folds = patient_folds(labels, ["a", "b", "c"], 2, seed=0)
    assert folds is not None
    assert sorted(set(folds.tolist())) == [0, 1]
    assert patient_folds(labels, ["a", "b", "b"], 3, seed=0) is None


def test_labels_that_are_unknown_do_not_count() -> None:
    labels, patients = draw(4, n_patients=60)
    other = np.concatenate([labels, np.full((len(labels), 2), UNKNOWN)], axis=1)
    assert assign_patients(labels, patients, PARTS, seed=0).tolist() == assign_patients(other, patients, PARTS, seed=0).tolist()
