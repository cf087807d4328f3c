"""Reading the layers of Keras' weight files, and setting the weights of a network from them.

There are three formats, recognised by their content: HDF5 of Keras 1 and 2 (attributes list the layers and their arrays in the
order of the network), HDF5 of Keras 3 (``x.weights.h5``: one group per layer, named by its class and a number) and ``.keras``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from automl_cxr.errors import TrialError
from automl_cxr.model.inference import load_model

_BYTES_PER_NUMBER = 8  # a file may contain float64
_CLASSIFIER_BYTES = 2**29  # limit for a classifier; the largest in a file that Keras publishes, VGG's, has 495 MB
_MAX_NESTED_GROUPS = 12


@dataclass(frozen=True)
class SavedLayer:
    """The weights of one layer in Keras' order; ``arrays`` is empty if it has none."""

    name: str
    arrays: tuple[np.ndarray, ...]


def read_keras_file(path: Path, model: keras.Model) -> list[SavedLayer]:
    """Read the layers of an HDF5 or a .keras file.

    Args:
        path: The file.
        model: The network that the weights are for; Keras 3 derives the names of groups in an HDF5 file from its layers.

    Raises:
        TrialError: The file is damaged, has no layers, or links to other files.
    """
    try:
        if path.suffix == ".keras":
            return list(layers_within(load_model(str(path))))
        with h5py.File(path, "r") as file:
            _refuse_links(file)
            read = _Reader(min(path.stat().st_size, _BYTES_PER_NUMBER * model.count_params() + _CLASSIFIER_BYTES))
            if "layers" in file:
                return list(_keras_3_layers(file, model, read))
            return list(_keras_1_layers(file.get("model_weights", file), read))
    except TrialError:
        raise
    except Exception as error:  # damaged files make h5py and Keras raise exceptions of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrialError(
            f"A weights file must be one that Keras wrote; '{path}' cannot be read ({reason}). Download the file again."
        ) from error


def assign_weights(model: keras.Model, saved: Sequence[SavedLayer], path: Path, *, by_order: bool) -> None:
    """Set the weights of a network from saved layers. If a layer does not match, no weight is set.

    Layers are matched by name ("/" equals "_"). If a name is missing and ``by_order`` is set, the layers with weights are
    matched in order instead, because the numbers of unnamed layers differ between processes and old files have other names.
    Unmatched saved layers must belong to a classifier: dense layers and normalisations.

    Args:
        model: The network.
        saved: Layers of a file.
        path: The file, for messages.
        by_order: Whether layers may be matched in order.

    Raises:
        TrialError: A layer is missing or has another shape, a convolution is unmatched, or a weight is not finite.
    """
    targets = [layer for layer in model.layers if layer.weights]
    sources = [layer for layer in saved if layer.arrays]
    named = {layer.name.replace("/", "_"): layer for layer in sources}
    if by_order and not all(layer.name in named for layer in targets):
        found: list[SavedLayer | None] = [*sources[: len(targets)], *[None] * (len(targets) - len(sources))]
    else:
        found = [named.get(layer.name) for layer in targets]
    for layer, source in zip(targets, found, strict=True):
        expected = [tuple(weight.shape) for weight in layer.weights]
        if source is None:
            raise _mismatch(path, model, f"layer '{layer.name}' takes {_shapes(expected)}; the file has no such layer")
        received = [array.shape for array in source.arrays]
        if received != expected:
            other_name = "" if source.name == layer.name else f", called '{source.name}' in the file"
            problem = f"takes {_shapes(expected)}; received {_shapes(received)}{other_name}"
            raise _mismatch(path, model, f"layer '{layer.name}' {problem}")
        if not all(np.isfinite(array).all() for array in source.arrays):
            raise _mismatch(path, model, f"weights must be finite; those of layer '{source.name}' are not")
    used = {id(source) for source in found}
    for source in sources:
        if id(source) not in used and any(array.ndim > 2 for array in source.arrays):  # the kernel of a convolution
            shapes = _shapes([array.shape for array in source.arrays])
            raise _mismatch(path, model, f"the network has no layer for '{source.name}' of {shapes}")
    for layer, source in zip(targets, found, strict=True):
        layer.set_weights([array.astype(np.float32) for array in source.arrays])


def _mismatch(path: Path, model: keras.Model, detail: str) -> TrialError:
    return TrialError(f"The weights in '{path}' must be those of {model.name}: {detail}. Use a file of this network.")


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes) or "nothing"


