"""The feature maps of every convolution and pooling layer of a network for given images."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.model.feature_maps import convolution_and_pooling_layers
from automl_cxr.model.fold_average import networks_within
from automl_cxr.model.graph import tensors_at


class Activations:
    """The outputs of the convolution and pooling layers of a network.

    Args:
        model: A model from raw grey pixels 0..255 (n, h, w, 1) to probabilities. If it averages the networks of folds, the
            first network is used.

    Attributes:
        layers: Names of the layers, in the order of the network.

    Raises:
        UsageError: The network has neither convolutions nor pooling layers.
    """

    def __init__(self, model: keras.Model) -> None:
        network = networks_within(model)[0]
        self.layers = [found.name for found in convolution_and_pooling_layers(network)]
        if not self.layers:
            raise UsageError(f"Feature maps need convolution or pooling layers; network '{network.name}' has none.")
        self._with_outputs = keras.Model(network.inputs[0], tensors_at(network, self.layers))

    def of(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the feature maps, float32 (n, height, width, channels), of each layer.

        Args:
            images: uint8 (n, h, w), at the network's input size.
        """
        outputs = self._with_outputs.predict_on_batch(images[..., np.newaxis])
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        for layer, maps in zip(self.layers, outputs, strict=True):
            yield layer, np.asarray(maps, np.float32)
