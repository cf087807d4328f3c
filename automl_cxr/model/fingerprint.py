"""A digest of the function that a network computes: networks with equal digests give equal outputs for equal inputs.

Names of layers and settings that only affect training are left out, so that a backbone has the same digest in every network.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras
import numpy as np

_ONLY_TRAINING = frozenset({"trainable", "momentum", "seed"})
_ONLY_NAMES = frozenset({"name", "build_config", "registered_name", "module"})
_EDGES = frozenset({"inbound_nodes", "input_layers", "output_layers"})
_ONLY_INITIAL = ("_initializer", "_regularizer", "_constraint")


def fingerprint(network: keras.Model) -> str:
    """Return the SHA-256 digest, as hexadecimal digits, of a network's architecture and the values of its weights.

    Seeds of random layers are left out. A caller that runs such layers in training mode must add the seed to its own key.
    """
    config = network.get_config()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(_names(config)))}
    hasher = hashlib.sha256(json.dumps(_plain(config, numbers), sort_keys=True, default=str).encode())
    for weight in network.weights:
        values = keras.ops.convert_to_numpy(weight.value)
        hasher.update(f"\0{values.dtype} {values.shape}\0".encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()


def _names(config: dict[str, Any]) -> list[str]:
    """List the names of the layers of a network and of its nested models, in order."""
    names = []
    for layer in config.get("layers", ()):
        names += [layer["config"]["name"], *_names(layer["config"])]
    return names


def _plain(value: Any, numbers: dict[str, int], *, is_edge: bool = False) -> Any:
    """Remove what does not affect the outputs, and replace layer names by numbers where edges of the graph are described."""
    if isinstance(value, dict):
        return {
            key: _plain(one, numbers, is_edge=is_edge or key in _EDGES)
            for key, one in value.items()
            if key not in _ONLY_TRAINING and key not in _ONLY_NAMES and not key.endswith(_ONLY_INITIAL)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(one, numbers, is_edge=is_edge) for one in value]
    return numbers.get(value, value) if is_edge and isinstance(value, str) else value
