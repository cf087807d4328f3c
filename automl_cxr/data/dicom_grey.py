"""Conversion of the numbers in a DICOM file to the grey levels that a workstation shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from automl_cxr.data.dicom_frame import GREY, PALETTE, Frame
from automl_cxr.data.dicom_values import read_name, read_number
from automl_cxr.data.grayscale import finite_range, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

if TYPE_CHECKING:
    from pydicom import Dataset

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def to_grey(frame: Frame, dataset: Dataset) -> np.ndarray:
    """Apply the lookup tables and the window of a file to one frame.

    Returns:
        uint8 (height, width); 0 in padding.
    """
    if frame.photometric not in GREY:
        return _convert_colours(frame, dataset)
    shown = _apply_window_or_table(frame, dataset)
    if frame.padding is not None:
        shown[frame.padding] = 0
    return shown


def _convert_colours(frame: Frame, dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(frame.values, dataset) if frame.photometric == PALETTE else frame.values
    shown = colours if colours.dtype == np.uint8 else window(colours, *finite_range(colours))
    return rgb_to_grey(shown[:, :, :3])


def _apply_window_or_table(frame: Frame, dataset: Dataset) -> np.ndarray:
    is_inverted = frame.photometric == "MONOCHROME1"
    numbers, numbers_of_8_bits = _apply_modality(frame, dataset)
    table = _first_table(dataset, "VOILUTSequence")
    if table is not None:
        return window(table.apply(numbers), *finite_range(table.entries), inverted=is_inverted)
    center, width = read_number(dataset, "WindowCenter"), read_number(dataset, "WindowWidth")
    if center is not None and width is not None and width > 0:
        return _apply_window(numbers, center, width, _read_function(dataset), is_inverted=is_inverted)
    low, high = numbers_of_8_bits or finite_range(numbers, excluded=frame.padding)
    return window(numbers, low, high, inverted=is_inverted)


def _apply_modality(frame: Frame, dataset: Dataset) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Apply the modality lookup table, or the rescale slope and intercept.

    Returns:
        The numbers; and for unsigned numbers of up to 8 bits the values of the darkest and the brightest possible pixel.
    """
    values = frame.values
    is_8_bits = values.dtype.kind != "f" and frame.bits <= 8 and values.min() >= 0
    table = _first_table(dataset, "ModalityLUTSequence")
    if table is not None:
        return table.apply(values), None
    slope, intercept = read_number(dataset, "RescaleSlope"), read_number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise UnreadableImageError("a DICOM file with RescaleSlope 0, which makes all pixels equal; correct the element")
    ends = sorted(end * slope + intercept for end in (0, 2**frame.bits - 1))
    numbers = values if (slope, intercept) == (1, 0) else values.astype(np.float64) * slope + intercept
    return numbers, (ends[0], ends[1]) if is_8_bits else None


# Lookup tables


@dataclass(frozen=True)
class _LookupTable:
    """A lookup table: the number ``first`` is mapped to the first entry; numbers out of range to the nearest entry."""

    first: int
    entries: np.ndarray

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.rint(numbers).astype(np.int64) - self.first
        return self.entries[np.clip(rows, 0, len(self.entries) - 1)]


def _first_table(dataset: Dataset, sequence: str) -> _LookupTable | None:
    """Return the first lookup table in a sequence; None if the sequence is missing, or contains empty items only.

    ``pydicom.pixels.apply_voi`` is not used, because it truncates the row number to 8 bits for entries of 8 bits.

    Raises:
        UnreadableImageError: The table is incomplete.
    """
    for item in dataset.get(sequence) or ():
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if not descriptor and data in (None, b"", []):
            continue
        try:
            n_entries, first, bits = (int(number) for number in descriptor)
        except (TypeError, ValueError) as error:
            raise UnreadableImageError(f"a DICOM file whose {sequence} has no valid LUTDescriptor; correct it") from error
        n_entries = n_entries % 2**16 or 2**16  # 0 means 65536, and larger numbers may be read as negative ones
        entries = _unpack_entries(data, n_entries, bits, is_little_endian=dataset.file_meta.TransferSyntaxUID.is_little_endian)
        if len(entries) < n_entries:
            raise UnreadableImageError(
                f"a DICOM file whose {sequence} has {len(entries)} of {n_entries} entries in LUTData; correct it"
            )
        return _LookupTable(first, entries[:n_entries])
    return None


def _unpack_entries(data: object, n_entries: int, bits: int, *, is_little_endian: bool) -> np.ndarray:
    """Convert LUTData, bytes or numbers of 16 bits, to entries. Two entries of 8 bits may share a number."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little_endian else ">u2")
    else:
        words = np.atleast_1d(np.array([] if data is None else data, dtype=np.int64)) % 2**16
    if len(words) < n_entries and bits <= 8:
        return words.astype("<u2").view(np.uint8)  # the first entry is in the lower byte
    return words.astype(np.uint16)


# Windows


def _read_function(dataset: Dataset) -> str:
    function = read_name(dataset, "VOILUTFunction") or _FUNCTIONS[0]
    if function not in _FUNCTIONS:
        raise UnreadableImageError(
            f"a DICOM file with the VOILUTFunction '{function}', where {', '.join(_FUNCTIONS)} are supported; correct it"
        )
    return function


def _apply_window(numbers: np.ndarray, center: float, width: float, function: str, *, is_inverted: bool) -> np.ndarray:
    """Apply a window as defined by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return window(1 / (1 + np.exp(-4 * (numbers - center) / width)), 0, 1, inverted=is_inverted)
    if function == "LINEAR_EXACT" or width < 1:  # LINEAR is not defined for widths below 1
        return window(numbers, center - width / 2, center + width / 2, inverted=is_inverted)
    # LINEAR is defined for whole numbers: a width of 256 around 128 is 0..255.
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return window(numbers, low, max(high, low + 1e-6), inverted=is_inverted)
