"""Layouts of data sets on disk: one row of ``LAYOUTS`` for each layout, in the order of detection.

A layout lists images with their labels, patients, parts and views, from which ``dataset.py`` builds the data set. No image is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.data.layout_rows import RawTable
from automl_cxr.data.readers import arrays, folders, nih, radiography, tables
from automl_cxr.errors import DataError, UnknownNameError


@dataclass(frozen=True)
class Layout:
    """A layout of a data set.

    Attributes:
        name: Name for ``--layout``.
        description: Description for messages and help texts.
        recognises: Returns whether an existing path has this layout; must be fast and must not raise.
        read: Lists the images; raises DataError if the path does not have this layout.
    """

    name: str
    description: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], RawTable]


def find_layout(root: Path, name: str | None = None) -> Layout:
    """Return the layout with a name, or the first that recognises the root.

    Raises:
        UnknownNameError: There is no layout with this name.
        DataError: No layout recognises the root.
    """
    if name is not None:
        by_name = {layout.name: layout for layout in LAYOUTS}
        if name not in by_name:
            raise UnknownNameError("layout", name, by_name)
        return by_name[name]
    for layout in LAYOUTS:
        if layout.recognises(root):
            return layout
    known = "; ".join(f"{layout.name}: {layout.description}" for layout in LAYOUTS)
    raise DataError(
        f"The data must follow a known layout; found none in '{root}'. Arrange the files in one of these ({known})."
    )


LAYOUTS = (
    Layout(
        "radiography",
        "a folder for each class that contains the folders images and masks; also in folders train, valid and test",
        radiography.recognises,
        radiography.read,
    ),
    Layout(
        "split-folders",
        "folders train, valid and test (at least train), each with class folders",
        folders.recognises_split_folders,
        folders.read_split_folders,
    ),
    Layout(
        "nih",
        "NIH ChestX-ray14: Data_Entry*.csv beside folders images*, optionally with train_val_list.txt and test_list.txt",
        nih.recognises,
        nih.read,
    ),
    Layout(
        "arrays",
        "images as one .npy array beside a CSV file with a label in each row, optionally index, patient_id, split, view",
        arrays.recognises,
        arrays.read,
    ),
    Layout(
        "csv",
        "a CSV file with a path and a label in each row, optionally patient_id, split, view",
        tables.recognises,
        tables.read,
    ),
    Layout(
        "folders",
        "a folder for each class, optionally with a metadata.csv beside them",
        folders.recognises_folders,
        folders.read_folders,
    ),
)
