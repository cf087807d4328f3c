"""Loading saved models and computing predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from automl_cxr.data.image_rows import ImageArray
from automl_cxr.errors import NonFiniteLossError, TrialError
from automl_cxr.model import onnx_encoder  # noqa: F401 - registers its layer, so that models with an encoder can be loaded
from automl_cxr.model.devices import has_bfloat16, has_gpu
from automl_cxr.model.precision import in_float32
from automl_cxr.prefetch import Prefetched

_BATCH_SIZE = 32  # images, on a CPU and at least
_GPU_BATCH_SIZE = 256  # images, at most
_GPU_PIXELS = _GPU_BATCH_SIZE * 224**2  # of a batch; limits the memory that feature maps need


def load_model(path: str) -> keras.Model:
    """Load a saved model without running code from the file.

    A model that was trained in mixed precision computes in float32 on devices without bfloat16.

    Raises:
        TrialError: The file is missing or damaged.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = "is damaged, or is not a Keras model" if Path(path).is_file() else "does not exist"
        raise TrialError(f"The model file {path} {problem}.") from error
    return model if has_bfloat16() else in_float32(model)


def prediction_batch_size(image_size: int) -> int:
    """Return the number of images of a size that are predicted together: 32 on a CPU, and 32 to 256 on a GPU.

    Args:
        image_size: Height and width of the images.
    """
    return min(_GPU_BATCH_SIZE, max(_BATCH_SIZE, _GPU_PIXELS // image_size**2)) if has_gpu() else _BATCH_SIZE


def predict_images(
    model: keras.Model, images: ImageArray, *, batch_size: int | None = None, mirrored: bool = False
) -> np.ndarray:
    """Return the probabilities, float32 (n, n_classes), of images, uint8 (n, h, w); if ``mirrored``, with a second view.

    The probabilities are then the average of those of the image and of its mirror image. Without a ``batch_size`` it is that of
    ``prediction_batch_size``.

    ``keras.Model.predict`` is not used: in Keras 3.15 on TensorFlow the arrays passed to it stay in memory for the lifetime
    of the process.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """

    n_together = prediction_batch_size(images.shape[1]) if batch_size is None else batch_size

    def predict(view: ImageArray) -> np.ndarray:
        return predict_batches(model, lambda rows: view[rows][..., np.newaxis], len(view), batch_size=n_together)

    probabilities = (predict(images) + predict(images[:, :, ::-1])) / 2 if mirrored else predict(images)
    check_finite_predictions(probabilities)
    return probabilities


def predict_batches(model: keras.Model, batch: Callable[[np.ndarray], Any], n: int, *, batch_size: int) -> np.ndarray:
    """Return the predictions for ``n`` rows, float32 (n, ...), computed in batches.

    The last batch is filled with repeated rows, because another batch size would be traced as another graph. Another thread
    prepares the inputs of the next batches.

    Args:
        model: The network.
        batch: Returns the inputs of the rows at given positions, int (batch_size,).
        n: Number of rows, at least 1.
        batch_size: Number of rows in a batch.
    """

    def inputs(number: int) -> Any:
        return batch(np.arange(number * batch_size, (number + 1) * batch_size) % n)

    batches = Prefetched(inputs, math.ceil(n / batch_size))
    return np.concatenate([np.asarray(model.predict_on_batch(one), np.float32) for one in batches])[:n]


def check_finite_predictions(probabilities: np.ndarray) -> None:
    """Check that the predictions of a network are finite; they are not after its weights have diverged.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """
    if not np.isfinite(probabilities).all():
        raise NonFiniteLossError("The network predicts NaN: its weights have diverged. A lower learning rate usually helps.")
