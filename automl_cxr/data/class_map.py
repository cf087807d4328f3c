"""Other names for the classes of a data set: renamed, joined or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from automl_cxr.csv_io import read_rows
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.errors import DataError, UnknownNameError, UsageError

_COLUMNS = (("class", "name"), ("site", "study"))  # of a table of classes


def load_class_map(classes: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    """Read the new name of each class.

    Args:
        classes: The new name by the name in the data, as a mapping, as text such as ``COVID-19=covid,No finding=no_finding``,
            or as a CSV table with the columns ``class`` and ``name``, or ``site`` and ``study``. An empty name stands for
            images that are not used. Equal names join classes.

    Raises:
        UsageError: The text is not of this form, the table does not exist, or a class is named twice.
        DataError: The table is damaged, or lacks a column.
    """
    if classes is None or isinstance(classes, Mapping):
        return dict(classes or {})
    text = str(classes)
    pairs = _read_pairs(text) if "=" not in text or Path(text).is_file() else _parse_pairs(text)
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"--class-map must name each class once; received '{repeated[0]}' twice. Remove one.")
    return dict(pairs)


def _parse_pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for entry in text.split(","):
        name, equals, new = entry.partition("=")
        if not equals or not name.strip():
            raise UsageError(
                f"--class-map must be CLASS=NAME,CLASS=NAME,... or a CSV file; received '{entry}'. Write class names that "
                f"contain commas or equals signs into a CSV file with the columns {','.join(_COLUMNS[0])}."
            )
        pairs.append((name.strip(), new.strip()))
    return pairs


def _read_pairs(text: str) -> list[tuple[str, str]]:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--class-map must be CLASS=NAME,CLASS=NAME,... or a CSV file; received '{text}', which is neither. Correct it."
        )
    header, rows = read_rows(path)
    names = [name.strip().casefold() for name in header]
    found = next((columns for columns in _COLUMNS if set(columns) <= set(names)), None)
    if found is None:
        raise DataError(
            "A table of classes must have the columns class (the name in the data) and name (the name to use, or empty for "
            f"images that are not used), or site and study; '{path}' has {', '.join(header) or 'none'}. Rename them."
        )
    places = [names.index(column) for column in found]
    return [(row[places[0]].strip(), row[places[1]].strip()) for row in rows]


def rename_classes(rows: Sequence[ImageRow], class_map: Mapping[str, str] | None, notes: list[str]) -> list[ImageRow]:
    """Give the classes other names, and leave out the images of a class without a new name. Add a note.

    Args:
        rows: All images.
        class_map: The new name by the name in the data, as ``load_class_map`` returns it.
        notes: Notes for the user.

    Raises:
        UnknownNameError: No image has a class of the map.
    """
    if not class_map:
        return list(rows)
    known = {row.label for row in rows}
    for name in class_map:
        if name not in known:
            raise UnknownNameError("class in --class-map", name, known)
    listed = ", ".join(f"'{name}' is '{new}'" if new else f"'{name}' is not used" for name, new in class_map.items())
    notes.append(f"Names of the classes in the data (--class-map): {listed}.")
    renamed = [replace(row, label=class_map.get(row.label, row.label)) for row in rows]
    return [row for row in renamed if row.label]
