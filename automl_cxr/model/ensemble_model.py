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
        is_multilabel: Whether the outputs are findings, of which an image may have several.
        thresholds: Probability from which each decided class or finding counts as present, float64 (n_decided,); None without
            decisions.
        decided: Columns of the classes or findings that are decided; None for all of them.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    temperature: float = 1.0
    is_multilabel: bool = False
    thresholds: np.ndarray | None = None
    decided: tuple[int, ...] | None = None

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
        A model from pixels (n, h, w, 1), or from features (n, d), to probabilities, float32 (n, k); for classes, each row sums
        to 1. With thresholds, to a list of two outputs: the probabilities, and the decisions, int32 (n, n_decided), 1 if the
        probability reaches the threshold.
    """
    pixels, x = _common_input(networks[0])
    probabilities = []
    for number in vote.voters:
        network = keras.Model(networks[number].input, networks[number].output, name=f"member_{number + 1}")
        of_image = network(x)
        probabilities.append((of_image + network(ops.flip(x, axis=2))) / 2 if mirrored else of_image)
    x = layers.Concatenate(name="members", dtype="float32")(probabilities) if len(probabilities) > 1 else probabilities[0]
    if vote.bias is not None:
        x = _log_odds(x) if vote.is_multilabel else ops.log(ops.maximum(x, _MIN_PROBABILITY))
    n_classes = vote.kernel.shape[-1]
    weighting = layers.Dense(n_classes, use_bias=vote.bias is not None, dtype="float32", name="weighting")
    votes = weighting(x)
    kernel = vote.kernel[vote.voters].reshape(-1, n_classes)
    weighting.set_weights([kernel] if vote.bias is None else [kernel, vote.bias])
    combined = _of_findings(votes, vote) if vote.is_multilabel else _of_classes(votes, vote)
    if vote.thresholds is None:
        return keras.Model(pixels, combined, name="ensemble")
    combined = layers.Identity(name="probabilities", dtype="float32")(combined)
    decided = combined if vote.decided is None else ops.take(combined, vote.decided, axis=1)
    return keras.Model(pixels, [combined, _decisions(decided, vote.thresholds)], name="ensemble")


def _of_classes(votes: keras.KerasTensor, vote: MemberWeighting) -> keras.KerasTensor:
    combined = votes / ops.sum(votes, axis=1, keepdims=True) if vote.bias is None else ops.softmax(votes)
    return _with_temperature(combined, vote.temperature)


def _of_findings(votes: keras.KerasTensor, vote: MemberWeighting) -> keras.KerasTensor:
    probabilities = votes if vote.bias is None else ops.sigmoid(votes)
    return probabilities if vote.temperature == 1 else ops.sigmoid(_log_odds(probabilities) / vote.temperature)


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


def _decisions(probabilities: keras.KerasTensor, thresholds: np.ndarray) -> keras.KerasTensor:
    """Compare float32 probabilities with thresholds of double precision."""
    rounded = thresholds.astype(np.float32)
    # A float32 number reaches a threshold if and only if it reaches the smallest float32 number that is not below it.
    rounded = np.where(rounded < thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded)
    decided = ops.cast(ops.greater_equal(probabilities, rounded), "int32")
    return layers.Identity(name="decisions", dtype="int32")(decided)
