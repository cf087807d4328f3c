"""Sizes counted without building a network, compared with the built network."""

import dataclasses
import math
import time

import keras
import numpy as np
import pytest

from automl_cxr.config import OPTIMIZERS, TrialConfig
from automl_cxr.errors import InfeasibleError
from automl_cxr.model import memory_estimate
from automl_cxr.model.available_memory import MEMORY_LIMIT
from automl_cxr.model.build import blueprint, build_model
from automl_cxr.model.memory_estimate import estimate_memory, measure_size, refuse_oversized
from automl_cxr.model.summary import describe_model, describe_with_head
from automl_cxr.training.losses import build_optimizer
from automl_cxr.training.schedules import plan_phases

SMALL = {"image_size": 32, "n_blocks": 2, "filters": 4, "dense_units": 8}
HUGE = TrialConfig(image_size=2048, n_blocks=1, filters=1024, pooling="flatten", dense_units=8192)
NETWORKS = {
    "scratch": SMALL,
    "fused": {"family": "fused", "image_size": 67},
    "transfer": {"family": "transfer", "backbone": "squeezenet", "image_size": 64, "unfreeze": 3},
    "concat": {"family": "concat", "backbone": "squeezenet", "second_backbone": "scratch", "image_size": 64, "n_blocks": 2},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_of_a_network_equals_that_of_the_built_network(name):
    config = TrialConfig(**NETWORKS[name], weights="none", second_weights="none")
    size, counted = measure_size(config, 3), describe_model(config, 3)
    model = build_model(config, 3, steps_per_epoch=10)
    assert size.parameters == counted.parameters == model.count_params()
    assert size.weight_bytes == 4 * model.count_params()
    assert counted.trainable == sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert size.gradient_bytes == 4 * counted.trainable


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parts", [1, 2])
def test_moment_bytes_equal_the_variables_of_the_optimizer(optimizer, parts):
    config = TrialConfig(**SMALL, optimizer=optimizer, gradient_accumulation=parts, weight_average=0.1 * (parts - 1))
    model = build_model(config, 3, steps_per_epoch=10)
    optimizer_ = build_optimizer(config, plan_phases(config)[0], n_steps=10)
    optimizer_.build(model.trainable_variables)
    n_bytes = 4 * sum(math.prod(variable.shape) for variable in optimizer_.variables)
    assert measure_size(config, 3).moment_bytes == pytest.approx(n_bytes, abs=64)  # a step counter, rates


def test_activation_bytes_count_the_outputs_from_the_first_trained_layer_on():
    config = TrialConfig(**SMALL, n_dense=0, batch_norm=False, dropout=0.0)
    # two blocks of convolution, ReLU and pool: 32x32x4 twice, 16x16x4; 16x16x8 twice, 8x8x8; vector 8, output 3
    expected = 4 * (2 * 32 * 32 * 4 + 16 * 16 * 4 + 2 * 16 * 16 * 8 + 8 * 8 * 8 + 8 + 3)
    assert describe_model(config, 3).activation_bytes == expected
    frozen, free = (TrialConfig(**NETWORKS["transfer"] | {"unfreeze": n}) for n in (0, 100))
    assert describe_model(frozen, 3).activation_bytes < describe_model(free, 3).activation_bytes


def test_a_network_of_terabytes_is_counted_without_allocating_its_weights():
    began = time.process_time()
    assert measure_size(HUGE, 2).parameters > 4e12
    assert time.process_time() - began < 2
    with keras.StatelessScope():  # at its end, Keras initialises all variables whose initialisation is pending
        pass
    model = build_model(TrialConfig(**SMALL), 2, steps_per_epoch=10)
    assert model.predict_on_batch(np.zeros((1, 32, 32, 1))).shape == (1, 2)


def test_the_blueprint_needs_no_weights_file():
    with blueprint(TrialConfig(family="transfer", backbone="squeezenet", image_size=64, weights="nowhere.h5"), 2) as model:
        assert model.count_params() > 700_000


def test_networks_with_the_same_layer_shapes_are_counted_once():
    config = TrialConfig(**SMALL)
    before = memory_estimate._count.cache_info().misses
    sizes = {
        measure_size(
            dataclasses.replace(config, seed=seed, learning_rate=0.1 / (1 + seed), optimizer="sgd", dropout=0.1 * seed), 4
        )
        for seed in range(5)
    }
    assert len(sizes) == 1
    assert memory_estimate._count.cache_info().misses == before + 1
    assert measure_size(dataclasses.replace(config, filters=5), 4) not in sizes


@pytest.mark.parametrize("values", [{"n_dense": 0}, {"dropout": 0.0}, {"n_dense": 2, "dense_units": 77, "dense_growth": 0.5}])
def test_a_head_on_a_counted_base_is_counted_as_the_whole_network(values):
    counted = TrialConfig(family="transfer", backbone="squeezenet", unfreeze=0, augmentation=0.0, image_size=32, n_dense=1)
    other = dataclasses.replace(counted, **values)
    assert describe_with_head(describe_model(counted, 3), other, 3) == describe_model(other, 3)
    size = measure_size(other, 3)
    assert (size.parameters, size.activation_bytes) == (
        describe_model(other, 3).parameters,
        describe_model(other, 3).activation_bytes,
    )


def test_a_network_that_cannot_fit_is_refused_with_its_violation(monkeypatch):
    size = measure_size(TrialConfig(**SMALL), 2)
    monkeypatch.setenv(MEMORY_LIMIT, str(size.needed(1)))
    refuse_oversized(size)
    monkeypatch.setenv(MEMORY_LIMIT, str(size.needed(1) // 2))
    with pytest.raises(InfeasibleError, match="one image at a time") as caught:
        refuse_oversized(size)
    assert caught.value.stopped_by == "memory"
    assert caught.value.violations == {"memory": pytest.approx(math.log(2), abs=1e-3)}
    assert caught.value.facts == {"n_parameters": size.parameters}


def test_the_estimate_compares_with_the_available_memory(monkeypatch):
    config = TrialConfig(**SMALL, batch_size=8)
    monkeypatch.setenv(MEMORY_LIMIT, "1000")
    estimate = estimate_memory(describe_model(config, 2), config)
    assert not estimate.fits
    assert estimate.batch == estimate.one_image + 7 * estimate.each_image
    monkeypatch.delenv(MEMORY_LIMIT)
    assert estimate_memory(describe_model(config, 2), config).fits
    assert not estimate_memory(describe_model(HUGE, 2), HUGE).fits
