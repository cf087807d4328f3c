"""Patients and views out of DICOM headers, for images of which nothing else says them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.dicom import DICOM_SUFFIXES, read_tags
from automl_cxr.data.layout_rows import ImageRow


def fill_from_headers(root: Path, rows: Sequence[ImageRow], notes: list[str], *, with_patients: bool) -> list[ImageRow]:
    """Read the headers of the DICOM files among the images that lack a patient or a view.

    Args:
        root: Folder that the images' paths are relative to.
        rows: All images.
        notes: What the user should hear; added to.
        with_patients: False where patients are named in another way.

    Returns:
        The rows in their order.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on values that a standard forbids and that say nothing of patient or view
        filled = [_fill(root, row, with_patients=with_patients) if _is_dicom_name(row.image) else row for row in rows]
    named = [after.patient_id for before, after in zip(rows, filled, strict=True) if after.patient_id != before.patient_id]
    if len(named) < 2 or len(set(named)) > 1:
        return filled
    # Whoever made the files anonymous may have given them all one word; one patient could not be split either.
    notes.append(f"All {len(named)} DICOM files that could say so name one patient, '{named[0]}': taken for unknown.")
    return [replace(after, patient_id=before.patient_id) for before, after in zip(rows, filled, strict=True)]


def _is_dicom_name(image: str) -> bool:
    return image.lower().endswith(DICOM_SUFFIXES)


def _fill(root: Path, row: ImageRow, *, with_patients: bool) -> ImageRow:
    lacks_patient = with_patients and not row.patient_id
    if row.view and not lacks_patient:
        return row
    tags = read_tags(root / row.image)
    return replace(row, patient_id=tags.patient_id if lacks_patient else row.patient_id, view=row.view or tags.view)
