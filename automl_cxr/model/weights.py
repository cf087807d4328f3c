"""Pretrained weights for a backbone: which file holds them, and putting them into the network."""

from __future__ import annotations

import contextlib
import difflib
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
from automl_cxr.model.keras_weight_files import fit_layers, read_keras_file
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint
from automl_cxr.model.weight_transfer import SUFFIX, load_part

FOLDER_VARIABLE = "AUTOML_CXR_WEIGHTS"
_KERAS_SUFFIXES, _TORCH_SUFFIXES = (".h5", ".hdf5", ".keras"), (".pth", ".tar", ".pt")
_SILENCE = 8.0  # seconds without an answer after which a server counts as out of reach


def load_pretrained(
    model: keras.Model,
    backbone: Backbone,
    weights: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    cut: keras.Model | None = None,
) -> None:
    """Put pretrained weights into a whole backbone.

    Args:
        model: The network that ``build_full_network`` built, not cut.
        backbone: Its row.
        weights: "none" (leaves it as it is), "imagenet", "chexnet" or a file; see ``find_weights``.
        folder: Where files are looked for first.
        cut: The same network up to its cut, which is all that a trained network of this program may have of it.

    Raises:
        ImpossibleModelError: There are no such weights for this backbone.
        TrialError: The file is missing, damaged, or of another network.
    """
    path = find_weights(backbone, weights, folder)
    if path is None or (path.suffix == SUFFIX and load_part(model if cut is None else cut, path)):
        return
    if path.suffix in _KERAS_SUFFIXES:
        fit_layers(model, read_keras_file(path, model), path, by_order=not backbone.needs_names)
    elif backbone.name == "densenet121":
        fit_layers(model, chexnet_layers(read_torch_checkpoint(path)), path, by_order=False)
    else:
        raise ImpossibleModelError(
            f"A PyTorch checkpoint must hold a DenseNet121; received '{path}' for backbone '{backbone.name}'. "
            "Use densenet121, or a file that Keras wrote."
        )


def digest_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Give the SHA-256 of the file that ``load_pretrained`` would load, in hexadecimal; "" for "none"."""
    path = find_weights(backbone, weights, folder)
    return "" if path is None else sha256_of_file(path)


def find_weights(backbone: Backbone, weights: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the file of some weights; None for "none".

    "imagenet" is ``backbone.weights_file`` in ``folder``, else in the folder that AUTOML_CXR_WEIGHTS names, else in Keras'
    cache, to which it is downloaded where that is possible. "chexnet" is one of ``CHEXNET_FILES`` in the first two. Anything
    else is a file, by its path or by its name in these folders.

    Raises:
        ImpossibleModelError: There are no such weights for this backbone.
        TrialError: The file is in none of these places.
    """
    if weights == NONE:
        return None
    folders = _folders(folder)
    if weights == IMAGENET:
        return _first_file(folders, [backbone.weights_file]) or _cached_by_keras(backbone, folders)
    if weights == CHEXNET:
        if backbone.name != "densenet121":
            raise ImpossibleModelError(
                f"CheXNet is a DenseNet121; received backbone '{backbone.name}' with weights 'chexnet'. "
                "Use densenet121, or weights 'imagenet'."
            )
        path = _first_file(folders, CHEXNET_FILES)
        if path is None:
            raise _missing("CheXNet's weights", CHEXNET_FILES, folders, CHEXNET_SOURCES)
        return path
    return find_file(weights, folder)


def find_file(weights: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Find a file of weights by its path, or by its name in ``folder`` or the folder that AUTOML_CXR_WEIGHTS names.

    Raises:
        TrialError: It is in none of these places, or its name does not end like that of a weights file.
    """
    path = _first_file([Path(), *_folders(folder)], [Path(weights).expanduser()])
    if path is None:
        nearest = difflib.get_close_matches(weights, (NONE, IMAGENET, CHEXNET), n=1)
        way_out = f"Did you mean '{nearest[0]}'?" if nearest else "Correct the path."
        raise TrialError(f"Weights must be imagenet, chexnet, none or a file; there is no file '{weights}'. {way_out}")
    if path.suffix not in _KERAS_SUFFIXES + _TORCH_SUFFIXES:
        known = ", ".join(_KERAS_SUFFIXES + _TORCH_SUFFIXES)
        raise TrialError(f"A weights file must end in one of {known}; received '{path}'. Rename it to what it is.")
    return path


def _folders(folder: str | os.PathLike[str] | None) -> list[Path]:
    return [Path(place).expanduser() for place in (folder, os.environ.get(FOLDER_VARIABLE)) if place]


def _first_file(folders: Sequence[Path], names: Sequence[str | Path]) -> Path | None:
    """Find the first of the names in the first folder that has any."""
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def _missing(what: str, names: Sequence[str], folders: Sequence[Path], source: str, reason: str = "") -> TrialError:
    places = ", ".join(f"'{folder}'" for folder in folders) or "no folder"
    failed = f" and could not download it ({reason})" if reason else ""
    return TrialError(
        f"{what} must be in a file {' or '.join(names)}; looked in {places}{failed}. "
        f"Fetch it from {source} and name its folder with --weights or {FOLDER_VARIABLE}."
    )


def _cached_by_keras(backbone: Backbone, folders: Sequence[Path]) -> Path:
    """Find the file where Keras keeps its downloads, and let Keras download it there if it is not.

    One process at a time, or the workers of a search would write and read one file at once. Keras knows the hash of each
    file, but only within its constructors, so a network is built for the download and dropped.
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
    """Name the folder that Keras keeps its own files in (keras/src/backend/config.py)."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"])
    return (Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")) / ".keras"  # noqa: S108 - Keras' choice


def _download(backbone: Backbone) -> None:
    if not _is_in_reach(backbone.weights_source):
        raise TimeoutError("the server is out of reach")
    # 224 pixels: MobileNetV2 has a file for each of several sizes, and this is the one of its row.
    with _bounded_silence(), contextlib.redirect_stdout(sys.stderr):  # (results are on stdout)
        build_full_network(backbone, 224, weights="imagenet")


@contextlib.contextmanager
def _bounded_silence() -> Iterator[None]:
    """Let no new connection of this process wait for longer than ``_SILENCE``; Keras itself sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_in_reach(url: str) -> bool:
    """Ask a server for anything, in a thread: looking up its name can take minutes, whatever the socket's timeout."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the address is in our table
            with contextlib.suppress(urllib.error.HTTPError):  # an answer all the same
                urllib.request.urlopen(request, timeout=_SILENCE).close()  # noqa: S310
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SILENCE)
    return answered.is_set()
