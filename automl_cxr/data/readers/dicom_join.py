"""Tables that name images by identifiers in DICOM headers: the image, its series, its study or its patient.

Information systems of hospitals export such tables. Each row is repeated for each file with its identifier, so that the other
columns are read as in any table.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dicom_tags import Headers, read_headers
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.data.readers.image_index import ImageIndex
from automl_cxr.data.readers.table_frame import MATCHING_SHARE, Frame, share_of_files
from automl_cxr.data.table_columns import COLUMN_NAMES, fold_name, match_key


@dataclass(frozen=True)
class _Identifier:
    """An element of a DICOM header that identifies images.

    Attributes:
        element: Its name.
        field: Field of ``DicomTags``.
        names: Accepted names of columns; a UID is found in any column.
    """

    element: str
    field: str
    names: tuple[str, ...] = ()


_IDENTIFIERS = (  # the most specific first
    _Identifier("SOPInstanceUID", "instance"),
    _Identifier("SeriesInstanceUID", "series"),
    _Identifier("StudyInstanceUID", "study"),
    _Identifier(
        "AccessionNumber",
        "accession",
        ("accession_number", "accession", "accession_no", "accession_id", "acc_no", "exam_id", "study_id"),
    ),
    _Identifier("PatientID", "patient_id", COLUMN_NAMES["patient_id"]),
)
ELEMENTS = tuple(identifier.element for identifier in _IDENTIFIERS)


@dataclass(frozen=True)
class _Match:
    """The files of the texts of a column.

    Attributes:
        identifier: What the column contains.
        place: Position of the column.
        files_of: The files of each text; a text without a file is missing.
        n_rows: Number of rows with a file.
    """

    identifier: _Identifier
    place: int
    files_of: Mapping[str, Sequence[str]]
    n_rows: int


def join_headers(
    frame: Frame, options: DataOptions, index: ImageIndex, matches: Callable[[str], bool]
) -> tuple[Frame, DataOptions, tuple[str, ...]]:
    """Name the files of a table that identifies them by their DICOM headers.

    Args:
        frame: The table.
        options: The choices of the user.
        index: The files.
        matches: Returns whether a text names a file.

    Returns:
        The table with a column of files, the options that name it, and a note; all unchanged and no note if a column names
        files, or if none contains identifiers of the DICOM files.
    """
    if _names_files(frame, options, matches):
        return frame, options, ()
    match = find_match(frame, options, read_index_headers(index))
    if match is None:
        return frame, options, ()
    column = frame.header[match.place].strip()
    texts = frame.columns[match.place]
    found = [match.files_of.get(text, (text,)) for text in texts]
    rows = [row for row, files in enumerate(found) for _ in files]
    columns = [[values[row] for row in rows] for values in frame.columns]
    paths = [file for files in found for file in files]
    name = f"{column} ({match.identifier.element} in the DICOM headers)"
    header = list(frame.header)
    if match.identifier.element == "PatientID":  # the column also names the patients
        header, columns = [name, *header], [paths, *columns]
    else:
        header[match.place], columns[match.place] = name, paths
    joined = dataclasses.replace(frame, header=header, columns=columns)
    n_files = len({file for files in match.files_of.values() for file in files})
    note = (
        f"{frame.path.name}: the column '{column}' is matched with the {match.identifier.element} in the DICOM headers: "
        f"{match.n_rows} of {frame.n_rows} rows, {n_files} files."
    )
    return joined, dataclasses.replace(options, path_column=name), (note,)


def _names_files(frame: Frame, options: DataOptions, matches: Callable[[str], bool]) -> bool:
    chosen = None if options.path_column is None else fold_name(options.path_column)
    accepted = {match_key(name) for name in COLUMN_NAMES["image"]}
    for name, column in zip(frame.header, frame.columns, strict=True):
        if chosen is not None and fold_name(name) != chosen:
            continue
        least = 0.0 if chosen is not None or match_key(name) in accepted else MATCHING_SHARE
        if share_of_files(column, matches) > least:
            return True
    return False


def read_index_headers(index: ImageIndex) -> Headers:
    """Read the headers of the DICOM files below a folder."""
    return read_headers(index.folder, [ImageRow(path, "") for path, reason in index.reason_of.items() if not reason])


def find_match(frame: Frame, options: DataOptions, headers: Headers) -> _Match | None:
    """Return the column with the most specific identifier of the DICOM files, or None."""
    for identifier in _IDENTIFIERS:
        files_of: dict[str, list[str]] = defaultdict(list)
        for path, tags in headers.items():
            value = getattr(tags, identifier.field)
            if value:
                files_of[value].append(path)
        for place in _candidates(frame, options, identifier):
            found = _match_column(frame, place, identifier, files_of)
            if found is not None:
                return found
    return None


def _candidates(frame: Frame, options: DataOptions, identifier: _Identifier) -> list[int]:
    if options.path_column is not None:
        chosen = fold_name(options.path_column)
        return [place for place, name in enumerate(frame.header) if fold_name(name) == chosen]
    if not identifier.names:
        return list(range(len(frame.header)))
    if any(frame.position(name) is not None for name in COLUMN_NAMES["image"]):
        return []  # the table names single images, so the label of a study or a patient is not used instead
    accepted = {match_key(name) for name in (identifier.element, *identifier.names)}
    chosen_patients = None if options.patient_column is None else fold_name(options.patient_column)
    is_patient = identifier.element == "PatientID"
    return [
        place
        for place, name in enumerate(frame.header)
        if match_key(name) in accepted or (is_patient and fold_name(name) == chosen_patients)
    ]


def _match_column(frame: Frame, place: int, identifier: _Identifier, files_of: Mapping[str, Sequence[str]]) -> _Match | None:
    texts = frame.columns[place]
    found: dict[str, Sequence[str]] = {text: files_of[text.strip()] for text in set(texts) if text.strip() in files_of}
    if not found and identifier.names:  # spreadsheets remove leading zeros and add decimals
        shortened: dict[str, Sequence[str]] = {}
        for value, files in files_of.items():
            shortened[_shorten(value)] = () if _shorten(value) in shortened else files  # "7" is neither 007 nor 07
        found = {text: shortened[_shorten(text)] for text in set(texts) if shortened.get(_shorten(text))}
    n_rows = sum(text in found for text in texts)
    return _Match(identifier, place, found, n_rows) if n_rows else None


def _shorten(text: str) -> str:
    return text.strip().removesuffix(".0").lstrip("0")
