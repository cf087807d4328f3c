"""A metadata.csv beside class folders: it adds to the images that were found, and lists none of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.csv_io import COLUMN_NAMES, read_table
from automl_cxr.data.files import explain_unusable, relative_path
from automl_cxr.data.layout_rows import ImageRow, RawTable, part_named

METADATA_NAME = "metadata.csv"


def join_metadata(root: Path, found: RawTable) -> RawTable:
    """Add patient, split and view from a metadata.csv in the root, by relative path.

    Raises:
        DataError: The file is no UTF-8 CSV, or names a part that is none.
    """
    path = root / METADATA_NAME
    if not path.is_file():
        return found
    columns, records = read_table(path)
    if "image" not in columns:
        wanted = "|".join(COLUMN_NAMES["image"])
        return replace(found, notes=(*found.notes, f"{METADATA_NAME} has no column {wanted} and is not used."))
    listed = {relative_path(root, record["image"]): record for record in records if record["image"]}
    rows = tuple(_with_metadata(row, listed.get(row.image, {})) for row in found.rows)
    accounted = {row.image for row in rows} | set(found.ignored)
    gone = {image: _explain_listed(root, image) for image in listed if image not in accounted}
    return RawTable(rows, {**gone, **found.ignored}, (*found.notes, *_metadata_notes(rows, listed)))


def _with_metadata(row: ImageRow, record: Mapping[str, str]) -> ImageRow:
    return replace(
        row,
        patient_id=record.get("patient_id", ""),
        split=part_named(record.get("split", ""), METADATA_NAME),
        view=record.get("view", ""),
    )


def _metadata_notes(rows: Collection[ImageRow], listed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    n_unlisted = sum(row.image not in listed for row in rows)
    if n_unlisted:
        yield (
            f"{n_unlisted} of {len(rows)} images are not listed in {METADATA_NAME}: each counts as its own patient "
            "(its image column holds paths relative to the data folder)."
        )
    told = [(row.label, listed[row.image].get("label", "")) for row in rows if row.image in listed]
    n_other = sum(label not in ("", folder) for folder, label in told)
    if n_other:
        yield f"{n_other} of {len(told)} labels in {METADATA_NAME} differ from the class folder: the folder counts."


def _explain_listed(root: Path, image: str) -> str:
    reason = explain_unusable(root / image)
    return f"listed in {METADATA_NAME} but {reason or 'not in a class folder'}"
