"""Reading PyTorch checkpoints.

The tests write the file formats themselves, so that they run without PyTorch; one test compares with PyTorch if available.
"""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from automl_cxr.errors import TrialError
from automl_cxr.model import torch_checkpoint
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint

LEGACY_HEAD = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, np.ascontiguousarray(array).ravel()


class Tensor:
    """An object that is pickled like a tensor of PyTorch."""

    def __init__(self, key, array, *, first=0, shape=None, strides=None):
        self.storage, self.first = Storage(key, array), first
        self.shape = array.shape if shape is None else shape
        self.strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides

    def __reduce__(self):
        arguments = (self.storage, self.first, self.shape, self.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


class Command:
    def __reduce__(self):
        return os.system, ("echo harm > harm.txt",)


@pytest.fixture
def fake_torch(monkeypatch):
    """A module with the names of PyTorch that pickle refers to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = lambda *_: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def pickled(value, torch):
    """Return the pickle of a value and its storages by key."""
    names = {"f4": "FloatStorage", "i8": "LongStorage", "f2": "HalfStorage"}
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            storages[value.key] = value.array
            storage_type = getattr(torch, names[value.array.dtype.str[1:]])
            return ("storage", storage_type, value.key, "cpu", value.array.size)

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(value)
    return out.getvalue(), storages


def write_zip(path, value, torch, *, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    code, storages = pickled(value, torch)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", code)
        archive.writestr("model/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"model/data/{key}", array.tobytes())
        archive.writestr("model/version", b"3\n")


def write_legacy(path, value, torch):
    code, storages = pickled(value, torch)
    with path.open("wb") as file:
        for part in LEGACY_HEAD:
            pickle.dump(part, file, protocol=2)
        file.write(code)
        pickle.dump(list(storages), file, protocol=2)
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def error_of(path):
    with pytest.raises(TrialError) as caught:
        read_torch_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@WRITERS
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "state_dict": state, "best_loss": 0.5}])
def test_tensors_are_read_as_written(write, wrap, fake_torch, tmp_path):
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = OrderedDict(
        a=Tensor("0", square),
        transposed=Tensor("0", square, shape=(3, 2), strides=(1, 3)),
        part=Tensor("0", square, first=4, shape=(2,), strides=(1,)),
        half=Tensor("1", np.array([0.5, -2], np.float16)),
        count=Tensor("2", np.array(7)),
        none=Tensor("3", np.zeros((0, 4), np.float32)),
    )
    state._metadata = OrderedDict(version=1)  # as in module.state_dict()
    write(tmp_path / "model.pth", wrap(state), fake_torch)
    found = read_torch_checkpoint(tmp_path / "model.pth")
    assert list(found) == list(state)
    assert np.array_equal(found["a"], square)
    assert np.array_equal(found["transposed"], square.T)
    assert np.array_equal(found["part"], [4, 5])
    assert np.array_equal(found["half"], np.array([0.5, -2], np.float16))
    assert found["count"] == 7
    assert found["none"].shape == (0, 4)


@WRITERS
def test_numbers_beside_the_weights_are_ignored(write, fake_torch, tmp_path):
    weights = np.arange(6, dtype="f4").reshape(2, 3)
    checkpoint = {"epoch": 7, "best_loss": np.float64(0.25), "arch": "dense", "state_dict": OrderedDict(w=Tensor("0", weights))}
    write(tmp_path / "model.pth", checkpoint, fake_torch)
    found = read_torch_checkpoint(tmp_path / "model.pth")
    assert list(found) == ["w"]
    assert np.array_equal(found["w"], weights)


@WRITERS
def test_a_file_that_calls_another_function_is_refused(write, fake_torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "model.pth", {"state_dict": OrderedDict(a=Tensor("0", np.ones(2, np.float32))), "x": Command()}, fake_torch
    )
    assert f"the file would call {os.system.__module__}.system" in error_of(tmp_path / "model.pth")
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ccollections\nOrderedDict.fromkeys\n.",  # protocol 4 resolves dotted names
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
        b"cnumpy\nload\n.",
        b"ctorch\nload\n.",
    ],
)
def test_every_other_name_is_refused(code, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("model/data.pkl", code)
    assert "the file would call" in error_of(tmp_path / "model.pth")


@WRITERS
@pytest.mark.parametrize(
    "view",
    [
        {"first": 5, "shape": (2,), "strides": (1,)},
        {"shape": (2, 4), "strides": (3, 1)},
        {"shape": (10**9, 10**9), "strides": (0, 0)},
        {"first": -1, "shape": (2,), "strides": (1,)},
        {"shape": (2,), "strides": (-1,)},
        {"shape": (2,), "strides": (1, 1)},
        {"shape": ("2",), "strides": (1,)},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(write, view, fake_torch, tmp_path):
    write(tmp_path / "model.pth", {"a": Tensor("0", np.arange(6, dtype=np.float32), **view)}, fake_torch)
    assert "cannot be read" in error_of(tmp_path / "model.pth")


@WRITERS
def test_a_truncated_file_is_refused(write, fake_torch, tmp_path):
    path = tmp_path / "model.pth"
    write(path, {"a": Tensor("0", np.arange(6, dtype=np.float32))}, fake_torch)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        error_of(path)


def test_compressed_and_big_endian_files_are_refused(fake_torch, tmp_path):
    path, state = tmp_path / "model.pth", {"a": Tensor("0", np.arange(6, dtype=np.float32))}
    write_zip(path, state, fake_torch, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in error_of(path)
    write_zip(path, state, fake_torch, byteorder=b"big")
    assert "not little-endian" in error_of(path)


@pytest.mark.parametrize("value", [{}, {"state_dict": {}}, {"a": 1}])
def test_a_file_without_tensors_is_refused(value, fake_torch, tmp_path):
    write_zip(tmp_path / "model.pth", value, fake_torch)
    assert "contains no tensor" in error_of(tmp_path / "model.pth")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "b.pth").write_bytes(pickle.dumps([1, 2, 3]) * 4)
    for name in ("a.pth", "b.pth"):
        assert "must be a file of torch.save" in error_of(tmp_path / name)


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_pytorch_are_read(zipped, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which automl_cxr does not need")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    state["view"] = torch.arange(12.0).reshape(3, 4).T[1:]
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "m.pth.tar", _use_new_zipfile_serialization=zipped)
    found = read_torch_checkpoint(tmp_path / "m.pth.tar")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert np.array_equal(found[name], tensor.detach().numpy()), name


# Pickle instructions for objects that a checkpoint may name or build.
TYPE = b"ctorch\nFloatStorage\n"
STORAGE = b"(S'storage'\n" + TYPE + b"S'0'\nS'cpu'\nI6\ntQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "target", [TYPE, STORAGE, REBUILD, REBUILD + b"(" + STORAGE + b"I0\n(I6\nt(I1\nttR", b"ctorch._utils\n_rebuild_parameter\n"]
)
@pytest.mark.parametrize(
    "state",
    [
        b"}(S'dtype'\nS'<i4'\nu",  # a dict is written to __dict__
        b"(N}(S'__defaults__'\n(I1\nI2\nI3\ntut",  # the second dict of a pair is set with setattr
    ],
)
def test_a_file_cannot_affect_the_next_one(target, state, fake_torch, tmp_path):
    # BUILD (b) sets attributes of the object below it on the pickle's stack.
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as file:
        file.writestr("bad/data.pkl", b"\x80\x02" + target + state + b"b.")
    assert "sets attributes of an object" in error_of(tmp_path / "bad.pth")
    weights = np.arange(6, dtype="f4")
    write_zip(tmp_path / "good.pth", {"w": Tensor("0", weights)}, fake_torch)
    assert np.array_equal(read_torch_checkpoint(tmp_path / "good.pth")["w"], weights)


def test_substitutes_are_immutable_and_not_shared_between_files(tmp_path):
    first, second = (torch_checkpoint._TensorUnpickler(io.BytesIO(), tmp_path) for _ in range(2))
    for name in ("FloatStorage", "HalfStorage"):
        assert first.find_class("torch", name) is not second.find_class("torch", name)
        assert not hasattr(first.find_class("torch", name), "__dict__")
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        assert first.find_class("torch._utils", name) is not second.find_class("torch._utils", name)
        assert not hasattr(first.find_class("torch._utils", name), "__dict__")


def test_a_number_of_an_object_that_would_fill_the_memory_is_refused(tmp_path):
    """The unpickler allocates a list of twice the number, here 64 GB."""
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}r\xff\xff\xff\xff.")
    assert "it numbers an object 4294967295 after 2 operations" in error_of(path)
