"""Finding, downloading and loading the pretrained weights of a backbone."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
from filelock import FileLock

from automl_cxr.architectures import Backbone
from automl_cxr.config import CHEXNET, IMAGENET, NONE
from automl_cxr.errors import ImpossibleModelError, TrialError
from automl_cxr.io import sha256_of_file
from automl_cxr.model.backbones import build_full_network
from automl_cxr.model.chexnet import CHEXNET_FILES, CHEXNET_SOURCES, chexnet_layers
from automl_cxr.model.keras_weight_files import assign_weights, read_keras_file
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint
from automl_cxr.model.weight_transfer import SUFFIX, load_part
from automl_cxr.weight_files import FOLDER_VARIABLE, KERAS_SUFFIXES, find_file, first_file, weight_folders

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
    elif backbone.name == "densenet121":
        assign_weights(model, chexnet_layers(read_torch_checkpoint(path)), path, by_order=False)
    else:
        raise ImpossibleModelError(
            f"A PyTorch checkpoint must contain a DenseNet121; received '{path}' for backbone '{backbone.name}'. "
            "Use densenet121, or a file of Keras."
        )


def digest_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Return the SHA-256 digest of the file that ``load_pretrained`` would load, as hexadecimal digits; "" for "none"."""
    path = find_weights(backbone, weights, folder)
    return "" if path is None else sha256_of_file(path)


def find_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Find a file of weights; None for "none".

    "imagenet" is ``backbone.weights_file``, searched for in ``folder``, in the folder of the environment variable
    AUTOML_CXR_WEIGHTS, and in Keras' cache, to which it is downloaded if possible. "chexnet" is one of ``CHEXNET_FILES`` in the
    first two folders. Any other value is a path, or the name of a file in these two folders.

    Raises:
        ImpossibleModelError: These weights do not exist for this backbone.
        TrialError: The file is not in any of these folders.
    """
    if weights == NONE:
        return None
    folders = weight_folders(folder)
    if weights == IMAGENET:
        return first_file(folders, [backbone.weights_file]) or _cached_by_keras(backbone, folders)
    if weights == CHEXNET:
        if backbone.name != "densenet121":
            raise ImpossibleModelError(
                f"CheXNet is a DenseNet121; received backbone '{backbone.name}' with weights 'chexnet'. "
                "Use densenet121, or weights 'imagenet'."
            )
        path = first_file(folders, CHEXNET_FILES)
        if path is None:
            raise _missing("CheXNet's weights", CHEXNET_FILES, folders, CHEXNET_SOURCES)
        return path
    return find_file(weights, folder)


def _missing(what: str, names: Sequence[str], folders: Sequence[Path], source: str, reason: str = "") -> TrialError:
    searched = ", ".join(f"'{folder}'" for folder in folders) or "no folder"
    failed = f" and could not download it ({reason})" if reason else ""
    return TrialError(
        f"{what} must be in a file {' or '.join(names)}; searched in {searched}{failed}. "
        f"Download it from {source} and name its folder with --weights or {FOLDER_VARIABLE}."
    )


def _cached_by_keras(backbone: Backbone, folders: Sequence[Path]) -> Path:
    """Find the file of ImageNet weights in Keras' cache, and let Keras download it if it is missing.

    A file lock allows one process at a time, so that no worker reads a file that another one is writing. Keras checks the hash
    of a file in its constructors only. Therefore a network is built for the download and discarded.
    """
    cache = _keras_home() / "models"
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
        what = f"ImageNet weights of {backbone.name}"
        raise _missing(what, [backbone.weights_file], [*folders, cache], backbone.weights_source, reason)
    return path


def _keras_home() -> Path:
    """Return Keras' folder for downloads and settings (keras/src/backend/config.py)."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"])
    return (Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")) / ".keras"  # noqa: S108 - Keras' choice


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
