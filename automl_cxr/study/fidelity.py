"""What a rung of fewer epochs is cheaper by: its epochs alone, or its resolution too.

With ``image_size``, a rung that ends at epoch e of E runs on images of s * sqrt(e / E) pixels, rounded to a multiple of 16, at
least 32 and at most the study's size s: the pixels of an image grow as the epochs do. The last rung runs at the study's size.
A network that cannot be so small takes the next size, in steps of 16, that it can be built for.
"""

from __future__ import annotations

import math

from automl_cxr.engine.registry import RUNG_SAMPLERS
from automl_cxr.errors import UnknownNameError, UsageError

FIDELITIES = ("epochs", "image_size")
_SIZE_STEP = 16
_SMALLEST = 32


def rung_image_size(image_size: int, epoch: int, epochs: int) -> int:
    """Give the image size of a rung.

    Args:
        image_size: The study's, in pixels.
        epoch: Last epoch of the rung.
        epochs: Last epoch of the study.
    """
    if epoch >= epochs:
        return image_size
    wanted = _SIZE_STEP * round(image_size * math.sqrt(epoch / epochs) / _SIZE_STEP)
    return min(image_size, max(_SMALLEST, wanted))


def check_fidelity(fidelity: str, sampler: str) -> None:
    """Refuse a fidelity that there is not, or that the sampler cannot raise.

    Raises:
        UnknownNameError: No such fidelity.
        UsageError: The resolution is to rise with the rungs of a sampler that has none.
    """
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    if fidelity == "image_size" and sampler not in RUNG_SAMPLERS:
        raise UsageError(
            f"The fidelity image_size needs a sampler that runs trials in rungs ({', '.join(RUNG_SAMPLERS)}); {sampler} trains "
            "each trial in one piece, which a pruner may stop but cannot begin at a lower resolution. "
            f"Add --sampler {RUNG_SAMPLERS[0]}, or leave --fidelity out."
        )
