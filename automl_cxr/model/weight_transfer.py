"""Weights of a network that this program has trained, put into a network that begins like a part of it.

A trial's model holds its backbones as models within it, and the layers of a scratch network at its top. What is to be filled
tells by its layers' names which of these it is, and may end at an earlier layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras

from automl_cxr.errors import TrialError
from automl_cxr.model.inference import load_model
from automl_cxr.model.keras_weight_files import SavedLayer, fit_layers, layers_within

SUFFIX = ".keras"


def load_part(model: keras.Model, path: Path) -> bool:
    """Fill a network from the part of a trained network that has layers of the same names, if there is one.

    Returns:
        Whether there is such a part.

    Raises:
        TrialError: The file is damaged, or a layer is of another shape or holds a number that is not finite.
    """
    wanted = {layer.name for layer in model.layers if layer.weights}
    for part in _parts(load_model(str(path))):
        saved = {layer.name: layer for layer in part if layer.arrays}
        if wanted <= saved.keys():
            fit_layers(model, [saved[name] for name in wanted], path, by_order=False)
            return True
    return False


def load_scratch_branch(trunk: keras.Model, path: Path) -> None:
    """Fill a scratch trunk from a trained network that has it.

    Raises:
        TrialError: The file is no such network, or the trunk in it is another.
    """
    if path.suffix != SUFFIX or not load_part(trunk, path):
        names = ", ".join(layer.name for layer in trunk.layers if layer.weights)
        raise TrialError(
            f"A scratch branch takes its weights from a trained network with the layers {names}; '{path}' is none. "
            "Name the model.keras of a trial with the same trunk, or describe that trial's trunk."
        )


def _parts(model: keras.Model) -> Iterator[list[SavedLayer]]:
    """Give the layers of each network within a network, then of all of it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield list(layers_within(layer))
    yield list(layers_within(model))
