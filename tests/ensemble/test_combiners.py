"""Combiners: records with the same floats, damaged records, and stacking against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.combiners import CalibratedCombiner, Stacking, WeightedAverage, combiner_from_record
from automl_cxr.ensemble.stacking import _fit, fit_stacking
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.calibration import log_loss
from automl_cxr.scoring.metrics import score_macro_f1
from tests.ensemble.drawing import draw

RNG = np.random.default_rng(0)
COMBINERS = [
    WeightedAverage(RNG.dirichlet(np.ones(3))),
    WeightedAverage(RNG.random((3, 4))),
    Stacking(RNG.normal(size=(4, 3, 4)), RNG.normal(size=4)),
    CalibratedCombiner(WeightedAverage(np.ones(3)), 0.7),
]


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_saved_combiner_gives_the_same_probabilities(combiner: Combiner) -> None:
    probabilities, _ = draw(3, 40, 4, 0)
    restored = combiner_from_record(json.loads(json.dumps(combiner.to_record())), n_members=3, n_classes=4)
    combined = combiner.combine(probabilities)
    assert (restored.combine(probabilities) == combined).all()
    np.testing.assert_allclose(combined.sum(axis=1), 1, atol=1e-5)
    assert combiner.shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"kind": "voodoo"},
        {"kind": "average", "weights": [1, 2]},
        {"kind": "average", "weights": [1, 2, -1]},
        {"kind": "average", "weights": [1, 2, "x"]},
        {"kind": "average", "weights": [1, 2, 3], "temperature": 0},
        {"kind": "average", "weights": [1, 2, 3], "temperature": float("nan")},
        {"kind": "stacking", "coefficients": [[1]], "intercepts": [0, 0, 0, 0]},
        {"kind": "stacking", "coefficients": np.full((4, 3, 4), np.nan).tolist(), "intercepts": [0, 0, 0, 0]},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(record: dict) -> None:
    with pytest.raises(DataError, match="Build the ensemble again"):
        combiner_from_record(record, n_members=3, n_classes=4)


@pytest.mark.parametrize("k", [2, 3])
def test_stacking_equals_the_regression_of_scikit_learn(k: int) -> None:
    probabilities, labels = draw(3, 200, k, 0)
    inputs = np.log(probabilities.astype(np.float64)).transpose(1, 0, 2).reshape(200, -1)
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-3).fit(inputs, labels)
    assert _fit(probabilities, labels, 0.1).combine(probabilities) == pytest.approx(model.predict_proba(inputs), abs=1e-5)


def test_stacking_improves_overconfident_members_and_weights_better_members_more() -> None:
    probabilities, labels = draw(5, 600, 3, 1)
    patients = [f"p{i // 2}" for i in range(600)]
    stacking = fit_stacking(probabilities[:, :400], labels[:400], patients[:400])
    test_probabilities, test_labels = probabilities[:, 400:], labels[400:]
    assert log_loss(test_labels, stacking.combine(test_probabilities)) < log_loss(test_labels, test_probabilities.mean(axis=0))
    assert (
        score_macro_f1(test_labels, stacking.combine(test_probabilities))
        > max(score_macro_f1(test_labels, member) for member in test_probabilities) - 0.02
    )
    with pytest.raises(UsageError, match="for 5 members of 3 classes"):
        stacking.combine(test_probabilities[:4])


def test_a_class_without_images_is_never_predicted() -> None:
    probabilities, labels = draw(2, 80, 3, 0)
    for selected in (labels > 0, labels == 2):
        stacking = fit_stacking(probabilities[:, selected], labels[selected], [f"p{i}" for i in range(int(selected.sum()))])
        assert set(stacking.combine(probabilities).argmax(axis=1)) <= set(labels[selected])
