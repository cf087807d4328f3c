import json

import numpy as np
import pytest

from automl_cxr.config import FITS, TrialConfig, read_value
from automl_cxr.errors import UnknownNameError, UsageError


def test_a_configuration_round_trips_through_json():
    config = TrialConfig.from_values({"family": "fused", "learning_rate": 3e-4, "taps": "1+5", "batch_norm": False})
    assert TrialConfig.from_json(config.to_json()) == config


def test_numpy_scalars_and_ints_are_converted_to_python_numbers():
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
        ({"layers": "conv8k3 poool2"}, "received 'poool2'"),
        ({"resizer": 0.05}, "0 \\(none\\) or from 0.1 to 4"),
        ({"focal_alpha": "0.25,-1"}, "one for each class"),
        ({"focal_alpha": "a"}, "one for each class"),
        ({"input_channels": 2}, "one of 1, 3"),
        ({"backbone": "resnet51"}, "one of vgg16"),
        ({"weights": " "}, "must not be empty"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_hyperparameter(values, rule):
    with pytest.raises(UsageError, match=rule) as caught:
        TrialConfig.from_values(values)
    assert next(iter(values)) in str(caught.value) or "layer" in str(caught.value)


def test_an_unknown_hyperparameter_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'learning_rate'"):
        TrialConfig.from_values({"learning_rat": 0.1})


@pytest.mark.parametrize(
    ("values", "epochs"),
    [
        ({"family": "transfer", "unfreeze": 5, "frozen_share": 0.5, "epochs": 60}, 30),
        ({"family": "transfer", "unfreeze": 5, "frozen_share": 0.5, "epochs": 1}, 1),
        ({"family": "transfer", "unfreeze": 5, "frozen_share": 0.07, "epochs": 100}, 7),
        ({"family": "concat", "unfreeze_from": "bn", "frozen_share": 0.3, "epochs": 6}, 2),
        ({"family": "transfer", "unfreeze": 0, "frozen_share": 0.5}, 0),
        ({"family": "transfer", "unfreeze": 5}, 0),
        ({"family": "scratch", "unfreeze": 5, "frozen_share": 0.5}, 0),
        ({"family": "concat", "backbone": "scratch", "unfreeze": 5, "frozen_share": 0.5}, 0),
    ],
)
def test_frozen_epochs_are_a_share_of_the_epochs_if_layers_are_unfrozen_later(values, epochs):
    assert TrialConfig.from_values(values).frozen_epochs == epochs


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("dropout", "0.5", 0.5),
        ("dropout", "0", 0.0),
        ("n_blocks", "3", 3),
        ("otsu", "True", True),
        ("cut", "3", "3"),
        ("loss", "ce", "ce"),
    ],
)
def test_text_is_parsed_as_the_type_of_the_hyperparameter(name, text, value):
    parsed = read_value(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("name", "text"), [("dropout", "much"), ("n_blocks", "3.0"), ("otsu", "1"), ("n_blocks", "")])
def test_text_of_another_type_is_refused(name, text):
    with pytest.raises(UsageError, match=name):
        read_value(name, text)


def test_fits_of_the_configuration_equal_those_of_the_decoder():
    from automl_cxr.data import decode

    assert decode.FITS == FITS


HEAD_ONLY = {"family": "transfer", "unfreeze": 0, "augmentation": 0.0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"augmentation": 0.5, "views": 4}, True),
        ({"augmentation": 0.5}, False),
        ({"unfreeze": 2}, False),
        ({"unfreeze_from": "fire9_concat"}, False),
        ({"weights": "none"}, False),
        ({"features": "pixels"}, False),
        ({"resizer": 0.5}, False),
        ({"gradient_accumulation": 2}, False),
        ({"family": "scratch"}, False),
        ({"family": "concat", "second_backbone": "squeezenet"}, True),
        ({"family": "concat", "second_backbone": "squeezenet", "projection": 8}, False),
        ({"family": "concat", "second_backbone": "scratch"}, False),
    ],
)
def test_trains_head_only(values, expected):
    assert TrialConfig.from_values({**HEAD_ONLY, **values}).trains_head_only is expected


def test_values_without_effect_are_left_out():
    shared = {"family": "probe", "probe_pooling": "average+deviation", "dropout": 0.3}
    vector = TrialConfig(probe_layers="hog@3+hog@2", **shared)
    both = TrialConfig(probe_layers="hog@3+squeezenet@2", **shared)
    assert vector.effective(["family", "probe_pooling", "dropout"]) == {"family": "probe"}
    assert both.effective(["probe_pooling", "dropout"]) == {"probe_pooling": "average+deviation"}
