"""Several networks of one image size and what combines them as a single model, of Keras' own layers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

_LEAST_PROBABILITY = 1e-6  # what logarithms are taken of at least, as where the rule was fitted


@dataclass(frozen=True, eq=False)
class MemberWeighting:
    """How a model combines its members: one product with a matrix, between what makes it an average or a regression.

    Attributes:
        kernel: float64 (n_members, k, k): what each member's probability of each class adds to each class's vote.
        bias: float64 (k,) for a regression on log-probabilities, whose votes pass a softmax; None for an average of
            probabilities, whose votes are divided by their sum.
        temperature: What logits are divided by in the end.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    temperature: float = 1.0

    @property
    def voters(self) -> list[int]:
        """The members that count at all."""
        return np.flatnonzero(np.any(self.kernel, axis=(1, 2))).tolist()


def combine_networks(networks: Sequence[keras.Model], vote: MemberWeighting) -> keras.Model:
    """Make a model of networks that take the same pixels: raw grey pixels 0..255 in, the ensemble's probabilities out.

    The networks' layers are shared, not copied. Those that do not count are left out.

    Args:
        networks: One for each member, of one image size.
        vote: How their probabilities are combined.

    Returns:
        A model from (n, h, w, 1) to float32 (n, k), rows sum to 1.
    """
    pixels = keras.Input(networks[0].input_shape[1:], name="pixels")
    said = [
        keras.Model(networks[number].input, networks[number].output, name=f"member_{number + 1}")(pixels)
        for number in vote.voters
    ]
    x = layers.Concatenate(name="members", dtype="float32")(said) if len(said) > 1 else said[0]
    if vote.bias is not None:
        x = ops.log(ops.maximum(x, _LEAST_PROBABILITY))
    n_classes = vote.kernel.shape[-1]
    weighting = layers.Dense(n_classes, use_bias=vote.bias is not None, dtype="float32", name="weighting")
    votes = weighting(x)
    kernel = vote.kernel[vote.voters].reshape(-1, n_classes)
    weighting.set_weights([kernel] if vote.bias is None else [kernel, vote.bias])
    said = votes / ops.sum(votes, axis=1, keepdims=True) if vote.bias is None else ops.softmax(votes)
    return keras.Model(pixels, _with_temperature(said, vote.temperature), name="ensemble")


def _with_temperature(probabilities: keras.KerasTensor, temperature: float) -> keras.KerasTensor:
    if temperature == 1:
        return probabilities
    logits = ops.log(ops.maximum(probabilities, _LEAST_PROBABILITY))
    # What is subtracted first costs the largest logits no digits, which a low temperature would magnify.
    return ops.softmax((logits - ops.max(logits, axis=1, keepdims=True)) / temperature)
