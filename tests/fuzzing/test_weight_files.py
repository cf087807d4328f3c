"""Damaged weight files of Keras and PyTorch: weights of the right shapes, or an error that names the file."""

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl_cxr.model.keras_weight_files import assign_weights, read_keras_file
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint
from tests.fuzzing.damage import damaged_bytes, result_or_error
from tests.model.test_torch_checkpoint import Tensor, fake_torch, write_legacy, write_zip  # noqa: F401 - a fixture

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], np.int64)}


@pytest.fixture(scope="module")
def network():
    inputs = keras.Input((4,), name="images")
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(hidden))


@pytest.fixture(scope="module")
def saved_weights(network, tmp_path_factory):
    """Return the content of weight files in both HDF5 formats."""
    folder = tmp_path_factory.mktemp("weights")
    network.save_weights(folder / "keras_3.weights.h5")
    with h5py.File(folder / "keras_2.h5", "w") as file:
        file.attrs["layer_names"] = [b"hidden", b"scores"]
        for layer in ("hidden", "scores"):
            weights = network.get_layer(layer).get_weights()
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{number}".encode() for number in range(len(weights))]
            for number, array in enumerate(weights):
                group[f"{layer}/{number}"] = array
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@given(st.sampled_from([0, 1]), st.data())
def test_damaged_keras_weights_have_the_right_shapes_or_are_refused(network, saved_weights, tmp_path, number, data):
    path = tmp_path / "damaged.h5"
    path.write_bytes(data.draw(damaged_bytes(saved_weights[number])))
    shapes = [array.shape for array in network.get_weights()]
    layers = result_or_error(read_keras_file, path, network)
    if layers is not None:
        result_or_error(assign_weights, network, layers, path, by_order=data.draw(st.booleans()))
    assert [array.shape for array in network.get_weights()] == shapes
    assert all(np.isfinite(array).all() for array in network.get_weights())


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 10**4]), max_size=3).map(tuple)
DTYPES = st.sampled_from(["f4", "f8", "f2", "i4", "S3", "c8", "?"])
LAYERS = st.dictionaries(
    st.sampled_from(["hidden", "scores", "other", "batch_normalization"]), st.lists(st.tuples(SHAPES, DTYPES), max_size=3)
)


@given(LAYERS, st.sampled_from([[], ["hidden", "scores"], ["hidden", "hidden"], ["missing"]]), st.booleans())
def test_keras_weights_of_other_shapes_are_refused(network, tmp_path, layers, listed, by_order):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in listed or layers]
        for name, arrays in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [str(number).encode() for number in range(len(arrays))]
            for number, (shape, dtype) in enumerate(arrays):
                if np.prod(shape) < 10**6:
                    group[str(number)] = np.zeros(shape, dtype)
    saved = result_or_error(read_keras_file, path, network)
    if saved is not None:
        result_or_error(assign_weights, network, saved, path, by_order=by_order)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@given(data=st.data())
def test_a_damaged_checkpoint_has_tensors_or_is_refused(write, fake_torch, tmp_path, data):  # noqa: F811 - a fixture
    path = tmp_path / "model.pth"
    write(path, {name: Tensor(str(key), array) for key, (name, array) in enumerate(TENSORS.items())}, fake_torch)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    tensors = result_or_error(read_torch_checkpoint, path)
    assert tensors is None or all(isinstance(array, np.ndarray) for array in tensors.values())
