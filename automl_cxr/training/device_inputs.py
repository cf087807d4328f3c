"""Inputs of training that are stored on a GPU, so that the host sends only row numbers for each batch.

Copying a batch of images to the GPU takes longer than a step of a small network. The arrays of all images are therefore copied
once in each phase, if they fit, and a layer looks up the rows of each batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from automl_cxr.data.image_rows import ImageArray
from automl_cxr.model.available_memory import available_memory_bytes
from automl_cxr.model.devices import has_gpu, n_devices
from automl_cxr.training.datasets import FeaturePart, LabelledPart, RowPart
from automl_cxr.training.phase_inputs import PhaseInputs

_LARGEST_SHARE = 0.25  # of the GPU memory of this process; the rest is for the network, its gradients and its activations


def inputs_on_device(inputs: PhaseInputs) -> PhaseInputs:
    """Return the same inputs with arrays on the GPU; the given inputs if there is no GPU, or if the arrays do not fit.

    The arrays of several views are not stored on the GPU, and neither are those of a training on several GPUs.
    """
    is_possible = has_gpu() and n_devices() == 1 and len(inputs.train) == 1
    return store_inputs(inputs) if is_possible and _fit_on_device(inputs) else inputs


def _fit_on_device(inputs: PhaseInputs) -> bool:
    """Return whether the arrays of the inputs need at most a quarter of the GPU memory of this process."""
    available = available_memory_bytes()
    n_bytes = sum(values.size * np.dtype(_stored_dtype(values)).itemsize for values in _arrays(inputs))
    return available is not None and n_bytes <= _LARGEST_SHARE * available


def store_inputs(inputs: PhaseInputs) -> PhaseInputs:
    """Copy the arrays of the inputs to the device, and return inputs that are row numbers.

    Args:
        inputs: Images or features, in one view.

    Returns:
        Inputs with the same results. The network has the layers of the given one, after layers that look up the rows.
    """
    rows = keras.Input((), dtype="int32", name="rows")
    tensors = [StoredRows(values, name=f"stored_{number}")(rows) for number, values in enumerate(_arrays(inputs))]
    output = inputs.network(tensors if len(tensors) > 1 else tensors[0])
    train, valid = (RowPart(part.rows, part.labels) for part in (inputs.train_part(1), inputs.valid))
    return dataclasses.replace(inputs, network=keras.Model(rows, output), train=[train], valid=valid)


def _arrays(inputs: PhaseInputs) -> tuple[ImageArray, ...]:
    """Return the array of each input of the network, (n_all, ...)."""
    part = inputs.valid
    if not isinstance(part, LabelledPart | FeaturePart):
        raise TypeError(f"Only images and features can be stored on a device; received {type(part).__name__}.")
    return part.inputs


def _stored_dtype(values: ImageArray) -> str:
    """Return the data type of an array on the device: its own, except for pixels with TensorFlow.

    TensorFlow has no kernel that looks up rows of 8-bit integers on a GPU; it would copy the whole array to the host in each
    step. float16 represents the numbers 0 to 255 exactly.
    """
    return "float16" if values.dtype == np.uint8 and keras.backend.backend() == "tensorflow" else str(values.dtype)


class StoredRows(keras.layers.Layer):
    """Rows of an array on the device, by row number: int32 (n,) to float32 (n, ...).

    Args:
        values: The array, (n_all, ...).
        name: Name of the layer.
    """

    def __init__(self, values: ImageArray, *, name: str) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self._values = self.add_weight(
            shape=values.shape,
            dtype=_stored_dtype(values),
            initializer=lambda shape, dtype: keras.ops.convert_to_tensor(np.asarray(values), dtype),
            trainable=False,
            name="values",
        )

    def call(self, rows: Any) -> Any:
        return keras.ops.cast(keras.ops.take(self._values, rows, axis=0), "float32")
