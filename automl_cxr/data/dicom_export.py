"""Messages for DICOM exports without labels: what was found, and which table of labels is needed."""

from __future__ import annotations

from collections.abc import Collection

from automl_cxr.data.dicom import DicomTags
from automl_cxr.data.dicom_tags import count_header_values
from automl_cxr.data.readers.dicom_join import ELEMENTS

_DICOM_SHARE = 0.5  # of the files, from which a folder is an export
_ELEMENTS_SHOWN = ("modality", "view")
TABLE_OF_LABELS = (
    f"with --labels FILE, whose columns are the label and what identifies an image: its file name or path, "
    f"{', '.join(ELEMENTS[:-1])} or {ELEMENTS[-1]}"
)


def describe_export(headers: Collection[DicomTags], n_files: int) -> str:
    """Describe DICOM files by their patients and the values of some elements; "" if few of the files are DICOM files."""
    if not headers or len(headers) < _DICOM_SHARE * n_files:
        return ""
    n_patients = len({tags.patient_id for tags in headers if tags.patient_id})
    counts = count_header_values(headers)
    elements = "; ".join(
        f"{element} {', '.join(f'{value} {n}' for value, n in counts[element].items())}" for element in _ELEMENTS_SHOWN
    )
    return f"{len(headers)} DICOM files of {n_patients or 'unknown'} patients ({elements})"
