"""Running ONNX files with onnxruntime."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.errors import ImpossibleModelError, TrialError


def import_onnx() -> tuple[Any, Any]:
    """Return the libraries onnx and onnxruntime.

    Raises:
        TrialError: One of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise TrialError(
            f"An encoder in an ONNX file needs onnx and onnxruntime; {error.name} is not installed. pip install "
            "'automl-cxr[encoders]'."
        ) from error
    return onnx, onnxruntime


def start_session(model: str | bytes) -> Any:
    """Return an onnxruntime session of a file or of a serialised model, on the best device that this onnxruntime supports.

    Raises:
        TrialError: onnxruntime cannot load the model.
    """
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    threads = os.environ.get("OMP_NUM_THREADS", "")  # Ray sets it to the number of cores of a worker
    if threads.isdecimal():
        options.intra_op_num_threads = int(threads)
    try:
        return onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has a separate exception for each status
        what = f"the file '{model}'" if isinstance(model, str) else "the saved encoder"
        raise TrialError(
            f"onnxruntime must be able to load an encoder; it cannot load {what} ({first_line(error)})."
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error of a library, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@functools.lru_cache(maxsize=64)
def measure_output(file: Path, _changed: int, output: str, input_type: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an output of an ONNX file for one image, measured with a black image.

    Args:
        file: The file.
        _changed: Time of its last change, because results are kept in memory.
        output: Name of the output.
        input_type: NumPy type of the input.
        shape: Shape of the input for one image.

    Raises:
        ImpossibleModelError: The graph refuses the image.
        TrialError: onnxruntime cannot load the file.
    """
    session = start_session(str(file))
    batch = session.get_inputs()[0].shape[0]
    image = np.zeros((batch if isinstance(batch, int) else 1, *shape), input_type)
    try:
        (values,) = session.run([output], {session.get_inputs()[0].name: image})
    except Exception as error:  # onnxruntime has a separate exception for each status
        raise ImpossibleModelError(
            f"The encoder '{file}' must accept images of shape {shape}; onnxruntime refuses them ({first_line(error)}). Try "
            "another --image-size, or state layout in its .toml file."
        ) from error
    return tuple(values.shape[1:])
