"""TensorFlow Lite computes the backbones without weights as Keras does: a broadcast division gave errors of 0.3."""

import keras
import numpy as np
import pytest

from automl_cxr.model.gabor import build_gabor
from automl_cxr.model.hog import build_hog


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow Lite converts TensorFlow networks")
@pytest.mark.parametrize("build", [build_hog, build_gabor])
def test_the_features_are_equal(build):
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
