"""Reading encoders in ONNX files: their weights, the graph without them, and the layout of their input and output.

The weights of an encoder become weights of a Keras layer (``onnx_encoder.py``), so that they are counted and saved as those of
any other layer. The graph without its weights is small and is part of the configuration of that layer.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.encoder_files import LAYOUTS, NCHW, NHWC, EncoderSettings, read_settings
from automl_cxr.errors import ImpossibleModelError, TrialError
from automl_cxr.model.onnx_sessions import first_line, import_onnx, measure_output, start_session

_CHANNELS = (1, 3)
_WEIGHT_TYPES = ("float32", "float16", "float64", "int8", "uint8")
_INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxGraph:
    """An encoder that was read from an ONNX file.

    Attributes:
        file: The file.
        settings: The settings beside it.
        skeleton: The graph without its weights, a serialised ``ModelProto`` in base64.
        weights: Its weights by name.
        layout: Order of the axes of the input, "NCHW" or "NHWC".
        channels: Number of channels of the input, 1 or 3.
        size: Height and width of the input in pixels; None for any.
        input_type: NumPy type of the input.
        batch: Number of images that are computed together if the graph fixes it; else None.
        output: Name of the output.
    """

    file: Path
    settings: EncoderSettings
    skeleton: str
    weights: Mapping[str, np.ndarray]
    layout: str
    channels: int
    size: int | None
    input_type: str
    batch: int | None
    output: str

    def check_size(self, image_size: int) -> None:
        """Check that the encoder takes images of a size.

        Raises:
            ImpossibleModelError: It takes images of another size.
        """
        if self.size not in (None, image_size):
            raise ImpossibleModelError(
                f"The encoder '{self.file}' takes images of {self.size} pixels; received image_size={image_size}. Use "
                f"--image-size {self.size}."
            )

    def input_shape(self, image_size: int) -> tuple[int, int, int]:
        """Return the shape of the input for one image of a size in pixels."""
        size = (image_size, image_size)
        return (self.channels, *size) if self.layout == NCHW else (*size, self.channels)

    def multiply_adds(self, image_size: int) -> int:
        """Return the number of multiplications with a weight for one image, in convolutions and matrix products."""
        return _count_multiply_adds(self.skeleton, self.input_shape(image_size))

    def output_shape(self, image_size: int) -> tuple[int, ...]:
        """Return the shape of the output for one image, measured with a black image."""
        return measure_output(
            self.file, self.file.stat().st_mtime_ns, self.output, self.input_type, self.input_shape(image_size)
        )


def read_graph(file: Path) -> OnnxGraph:
    """Read an encoder and the settings beside it.

    Raises:
        ImpossibleModelError: The file is not a usable encoder, or its settings do not describe it completely.
        TrialError: A file or a library is missing, or a file is damaged.
    """
    return _read_unchanged(file, file.stat().st_mtime_ns, read_settings(file))


@functools.lru_cache(maxsize=2)
def _read_unchanged(file: Path, _changed: int, settings: EncoderSettings) -> OnnxGraph:
    onnx, _ = import_onnx()
    try:
        model = onnx.load(str(file))
    except Exception as error:  # protocol buffers and files raise exceptions of many types
        raise TrialError(f"An encoder must be an ONNX file; '{file}' cannot be read ({first_line(error)}).") from error
    weights = _remove_weights(onnx, model.graph)
    session = start_session(str(file))
    if len(session.get_inputs()) != 1:
        names = ", ".join(one.name for one in session.get_inputs())
        raise ImpossibleModelError(f"An encoder must have one input, the image; '{file}' has {names}. Export it with one.")
    (image,) = session.get_inputs()
    if image.type not in _INPUT_TYPES or len(image.shape) != 4:
        raise ImpossibleModelError(
            f"The input of an encoder must be float images with four axes; that of '{file}' is {image.type} {image.shape}."
        )
    layout = _layout(file, settings, image.shape)
    axes = dict(zip(layout, image.shape, strict=True))
    return OnnxGraph(
        file=file,
        settings=settings,
        skeleton=base64.b64encode(model.SerializeToString()).decode("ascii"),
        weights=weights,
        layout=layout,
        channels=_number(file, "channels", axes["C"], settings.channels, _CHANNELS),
        size=_size(file, settings, axes),
        input_type=_INPUT_TYPES[image.type],
        batch=axes["N"] if isinstance(axes["N"], int) else None,
        output=_output(file, settings, [one.name for one in session.get_outputs()]),
    )


def _remove_weights(onnx: Any, graph: Any) -> dict[str, np.ndarray]:
    """Return the weights of a graph by name, and remove their values from it. Shapes and other small constants stay."""
    weights = {}
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 0 and values.dtype.name in _WEIGHT_TYPES:
            weights[tensor.name] = values
            name, shape, kind = tensor.name, list(tensor.dims), tensor.data_type
            tensor.Clear()
            tensor.name, tensor.data_type = name, kind
            tensor.dims.extend(shape)
    return weights


def with_weights(skeleton: str, weights: Mapping[str, np.ndarray]) -> Any:
    """Return the ``ModelProto`` of a graph and its weights.

    Args:
        skeleton: The graph without weights, from ``OnnxGraph.skeleton``.
        weights: Its weights by name.
    """
    onnx, _ = import_onnx()
    model = onnx.ModelProto.FromString(base64.b64decode(skeleton))
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
    return model


@functools.lru_cache(maxsize=64)
def _count_multiply_adds(skeleton: str, shape: tuple[int, ...]) -> int:
    """Count as ``flops.count_multiply_adds`` does: output positions times weights. Unknown shapes count as one position."""
    onnx, _ = import_onnx()
    model = onnx.ModelProto.FromString(base64.b64decode(skeleton))
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in weights)
    for axis, n in zip(image.type.tensor_type.shape.dim, (1, *shape), strict=True):
        axis.dim_value = n
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    n_multiplications = 0
    for node in model.graph.node:
        output = shapes.get(node.output[0], [])
        positions = {"Conv": output[2:], "MatMul": output[1:-1], "Gemm": []}.get(node.op_type)
        if positions is not None:
            n_multiplications += math.prod(positions) * math.prod(weights.get(node.input[1], (0,)))
    return n_multiplications


def _layout(file: Path, settings: EncoderSettings, shape: Sequence[Any]) -> str:
    """Return the order of the axes of the input, from the settings or from the position of the channels."""
    if settings.layout is not None:
        return settings.layout
    possible = [
        layout for layout in LAYOUTS if shape[layout.index("C")] in _CHANNELS and shape[layout.index("H")] not in _CHANNELS
    ]
    if len(possible) != 1:
        raise ImpossibleModelError(
            f"The order of the axes of an encoder's input must be known; that of '{file}' is {list(shape)}. State layout = "
            f'"{NCHW}" or "{NHWC}" in its .toml file.'
        )
    return possible[0]


def _size(file: Path, settings: EncoderSettings, axes: Mapping[str, Any]) -> int | None:
    sides = {axes[name] for name in "HW" if isinstance(axes[name], int)}
    if len(sides) > 1:
        raise ImpossibleModelError(f"An encoder must take square images; '{file}' takes {axes['H']} x {axes['W']} pixels.")
    if not sides:
        return settings.size
    return _number(file, "size", sides.pop(), settings.size, None)


def _number(file: Path, name: str, of_file: Any, stated: int | None, accepted: Sequence[int] | None) -> int:
    """Return a number that the file or the settings contain."""
    if isinstance(of_file, int) and stated not in (None, of_file):
        raise ImpossibleModelError(
            f"The {name} of the encoder '{file}' is {of_file}; its .toml file states {stated}. Correct it."
        )
    number = of_file if isinstance(of_file, int) else stated
    if number is None:
        raise ImpossibleModelError(f"The encoder '{file}' does not fix its {name}. State {name} in its .toml file.")
    if accepted is not None and number not in accepted:
        listed = " or ".join(map(str, accepted))
        raise ImpossibleModelError(f"The {name} of an encoder must be {listed}; received {number} in '{file}'.")
    return number


def _output(file: Path, settings: EncoderSettings, names: Sequence[str]) -> str:
    if settings.output is None and len(names) == 1:
        return names[0]
    if settings.output not in names:
        received = "states none" if settings.output is None else f"states '{settings.output}'"
        raise ImpossibleModelError(
            f"One output of the encoder '{file}' must be chosen from {', '.join(names)}; its .toml file {received}. State "
            "output in it."
        )
    return settings.output
