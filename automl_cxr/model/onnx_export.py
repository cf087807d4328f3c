"""Writing a network that contains encoders (``onnx_encoder.py``) as one ONNX file.

The parts before and after the encoders are converted as any other network, and the graphs are joined. All graphs are brought to
the highest version of the operators among the encoders, because a file has one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from automl_cxr.errors import ExportError
from automl_cxr.model.graph import expand
from automl_cxr.model.onnx_encoder import OnnxEncoder

PIXELS = "pixels"
_HIGHEST_OPSET = 18  # that tf2onnx 1.17 writes
_MAIN_DOMAIN = ""
_SHARED_BYTES = 256
ConvertToOnnx = Callable[[keras.Model, Path, Sequence[keras.InputSpec], int], None]
"""Writes a network to a file, given its inputs and a version of the operators."""


@dataclass(frozen=True)
class _EncoderCall:
    """A call of an encoder within a network that differs from the others.

    Attributes:
        encoder: The encoder.
        position: Number of the first such call, from 0.
    """

    encoder: OnnxEncoder
    position: int


class _Part(keras.Model):
    """The part of a network before one of the calls of encoders, or the part after all of them.

    Each call makes the calls of the network again. A functional model would need a unique name for each layer.

    Args:
        network: The network, from raw grey pixels (n, h, w, 1).
        position: Number of the call of an encoder whose input is the output of this part; None for the part after all calls,
            whose inputs are the pixels and the outputs of the different calls.
        numbers: For each call, the number of its output among these inputs.
        on_encoder: Called with the encoder and the input of each call.
    """

    def __init__(
        self,
        network: keras.Model,
        position: int | None = None,
        numbers: Sequence[int] = (),
        on_encoder: Callable[[OnnxEncoder, Any], None] = lambda _encoder, _source: None,
    ) -> None:
        super().__init__(name="part")
        self.network, self._position, self._numbers, self._on_encoder = network, position, tuple(numbers), on_encoder
        self.built = True  # Keras would build it at its first call, which comes after the export

    def call(self, inputs: Any) -> Any:
        pixels, *encoded = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        sources: list[Any] = []

        def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            if isinstance(operation, keras.Model):
                (inner,) = expand(operation, {id(operation.inputs[0]): args[0]}, call)
                return inner
            if not isinstance(operation, OnnxEncoder):
                return operation(*args, **kwargs)
            sources.append(args[0])
            self._on_encoder(operation, args[0])
            shape = operation.compute_output_shape(args[0].shape)[1:]
            return encoded[self._numbers[len(sources) - 1]] if encoded else ops.zeros((ops.shape(pixels)[0], *shape))

        outputs = expand(self.network, {id(self.network.inputs[0]): pixels}, call)
        return outputs if self._position is None else sources[self._position]


def write_with_encoders(network: keras.Model, file: Path, convert: ConvertToOnnx) -> None:
    """Write a network as one ONNX file. Equal calls of an encoder, such as those of the folds of a trial, are made once.

    Args:
        network: A model from raw grey pixels (n, h, w, 1), with encoders.
        file: The file.
        convert: Converts the parts without encoders.

    Raises:
        ExportError: An encoder takes a fixed number of images only, or the versions of the operators are incompatible.
    """
    import onnx

    shape = network.input_shape[1:]
    calls, numbers = _different_calls(network, shape)
    models = [call.encoder.to_onnx() for call in calls]
    opset = max(map(_opset, models))
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:

        def converted(part: _Part, inputs: Mapping[str, Sequence[int]]) -> Any:
            path = Path(folder) / "part.onnx"
            specs = [keras.InputSpec(shape=(None, *one), dtype="float32", name=name) for name, one in inputs.items()]
            convert(part, path, specs, min(opset, _HIGHEST_OPSET))
            return _at_opset(onnx.load(str(path)), opset)

        before = [converted(_Part(network, call.position), {PIXELS: shape}) for call in calls]
        encoded = {f"encoded{number}": call.encoder.compute_output_shape((1,))[1:] for number, call in enumerate(calls)}
        after = converted(_Part(network, numbers=numbers), {PIXELS: shape, **encoded})
    joined = _Joined(onnx, opset)
    for number, (call, first, model) in enumerate(zip(calls, before, models, strict=True)):
        inner = joined.add(first, f"before{number}_", {PIXELS: PIXELS})
        source = joined.cast(inner[0], call.encoder.input_type, f"image{number}")
        given = {_only_input(model): source}
        named = joined.add(_at_opset(model, opset), f"encoder{number}_", given, [call.encoder.output_name])
        joined.rename(named[0], f"after_encoded{number}", "float32")
    last = joined.add(after, "after_", {PIXELS: PIXELS})
    onnx.save(joined.finished(shape, after.graph.output, last), str(file))


def _different_calls(network: keras.Model, shape: Sequence[int]) -> tuple[list[_EncoderCall], list[int]]:
    """Return the different calls of encoders, and for each call of the network the number of the equal one among them.

    Two calls are equal if their encoders are equal, and their inputs for a random image.

    Raises:
        ExportError: An encoder takes a fixed number of images only.
    """
    keys: list[str] = []
    calls: dict[str, _EncoderCall] = {}

    def record(encoder: OnnxEncoder, source: Any) -> None:
        graph = encoder.to_onnx().SerializeToString(deterministic=True)
        content = hashlib.sha256(graph + f" {encoder.output_name} ".encode() + ops.convert_to_numpy(source).tobytes())
        keys.append(content.hexdigest())
        calls.setdefault(keys[-1], _EncoderCall(encoder, len(keys) - 1))

    image = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.float32)
    _Part(network, on_encoder=record)(image)
    for encoder in (call.encoder for call in calls.values()):
        if encoder.batch is not None:
            raise ExportError(
                f"An exported file takes any number of images; the encoder '{encoder.name}' takes {encoder.batch} at once. "
                "Export the encoder with a dynamic batch axis, and search with it again."
            )
    return list(calls.values()), [list(calls).index(key) for key in keys]


class _Joined:
    """A graph to which other graphs are added; its input is called "pixels"."""

    def __init__(self, onnx: Any, opset: int) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._shared: dict[Any, str] = {}  # name of each large weight by its content
        self._functions: list[Any] = []
        self._opsets = {_MAIN_DOMAIN: opset}
        self._ir_version = 0

    def add(self, model: Any, prefix: str, given: Mapping[str, str], wanted: Sequence[str] | None = None) -> list[str]:
        """Add a graph with prefixed names; return the names of its outputs.

        Args:
            model: A ``ModelProto``.
            prefix: Prefix of its names.
            given: Name of an existing tensor for some of its inputs; the others must exist under their prefixed names.
            wanted: Its outputs to return; by default all.
        """
        outputs = list(wanted or [value.name for value in model.graph.output])
        prefixed = self._onnx.compose.add_prefix(model, prefix)
        for name, source in given.items():
            self.rename(source, prefix + name)
        for tensor in prefixed.graph.initializer:
            self._add_weight(tensor)  # before the nodes that use it
        self._nodes += prefixed.graph.node
        self._functions += prefixed.functions
        self._ir_version = max(self._ir_version, model.ir_version)
        for imported in model.opset_import:
            domain = "" if imported.domain == "ai.onnx" else imported.domain
            self._opsets[domain] = max(self._opsets.get(domain, 0), imported.version)
        return [prefix + name for name in outputs]

    def _add_weight(self, tensor: Any) -> None:
        """Add a weight; large ones only once, because an encoder is called for each fold and for the mirror image."""
        content = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest())
        if len(tensor.raw_data) < _SHARED_BYTES:
            self._initializers.append(tensor)
        elif content in self._shared:
            self.rename(self._shared[content], tensor.name)
        else:
            self._shared[content] = tensor.name
            self._initializers.append(tensor)

    def rename(self, source: str, name: str, kind: str = "") -> None:
        """Give a tensor another name, and another type if one is named."""
        options = {"to": self._type(kind)} if kind else {}
        self._nodes.append(self._onnx.helper.make_node("Cast" if kind else "Identity", [source], [name], **options))

    def cast(self, source: str, kind: str, name: str) -> str:
        """Convert a tensor to another type; return its name."""
        self.rename(source, name, kind)
        return name

    def finished(self, shape: Sequence[int], outputs: Sequence[Any], names: Sequence[str]) -> Any:
        """Return the model, whose outputs have the names and types of ``outputs`` and the values of ``names``."""
        for value, name in zip(outputs, names, strict=True):
            self.rename(name, value.name)
        pixels = self._onnx.helper.make_tensor_value_info(PIXELS, self._type("float32"), ["n", *shape])
        graph = self._onnx.helper.make_graph(self._nodes, "automl_cxr", [pixels], list(outputs), self._initializers)
        imports = [self._onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = self._onnx.helper.make_model(graph, opset_imports=imports, functions=self._functions)
        model.ir_version = self._ir_version
        return model

    def _type(self, kind: str) -> int:
        return getattr(self._onnx.TensorProto, {"float32": "FLOAT", "float16": "FLOAT16"}[kind])


def _only_input(model: Any) -> str:
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    return name


def _opset(model: Any) -> int:
    return next(imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx"))


def _at_opset(model: Any, opset: int) -> Any:
    """Return a model with a version of the operators.

    Raises:
        ExportError: An operator of the model has no equivalent.
    """
    from onnx import version_converter

    if _opset(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises RuntimeError and others
        raise ExportError(
            f"A network and its encoders must use one version of ONNX operators; version {_opset(model)} cannot be "
            f"converted to {opset}. Export the encoder with opset 13 to {_HIGHEST_OPSET}, and search with it again."
        ) from error
