"""Values of DICOM elements that may be missing, empty or invalid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from automl_cxr.errors import UnreadableImageError

if TYPE_CHECKING:
    from pydicom import Dataset


def read_number(dataset: Dataset, name: str) -> float | None:
    """Return the number in an element, the first of several; None if the element is missing or empty.

    Raises:
        UnreadableImageError: The value is not a finite number.
    """
    first = _first_value(dataset, name)
    if first is None:
        return None
    try:
        number = float(first)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UnreadableImageError(f"a DICOM file whose {name} is {first!r}, not a number; correct the element")
    return number


def read_integer(dataset: Dataset, name: str) -> int | None:
    """Return the whole number in an element, the first of several; None if the element is missing or empty.

    Raises:
        UnreadableImageError: The value is not a whole number.
    """
    number = read_number(dataset, name)
    if number is not None and number != int(number):
        raise UnreadableImageError(f"a DICOM file whose {name} is {number}, not a whole number; correct the element")
    return None if number is None else int(number)


def require_integer(dataset: Dataset, name: str) -> int:
    """Return the whole number in an element that a picture needs.

    Raises:
        UnreadableImageError: The element is missing, empty or not a whole number.
    """
    number = read_integer(dataset, name)
    if number is None:
        raise UnreadableImageError(f"a DICOM file without {name}, which the picture needs; add the element")
    return number


def read_name(dataset: Dataset, name: str) -> str:
    """Return the code in an element in upper case without outer spaces, the first of several; "" if it is missing or empty."""
    first = _first_value(dataset, name)
    return "" if first is None else str(first).strip(" \0").upper()


def _first_value(dataset: Dataset, name: str) -> Any:
    try:
        value = dataset.get(name)
    except Exception as error:  # pydicom converts a value when it is read, and raises many types of exceptions
        text = " ".join(str(error).split())
        raise UnreadableImageError(f"a DICOM file whose {name} cannot be read ({text}); correct the element") from error
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        value = value[0] if len(value) else None
    return None if value is None or value in ("", b"") else value
