"""Copying weights from the model of a trial to a new network that has layers of the same names.

The model of a trial contains backbones as nested models, and the layers of a convolution stack directly. The new network may
end at an earlier layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras

from automl_cxr.errors import TrialError
from automl_cxr.model.inference import load_model
from automl_cxr.model.keras_weight_files import SavedLayer, assign_weights, layers_within

SUFFIX = ".keras"


def load_part(model: keras.Model, path: Path) -> bool:
    """Set the weights of a network from the part of a trained network that has layers of the same names.

    Args:
        model: The network.
        path: File of the trained network.

    Returns:
        Whether the trained network, or a nested model of it, has all these layers. If not, no weight is set.

    Raises:
        TrialError: The file is damaged, or a layer has another shape or a weight that is not finite.
    """
    names = {layer.name for layer in model.layers if layer.weights}
    for part in _parts(load_model(str(path))):
        saved = {layer.name: layer for layer in part if layer.arrays}
        if names <= saved.keys():
            assign_weights(model, [saved[name] for name in names], path, by_order=False)
            return True
    return False


def load_scratch_branch(branch: keras.Model, path: Path) -> None:
    """Set the weights of a scratch branch from a trained network with the same convolution stack.

    Raises:
        TrialError: The file is not a network of this program, or its convolution stack is different.
    """
    if path.suffix != SUFFIX or not load_part(branch, path):
        names = ", ".join(layer.name for layer in branch.layers if layer.weights)
        raise TrialError(
            f"A scratch branch takes its weights from a trained network with the layers {names}; '{path}' has other layers. "
            "Use the model.keras of a trial with the same convolution stack, or the hyperparameters of that trial."
        )


def _parts(model: keras.Model) -> Iterator[list[SavedLayer]]:
    """Yield the layers of each nested model, then of the whole network."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield list(layers_within(layer))
    yield list(layers_within(model))
