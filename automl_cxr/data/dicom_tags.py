"""Headers of the DICOM files among the images, each read once: what is not a radiograph, views, and patients."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.arrays import split_row
from automl_cxr.data.dicom import DicomTags, read_tags
from automl_cxr.data.layout_rows import ImageRow, Metadata
from automl_cxr.data.patient_metadata import METADATA_NAMES, VIEW, clean_value
from automl_cxr.data.patients import known_patient
from automl_cxr.data.projections import UNKNOWN, projection_in_path
from automl_cxr.errors import DataError

Headers = Mapping[str, DicomTags]
"""Header of each DICOM file, by path as in ``ImageRow.image``."""

# PS3.3 C.7.3.1.1.1: computed, digital and conventional radiography, and radiofluoroscopy. DR is a retired name of DX.
RADIOGRAPHS = frozenset({"CR", "DX", "DR", "RG", "RF"})
_CAPTURES = "secondary captures"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # also the start of the classes of several frames
# Modality of kinds of objects (PS3.4 B.5), for files without the element
_MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
_CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "RIB", "STERNUM", "CLAVICLE", "HEART", "PORT CHEST")


def read_headers(root: Path, rows: Sequence[ImageRow]) -> dict[str, DicomTags]:
    """Read the headers of the DICOM files among the images, up to the pixels.

    A DICOM file is recognised by its content, as in decoding: downloaded files often have no suffix or another one. The first
    bytes of all files are read, because a few DICOM files among many pictures would otherwise have no patient.

    Args:
        root: Folder that the images' paths are relative to.
        rows: All images.
    """
    files = [row.image for row in rows if split_row(row.image)[1] is None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid values of elements that are not used
        return {image: tags for image in files if (tags := read_tags(root / image)).is_dicom}


def leave_out_other_objects(rows: Sequence[ImageRow], headers: Headers, notes: list[str]) -> list[ImageRow]:
    """Leave out DICOM objects that are not radiographs, by their headers, and add a note with their numbers by kind.

    These are objects without a picture, such as structured reports, pictures of another modality, such as CT, and secondary
    captures, such as scanned documents. A secondary capture whose modality is a radiograph's is used, as in the RSNA Pneumonia
    Challenge; others are used if there are no other images, because some exports convert everything.

    Raises:
        DataError: No image is left.
    """
    kinds = {row.image: kind_of_other(headers[row.image]) for row in rows if row.image in headers}
    captures = [image for image, kind in kinds.items() if kind == _CAPTURES]
    others = [image for image, kind in kinds.items() if kind and kind != _CAPTURES]
    if captures and len(captures) + len(others) == len(rows):
        kinds |= dict.fromkeys(captures, "")
        notes.append(
            f"All {len(captures)} images are DICOM secondary captures, which may be screenshots or scanned documents. They are "
            "used."
        )
    kept = [row for row in rows if not kinds.get(row.image)]
    if len(kept) == len(rows):
        return kept
    listed = ", ".join(f"{n} {kind}" for kind, n in Counter(filter(None, kinds.values())).most_common())
    if not kept:
        raise DataError(
            f"A data set needs radiographs (DICOM modalities {', '.join(sorted(RADIOGRAPHS))}); received {listed}. Name the "
            "folder of the radiographs, or convert the images to PNG files to use them."
        )
    notes.append(
        f"{len(rows) - len(kept)} of {len(rows)} files are not radiographs by their DICOM headers and are not used: {listed}."
    )
    return kept


def kind_of_other(tags: DicomTags) -> str:
    """Return the kind of an object that is not a radiograph; "" for a radiograph and for what is unknown."""
    if tags.modality in RADIOGRAPHS:
        return ""
    if not tags.has_picture:
        if tags.modality == "SR":
            return "structured reports (SR)"
        is_damaged = not tags.modality and not tags.sop_class  # which decoding reports
        return "" if is_damaged else f"objects without a picture ({tags.modality or 'unknown modality'})"
    if tags.sop_class.startswith(_SECONDARY_CAPTURE):
        return _CAPTURES
    modality = tags.modality
    if modality in ("", "OT"):  # removed by an anonymisation, or written by a conversion
        modality = _MODALITY_OF_CLASS.get(tags.sop_class, "")
    return f"{modality} images" if modality else ""


def fill_views(rows: Sequence[ImageRow], headers: Headers) -> list[ImageRow]:
    """Fill in missing views from the headers, else from words of the paths."""
    return [row if row.view else replace(row, view=_find_view(row.image, headers)) for row in rows]


def _find_view(image: str, headers: Headers) -> str:
    view = headers[image].view if image in headers else ""
    if view:
        return view
    named = projection_in_path(image)
    return "" if named == UNKNOWN else named


def fill_metadata(rows: Sequence[ImageRow], headers: Headers) -> list[ImageRow]:
    """Add sex, age, site and scanner from the headers where a table does not state them, and the projection."""
    return [replace(row, metadata=_complete_metadata(row, headers.get(row.image))) for row in rows]


def _complete_metadata(row: ImageRow, tags: DicomTags | None) -> Metadata:
    stated = {VIEW: clean_value(VIEW, row.view), **dict(row.metadata)}
    found = {} if tags is None else {name: clean_value(name, getattr(tags, name)) for name in METADATA_NAMES}
    return tuple((name, text) for name, text in (found | stated).items() if text)


def fill_patients(rows: Sequence[ImageRow], headers: Headers, notes: list[str]) -> list[ImageRow]:
    """Fill in missing patients from the headers.

    Args:
        rows: All images.
        headers: Headers of the DICOM files among them.
        notes: Notes for the user, to which a note may be appended.

    Returns:
        The completed rows in the same order.
    """
    filled = [
        row
        if known_patient(row.patient_id) or row.image not in headers
        else replace(row, patient_id=known_patient(headers[row.image].patient_id))
        for row in rows
    ]
    named = [after.patient_id for before, after in zip(rows, filled, strict=True) if after is not before and after.patient_id]
    if len(named) < 2 or len(set(named)) > 1:
        return filled
    # Anonymisation may write the same id to all files. With a single patient no split would be possible.
    notes.append(
        f"All {len(named)} DICOM files with a patient have the same one, '{named[0]}', so patients are treated as unknown."
    )
    return [replace(after, patient_id=before.patient_id) for before, after in zip(rows, filled, strict=True)]


def count_header_values(headers: Iterable[DicomTags]) -> dict[str, dict[str, int]]:
    """Count DICOM files by modality, view, photometric interpretation and body part, the most frequent value first."""
    tags = list(headers)
    columns = {"modality": "modality", "view": "view", "photometric interpretation": "photometric", "body part": "body_part"}
    if not tags:
        return {}
    return {
        title: dict(Counter(getattr(one, name) or "(empty)" for one in tags).most_common()) for title, name in columns.items()
    }


def is_chest_part(body_part: str) -> bool:
    """Return whether a BodyPartExamined, in upper case, is a part of the chest."""
    return any(name in body_part for name in _CHEST_PARTS)


def note_other_body_parts(rows: Sequence[ImageRow], headers: Headers, notes: list[str]) -> None:
    """Add a note on DICOM files of another body part than the chest. They are used, because the element is often wrong."""
    parts = Counter(headers[row.image].body_part for row in rows if row.image in headers)
    others = {part: n for part, n in parts.most_common() if part and not is_chest_part(part)}
    if others:
        listed = ", ".join(f"{n} {part}" for part, n in others.items())
        notes.append(
            f"DICOM files with another body part than the chest are used: {listed}. Remove those that do not show a chest."
        )
