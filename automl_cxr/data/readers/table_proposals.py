"""Proposals of tables for a folder whose labels were not found, with the options that use them. For error messages only."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import visible_folders
from automl_cxr.data.readers.dicom_join import find_match, read_index_headers
from automl_cxr.data.readers.image_index import ImageIndex
from automl_cxr.data.readers.public_sets import GENERAL
from automl_cxr.data.readers.table_frame import MATCHING_SHARE, Frame, find_roles, read_frame, share_of_files
from automl_cxr.data.readers.table_search import tables_in
from automl_cxr.data.table_columns import list_names
from automl_cxr.errors import DataError

_OTHER_FORMATS = (".xls", ".ods", ".json", ".jsonl", ".parquet", ".feather", ".pkl", ".pickle")
_MAX_FOLDERS = 300  # below the data folder that are searched for tables
_MAX_TABLES = 20  # of a folder above; more are not those of a data set
_MAX_BYTES = 200_000_000  # of a table
_SHOWN = 3


def propose_table(root: Path) -> str:
    """Return the options that name the table near a folder that lists most of its images; empty if there is none.

    Tables below the folder and directly in the two folders above it are tried; of equal ones the first is proposed. A table
    with identifiers of DICOM headers is proposed if no table lists files.
    """
    folder = root if root.is_dir() else root.parent
    index = ImageIndex.walk(folder)
    best, proposal = (0.0, 0), ""
    tables = list(_tables_around(folder))
    headers = read_index_headers(index) if tables else {}
    for path in tables:
        try:
            frame = read_frame(path, GENERAL.names)
        except DataError:
            continue
        if len(frame.header) < 2:
            continue
        if not proposal and find_match(frame, DataOptions(), headers) is not None:
            proposal = f"--labels {shlex.quote(str(path))}{_label_column_option(frame, frame.header[0], index)}"
        for place in frame.in_order_of(GENERAL.names["image"]):
            name = frame.header[place].strip()
            found = (share_of_files(frame.columns[place], index.matches), frame.n_rows)
            if found > max(best, (MATCHING_SHARE, 0)):
                options = f"--labels {shlex.quote(str(path))} --path-column {shlex.quote(name)}"
                best, proposal = found, options + _label_column_option(frame, name, index)
    return proposal


def _label_column_option(frame: Frame, path_column: str, index: ImageIndex) -> str:
    """Return the option for the label column of a table, if it is not clear which column contains the labels."""
    try:
        find_roles(frame, DataOptions(path_column=path_column), index.matches)
    except DataError:
        return f" --label-column NAME (its columns are {list_names(frame.header)})"
    return ""


def _tables_around(folder: Path) -> Iterator[Path]:
    pending = [folder]
    for _ in range(_MAX_FOLDERS):
        if not pending:
            break
        inside = pending.pop()
        yield from tables_in(inside)
        pending.extend(reversed(visible_folders(inside)))
    for above in folder.parents[:2]:
        tables = tables_in(above)
        if len(tables) <= _MAX_TABLES:
            yield from (path for path in tables if path.stat().st_size <= _MAX_BYTES)


def describe_unused_tables(root: Path) -> str:
    """Return a sentence on the tables in a folder that cannot be used as they are, with the reasons; empty without any."""
    reasons = []
    for path in [*tables_in(root), *_other_formats_in(root)]:
        if path.suffix.casefold() in _OTHER_FORMATS:
            reasons.append(f"{path.name} (save it as CSV)")
            continue
        try:
            frame = read_frame(path, GENERAL.names)
        except DataError as error:
            reasons.append(f"{path.name} ({str(error).rstrip('.')})")
        else:
            if len(frame.header) > 1:
                reasons.append(f"{path.name} (no column that names most of the images; it has {list_names(frame.header)})")
    return f" Not used: {'; '.join(reasons[:_SHOWN])}." if reasons else ""


def _other_formats_in(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.suffix.casefold() in _OTHER_FORMATS and not path.name.startswith((".", "~"))]
