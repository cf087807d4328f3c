"""Images in a NumPy array, with a CSV file of labels beside it.

An array and a table belong together if their numbers of rows are equal; if several pairs match, the file names are
compared (``pair_up``). Ambiguous files are refused. The columns of a table are read in ``array_labels.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.csv_io import read_lines
from automl_cxr.data.arrays import ARRAY_SUFFIX, open_images
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.decode import describe_read_failure
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow, RawTable
from automl_cxr.data.patient_metadata import read_metadata
from automl_cxr.data.readers.archives import ARCHIVE_SUFFIX, read_label_array, unpack_archive
from automl_cxr.data.readers.array_labels import ArrayLabels, Lines, lists_images, read_labels, split_header
from automl_cxr.data.readers.findings import SettledLabels, settle_labels
from automl_cxr.data.readers.medmnist import name_classes
from automl_cxr.errors import DataError, UnreadableImageError

# Words in file names that do not identify a part of the data.
_IMAGE_WORDS = {"image", "images", "img", "imgs", "x", "data", "array"}
_LABEL_WORDS = {"label", "labels", "y", "target", "targets", "class", "classes"}


@dataclass(frozen=True)
class _Found:
    """The files of a root.

    Attributes:
        arrays: Number of images of each array.
        tables: Lines of each table.
        damaged: The error of each table that cannot be read.
        ignored: The reasons why other files are not used.
        label_column: Name of the label column, if it was chosen.
        folder: Folder of the arrays, if it is not the data folder.
    """

    arrays: Mapping[Path, int]
    tables: Mapping[Path, Lines]
    damaged: Mapping[str, DataError]
    ignored: Mapping[str, str]
    label_column: str | None
    folder: Path | None = None


_Pair = tuple[Path, Path]  # an array and its table


def recognises(root: Path, options: DataOptions) -> bool:
    """Return whether the root is an array, a table beside an array, or a folder with both."""
    return root.suffix.casefold() in (ARRAY_SUFFIX, ARCHIVE_SUFFIX) or bool(_matching_pairs(_find(root, options.label_column)))


def read(root: Path, options: DataOptions) -> RawTable:
    """Read the images of one array, or of one array for each part, with their labels.

    Args:
        root: An array, a table, or a folder that contains both.
        options: The label column and the treatment of several findings.

    Raises:
        DataError: There is no pair of array and table with equal numbers of rows, or the pairs are ambiguous, or a table
            cannot be read or has no clear label column, or images have several findings where one class is needed.
        UnknownNameError: A table has no column ``label_column``.
    """
    found = _find(root, options.label_column)
    pairs = pair_up(root, _matching_pairs(found), found)
    labelled = [
        read_labels(
            array,
            table,
            found.tables[table],
            found.arrays[array],
            part=_part_of(array) if len(pairs) > 1 else "",
            options=options,
        )
        for array, table in pairs
    ]
    settled = settle_labels(
        [findings for one in labelled for findings in one.findings],
        options,
        " and ".join(one.table for one in labelled),
        columns=[column for one in labelled for column in one.finding_columns],
    )
    rows = tuple(_rows(labelled, settled))
    return RawTable(
        rows=rows,
        ignored={**found.ignored, **{name: str(error) for name, error in found.damaged.items()}},
        notes=(*(note for one in labelled for note in one.notes), *settled.notes, *_notes_on_others(found, pairs)),
        root=found.folder,
        used_tables=tuple(one.used for one in labelled),
        n_uncertain=settled.n_uncertain,
        n_missing=settled.n_missing,
        findings=settled.findings,
        n_unlabelled=sum(len(one.images) for one in labelled) - len(rows),
    )


def _rows(labelled: Sequence[ArrayLabels], settled: SettledLabels) -> Iterator[ImageRow]:
    """Yield the images that have a label."""
    labels = iter(settled.labels)
    for one in labelled:
        fields = zip(one.images, one.findings, one.patients, one.parts, one.views, strict=True)
        for row, (image, findings, patient, part, view) in enumerate(fields):
            label, metadata = next(labels), read_metadata(one.metadata, row)
            if settled.findings is not None and not findings.is_unlabelled:
                yield ImageRow(image, "", patient, part, view, findings, metadata)
            elif label:
                yield ImageRow(image, label, patient, part, view, metadata=metadata)


# Finding arrays and tables


def _find(root: Path, label_column: str | None) -> _Found:
    folder = root if root.is_dir() else root.parent
    try:
        visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        visible = []  # a folder that cannot be listed matches no layout
    # If the root is a file, it is the only one of its type.
    files = [path for path in visible if root in (folder, path) or root.suffix.casefold() != path.suffix.casefold()]
    arrays: dict[Path, int] = {}
    tables: dict[Path, Lines] = {}
    damaged: dict[str, DataError] = {}
    ignored: dict[str, str] = {}
    archives = [path for path in files if path.suffix.casefold() == ARCHIVE_SUFFIX]
    if len(archives) == 1 and not any(path.suffix.casefold() == ARRAY_SUFFIX for path in files):
        return _find_in_archive(archives[0], label_column)
    for path in files:
        if path.suffix.casefold() == ARRAY_SUFFIX:
            try:
                arrays[path] = len(open_images(path))
            except UnreadableImageError as error:
                labels = read_label_array(path)
                if labels is None:
                    ignored[path.name] = str(error)
                else:
                    tables[path] = labels
            except OSError as error:
                ignored[path.name] = describe_read_failure(error)
    for path in files if arrays else ():  # tables are read only if there is an array
        if path.suffix.casefold() == ".csv":
            try:
                lines = read_lines(path)
            except DataError as error:  # it may belong to another program
                damaged[path.name] = error
                continue
            if lines and not lists_images(lines):
                tables[path] = lines
    return _Found(arrays, tables, damaged, ignored, label_column)


def _find_in_archive(archive: Path, label_column: str | None) -> _Found:
    """Find the arrays of an .npz file, whose images are unpacked into the cache."""
    try:
        folder, labels = unpack_archive(archive)
    except UnreadableImageError as error:
        return _Found({}, {}, {}, {archive.name: str(error)}, label_column)
    except OSError as error:
        return _Found({}, {}, {}, {archive.name: describe_read_failure(error)}, label_column)
    arrays = {path: len(open_images(path)) for path in sorted(folder.glob(f"*{ARRAY_SUFFIX}"))}
    tables = {folder / name: lines for name, lines in name_classes(archive.stem, labels).items()}
    return _Found(arrays, tables, {}, {}, label_column, folder)


def _matching_pairs(found: _Found) -> list[_Pair]:
    return [
        (array, table)
        for array, n_images in found.arrays.items()
        for table, lines in found.tables.items()
        if split_header(lines, n_images, found.label_column) is not None
    ]


# Pairing


def pair_up(root: Path, matching: Sequence[_Pair], found: _Found) -> list[_Pair]:
    """Choose one pair, or one pair for each part including train.

    Raises:
        DataError: No pair matches, or several do and neither names nor parts distinguish them.
    """
    if not matching:
        for error in found.damaged.values():
            raise error
        counts = [f"{path.name} has {n_images} images" for path, n_images in found.arrays.items()]
        counts += [f"{path.name} has {len(lines)} lines" for path, lines in found.tables.items()]
        counts += [f"{name} is {reason}" for name, reason in found.ignored.items()]
        raise DataError(
            "The layout 'arrays' needs a .npy array of images beside a table or array of labels with one row for each image; "
            f"found in '{root}': {', '.join(counts) or 'neither'}. Make the numbers equal, or name the array or table to use."
        )
    uses = Counter(path for pair in matching for path in pair)
    pairs = [pair for pair in matching if max(uses[path] for path in pair) == 1 or _name_of(pair[0]) == _name_of(pair[1])]
    uses = Counter(path for pair in pairs for path in pair)
    parts = [_part_of(array) for array, _ in pairs]
    are_parts = len(set(parts)) == len(parts) and "train" in parts and "" not in parts
    if not pairs or max(uses.values()) > 1 or (len(pairs) > 1 and not are_parts):
        candidates = ", ".join(f"{array.name} with {table.name}" for array, table in matching)
        raise DataError(
            f"It must be clear which table labels which array; the numbers of rows are equal for {candidates}. Name the .npy "
            "or the CSV file to use, or give the files corresponding names, such as train_images.npy and train_labels.csv."
        )
    return pairs


def _name_of(path: Path) -> frozenset[str]:
    """Return the identifying words of a file name: {"train"} for X_train.npy and train_labels.csv."""
    return frozenset(_words_of(path)) - _IMAGE_WORDS - _LABEL_WORDS


def _words_of(path: Path) -> list[str]:
    return re.findall(r"[a-z]+|\d+", path.stem.casefold())


def _part_of(path: Path) -> str:
    parts = {PART_OF_NAME[word] for word in _words_of(path) if word in PART_OF_NAME}
    return parts.pop() if len(parts) == 1 else ""


def _notes_on_others(found: _Found, pairs: Sequence[_Pair]) -> Iterator[str]:
    used = {path for pair in pairs for path in pair}
    arrays = [f"{path.name} ({n_images} images)" for path, n_images in found.arrays.items() if path not in used]
    tables = [path.name for path in found.tables if path not in used]
    if arrays:
        yield f"Arrays without labels, which are not used: {', '.join(arrays)}."
    if tables:
        yield f"Tables that match no array, which are not used: {', '.join(tables)}."
