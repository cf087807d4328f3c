"""A space is checked for the task, the classes and the image size before images are decoded."""

from __future__ import annotations

from typing import Any

import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import ImpossibleModelError, SpaceError
from automl_cxr.input_sizes import inner_size, refuse_small_images
from automl_cxr.model.summary import describe_model
from automl_cxr.study.space_for_data import check_space_for_data, restrict_to_image_size
from automl_cxr.study.spaces import check_space, load_space

FINDINGS = {"task": "multilabel", "image_size": 64, "n_classes": 3}
CLASSES = {"task": "multiclass", "image_size": 64, "n_classes": 3}


def choice(name: str, *values: object, when: str = "") -> str:
    condition = f"when = {{ {when} }}\n" if when else ""
    return f'[{name}]\ntype = "choice"\nvalues = {list(values)}\n{condition}'


def space_of(toml: str) -> Space:
    return check_space(parse_space(toml, name="mine"))


def values_of(space: Space, name: str) -> tuple[Any, ...]:
    return next((parameter.values for parameter in space.parameters if parameter.name == name), ())


@pytest.mark.parametrize(
    ("fixed", "data", "message"),
    [
        ({"imbalance": "oversample"}, FINDINGS, "imbalance must be class_weights or none.*received oversample.*Use imbalance="),
        ({"loss": "asymmetric"}, CLASSES, "loss=asymmetric needs several findings; received task=multiclass. Use loss=ce"),
        ({"uncertain_targets": "ones"}, CLASSES, "does not use 'uncertain_targets'. It is used by .*task=multilabel"),
        ({"uncertain_targets": "ones,zeros"}, FINDINGS, "must contain 1 entry or 3, one for each finding; received 2"),
        ({"loss": "focal", "focal_alpha": "0.5,0.5"}, CLASSES, "must contain 1 number or 3, one for each class; received 2"),
        ({"loss": "asymmetric", "asymmetric_margin": 0.1}, CLASSES, "does not use 'asymmetric_margin'"),
    ],
)
def test_fixed_values_that_are_not_possible_for_the_data_are_refused(fixed: dict[str, Any], data: dict, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check_space_for_data(load_space("scratch"), fixed, **data)


@pytest.mark.parametrize(
    ("fixed", "data"),
    [
        ({"imbalance": "oversample"}, CLASSES),
        ({"loss": "asymmetric", "asymmetric_margin": 0.1}, FINDINGS),
        ({"uncertain_targets": "ones,zeros,0.2-0.8"}, FINDINGS),
        ({"loss": "focal", "focal_alpha": "0.5,0.25,0.25"}, FINDINGS),
    ],
)
def test_fixed_values_that_are_possible_are_accepted(fixed: dict[str, Any], data: dict) -> None:
    check_space_for_data(load_space("scratch"), fixed, **data)


@pytest.mark.parametrize(
    "toml",
    [
        choice("imbalance", "none", "undersample"),
        choice("loss", "ce", "focal") + choice("focal_alpha", "0.5", "0.5,0.5", when='loss = ["focal"]'),
        'focal_alpha = "0.5,0.5"\n' + choice("loss", "ce", "focal"),
    ],
)
def test_one_impossible_value_of_a_space_is_refused(toml: str) -> None:
    with pytest.raises(SpaceError, match="'mine' contains a value that is not possible for these data"):
        check_space_for_data(space_of(toml), {}, **FINDINGS)


def test_a_space_needs_a_network_that_can_be_built_at_the_image_size() -> None:
    with pytest.raises(
        SpaceError, match=r"contains none at --image-size 64[.] Family 'fused' needs images of at least 67 pixels"
    ):
        check_space_for_data(load_space("fused"), {}, **CLASSES)
    check_space_for_data(load_space("fused"), {}, **{**CLASSES, "image_size": 67})
    infinite = '[resizer]\ntype = "float"\nlow = 0.5\nhigh = 1.0\n'
    with pytest.raises(SpaceError, match="resizer=0"):
        check_space_for_data(space_of(f'family = "fused"\n{infinite}'), {}, **CLASSES)
    some = 'family = "fused"\n' + choice("downsample", 1, 2)
    check_space_for_data(space_of(some), {}, **{**CLASSES, "image_size": 100})


@pytest.mark.parametrize(
    "values",
    [
        {"family": "fused", "image_size": 224, "downsample": 3},
        {"family": "fused", "image_size": 224, "downsample": 4},
        {"layers": "conv8k3 pool2 conv8k5v pool3s2", "image_size": 20},
        {"layers": "conv8k3 pool2 conv8k5v pool3s2", "image_size": 16},
        {"layers": "conv8k3s2 pool2p conv8k3v", "image_size": 17},
        {"family": "transfer", "backbone": "squeezenet", "image_size": 62, "downsample": 2},
        {"family": "transfer", "backbone": "squeezenet", "image_size": 62, "downsample": 2, "resizer": 0.5},
        {"family": "probe", "probe_layers": "squeezenet@4", "image_size": 30},
    ],
)
def test_sizes_that_are_refused_are_those_that_cannot_be_built(values: dict[str, Any]) -> None:
    config = TrialConfig.from_values(values)

    def is_refused(check: Any) -> bool:
        try:
            check()
        except ImpossibleModelError:
            return True
        return False

    assert is_refused(lambda: refuse_small_images(config)) == is_refused(lambda: describe_model(config, 3))


def test_a_probe_has_no_downsampling() -> None:
    assert inner_size(TrialConfig(family="probe", image_size=64, downsample=2)) == 64


def test_the_space_auto_proposes_only_networks_that_can_be_built() -> None:
    space, message = restrict_to_image_size(load_space("auto"), {}, 224)
    assert values_of(space, "downsample") == (2, 3)
    assert set(values_of(space, "family")) == {"probe", "transfer", "scratch", "fused"}
    assert message == "The space leaves out downsample=4, with which networks cannot be built for images of 224 pixels."
    assert restrict_to_image_size(load_space("auto"), {}, 320) == (load_space("auto"), None)
    small, _ = restrict_to_image_size(load_space("auto"), {}, 64)
    assert set(values_of(small, "family")) == {"probe", "transfer", "scratch"}
    assert values_of(small, "downsample") == (2, 3, 4)
    check_space(small)


def test_fixed_values_are_considered() -> None:
    only_scratch, message = restrict_to_image_size(load_space("auto"), {"family": "scratch"}, 224)
    assert (only_scratch, message) == (load_space("auto"), None)
    larger, _ = restrict_to_image_size(load_space("auto"), {"downsample": 4}, 224)
    assert set(values_of(larger, "family")) == {"probe", "transfer", "scratch"}
