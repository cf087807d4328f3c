"""Reading the tensors of a PyTorch checkpoint without PyTorch, and without running what the file asks to run.

A checkpoint is a pickle, a small program that builds objects by calling functions by name. This reader knows the few names
that tensors need, each as a stand-in of its own, and refuses a file that names another. Two formats, both little-endian
(torch/serialization.py):

    zip, since 1.6    NAME/data.pkl is the pickle, NAME/data/KEY the bytes of a storage, neither compressed
    legacy            pickles one after the other: magic number, version, system, the object, a list of storage keys;
                      then each storage in this order, its number of elements as int64 and their bytes

In the pickle a storage is a persistent id ("storage", type, key, device, elements[, view]), and a tensor is a window on one.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from automl_cxr.errors import TrialError

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


def read_torch_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the state dict that ``torch.save`` wrote, on its own or under the key "state_dict".

    Returns:
        Each tensor by its name, in the file's order; read-only views.

    Raises:
        TrialError: The file is none of the two formats, is damaged, or asks for anything but tensors.
    """
    path = Path(path)
    try:
        found, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        state = dict.get(found, "state_dict", found)
        tensors = {str(name): value for name, value in dict.items(state) if isinstance(value, _Window)}
        arrays = {name: window.on(storages) for name, window in tensors.items()}
    except TrialError:
        raise
    except Exception as error:  # damaged bytes make an unpickler raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrialError(
            f"A PyTorch checkpoint must be what torch.save writes; '{path}' cannot be read ({reason}). Fetch the file anew."
        ) from error
    if not arrays:
        raise TrialError(
            f"A PyTorch checkpoint must hold a state dict; '{path}' holds no tensor. Save the model's state_dict()."
        )
    return arrays


class _Unchangeable:
    """What a pickle may refer to but not set the attributes of.

    Its kin have slots, so that there is no ``__dict__`` to write to. They name them on their own, as a dataclass that is
    told to have slots brings a ``__setstate__`` that sets them.
    """

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise ValueError("a part of the file changes what it is made of")


@dataclass(frozen=True)
class _StorageType(_Unchangeable):
    """Stands in for torch.FloatStorage and its kin."""

    __slots__ = ("dtype",)
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage(_Unchangeable):
    """Elements ``first`` to ``first + n`` of the storage called ``key``."""

    __slots__ = ("dtype", "first", "key", "n")
    key: str
    dtype: np.dtype
    first: int
    n: int


@dataclass(frozen=True)
class _Window(_Unchangeable):
    """Stands in for a tensor: where its elements lie in a storage."""

    __slots__ = ("first", "shape", "storage", "strides")
    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def on(self, storages: Mapping[str, bytes]) -> np.ndarray:
        """Look at the elements, after making sure that none lies outside of the storage."""
        elements = np.frombuffer(storages[self.storage.key], self.storage.dtype)
        elements = elements[self.storage.first : self.storage.first + self.storage.n]
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.first + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        # (A tensor that repeats elements by a stride of 0 could be told to fill the memory.)
        if last >= len(elements) or math.prod(self.shape) > len(elements):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {len(elements)} elements")
        strides = tuple(stride * elements.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(elements[self.first :], self.shape, strides, writeable=False)


class _RebuildTensor(_Unchangeable):
    """Stands in for torch._utils._rebuild_tensor and _rebuild_tensor_v2; no function, since a pickle can change those."""

    __slots__ = ()

    def __call__(self, storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> _Window:
        """Make a window on a storage; gradients and hooks do not matter here."""
        numbers = (first, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor has no storage, or a negative size")
        return _Window(storage, first, tuple(shape), tuple(strides))


class _RebuildParameter(_Unchangeable):
    """Stands in for torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        """Leave the tensor as it is."""
        return tensor


class _PassedOver:
    """Stands in for a NumPy number and its type, which training loops keep beside the weights, such as a best loss."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Make what a pickle may name, anew for each: no file should meet what another has touched."""
    storage_types = {name: _StorageType(np.dtype(dtype)) for name, dtype in _DTYPES.items()}
    return {
        ("_codecs", "encode"): _PassedOver,  # how Python 3 writes the bytes of a number
        ("numpy", "dtype"): _PassedOver,
        ("numpy.core.multiarray", "scalar"): _PassedOver,
        ("numpy._core.multiarray", "scalar"): _PassedOver,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{(module, name): found for module in ("torch", "torch.cuda") for name, found in storage_types.items()},
    }


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that can build dicts, lists, text, numbers and ``_Window``s, and nothing else.

    Attributes:
        dtypes: The element type of each storage, by its key.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin-1")  # Python 2 wrote names as bytes, and the bytes of numbers too
        self.dtypes: dict[str, np.dtype] = {}
        self._path = path
        self._stand_ins = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise TrialError(
                f"A PyTorch checkpoint may only hold tensors; the file asks to run {module}.{name} ('{self._path}'). "
                "Save the model's state_dict() alone, and take weights from people whom you trust."
            )
        return self._stand_ins[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _device, n, *rest = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ValueError("an object outside of the pickle is no storage")
        first = 0
        if rest and rest[0] is not None:
            _view_key, first, n = rest[0]  # legacy: a storage that is part of another
        if not all(type(number) is int and number >= 0 for number in (first, n)):
            raise ValueError(f"storage {key} has no size")
        if self.dtypes.setdefault(str(key), storage_type.dtype) != storage_type.dtype:
            raise ValueError(f"storage {key} has two types")
        return _Storage(str(key), storage_type.dtype, first, n)


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries are called data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and _stored(archive, f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        unpickler = _TensorUnpickler(io.BytesIO(_stored(archive, pickles[0])), path)
        found = unpickler.load()
        return found, {key: _stored(archive, f"{folder}data/{key}") for key in unpickler.dtypes}


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry that is as large as it says: a compressed one could be told to fill the memory."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its entry {name} is compressed")
    return archive.read(name)


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    with path.open("rb") as file:
        magic, version, system = (_TensorUnpickler(file, path).load() for _ in range(3))
        if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
            raise ValueError("it does not begin as one does")
        if not system["little_endian"]:
            raise ValueError("its numbers are not little-endian")
        unpickler = _TensorUnpickler(file, path)
        found = unpickler.load()
        storages = {}
        for key in map(str, _TensorUnpickler(file, path).load()):
            n_bytes = int.from_bytes(file.read(8), "little") * unpickler.dtypes[key].itemsize
            if n_bytes > path.stat().st_size:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = file.read(n_bytes)
        return found, storages
