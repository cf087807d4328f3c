"""Class folders, directly or in folders train, valid and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from automl_cxr.csv_io import read_header
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import image_folders, visible_folders, walk_images
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow, RawTable
from automl_cxr.data.readers.metadata import join_metadata
from automl_cxr.errors import DataError


def recognises_folders(root: Path, _options: DataOptions) -> bool:
    """Return whether a folder has subfolders with images."""
    return bool(image_folders(root))


def read_folders(root: Path, options: DataOptions) -> RawTable:
    """Read the images below a root; the first folder in a path is the class.

    Raises:
        DataError: The root is a file.
    """
    rows, ignored = [], {}
    for path, reason in walk_root(root):
        label, _, below = path.partition("/")
        if reason or not below:
            ignored[path] = reason or "not in a class folder"
        else:
            rows.append(ImageRow(path, label))
    return join_metadata(root, RawTable(tuple(rows), ignored), options)


def recognises_split_folders(root: Path, _options: DataOptions) -> bool:
    """Return whether a folder has a training folder with subfolders with images."""
    trains = [folder for folder in visible_folders(root) if PART_OF_NAME.get(folder.name.casefold()) == "train"]
    return any(image_folders(folder) for folder in trains)


def read_split_folders(root: Path, options: DataOptions) -> RawTable:
    """Read the images below a root; the first folder in a path is the part and the second is the class.

    Raises:
        DataError: The root is a file.
    """
    rows, ignored = [], {}
    for path, reason in walk_root(root):
        part = PART_OF_NAME.get(path.split("/")[0].casefold())
        if reason:
            ignored[path] = reason
        elif part is None:
            ignored[path] = "outside of the folders train, valid and test"
        elif path.count("/") < 2:
            ignored[path] = "not in a class folder"
        else:
            rows.append(ImageRow(path, path.split("/")[1], split=part))
    return keep_folder_split(join_metadata(root, RawTable(tuple(rows), ignored), options), rows)


def recognises_class_splits(root: Path, _options: DataOptions) -> bool:
    """Return whether a folder has several subfolders in which all images are in folders train, valid and test."""
    folders = image_folders(root)
    inside = [{PART_OF_NAME.get(part.name.casefold()) for part in image_folders(folder)} for folder in folders]
    return len(folders) > 1 and all(None not in parts and "train" in parts for parts in inside)


def read_class_splits(root: Path, options: DataOptions) -> RawTable:
    """Read the images below a root; the first folder in a path is the class and the second is the part.

    Raises:
        DataError: The root is a file.
    """
    rows, ignored = [], {}
    for path, reason in walk_root(root):
        label, part, *_ = [*path.split("/")[:-1], "", ""]
        if reason or part.casefold() not in PART_OF_NAME:
            ignored[path] = reason or "outside of the folders train, valid and test of a class folder"
        else:
            rows.append(ImageRow(path, label, split=PART_OF_NAME[part.casefold()]))
    return keep_folder_split(join_metadata(root, RawTable(tuple(rows), ignored), options), rows)


def keep_folder_split(joined: RawTable, rows: Iterable[ImageRow]) -> RawTable:
    """Restore the parts from the folders, which take precedence over a split column of the metadata."""
    parts = {row.image: row.split for row in rows}
    return replace(joined, rows=tuple(replace(row, split=parts[row.image]) for row in joined.rows))


def walk_root(root: Path) -> Iterator[tuple[str, str]]:
    """Check that a root is a folder and walk its images with ``walk_images``.

    Tables in the root whose header cannot be read follow with the reason, because they may be meant as the labels.

    Raises:
        DataError: The root is a file.
    """
    if not root.is_dir():
        raise DataError(f"This layout needs a folder of class folders; received the file '{root}'. Name the folder.")
    yield from walk_images(root)
    for path in sorted(root.glob("*.[cC][sS][vV]")):
        try:
            read_header(path)
        except DataError as error:
            yield path.name, str(error)
