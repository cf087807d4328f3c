"""Writes a classifier as one file for other programs, and checks that it says there what it says here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.ensemble.combiners import CalibratedCombiner, Combiner, Stacking, WeightedAverage
from automl_cxr.ensemble.weighted_average import normalize_weights
from automl_cxr.errors import ExportError, UnknownNameError, UsageError
from automl_cxr.results.classifier import Classifier
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.store import explained_disk_errors, write_atomically

if TYPE_CHECKING:
    from automl_cxr.model.ensemble_model import MemberWeighting

SUFFIXES = {"keras": ".keras", "onnx": ".onnx", "tflite": ".tflite", "savedmodel": ""}  # of each format's file
TOLERANCE = 1e-5
_N_CHECKED = 12  # phantoms, drawn larger than the networks' images so that they are resized
_CHECK_SECONDS = 600
_DISCLAIMER = "Not a medical device. For research; no clinical decision may rest on it."


@dataclass(frozen=True)
class Export:
    """A file that other programs open.

    Attributes:
        file: Where it lies; a folder for "savedmodel".
        description: The JSON file beside it: classes, image size, fit, members, digests, versions.
        file_format: A name in ``SUFFIXES``.
        difference: Largest difference of a probability between it and ``predict``, checked in another process; None where
            the library that would check is not installed.
    """

    file: Path
    description: Path
    file_format: str
    difference: float | None


def export_classifier(
    classifier: Classifier, out: str | os.PathLike[str] | None = None, *, file_format: str | None = None
) -> Export:
    """Write a classifier with all its members and their weights as one file.

    The file takes raw grey pixels 0..255, float32 (n, h, w, 1), and gives probabilities (n, n_classes). It is opened again
    in a process of its own and compared with ``predict``, and only then put in its place.

    Args:
        classifier: A trial's or an ensemble's.
        out: The file, which is replaced if there is one; by default the classifier's name where we are.
        file_format: A name in ``SUFFIXES``; by default told by the file's suffix, else "keras".

    Raises:
        UnknownNameError: No such format.
        UsageError: The file's suffix is not the format's, or it cannot be written there.
        ExportError: The members take images of several sizes or fits, the format cannot hold one of them, or the file says
            something else than ``predict``.
        StudyError: The file cannot be written.
        TrialError: A model file is damaged.
    """
    file, file_format = _settle(classifier, out, file_format)
    size, fit = _common_square(classifier)
    facts = _describe(classifier, file_format)
    with explained_disk_errors(file), tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as hidden:
        partial = Path(hidden) / file.name
        _write(classifier, partial, file_format, facts)
        difference = _compare(classifier, partial, file_format, size, fit)
        n_compared = 0 if difference is None else _N_CHECKED
        facts |= {"sha256": _digest(partial), "largest_difference_from_predict": difference, "images_compared": n_compared}
        description = file.with_name(f"{file.name}.json")
        write_atomically(description, json.dumps(facts, indent=1, ensure_ascii=False))
        partial.replace(file)
    return Export(file, description, file_format, difference)


def check_destination(out: str | os.PathLike[str], file_format: str | None) -> tuple[Path, str]:
    """Settle a file and its format before any work is done.

    Raises:
        UnknownNameError: No such format.
        UsageError: The file's suffix is not the format's, or it cannot be written there.
    """
    file = Path(out).absolute()
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
    file_format = file_format or by_suffix.get(file.suffix, "keras")
    if file_format not in SUFFIXES:
        raise UnknownNameError("format", file_format, SUFFIXES)
    if file.suffix != SUFFIXES[file_format] and SUFFIXES[file_format]:
        raise UsageError(
            f"A file of --format {file_format} ends in {SUFFIXES[file_format]}; received {file.name}. Name another --out."
        )
    if not file.parent.is_dir() or file.is_dir():
        why = "is a folder already" if file.is_dir() else "has no folder to lie in"
        raise UsageError(f"Cannot write {file}: it {why}. Name another --out.")
    return file, file_format


def _settle(classifier: Classifier, out: str | os.PathLike[str] | None, file_format: str | None) -> tuple[Path, str]:
    if out is None:
        name = classifier.name.removeprefix("ensemble ").replace(" ", "-")
        if file_format is not None and file_format not in SUFFIXES:
            raise UnknownNameError("format", file_format, SUFFIXES)
        out = f"{classifier.study}-{name}{SUFFIXES[file_format or 'keras']}"
    return check_destination(out, file_format)


def _common_square(classifier: Classifier) -> tuple[int, str]:
    """Find the image size and fit of all members: each is made of the original image, and none of another's square."""
    squares = {member.square for member in classifier.members}
    if len(squares) > 1:
        told = ", ".join(f"{size} pixels ({fit})" for size, fit in sorted(squares))
        raise ExportError(
            f"A file takes images of one size and fit; the members of {classifier.name} take {told}. Build an ensemble of "
            "--members that share both, export trials alone, or use `automl-cxr predict`."
        )
    return squares.pop()


