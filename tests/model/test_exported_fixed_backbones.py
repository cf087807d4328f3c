"""Exported backbones without weights compute the same as Keras.

In TensorFlow Lite, a broadcast division gave errors of 0.3. In ONNX, a constant tensor became a second input.
"""

import warnings

import keras
import numpy as np
import pytest

from automl_cxr.model.gabor import build_gabor
from automl_cxr.model.hog import build_hog


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow Lite converts TensorFlow networks")
@pytest.mark.parametrize("build", [build_hog, build_gabor])
def test_tensorflow_lite(build):
    import tensorflow as tf

    network = build((64, 64, 1))
    image = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    image[:, 40:] *= 0.05  # a region of little contrast
    content = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, np.asarray(network(image)), atol=2e-5)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf2onnx converts TensorFlow networks")
@pytest.mark.parametrize("build", [build_hog, build_gabor])
def test_onnx(build, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = build((64, 64, 1))
    image = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    signature = [keras.InputSpec(shape=(None, 64, 64, 1), dtype="float32")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx warns about NumPy
        network.export(tmp_path / "features.onnx", format="onnx", input_signature=signature, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "features.onnx")
    (pixels,) = session.get_inputs()
    (found,) = session.run(None, {pixels.name: image})
    np.testing.assert_allclose(found, np.asarray(network(image)), atol=2e-5)
