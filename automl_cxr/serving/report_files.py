"""Structured reports of predicted files, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from automl_cxr.data.decode import decoder_warnings_off, read_image_file
from automl_cxr.data.dicom import is_dicom
from automl_cxr.errors import UnreadableImageError, UsageError
from automl_cxr.io import atomic_write
from automl_cxr.results.explain.overlays import safe_name
from automl_cxr.serving.structured_report import ReportContext, check_highdicom, read_source, write_report

_REASONS_SHOWN = 3


def open_report_folder(folder: Path) -> None:
    """Create the folder of reports before the predictions start.

    Raises:
        UsageError: It contains files, cannot be created, or the package highdicom is not installed.
    """
    check_highdicom()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"Structured reports need a new or empty folder; {folder} contains files. Choose another --sr.")
    except OSError as error:
        raise UsageError(f"Cannot write into {folder} ({error.strerror or error}). Choose another --sr.") from error


def write_reports(files: Sequence[Path], probabilities: np.ndarray, context: ReportContext, folder: Path) -> list[str]:
    """Write a report for each DICOM file, named after the number and the name of the file.

    Args:
        files: The predicted files.
        probabilities: Of the files, (n, n_classes).
        context: The classifier.
        folder: Result of ``open_report_folder``.

    Returns:
        Notes: the number of reports, and reasons for files without one.

    Raises:
        UsageError: A report cannot be written.
    """
    reasons: dict[Path, str] = {}
    with decoder_warnings_off():
        for number, (file, row) in enumerate(zip(files, probabilities, strict=True), start=1):
            try:
                content = _write_one(file, row, context)
            except UnreadableImageError as error:
                reasons[file] = str(error)
                continue
            _save(folder / f"{number:04d}_{safe_name(file.stem)}_sr.dcm", content)
    named = "; ".join(f"{file}: {reason}" for file, reason in list(reasons.items())[:_REASONS_SHOWN])
    without = f" Without a report: {named}{'; ...' if len(reasons) > _REASONS_SHOWN else ''}." if reasons else ""
    return [f"Structured reports of {len(files) - len(reasons)} of {len(files)} images are in {folder}.{without}"]


def _write_one(file: Path, probabilities: np.ndarray, context: ReportContext) -> bytes:
    try:
        content = read_image_file(file)
    except OSError as error:
        raise UnreadableImageError(f"cannot be read ({error.strerror or error})") from error
    if not is_dicom(content):
        raise UnreadableImageError("not a DICOM file, to which a report could refer")
    return write_report(read_source(content), probabilities, context)


def _save(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"Cannot write {path} ({error.strerror or error}). Choose another --sr.") from error
