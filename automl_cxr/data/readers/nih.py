"""NIH ChestX-ray14 in its original form: images in twelve folders, a CSV file of labels, and two lists of parts.

The original CSV file has CRLF line ends and eleven column names in twelve fields: ``OriginalImage[Width,Height]`` is split at
its comma, and the header ends in a comma. Its rows have eleven fields. It is the only table whose rows may be shorter than
the header.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from automl_cxr.csv_io import read_header
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import visible_folders, walk_images
from automl_cxr.data.layout_rows import ImageRow, RawTable, UsedTable
from automl_cxr.data.readers.findings import from_texts, settle_labels
from automl_cxr.data.table_columns import Columns, read_columns, read_table
from automl_cxr.errors import DataError

_COLUMNS: Columns = {
    "image": ("image index",),
    "label": ("finding labels",),
    "patient_id": ("patient id",),
    "view": ("view position",),
    "split": (),
}
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}  # the validation part is made from train
_TABLES = ("Data_Entry*.csv", "sample_labels.csv")


def recognises(root: Path, _options: DataOptions) -> bool:
    """Return whether the root is a label table of ChestX-ray14, or a folder with such a table and image folders."""
    if not root.is_dir():
        return _is_entry_table(root)
    return any(folder.name.casefold().startswith(("images", "sample")) for folder in visible_folders(root)) and bool(
        _entry_tables(root)
    )


def _entry_tables(root: Path) -> list[Path]:
    return [path for pattern in _TABLES for path in sorted(root.glob(pattern)) if _is_entry_table(path)]


def _is_entry_table(path: Path) -> bool:
    try:
        return path.suffix.casefold() == ".csv" and {"image", "label"} <= read_columns(path, _COLUMNS).keys()
    except DataError:
        return False


def read(root: Path, options: DataOptions) -> RawTable:
    """Read the listed images that are on disk.

    Raises:
        DataError: There is no label table, or more than one; none of its images is on disk; or images have several findings and
            none is chosen.
        UnknownNameError: The chosen finding does not exist.
    """
    table = _only_entry_table(root)
    columns, records = read_table(table, _COLUMNS, empty_last_name=True)
    listed = {record["image"].strip(): record for record in records if record["image"]}
    path_of, ignored = _find_images(table.parent)
    present = [name for name in listed if name in path_of]
    if not present:
        raise DataError(
            f"The images in '{table}' must be in folders beside it, with the names in the column Image Index; found none "
            f"of {len(listed)}, such as '{next(iter(listed), '')}'. Unpack the images there."
        )
    settled = settle_labels(from_texts([listed[name]["label"] for name in present]), options, table.name)
    part_of = _read_lists(table.parent)
    rows = tuple(
        _row(path_of[name], label, listed[name], part_of.get(name, ""))
        for name, label in zip(present, settled.labels, strict=True)
        if label
    )
    notes = [*_notes(table.name, listed, path_of, present), *settled.notes]
    if part_of and part_of.keys().isdisjoint(present):
        notes.append(f"None of the images is in {' or '.join(_LISTS)}, so a split is made.")
    unused = [name.strip() for name in read_header(table) if name not in columns.values() and name.strip()]
    used = UsedTable(table.name, {role: name.strip() for role, name in columns.items()}, tuple(unused))
    return RawTable(
        rows,
        ignored,
        tuple(notes),
        used_tables=(used,),
        n_uncertain=settled.n_uncertain,
        n_missing=settled.n_missing,
    )


def _only_entry_table(root: Path) -> Path:
    tables = _entry_tables(root) if root.is_dir() else [root] if _is_entry_table(root) else []
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            "The layout 'nih' needs exactly one table Data_Entry*.csv with columns Image Index and Finding Labels in "
            f"'{root}'; found {names}. Name the CSV file to use."
        )
    return tables[0]


def _find_images(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Walk the folder. Return file name to path of each image, and path to reason of each file that is not used."""
    path_of: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for path, reason in walk_images(folder):
        first = path_of.setdefault(path.rpartition("/")[2], path) if not reason else path
        if reason or first != path:
            ignored[path] = reason or f"another file of the same name is used, {first}"
    return path_of, ignored


def _read_lists(folder: Path) -> dict[str, str]:
    """Read the part of each image from the existing lists; an image on both lists is in the test part."""
    part_of: dict[str, str] = {}
    for name, part in _LISTS.items():
        path = folder / name
        if path.is_file():
            part_of |= dict.fromkeys(path.read_text(encoding="utf-8", errors="replace").split(), part)
    return part_of


def _row(path: str, label: str, record: Mapping[str, str], part: str) -> ImageRow:
    return ImageRow(path, label, record.get("patient_id", ""), part, record.get("view", ""))


def _notes(
    table: str, listed: Mapping[str, Mapping[str, str]], path_of: Mapping[str, str], present: Sequence[str]
) -> Iterator[str]:
    if len(present) < len(listed):
        yield f"{len(listed) - len(present)} of {len(listed)} images in {table} are not on disk."
    if len(present) < len(path_of):
        yield f"{len(path_of) - len(present)} of {len(path_of)} images on disk are not listed in {table} and are not used."
    n_unlabelled = sum(not listed[name]["label"] for name in present)
    if n_unlabelled:
        yield f"{n_unlabelled} of {len(present)} images have no label in {table} and are not used."
