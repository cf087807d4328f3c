"""The images of the rows of tables: their files, and one label, patient, part and view for each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import archives_in, list_archives
from automl_cxr.data.findings import Findings
from automl_cxr.data.layout_rows import ImageRow, Metadata, UsedTable
from automl_cxr.data.patient_metadata import common_metadata, read_metadata
from automl_cxr.data.readers.findings import majority, settle_labels, union
from automl_cxr.data.readers.image_index import MAX_EXPLAINED, ImageIndex, LocatedImages, locate
from automl_cxr.data.readers.table_proposals import propose_table
from automl_cxr.errors import DataError


@dataclass(frozen=True)
class ListedRows:
    """The rows of one table.

    Attributes:
        name: Name of the table.
        folder: Its folder.
        images: Text that names the image of each row.
        findings: Findings of each row.
        patients: Patient of each row.
        splits: Part of each row.
        views: Projection of each row.
        readers: Reader of each row, or None.
        is_box_table: Whether an image may have several rows with different findings.
        used: The use of the columns.
        n_left_out: Number of files of rows that are not used because of their kind.
        finding_columns: Names of the columns of findings.
        notes: Sentences for the user.
        metadata: Texts of each column of metadata.
    """

    name: str
    folder: Path
    images: Sequence[str]
    findings: Sequence[Findings]
    patients: Sequence[str]
    splits: Sequence[str]
    views: Sequence[str]
    readers: Sequence[str] | None
    is_box_table: bool
    used: UsedTable
    n_left_out: int
    finding_columns: tuple[str, ...]
    notes: tuple[str, ...]
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the rows of an image state, and the columns of findings of their table."""

    findings: Findings
    patient: str
    split: str
    view: str
    columns: tuple[str, ...] = field(compare=False)
    metadata: Metadata = field(compare=False)  # other ages of an image do not change whether the image is used


@dataclass(frozen=True)
class _Combined:
    """The images of a table.

    Attributes:
        entries: Path to what its rows state.
        conflicts: Paths whose rows contradict each other.
        n_unlabelled: Number of rows without an image or a label.
        n_repeated: Number of rows that repeat an image.
    """

    entries: Mapping[str, _Entry]
    conflicts: Sequence[str]
    n_unlabelled: int
    n_repeated: int


def _combine(one: ListedRows, found: LocatedImages) -> _Combined:
    """Combine the rows of each image."""
    rows_of: dict[str, int | list[int]] = {}
    for row, text in enumerate(one.images):
        path = found.path_of.get(text)
        if path is None:
            continue
        earlier = rows_of.get(path)
        if earlier is None:
            rows_of[path] = row
        elif isinstance(earlier, list):
            earlier.append(row)
        else:
            rows_of[path] = [earlier, row]
    entries, conflicts, n_repeated = {}, [], 0
    for path, rows in rows_of.items():
        if isinstance(rows, int):
            entries[path] = _entry(one, rows, one.findings[rows])
            continue
        labelled = [row for row in rows if not one.findings[row].is_unlabelled] or rows[:1]
        if one.readers is None and not one.is_box_table:
            n_repeated += len(labelled) - 1
        entry = _combine_rows(one, labelled)
        if entry is None:
            conflicts.append(path)
        else:
            entries[path] = entry
    n_unlabelled = sum(
        findings.is_unlabelled or not text.strip() for findings, text in zip(one.findings, one.images, strict=True)
    )
    return _Combined(entries, conflicts, n_unlabelled, n_repeated)


def _entry(one: ListedRows, row: int, findings: Findings) -> _Entry:
    metadata = read_metadata(one.metadata, row)
    return _Entry(findings, one.patients[row], one.splits[row], one.views[row], one.finding_columns, metadata)


def _combine_rows(one: ListedRows, rows: Sequence[int]) -> _Entry | None:
    """Return what several rows of an image state; None if they contradict each other."""
    findings = [one.findings[row] for row in rows]
    if one.readers is not None:
        combined = majority([(one.readers[row], one.findings[row]) for row in rows])
    elif one.is_box_table:
        combined = union(findings)
    else:
        combined = findings[0]
        if any(other != combined for other in findings):
            return None
    candidates = [_entry(one, row, combined) for row in rows]
    if len(set(candidates)) > 1:
        return None
    return replace(candidates[0], metadata=common_metadata([entry.metadata for entry in candidates]))


