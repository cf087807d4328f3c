"""What each region of a picture adds to a probability: SHAP values by partition masking (Lundberg and Lee 2017).

The picture is halved again and again; regions are replaced by their blurred selves, and the Owen values of this hierarchy
say how the probability's change is shared among them (``shap.PartitionExplainer``). It asks the classifier and nothing
else, so that it serves any ensemble.
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
LEAST_EVALUATIONS = 10
_FIRST_ROUND = 32  # evaluations; each further round has twice as many, those before among them
_AT_ONCE = 32  # masked pictures that are predicted together
_BLUR = 8  # the radius is the longer side by this: enough that no finding is left


class TimeIsUpError(AutomlCxrError):
    """Raised when a deadline passes between two evaluations; the caller keeps what was finished before."""


@dataclass(frozen=True, eq=False)
class ShapValues:
    """What the pixels of a picture add to a probability.

    Attributes:
        values: float32 (height, width): their sum is the probability for the picture, less that for the blurred one.
        n_evaluations: Masked pictures that they rest on, at most.
    """

    values: np.ndarray
    n_evaluations: int


def shap_values(
    predict: Callable[[list[np.ndarray]], np.ndarray],
    picture: np.ndarray,
    column: int,
    *,
    n_evaluations: int = DEFAULT_EVALUATIONS,
    deadline: float | None = None,
    on_evaluations: Callable[[int], None] | None = None,
) -> ShapValues:
    """Share the probability of a class among the pixels of a picture.

    It goes in rounds, from coarse to fine, each of which takes up the predictions of the one before.

    Args:
        predict: From pictures, uint8 (height, width), to probabilities (n, n_classes).
        picture: uint8 (height, width).
        column: The class.
        n_evaluations: Masked pictures that are predicted, at most; more of them, finer regions.
        deadline: ``time.monotonic()`` after which no further ones are: the last finished round is then the result.
        on_evaluations: Told how many have been, after each batch.

    Raises:
        TimeIsUpError: The deadline has passed before the first round was finished.
        UsageError: The package shap is not installed.
    """
    shap = load_shap()
    known: dict[bytes, float] = {}

    def probability(masked: np.ndarray) -> np.ndarray:
        pictures = [np.rint(one[..., 0]).astype(np.uint8) for one in masked]
        new = [one for one in pictures if one.tobytes() not in known]
        if new:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeIsUpError(f"The time was up after {len(known)} of {n_evaluations} evaluations of an image.")
            told = predict(new)[:, column]
            known.update(zip((one.tobytes() for one in new), map(float, told), strict=True))
            if on_evaluations is not None:
                on_evaluations(min(len(known), n_evaluations))
        return np.array([known[one.tobytes()] for one in pictures])

    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(max(picture.shape) / _BLUR)))
    masker = shap.maskers.Image(blurred[..., np.newaxis].astype(np.float64))
    explainer = shap.PartitionExplainer(probability, masker)
    shown = picture[np.newaxis, ..., np.newaxis].astype(np.float64)

    def explain_round(n_round: int) -> ShapValues:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's and NumPy's remarks on shap's own code
            explanation = explainer(shown, max_evals=n_round, batch_size=_AT_ONCE, silent=True)
        return ShapValues(np.asarray(explanation.values, np.float32).reshape(picture.shape), n_round)

    first, *further = _rounds(n_evaluations)
    found = explain_round(first)
    with contextlib.suppress(TimeIsUpError):
        for n_round in further:
            found = explain_round(n_round)
    return found


def _rounds(n_evaluations: int) -> list[int]:
    doubled = itertools.takewhile(lambda n: n < n_evaluations, (_FIRST_ROUND * 2**k for k in itertools.count()))
    return [*doubled, n_evaluations]


def load_shap() -> Any:
    """Import the package shap, which takes some seconds.

    Raises:
        UsageError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for packages that it could serve
            import shap
    except ImportError as error:
        raise UsageError(
            f"SHAP values need the package shap; received {error}. Type: pip install 'automl-cxr[shap]'."
        ) from error
    return shap
