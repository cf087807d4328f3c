"""The score of the worst group as an objective and in requirements."""

import math

import numpy as np
import pandas as pd
import pytest

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.objectives import (
    Requirement,
    check_for_data,
    check_objectives,
    direction_of,
    measure,
    needs_normal_class,
)
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.worst_group import WorstGroup, worst_group_scores
from automl_cxr.tasks import MULTICLASS, MULTILABEL


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=150)
    probabilities = rng.dirichlet([1, 1, 1], size=150)
    probabilities[np.arange(150), labels] += np.where(np.arange(150) % 2, 1.0, 0.3)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions([str(row) for row in range(150)], labels, probabilities, ["normal", "a", "b"])


@pytest.fixture
def metadata():
    sex = ["female", "male"] * 75
    ages = [str(20 + row % 3 * 25) for row in range(150)]
    return pd.DataFrame({"sex": [*sex[:148], "", ""], "age": ages}, index=[str(row) for row in range(150)])


def test_the_worst_group_of_a_column_and_of_an_intersection(predictions, metadata):
    women = score_predictions(predictions.take(slice(0, 148, 2)), normal_class=0)
    found = worst_group_scores(["accuracy", "worst:sex:macro_f1", "worst:sex:fnfr"], predictions, metadata, normal_class=0)
    assert found == pytest.approx({"worst:sex:macro_f1": women["macro_f1"], "worst:sex:fnfr": women["fnfr"]})
    both = WorstGroup.parse("worst:sex&age:accuracy").score(predictions, metadata, normal_class=0)
    assert both < WorstGroup.parse("worst:sex:accuracy").score(predictions, metadata, normal_class=0)


def test_names_are_objectives_and_requirements(predictions, metadata):
    assert check_objectives(["macro_f1", "worst:sex:fnfr"]) == ("macro_f1", "worst:sex:fnfr")
    assert direction_of("worst:sex:fnfr") == "minimize"
    assert direction_of("worst:sex&age:recall_a") == "maximize"
    assert needs_normal_class("worst:sex:fnfr")
    assert not needs_normal_class("worst:sex:accuracy")
    bound = Requirement.parse("worst:sex:macro_f1 >= 0.7")
    assert str(bound) == "worst:sex:macro_f1>=0.7"
    assert not bound.is_known_before_training
    assert bound.violation(0.6) == pytest.approx(0.1)
    arguments = (predictions.labels, predictions.probabilities)
    assert math.isnan(measure("worst:sex:accuracy", *arguments, normal_class=0, costs={})), "not known before the end"
    assert measure("worst:sex:accuracy", *arguments, normal_class=0, costs={"worst:sex:accuracy": 0.5}) == 0.5


def test_wrong_names_are_refused():
    with pytest.raises(UsageError, match="groups are scored after training only"):
        check_objectives(["worst:sex:fnfr"])
    with pytest.raises(UsageError, match="written like worst:sex:macro_f1; received 'worst:sex'"):
        Requirement.parse("worst:sex>=0.5")
    with pytest.raises(UnknownNameError, match="Unknown metric or cost 'f3'"):
        check_objectives(["macro_f1", "worst:sex:f3"])
    with pytest.raises(UnknownNameError, match="worst:sex:latency"):
        direction_of("worst:sex:latency")
    check_for_data(["worst:sex:recall_a"], task=MULTICLASS, classes=["a", "b"])
    check_for_data(["worst:sex:fnfr"], task=MULTILABEL, classes=["a", "b"])
    with pytest.raises(UnknownNameError, match="recall_c"):
        check_for_data(["worst:sex:recall_c"], task=MULTICLASS, classes=["a", "b"])


def test_groups_that_cannot_be_compared_are_refused(predictions, metadata):
    one = WorstGroup.parse("worst:sex:accuracy")
    one.check(predictions, metadata, normal_class=0)
    with pytest.raises(UnknownNameError, match="column of subgroups 'race'"):
        WorstGroup.parse("worst:race:accuracy").check(predictions, metadata, normal_class=0)
    few = predictions.take(slice(0, 30))
    with pytest.raises(DataError, match=r"20 patients or more, .* received patients of female 15, male 15"):
        one.check(few, metadata, normal_class=0)
    assert math.isnan(one.score(few, metadata, normal_class=0))
