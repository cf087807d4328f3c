"""Export of a network to the formats of other programs."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from automl_cxr.errors import ExportError
from automl_cxr.io import is_disk_full
from automl_cxr.model import captured_native_stderr
from automl_cxr.model.ensemble_model import MemberWeighting, combine_networks
from automl_cxr.model.onnx_encoder import contains_encoder
from automl_cxr.model.onnx_export import write_with_encoders
from automl_cxr.model.precision import in_float32

_KERAS_NAMES = {"onnx": "onnx", "tflite": "litert", "savedmodel": "tf_saved_model"}
_REMEDY = "--format keras supports every network."


def write_ensemble(
    networks: Sequence[keras.Model],
    vote: MemberWeighting,
    file: Path,
    *,
    file_format: str,
    names: Sequence[str],
    facts: Mapping[str, str],
    mirrored: bool = False,
) -> None:
    """Write networks and their combination as one model, which computes in float32.

    Args:
        networks: One network for each member, all with the same image size.
        vote: The combination of their probabilities.
        file: Path of the file; of a folder for "savedmodel".
        file_format: "keras", "onnx", "tflite" or "savedmodel".
        names: Names of the members in messages.
        facts: Metadata; it is written to ONNX files only.
        mirrored: Whether the probabilities of each network are averaged over an image and its mirror image.

    Raises:
        ExportError: The format does not support a member on this backend. The message names the member and the reason.
        OSError: The file cannot be written.
    """
    networks = [in_float32(network) for network in networks]  # no other format supports networks in mixed precision
    encoded = [name for network, name in zip(networks, names, strict=True) if contains_encoder(network)]
    if encoded and file_format != "onnx":
        raise ExportError(
            f"A network with an encoder in ONNX is exported with --format onnx; received --format {file_format} for "
            f"{', '.join(encoded)}. Pass --format onnx."
        )
    if file_format == "keras":
        combine_networks(networks, vote, mirrored=mirrored).save(file)
        return
    _check_backend(file_format)
    try:
        _write(combine_networks(networks, vote, mirrored=mirrored), file, file_format)
    except ExportError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        failing_member = next((number for number in vote.voters if _fails_alone(networks[number], file, file_format)), None)
        name = "the members together" if failing_member is None else names[failing_member]
        raise ExportError(f"--format {file_format} does not support {name} ({_reason(error)}). {_REMEDY}") from error
    if file_format == "onnx":
        _write_onnx_metadata(file, facts)


def _check_backend(file_format: str) -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"--format {file_format} needs Keras on TensorFlow; it runs on {backend}. Export with "
            "KERAS_BACKEND=tensorflow, which opens the same models, or with --format keras."
        )
    if file_format == "onnx":
        try:
            import tf2onnx  # noqa: F401 - Keras would import it too, but its message does not name a remedy
        except ImportError as error:
            raise ExportError("--format onnx needs tf2onnx; it is not installed. pip install 'automl-cxr[onnx]'.") from error


def _write(model: keras.Model, file: Path, file_format: str) -> None:
    if not contains_encoder(model):
        _convert(model, file, file_format)
        return

    def convert(part: keras.Model, path: Path, inputs: Sequence[keras.InputSpec], opset: int) -> None:
        signature = list(inputs) if len(inputs) == 1 else [list(inputs)]
        _convert_inputs(part, path, "onnx", signature, opset_version=opset)

    write_with_encoders(model, file, convert)
    _check_onnx(file)


def _check_onnx(file: Path) -> None:
    import onnx

    onnx.checker.check_model(str(file), full_check=True)


def _convert(model: keras.Model, file: Path, file_format: str) -> None:
    signature = [keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name=model.inputs[0].name)]
    _convert_inputs(model, file, file_format, signature)


def _convert_inputs(model: keras.Model, file: Path, file_format: str, signature: list[Any], **options: Any) -> None:
    with warnings.catch_warnings(), captured_native_stderr(), _quiet("tf2onnx", "absl", "tensorflow"):
        warnings.simplefilter("ignore")  # the converters warn about NumPy and about names
        model.export(file, format=_KERAS_NAMES[file_format], input_signature=signature, verbose=False, **options)
    if file_format == "onnx":
        _check_onnx(file)  # tf2onnx writes unsupported operations as they are and only logs them


def _fails_alone(network: keras.Model, file: Path, file_format: str) -> bool:
    try:
        _write(network, file.with_name(f"alone{file.suffix}"), file_format)
    except Exception:  # noqa: BLE001 - the converters raise exceptions of many types
        return True
    return False


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class _quiet:  # noqa: N801 - a context manager, named as one
    """Raise the level of libraries' loggers within the context, because errors are raised as exceptions anyway."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_exception: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)


def _write_onnx_metadata(file: Path, facts: Mapping[str, str]) -> None:
    """Write facts into the metadata of an ONNX file, which viewers show."""
    import onnx

    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, str(file))
