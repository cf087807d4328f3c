"""Small encoders in ONNX files, with the same function written in NumPy."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

RNG = np.random.default_rng(3)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)  # out, in, height, width
BIAS = RNG.normal(size=4).astype(np.float32)
SCALING = "range = [0, 1]\nmean = [0.4, 0.5, 0.6]\nstd = [0.2, 0.3, 0.4]\n"


def write_encoder(
    file: Path,
    *,
    layout: str = "NCHW",
    size: int | str = 16,
    channels: int | str = 3,
    batch: int | str = "n",
    output: str = "vector",
    settings: str = SCALING,
    opset: int = 15,
) -> Path:
    """Write one convolution with ReLU; its output is "maps", "tokens" (positions as tokens) or "vector" (their mean)."""
    sides = [size, size] if isinstance(size, int) else [f"{size}_h", f"{size}_w"]
    shape = [batch, channels, *sides] if layout == "NCHW" else [batch, *sides, channels]
    nodes = [] if layout == "NCHW" else [helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2])]
    source = "image" if layout == "NCHW" else "nchw"
    nodes += [
        helper.make_node("Conv", [source, "kernel", "bias"], ["convolved"], name="convolution", strides=[2, 2]),
        helper.make_node("Relu", ["convolved"], ["maps"]),
        helper.make_node("Reshape", ["maps", "flat"], ["sequence"]),
        helper.make_node("Transpose", ["sequence"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["maps"], ["vector"], axes=[2, 3], keepdims=0),
    ]
    names = output.split(",")
    shapes = {"vector": ["n", 4], "tokens": ["n", "t", 4], "maps": ["n", 4, "h", "w"]}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name]) for name in names],
        [
            numpy_helper.from_array(KERNEL[:, : channels if isinstance(channels, int) else 3], "kernel"),
            numpy_helper.from_array(BIAS, "bias"),
            numpy_helper.from_array(np.array([0, 4, -1], np.int64), "flat"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(file))
    if settings:
        file.with_suffix(".toml").write_text(settings, encoding="utf-8")
    return file


def expected_maps(images: np.ndarray) -> np.ndarray:
    """Return the feature maps (n, h, w, 4) of images, uint8 (n, height, width), with the scaling ``SCALING``."""
    grey = images.astype(np.float64)[:, None] / 255
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    x = (grey - mean[:, None, None]) / std[:, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    return np.maximum(np.einsum("nchwij,ocij->nhwo", windows, KERNEL) + BIAS, 0)
