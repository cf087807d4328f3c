"""Intervals by patient: images of one patient are not independent."""

import numpy as np
import pytest

from automl_cxr.scoring.clustered_errors import PatientClusters, share_interval


def test_copies_of_the_images_of_each_patient_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=50)
    once = PatientClusters([str(number) for number in range(50)]).variance_of_mean(values)
    four_times = PatientClusters([str(number) for number in range(50)] * 4).variance_of_mean(np.tile(values, 4))
    assert once == pytest.approx(values.var(ddof=1) / 50)
    assert four_times == pytest.approx(once)


def test_the_interval_of_a_share_contains_the_true_share_for_patients_with_several_images():
    rng, n_contained = np.random.default_rng(1), 0
    patients = [str(number // 3) for number in range(120)]
    for _ in range(400):
        of_patients = rng.beta(9, 1, size=40)  # a mean of 0.9
        interval = share_interval(rng.random(120) < np.repeat(of_patients, 3), patients)
        n_contained += interval.low <= 0.9 <= interval.high
    assert 0.92 < n_contained / 400 < 0.98


def test_a_share_of_all_or_no_images_has_an_interval_of_the_number_of_patients():
    all_of_ten = share_interval(np.ones(20, dtype=bool), [str(number // 2) for number in range(20)])
    assert all_of_ten.high == 1
    assert all_of_ten.low == pytest.approx(0.722, abs=0.001)  # Wilson's interval of 10 of 10
    assert np.isnan(share_interval(np.ones(0, dtype=bool), []).low)
