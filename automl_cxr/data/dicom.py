"""DICOM files: conversion of a frame to the grey picture that a workstation shows, and values of the header.

pydicom is imported in the functions that use it, so that data sets without DICOM files do not load it.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from automl_cxr.data.dicom_frame import PIXEL_ELEMENTS, complete_header, decode_frame
from automl_cxr.data.dicom_grey import to_grey
from automl_cxr.data.dicom_values import require_integer
from automl_cxr.data.file_format import HEAD_BYTES, detect_format, dicom_start
from automl_cxr.data.grayscale import check_size
from automl_cxr.data.projections import FRONTAL, LATERAL, UNKNOWN, may_be_lateral, projection_of
from automl_cxr.errors import UnreadableImageError

if TYPE_CHECKING:
    from pydicom import FileDataset


_TAGS = (
    *("PatientID", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "SeriesDescription", "ProtocolName"),
    "StudyDescription",
    *("Modality", "SOPClassUID", "BodyPartExamined"),
    *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "NumberOfFrames"),
    *("PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "InstitutionName", "Manufacturer", "ManufacturerModelName"),
)
_VIEW_OF_DIRECTION = {"A": LATERAL, "P": LATERAL, "L": FRONTAL, "R": FRONTAL}
_PICTURE_TAGS = ("Rows", "Columns", "PhotometricInterpretation")  # one of them may be missing, which decoding reports


@dataclass(frozen=True)
class DicomTags:
    """Values of a DICOM header. Unknown values are empty strings.

    Attributes:
        patient_id: PatientID.
        view: ViewPosition; if it is missing, a description of the view, "lateral" or "frontal" by the orientation, or a
            description of several views.
        modality: Modality, such as "DX".
        sop_class: SOPClassUID, the kind of object.
        photometric: PhotometricInterpretation.
        body_part: BodyPartExamined.
        instance: SOPInstanceUID, which identifies the image.
        series: SeriesInstanceUID.
        study: StudyInstanceUID.
        accession: AccessionNumber.
        sex: PatientSex.
        age: PatientAge, such as "077Y"; if it is missing, the years between PatientBirthDate and StudyDate.
        site: InstitutionName.
        scanner: Manufacturer and ManufacturerModelName.
        n_frames: NumberOfFrames; 1 if it is missing or invalid.
        has_picture: False for an object without pixels, such as a report.
        is_dicom: False for a file of another format.
    """

    patient_id: str = ""
    view: str = ""
    modality: str = ""
    sop_class: str = ""
    photometric: str = ""
    body_part: str = ""
    instance: str = ""
    series: str = ""
    study: str = ""
    accession: str = ""
    sex: str = ""
    age: str = ""
    site: str = ""
    scanner: str = ""
    n_frames: int = 1
    has_picture: bool = True
    is_dicom: bool = True


NOT_DICOM = DicomTags(is_dicom=False)


def read_tags(path: Path) -> DicomTags:
    """Read a header up to the pixels, whatever the name of the file is.

    All values are empty for a file of another format (``NOT_DICOM``), and for an unreadable file, which decoding reports.
    """
    try:
        with path.open("rb", buffering=0) as file:  # most files are read up to here, so no buffer is filled
            if not is_dicom(file.read(HEAD_BYTES)):
                return NOT_DICOM
        with path.open("rb") as file:
            return read_tags_of(file)
    except OSError:
        return NOT_DICOM


def read_tags_of(file: BinaryIO) -> DicomTags:
    """Read the header of an open DICOM file up to the pixels; all values are empty for a damaged file.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        if _is_deflated(file):
            return DicomTags()
        header = _read(file, stop_before_pixels=True, specific_tags=[*_TAGS, *_PICTURE_TAGS])
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises many types of exceptions for a broken file
        return DicomTags()
    return DicomTags(
        _text(header, "PatientID"),
        _view(header),
        _text(header, "Modality").upper(),
        _text(header, "SOPClassUID"),
        _text(header, "PhotometricInterpretation").upper(),
        _text(header, "BodyPartExamined").upper(),
        _text(header, "SOPInstanceUID"),
        _text(header, "SeriesInstanceUID"),
        _text(header, "StudyInstanceUID"),
        _text(header, "AccessionNumber"),
        sex=_text(header, "PatientSex"),
        age=_age(header),
        site=_text(header, "InstitutionName"),
        scanner=" ".join(filter(None, (_text(header, "Manufacturer"), _text(header, "ManufacturerModelName")))),
        n_frames=_count_frames(header),
        has_picture=any(name in header for name in _PICTURE_TAGS),
    )


def _text(header: FileDataset, name: str) -> str:
    try:
        return str(header.get(name) or "").strip()
    except Exception:  # noqa: BLE001 - pydicom converts a value when it is read, and raises many types of exceptions
        return ""


