import json

import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import UnknownNameError, UsageError


def test_a_configuration_comes_back_from_json():
    config = TrialConfig.from_values({"family": "fused", "learning_rate": 3e-4, "taps": "1+5", "batch_norm": False})
    assert TrialConfig.from_json(config.to_json()) == config


def test_numpy_values_and_whole_floats_arrive_as_python_numbers():
    config = TrialConfig.from_values({"dropout": 0, "n_blocks": np.int64(3), "learning_rate": np.float64(0.01)})
    assert type(config.dropout) is float
    assert type(config.n_blocks) is int
    assert type(config.learning_rate) is float
    json.loads(config.to_json())


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"dropout": 0.95}, "from 0 to 0.9"),
        ({"dropout": float("nan")}, "from 0 to 0.9"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"n_blocks": 2.0}, "type int"),
        ({"n_blocks": True}, "type int"),
        ({"batch_norm": 1}, "type bool"),
        ({"loss": "hinge"}, "one of ce, focal"),
        ({"taps": "1"}, "end in 5"),
        ({"taps": "5+1"}, "ascending"),
        ({"taps": "1+1+5"}, "ascending"),
        ({"taps": ""}, "end in 5"),
    ],
)
def test_impossible_values_are_refused_by_name(values, rule):
    with pytest.raises(UsageError, match=rule) as caught:
        TrialConfig.from_values(values)
    assert next(iter(values)) in str(caught.value)


def test_an_unknown_hyperparameter_gets_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'learning_rate'"):
        TrialConfig.from_values({"learning_rat": 0.1})
