"""Labels from the paths of images, by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import visible_folders
from automl_cxr.data.layout_rows import ImageRow, RawTable
from automl_cxr.data.path_patterns import compile_pattern, text_in_path
from automl_cxr.data.readers.folders import walk_root
from automl_cxr.data.readers.metadata import join_metadata
from automl_cxr.errors import DataError, UsageError

_TUBERCULOSIS_FOLDERS = ("cxr_png", "images")  # of the first and of the present distribution
_TUBERCULOSIS_NAME = re.compile(r"(?:MCUCXR|CHNCXR)_\d+_([01])\.png", re.IGNORECASE)
_TUBERCULOSIS_LABELS = {"0": "normal", "1": "tuberculosis"}


def recognises(_root: Path, options: DataOptions) -> bool:
    """Return whether the user gave an expression for the label."""
    return options.label_regex is not None


def read(root: Path, options: DataOptions) -> RawTable:
    """Read the images below a root whose path contains a label.

    Raises:
        UsageError: There is no expression, or it matches no path.
        DataError: The root is a file.
    """
    if options.label_regex is None:
        raise UsageError("The layout 'names' needs an expression for the label; received none. Give it with --label-regex.")
    pattern = compile_pattern(options.label_regex, "--label-regex")
    rows, ignored = [], {}
    example = ""
    for path, reason in walk_root(root):
        label = "" if reason else text_in_path(path, pattern, "label")
        if label:
            rows.append(ImageRow(path, label))
        else:
            ignored[path] = reason or "its path does not match --label-regex"
            example = example or (path if not reason else "")
    if not rows:
        raise UsageError(
            f"--label-regex must match paths of images; received '{options.label_regex}', which gives no label below '{root}', "
            f"for example for '{example}'. Correct it."
        )
    return join_metadata(root, RawTable(tuple(rows), ignored), options)


def recognises_tuberculosis(root: Path, _options: DataOptions) -> bool:
    """Return whether a folder contains the radiographs of the Montgomery or the Shenzhen set."""
    return any(_has_names(folder) for folder in visible_folders(root) if folder.name.casefold() in _TUBERCULOSIS_FOLDERS)


def _has_names(folder: Path) -> bool:
    try:
        return any(_TUBERCULOSIS_NAME.fullmatch(path.name) for path in folder.iterdir())
    except OSError:
        return False


def read_tuberculosis(root: Path, _options: DataOptions) -> RawTable:
    """Read the radiographs of the Montgomery and the Shenzhen set, whose names end in 0 (normal) or 1 (tuberculosis).

    Raises:
        DataError: There are none, or the root is a file.
    """
    rows, ignored = [], {}
    others: dict[str, int] = {}
    for path, reason in walk_root(root):
        folder, _, name = path.rpartition("/")
        match = _TUBERCULOSIS_NAME.fullmatch(name)
        if folder.casefold() not in _TUBERCULOSIS_FOLDERS or match is None:
            others[folder] = others.get(folder, 0) + 1
        elif reason:
            ignored[path] = reason
        else:
            rows.append(ImageRow(path, _TUBERCULOSIS_LABELS[match[1]]))
    if not rows:
        raise DataError(
            f"The layout 'tuberculosis' needs images such as CXR_png/MCUCXR_0001_0.png in '{root}'; found none. Name the "
            "folder that contains CXR_png."
        )
    return replace(RawTable(tuple(rows), ignored), notes=(*_notes(others),))


def _notes(others: Mapping[str, int]) -> tuple[str, ...]:
    listed = ", ".join(f"{folder or 'the data folder'} ({count})" for folder, count in others.items())
    found = (f"Images outside of the folder CXR_png or images are not used: {listed}.",) if others else ()
    return ("Labels from the names of the files: 0 is normal, 1 is tuberculosis.", *found)
