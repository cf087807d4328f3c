"""Auditing a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from automl_cxr.data.audit.cleaning import clean_table
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data_audit import audit_dataset
from automl_cxr.errors import UsageError
from automl_cxr.results.tables import safe_cells
from automl_cxr.study.data_preparation import OnProgress


def audit(
    data: str | os.PathLike[str],
    *,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
    patients: str | None = None,
    fix: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
) -> Audit:
    """Look for what makes scores on a data set mean less than they seem to: copies, leaks between parts and shortcuts.

    Args:
        data: Folder or table of images.
        layout: Name of the data's layout; found by itself when None.
        classes: Classes to use, in the order of their indices.
        patients: Regular expression that finds the patient in a file name.
        fix: CSV file to write a cleaned table to; beside it ``NAME.changes.csv`` says what was changed and why.
        on_progress: Told (images decoded, images in all) while decoding.

    Returns:
        What was found; its ``duplicates``, ``conflicts``, ``across_parts``, ``patients_across_parts``, ``traits`` and
        ``burnt_in_text`` are DataFrames, its ``shortcut`` the baseline, its ``warnings`` sentences.

    Raises:
        UsageError: An unknown layout or class, or a table that cannot be written or is the audited one.
        DataError: The data cannot serve.
    """
    if fix is not None and Path(fix).resolve() == Path(data).resolve():  # its other columns and its changes file would be lost
        raise UsageError(f"A cleaned table does not replace the table that was audited; received {fix}. Name another --fix.")
    dataset = load_dataset(os.fspath(data), layout=layout, classes=classes, patients=patients)
    found = audit_dataset(dataset, on_progress=on_progress)
    if fix is not None:
        out = Path(fix).absolute()
        cleaned = clean_table(dataset, found, beside=out.parent)
        _write_csv(cleaned.table, out)
        _write_csv(cleaned.changes, changes_file(out))
    return found


def changes_file(fixed: Path) -> Path:
    """Name the file that says what was changed for a cleaned table."""
    return fixed.with_suffix(".changes.csv")


def _write_csv(table: pd.DataFrame, file: Path) -> None:
    try:
        safe_cells(table).to_csv(file, index=False)
    except OSError as error:
        raise UsageError(f"Cannot write {file} ({error.strerror or error}). Name another --fix.") from error
