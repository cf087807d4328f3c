"""Weights in files of Keras, read layer by layer and fitted to a network.

Three formats, told apart by what they hold: HDF5 of Keras 1 and 2 (attributes list the layers and their arrays, in the
network's order), HDF5 of Keras 3 (``x.weights.h5``: one group a layer, called by its class and a number) and ``.keras``.
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

_WIDEST = 8  # bytes of a number: a file may hold doubles
_CLASSIFIER = 2**29  # bytes of what a file may hold beside the network; the largest that Keras publishes, VGG's, has 495 MB
_DEEPEST = 12  # groups within groups


@dataclass(frozen=True)
class SavedLayer:
    """The weights of one layer, in Keras' order; ``arrays`` is empty where it has none."""

    name: str
    arrays: tuple[np.ndarray, ...]


def read_keras_file(path: Path, model: keras.Model) -> list[SavedLayer]:
    """Read the layers of an HDF5 or a .keras file; the model tells how Keras 3 calls them in an HDF5 file.

    Raises:
        TrialError: The file is damaged, holds no layers, or refers to other files.
    """
    try:
        if path.suffix == ".keras":
            return list(layers_within(load_model(str(path))))
        with h5py.File(path, "r") as file:
            _refuse_links(file)
            read = _Reader(min(path.stat().st_size, _WIDEST * model.count_params() + _CLASSIFIER))
            if "layers" in file:
                return list(_keras_3_layers(file, model, read))
            return list(_keras_1_layers(file.get("model_weights", file), read))
    except TrialError:
        raise
    except Exception as error:  # damaged bytes make h5py and Keras raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrialError(
            f"A weights file must be one that Keras wrote; '{path}' cannot be read ({reason}). Fetch the file anew."
        ) from error


def fit_layers(model: keras.Model, saved: Sequence[SavedLayer], path: Path, *, by_order: bool) -> None:
    """Set the weights of a network from saved layers, all or none of them.

    Layers are matched by their names ("/" counts as "_"). Where a name is missing and ``by_order`` allows it, the layers
    that hold weights are matched in their order instead: Keras numbers unnamed layers anew in every process, and old files
    have other names. What is left over must be a classifier, of dense layers and normalisations.

    Raises:
        TrialError: A layer is missing, left over or of another shape, or holds a number that is not finite.
    """
    takers = [layer for layer in model.layers if layer.weights]
    holders = [layer for layer in saved if layer.arrays]
    named = {layer.name.replace("/", "_"): layer for layer in holders}
    if by_order and not all(layer.name in named for layer in takers):
        found: list[SavedLayer | None] = [*holders[: len(takers)], *[None] * (len(takers) - len(holders))]
    else:
        found = [named.get(layer.name) for layer in takers]
    for layer, holder in zip(takers, found, strict=True):
        expected = [tuple(weight.shape) for weight in layer.weights]
        if holder is None:
            raise _misfit(path, model, f"layer '{layer.name}' takes {_shapes(expected)}; the file has no such layer")
        received = [array.shape for array in holder.arrays]
        if received != expected:
            called = "" if holder.name == layer.name else f", there called '{holder.name}'"
            raise _misfit(path, model, f"layer '{layer.name}' takes {_shapes(expected)}; received {_shapes(received)}{called}")
        if not all(np.isfinite(array).all() for array in holder.arrays):
            raise _misfit(path, model, f"weights must be finite; those of layer '{holder.name}' are not")
    used = {id(holder) for holder in found}
    for holder in holders:
        if id(holder) not in used and any(array.ndim > 2 for array in holder.arrays):  # a kernel of a convolution
            shapes = _shapes([array.shape for array in holder.arrays])
            raise _misfit(path, model, f"layer '{holder.name}' of {shapes} is left over")
    for layer, holder in zip(takers, found, strict=True):
        layer.set_weights([array.astype(np.float32) for array in holder.arrays])