def _age(header: FileDataset) -> str:
    """Return the age, or whole years from the date of birth to the date of the study."""
    age, born, studied = (_text(header, name) for name in ("PatientAge", "PatientBirthDate", "StudyDate"))
    if age or not (len(born) == len(studied) == len("YYYYMMDD") and born.isdecimal() and studied.isdecimal()):
        return age
    return f"{(int(studied) - int(born)) // 10000}Y"  # month and day are the last four digits


def read_header(content: bytes) -> FileDataset:
    """Read the header of a DICOM file that ``decode_dicom`` accepts, up to the pixels.

    Raises:
        Exception: Any type, for a broken file.
    """
    return _read(io.BytesIO(content), stop_before_pixels=True)


def _count_frames(header: FileDataset) -> int:
    number = _text(header, "NumberOfFrames")
    return int(number) if number.isdecimal() else 1


def _view(header: FileDataset) -> str:
    """Return the view position, or what other elements contain about the view."""
    position = _text(header, "ViewPosition")
    if position:
        return position
    with suppress(Exception):
        return str(header.ViewCodeSequence[0].CodeMeaning)
    descriptions = [_text(header, name) for name in ("SeriesDescription", "ProtocolName", "StudyDescription")]
    for description in descriptions[:2]:  # a study has several views
        if projection_of(description) != UNKNOWN:
            return description
    with suppress(Exception):
        # The direction of the rows. In a frontal image they run to the left or the right (PS3.3 C.7.6.1.1.1).
        row_direction = str(header.PatientOrientation[0])[:1].upper()
        if row_direction in _VIEW_OF_DIRECTION:
            return _VIEW_OF_DIRECTION[row_direction]
    return next(filter(may_be_lateral, descriptions), "")


def is_dicom(content: bytes) -> bool:
    """Return whether the content of a file is that of a DICOM file, with or without a preamble."""
    return detect_format(content[:HEAD_BYTES]) == "DICOM"


def _is_deflated(file: BinaryIO) -> bool:
    """Return whether a whole file is compressed. pydicom would decompress such a file without a size limit.

    Only the elements of group 2 are read, which contain the transfer syntax and are never compressed. A search for the
    transfer syntax in the bytes would not be reliable, because the elements have any length and its name may occur elsewhere.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file.seek(0)
    start = dicom_start(file.read(HEAD_BYTES))
    for is_implicit in (False, True):  # pydicom reads both, though the standard allows only explicit
        with suppress(Exception):  # pydicom cannot read such a file either
            file.seek(start)
            meta = read_dataset(file, is_implicit, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                return True
    return False


def _read(file: BinaryIO, **options: Any) -> FileDataset:
    """Read a file with pydicom, and complete a missing transfer syntax with the encoding that pydicom detects.

    Raises:
        UnreadableImageError: The transfer syntax is missing, and the pixels are compressed.
    """
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    file.seek(0)
    dataset = pydicom.dcmread(file, force=True, **options)  # also without preamble: the caller has checked the content
    if not dataset.file_meta.get("TransferSyntaxUID"):
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise UnreadableImageError(
                "a DICOM file without TransferSyntaxUID, which names the compression of its pixels; add the element"
            )
        is_implicit, is_little_endian = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def decode_dicom(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode the first frame of a DICOM file.

    The modality lookup table or rescale is applied, then the first window in the file: a VOI lookup table, else a centre and
    width. Without a window, pictures of up to 8 bits are unchanged, and pictures with more bits are scaled linearly from their
    smallest to their largest value. MONOCHROME1 is inverted, and colour is converted to grey (DICOM PS3.3, C.11.1, C.11.2,
    C.7.6.3). Padding does not count in a window and is black, as the background (C.7.5.1.1.2).

    A missing or empty element is replaced where its value follows from others, such as HighBit from BitsStored.

    Returns:
        uint8 (height, width).

    Raises:
        UnreadableImageError: There is no image, it is too large or too small, no installed package decodes its compression, or
            an element is missing or contradictory.
        Exception: Any type, for a broken file.
    """
    if _is_deflated(io.BytesIO(content)):
        raise UnreadableImageError(
            "a deflated file, which is refused because its size is unknown before decompression; convert it to an uncompressed "
            "file, for example with `dcmconv +te` of DCMTK"
        )
    dataset = _read(io.BytesIO(content))
    if not any(name in dataset for name in PIXEL_ELEMENTS):
        raise UnreadableImageError("a DICOM file without an image")
    check_size((require_integer(dataset, "Columns"), require_integer(dataset, "Rows")), max_pixels)
    complete_header(dataset)
    return to_grey(decode_frame(dataset), dataset)
