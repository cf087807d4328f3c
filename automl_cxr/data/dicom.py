"""DICOM files: conversion of a frame to the grey picture that a workstation shows, and patient and view from the header.

pydicom is imported in the functions that use it, so that data sets without DICOM files do not load it.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from automl_cxr.data.grayscale import check_size, finite_range, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES = (".dcm", ".dicom")
_PREAMBLE = 128  # bytes of any content before the magic bytes
_MAGIC = b"DICM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_REMEDY = "`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, or convert the file to an uncompressed one"


@dataclass(frozen=True)
class DicomTags:
    """Patient and view from a DICOM header. Unknown values are empty strings."""

    patient_id: str = ""
    view: str = ""


def read_tags(path: Path) -> DicomTags:
    """Read patient and view from a header. Both are empty for an unreadable file, which decoding reports."""
    import pydicom

    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(_PREAMBLE + len(_MAGIC))) or _is_deflated(file):
                return DicomTags()
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "ViewPosition"])
        patient_id, view = (str(header.get(tag) or "").strip() for tag in ("PatientID", "ViewPosition"))
    except Exception:  # noqa: BLE001 - pydicom raises many types of exceptions for a broken file
        return DicomTags()
    return DicomTags(patient_id, view)


def is_dicom(content: bytes) -> bool:
    """Return whether the content of a file has the magic bytes of DICOM."""
    return content[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def _is_deflated(file: BinaryIO) -> bool:
    """Return whether a whole file is compressed. pydicom would decompress such a file without a size limit.

    Only the elements of group 2 are read, which contain the transfer syntax and are never compressed. A search for the
    transfer syntax in the bytes would not be reliable, because the elements have any length and its name may occur elsewhere.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    for is_implicit in (False, True):  # pydicom reads both, though the standard allows only explicit
        with suppress(Exception):  # pydicom cannot read such a file either
            file.seek(_PREAMBLE + len(_MAGIC))
            meta = read_dataset(file, is_implicit, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                return True
    return False


def decode_dicom(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode the first frame of a DICOM file.

    The modality lookup table or rescale is applied, then the first window in the file: a VOI lookup table, else a centre and
    width. Without a window, pictures of up to 8 bits are unchanged, and pictures with more bits are scaled linearly from their
    smallest to their largest value. MONOCHROME1 is inverted, and colour is converted to grey (DICOM PS3.3, C.11.1, C.11.2,
    C.7.6.3).

    Returns:
        uint8 (height, width).

    Raises:
        UnreadableImageError: There is no image, it is too large or too small, or no installed package decodes its
            compression.
        Exception: Any type, for a broken file.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut

    if _is_deflated(io.BytesIO(content)):
        raise UnreadableImageError(
            "a deflated file, which is refused because its size is unknown before decompression; convert it to an uncompressed "
            "file, for example with `dcmconv +te` of DCMTK"
        )
    dataset = pydicom.dcmread(io.BytesIO(content))
    if not any(name in dataset for name in _PIXELS):
        raise UnreadableImageError("a DICOM file without an image")
    check_size((int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)), max_pixels)
    values = _decode_frame(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    return _convert_colours(values) if values.ndim == 3 else _convert_monochrome(values, dataset)


def _decode_frame(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_decodable = get_decoder(syntax).is_available
    except NotImplementedError:  # pydicom has no decoder for this syntax
        is_decodable = False
    if not is_decodable:
        raise UnreadableImageError(f"compressed as {syntax.name}, which no installed package decodes: {_REMEDY}")
    try:
        return pixel_array(dataset, index=0)
    except (NotImplementedError, RuntimeError) as error:  # all installed decoders failed
        text = " ".join(str(error).split())
        raise UnreadableImageError(
            f"cannot be decoded as {syntax.name} ({text}); if the file is not damaged: {_REMEDY}"
        ) from error


def _convert_colours(colours: np.ndarray) -> np.ndarray:
    shown = colours if colours.dtype == np.uint8 else window(colours, *finite_range(colours))
    return rgb_to_grey(shown[:, :, :3])


def _convert_monochrome(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply the lookup tables and the window of a file to one frame."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    is_inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    numbers = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        shown = apply_voi(np.rint(numbers).astype(np.int64), dataset)
        return window(shown, *_range_of_table(dataset), inverted=is_inverted)
    center, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
    if center is not None and width is not None and width > 0:
        return _apply_window(numbers, center, width, dataset.get("VOILUTFunction") or "LINEAR", is_inverted=is_inverted)
    low, high = finite_range(numbers)
    if dataset.BitsStored <= 8 and low >= 0 and high < 2**dataset.BitsStored:
        low, high = 0, 2**dataset.BitsStored - 1
    return window(numbers, low, high, inverted=is_inverted)


def _range_of_table(dataset: Dataset) -> tuple[float, float]:
    """Return the smallest and the largest entry of the first VOI lookup table. The bits in its descriptor may be wrong."""
    from pydicom.pixels import apply_voi

    n_entries, first_mapped, _ = dataset.VOILUTSequence[0].LUTDescriptor
    return finite_range(apply_voi(np.arange(first_mapped, first_mapped + (n_entries or 2**16)), dataset))


def _first_number(dataset: Dataset, name: str) -> float | None:
    """Return the first value of a tag with one, several or no values."""
    value = dataset.get(name)
    if value is None or isinstance(value, (str, float, int)):
        return float(value) if value not in (None, "") else None
    return float(value[0]) if len(value) else None


def _apply_window(numbers: np.ndarray, center: float, width: float, function: str, *, is_inverted: bool) -> np.ndarray:
    """Apply a window as defined by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function.upper() == "SIGMOID":
        return window(1 / (1 + np.exp(-4 * (numbers - center) / width)), 0, 1, inverted=is_inverted)
    if function.upper() == "LINEAR_EXACT":
        return window(numbers, center - width / 2, center + width / 2, inverted=is_inverted)
    # LINEAR is defined for whole numbers: a width of 256 around 128 is 0..255.
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return window(numbers, low, max(high, low + 1e-6), inverted=is_inverted)
