"""Spaces may set only hyperparameters that their networks read."""

import pytest

from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import SpaceError
from automl_cxr.study.spaces import check_space, load_space, refuse_unused, refuse_unused_fixed, shipped

SEARCHED_LOSS = '[loss]\ntype = "choice"\nvalues = ["ce", "focal"]\n'


def space_of(toml):
    return check_space(parse_space(toml, name="mine"))


@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_a_shipped_space_sets_only_hyperparameters_that_it_reads(name):
    space = load_space(name)
    refuse_unused(space, space.names)


def test_the_head_space_does_not_read_a_backbone():
    with pytest.raises(SpaceError, match=r"does not use 'backbone'[.] It is used by the families transfer and concat"):
        refuse_unused_fixed(load_space("head"), {"backbone": "squeezenet"})


@pytest.mark.parametrize(
    ("toml", "name"),
    [
        ('family = "fused"\nn_blocks = 3', "n_blocks"),
        ('family = "scratch"\ntaps = "5"', "taps"),
        ('family = "transfer"\nsecond_cut = "1"', "second_cut"),
        ('family = "concat"\npooling = "max"', "pooling"),
        ('loss = "ce"\nfocal_gamma = 1.0', "focal_gamma"),
        ("focal_gamma = 1.0", "focal_gamma"),
        ('layers = "conv8k3 pool2"\nn_blocks = 3', "n_blocks"),
        ('family = "concat"\nbackbone = "vgg16"\nsecond_backbone = "vgg16"\nn_blocks = 3', "n_blocks"),
        ("rotation_low = -90.0", "rotation_low"),
        ('family = "transfer"\nfine_tune_rate = 1e-4\nunfreeze = 3', "fine_tune_rate"),
        ("n_dense = 0\ndense_units = 8", "dense_units"),
    ],
)
def test_a_hyperparameter_without_effect_is_refused(toml, name):
    space = space_of(toml)
    with pytest.raises(SpaceError, match=f"does not use '{name}'"):
        refuse_unused(space, space.names)


@pytest.mark.parametrize(
    "toml",
    [
        SEARCHED_LOSS + "[focal_gamma]\ntype = 'float'\nlow = 0.5\nhigh = 5.0\nwhen = { loss = ['focal'] }",
        "focal_gamma = 1.0\n" + SEARCHED_LOSS,
        'n_blocks = 3\n[family]\ntype = "choice"\nvalues = ["scratch", "fused"]',
        'family = "concat"\nn_blocks = 3\n[second_backbone]\ntype = "choice"\nvalues = ["vgg16", "scratch"]\n',
        "rotation_low = -90.0\naugmentation = 0.5",
        'family = "transfer"\nfine_tune_rate = 1e-4\nunfreeze = 3\nfrozen_share = 0.5',
    ],
)
def test_a_hyperparameter_that_a_network_of_the_space_reads_is_accepted(toml):
    space = space_of(toml)
    refuse_unused(space, space.names)
