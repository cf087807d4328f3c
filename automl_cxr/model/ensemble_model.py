"""An ensemble of networks with the same image size, as a single model of Keras layers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

_N_PIXEL_AXES = 4
_MIN_PROBABILITY = 1e-6  # lower bound before a logarithm; the combiner was fitted with the same bound


@dataclass(frozen=True, eq=False)
class MemberWeighting:
    """The combination of the members' probabilities: one matrix product, for a weighted average or a regression.

    Attributes:
        kernel: float64 (n_members, k, k): weight of each member's probability of each class in the vote for each class.
        bias: float64 (k,) for a regression on log-probabilities, followed by a softmax; None for an average of probabilities,
            where the votes are divided by their sum. For findings, a regression is one on log odds, followed by a sigmoid, and
            the votes of an average are probabilities.
        temperature: Divisor of the logits of the result.
        thresholds: For findings, the probability from which each counts as present, float64 (k,); None for classes.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    temperature: float = 1.0
    thresholds: np.ndarray | None = None

    @property
    def voters(self) -> list[int]:
        """Numbers of the members with a weight other than 0."""
        return np.flatnonzero(np.any(self.kernel, axis=(1, 2))).tolist()


def combine_networks(networks: Sequence[keras.Model], vote: MemberWeighting, *, mirrored: bool = False) -> keras.Model:
    """Build a model from raw grey pixels 0..255 to the probabilities of an ensemble.

    The networks' layers are shared, not copied. Members with weight 0 are left out.

    Args:
        networks: One network for each member, all with the same image size.
        vote: The combination of their probabilities.
        mirrored: Whether the probabilities of each network are averaged over an image and its mirror image.

    Returns:
        A model from (n, h, w, 1), or from features (n, d), to float32 (n, k); each row sums to 1. For findings, to a list of
        two outputs: the probability of each finding, float32 (n, k), and the decision on it, int32 (n, k), 1 if the probability
        reaches the threshold.
    """
    pixels, x = _common_input(networks[0])
    probabilities = []
    for number in vote.voters:
        network = keras.Model(networks[number].input, networks[number].output, name=f"member_{number + 1}")
        of_image = network(x)
        probabilities.append((of_image + network(ops.flip(x, axis=2))) / 2 if mirrored else of_image)
    x = layers.Concatenate(name="members", dtype="float32")(probabilities) if len(probabilities) > 1 else probabilities[0]
    if vote.bias is not None:
        x = ops.log(ops.maximum(x, _MIN_PROBABILITY)) if vote.thresholds is None else _log_odds(x)
    n_classes = vote.kernel.shape[-1]
    weighting = layers.Dense(n_classes, use_bias=vote.bias is not None, dtype="float32", name="weighting")
    votes = weighting(x)
    kernel = vote.kernel[vote.voters].reshape(-1, n_classes)
    weighting.set_weights([kernel] if vote.bias is None else [kernel, vote.bias])
    if vote.thresholds is not None:
        found = _of_findings(votes if vote.bias is None else ops.sigmoid(votes), vote.temperature)
        return keras.Model(pixels, [found, _decisions(found, vote.thresholds)], name="ensemble")
    combined = votes / ops.sum(votes, axis=1, keepdims=True) if vote.bias is None else ops.softmax(votes)
    return keras.Model(pixels, _with_temperature(combined, vote.temperature), name="ensemble")


def _common_input(network: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the input of an ensemble, pixels (n, h, w, 1) or features (n, d), and the input of its networks."""
    if len(network.input_shape) == _N_PIXEL_AXES:
        pixels = keras.Input(network.input_shape[1:], name="pixels")
        return pixels, pixels
    features = keras.Input((network.input_shape[1],), name="features")
    return features, layers.Reshape((network.input_shape[1], 1), name="rows")(features)


def _with_temperature(probabilities: keras.KerasTensor, temperature: float) -> keras.KerasTensor:
    if temperature == 1:
        return probabilities
    logits = ops.log(ops.maximum(probabilities, _MIN_PROBABILITY))
    # Subtracting the maximum first keeps the digits of the largest logits; a low temperature would magnify rounding errors.
    return ops.softmax((logits - ops.max(logits, axis=1, keepdims=True)) / temperature)


def _log_odds(probabilities: keras.KerasTensor) -> keras.KerasTensor:
    return ops.log(ops.maximum(probabilities, _MIN_PROBABILITY)) - ops.log(ops.maximum(1 - probabilities, _MIN_PROBABILITY))


def _of_findings(probabilities: keras.KerasTensor, temperature: float) -> keras.KerasTensor:
    if temperature != 1:
        probabilities = ops.sigmoid(_log_odds(probabilities) / temperature)
    return layers.Identity(name="probabilities", dtype="float32")(probabilities)


def _decisions(probabilities: keras.KerasTensor, thresholds: np.ndarray) -> keras.KerasTensor:
    """Compare float32 probabilities with thresholds of double precision."""
    rounded = thresholds.astype(np.float32)
    # A float32 number reaches a threshold if and only if it reaches the smallest float32 number that is not below it.
    rounded = np.where(rounded < thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded)
    decided = ops.cast(ops.greater_equal(probabilities, rounded), "int32")
    return layers.Identity(name="decisions", dtype="int32")(decided)
