"""Fidelity of a rung: rungs before the last have fewer epochs and, optionally, smaller images.

With ``image_size``, a rung that ends at epoch e of E runs on images of s * sqrt(e / E) pixels, rounded to a multiple of 16, at
least 32 and at most the study's size s: the number of pixels is proportional to the epochs. The last rung has the study's size.
If a network cannot be built for such small images, the next size in steps of 16 for which it can be built is used.
"""

from __future__ import annotations

import math

from automl_cxr.engine.registry import RUNG_SAMPLERS
from automl_cxr.errors import UnknownNameError, UsageError

FIDELITIES = ("epochs", "image_size")
_SIZE_STEP = 16
_MIN_SIZE = 32


def rung_image_size(image_size: int, epoch: int, epochs: int) -> int:
    """Return the image size of a rung, in pixels.

    Args:
        image_size: Image size of the study, in pixels.
        epoch: Last epoch of the rung.
        epochs: Last epoch of the study.
    """
    if epoch >= epochs:
        return image_size
    size = _SIZE_STEP * round(image_size * math.sqrt(epoch / epochs) / _SIZE_STEP)
    return min(image_size, max(_MIN_SIZE, size))


def check_fidelity(fidelity: str, sampler: str) -> None:
    """Check that a fidelity exists and that the sampler supports it.

    Raises:
        UnknownNameError: The fidelity does not exist.
        UsageError: The fidelity is ``image_size`` and the sampler has no rungs.
    """
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    if fidelity == "image_size" and sampler not in RUNG_SAMPLERS:
        raise UsageError(
            f"The fidelity image_size needs a sampler that runs trials in rungs ({', '.join(RUNG_SAMPLERS)}); "
            f"{sampler} has no rungs, so no trial can start at a lower resolution. "
            f"Add --sampler {RUNG_SAMPLERS[0]}, or omit --fidelity."
        )
