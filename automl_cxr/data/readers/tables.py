"""Tables of image files and their labels: those of public data sets, and any other table."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.csv_io import read_header
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import image_folders, visible_folders
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow, RawTable, UsedTable, parse_part
from automl_cxr.data.readers.findings import (
    UNLABELLED,
    Findings,
    from_columns,
    from_texts,
    majority,
    settle_labels,
    union,
)
from automl_cxr.data.readers.image_index import MAX_EXPLAINED, ImageIndex, LocatedImages, locate
from automl_cxr.data.readers.metadata import METADATA_NAME
from automl_cxr.data.readers.public_sets import GENERAL, PUBLIC_SETS, TableFormat
from automl_cxr.data.readers.table_frame import (
    MATCHING_SHARE,
    Frame,
    Roles,
    find_roles,
    is_header,
    is_table,
    join_frame,
    read_frame,
    share_of_files,
)
from automl_cxr.data.table_columns import list_names, match_key
from automl_cxr.errors import DataError, UnknownNameError

_NIH_HEADER = {"imageindex", "findinglabels"}
_MAX_FOLDERS = 50  # direct subfolders that are searched for tables


@dataclass(frozen=True)
class _Listed:
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
        finding_columns: Names of the columns of findings.
        notes: Sentences for the user.
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
    finding_columns: tuple[str, ...]
    notes: tuple[str, ...]


# Recognition


def recognises(root: Path, options: DataOptions) -> bool:
    """Return whether a table is named, or a folder contains a table of images that are not in class folders."""
    if options.labels is not None or not root.is_dir():
        return options.labels is not None or is_table(root)
    tables = label_tables(root)
    if not tables:
        return False
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


def label_tables(root: Path) -> list[Path]:
    """List the tables directly in a folder that have columns for image and label."""
    return [path for path in _tables_in(root) if _lists_images(path)]


def _tables_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if is_table(path) and not path.name.startswith(".") and path.is_file())
    except OSError:
        return []


def _lists_images(path: Path) -> bool:
    try:
        header = read_header(path)
        if {match_key(name) for name in header} >= _NIH_HEADER:
            return False  # its layout also checks that the images are not in class folders
        if not is_header(header, GENERAL.names):
            return len(header) > 1
        found = {role for role in ("image", "label") if any(match_key(name) in _keys(role) for name in header)}
        if "image" not in found or (path.name.casefold().removesuffix(".gz").endswith(".txt") and len(header) < 2):
            return False
        if "label" in found:
            return True
        frame = read_frame(path, GENERAL.names)
        return bool(frame.n_rows) and bool(find_roles(frame, DataOptions(), lambda _: False).findings)
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
    return bool(_find_public(root, public))


def _find_public(root: Path, public: TableFormat) -> list[tuple[Path, str]]:
    """Return the tables of a public data set with their parts; none if the first one does not exist."""
    files = [root] if root.is_file() else _tables_near(root)
    found: list[tuple[Path, str]] = []
    for pattern, part in public.tables:
        matching = _matching(files, pattern)
        matching = [path for path in matching if _has_header(path, public)]
        found.extend((path, part) for path in matching[:1])
    required = {part for _, part in public.tables if part == "train"}
    return found if found and (root.is_file() or not required or found[0][1] == "train") else []


def _matching(files: Sequence[Path], patterns: str) -> list[Path]:
    """Return the files whose names match one of several patterns, which are separated by vertical bars, in their order."""
    return [
        path for pattern in patterns.split("|") for path in files if fnmatch.fnmatch(path.name.casefold(), pattern.casefold())
    ]


def _tables_near(root: Path) -> list[Path]:
    """List the tables in a folder and in its direct subfolders without subfolders, unless there are many."""
    folders = visible_folders(root)
    inside = [] if len(folders) > _MAX_FOLDERS else [folder for folder in folders if not visible_folders(folder)]
    return [*_tables_in(root), *(path for folder in inside for path in _tables_in(folder))]


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


# Reading


def read(root: Path, options: DataOptions) -> RawTable:
    """Read a table, or one table for each part, in the format of a public data set if it is one.

    Args:
        root: The table, or a folder that contains one.
        options: The table, its columns, and the treatment of several findings.

    Raises:
        DataError: There is no table, or more than one; or it is damaged, lacks a column, lists no existing file, or has several
            findings for an image and none is chosen.
        UnknownNameError: A chosen column or finding does not exist.
    """
    table = Path(options.labels) if options.labels is not None else root if root.is_file() else None
    if table is not None and not table.is_file():
        raise DataError(f"The table of labels must be a file; received '{table}'. Check --labels.")
    if table is not None:
        for public in PUBLIC_SETS:
            found = _find_public(table, public)
            if found:
                return _read_tables(root, found, options, public)
        return _read_tables(root, [(table, "")], options, GENERAL)
    return _read_tables(root, _only_tables(root), options, GENERAL)


def read_public(root: Path, options: DataOptions, public: TableFormat) -> RawTable:
    """Read the tables of a public data set.

    Raises:
        DataError: As in ``read``.
        UnknownNameError: As in ``read``.
    """
    if options.labels is not None:
        return read(root, options)
    found = _find_public(root, public)
    if not found:
        names = " or ".join(pattern for pattern, _ in public.tables)
        raise DataError(f"The layout '{public.name}' needs a table {names} in '{root}'; found none. Name it with --labels.")
    return _read_tables(root, found, options, public)


def _only_tables(root: Path) -> list[tuple[Path, str]]:
    """Return the only table of a folder, or one table for each part including train."""
    tables = label_tables(root)
    parts = {path: _part_in_name(path) for path in tables}
    if len(tables) > 1 and "" not in parts.values() and len(set(parts.values())) == len(tables) and "train" in parts.values():
        return list(parts.items())
    if len(tables) != 1:
        accepted = GENERAL.names
        names = ", ".join(path.name for path in tables) or "none"
        unused = [f"{path.name} ({_names_of(path)})" for path in _tables_in(root)] if not tables else []
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


def _read_tables(root: Path, tables: Sequence[tuple[Path, str]], options: DataOptions, public: TableFormat) -> RawTable:
    base = Path(options.images) if options.images is not None else root if root.is_dir() else root.parent
    if not base.is_dir():
        raise DataError(f"The folder of the images must exist; received '{base}'. Check --images.")
    index = ImageIndex.walk(base)
    listed = [_read_table(path, part, options, public, index) for path, part in tables]
    merged = _merge(listed, index, options)
    n_unlisted = sum(not reason for reason in index.reason_of.values()) - merged.n_listed
    unlisted = [f"{n_unlisted} images on disk are not listed in {_join_names(listed)} and are not used."] if n_unlisted else []
    return RawTable(
        merged.rows,
        merged.ignored,
        (*merged.notes, *unlisted, *(note for one in listed for note in one.notes)),
        root=base,
        used_tables=tuple(one.used for one in listed),
        n_uncertain=merged.n_uncertain,
        n_missing=merged.n_missing,
    )


def _join_names(listed: Sequence[_Listed]) -> str:
    return " and ".join(dict.fromkeys(one.name for one in listed))


def _read_table(path: Path, part: str, options: DataOptions, public: TableFormat, index: ImageIndex) -> _Listed:
    frame = read_frame(path, public.names)
    if public.positions and not frame.has_header:
        frame = Frame(path, list(public.positions), frame.columns, has_header=True)
    if not frame.n_rows:
        raise DataError(
            f"A table of images needs a header and rows; received {list_names(frame.header)} and no row in '{path}'. Name "
            "another table with --labels."
        )
    frame, joined = _join(frame, public)
    id_of = re.compile(public.id_pattern) if public.id_pattern else None
    matches = (
        index.matches if id_of is None else lambda text: bool(id_of.search(text)) and index.matches(id_of.sub(r"\1", text))
    )
    roles = find_roles(frame, options, matches, names=public.names, findings=public.findings, joined_views=public.joined_views)
    frame, n_left_out = _keep(frame, public)
    n = frame.n_rows
    images = roles.texts(frame, "image") or []
    if id_of is not None:
        images = [id_of.sub(r"\1", text) for text in images]
    patients = roles.texts(frame, "patient_id")
    if patients is None:
        pattern = re.compile(public.patient) if public.patient else None
        patients = [match[0] if pattern and (match := pattern.search(text)) else "" for text in images]
    splits = roles.texts(frame, "split")
    texts = {text: parse_part(text, path.name) for text in set(splits or ())}
    notes = [f"{count} rows of {path.name} are not used: their {column} is not {kept}." for column, kept, count in n_left_out]
    if frame.encoding:
        notes.append(f"{path.name} is not UTF-8 and is read as {frame.encoding}.")
    used = roles.used(frame)
    if public.patient and "patient_id" not in used:
        used["patient_id"] = f"from the path, {public.patient}"
    if part and splits is None:
        used["split"] = f"{part}, by the name of the table"
    return _Listed(
        name=path.name,
        folder=path.parent,
        images=images,
        findings=_findings_of(frame, roles, public),
        patients=patients,
        splits=[texts[text] for text in splits] if splits is not None else [part] * n,
        views=roles.texts(frame, "view") or [""] * n,
        readers=roles.texts(frame, "reader"),
        is_box_table=roles.is_box_table,
        used=UsedTable(" + ".join([path.name, *joined]), used, tuple(roles.unused(frame))),
        finding_columns=tuple(frame.header[place].strip() for place in roles.findings),
        notes=(*notes, *_column_notes(path.name, frame, roles)),
    )


def _column_notes(table: str, frame: Frame, roles: Roles) -> Iterator[str]:
    unused = roles.unused(frame)
    if unused:
        used = [frame.header[place].strip() for places in roles.positions.values() for place in places]
        findings = [f"{len(roles.findings)} columns of findings"] if roles.findings else []
        yield f"{table}: columns used: {', '.join([*used, *findings])}; not used: {list_names(unused)}."


def _join(frame: Frame, public: TableFormat) -> tuple[Frame, list[str]]:
    joined = []
    beside = _tables_in(frame.path.parent)
    for join in public.joins:
        found = _matching(beside, join.pattern)
        if found:
            frame = join_frame(frame, read_frame(found[0], public.names), join.keys, join.other_key, join.suffix)
            joined.append(found[0].name)
    return frame, joined


def _keep(frame: Frame, public: TableFormat) -> tuple[Frame, list[tuple[str, str, int]]]:
    """Select the rows of the kind that is used."""
    left_out = []
    for column, kept in public.keep.items():
        position = frame.position(column)
        if position is None:
            continue
        is_kept = [text.strip() in kept for text in frame.columns[position]]
        n_left = len(is_kept) - sum(is_kept)
        if n_left:
            left_out.append((column, " or ".join(kept), n_left))
            columns = [[text for text, keep in zip(texts, is_kept, strict=True) if keep] for texts in frame.columns]
            frame = Frame(frame.path, frame.header, columns, frame.has_header, frame.encoding)
    return frame, left_out


def _findings_of(frame: Frame, roles: Roles, public: TableFormat) -> list[Findings]:
    if roles.findings:
        return from_columns({frame.header[place].strip(): frame.columns[place] for place in roles.findings})
    texts = roles.texts(frame, "label") or []
    if public.labels:
        texts = [public.labels.get(text, text) for text in texts]
    findings = from_texts(texts)
    if not public.unlabelled:
        return findings
    cleaned = {
        one: Findings(one.present - public.unlabelled) if one.present - public.unlabelled else UNLABELLED
        for one in set(findings)
    }
    return [cleaned[one] for one in findings]


# Images


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the rows of an image state."""

    findings: Findings
    patient: str
    split: str
    view: str


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


