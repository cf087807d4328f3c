"""Loading saved models and computing predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from automl_cxr.data.image_rows import ImageArray
from automl_cxr.errors import NonFiniteLossError, TrialError


def load_model(path: str) -> keras.Model:
    """Load a saved model without running code from the file.

    Raises:
        TrialError: The file is missing or damaged.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = "is damaged, or is not a Keras model" if Path(path).is_file() else "does not exist"
        raise TrialError(f"The model file {path} {problem}.") from error


def predict_images(model: keras.Model, images: ImageArray, *, batch_size: int = 32, mirrored: bool = False) -> np.ndarray:
    """Return the probabilities, float32 (n, n_classes), of images, uint8 (n, h, w); if ``mirrored``, with a second view.

    The probabilities are then the average of those of the image and of its mirror image.

    ``keras.Model.predict`` is not used: in Keras 3.15 on TensorFlow the arrays passed to it stay in memory for the lifetime
    of the process.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """

    def predict(view: ImageArray) -> np.ndarray:
        def batch(positions: np.ndarray) -> np.ndarray:
            return view[positions][..., np.newaxis].astype(np.float32)

        return predict_batches(model, batch, len(view), batch_size=batch_size)

    probabilities = (predict(images) + predict(images[:, :, ::-1])) / 2 if mirrored else predict(images)
    check_finite_predictions(probabilities)
    return probabilities


def predict_batches(model: keras.Model, batch: Callable[[np.ndarray], Any], n: int, *, batch_size: int) -> np.ndarray:
    """Return the predictions for ``n`` rows, float32 (n, ...), computed in batches.

    The last batch is filled with repeated rows, because another batch size would be traced as another graph.

    Args:
        model: The network.
        batch: Returns the inputs of the rows at given positions, int (batch_size,).
        n: Number of rows, at least 1.
        batch_size: Number of rows in a batch.
    """
    predicted = []
    for first in range(0, n, batch_size):
        positions = np.resize(np.arange(first, min(first + batch_size, n)), batch_size)
        predicted.append(np.asarray(model.predict_on_batch(batch(positions)), np.float32))
    return np.concatenate(predicted)[:n]


def check_finite_predictions(probabilities: np.ndarray) -> None:
    """Check that the predictions of a network are finite; they are not after its weights have diverged.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """
    if not np.isfinite(probabilities).all():
        raise NonFiniteLossError("The network predicts NaN: its weights have diverged. A lower learning rate usually helps.")
