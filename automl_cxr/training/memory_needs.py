"""Counts the memory that trainings need, in a process of its own, so that the driver of a search does not load Keras.

    python -m automl_cxr.training.memory_needs < REQUEST

REQUEST is a JSON object with the configurations and the number of classes. The result is a JSON list with two numbers of bytes
for each configuration whose network can be built: of its weights, gradients and moments, and of each image of a batch.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.memory_estimate import measure_size


def count_memory_needs(configs: Sequence[TrialConfig], n_classes: int) -> list[tuple[int, int]]:
    """Return the bytes of each network that can be built, and of each image of a batch."""
    needs = []
    for config in configs:
        with contextlib.suppress(ImpossibleModelError):
            size = measure_size(config, n_classes)
            needs.append((size.needed(batch_size=0), size.activation_bytes))
    return needs


def main() -> None:
    """Read the request from stdin and write the result to stdout."""
    request = json.load(sys.stdin)
    configs = [TrialConfig.from_values(values) for values in request["configs"]]
    json.dump(count_memory_needs(configs, request["n_classes"]), sys.stdout)


if __name__ == "__main__":
    main()