def _combine(one: _Listed, found: LocatedImages) -> _Combined:
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


def _entry(one: _Listed, row: int, findings: Findings) -> _Entry:
    return _Entry(findings, one.patients[row], one.splits[row], one.views[row])


def _combine_rows(one: _Listed, rows: Sequence[int]) -> _Entry | None:
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
    candidates = {_entry(one, row, combined) for row in rows}
    return candidates.pop() if len(candidates) == 1 else None


@dataclass(frozen=True)
class _Merged:
    """The images of all tables of a data set, as the fields of ``RawTable``."""

    rows: tuple[ImageRow, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    n_uncertain: int
    n_missing: int
    n_listed: int


def _merge(listed: Sequence[_Listed], index: ImageIndex, options: DataOptions) -> _Merged:
    """Find the images of the rows, combine the rows of each image, and choose its label.

    Raises:
        DataError: No listed image can be used, or images have several findings and none is chosen.
        UnknownNameError: The chosen finding does not exist.
    """
    name = _join_names(listed)
    ignored: dict[str, str] = {}
    entries: dict[str, _Entry] = {}
    missing: list[str] = []
    n_images = n_unlabelled = n_repeated = 0
    for one in listed:
        found = locate(index, filter(str.strip, one.images), table=one.name, beside=one.folder)
        combined = _combine(one, found)
        ignored |= {path: f"listed in {one.name} but {reason}" for path, reason in found.unusable.items()}
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
    settled = settle_labels(
        [entries[path].findings for path in paths],
        options,
        name,
        columns=[column for one in listed for column in one.finding_columns],
    )
    notes = [*_count_notes(name, n_images, missing, n_unlabelled, n_repeated), *settled.notes, *_reader_notes(listed)]
    rows = tuple(
        ImageRow(path, label, entry.patient, entry.split, entry.view)
        for path, label in zip(paths, settled.labels, strict=True)
        if label and (entry := entries[path])
    )
    n_listed = sum(path in index.reason_of and not index.reason_of[path] for path in {*entries, *ignored})
    return _Merged(rows, ignored, tuple(notes), settled.n_uncertain, settled.n_missing, n_listed)


def _none_found_message(
    listed: Sequence[_Listed], index: ImageIndex, n_images: int, ignored: Mapping[str, str], missing: Sequence[str]
) -> str:
    example, reason = next(iter(ignored.items()), (missing[0] if missing else "", "missing"))
    reason = reason.partition(" but ")[2] or reason
    column = listed[0].used.columns.get("image", "")
    return (
        f"The images that '{_join_names(listed)}' lists in the column '{column}' must be below '{index.folder}'; none of "
        f"{n_images} images can be used, for example '{example}' ({reason}). Name their folder with --images, or correct the "
        "paths."
    )


def _count_notes(name: str, n_images: int, missing: Sequence[str], n_unlabelled: int, n_repeated: int) -> Iterator[str]:
    if len(missing) > MAX_EXPLAINED:
        yield f"{len(missing)} of {n_images} images in {name} are not on disk, such as '{missing[0]}'."
    if n_unlabelled:
        yield f"{n_unlabelled} rows of {name} have no image or no label and are not used."
    if n_repeated:
        yield f"{n_repeated} rows of {name} repeat an image. Equal rows are used once."


def _reader_notes(listed: Sequence[_Listed]) -> Iterator[str]:
    for one in listed:
        if one.readers is not None:
            yield (
                f"{one.name} has the labels of {len(set(one.readers))} readers: a finding is used if more than half of an "
                "image's readers state it, and uncertain if half of them do."
            )


# Proposals


def propose_table(root: Path) -> str:
    """Return the options that name the table near a folder that lists most of its images; empty if there is none."""
    folder = root if root.is_dir() else root.parent
    index = ImageIndex.walk(folder)
    best, proposal = (0.0, 0), ""
    for path in _tables_near(folder):
        try:
            frame = read_frame(path, GENERAL.names)
        except DataError:
            continue
        for name, column in zip(frame.header, frame.columns, strict=True) if len(frame.header) > 1 else ():
            found = (share_of_files(column, index.matches), frame.n_rows)
            if found > max(best, (MATCHING_SHARE, 0)):
                best, proposal = found, f"--labels {shlex.quote(str(path))} --path-column {shlex.quote(name.strip())}"
                with suppress(DataError):
                    find_roles(frame, DataOptions(path_column=name), index.matches)
                    continue
                proposal += f" --label-column NAME (its columns are {list_names(frame.header)})"
    return proposal
