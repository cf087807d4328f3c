"""The result of reading a layout, one row for each image, and the accepted names of the parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from automl_cxr.data.findings import Findings
from automl_cxr.errors import DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
_SHOWN = 5
Metadata = tuple[tuple[str, str], ...]
"""Names and values of metadata of an image, such as (("sex", "female"), ("age", "77")), without unknown values."""

PART_OF_NAME = {name: part for part, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a data set. Unknown values are empty strings.

    Attributes:
        image: POSIX path relative to the root, or absolute for an image outside of it.
        label: Class name; empty if the image may have several findings.
        patient_id: Patient of the image.
        split: "train", "valid", "test" or "".
        view: Projection, as written in the table.
        findings: What is known of the image, if it may have several findings.
        metadata: Sex, age and other metadata, as ``patient_metadata.clean_value`` returns them.
    """

    image: str
    label: str
    patient_id: str = ""
    split: str = ""
    view: str = ""
    findings: Findings | None = None
    metadata: Metadata = ()


@dataclass(frozen=True)
class UsedTable:
    """The use of the columns of a table.

    Attributes:
        name: Name of the table.
        columns: Name of the column for each use: image, label, patient_id, split, view, reader, and names of metadata.
        unused: Names of the other columns.
    """

    name: str
    columns: Mapping[str, str]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawTable:
    """The result of reading a layout.

    Attributes:
        rows: All images of the data set.
        ignored: The files that are not used, with the reasons.
        notes: Sentences for the user.
        root: Folder that the paths of the rows are relative to; None for the root that was read.
        used_tables: The tables with the use of their columns.
        n_uncertain: Number of images with an uncertain label.
        n_missing: Number of images without a label.
        findings: Names of all findings, if an image may have several of them; otherwise None.
        n_unlabelled: Number of images that are not in ``rows`` because they have no label that is used.
    """

    rows: tuple[ImageRow, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    root: Path | None = None
    used_tables: tuple[UsedTable, ...] = ()
    n_uncertain: int = 0
    n_missing: int = 0
    findings: tuple[str, ...] | None = None
    n_unlabelled: int = 0


def parse_parts(names: Iterable[str], table_name: str, *, resplit: bool = False) -> dict[str, str]:
    """Translate the values of a split column to train, valid or test; an empty string is unchanged.

    Args:
        names: The values.
        table_name: Name of the table, for messages.
        resplit: Whether the parts are not used, so that other values are allowed; they become empty.

    Returns:
        The part of each different value.

    Raises:
        DataError: A value is not the name of a part.
    """
    parts = {name: PART_OF_NAME.get(name.casefold(), "") for name in set(names)}
    unknown = sorted(name for name, part in parts.items() if name and not part)
    if unknown and not resplit:
        listed = ", ".join(f"'{name}'" for name in unknown[:_SHOWN])
        raise DataError(
            f"The split column of {table_name} must contain train, valid or test; received {listed}"
            f"{', ...' if len(unknown) > _SHOWN else ''}. Rename them, or make a new split with --resplit."
        )
    return parts
