"""The numbers in the pixels of a DICOM file, and its padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.data.dicom_values import read_integer, read_name, read_number, require_integer
from automl_cxr.errors import UnreadableImageError

if TYPE_CHECKING:
    from pydicom import Dataset

PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_BITS_ALLOCATED = (1, 8, 16, 32, 64)
_REMEDY = "`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, or convert the file to an uncompressed one"


@dataclass(frozen=True)
class Frame:
    """The first frame of a DICOM file.

    Attributes:
        values: Stored numbers, (height, width), or RGB colours, (height, width, 3).
        padding: Pixels that are not part of the picture, bool (height, width); None if the file declares none.
        photometric: Photometric interpretation of the file.
        bits: Number of bits of a stored number.
    """

    values: np.ndarray
    padding: np.ndarray | None
    photometric: str
    bits: int


def complete_header(dataset: Dataset) -> None:
    """Check the elements that describe the pixels, and fill in those that follow from others.

    Raises:
        UnreadableImageError: An element is missing or invalid, or two contradict each other.
    """
    photometric = read_name(dataset, "PhotometricInterpretation")
    if photometric not in (*GREY, PALETTE, *_COLOURS):
        received = f"the PhotometricInterpretation '{photometric}'" if photometric else "no PhotometricInterpretation"
        raise UnreadableImageError(
            f"a DICOM file with {received}, where {', '.join((*GREY, PALETTE, *_COLOURS))} are supported; correct it"
        )
    dataset.PhotometricInterpretation = photometric
    n_expected = 3 if photometric in _COLOURS else 1
    n_samples = read_integer(dataset, "SamplesPerPixel")
    if n_samples not in (None, n_expected):
        raise UnreadableImageError(
            f"a DICOM file with {n_samples} samples per pixel, where {photometric} has {n_expected}; correct one of them"
        )
    dataset.SamplesPerPixel = n_expected
    allocated = require_integer(dataset, "BitsAllocated")
    if allocated not in _BITS_ALLOCATED:
        raise UnreadableImageError(
            f"a DICOM file with BitsAllocated {allocated}, where {', '.join(map(str, _BITS_ALLOCATED))} are supported; "
            "convert the file"
        )
    if "PixelData" in dataset:
        require_integer(dataset, "PixelRepresentation")
        _complete_bits(dataset, allocated)


def _complete_bits(dataset: Dataset, allocated: int) -> None:
    stored = read_integer(dataset, "BitsStored")
    dataset.BitsStored = stored = allocated if stored is None else stored
    high = read_integer(dataset, "HighBit")
    dataset.HighBit = high = stored - 1 if high is None else high
    if not 1 <= stored <= high + 1 <= allocated:
        raise UnreadableImageError(
            f"a DICOM file with BitsAllocated {allocated}, BitsStored {stored} and HighBit {high}, which contradict each "
            "other; correct them"
        )


def decode_frame(dataset: Dataset) -> Frame:
    """Decode the first frame of a data set that ``complete_header`` has checked.

    Raises:
        UnreadableImageError: No installed package decodes the compression, the position of the bits is contradictory, or all
            pixels are padding.
        Exception: Any type, for broken pixel data.
    """
    photometric = str(dataset.PhotometricInterpretation)
    name = next(name for name in PIXEL_ELEMENTS if name in dataset)
    is_integer = name == "PixelData"
    stored = int(dataset.BitsStored) if is_integer else int(dataset.BitsAllocated)
    is_shifted = is_integer and dataset.HighBit != stored - 1
    is_packed = is_integer and not dataset.file_meta.TransferSyntaxUID.is_encapsulated and dataset.BitsAllocated > 1
    if is_packed and photometric not in _COLOURS:
        cells = _decode_pixels(dataset, correct_unused_bits=False)
        values = _extract_bits(cells, stored, int(dataset.HighBit))
    elif is_shifted:
        raise UnreadableImageError(
            f"a DICOM file with HighBit {dataset.HighBit} and BitsStored {stored}, which is only supported for uncompressed "
            "grey pictures; convert the file"
        )
    else:
        cells = values = _decode_pixels(dataset)
    padding = _find_padding(dataset, name.removesuffix("PixelData"), cells, values) if photometric in GREY else None
    return Frame(values, padding, photometric, stored)


def _decode_pixels(dataset: Dataset, **options: Any) -> np.ndarray:
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_decodable = get_decoder(syntax).is_available
    except NotImplementedError:  # pydicom has no decoder for this syntax
        is_decodable = False
    if not is_decodable:
        raise UnreadableImageError(f"compressed as {syntax.name}, which no installed package decodes: {_REMEDY}")
    try:
        return pixel_array(dataset, index=0, **options)
    except (NotImplementedError, RuntimeError) as error:  # all installed decoders failed
        text = " ".join(str(error).split())
        raise UnreadableImageError(
            f"cannot be decoded as {syntax.name} ({text}); if the file is not damaged: {_REMEDY}"
        ) from error


def _extract_bits(cells: np.ndarray, stored: int, high: int) -> np.ndarray:
    """Return the numbers in bits ``high`` to ``high - stored + 1`` of each cell (DICOM PS3.5, 8.1.1). Other bits may be used.

    Raises:
        UnreadableImageError: The numbers are not in these bits.
    """
    size = 8 * cells.dtype.itemsize
    if high + 1 > stored and not (cells >> stored & (2 ** (high + 1 - stored) - 1)).any():
        raise UnreadableImageError(
            f"a DICOM file whose HighBit {high} places the numbers in the upper {stored} of {high + 1} bits, but the highest "
            f"bits of all pixels are 0; correct HighBit (to {stored - 1}, if the numbers are in the lower bits)"
        )
    if (high, stored) == (size - 1, size):
        return cells
    return np.right_shift(np.left_shift(cells, size - 1 - high), size - stored)  # shifts of signed numbers keep the sign


def _find_padding(dataset: Dataset, prefix: str, cells: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """Find the pixels from PixelPaddingValue to PixelPaddingRangeLimit (DICOM PS3.3, C.7.5.1.1.2).

    Padding may exceed the stored bits, so the complete cells are compared too.
    """
    value = read_number(dataset, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = read_number(dataset, f"{prefix}PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit])
    if values.dtype.kind != "f":  # a negative number may be written as an unsigned one of 16 bits, and the reverse
        ends = ends.astype(np.int64).astype(np.int16 if values.dtype.kind == "i" else np.uint16).astype(np.int64)
    low, high = ends.min(), ends.max()
    padding = np.logical_and(cells >= low, cells <= high) | np.logical_and(values >= low, values <= high)
    if padding.all():
        raise UnreadableImageError("all pixels are padding")
    return padding
