"""Net benefit against another package, and the outcomes that are decided on."""

import numpy as np
import pytest

from automl_cxr.scoring.net_benefit import net_benefit_table
from automl_cxr.scoring.outcomes import Outcome, decisions_of, outcomes_of
from automl_cxr.scoring.predictions import Predictions
from tests.scoring import two_models


def test_net_benefits_agree_with_another_package():
    outcome = Outcome("a", two_models.IS_POSITIVE, two_models.PROBABILITIES[0], two_models.PATIENTS)
    found = net_benefit_table(outcome, two_models.THRESHOLDS)
    np.testing.assert_allclose(found["net_benefit"], two_models.NET_BENEFIT, atol=1e-6)
    np.testing.assert_allclose(found["treat_all"], two_models.TREAT_ALL, atol=1e-6)
    assert (found["treat_none"] == 0).all()
    assert ((found["low"] < found["net_benefit"]) & (found["net_benefit"] < found["high"])).all()


def test_any_class_against_the_normal_one_is_decided_on():
    predictions = Predictions(
        ids=tuple("abcd"),
        labels=np.array([0, 1, 2, 1]),
        probabilities=np.array([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.1, 0.9, 0.0]]),
        classes=("covid", "normal", "pneumonia"),
    )
    (decision,) = decisions_of(predictions, 1)
    assert decision.name == "not normal"
    assert decision.is_positive.tolist() == [True, False, True, False]
    np.testing.assert_allclose(decision.probabilities, [0.5, 0.2, 0.7, 0.1], atol=1e-6)
    assert [outcome.name for outcome in decisions_of(predictions, None)] == ["covid", "normal", "pneumonia"]


def test_unknown_labels_and_findings_without_both_labels_are_left_out():
    predictions = Predictions(
        ids=tuple("abc"),
        labels=np.array([[1, 0, -1], [0, 0, 1], [-2, 0, 0]]),
        probabilities=np.full((3, 3), 0.25),
        classes=("Mass", "Hernia", "Edema"),
        patients=("p", "q", "r"),
    )
    found = outcomes_of(predictions)
    assert [(outcome.name, outcome.is_positive.tolist(), list(outcome.patients)) for outcome in found] == [
        ("Mass", [True, False], ["p", "q"]),
        ("Edema", [True, False], ["q", "r"]),
    ]
    assert net_benefit_table(found[0], (0.2,))["net_benefit"].item() == pytest.approx(0.5 - 0.5 * 0.25)
