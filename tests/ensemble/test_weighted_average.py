"""The weighted average."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.weighted_average import normalize_weights, weighted_average
from automl_cxr.errors import UsageError
from tests.ensemble.drawing import draw


def test_average_by_hand_is_scaled_and_sums_to_one() -> None:
    probabilities = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    average = weighted_average(probabilities, np.array([1, 3]))
    np.testing.assert_allclose(average, [[0.25, 0.75]])
    assert average.dtype == np.float32
    many, _ = draw(50, 100, 14, 0)
    np.testing.assert_allclose(weighted_average(many, np.arange(50)).sum(axis=1), 1, atol=1e-6)


def test_a_weight_for_each_member_and_class_by_hand() -> None:
    probabilities = np.array([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=np.float32)
    average = weighted_average(probabilities, np.array([[1.0, 0.0], [0.0, 0.5]]))
    np.testing.assert_allclose(average, [[0.8 / 1.1, 0.3 / 1.1]], rtol=1e-6)
    alike = np.full((2, 2), 3.0)
    np.testing.assert_allclose(weighted_average(probabilities, alike), weighted_average(probabilities, np.ones(2)), rtol=1e-6)
    assert normalize_weights(alike, n_members=2, n_classes=2).sum(axis=0) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    "weights", [[1.0], [0.5, -0.5], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [[0.5, 0.5]], [[1, 0, 1], [1, 0, 1]]]
)
def test_invalid_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="eights"):
        weighted_average(draw(2, 5, 3, 0)[0], np.array(weights))
