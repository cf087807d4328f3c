"""Export of a classifier as one file for other programs, with a check that its predictions do not change."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.architectures import TABLE
from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.data.feature_table import FeatureTable
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.combiners import CalibratedCombiner, Stacking, WeightedAverage
from automl_cxr.ensemble.finding_combiners import AverageByFinding, CalibratedFindings, FindingStacking
from automl_cxr.ensemble.weighted_average import normalize_weights
from automl_cxr.errors import ExportError, UnknownNameError, UsageError
from automl_cxr.io import sha256_of_file, write_text
from automl_cxr.results.classifier import Classifier
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.store import explained_disk_errors
from automl_cxr.tasks import MULTILABEL
from automl_cxr.text_records import parse_json

if TYPE_CHECKING:
    from automl_cxr.model.ensemble_model import MemberWeighting

SUFFIXES = {"keras": ".keras", "onnx": ".onnx", "tflite": ".tflite", "savedmodel": ""}  # file suffix of each format
TOLERANCE = 1e-5  # of a probability
_DIFFERENCE = "largest_difference_from_predict"
_N_CHECKED = 12  # phantom images; they are larger than the input of the networks, so that resizing is checked, too
_CHECK_SECONDS = 600
_DISCLAIMER = "For research only. Not a medical device: it must not be used for clinical decisions."


@dataclass(frozen=True)
class Export:
    """An exported model file.

    Attributes:
        file: Path of the file; a folder for "savedmodel".
        description: JSON file in the same folder: classes, image size, fit, members, digests, versions.
        file_format: A name in ``SUFFIXES``.
        difference: Largest difference between the probabilities of the file and of ``predict``, measured in a separate process;
            None if the library for the check is not installed.
    """

    file: Path
    description: Path
    file_format: str
    difference: float | None


def export_classifier(
    classifier: Classifier, out: str | os.PathLike[str] | None = None, *, file_format: str | None = None
) -> Export:
    """Write a classifier with all its members and their weights as one file.

    The model takes raw grey pixels 0..255, float32 (n, h, w, 1), and returns probabilities (n, n_classes). For a classifier
    that takes a table of features it is the head only, which takes features, float32 (n, d). For findings, and for classes with
    an operating point, it has two outputs, probabilities and decisions (1 where the probability reaches the threshold), in
    every format. The file is loaded in a separate process and compared with ``predict`` before it replaces an existing file.

    Args:
        classifier: Classifier of a trial or an ensemble.
        out: The file, which is replaced if it exists; by default the classifier's name in the current folder.
        file_format: A name in ``SUFFIXES``; by default derived from the file's suffix, else "keras".

    Raises:
        UnknownNameError: The format is unknown.
        UsageError: The file's suffix does not match the format, the file cannot be written, or its description would replace
            another file.
        ExportError: The members take images of different sizes or fits, the format does not support a member, or the
            probabilities of the file differ from those of ``predict``.
        StudyError: The file cannot be written.
        TrialError: A model file is damaged.
    """
    file, file_format = _resolve_destination(classifier, out, file_format)
    description = file.with_name(f"{file.name}.json")
    _check_description(description)
    size, fit = _common_square(classifier)
    facts = _describe(classifier, file_format)
    with explained_disk_errors(file), tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as temporary:
        partial = Path(temporary) / file.name
        _write(classifier, partial, file_format, facts)
        difference = _compare(classifier, partial, file_format, size, fit)
        n_compared = 0 if difference is None else _N_CHECKED
        facts |= {"sha256": _digest(partial), _DIFFERENCE: difference, "images_compared": n_compared}
        write_text(description, json.dumps(facts, indent=1, ensure_ascii=False))
        partial.replace(file)
    return Export(file, description, file_format, difference)


def check_destination(out: str | os.PathLike[str], file_format: str | None) -> tuple[Path, str]:
    """Check the path and the format of an export before it starts; return the absolute path and the format.

    Raises:
        UnknownNameError: The format is unknown.
        UsageError: The file's suffix does not match the format, or the file cannot be written.
    """
    file = Path(out).absolute()
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
    file_format = file_format or by_suffix.get(file.suffix, "keras")
    if file_format not in SUFFIXES:
        raise UnknownNameError("format", file_format, SUFFIXES)
    if file.suffix != SUFFIXES[file_format] and SUFFIXES[file_format]:
        raise UsageError(
            f"A file of --format {file_format} must end in {SUFFIXES[file_format]}; received {file.name}. Choose another --out."
        )
    if not file.parent.is_dir() or file.is_dir():
        reason = "it is a folder" if file.is_dir() else "its folder does not exist"
        raise UsageError(f"Cannot write {file}: {reason}. Choose another --out.")
    return file, file_format


def _check_description(file: Path) -> None:
    """Raise UsageError if the JSON file beside the model, which the user did not name, is a file of another program."""
    try:
        is_ours = not file.exists() or _DIFFERENCE in parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(f"The description of the model is written to {file}, which is another file. Choose another --out.")


def _resolve_destination(
    classifier: Classifier, out: str | os.PathLike[str] | None, file_format: str | None
) -> tuple[Path, str]:
    if out is None:
        name = classifier.name.removeprefix("ensemble ").replace(",", "").replace(" ", "-")
        if file_format is not None and file_format not in SUFFIXES:
            raise UnknownNameError("format", file_format, SUFFIXES)
        out = f"{classifier.study}-{name}{SUFFIXES[file_format or 'keras']}"
    return check_destination(out, file_format)


def _common_square(classifier: Classifier) -> tuple[int, str]:
    """Return the common image size and fit of all members.

    Each member resizes the original image, so an image that is resized for one member cannot be used by another one.
    """
    squares = {member.square for member in classifier.members}
    if len(squares) > 1:
        sizes = ", ".join(f"{size} pixels ({fit})" for size, fit in sorted(squares))
        raise ExportError(
            f"All members of an exported file must have the same image size and fit; those of {classifier.name} have {sizes}. "
            "Build an ensemble of --members with equal sizes and fits, export single trials, or use `automl-cxr predict`."
        )
    return squares.pop()


def _describe(classifier: Classifier, file_format: str) -> dict[str, Any]:
    """Return the description of the file: input, output, members, versions and warnings."""
    size, fit = _common_square(classifier)
    shares = classifier.rule.shares.tolist()
    return {
        "name": classifier.name,
        "study": classifier.study,
        "format": file_format,
        **_describe_input(size, fit),
        **_describe_outputs(classifier),
        "classes": list(classifier.classes),
        "rule": classifier.rule.to_record(),
        "mirrored": classifier.mirrored,
        "members": [
            {"file": member.file.name, "sha256": sha256_of_file(member.file), "weight": share}
            for member, share in zip(classifier.members, shares, strict=True)
        ],
        "split_digest": classifier.split_digest,
        "versions": describe_versions(),
        "warnings": list(classifier.warnings),
        "intended_use": _DISCLAIMER,
    }


def _describe_input(size: int, fit: str) -> dict[str, Any]:
    if fit == TABLE:
        return {
            "input": f"features, float32 (n, {size}), of the encoder that computed the table of the study",
            "n_features": size,
            "contents": "the head only: the encoder is not part of this file",
        }
    return {"input": f"raw grey pixels 0..255, float32 (n, {size}, {size}, 1)", "image_size": size, "fit": fit}


def _describe_outputs(classifier: Classifier) -> dict[str, Any]:
    n_classes, thresholds = len(classifier.classes), classifier.decision_thresholds
    if classifier.is_multilabel:
        outputs: dict[str, Any] = {"task": MULTILABEL, "output": f"probabilities, float32 (n, {n_classes}), each from 0 to 1"}
    else:
        outputs = {"output": f"probabilities, float32 (n, {n_classes}), rows sum to 1"}
    if thresholds:
        names = "" if classifier.is_multilabel else f" of {', '.join(thresholds)}"
        outputs["second_output"] = (
            f"decisions{names}, int32 (n, {len(thresholds)}), 1 where the probability is at least the threshold, else 0"
        )
        outputs["thresholds"] = thresholds
    if classifier.operating_points:
        outputs["operating_points"] = [point.to_record() for point in classifier.operating_points]
    return outputs


def _write(classifier: Classifier, file: Path, file_format: str, facts: dict[str, Any]) -> None:
    from automl_cxr.model.export_formats import write_ensemble  # imports Keras

    write_ensemble(
        classifier.load_networks(),
        _weighting_of(classifier),
        file,
        file_format=file_format,
        names=[str(member.file) for member in classifier.members],
        mirrored=classifier.mirrored,
        facts={key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
    )


def _weighting_of(classifier: Classifier) -> MemberWeighting:
    weighting = _to_weighting(classifier.rule, len(classifier.members), len(classifier.classes))
    thresholds = classifier.decision_thresholds
    if not thresholds:
        return weighting
    return replace(
        weighting,
        is_multilabel=classifier.is_multilabel,
        thresholds=np.array(list(thresholds.values()), np.float64),
        decided=None if classifier.is_multilabel else tuple(map(classifier.classes.index, thresholds)),
    )


def _to_weighting(rule: Combiner, n_members: int, n_classes: int) -> MemberWeighting:
    """Convert a combination rule into the coefficients of the exported model's last layer."""
    from automl_cxr.model.ensemble_model import MemberWeighting

    match rule:
        case CalibratedCombiner() | CalibratedFindings():
            return replace(_to_weighting(rule.combiner, n_members, n_classes), temperature=rule.temperature)
        case WeightedAverage():
            weights = normalize_weights(rule.weights, n_members=n_members, n_classes=n_classes)
            by_class = np.broadcast_to(weights.reshape(n_members, -1), (n_members, n_classes))
            return MemberWeighting(by_class[:, :, None] * np.eye(n_classes))
        case AverageByFinding():
            return MemberWeighting(rule.weights[:, :, None] * np.eye(n_classes))
        case FindingStacking():
            return MemberWeighting(rule.coefficients.T[:, :, None] * np.eye(n_classes), rule.intercepts)
        case Stacking():
            return MemberWeighting(rule.coefficients.transpose(1, 2, 0), rule.intercepts)
    raise TypeError(f"no export for {type(rule).__name__}")


