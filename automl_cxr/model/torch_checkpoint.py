"""Reading the tensors of a PyTorch checkpoint without PyTorch and without executing code from the file.

A checkpoint is a pickle, which can call any function by name. This reader replaces the few names that tensors need by
substitutes that execute no code, and refuses a file with any other name. There are two formats, both little-endian
(torch/serialization.py):

    zip, since 1.6    NAME/data.pkl is the pickle, NAME/data/KEY are the bytes of a storage; both are uncompressed
    legacy            consecutive pickles: magic number, version, system, the object, a list of storage keys; then each
                      storage in this order: its number of elements as int64, and their bytes

In the pickle, a storage is a persistent id ("storage", type, key, device, elements[, view]), and a tensor is a view of one.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
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
    """Read a state dict that ``torch.save`` wrote, as the whole object or under the key "state_dict".

    Returns:
        The tensors by name, in the order of the file, as read-only arrays.

    Raises:
        TrialError: The file has neither format, is damaged, or contains other objects than tensors.
    """
    path = Path(path)
    try:
        content, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        state = dict.get(content, "state_dict", content)
        tensors = {str(name): value for name, value in dict.items(state) if isinstance(value, _TensorView)}
        arrays = {name: view.read(storages) for name, view in tensors.items()}
    except TrialError:
        raise
    except Exception as error:  # damaged files make an unpickler raise exceptions of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrialError(
            f"A PyTorch checkpoint must be a file of torch.save; '{path}' cannot be read ({reason}). Download the file again."
        ) from error
    if not arrays:
        raise TrialError(
            f"A PyTorch checkpoint must contain a state dict; '{path}' contains no tensor. Save the model's state_dict()."
        )
    return arrays


class _Immutable:
    """Base class of objects whose attributes a pickle cannot set.

    Subclasses have slots, so that they have no ``__dict__``. They declare ``__slots__`` themselves, because
    ``dataclass(slots=True)`` adds a ``__setstate__`` that sets them.
    """

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise ValueError("the file sets attributes of an object")


@dataclass(frozen=True)
class _StorageType(_Immutable):
    """A substitute for torch.FloatStorage and the other storage classes."""

    __slots__ = ("dtype",)
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage(_Immutable):
    """Elements ``first`` to ``first + n - 1`` of the storage with the key ``key``."""

    __slots__ = ("dtype", "first", "key", "n")
    key: str
    dtype: np.dtype
    first: int
    n: int


@dataclass(frozen=True)
class _TensorView(_Immutable):
    """A substitute for a tensor: the positions of its elements in a storage."""

    __slots__ = ("first", "shape", "storage", "strides")
    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storages: Mapping[str, bytes]) -> np.ndarray:
        """Return the elements as an array, after checking that all are within the storage."""
        elements = np.frombuffer(storages[self.storage.key], self.storage.dtype)
        elements = elements[self.storage.first : self.storage.first + self.storage.n]
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.first + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        # A tensor can repeat elements with a stride of 0. Without the second condition its size would be unlimited.
        if last >= len(elements) or math.prod(self.shape) > len(elements):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {len(elements)} elements")
        strides = tuple(stride * elements.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(elements[self.first :], self.shape, strides, writeable=False)


class _RebuildTensor(_Immutable):
    """A substitute for torch._utils._rebuild_tensor and _rebuild_tensor_v2.

    It is not a function, because a pickle can set the attributes of a function.
    """

    __slots__ = ()

    def __call__(self, storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> _TensorView:
        """Return a view of a storage; the arguments for gradients and hooks are ignored."""
        numbers = (first, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor has no storage, or a negative size")
        return _TensorView(storage, first, tuple(shape), tuple(strides))


class _RebuildParameter(_Immutable):
    """A substitute for torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        """Return the tensor."""
        return tensor


class _Ignored:
    """A substitute for a NumPy number and its type, which training loops store with the weights, such as the best loss."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _substitutes() -> dict[tuple[str, str], Any]:
    """Return the objects that a pickle may name; new ones for each file, so that a file cannot change those of another."""
    storage_types = {name: _StorageType(np.dtype(dtype)) for name, dtype in _DTYPES.items()}
    return {
        ("_codecs", "encode"): _Ignored,  # Python 3 pickles the bytes of a number with it
        ("numpy", "dtype"): _Ignored,
        ("numpy.core.multiarray", "scalar"): _Ignored,
        ("numpy._core.multiarray", "scalar"): _Ignored,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        **{(module, name): storage_type for module in ("torch", "torch.cuda") for name, storage_type in storage_types.items()},
    }


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that builds dicts, lists, text, numbers and ``_TensorView`` only.

    Attributes:
        dtypes: The element type of each storage, by its key.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin-1")  # Python 2 wrote names, and the bytes of numbers, as bytes
        self.dtypes: dict[str, np.dtype] = {}
        self._file, self._path = file, path
        self._substitutes = _substitutes()

    def load(self) -> Any:
        _check_memo(self._file)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._substitutes:
            raise TrialError(
                f"A PyTorch checkpoint may only contain tensors; the file would call {module}.{name} ('{self._path}'). "
                "Save only the model's state_dict(), and use weights from sources that you trust."
            )
        return self._substitutes[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _device, n, *rest = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ValueError("an object outside of the pickle is not a storage")
        first = 0
        if rest and rest[0] is not None:
            _view_key, first, n = rest[0]  # legacy format: a storage can be a part of another
        if not all(type(number) is int and number >= 0 for number in (first, n)):
            raise ValueError(f"storage {key} has no size")
        if self.dtypes.setdefault(str(key), storage_type.dtype) != storage_type.dtype:
            raise ValueError(f"storage {key} has two types")
        return _Storage(str(key), storage_type.dtype, first, n)


def _check_memo(file: BinaryIO) -> None:
    """Refuse a pickle that stores an object under a large number. The unpickler allocates a list of twice this length."""
    start = file.tell()
    for n_operations, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > n_operations:
            raise ValueError(f"it numbers an object {argument} after {n_operations} operations")
    file.seek(start)


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries are named data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and _stored(archive, f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        unpickler = _TensorUnpickler(io.BytesIO(_stored(archive, pickles[0])), path)
        content = unpickler.load()
        return content, {key: _stored(archive, f"{folder}data/{key}") for key in unpickler.dtypes}


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an uncompressed entry; a compressed one could expand to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its entry {name} is compressed")
    return archive.read(name)


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    with path.open("rb") as file:
        magic, version, system = (_TensorUnpickler(file, path).load() for _ in range(3))
        if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
            raise ValueError("its magic number or version is wrong")
        if not system["little_endian"]:
            raise ValueError("its numbers are not little-endian")
        unpickler = _TensorUnpickler(file, path)
        content = unpickler.load()
        storages = {}
        for key in map(str, _TensorUnpickler(file, path).load()):
            n_bytes = int.from_bytes(file.read(8), "little") * unpickler.dtypes[key].itemsize
            if n_bytes > path.stat().st_size:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = file.read(n_bytes)
        return content, storages
