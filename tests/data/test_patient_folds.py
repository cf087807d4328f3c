"""Assignment of whole patients to folds and parts."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.data.patient_folds import assign_patients, patient_folds


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_folds_separate_patients_and_balance_classes(n_folds: int) -> None:
    rng = np.random.default_rng(0)
    patients = np.array([f"p{i}" for i in rng.integers(200, size=500)])
    labels = rng.choice(3, size=500, p=[0.6, 0.3, 0.1])
    folds = patient_folds(labels, patients.tolist(), n_folds, seed=0)
    assert folds is not None
    assert all(len(set(folds[patients == patient])) == 1 for patient in set(patients))
    counts = np.array([np.bincount(labels[folds == fold], minlength=3) for fold in range(n_folds)])
    assert (np.ptp(counts, axis=0) < 0.35 * counts.mean(axis=0) + 4).all()
    other = patient_folds(labels, patients.tolist(), n_folds, seed=1)
    assert (folds != other).any()


def test_a_class_of_one_patient_has_no_folds() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    assert patient_folds(labels, [f"p{i}" for i in range(10)] + ["q"] * 3, 2, seed=0) is None


def test_fewer_patients_than_folds_have_no_folds() -> None:
    labels, patients = np.array([0, 1, 0, 1]), ["p", "q", "r", "s"]
    assert patient_folds(labels, patients, 5, seed=0) is None
    folds = patient_folds(labels, patients, 2, seed=0)
    assert folds is not None
    assert set(folds) == {0, 1}


def test_no_fold_is_empty() -> None:
    labels = np.repeat([0, 1, 2], 2)  # each class has two of six patients, so that at most two folds cover all classes
    for n_folds in (2, 3, 5):
        folds = patient_folds(labels, [f"p{i}" for i in range(6)], n_folds, seed=0)
        assert folds is None or set(folds) == set(range(n_folds))


def test_the_assignment_does_not_depend_on_the_order_of_images() -> None:
    rng = np.random.default_rng(0)
    patients = np.array([f"p{i}" for i in rng.integers(40, size=120)])
    labels = rng.integers(3, size=120)
    order = rng.permutation(120)
    parts = assign_patients(labels, patients.tolist(), [0.6, 0.4], seed=0)
    reordered = assign_patients(labels[order], patients[order].tolist(), [0.6, 0.4], seed=0)
    assert (reordered == parts[order]).all()
    assert (parts == 0).mean() == pytest.approx(0.6, abs=0.05)


def test_pinned_patients_are_in_the_first_part() -> None:
    labels = np.tile([0, 1], 20)
    patients = [f"p{i // 2}" for i in range(40)]
    parts = assign_patients(labels, patients, [0.2, 0.8], seed=0, pinned={"p3", "p7"})
    assert all(part == 0 for part, patient in zip(parts, patients, strict=True) if patient in ("p3", "p7"))