def layers_within(model: keras.Model) -> Iterator[SavedLayer]:
    """Yield the layers of a network and of its nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_within(layer)
        else:
            yield SavedLayer(layer.name, tuple(layer.get_weights()))


def _keras_1_layers(group: h5py.Group, read: _Reader) -> Iterator[SavedLayer]:
    names = _listed(group, "layer_names")
    if not names:
        raise ValueError("it lists no layers")
    for name in names:
        yield SavedLayer(name, tuple(read(group[name], weight) for weight in _listed(group[name], "weight_names")))


def _listed(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list of names; Keras 2 divides a long list among "layer_names0", "layer_names1", ..."""
    pieces = [attribute] if attribute in group.attrs else []
    if not pieces:
        pieces = list(itertools.takewhile(group.attrs.__contains__, (f"{attribute}{n}" for n in itertools.count())))
    names = [name for piece in pieces for name in group.attrs[piece]]
    decoded = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
    for name, n_times in Counter(decoded).items():
        if n_times > 1:
            raise ValueError(f"it lists '{name}' {n_times} times")
    return decoded


def _keras_3_layers(file: h5py.File, model: keras.Model, read: _Reader) -> Iterator[SavedLayer]:
    """Yield the layers of the model, then other layers of the file (keras/src/saving/saving_lib.py, _save_container_state)."""
    groups, unused = file["layers"], set(file["layers"])
    for key, layer in layer_keys(model):
        unused.discard(key)
        yield SavedLayer(layer.name, _variables(groups, key, read))
    for key in sorted(unused):
        arrays = _variables(groups, key, read)
        yield SavedLayer(str(groups[key]["vars"].attrs.get("name", key)) if arrays else key, arrays)


def layer_keys(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield each layer with the name of its group in an HDF5 file of Keras 3: its class and a number."""
    numbers: Counter[str] = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        yield f"{kind}_{numbers[kind]}" if numbers[kind] else kind, layer
        numbers[kind] += 1


def _snake_case(class_name: str) -> str:
    """Convert a class name as Keras does: "BatchNormalization" to "batch_normalization", "Conv2D" to "conv2d"."""
    split = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", split).lower()


def _variables(groups: h5py.Group, key: str, read: _Reader) -> tuple[np.ndarray, ...]:
    path = f"{key}/vars"
    return tuple(read(groups[path], str(n)) for n in range(len(groups[path]))) if path in groups else ()


def _refuse_links(group: h5py.Group, depth: int = 0, visited: set[h5py.Group] | None = None) -> None:
    """Refuse a file with links, because HDF5 can link to any file of the machine at every level.

    A group with a second name is refused too. With a few groups that each contain the next many times, reading would not end.
    """
    visited = set() if visited is None else visited
    if depth > _MAX_NESTED_GROUPS:
        raise ValueError(f"its groups are nested more than {_MAX_NESTED_GROUPS} deep")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"'{name}' is a link, not an array in this file")
        found = group[name]
        if isinstance(found, h5py.Group):
            if found in visited:
                raise ValueError(f"'{name}' is a group with a second name")
            visited.add(found)
            _refuse_links(found, depth + 1, visited)


class _Reader:
    """A reader that refuses to read an array twice or to read more than a total number of bytes.

    Args:
        max_bytes: The limit: the size of the file, or of the network and a classifier.
    """

    def __init__(self, max_bytes: int) -> None:
        self._bytes_left = max_bytes
        self._read: set[h5py.Dataset] = set()

    def __call__(self, group: h5py.Group, name: str) -> np.ndarray:
        found = group[name]
        if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
            raise ValueError(f"'{name}' is not an array in this file")
        if found.dtype.kind != "f":
            raise ValueError(f"the values of '{name}', {found.dtype} {found.shape}, are not weights")
        if found in self._read:
            raise ValueError(f"'{name}' is an array with a second name")
        # A compressed chunk can expand to any size, regardless of the shape of the array.
        if found.id.get_create_plist().get_nfilters():
            raise ValueError(f"'{name}' is compressed or filtered; Keras does neither")
        self._bytes_left -= found.nbytes
        if self._bytes_left < 0:
            raise ValueError(
                f"with '{name}' of {found.shape}, the arrays are larger than the network with a classifier, or than the file"
            )
        self._read.add(found)
        return np.asarray(found)
