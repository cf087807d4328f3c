"""Encoders in ONNX files: their names in configurations, and the settings beside them. Keras and onnx are not imported.

An encoder is named "onnx:FILE#DIGEST". The digest, of the file and of its settings, is added when a study is created; every
later use of the file compares it. The settings are in a TOML file of the same name, FILE with the suffix .toml.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from automl_cxr.errors import TrialError, UsageError
from automl_cxr.io import sha256_of_file
from automl_cxr.text_records import build_record, parse_toml

PREFIX = "onnx:"
LAYOUTS = (NCHW, NHWC) = ("NCHW", "NHWC")
TOKENS = (CLASS_TOKEN, MEAN_TOKEN) = ("class", "mean")
LARGEST_FILE = 2**31 - 1
"""Bytes of a protocol buffer, the format of ONNX files."""
_DIGITS = 12  # of a digest in a name
_RESERVED = "+@#"  # they separate the parts of probe_layers and of a name
_EXAMPLE = "range = [0, 1], mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]"


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How pixels become the input of an encoder, and which of its outputs are the features.

    Attributes:
        range: Numbers to which the grey levels 0 and 255 are mapped.
        mean: Numbers that are then subtracted, one for each channel or one for all.
        std: Numbers by which the result is then divided, one for each channel or one for all.
        layout: Order of the axes of the input, "NCHW" or "NHWC"; None if the sizes in the file show it.
        size: Height and width of the input in pixels; None if the file fixes it, or if the encoder takes images of any size.
        channels: Number of channels of the input; None if the file fixes it.
        output: Name of the output; None if the encoder has one.
        tokens: The feature of an output (n, tokens, channels): the first token ("class"), or the mean of all tokens.
    """

    range: tuple[float, ...]
    mean: tuple[float, ...] | float = 0.0
    std: tuple[float, ...] | float = 1.0
    layout: str | None = None
    size: int | None = None
    channels: int | None = None
    output: str | None = None
    tokens: str | None = None

    def __post_init__(self) -> None:
        if len(self.range) != 2 or self.range[0] >= self.range[1]:
            raise ValueError(f"range must be [low, high] with low below high; received {list(self.range)}")
        for name, names in (("layout", LAYOUTS), ("tokens", TOKENS)):
            value = getattr(self, name)
            if value not in (None, *names):
                raise ValueError(f"{name} must be {' or '.join(names)}; received '{value}'")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3; received {self.channels}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be above 0; received {self.size}")
        if any(number <= 0 for number in _as_tuple(self.std)):
            raise ValueError(f"std must be above 0; received {self.std}")

    def scale_and_offset(self, n_channels: int) -> tuple[list[float], list[float]]:
        """Return the factor and the summand of each channel that transform grey levels 0..255 to the input.

        Raises:
            ValueError: ``mean`` or ``std`` has another number of channels.
        """
        for name in ("mean", "std"):
            n = len(_as_tuple(getattr(self, name)))
            if n not in (1, n_channels):
                raise ValueError(f"{name} must be one number or {n_channels}, one for each channel; received {n}")
        means = _as_tuple(self.mean) * (n_channels // len(_as_tuple(self.mean)))
        deviations = _as_tuple(self.std) * (n_channels // len(_as_tuple(self.std)))
        low, high = self.range
        pairs = list(zip(means, deviations, strict=True))
        return [(high - low) / 255 / std for _, std in pairs], [(low - mean) / std for mean, std in pairs]


def _as_tuple(value: tuple[float, ...] | float) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def is_encoder(name: str) -> bool:
    """Return whether a backbone is an encoder in an ONNX file."""
    return name.startswith(PREFIX)


def encoder_label(name: str) -> str:
    """Return a short name of an encoder without special characters, such as "onnx_rad_dino_5c1b07", for layers and tables."""
    path, digest = _split(name)
    return re.sub(r"[^A-Za-z0-9]+", "_", f"onnx {path.stem} {digest[:6]}").strip("_")


def _split(name: str) -> tuple[Path, str]:
    """Return the file and the digest, which may be "", of an encoder's name."""
    path, _, digest = name.removeprefix(PREFIX).partition("#")
    return Path(path), digest


def resolve_encoder(name: str, folders: Sequence[Path] = ()) -> str:
    """Return the name of an encoder with the absolute path of its file and with its digest.

    Args:
        name: The name, such as "onnx:encoders/rad_dino.onnx"; a digest in it is compared.
        folders: Folders that are searched for the file if it is not at its path.

    Raises:
        UsageError: The file is missing, too large or has another digest, its path contains a reserved character, or its
            settings are missing or invalid.
    """
    try:
        path = find_encoder(name, folders)
    except TrialError as error:
        raise UsageError(str(error)) from error
    absolute = str(path.absolute())
    if any(character in absolute for character in _RESERVED):
        raise UsageError(
            f"The path of an encoder must not contain any of {' '.join(_RESERVED)}; received '{absolute}'. Rename it."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise UsageError(
            f"An encoder must have at most 2 GiB, the limit of ONNX files; '{path}' has more. Convert it to float16."
        )
    return f"{PREFIX}{absolute}#{_digest(path)}"


def find_encoder(name: str, folders: Sequence[Path] = ()) -> Path:
    """Find the file of an encoder at its path, or by its file name in other folders, and compare its digest.

    Raises:
        TrialError: The file is missing or has another digest, or its settings are missing or invalid.
    """
    named, digest = _split(name)
    named = named.expanduser()
    path = next((one for one in (named, *(folder / named.name for folder in folders)) if one.is_file()), None)
    if path is None:
        raise TrialError(
            f"An encoder must be an ONNX file; '{named}' does not exist. Correct the path, or copy the file and its .toml file "
            "to the folder that the environment variable AUTOML_CXR_WEIGHTS names."
        )
    if digest and _digest(path) != digest:
        raise TrialError(
            f"The encoder of a study must not change; '{path}' or its .toml file has changed (digest {_digest(path)} instead "
            f"of {digest}). Restore both, or create another study with --name."
        )
    return path


def read_settings(path: Path) -> EncoderSettings:
    """Read the settings beside an encoder's file.

    Raises:
        TrialError: They are missing or invalid.
    """
    file = path.with_suffix(".toml")
    try:
        settings: EncoderSettings = build_record(EncoderSettings, parse_toml(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrialError(
            f"The input scaling of an encoder must be stated in '{file}', which does not exist. Write it, for example with "
            f"{_EXAMPLE}: the grey levels 0..255 are mapped to the range, then the mean is subtracted and the result is "
            "divided by std."
        ) from error
    except (OSError, ValueError) as error:
        raise TrialError(f"'{file}' must state the input of an encoder, for example {_EXAMPLE}; received: {error}.") from error
    return settings


def _digest(path: Path) -> str:
    settings = json.dumps(asdict(read_settings(path)), sort_keys=True)
    return hashlib.sha256(f"{digest_of_encoder_file(path)} {settings}".encode()).hexdigest()[:_DIGITS]


def digest_of_encoder_file(path: Path) -> str:
    """Return the SHA-256 digest of a file as hexadecimal digits; it is computed once for each state of the file."""
    state = path.stat()
    return _digest_unchanged(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_unchanged(path: Path, _inode: int, _size: int, _changed: int) -> str:
    return sha256_of_file(path)
