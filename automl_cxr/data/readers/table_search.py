"""Finds the tables of images in a folder, by their names and columns."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from automl_cxr.csv_io import read_header
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import image_folders, names_images, visible_folders
from automl_cxr.data.layout_rows import PART_OF_NAME
from automl_cxr.data.readers.metadata import METADATA_NAME
from automl_cxr.data.readers.public_sets import GENERAL, PUBLIC_SETS, TableFormat
from automl_cxr.data.readers.table_frame import (
    ROLE_OPTIONS,
    find_roles,
    is_header,
    is_table,
    names_image_files,
    read_frame,
)
from automl_cxr.data.table_columns import fold_name, list_names, match_key
from automl_cxr.errors import DataError, UnknownNameError

_MAX_FOLDERS = 50  # direct subfolders that are searched for tables


def recognises(root: Path, options: DataOptions) -> bool:
    """Return whether a table is named, or a folder contains a table of images that are not in class folders."""
    if options.labels is not None or not root.is_dir():
        return options.labels is not None or is_table(root)
    tables, has_choice = label_tables(root, options)
    if not tables or has_choice:
        return bool(tables)
    folders = _class_folders(root)
    if len(folders) < 2:
        return True
    # Two or more image folders may be class folders, which the table supplements, or only storage, such as NIH's images_001
    # and images_002. Class folders have the names of labels, and metadata.csv is always a supplement.
    return all(path.name != METADATA_NAME and not folders & _labels_in(path) for path in tables)


def _class_folders(root: Path) -> set[str]:
    """Return the names of possible class folders: below the folders train, valid and test if there are such."""
    folders = image_folders(root)
    parts = [folder for folder in folders if folder.name.casefold() in PART_OF_NAME]
    return {folder.name for part in parts for folder in image_folders(part)} or {folder.name for folder in folders}


def label_tables(root: Path, options: DataOptions) -> tuple[list[Path], bool]:
    """List the tables directly in a folder that have columns for image and label.

    Returns:
        The tables with the columns that the user chose, else all tables; and whether they have chosen columns.
    """
    tables = tables_in(root)
    chosen = [path for path in tables if _lists_images(path, options)] if _chosen_columns(options) else []
    unchosen = DataOptions(task=options.task, findings=options.findings)  # without columns
    return chosen or [path for path in tables if _lists_images(path, unchosen)], bool(chosen)


def _chosen_columns(options: DataOptions) -> set[str]:
    names = (getattr(options, option) for option in ROLE_OPTIONS.values())
    return {fold_name(name) for name in names if name is not None}


def tables_in(folder: Path) -> list[Path]:
    """List the visible tables directly in a folder; none if it cannot be listed."""
    try:
        return sorted(
            path for path in folder.iterdir() if is_table(path) and not path.name.startswith((".", "~$")) and path.is_file()
        )
    except OSError:
        return []


def _lists_images(path: Path, options: DataOptions) -> bool:
    if path.suffix.casefold() == ".txt" and not names_images(path):
        return False  # prose, such as a readme with the words images and labels
    try:
        header = read_header(path)
        keys = {match_key(name) for name in header}
        if any(public.image_folders and keys >= set(map(match_key, public.header)) for public in PUBLIC_SETS):
            return False  # its layout also checks that the images are not in class folders
        chosen = _chosen_columns(options)
        if not is_header(header, GENERAL.names):
            return len(header) > 1 and not chosen
        if not chosen <= set(map(fold_name, header)):
            return False
        found = {role for role in ("image", "label") if any(match_key(name) in _keys(role) for name in header)}
        found |= {role for role, option in ROLE_OPTIONS.items() if getattr(options, option) is not None}
        if "image" not in found and not chosen:
            return False
        if {"image", "label"} <= found:
            return True
        frame = read_frame(path, GENERAL.names)
        if not frame.n_rows or not ("image" in found or any(map(names_image_files, frame.columns))):
            return False
        return "label" in found or bool(find_roles(frame, options, lambda _: False).findings)
    except (DataError, UnknownNameError):
        return False  # it may belong to another program


def _keys(role: str) -> set[str]:
    return {match_key(name) for name in GENERAL.names[role]}


def _labels_in(table: Path) -> set[str]:
    try:
        frame = read_frame(table, GENERAL.names)
        roles = find_roles(frame, DataOptions(), lambda _: False)
    except DataError:
        return set()  # recognised, so that reading it reports the error
    names = {frame.header[place] for place in roles.findings}
    return names | set(roles.texts(frame, "label") or ())


def recognises_public(root: Path, _options: DataOptions, public: TableFormat) -> bool:
    """Return whether a path is a table of a public data set, or a folder with its first table."""
    if public.image_folders and root.is_dir():
        names = (folder.name.casefold() for folder in visible_folders(root))
        if not any(name.startswith(public.image_folders) for name in names):
            return False
    return bool(find_public(root, public))


def find_public(root: Path, public: TableFormat) -> list[tuple[Path, str]]:
    """Return the tables of a public data set with their parts; none if the first one does not exist.

    If several tables fit the same pattern, all of them are returned, except copies that differ in compression only.
    """
    files = [root] if root.is_file() else _tables_near(root)
    found: list[tuple[Path, str]] = []
    for patterns, part in public.tables:
        for pattern in patterns.split("|"):
            matching = [path for path in matching_tables(files, pattern) if _has_header(path, public)]
            if matching:
                by_name = {str(path).casefold().removesuffix(".gz"): path for path in reversed(matching)}
                found.extend((path, part) for path in sorted(by_name.values()))
                break
    required = {part for _, part in public.tables if part == "train"}
    return found if found and (root.is_file() or not required or found[0][1] == "train") else []


def matching_tables(files: Sequence[Path], patterns: str) -> list[Path]:
    """Return the files whose names match one of several patterns, which are separated by vertical bars, in their order."""
    return [
        path for pattern in patterns.split("|") for path in files if fnmatch.fnmatch(path.name.casefold(), pattern.casefold())
    ]


def _tables_near(root: Path) -> list[Path]:
    """List the tables in a folder and in its direct subfolders without subfolders, unless there are many."""
    folders = visible_folders(root)
    inside = [] if len(folders) > _MAX_FOLDERS else [folder for folder in folders if not visible_folders(folder)]
    return [*tables_in(root), *(path for folder in inside for path in tables_in(folder))]


def _has_header(path: Path, public: TableFormat) -> bool:
    try:
        header = read_header(path)
    except DataError:
        return False
    if public.positions:
        place = public.positions.index("image")
        return len(header) == len(public.positions) and not is_header([header[place]], {})
    keys = {match_key(name) for name in header}
    needed = [match_key(name) for name in public.header]
    return all(key in keys for key in needed)


def only_tables(root: Path, options: DataOptions) -> list[tuple[Path, str]]:
    """Return the only table of a folder, or one table for each part including train."""
    tables, _ = label_tables(root, options)
    parts = {path: _part_in_name(path) for path in tables}
    if len(tables) > 1 and "" not in parts.values() and len(set(parts.values())) == len(tables) and "train" in parts.values():
        return list(parts.items())
    if len(tables) != 1:
        accepted = GENERAL.names
        names = ", ".join(path.name for path in tables) or "none"
        unused = [f"{path.name} ({_names_of(path)})" for path in tables_in(root)] if not tables else []
        received = f"; other tables: {', '.join(unused[:3])}" if unused else ""
        raise DataError(
            f"The layout 'csv' needs exactly one table with columns {'|'.join(accepted['image'][:3])} and "
            f"{'|'.join(accepted['label'][:3])} in '{root}'; found {names}{received}. Name the table to use with --labels, and "
            "its columns with --path-column and --label-column."
        )
    return [(tables[0], "")]


def _names_of(path: Path) -> str:
    try:
        return list_names(read_header(path))
    except DataError:
        return "not readable"


def _part_in_name(path: Path) -> str:
    words = re.findall(r"[a-z]+", path.name.casefold())
    parts = {PART_OF_NAME[word] for word in words if word in PART_OF_NAME}
    return parts.pop() if len(parts) == 1 else ""
