"""The message for data that have no known layout: what was found, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.data.arrays import ARRAY_SUFFIX
from automl_cxr.data.dicom_export import TABLE_OF_LABELS, describe_export
from automl_cxr.data.dicom_tags import read_headers
from automl_cxr.data.files import IMAGE_SUFFIXES, archives_in, is_archive, list_archives, walk_images
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.data.readers.table_proposals import describe_unused_tables, propose_table

_FORMATS = "PNG, JPEG, TIFF or DICOM"


@dataclass(frozen=True)
class RecognisedFolder:
    """A folder with its layout."""

    folder: Path
    layout: str


def explain_unrecognised(root: Path, given: str, above: RecognisedFolder | None) -> str:
    """Return the message for a path without a known layout.

    Args:
        root: The path.
        given: The options that need a table, as text; empty if there are none.
        above: A folder above it that is a data set.
    """
    if not root.is_dir():
        return _explain_file(root)
    files = list(walk_images(root))
    images = [path for path, reason in files if not reason]
    if not images:
        return _explain_no_images(root, files)
    export = describe_export(read_headers(root, [ImageRow(path, "") for path in images]).values(), len(images))
    table = propose_table(root)
    ways = []
    if above is not None:
        ways.append(f"the folder above, by naming {shlex.quote(str(above.folder))} (layout {above.layout})")
    if table:
        ways.append(f"the table that lists the images, with {table}")
    if not ways:
        ways.append(f"a table of the images, {TABLE_OF_LABELS if export else 'with --labels FILE'}")
    ways += ["labels in the names of the files, with --label-regex REGEX", "a folder for each class"]
    received = export or f"{len(images)} images"
    return (
        f"Images need labels from class folders, a table or their names; found {received} in '{root}', such as '{images[0]}', "
        f"and no labels{given}. Use {'; or '.join(ways)}.{'' if table else describe_unused_tables(root)}"
    )


def _explain_file(path: Path) -> str:
    rule = "The data must be a folder, a table or an array"
    if is_archive(path):
        return f"{rule}; received the archive '{path}'. Unpack it, and name the new folder."
    if path.name.casefold().endswith(IMAGE_SUFFIXES):
        return f"{rule}; received the image '{path}'. Name the folder that contains the images and their labels."
    return f"{rule}; received the file '{path}'. Name a folder, or save the table as CSV or .xlsx."


def _explain_no_images(root: Path, files: Sequence[tuple[str, str]]) -> str:
    rule = f"A data set needs images ({_FORMATS}, or arrays with labels); found none in '{root}'"
    archives = archives_in(root)
    if archives:
        return f"{rule}, but {list_archives(archives)}. Unpack {'it' if len(archives) == 1 else 'them'} there."
    if not files:
        return f"{rule}. Check the path."
    path, reason = files[0]
    count = "1 other file" if len(files) == 1 else f"{len(files)} other files, such as"
    remedy = "Add its labels" if path.casefold().endswith(ARRAY_SUFFIX) else f"Convert images to {_FORMATS} files"
    return f"{rule}, but {count} '{path}' ({reason}). {remedy}, or name another folder."
