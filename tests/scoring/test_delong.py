"""DeLong's test against another package, and its behaviour in the limits."""

import numpy as np
import pytest

from automl_cxr.scoring.delong import holm_adjusted, roc_areas
from tests.scoring import two_models


def test_areas_and_p_value_agree_with_another_package():
    found = roc_areas(two_models.IS_POSITIVE, two_models.PROBABILITIES)
    np.testing.assert_allclose(found.areas, two_models.AREAS, rtol=1e-12)
    assert found.p_value(0, 1) == pytest.approx(two_models.P_DELONG, rel=1e-9)
    assert found.p_value(0, 1) == found.p_value(1, 0)


def test_equal_models_do_not_differ_and_opposite_perfect_models_do():
    is_positive = np.array([0, 0, 1, 1], dtype=bool)
    scores = np.array([[0.1, 0.2, 0.8, 0.9], [0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1]])
    found = roc_areas(is_positive, scores)
    assert found.areas.tolist() == [1, 1, 0]
    assert found.p_value(0, 1) == 1
    assert found.p_value(0, 2) == 0


def test_too_few_images_have_no_p_value():
    one_positive = roc_areas(np.array([1, 0, 0], dtype=bool), np.array([[0.9, 0.1, 0.2], [0.3, 0.1, 0.4]]))
    assert one_positive.areas.tolist() == [1, 0.5]
    assert np.isnan(one_positive.p_value(0, 1))
    assert np.isnan(roc_areas(np.zeros(3, dtype=bool), np.zeros((2, 3))).areas).all()


def test_the_test_rejects_one_in_twenty_equal_models_of_independent_images():
    rng, n_runs = np.random.default_rng(0), 1000
    is_positive = np.arange(80) < 30
    p_values = []
    for _ in range(n_runs):
        signal = is_positive + rng.normal(size=80)
        p_values.append(roc_areas(is_positive, signal + 0.8 * rng.normal(size=(2, 80))).p_value(0, 1))
    assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.075


def test_p_values_are_adjusted_for_their_number():
    adjusted = holm_adjusted(np.array([0.03, 0.01, np.nan, 0.04]))
    np.testing.assert_allclose(adjusted, [0.06, 0.03, np.nan, 0.06])
