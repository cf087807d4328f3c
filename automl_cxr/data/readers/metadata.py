"""The file metadata.csv beside class folders: it adds patient, split, view and metadata such as the sex, but no images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import explain_unusable, relative_path
from automl_cxr.data.layout_rows import ImageRow, RawTable, parse_parts
from automl_cxr.data.patient_metadata import clean_value, metadata_columns
from automl_cxr.data.table_columns import COLUMN_NAMES, read_table
from automl_cxr.errors import DataError

METADATA_NAME = "metadata.csv"


def join_metadata(root: Path, found: RawTable, options: DataOptions) -> RawTable:
    """Add patient, split, view and metadata from metadata.csv in the root to the images, matched by relative path.

    Raises:
        DataError: The file is not valid CSV in UTF-8, its split column contains an unknown part, or an
            image has rows with different entries.
    """
    path = root / METADATA_NAME
    if not path.is_file():
        return found
    columns, records = read_table(path, lambda header: metadata_columns(header, options))
    if "image" not in columns:
        names = "|".join(COLUMN_NAMES["image"][:3])
        return replace(found, notes=(*found.notes, f"{METADATA_NAME} has no column {names} and is not used."))
    listed = _by_image(root, records)
    part_of = parse_parts((record.get("split", "") for record in listed.values()), METADATA_NAME, resplit=options.resplit)
    rows = tuple(_with_metadata(row, listed.get(row.image, {}), part_of) for row in found.rows)
    known = {row.image for row in rows} | set(found.ignored)
    missing = {image: _explain_listed(root, image) for image in listed if image not in known}
    return RawTable(rows, {**missing, **found.ignored}, (*found.notes, *_metadata_notes(rows, listed)))


def _by_image(root: Path, records: Iterable[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Return the record of each image.

    Raises:
        DataError: An image has several records with different entries.
    """
    listed: dict[str, Mapping[str, str]] = {}
    for record in records:
        if record["image"]:
            image = relative_path(root, record["image"])
            entries = {column: text for column, text in record.items() if column != "image"}
            earlier = listed.setdefault(image, entries)
            if any(earlier.get(column) != entries.get(column) for column in COLUMN_NAMES):
                raise DataError(
                    f"{METADATA_NAME} must have one row for each image; received rows with different entries for '{image}' in "
                    f"'{root}'. Remove the wrong ones."
                )
            listed[image] = {column: text if entries[column] == text else "" for column, text in earlier.items()}
    return listed


def _with_metadata(row: ImageRow, record: Mapping[str, str], part_of: Mapping[str, str]) -> ImageRow:
    return replace(
        row,
        patient_id=record.get("patient_id", ""),
        split=part_of.get(record.get("split", ""), ""),
        view=record.get("view", ""),
        metadata=tuple(
            (name, text) for name in record if name not in COLUMN_NAMES and (text := clean_value(name, record[name]))
        ),
    )


def _metadata_notes(rows: Collection[ImageRow], listed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    n_unlisted = sum(row.image not in listed for row in rows)
    if n_unlisted:
        yield (
            f"{n_unlisted} of {len(rows)} images are not listed in {METADATA_NAME}, so they have no patient. "
            "The image column must contain paths relative to the data folder."
        )
    labels = [(row.label, listed[row.image].get("label", "")) for row in rows if row.image in listed]
    n_other = sum(label not in ("", folder) for folder, label in labels)
    if n_other:
        yield f"{n_other} of {len(labels)} labels in {METADATA_NAME} differ from the class folder. The folder is used."


def _explain_listed(root: Path, image: str) -> str:
    reason = explain_unusable(root / image)
    return f"listed in {METADATA_NAME} but {reason or 'not in a class folder'}"
