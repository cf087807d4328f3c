"""Patients and views from DICOM headers, for images whose table does not contain them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.arrays import split_row
from automl_cxr.data.dicom import read_tags
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.data.patients import known_patient


def fill_from_headers(root: Path, rows: Sequence[ImageRow], notes: list[str], *, with_patients: bool) -> list[ImageRow]:
    """Read missing patients and views from the headers of the DICOM files among the images.

    A DICOM file is recognised by its content, as in decoding: downloaded files often have no suffix or another one.

    Args:
        root: Folder that the images' paths are relative to.
        rows: All images.
        notes: Notes for the user, to which a note may be appended.
        with_patients: False if patients come from another source.

    Returns:
        The completed rows in the same order.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid values that do not affect patient or view
        filled = [_fill(root, row, with_patients=with_patients) for row in rows]
    found = [after.patient_id for before, after in zip(rows, filled, strict=True) if after.patient_id != before.patient_id]
    named = [patient for patient in found if patient]
    if len(named) < 2 or len(set(named)) > 1:
        return filled
    # Anonymisation may write the same id to all files. With a single patient no split would be possible.
    notes.append(
        f"All {len(named)} DICOM files with a patient have the same one, '{named[0]}', so patients are treated as unknown."
    )
    return [replace(after, patient_id=before.patient_id) for before, after in zip(rows, filled, strict=True)]


def _fill(root: Path, row: ImageRow, *, with_patients: bool) -> ImageRow:
    lacks_patient = with_patients and not known_patient(row.patient_id)
    if (row.view and not lacks_patient) or split_row(row.image)[1] is not None:
        return row
    tags = read_tags(root / row.image)
    patient_id = known_patient(tags.patient_id) if lacks_patient else row.patient_id
    return replace(row, patient_id=patient_id, view=row.view or tags.view)
