"""Layouts of data sets on disk: one row of ``LAYOUTS`` for each layout, in the order of detection.

A layout lists images with their labels, patients, parts and views, from which ``dataset.py`` builds the data set. No image is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from automl_cxr.csv_io import read_rows
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.layout_rows import RawTable
from automl_cxr.data.readers import arrays, folders, nih, radiography, tables
from automl_cxr.data.table_columns import check_label_column
from automl_cxr.errors import DataError, UnknownNameError, UsageError


@dataclass(frozen=True)
class Layout:
    """A layout of a data set.

    Attributes:
        name: Name for ``--layout``.
        description: Description for messages and help texts.
        recognises: Returns whether an existing path has this layout; must be fast and must not raise.
        read: Lists the images; raises DataError if the path does not have this layout.
        has_label_column: Whether the labels are a column that a user may choose. ``recognises`` and ``read`` then accept the
            keyword ``label_column``.
    """

    name: str
    description: str
    recognises: Callable[..., bool]
    read: Callable[..., RawTable]
    has_label_column: bool = False

    def with_label_column(self, label_column: str) -> Layout:
        """Return the layout with a chosen label column.

        Raises:
            UsageError: The layout has no label column that can be chosen.
        """
        if not self.has_label_column:
            others = " or ".join(layout.name for layout in LAYOUTS if layout.has_label_column)
            raise UsageError(
                f"--label-column applies to the layouts {others}; received '{label_column}' for the layout '{self.name}'. Omit "
                "it, or name the table to use."
            )
        arguments = {"label_column": label_column}
        return replace(self, recognises=partial(self.recognises, **arguments), read=partial(self.read, **arguments))


def find_layout(root: Path, options: DataOptions | None = None) -> Layout:
    """Return the layout with a name, or the first that recognises the root.

    Args:
        root: The data.
        options: How the data are read; by default everything is detected.

    Raises:
        UnknownNameError: There is no layout with this name.
        UsageError: The layout has no label column that can be chosen, or no table has this column.
        DataError: No layout recognises the root, or a table is damaged.
    """
    options = options or DataOptions()
    name, label_column = options.layout, options.label_column
    if name is not None:
        by_name = {layout.name: layout for layout in LAYOUTS}
        if name not in by_name:
            raise UnknownNameError("layout", name, by_name)
        return by_name[name] if label_column is None else by_name[name].with_label_column(label_column)
    layouts: tuple[Layout, ...] = LAYOUTS
    if label_column is not None:
        layouts = tuple(layout.with_label_column(label_column) for layout in LAYOUTS if layout.has_label_column)
    for layout in layouts:
        if layout.recognises(root):
            return layout
    _check_tables(root, label_column)
    known = "; ".join(f"{layout.name}: {layout.description}" for layout in layouts)
    column = "" if label_column is None else f" with a label column '{label_column}'"
    raise DataError(
        f"The data must follow a known layout{column}; found none in '{root}'. Arrange the files in one of these ({known})."
    )


def _check_tables(root: Path, label_column: str | None) -> None:
    """Raise the reason why the tables in a folder that has no layout are not used, if it is known.

    Raises:
        DataError: A table is damaged.
        UnknownNameError: No table has the chosen label column.
    """
    names = [name for path in sorted(root.glob("*.[cC][sS][vV]")) for name in read_rows(path)[0]]
    if names:
        check_label_column(names, label_column)


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
        has_label_column=True,
    ),
    Layout(
        "csv",
        "a CSV file with a path and a label in each row, optionally patient_id, split, view",
        tables.recognises,
        tables.read,
        has_label_column=True,
    ),
    Layout(
        "folders",
        "a folder for each class, optionally with a metadata.csv beside them",
        folders.recognises_folders,
        folders.read_folders,
    ),
)
