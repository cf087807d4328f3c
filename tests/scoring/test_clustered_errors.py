"""Intervals by patient: images of one patient are not independent."""

import numpy as np
import pytest
from scipy.stats import beta

from automl_cxr.scoring.clustered_errors import (
    PatientClusters,
    exact_share_interval,
    share_interval,
    smallest_effective_number,
)
from automl_cxr.scoring.intervals import Interval


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


def test_the_exact_interval_of_single_images_is_that_of_clopper_and_pearson():
    for n_counted in (0, 1, 27, 30):
        is_counted = np.arange(30) < n_counted
        found = exact_share_interval(is_counted, [f"p{number}" for number in range(30)])
        # A variance that is estimated from 30 images has one degree of freedom less.
        n = 30 if n_counted in (0, 30) else 29
        counted = n_counted / 30 * n
        assert found.low == pytest.approx(beta.ppf(0.025, counted, n - counted + 1) if counted else 0)
        assert found.high == pytest.approx(beta.ppf(0.975, counted + 1, n - counted) if counted < n else 1)


def test_copies_of_images_make_the_exact_interval_no_narrower():
    is_counted = np.arange(40) < 36
    patients = [f"p{number}" for number in range(40)]
    single = exact_share_interval(is_counted, patients)
    copies = exact_share_interval(np.repeat(is_counted, 3), np.repeat(patients, 3).tolist())
    assert copies.low == pytest.approx(single.low, abs=0.01)
    assert copies.high == pytest.approx(single.high, abs=0.01)
    all_counted = exact_share_interval(np.ones(120, bool), np.repeat(patients, 3).tolist())
    assert all_counted == Interval(pytest.approx(0.025 ** (1 / 40)), 1.0, 0.95)
    assert np.isnan(exact_share_interval(np.ones(0, bool), []).low)


def test_images_of_few_patients_count_less():
    assert smallest_effective_number(["a", "b", "c"]) == 3
    assert smallest_effective_number(["a", "a", "b", "b"]) == 2
    assert smallest_effective_number(["a", "a", "a", "b"]) == pytest.approx(1.6)
