"""Saving many networks that differ in their heads alone: Keras writes what they share once, and it is copied from then on.

A file is what ``keras.Model.save`` of Keras 3 writes: an archive of the network's description and of its numbers, HDF5 with a
group a layer. Most of the time that Keras takes goes into finding the numbers of the layers that all share.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from automl_cxr.model.keras_weight_files import layer_keys

_DESCRIPTION, _METADATA, _NUMBERS = "config.json", "metadata.json", "model.weights.h5"


@dataclass(frozen=True)
class _SavedTemplate:
    """What the files of networks have in common whose heads consist of the same layers, of any width."""

    metadata: bytes
    numbers: bytes


class StackedModelSaver:
    """Saves networks of one trunk.

    Args:
        shared: The layers of the trunk.
    """

    def __init__(self, shared: Sequence[keras.layers.Layer]) -> None:
        self._shared = set(map(id, shared))
        self._templates: dict[tuple[str, ...], _SavedTemplate] = {}

    def save(self, model: keras.Model, path: Path) -> None:
        """Write a network, compiled with an optimizer that has not run, to a .keras file."""
        own = self._own_arrays(model)
        structure = tuple(key for key, _ in layer_keys(model))
        if structure not in self._templates:
            model.save(path)
            self._templates[structure] = _make_template(path, list(own))
            return
        template = self._templates[structure]
        numbers = io.BytesIO(template.numbers)
        with h5py.File(numbers, "r+") as file:
            for name, array in own.items():
                file[name] = array
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(_METADATA, template.metadata)
            archive.writestr(_DESCRIPTION, json.dumps(keras.saving.serialize_keras_object(model)))
            archive.writestr(_NUMBERS, numbers.getbuffer())

    def _own_arrays(self, model: keras.Model) -> dict[str, np.ndarray]:
        """Give the arrays of a head by where Keras puts them."""
        own = [(key, layer) for key, layer in layer_keys(model) if id(layer) not in self._shared]
        return {
            f"layers/{key}/vars/{number}": keras.ops.convert_to_numpy(weight.value)
            for key, layer in own
            for number, weight in enumerate(layer.weights)
        }


def _make_template(path: Path, own: Sequence[str]) -> _SavedTemplate:
    """Take a head's own arrays out of a file."""
    with zipfile.ZipFile(path) as archive:
        metadata, whole = archive.read(_METADATA), io.BytesIO(archive.read(_NUMBERS))
    numbers = io.BytesIO()
    with h5py.File(whole, "r+") as file, h5py.File(numbers, "w") as copy:
        for name in own:
            del file[name]
        for name in file:
            file.copy(name, copy)  # anew, since what was taken out would leave a gap
        for name, value in file.attrs.items():
            copy.attrs[name] = value
    return _SavedTemplate(metadata, numbers.getvalue())