def _misfit(path: Path, model: keras.Model, detail: str) -> TrialError:
    return TrialError(f"The weights in '{path}' must be those of {model.name}: {detail}. Use a file of this network.")


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes) or "nothing"


def layers_within(model: keras.Model) -> Iterator[SavedLayer]:
    """List the layers of a network and of the networks within it."""
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
    """Read a list of names, which Keras 2 splits over "layer_names0", "layer_names1", ... when it is long."""
    pieces = [attribute] if attribute in group.attrs else []
    if not pieces:
        pieces = list(itertools.takewhile(group.attrs.__contains__, (f"{attribute}{n}" for n in itertools.count())))
    names = [name for piece in pieces for name in group.attrs[piece]]
    texts = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
    for name, n_times in Counter(texts).items():
        if n_times > 1:
            raise ValueError(f"it lists '{name}' {n_times} times")
    return texts


def _keras_3_layers(file: h5py.File, model: keras.Model, read: _Reader) -> Iterator[SavedLayer]:
    """Give the model's layers, then those that it has not (keras/src/saving/saving_lib.py, _save_container_state)."""
    groups, unused = file["layers"], set(file["layers"])
    for key, layer in layer_keys(model):
        unused.discard(key)
        yield SavedLayer(layer.name, _variables(groups, key, read))
    for key in sorted(unused):
        arrays = _variables(groups, key, read)
        yield SavedLayer(str(groups[key]["vars"].attrs.get("name", key)) if arrays else key, arrays)


def layer_keys(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Give the name of each layer's group in an HDF5 file of Keras 3: its class, numbered."""
    numbers: Counter[str] = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        yield f"{kind}_{numbers[kind]}" if numbers[kind] else kind, layer
        numbers[kind] += 1


def _snake_case(class_name: str) -> str:
    """Write "BatchNormalization" as "batch_normalization" and "Conv2D" as "conv2d", as Keras does."""
    split = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", split).lower()


def _variables(groups: h5py.Group, key: str, read: _Reader) -> tuple[np.ndarray, ...]:
    path = f"{key}/vars"
    return tuple(read(groups[path], str(n)) for n in range(len(groups[path]))) if path in groups else ()


def _refuse_links(group: h5py.Group, depth: int = 0, seen: set[h5py.Group] | None = None) -> None:
    """Refuse a file that points elsewhere: HDF5 can link to any other file of the machine, at every level.

    A group under a second name is refused too: a few, each holding the next many times, would take for ever to walk.
    """
    seen = set() if seen is None else seen
    if depth > _DEEPEST:
        raise ValueError(f"its groups lie deeper than {_DEEPEST} in each other")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"'{name}' is a link, not an array in this file")
        found = group[name]
        if isinstance(found, h5py.Group):
            if found in seen:
                raise ValueError(f"'{name}' is a group that has another name too")
            seen.add(found)
            _refuse_links(found, depth + 1, seen)


class _Reader:
    """Reads each array once, and no more bytes than the file has and than the network and a classifier take."""

    def __init__(self, most_bytes: int) -> None:
        self._bytes_left = most_bytes
        self._read: set[h5py.Dataset] = set()

    def __call__(self, group: h5py.Group, name: str) -> np.ndarray:
        found = group[name]
        if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
            raise ValueError(f"'{name}' is no array in this file")
        if found.dtype.kind != "f":
            raise ValueError(f"'{name}' of {found.dtype} {found.shape} holds no weights")
        if found in self._read:
            raise ValueError(f"'{name}' is an array that has another name too")
        if found.id.get_create_plist().get_nfilters():  # a piece can unpack to any amount, whatever the array's shape says
            raise ValueError(f"'{name}' is compressed or filtered, which Keras does not do")
        self._bytes_left -= found.nbytes
        if self._bytes_left < 0:
            raise ValueError(f"with '{name}' of {found.shape} it holds more than the network, a classifier and its own size")
        self._read.add(found)
        return np.asarray(found)