def _compare(classifier: Classifier, file: Path, file_format: str, size: int, fit: str) -> float | None:
    """Return the largest difference between the probabilities of the file, in a separate process, and of ``predict``.

    Raises:
        ExportError: The file cannot be loaded, or its probabilities differ.
    """
    if file_format == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        return None
    from automl_cxr.model.devices import full_precision

    with tempfile.TemporaryDirectory() as folder:
        if classifier.takes_features:
            drawn_rows = np.random.default_rng(0).normal(size=(_N_CHECKED, size)).astype(np.float32)
            with full_precision():
                expected = _predict_rows(classifier, drawn_rows)
            exported, *decisions = _predict_in_other_process(file, file_format, drawn_rows, Path(folder))
            return _checked_difference(classifier, file_format, exported, expected, decisions)
        drawn = draw_phantoms(Path(folder) / "phantoms", n_images=_N_CHECKED, image_size=min(2048, max(48, size * 5 // 4)))
        images = sorted(drawn.rglob("*.png"))
        with full_precision():
            expected, _ = classifier.predict(images)
        pixels = np.stack([fit_square(decode_image(image), size, fit) for image in images])[..., None].astype(np.float32)
        exported, *decisions = _predict_in_other_process(file, file_format, pixels, Path(folder))
    return _checked_difference(classifier, file_format, exported, expected, decisions)


def _predict_rows(classifier: Classifier, rows: np.ndarray) -> np.ndarray:
    """Return the probabilities of `predict` for rows of features, float32 (n, d)."""
    names = tuple(map(str, range(len(rows))))
    table = FeatureTable(Path("random rows"), names, rows, "")
    probabilities, _ = classifier.with_features(table, Path()).predict([Path(name) for name in names])
    return probabilities


def _checked_difference(
    classifier: Classifier, file_format: str, exported: np.ndarray, expected: np.ndarray, decisions: list[np.ndarray]
) -> float:
    """Return the largest difference of probabilities.

    Raises:
        ExportError: They differ too much, or the decisions do not follow from them.
    """
    difference = float(np.abs(exported - expected).max())
    thresholds = classifier.decision_thresholds
    decided = exported[:, list(map(classifier.classes.index, thresholds))] >= np.array(list(thresholds.values()))
    if thresholds and not np.array_equal(decisions, [decided]):
        raise ExportError(
            f"The decisions of an exported file must follow from its probabilities and the thresholds; those of the file of "
            f"--format {file_format} do not, and it was deleted. Choose another --format."
        )
    if not difference <= TOLERANCE:
        raise ExportError(
            f"The probabilities of an exported file must match those of `predict` to {TOLERANCE:g}; the file of --format "
            f"{file_format} differs by {difference:.1e} and was deleted. Choose another --format."
        )
    return difference


def _predict_in_other_process(file: Path, file_format: str, pixels: np.ndarray, folder: Path) -> list[np.ndarray]:
    # The script is run by its path, because it must not import this package.
    script = Path(__file__).resolve().parents[1] / "model" / "export_check.py"
    np.save(folder / "pixels.npy", pixels)
    paths = [str(path) for path in (file, folder / "pixels.npy", folder / "outputs.npz")]
    command = [sys.executable, "-P", str(script), file_format, *paths]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)  # noqa: S603 - no user input
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"The file of --format {file_format} took more than {_CHECK_SECONDS} s for {_N_CHECKED} images. Choose another "
            "--format."
        ) from error
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ExportError(f"The file of --format {file_format} cannot be loaded ({reason}). Choose another --format.")
    with np.load(folder / "outputs.npz", allow_pickle=False) as outputs:
        return [outputs[name] for name in outputs.files]


def _digest(path: Path) -> str:
    """Return the SHA-256 digest of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return sha256_of_file(path)
    hasher = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        hasher.update(f"{file.relative_to(path).as_posix()}\0".encode())
        hasher.update(bytes.fromhex(sha256_of_file(file)))
    return hasher.hexdigest()
