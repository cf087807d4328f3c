"""A script that predicts with an exported file in a separate process, with the format's library and without this package.

Usage: ``export_check.py FORMAT FILE PIXELS.npy PROBABILITIES.npy``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import numpy as np

_Predict = Callable[[np.ndarray], np.ndarray]


def _open_keras(file: str) -> _Predict:
    import keras

    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    return lambda pixels: np.asarray(model.predict(pixels, verbose=0))


def _open_onnx(file: str) -> _Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def _open_tflite(file: str) -> _Predict:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        warnings.simplefilter("ignore")  # TensorFlow 2.21 warns that its interpreter will move to ai_edge_litert
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter  # noqa: N806 - the same class at its old location

    interpreter = Interpreter(file)
    signature = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def predict(pixels: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(signature[0], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(signature[0], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(signature[1])

    return predict


def _open_savedmodel(file: str) -> _Predict:
    import tensorflow as tf

    model = tf.saved_model.load(file)
    return lambda pixels: model.serve(pixels).numpy()


_OPENERS = {"keras": _open_keras, "onnx": _open_onnx, "tflite": _open_tflite, "savedmodel": _open_savedmodel}


def main(file_format: str, file: str, pixels_file: str, out: str) -> None:
    """Predict pixels, float32 (n, h, w, 1), and write the probabilities (n, n_classes).

    The first image is predicted alone and then the others, so that two batch sizes are tested.
    """
    predict = _OPENERS[file_format](file)
    pixels = np.load(pixels_file, allow_pickle=False)
    np.save(out, np.concatenate([predict(pixels[:1]), predict(pixels[1:])]))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the parent process may have reserved all of the GPU's memory
    main(*sys.argv[1:])
