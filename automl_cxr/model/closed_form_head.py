"""Output layers that a splice search fits in closed form, as initial weights of a network with the same cuts.

Their inputs are standardised features. The scale of features differs between networks (some are in the hundreds), and no
learning rate would be suitable for all of them.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers

from automl_cxr.errors import TrialError


@dataclass(frozen=True)
class ClosedFormHead:
    """A standardisation of d features and an output layer with k classes or findings.

    Attributes:
        kernel: float32 (d, k).
        bias: float32 (k,).
        scale: float32 (d,); the features are multiplied by it.
        offset: float32 (d,); added after that.
    """

    kernel: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def standardise(self, vector: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Standardise a vector (n, d)."""
        return layers.Rescaling(self.scale.tolist(), offset=self.offset.tolist(), name=name)(vector)

    def fill(self, layer: layers.Dense) -> None:
        """Set the weights of an output layer."""
        layer.set_weights([self.kernel, self.bias])


def read_closed_form_head(path: Path, n_features: int, n_classes: int) -> ClosedFormHead:
    """Read a head from an npz file.

    Raises:
        TrialError: The file is missing or damaged, or the head is for other features or classes.
    """
    expected = {"kernel": (n_features, n_classes), "bias": (n_classes,), "scale": (n_features,), "offset": (n_features,)}
    try:
        with np.load(path, allow_pickle=False) as file:
            saved = {name: np.asarray(file[name], np.float32) for name in expected}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TrialError(f"A fitted head must be in '{path}', which cannot be read ({reason}). Set heads to \"\".") from error
    received = {name: array.shape for name, array in saved.items()}
    if received != expected or not all(np.isfinite(array).all() for array in saved.values()):
        raise TrialError(f"A fitted head must be finite, of {expected}; '{path}' contains {received}. Set heads to \"\".")
    return ClosedFormHead(**saved)
