"""A script that predicts with an exported file in a separate process, with the format's library and without this package.

Usage: ``export_check.py FORMAT FILE PIXELS.npy OUTPUTS.npz``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_Predict = Callable[[np.ndarray], Sequence[np.ndarray]]  # the outputs: probabilities, and decisions if there are thresholds


def _open_keras(file: str) -> _Predict:
    import keras

    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    return lambda pixels: _as_list(model.predict(pixels, verbose=0))


def _open_onnx(file: str) -> _Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name  # "pixels" or "features"
    return lambda inputs: session.run(None, {name: inputs})


def _open_tflite(file: str) -> _Predict:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        warnings.simplefilter("ignore")  # TensorFlow 2.21 warns that its interpreter will move to ai_edge_litert
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter  # noqa: N806 - the same class at its old location

    interpreter = Interpreter(file)
    pixels_index = interpreter.get_input_details()[0]["index"]
    outputs = [details["index"] for details in interpreter.get_output_details()]

    def predict(pixels: np.ndarray) -> list[np.ndarray]:
        interpreter.resize_tensor_input(pixels_index, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(pixels_index, pixels)
        interpreter.invoke()
        # The converter may change the order of the outputs; the probabilities are the floats.
        return sorted((interpreter.get_tensor(output) for output in outputs), key=lambda values: values.dtype.kind)

    return predict


def _open_savedmodel(file: str) -> _Predict:
    import tensorflow as tf

    model = tf.saved_model.load(file)
    return lambda pixels: _as_list(model.serve(pixels))


def _as_list(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(one) for one in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


_OPENERS = {"keras": _open_keras, "onnx": _open_onnx, "tflite": _open_tflite, "savedmodel": _open_savedmodel}


def main(file_format: str, file: str, pixels_file: str, out: str) -> None:
    """Predict pixels, float32 (n, h, w, 1), and write the outputs, each (n, n_classes).

    The first image is predicted alone and then the others, so that two batch sizes are tested.
    """
    predict = _OPENERS[file_format](file)
    pixels = np.load(pixels_file, allow_pickle=False)
    batches = predict(pixels[:1]), predict(pixels[1:])
    np.savez(out, *(np.concatenate(pair) for pair in zip(*batches, strict=True)))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the parent process may have reserved all of the GPU's memory
    main(*sys.argv[1:])