@dataclass(frozen=True)
class MergedRows:
    """The images of all tables of a data set, as the fields of ``RawTable``."""

    rows: tuple[ImageRow, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    n_uncertain: int
    n_missing: int
    n_listed: int
    findings: tuple[str, ...] | None
    n_unlabelled: int


def merge_rows(
    listed: Sequence[ListedRows], index: ImageIndex, options: DataOptions, *, unique_names: bool = False
) -> MergedRows:
    """Find the images of the rows, combine the rows of each image, and choose its label or collect its findings.

    Args:
        listed: The rows of each table.
        index: The files.
        options: How the data are read.
        unique_names: As in ``locate``.

    Raises:
        DataError: No listed image can be used, or images have several findings where one class is needed.
        UnknownNameError: The chosen finding does not exist.
    """
    name = join_names(listed)
    ignored: dict[str, str] = {}
    entries: dict[str, _Entry] = {}
    missing: list[str] = []
    n_images = n_unlabelled = n_repeated = 0
    for one in listed:
        found = locate(index, filter(str.strip, one.images), table=one.name, beside=one.folder, unique_names=unique_names)
        combined = _combine(one, found)
        ignored |= {path: f"listed in {one.name} but {reason}" for path, reason in found.unusable.items()}
        ignored |= {path: f"another file of the same name is used, {used}" for path, used in found.copies.items()}
        ignored |= dict.fromkeys(combined.conflicts, f"listed more than once in {one.name}, with different entries")
        for path, entry in combined.entries.items():
            if entries.setdefault(path, entry) != entry:
                ignored[path] = f"listed in several tables ({name}), with different entries"
        missing.extend(found.missing)
        n_images += len(found.path_of) + len(found.missing)
        n_unlabelled += combined.n_unlabelled
        n_repeated += combined.n_repeated
    paths = [path for path in entries if path not in ignored]
    if n_images and not paths:
        raise DataError(_none_found_message(listed, index, n_images, ignored, missing))
    columns = tuple(dict.fromkeys(column for one in listed for column in one.finding_columns))
    settled = settle_labels([entries[path].findings for path in paths], options, name, columns=columns)
    notes = [*_count_notes(name, n_images, missing, n_unlabelled, n_repeated), *settled.notes, *_reader_notes(listed)]
    if settled.findings is None:
        rows = tuple(
            ImageRow(path, label, entry.patient, entry.split, entry.view, metadata=entry.metadata)
            for path, label in zip(paths, settled.labels, strict=True)
            if label and (entry := entries[path])
        )
    else:
        rows = tuple(_with_findings(path, entries[path], columns) for path in paths if not entries[path].findings.is_unlabelled)
    n_listed = sum(path in index.reason_of and not index.reason_of[path] for path in {*entries, *ignored})
    return MergedRows(
        rows,
        ignored,
        tuple(notes),
        settled.n_uncertain,
        settled.n_missing,
        n_listed,
        settled.findings,
        n_unlabelled=len(paths) - len(rows),
    )


def _with_findings(path: str, entry: _Entry, columns: Sequence[str]) -> ImageRow:
    """Return an image that may have several findings. Nothing is known of those that its table has no column for."""
    findings = entry.findings
    if entry.columns and len(entry.columns) < len(columns):
        findings = replace(findings, missing=findings.missing | (set(columns) - set(entry.columns)))
    return ImageRow(path, "", entry.patient, entry.split, entry.view, findings, entry.metadata)


def _none_found_message(
    listed: Sequence[ListedRows], index: ImageIndex, n_images: int, ignored: Mapping[str, str], missing: Sequence[str]
) -> str:
    example, reason = next(iter(ignored.items()), (missing[0] if missing else "", "missing"))
    reason = reason.partition(" but ")[2] or reason
    column = listed[0].used.columns.get("image", "")
    other = propose_table(index.folder) if index.reason_of else ""
    others = f" Another table lists the images: {other}." if other else ""
    archives = archives_in(index.folder)
    unpack = f"Unpack {list_archives(archives)}, name" if archives else "Name"
    return (
        f"The images that '{join_names(listed)}' lists in the column '{column}' must be below '{index.folder}'; none of "
        f"{n_images} images can be used, for example '{example}' ({reason}). {unpack} their folder with --images, or correct "
        f"the paths.{others}"
    )


def _count_notes(name: str, n_images: int, missing: Sequence[str], n_unlabelled: int, n_repeated: int) -> Iterator[str]:
    if len(missing) > MAX_EXPLAINED:
        yield f"{len(missing)} of {n_images} images in {name} are not on disk, such as '{missing[0]}'."
    if n_unlabelled:
        yield f"{n_unlabelled} rows of {name} have no image or no label and are not used."
    if n_repeated:
        yield f"{n_repeated} rows of {name} repeat an image. Equal rows are used once."


def _reader_notes(listed: Sequence[ListedRows]) -> Iterator[str]:
    for one in listed:
        if one.readers is not None:
            yield (
                f"{one.name} has the labels of {len(set(one.readers))} readers: a finding is used if more than half of an "
                "image's readers state it, and uncertain if half of them do."
            )


def join_names(listed: Sequence[ListedRows]) -> str:
    """Join the different names of tables, for messages."""
    return " and ".join(dict.fromkeys(one.name for one in listed))
