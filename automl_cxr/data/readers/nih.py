"""NIH ChestX-ray14 in its original form: images in twelve folders, a CSV file of labels, and two lists of parts.

The original CSV file has CRLF line ends and eleven column names in twelve fields: ``OriginalImage[Width,Height]`` is split at
its comma, and the header ends in a comma. Its rows have eleven fields. It is the only table whose rows may be shorter than
the header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from automl_cxr.data.files import visible_folders, walk_images
from automl_cxr.data.layout_rows import ImageRow, RawTable
from automl_cxr.data.table_columns import Columns, read_columns, read_table
from automl_cxr.errors import DataError

_COLUMNS: Columns = {
    "image": ("image index",),
    "label": ("finding labels",),
    "patient_id": ("patient id",),
    "view": ("view position",),
}
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}  # the validation part is made from train
_LABEL_SEPARATOR = "|"


def recognises(root: Path) -> bool:
    """Return whether the root is a label table of ChestX-ray14, or a folder with such a table and image folders."""
    if not root.is_dir():
        return _is_entry_table(root)
    return any(folder.name.casefold().startswith("images") for folder in visible_folders(root)) and bool(_entry_tables(root))


def _entry_tables(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("Data_Entry*.csv")) if _is_entry_table(path)]


def _is_entry_table(path: Path) -> bool:
    try:
        return path.suffix.casefold() == ".csv" and {"image", "label"} <= read_columns(path, _COLUMNS).keys()
    except DataError:
        return False


def read(root: Path) -> RawTable:
    """Read the listed images that are on disk and have exactly one label.

    Raises:
        DataError: There is no label table, or more than one; or none of its images is on disk.
    """
    table = _only_entry_table(root)
    records = read_table(table, _COLUMNS, empty_last_name=True)[1]
    listed = {record["image"].strip(): record for record in records if record["image"]}
    path_of, ignored = _find_images(table.parent)
    present = [name for name in listed if name in path_of]
    if not present:
        raise DataError(
            f"The images in '{table}' must be in folders beside it, with the names in the column Image Index; found none "
            f"of {len(listed)}, such as '{next(iter(listed), '')}'. Unpack the images there."
        )
    single = [name for name in present if _is_single(listed[name]["label"])]
    part_of = _read_lists(table.parent)
    rows = tuple(_row(path_of[name], listed[name], part_of.get(name, "")) for name in single)
    notes = [*_notes(table.name, listed, path_of, present)]
    if part_of and part_of.keys().isdisjoint(present):
        notes.append(f"None of the images is in {' or '.join(_LISTS)}, so a split is made.")
    return RawTable(rows, ignored, tuple(notes))


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


def _row(path: str, record: Mapping[str, str], part: str) -> ImageRow:
    return ImageRow(path, record["label"], record.get("patient_id", ""), part, record.get("view", ""))


def _notes(
    table: str, listed: Mapping[str, Mapping[str, str]], path_of: Mapping[str, str], present: Sequence[str]
) -> Iterator[str]:
    if len(present) < len(listed):
        yield f"{len(listed) - len(present)} of {len(listed)} images in {table} are not on disk."
    if len(present) < len(path_of):
        yield f"{len(path_of) - len(present)} of {len(path_of)} images on disk are not listed in {table} and are not used."
    kinds = Counter(bool(listed[name]["label"]) for name in present if not _is_single(listed[name]["label"]))
    if kinds[True]:
        yield f"{kinds[True]} of {len(present)} images have several labels and are not used: an image needs exactly one label."
    if kinds[False]:
        yield f"{kinds[False]} of {len(present)} images have no label in {table} and are not used."


def _is_single(label: str) -> bool:
    return bool(label) and _LABEL_SEPARATOR not in label