def _describe(classifier: Classifier, file_format: str) -> dict[str, Any]:
    """Collect what who opens the file has to know."""
    size, fit = _common_square(classifier)
    shares = classifier.rule.shares.tolist()
    return {
        "name": classifier.name,
        "study": classifier.study,
        "format": file_format,
        "input": f"raw grey pixels 0..255, float32 (n, {size}, {size}, 1)",
        "image_size": size,
        "fit": fit,
        "output": f"probabilities, float32 (n, {len(classifier.classes)}), rows sum to 1",
        "classes": list(classifier.classes),
        "rule": classifier.rule.to_record(),
        "members": [
            {"file": member.file.name, "sha256": _digest(member.file), "weight": share}
            for member, share in zip(classifier.members, shares, strict=True)
        ],
        "split_digest": classifier.split_digest,
        "versions": describe_versions(),
        "warnings": list(classifier.warnings),
        "intended_use": _DISCLAIMER,
    }


def _write(classifier: Classifier, file: Path, file_format: str, facts: dict[str, Any]) -> None:
    from automl_cxr.model.export_formats import write_ensemble  # Keras, on first use

    write_ensemble(
        classifier.load_networks(),
        _to_vote(classifier.rule, len(classifier.members), len(classifier.classes)),
        file,
        file_format=file_format,
        names=[str(member.file) for member in classifier.members],
        facts={key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
    )


def _to_vote(rule: Combiner, n_members: int, n_classes: int) -> MemberWeighting:
    """Convert a rule into the one product with a matrix that a network computes."""
    from automl_cxr.model.ensemble_model import MemberWeighting

    match rule:
        case CalibratedCombiner():
            return MemberWeighting(**{**vars(_to_vote(rule.combiner, n_members, n_classes)), "temperature": rule.temperature})
        case WeightedAverage():
            weights = normalize_weights(rule.weights, n_members=n_members, n_classes=n_classes)
            by_class = np.broadcast_to(weights.reshape(n_members, -1), (n_members, n_classes))
            return MemberWeighting(by_class[:, :, None] * np.eye(n_classes))
        case Stacking():
            return MemberWeighting(rule.coefficients.transpose(1, 2, 0), rule.intercepts)
    raise TypeError(f"no vote for {type(rule).__name__}")


def _compare(classifier: Classifier, file: Path, file_format: str, size: int, fit: str) -> float | None:
    """Give the largest difference of a probability between the file, opened in a process of its own, and ``predict``.

    Raises:
        ExportError: The file cannot be opened, or says something else.
    """
    if file_format == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        return None
    from automl_cxr.model.devices import full_precision

    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_phantoms(Path(folder) / "phantoms", n_images=_N_CHECKED, image_size=min(2048, max(48, size * 5 // 4)))
        images = sorted(drawn.rglob("*.png"))
        with full_precision():
            wanted, _ = classifier.predict(images)
        pixels = np.stack([fit_square(decode_image(image), size, fit) for image in images])[..., None].astype(np.float32)
        said = _predict_elsewhere(file, file_format, pixels, Path(folder))
    difference = float(np.abs(said - wanted).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"An exported file must give the probabilities of `predict` to {TOLERANCE:g}; this one of --format {file_format} "
            f"is off by {difference:.1e}, and was not kept. Take another --format."
        )
    return difference


def _predict_elsewhere(file: Path, file_format: str, pixels: np.ndarray, folder: Path) -> np.ndarray:
    # The script is found without importing it: it stands in the room of Keras, but needs nothing of this package.
    script = Path(__file__).resolve().parents[1] / "model" / "exported.py"
    np.save(folder / "pixels.npy", pixels)
    paths = [str(path) for path in (file, folder / "pixels.npy", folder / "said.npy")]
    words = [sys.executable, "-P", str(script), file_format, *paths]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)  # noqa: S603 - no words of a user
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"The file of --format {file_format} took over {_CHECK_SECONDS} s for {_N_CHECKED} images. Take another --format."
        ) from error
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ExportError(f"The file of --format {file_format} cannot be opened again ({reason}). Take another --format.")
    return np.load(folder / "said.npy", allow_pickle=False)


def _digest(path: Path) -> str:
    """Give the SHA-256 of a file; of a folder that of its files' names and contents."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    hasher = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        hasher.update(f"{file.relative_to(path).as_posix()}\0".encode())
        hasher.update(hashlib.sha256(file.read_bytes()).digest())
    return hasher.hexdigest()
