"""Tables of image files and their labels: those of public data sets, and any other table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.findings import UNLABELLED, Findings
from automl_cxr.data.layout_rows import RawTable, UsedTable, parse_parts
from automl_cxr.data.patient_metadata import metadata_columns
from automl_cxr.data.readers.dicom_join import join_headers
from automl_cxr.data.readers.findings import from_columns, from_regions, from_texts
from automl_cxr.data.readers.image_index import ImageIndex
from automl_cxr.data.readers.public_sets import GENERAL, PUBLIC_SETS, TableFormat
from automl_cxr.data.readers.table_frame import Frame, Roles, find_roles, join_frame, read_frame
from automl_cxr.data.readers.table_images import ListedRows, join_names, merge_rows
from automl_cxr.data.readers.table_search import find_public, matching_tables, only_tables, tables_in
from automl_cxr.data.table_columns import list_names
from automl_cxr.errors import DataError


def read(root: Path, options: DataOptions) -> RawTable:
    """Read a table, or one table for each part, in the format of a public data set if it is one.

    Args:
        root: The table, or a folder that contains one.
        options: The table, its columns, and the treatment of several findings.

    Raises:
        DataError: There is no table, or more than one; or it is damaged, lacks a column, lists no existing file, or has several
            findings for an image where one class is needed.
        UnknownNameError: A chosen column or finding does not exist.
    """
    table = Path(options.labels) if options.labels is not None else root if root.is_file() else None
    if table is not None and not table.is_file():
        raise DataError(
            f"The table of labels must be a file; received '{options.labels}'. Name a CSV or .xlsx file with --labels."
        )
    if table is not None:
        for public in PUBLIC_SETS:
            found = find_public(table, public)
            if found:
                return _read_tables(root, found, options, public)
        return _read_tables(root, [(table, "")], options, GENERAL)
    return _read_tables(root, only_tables(root, options), options, GENERAL)


def read_public(root: Path, options: DataOptions, public: TableFormat) -> RawTable:
    """Read the tables of a public data set.

    Raises:
        DataError: As in ``read``.
        UnknownNameError: As in ``read``.
    """
    if options.labels is not None:
        return read(root, options)
    found = find_public(root, public)
    if not found:
        names = " or ".join(pattern for pattern, _ in public.tables)
        raise DataError(f"The layout '{public.name}' needs a table {names} in '{root}'; found none. Name it with --labels.")
    return _read_tables(root, found, options, public)


def _read_tables(root: Path, tables: Sequence[tuple[Path, str]], options: DataOptions, public: TableFormat) -> RawTable:
    if len({part for _, part in tables}) < len(tables):
        raise DataError(
            f"The layout '{public.name}' needs one table for each part; found {', '.join(path.name for path, _ in tables)} in "
            f"'{root}'. Name the table to use with --labels."
        )
    base = Path(options.images) if options.images is not None else root if root.is_dir() else root.parent
    if not base.is_dir():
        raise DataError(f"The images must be in an existing folder; received '{base}'. Name a folder with --images.")
    index = ImageIndex.walk(base)
    listed = [_read_table(path, part, options, public, index) for path, part in tables]
    merged = merge_rows(listed, index, options, unique_names=public.unique_names)
    n_listed = merged.n_listed + sum(one.n_left_out for one in listed)
    n_unlisted = sum(not reason for reason in index.reason_of.values()) - n_listed
    unlisted = [f"{n_unlisted} images on disk are not listed in {join_names(listed)} and are not used."] if n_unlisted else []
    return RawTable(
        merged.rows,
        merged.ignored,
        (*merged.notes, *unlisted, *(note for one in listed for note in one.notes)),
        root=base,
        used_tables=tuple(one.used for one in listed),
        n_uncertain=merged.n_uncertain,
        n_missing=merged.n_missing,
        findings=merged.findings,
        n_unlabelled=merged.n_unlabelled,
    )


def _read_table(path: Path, part: str, options: DataOptions, public: TableFormat, index: ImageIndex) -> ListedRows:
    frame = read_frame(path, public.names, empty_last_name=public.empty_last_name)
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
    frame, options, join_notes = join_headers(frame, options, index, matches) if public is GENERAL else (frame, options, ())
    roles = find_roles(frame, options, matches, names=public.names, findings=public.findings, joined_views=public.joined_views)
    all_images = roles.texts(frame, "image") or []
    frame, n_left_out = _keep(frame, public)
    n = frame.n_rows
    images = roles.texts(frame, "image") or []
    n_left_out_files = sum(map(matches, set(all_images) - set(images))) if n_left_out else 0
    if id_of is not None:
        images = [id_of.sub(r"\1", text) for text in images]
    patients = roles.texts(frame, "patient_id")
    if patients is None:
        pattern = re.compile(public.patient) if public.patient else None
        patients = [match[0] if pattern and (match := pattern.search(text)) else "" for text in images]
    splits = roles.texts(frame, "split")
    listed_parts = _read_part_lists(path.parent, public) if splits is None else {}
    if listed_parts:
        splits = [listed_parts.get(text.strip(), "") for text in images]
    part_of = parse_parts(splits or (), path.name, resplit=options.resplit)
    notes = roles.notes(frame)
    notes += [f"{count} rows of {path.name} are not used: their {column} is not {kept}." for column, kept, count in n_left_out]
    if frame.encoding:
        notes.append(f"{path.name} is not UTF-8 and is read as {frame.encoding}.")
    if listed_parts and not any(part_of.values()):
        notes.append(f"None of the images is in {' or '.join(public.part_lists)}, so a split is made.")
    used = roles.used(frame)
    metadata = metadata_columns(frame.header, options)
    used |= {name: frame.header[place].strip() for name, place in metadata.items()}
    if listed_parts:
        used["split"] = f"from {' and '.join(public.part_lists)}"
    if public.patient and "patient_id" not in used:
        used["patient_id"] = f"from the path, {public.patient}"
    if part and splits is None:
        used["split"] = f"{part}, by the name of the table"
    return ListedRows(
        name=path.name,
        folder=path.parent,
        images=images,
        findings=_findings_of(frame, roles, public),
        patients=patients,
        splits=[part_of[text] for text in splits] if splits is not None else [part] * n,
        views=roles.texts(frame, "view") or [""] * n,
        readers=roles.texts(frame, "reader"),
        is_box_table=roles.is_box_table,
        used=UsedTable(" + ".join([path.name, *joined]), used, tuple(roles.unused(frame, metadata.values()))),
        n_left_out=n_left_out_files,
        finding_columns=tuple(frame.header[place].strip() for place in roles.findings),
        notes=(*join_notes, *notes),
        metadata={name: frame.columns[place] for name, place in metadata.items()},
    )


def _read_part_lists(folder: Path, public: TableFormat) -> dict[str, str]:
    """Read the part of each image from the lists of parts that exist; an image on several lists is in the part of the last."""
    part_of: dict[str, str] = {}
    for name, part in public.part_lists.items():
        path = folder / name
        if path.is_file():
            part_of |= dict.fromkeys(path.read_text(encoding="utf-8", errors="replace").split(), part)
    return part_of


def _join(frame: Frame, public: TableFormat) -> tuple[Frame, list[str]]:
    joined = []
    beside = tables_in(frame.path.parent)
    for join in public.joins:
        found = matching_tables(beside, join.pattern)
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
    if roles.has_regions:
        return from_regions(texts, frame.header[roles.positions["label"][0]].strip())
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
