"""What a network computes, as a digest: two networks of equal digests give equal outputs for equal inputs.

Names of layers do not count, nor does what only matters in training, so that a backbone has one digest in every network that it
is a part of.
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
_ONLY_BEGINNING = ("_initializer", "_regularizer", "_constraint")


def fingerprint(network: keras.Model) -> str:
    """Give the SHA-256 in hex over the architecture of a network and the values of its weights.

    Seeds of random layers do not count: whoever runs them in training says which draws are meant.
    """
    told = network.get_config()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(_names(told)))}
    hasher = hashlib.sha256(json.dumps(_plain(told, numbers), sort_keys=True, default=str).encode())
    for weight in network.weights:
        values = keras.ops.convert_to_numpy(weight.value)
        hasher.update(f"\0{values.dtype} {values.shape}\0".encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()


def _names(told: dict[str, Any]) -> list[str]:
    """List the layers of a network and of the networks within it, in their order."""
    names = []
    for layer in told.get("layers", ()):
        names += [layer["config"]["name"], *_names(layer["config"])]
    return names


def _plain(value: Any, numbers: dict[str, int], *, is_edge: bool = False) -> Any:
    """Leave out what does not decide the outputs, and put layers' numbers for their names where the graph is told."""
    if isinstance(value, dict):
        return {
            key: _plain(one, numbers, is_edge=is_edge or key in _EDGES)
            for key, one in value.items()
            if key not in _ONLY_TRAINING and key not in _ONLY_NAMES and not key.endswith(_ONLY_BEGINNING)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(one, numbers, is_edge=is_edge) for one in value]
    return numbers.get(value, value) if is_edge and isinstance(value, str) else value
