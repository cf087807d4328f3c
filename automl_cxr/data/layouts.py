"""Layouts of data sets on disk: one row of ``LAYOUTS`` for each layout, in the order of detection.

A layout lists images with their labels, patients, parts and views, from which ``dataset.py`` builds the data set. No image is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from automl_cxr.csv_io import read_rows
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.layout_rows import RawTable
from automl_cxr.data.readers import arrays, folders, names, radiography, table_search, tables
from automl_cxr.data.readers.public_sets import PUBLIC_SETS
from automl_cxr.data.readers.table_proposals import propose_table
from automl_cxr.data.table_columns import check_label_column
from automl_cxr.data.unrecognised import RecognisedFolder, explain_unrecognised
from automl_cxr.errors import DataError, UnknownNameError, UsageError

_FINDINGS = ("finding", "uncertain", "missing")
_COLUMNS = ("path_column", "label_column", "patient_column", "split_column", "view_column")
_TABLE = ("labels", "images", *_COLUMNS, *_FINDINGS)
_SPECIFIC = (*_TABLE, "label_regex")  # choices that only some layouts use


@dataclass(frozen=True)
class Layout:
    """A layout of a data set.

    Attributes:
        name: Name for ``--layout``.
        description: Description for messages and help texts.
        recognises: Returns whether an existing path has this layout; must be fast and must not raise.
        read: Lists the images; raises DataError if the path does not have this layout.
        uses: Names of those choices in ``DataOptions`` that only some layouts use and this one does.
    """

    name: str
    description: str
    recognises: Callable[[Path, DataOptions], bool]
    read: Callable[[Path, DataOptions], RawTable]
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundLayout:
    """A layout with the choices with which it is read."""

    layout: Layout
    options: DataOptions

    @property
    def name(self) -> str:
        return self.layout.name

    def read(self, root: Path) -> RawTable:
        """List the images of a path.

        Raises:
            DataError: The path does not have this layout, or its files are damaged.
        """
        return self.layout.read(root, self.options)


def find_layout(root: Path, options: DataOptions | None = None) -> FoundLayout:
    """Return the layout with a name, or the first that recognises the root.

    Args:
        root: The data.
        options: How the data are read; by default everything is detected.

    Raises:
        UnknownNameError: There is no layout with this name, or no table has a chosen column.
        UsageError: The layout does not use one of the choices.
        DataError: No layout recognises the root, or a table is damaged.
    """
    options = options or DataOptions()
    given = [name for name in _SPECIFIC if getattr(options, name) != getattr(DataOptions(), name)]
    if options.layout is not None:
        by_name = {layout.name: layout for layout in LAYOUTS}
        if options.layout not in by_name:
            raise UnknownNameError("layout", options.layout, by_name)
        layout = by_name[options.layout]
        for name in given:
            if name not in layout.uses:
                raise UsageError(_unused_message(root, name, options, layout.name))
        return FoundLayout(layout, options)
    usable = [layout for layout in LAYOUTS if set(given) <= set(layout.uses)]
    if not usable:
        raise UsageError(
            f"The choices {_join_flags(given)} do not apply to one layout together; received all of them. Omit one."
        )
    for layout in usable:
        if layout.recognises(root, options):
            return FoundLayout(layout, options)
    for layout in LAYOUTS:  # the message says which choice is not used
        unused = [name for name in given if name not in layout.uses]
        if unused and layout.recognises(root, DataOptions()):
            raise UsageError(_unused_message(root, unused[0], options, layout.name))
    _check_tables(root, options.label_column)
    raise DataError(explain_unrecognised(root, f" for {_join_flags(given)}" if given else "", recognised_above(root)))


def recognised_above(root: Path) -> RecognisedFolder | None:
    """Return the nearest of the two folders above a path that is a public data set; None if neither is."""
    for folder in root.parents[:2]:
        for layout in LAYOUTS:
            if layout.name in _PUBLIC_NAMES and layout.recognises(folder, DataOptions()):
                return RecognisedFolder(folder, layout.name)
    return None


def _unused_message(root: Path, name: str, options: DataOptions, layout: str) -> str:
    others = " or ".join(other.name for other in LAYOUTS if name in other.uses and other.name not in _PUBLIC_NAMES)
    return (
        f"{_flag(name)} applies to the layouts {others}; received '{getattr(options, name)}' for the layout '{layout}'. Omit "
        f"it, or name the table to use with {propose_table(root) or '--labels FILE'}."
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _join_flags(names: list[str]) -> str:
    return " and ".join(map(_flag, names))


def _check_tables(root: Path, label_column: str | None) -> None:
    """Raise the reason why the tables in a folder that has no layout are not used, if it is known.

    Raises:
        DataError: A table is damaged, or lacks a column.
        UnknownNameError: No table has the chosen label column.
    """
    found = [path for path in sorted(root.glob("*.[cC][sS][vV]")) if path.is_file()] if root.is_dir() else []
    headers = [name for path in found for name in read_rows(path)[0]]
    if headers:
        check_label_column(headers, label_column)
    if found:
        tables.read(root, DataOptions())  # raises the reason why it cannot be used


_PUBLIC_NAMES = frozenset(public.name for public in PUBLIC_SETS) | {"tuberculosis"}
SELF_CONTAINED = _PUBLIC_NAMES | {"csv", "arrays"}
"""Layouts of folders that are data sets by their tables or file names."""

LAYOUTS = (
    Layout(
        "names",
        "images whose paths contain the label, found by --label-regex",
        names.recognises,
        names.read,
        uses=("label_regex",),
    ),
    *(
        Layout(
            public.name,
            public.description,
            partial(table_search.recognises_public, public=public),
            partial(tables.read_public, public=public),
            uses=_TABLE,
        )
        for public in PUBLIC_SETS
    ),
    Layout(
        "tuberculosis",
        "Montgomery and Shenzhen: a folder CXR_png with files such as MCUCXR_0001_0.png",
        names.recognises_tuberculosis,
        names.read_tuberculosis,
    ),
    Layout(
        "radiography",
        "a folder for each class that contains the folders images and masks; also in folders train, valid and test",
        radiography.recognises,
        radiography.read,
    ),
    Layout(
        "arrays",
        "images as a .npy array beside a table or a .npy array of labels, or both in an .npz file",
        arrays.recognises,
        arrays.read,
        uses=("label_column", *_FINDINGS),
    ),
    Layout(
        "csv",
        "a table with a path and a label in each row, optionally patient_id, split, view",
        table_search.recognises,
        tables.read,
        uses=_TABLE,
    ),
    Layout(
        "split-folders",
        "folders train, valid and test (at least train), each with class folders",
        folders.recognises_split_folders,
        folders.read_split_folders,
    ),
    Layout(
        "class-splits",
        "a folder for each class, each with folders train, valid and test (at least train)",
        folders.recognises_class_splits,
        folders.read_class_splits,
    ),
    Layout(
        "folders",
        "a folder for each class, optionally with a metadata.csv beside them",
        folders.recognises_folders,
        folders.read_folders,
    ),
)
