"""What a layout says of a data set: a row an image, and the words for its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from automl_cxr.errors import DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
PART_OF_NAME = {name: part for part, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class ImageRow:
    """What a layout knows of one image. Text that is not known is empty.

    Attributes:
        image: Posix path relative to the root, or absolute for an image that lies outside of it.
        label: Class name.
        patient_id: Whose image it is.
        split: "train", "valid", "test" or "".
        view: Projection, in the words of the table.
    """

    image: str
    label: str
    patient_id: str = ""
    split: str = ""
    view: str = ""


@dataclass(frozen=True)
class RawTable:
    """All images that a layout found, with the files it left out (path to reason) and what the user should hear."""

    rows: tuple[ImageRow, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def part_named(name: str, table_name: str) -> str:
    """Translate the word of a split column to train, valid or test; empty stays empty.

    Raises:
        DataError: The word is no name of a part.
    """
    if name and name.casefold() not in PART_OF_NAME:
        raise DataError(
            f"The split column of {table_name} must say train, valid or test; received '{name}'. "
            "Rename it, or remove the column to have a split made."
        )
    return PART_OF_NAME[name.casefold()] if name else ""
