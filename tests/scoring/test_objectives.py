import math

import numpy as np
import pytest

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.objectives import Requirement, check_objectives, direction_of, measure


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("parameters<=10e6", "parameters<=10000000"),
        (" fnfr <= 0.05 ", "fnfr<=0.05"),
        ("macro_f1>=.8", "macro_f1>=0.8"),
        ("latency<=1.5", "latency<=1.5"),
    ],
)
def test_a_requirement_is_parsed_and_formatted(text, canonical):
    assert str(Requirement.parse(text)) == canonical
    assert Requirement.parse(canonical) == Requirement.parse(text)


@pytest.mark.parametrize(
    "text", ["parameters", "parameters<10", "parameters<=", "parameters<=many", "<=3", "fnfr<=nan", "fnfr<=inf"]
)
def test_an_invalid_requirement_is_refused(text):
    with pytest.raises(UsageError, match="written like parameters<=10e6"):
        Requirement.parse(text)


def test_a_requirement_on_an_unknown_name_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'parameters'"):
        Requirement.parse("parameter<=3")
    with pytest.raises(UsageError, match="above 0"):
        Requirement.parse("parameters<=0")


def test_a_violation_is_above_0_if_the_bound_is_violated():
    assert Requirement.parse("parameters<=100").violation(200) == pytest.approx(math.log(2))
    assert Requirement.parse("parameters<=100").violation(100) == 0
    assert Requirement.parse("parameters>=100").violation(200) == pytest.approx(-math.log(2))
    assert Requirement.parse("fnfr<=0.05").violation(0.08) == pytest.approx(0.03)
    assert Requirement.parse("macro_f1>=0.8").violation(0.9) == pytest.approx(-0.1)
    assert Requirement.parse("fnfr<=0").violation(0.0) == 0
    assert Requirement.parse("fnfr<=0.05").violation(math.nan) > 0


def test_a_violation_is_described_with_numbers():
    assert Requirement.parse("parameters<=10e6").explain(12_345_678) == "parameters 12,345,678 > 10,000,000"
    assert Requirement.parse("macro_f1>=0.8").explain(0.71234) == "macro_f1 0.7123 < 0.8"


def test_only_costs_of_the_configuration_are_known_before_training():
    known = {
        name
        for name in ("parameters", "multiply_adds", "latency", "fnfr")
        if Requirement(name, "<=", 1).is_known_before_training
    }
    assert known == {"parameters", "multiply_adds"}


def test_costs_are_minimised_and_metrics_have_their_own_direction():
    assert [direction_of(name) for name in ("macro_f1", "fnfr", "parameters", "latency")] == ["maximize", *["minimize"] * 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["macro_f1", "macro_f1"], "must differ"),
        (["parameters"], "Name a metric before it, such as --objective macro_f1 --objective parameters"),
        (["macro_f1", "parametres"], "Did you mean 'parameters'"),
    ],
)
def test_objectives_that_cannot_be_optimised_are_refused(names, message):
    with pytest.raises(UsageError, match=message):
        check_objectives(names)


def test_an_unknown_cost_is_nan():
    labels, probabilities = np.array([0, 1]), np.eye(2)
    assert measure("macro_f1", labels, probabilities, normal_class=None, costs={}) == 1
    assert measure("parameters", labels, probabilities, normal_class=None, costs={"parameters": 3}) == 3
    assert math.isnan(measure("latency", labels, probabilities, normal_class=None, costs={"parameters": 3}))
