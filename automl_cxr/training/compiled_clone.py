"""A network's twin: the same graph with weights of its own, whose dropout rates are variables.

What is compiled for a twin serves every network of its structure: they lend it their weights, rates and random states, and
take the trained ones back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops


class AdjustableDropout(layers.Layer):
    """Keras' dropout with a rate that can be changed; of one seed and rate it draws the same masks.

    Args:
        rate: Share that is dropped, from 0 to below 1.
        seed: As Keras' layer takes it.
        noise_shape: As Keras' layer takes it.
        **settings: Of every layer.
    """

    def __init__(self, rate: float, *, seed: int, noise_shape: tuple[int | None, ...] | None, **settings: Any) -> None:
        super().__init__(**settings)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._noise_shape = noise_shape
        self.rate = self.add_weight(shape=(), dtype="float32", trainable=False, name="rate")
        self.share_kept = self.add_weight(shape=(), dtype="float32", trainable=False, name="share_kept")
        self.factor = self.add_weight(shape=(), dtype="float32", trainable=False, name="factor")
        self.supports_masking = True
        self.built = True
        self.adjust(rate)

    @property
    def settings(self) -> list[keras.Variable]:
        """The variables that the rate is in."""
        return [self.rate, self.share_kept, self.factor]

    def adjust(self, rate: float) -> None:
        """Take another rate, from 0 to below 1."""
        for variable, value in zip(self.settings, (rate, 1 - rate, 1 / (1 - rate)), strict=True):
            variable.assign(value)  # each rounded from 64 bits, as Keras' layer rounds what it computes of a constant

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        drawn = keras.random.uniform(self._shape_of_noise(inputs), dtype=inputs.dtype, seed=self.seed_generator)
        if keras.backend.backend() == "jax":
            return ops.where(drawn < self.share_kept, inputs / self.share_kept, ops.zeros_like(inputs))
        return ops.where(drawn >= self.rate, inputs * self.factor, ops.zeros_like(inputs))

    def _shape_of_noise(self, inputs: Any) -> Any:
        shape = ops.shape(inputs)
        if self._noise_shape is None:
            return shape
        return tuple(there if wanted is None else wanted for wanted, there in zip(self._noise_shape, shape, strict=True))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class CompiledClone:
    """A clone of a network, for that network and those like it.

    Attributes:
        model: The clone, to be compiled.
    """

    def __init__(self, network: keras.Model) -> None:
        self.model = keras.models.clone_model(network, clone_function=_clone_layer, recursive=True)
        counterparts = dict(_members(self.model))
        for name, layer in _members(network):  # the models among them first: what they say holds for their layers
            counterparts[name].trainable = layer.trainable

    def take(self, network: keras.Model) -> None:
        """Take the variables and the dropout rates of a network of the same structure."""
        counterparts = dict(_members(self.model))
        for name, layer in _members(network):
            if isinstance(counterparts[name], AdjustableDropout):
                counterparts[name].adjust(layer.rate)
        for ours, theirs in self._pairs(network):
            ours.assign(_value_of(theirs))

    def give(self, network: keras.Model) -> None:
        """Give its variables to a network of the same structure."""
        for ours, theirs in self._pairs(network):
            theirs.assign(_value_of(ours))

    def _pairs(self, network: keras.Model) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Pair the variables of the twin with those of a network, layer by layer."""
        counterparts = dict(_members(self.model))
        for name, layer in _members(network):
            if not isinstance(layer, keras.Model):
                yield from zip(_states(counterparts[name]), layer.variables, strict=True)


def _value_of(variable: keras.Variable) -> Any:
    """Give what another variable may be set to. JAX would have both share one buffer, which a training step gives away."""
    return ops.copy(variable) if keras.backend.backend() == "jax" else variable


def structure_of(network: keras.Model) -> str:
    """Give a digest of all that is built into a network's graph: what twins have in common.

    Seeds, first weights and dropout rates above 0 are not part of it: a twin takes them as values. Nor is the network's own
    name, which Keras counts up where nobody gives one.
    """
    told = json.dumps(_without_values(network.get_config() | {"name": ""}), sort_keys=True, default=str)
    trained = [layer.trainable for _, layer in _members(network)]
    return hashlib.sha256(f"{told}{trained}".encode()).hexdigest()


def _without_values(config: Any) -> Any:
    """Leave out of a configuration, at any depth, what a twin takes as values."""
    if isinstance(config, list | tuple):
        return [_without_values(item) for item in config]
    if not isinstance(config, dict):
        return config
    masked = {
        name: _without_values(item) for name, item in config.items() if name != "seed" and not name.endswith("initializer")
    }
    if config.get("class_name") == "Dropout" and config["config"]["rate"] > 0:
        masked["config"]["rate"] = "a variable"
    return masked


def _clone_layer(layer: layers.Layer) -> layers.Layer:
    if not isinstance(layer, layers.Dropout) or layer.rate == 0:
        return type(layer).from_config(layer.get_config())
    config = layer.get_config()
    return AdjustableDropout(
        layer.rate,
        seed=0,
        noise_shape=layer.noise_shape,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=config["trainable"],
    )


def _members(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, layers.Layer]]:
    """List the layers of a network, and of the networks within it after them, by names that are unique.

    Operations are no layers. Inputs, which Keras may name anew when it clones, hold nothing.
    """
    for layer in model.layers:
        if isinstance(layer, layers.Layer) and not isinstance(layer, layers.InputLayer):
            yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _members(layer, f"{prefix}{layer.name}/")


def _states(layer: layers.Layer) -> list[keras.Variable]:
    """List what a layer of a twin holds beside its settings."""
    settings = {id(variable) for variable in getattr(layer, "settings", ())}
    return [variable for variable in layer.variables if id(variable) not in settings]
