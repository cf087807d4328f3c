"""The undocumented names of Keras that keras_private.py uses still exist and mean the same, and no other module uses one."""

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from automl_cxr.model import keras_private

PACKAGE = Path(keras_private.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def network():
    pixels = keras.Input((4,), name="pixels")
    x = keras.layers.Dense(3, name="first")(pixels)
    return keras.Model(pixels, keras.layers.Add(name="sum")([x, x]))


def change_message(name):
    return f"Keras {keras.__version__} has no {name} any more: adapt model/keras_private.py"


def test_the_module_that_numbers_layer_names_exists():
    try:
        module = importlib.import_module("keras.src.utils.naming")
    except ImportError:
        pytest.fail(change_message("keras.src.utils.naming"))
    assert hasattr(module, "reset_uids"), change_message("keras.src.utils.naming.reset_uids")


def test_operations_and_tensors_have_a_record_of_their_calls(network):
    layer = network.get_layer("first")
    assert hasattr(layer, "_inbound_nodes"), change_message("Operation._inbound_nodes")
    for name in ("input_tensors", "output_tensors", "arguments"):
        assert hasattr(layer._inbound_nodes[0], name), change_message(f"Node.{name}")
    for name in ("args", "fill_in"):
        assert hasattr(layer._inbound_nodes[0].arguments, name), change_message(f"SymbolicArguments.{name}")
    assert hasattr(layer.output, "_keras_history"), change_message("KerasTensor._keras_history")


def test_the_record_names_inputs_outputs_and_arguments(network):
    first, added = network.get_layer("first"), network.get_layer("sum")
    assert [id(tensor) for tensor in keras_private.call_inputs(first)] == [id(network.input)]
    assert keras_private.call_output(added) is network.output
    assert keras_private.producer(network.output) is added
    other = keras.Input((3,))
    ((tensors,), options) = keras_private.call_arguments(added, {id(first.output): other})
    assert [id(tensor) for tensor in tensors] == [id(other), id(other)]
    assert options == {}


def test_constants_are_found_among_the_arguments_of_an_operation(network):
    filters = np.ones((2, 2, 1, 3), np.float32)
    maps = keras.ops.conv(keras.Input((4, 4, 1)), filters)
    (found,) = keras_private.constant_arguments(keras_private.producer(maps))
    np.testing.assert_array_equal(found, filters)
    assert keras_private.constant_arguments(network.get_layer("first")) == []


def test_layer_numbers_restart():
    keras_private.restart_layer_numbers()
    assert keras.layers.Dense(1).name == "dense"
    assert keras.layers.Dense(1).name == "dense_1"
    keras_private.restart_layer_numbers()
    assert keras.layers.Dense(1).name == "dense"


def test_accumulated_gradients_of_an_optimizer_are_recognised():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    optimizer.build(model.trainable_variables)
    found = [variable for variable in optimizer.variables if keras_private.is_gradient_accumulator(variable)]
    message = "The path of a variable with accumulated gradients does not end in gradient_accumulator any more"
    assert [tuple(variable.shape) for variable in found] == [(2, 1), (1,)], message
    counter = optimizer.variables[0]
    assert counter.path.endswith("iteration"), "The first variable of an optimizer is not its step counter any more"


TRAIN_AND_SAVE = """
import sys
import numpy as np
from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.fingerprint import fingerprint
from automl_cxr.model.inference import load_model
from automl_cxr.model.augmentation import without_augmentation

config = TrialConfig.from_values({"image_size": 16, "layers": "conv2k3", "pooling": "average", "augmentation": 0.5})
network = build_model(config, 2, steps_per_epoch=1)
network.compile("sgd", "sparse_categorical_crossentropy")
network.train_on_batch(np.zeros((2, 16, 16, 1), np.float32), np.array([0, 1]))
fingerprint(network)
without_augmentation(network).save(sys.argv[1])
load_model(sys.argv[1])
print("tensorflow" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_and_saving_on_other_backends_do_not_import_tensorflow(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    child = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_SAVE, tmp_path / "model.keras"],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout.split() == ["False"], child.stderr


def test_keras_asks_one_object_whether_tensorflow_is_installed():
    module_utils = importlib.import_module("keras.src.utils.module_utils")
    assert hasattr(module_utils.tensorflow, "_available"), change_message("keras.src.utils.module_utils.tensorflow._available")


def private_names(path):
    """List the undocumented names of other objects and of keras.src that a module uses."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.append(f"{path.name}:{node.lineno} {node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
            found.append(f"{path.name}:{node.lineno} {node.module}")
        elif isinstance(node, ast.Import):
            found += [f"{path.name}:{node.lineno} {one.name}" for one in node.names if one.name.startswith("keras.src")]
    return found


def test_no_other_module_uses_an_undocumented_name():
    modules = [path for folder in ("model", "training") for path in (PACKAGE / folder).glob("*.py")]
    found = [name for path in modules if path.name != "keras_private.py" for name in private_names(path)]
    assert found == [], "Undocumented names of Keras belong in model/keras_private.py"
