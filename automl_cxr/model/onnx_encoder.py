"""Encoders in ONNX files as layers of a network. onnxruntime computes their outputs, so that they have no gradients.

The layer is saved with its weights, so a saved model contains the encoder and does not need its file. Loading such a model
needs this package (``inference.load_model``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from automl_cxr.encoder_files import CLASS_TOKEN, MEAN_TOKEN, NCHW, encoder_label, find_encoder
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.host_calls import call_on_host
from automl_cxr.model.onnx_graph import OnnxGraph, read_graph, with_weights
from automl_cxr.model.onnx_sessions import start_session
from automl_cxr.weight_files import weight_folders

FEATURES = "features"
"""Name of the last layer of an encoder's network, whose output is its feature maps."""


@keras.saving.register_keras_serializable(package="automl_cxr")
class OnnxEncoder(layers.Layer):
    """A graph of ONNX with one input and one output.

    Args:
        skeleton: The graph without its weights, from ``OnnxGraph.skeleton``.
        arrays: Shape and type of each weight, by its name in the graph.
        output: Name of the output.
        shape: Shape of the output for one image.
        input_type: NumPy type of the graph's input.
        batch: Number of images that the graph takes at once; None for any.
        multiply_adds: Multiplications with a weight for one image.
        options: Further arguments of a layer.
    """

    def __init__(
        self,
        skeleton: str,
        arrays: Mapping[str, Sequence[Any]],
        output: str,
        shape: Sequence[int],
        input_type: str = "float32",
        batch: int | None = None,
        multiply_adds: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "dtype": "float32", "trainable": False})
        self.supports_jit = False  # XLA cannot call functions of the host
        self._skeleton, self._arrays, self._output_name = skeleton, dict(arrays), output
        self._output_shape, self._input_type, self._batch = tuple(shape), input_type, batch
        self._multiply_adds = multiply_adds
        self._session: Any = None

    def build(self, _input_shape: Any) -> None:
        self._values = [
            self.add_weight(
                name=f"array_{number}", shape=shape, dtype=kind, initializer="zeros", trainable=False, autocast=False
            )
            for number, (shape, kind) in enumerate(self._arrays.values())
        ]
        self.built = True

    def call(self, images: Any) -> Any:
        return call_on_host(self._run, images, self._output_shape)

    def compute_output_spec(self, images: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor((images.shape[0], *self._output_shape), "float32")

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self._output_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "skeleton": self._skeleton,
            "arrays": {name: [list(shape), kind] for name, (shape, kind) in self._arrays.items()},
            "output": self._output_name,
            "shape": list(self._output_shape),
            "input_type": self._input_type,
            "batch": self._batch,
            "multiply_adds": self._multiply_adds,
        }

    def to_onnx(self) -> Any:
        """Return the graph with its weights, a ``ModelProto`` of onnx."""
        values = (ops.convert_to_numpy(value.value) for value in self._values)
        return with_weights(self._skeleton, dict(zip(self._arrays, values, strict=True)))

    @property
    def input_type(self) -> str:
        """NumPy type of the graph's input."""
        return self._input_type

    @property
    def batch(self) -> int | None:
        """Number of images that the graph takes at once; None for any."""
        return self._batch

    @property
    def multiply_adds(self) -> int:
        """Multiplications with a weight for one image."""
        return self._multiply_adds

    @property
    def output_name(self) -> str:
        """Name of the output in the graph."""
        return self._output_name

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs, float32 (n, ...), for inputs, float32 (n, ...)."""
        if self._session is None:
            # The weights do not change after the first call: they are loaded before it, and are never trained.
            self._session = start_session(self.to_onnx().SerializeToString())
        inputs = np.ascontiguousarray(images, self._input_type)
        n_together = self._batch or max(1, len(inputs))
        parts = [self._run_part(inputs[first : first + n_together]) for first in range(0, max(1, len(inputs)), n_together)]
        return np.concatenate(parts)

    def _run_part(self, images: np.ndarray) -> np.ndarray:
        n = len(images)
        if self._batch is not None and n < self._batch:
            images = np.resize(images, (self._batch, *images.shape[1:]))  # repeats images
        (name,) = (one.name for one in self._session.get_inputs())
        (values,) = self._session.run([self._output_name], {name: images})
        return np.asarray(values, np.float32)[:n]


def contains_encoder(network: keras.Model) -> bool:
    """Return whether a network contains an encoder, also in a nested model."""
    return any(
        contains_encoder(layer) if isinstance(layer, keras.Model) else isinstance(layer, OnnxEncoder)
        for layer in network.layers
    )


def encoder_network(name: str, image_size: int, weights_folder: str | os.PathLike[str] | None) -> keras.Model:
    """Build the network of an encoder, with its weights.

    Args:
        name: Name of the encoder, "onnx:FILE" with or without a digest.
        image_size: Height and width of the images in pixels.
        weights_folder: Folder that is searched for the file if it is not at its path.

    Returns:
        A model from images (n, image_size, image_size, 3) with grey levels 0..255 to feature maps (n, h, w, channels), which
        have one position if the encoder returns one vector.

    Raises:
        ImpossibleModelError: The encoder takes images of another size, or its output has no form that can be used.
        TrialError: The file is missing or damaged, or a library is missing.
    """
    graph = read_graph(find_encoder(name, weight_folders(weights_folder)))
    graph.check_size(image_size)
    shape = graph.output_shape(image_size)
    pixels = keras.Input((image_size, image_size, 3))
    x = pixels[..., :1] if graph.channels == 1 else pixels  # the channels are equal
    x = _scaled(x, graph)
    if graph.layout == NCHW:
        x = layers.Permute((3, 1, 2), dtype="float32", name="channels_first")(x)
    encoder = OnnxEncoder(
        graph.skeleton,
        {key: (array.shape, array.dtype.name) for key, array in graph.weights.items()},
        graph.output,
        shape,
        graph.input_type,
        graph.batch,
        graph.multiply_adds(image_size),
        name=encoder_label(name),
    )
    network = keras.Model(pixels, _feature_maps(encoder(x), graph), name=encoder_label(name))
    for value, array in zip(encoder.weights, graph.weights.values(), strict=True):
        value.assign(array)
    return network


def _scaled(x: keras.KerasTensor, graph: OnnxGraph) -> keras.KerasTensor:
    try:
        scale, offset = graph.settings.scale_and_offset(graph.channels)
    except ValueError as error:
        raise ImpossibleModelError(f"The .toml file of the encoder '{graph.file}' must fit its channels: {error}.") from error
    return layers.Rescaling(scale, offset=offset, dtype="float32", name="scale")(x)


def _feature_maps(x: keras.KerasTensor, graph: OnnxGraph) -> keras.KerasTensor:
    """Convert the output of an encoder to feature maps (n, h, w, channels)."""
    match len(x.shape), graph.settings.tokens:
        case 2, None:
            return layers.Reshape((1, 1, x.shape[1]), name=FEATURES)(x)
        case 3, str(choice) if choice == CLASS_TOKEN:
            return layers.Reshape((1, 1, x.shape[2]), name=FEATURES)(x[:, 0])
        case 3, str(choice) if choice == MEAN_TOKEN:
            return layers.Reshape((x.shape[1], 1, x.shape[2]), name=FEATURES)(x)
        case 4, None:
            return layers.Permute((2, 3, 1) if graph.layout == NCHW else (1, 2, 3), name=FEATURES)(x)
    raise ImpossibleModelError(
        f'The output of an encoder must be vectors (n, d), tokens (n, tokens, d) with tokens = "class" or "mean" in its .toml '
        f"file, or feature maps with four axes; '{graph.file}' has {tuple(x.shape)} and tokens = {graph.settings.tokens}."
    )
