"""What the layers of a network make of an image: the feature maps of every convolution and pool."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.model.feature_maps import convolution_and_pooling_layers
from automl_cxr.model.fold_average import networks_within
from automl_cxr.model.graph import tensors_at


class Activations:
    """The convolutions and pools of a network, opened.

    Args:
        model: From raw grey pixels 0..255 (n, h, w, 1) to probabilities. Of a model that averages the networks of folds the
            first network is opened.

    Raises:
        UsageError: It has neither convolutions nor pools.
    """

    def __init__(self, model: keras.Model) -> None:
        network = networks_within(model)[0]
        self.layers = [place.name for place in convolution_and_pooling_layers(network)]
        if not self.layers:
            raise UsageError(f"Feature maps are those of convolutions and pools; network '{network.name}' has none.")
        self._opened = keras.Model(network.inputs[0], tensors_at(network, self.layers))

    def of(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each layer and its feature maps, float32 (n, height, width, channels), from the pixels up.

        Args:
            images: uint8 (n, h, w), as the network takes them.
        """
        outputs = self._opened.predict_on_batch(images[..., np.newaxis])
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        for layer, maps in zip(self.layers, outputs, strict=True):
            yield layer, np.asarray(maps, np.float32)
