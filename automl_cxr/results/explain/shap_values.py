"""SHAP values of image regions by partition masking (Lundberg and Lee 2017): the contribution of each region to a probability.

The image is halved recursively, and regions are replaced by their blurred copies. The Owen values of this hierarchy are the
contributions of the regions (``shap.PartitionExplainer``). Only predictions are needed, so the method works for any ensemble.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from automl_cxr.errors import AutomlCxrError, UsageError

DEFAULT_EVALUATIONS = 300
MIN_EVALUATIONS = 10
_FIRST_ROUND = 32  # evaluations; each further round has twice as many, including those of the previous rounds
_BATCH_SIZE = 32  # masked images that are predicted together
_BLUR = 8  # the blur radius is the longer side divided by this number; it removes every finding


class TimeIsUpError(AutomlCxrError):
    """Raised when the deadline passes between two evaluations. The caller can use the finished results."""


@dataclass(frozen=True, eq=False)
class ShapValues:
    """Contributions of the pixels of an image to a probability.

    Attributes:
        values: float32 (height, width); the sum is the probability for the image minus that for the blurred image.
        n_evaluations: Maximum number of masked images that were predicted.
    """

    values: np.ndarray
    n_evaluations: int


def shap_values(
    predict: Callable[[list[np.ndarray]], np.ndarray],
    image: np.ndarray,
    column: int,
    *,
    n_evaluations: int = DEFAULT_EVALUATIONS,
    deadline: float | None = None,
    on_evaluations: Callable[[int], None] | None = None,
) -> ShapValues:
    """Compute the contributions of the pixels of an image to the probability of a class.

    The computation runs in rounds, from coarse to fine regions. Each round reuses the predictions of the previous rounds.

    Args:
        predict: Function from images, uint8 (height, width), to probabilities (n, n_classes).
        image: uint8 (height, width).
        column: Column of the class.
        n_evaluations: Maximum number of masked images that are predicted; more evaluations give finer regions.
        deadline: ``time.monotonic()`` after which no evaluation starts; the result is that of the last finished round.
        on_evaluations: Called with the number of evaluations after each batch.

    Raises:
        TimeIsUpError: The deadline passed before the end of the first round.
        UsageError: The package shap is not installed.
    """
    shap = load_shap()
    known: dict[bytes, float] = {}

    def probability(masked: np.ndarray) -> np.ndarray:
        images = [np.rint(one[..., 0]).astype(np.uint8) for one in masked]
        new = [one for one in images if one.tobytes() not in known]
        if new:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeIsUpError(f"Time limit reached after {len(known)} of {n_evaluations} evaluations of an image.")
            probabilities = predict(new)[:, column]
            known.update(zip((one.tobytes() for one in new), map(float, probabilities), strict=True))
            if on_evaluations is not None:
                on_evaluations(min(len(known), n_evaluations))
        return np.array([known[one.tobytes()] for one in images])

    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(max(image.shape) / _BLUR)))
    masker = shap.maskers.Image(blurred[..., np.newaxis].astype(np.float64))
    explainer = shap.PartitionExplainer(probability, masker)
    input_image = image[np.newaxis, ..., np.newaxis].astype(np.float64)

    def explain_round(n_round: int) -> ShapValues:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of numba and NumPy about shap's own code
            explanation = explainer(input_image, max_evals=n_round, batch_size=_BATCH_SIZE, silent=True)
        return ShapValues(np.asarray(explanation.values, np.float32).reshape(image.shape), n_round)

    first, *further = _rounds(n_evaluations)
    result = explain_round(first)
    with contextlib.suppress(TimeIsUpError):
        for n_round in further:
            result = explain_round(n_round)
    return result


def _rounds(n_evaluations: int) -> list[int]:
    doubled = itertools.takewhile(lambda n: n < n_evaluations, (_FIRST_ROUND * 2**k for k in itertools.count()))
    return [*doubled, n_evaluations]


def load_shap() -> Any:
    """Import the package shap, which takes some seconds.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about optional packages
            import shap
    except ImportError as error:
        raise UsageError(
            f"SHAP values need the package shap; received {error}. Run: pip install 'automl-cxr[shap]'."
        ) from error
    return shap
