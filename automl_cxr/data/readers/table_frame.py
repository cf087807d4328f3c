"""The columns of a table of images, and the use of each column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.csv_io import read_text_table
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import IMAGE_SUFFIXES
from automl_cxr.data.layout_rows import PART_OF_NAME
from automl_cxr.data.readers.findings import are_regions, finding_columns, states_finding
from automl_cxr.data.table_columns import (
    COLUMN_NAMES,
    Columns,
    check_unique,
    find_columns,
    fold_name,
    list_names,
    match_key,
)
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.tasks import MULTICLASS

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm")
_SAMPLE = 50  # rows that decide which column names the images
MATCHING_SHARE = 0.5  # of the sample
_MAX_LABELS, _MAX_LABEL_LENGTH = 50, 60  # of a column that is used without a known name
READER_NAMES = ("rad_id", "reader", "reader_id", "radiologist", "radiologist_id", "annotator", "rater")
BOX_NAMES = frozenset({"x", "y", "xmin", "ymin", "width", "height", "boxes", "xmax", "ymax", "w", "h"})
_NO_FINDING_NAMES = frozenset({"sex", "gender", "male", "female", "pediatric", "smoker", "age", "survival"})
ROLE_OPTIONS = {
    "image": "path_column",
    "label": "label_column",
    "patient_id": "patient_column",
    "split": "split_column",
    "view": "view_column",
}


@dataclass(frozen=True)
class Frame:
    """A table by columns.

    Attributes:
        path: Its file.
        header: Names of the columns; numbers from 1 for a table without a header.
        columns: Texts of each column.
        has_header: Whether the first line of the file is a header.
        encoding: Encoding of the file, if it is not UTF-8.
    """

    path: Path
    header: list[str]
    columns: list[list[str]]
    has_header: bool
    encoding: str = ""

    @property
    def n_rows(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def position(self, name: str) -> int | None:
        """Return the position of a column by its name, regardless of case and separators."""
        keys = [match_key(other) for other in self.header]
        return keys.index(match_key(name)) if match_key(name) in keys else None

    def in_order_of(self, names: Sequence[str]) -> list[int]:
        """Return the positions of all columns, first those with accepted names in the order of the names."""
        first = [place for name in names if (place := self.position(name)) is not None]
        return list(dict.fromkeys([*first, *range(len(self.header))]))


def is_table(path: Path) -> bool:
    """Return whether a file is a table by its suffix."""
    name = path.name.casefold().removesuffix(".gz")
    return name.endswith(TABLE_SUFFIXES)


def read_frame(path: Path, names: Columns, *, empty_last_name: bool = False) -> Frame:
    """Read a table.

    The first line is no header if it contains no accepted name and names an image file.

    Args:
        path: The file.
        names: Accepted names of the columns.
        empty_last_name: As in ``csv_io.read_text_table``.

    Raises:
        DataError: The file is not a table, or its rows have different numbers of fields.
    """
    table = read_text_table(path, empty_last_name=empty_last_name)
    if not table.lines:
        return Frame(path, [], [], has_header=True)
    has_header = is_header(table.lines[0], names)
    header = table.lines[0] if has_header else [str(number) for number in range(1, len(table.lines[0]) + 1)]
    rows = table.lines[1:] if has_header else table.lines
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in header]
    encoding = "" if table.encoding.startswith(("utf-8", "utf-16")) else table.encoding
    return Frame(path, header, columns, has_header, encoding)


def is_header(first: Sequence[str], names: Columns) -> bool:
    """Return whether a first line contains an accepted name, or no image file."""
    return bool(find_columns(first, names)) or not any(text.strip().casefold().endswith(IMAGE_SUFFIXES) for text in first)


def join_frame(frame: Frame, other: Frame, keys: Sequence[str], other_key: str = "", suffix: str = "") -> Frame:
    """Add the columns of another table to the rows with the same keys; empty where it has no such row.

    Args:
        frame: The table whose rows are kept.
        other: The other table. Of several rows with the same keys the first is used.
        keys: Names of columns of both tables.
        other_key: Name of the key in the other table, if it differs.
        suffix: What follows the key there.

    Raises:
        DataError: A table lacks a key.
    """
    ours, theirs = _positions(frame, keys), _positions(other, [other_key] if other_key else keys)
    known = {match_key(name) for name in frame.header}
    added = [position for position, name in enumerate(other.header) if match_key(name) not in known]
    row_of: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*(other.columns[position] for position in theirs), strict=True)):
        row_of.setdefault(tuple(text.removesuffix(suffix) for text in key) if suffix else key, row)
    rows = [row_of.get(key, -1) for key in zip(*(frame.columns[position] for position in ours), strict=True)]
    columns = [["" if row < 0 else other.columns[position][row] for row in rows] for position in added]
    return Frame(
        frame.path,
        [*frame.header, *(other.header[position] for position in added)],
        [*frame.columns, *columns],
        frame.has_header,
        frame.encoding,
    )


def _positions(frame: Frame, names: Sequence[str]) -> list[int]:
    positions = [frame.position(name) for name in names]
    if None in positions:
        raise DataError(
            f"The tables of this data set are joined by {', '.join(names)}; '{frame.path}' has {list_names(frame.header)}. Use "
            "the original files, or name a table with --labels."
        )
    return [position for position in positions if position is not None]


@dataclass(frozen=True)
class Roles:
    """The use of the columns of a table, by position.

    Attributes:
        positions: Positions of the columns of each role: image, label, patient_id, split, view and reader. Of several columns
            of a role the first that is not empty is used.
        findings: Positions of the columns that state one finding each, if there is no label column.
        is_box_table: Whether a row describes a region of an image, so that an image may have several rows.
        has_regions: Whether the label column contains regions and not names.
        label_finding: Position of the column with the name of a label column that is used as one of the findings, or None.
    """

    positions: Mapping[str, tuple[int, ...]]
    findings: tuple[int, ...] = ()
    is_box_table: bool = False
    has_regions: bool = False
    label_finding: int | None = None

    def texts(self, frame: Frame, role: str) -> list[str] | None:
        """Return the texts of a role without outer spaces, except for images; None if no column has this role."""
        positions = self.positions.get(role, ())
        if not positions:
            return None
        if role == "image":
            return frame.columns[positions[0]]
        columns = [frame.columns[position] for position in positions]
        if len(columns) == 1:
            stripped = {text: text.strip() for text in set(columns[0])}
            return [stripped[text] for text in columns[0]]
        return [next((text.strip() for text in texts if text.strip()), "") for texts in zip(*columns, strict=True)]

    def used(self, frame: Frame) -> dict[str, str]:
        """Return the names of the columns of each role, for the user."""
        used = {
            role: ", ".join(frame.header[position].strip() for position in positions)
            for role, positions in self.positions.items()
        }
        if self.has_regions:
            used["label"] += ", an image with a region has the finding"
        if self.findings:
            used["label"] = f"{len(self.findings)} columns: {list_names([frame.header[place] for place in self.findings])}"
        return used

    def notes(self, frame: Frame) -> list[str]:
        """Return messages about uses that the user may not expect."""
        if self.label_finding is None:
            return []
        name = frame.header[self.label_finding].strip()
        note = (
            f"Column '{name}' of {frame.path.name} is one of {len(self.findings)} columns of 0 and 1, so it is a finding. "
            f"--label-column {name} uses it as the class of the image; --findings A,B chooses other columns."
        )
        return [note]

    def unused(self, frame: Frame, others: Iterable[int] = ()) -> list[str]:
        """Return the names of the columns that have no role and no other use."""
        taken = {position for positions in self.positions.values() for position in positions} | set(self.findings) | set(others)
        return [name.strip() for position, name in enumerate(frame.header) if position not in taken and name.strip()]


def find_roles(
    frame: Frame,
    options: DataOptions,
    matches: Callable[[str], bool],
    *,
    names: Columns = COLUMN_NAMES,
    findings: Sequence[str] = (),
    joined_views: bool = False,
) -> Roles:
    """Find the use of each column of a table.

    Args:
        frame: The table.
        options: Columns that the user chose.
        matches: Returns whether a text names a file.
        names: Accepted names of the columns.
        findings: Names of the columns of findings; by default detected if there is no label column.
        joined_views: Whether all columns with an accepted name of the view are used.

    Raises:
        DataError: No column names the images or contains the labels, or it is unclear which one.
        UnknownNameError: A chosen column does not exist.
    """
    chosen = {role: _chosen(frame, role, getattr(options, option)) for role, option in ROLE_OPTIONS.items()}
    positions: dict[str, tuple[int, ...]] = {role: (position,) for role, position in chosen.items() if position is not None}
    if "image" not in positions:
        positions["image"] = (_image_column(frame, matches, names),)
    for role in ("patient_id", "view"):
        found = [place for place in _accepted(frame, names[role]) if (place,) != positions["image"]]
        if role not in positions and found:
            positions[role] = tuple(found) if role == "view" and joined_views else (found[0],)
    if "split" not in positions and (place := _split_column(frame, names)) is not None:
        positions["split"] = (place,)
    readers = _accepted(frame, READER_NAMES)
    if readers:
        positions["reader"] = (readers[0],)
    is_box_table = sum(match_key(name) in BOX_NAMES for name in frame.header) >= 2
    finding_columns: tuple[int, ...] = ()
    label_finding = None
    if "label" not in positions:
        taken = {place for places in positions.values() for place in places}
        finding_columns = tuple(place for name in findings if (place := frame.position(name)) is not None)
        label = None if finding_columns else _label_column(frame, names, taken, options)
        if label is not None and _is_one_of_findings(frame, label, taken, names, options, is_box_table=is_box_table):
            label, label_finding = None, label
        if label is not None:
            positions["label"] = (label,)
        elif not finding_columns:
            finding_columns = _finding_columns(frame, taken, chosen, options, is_box_table=is_box_table)
    used = {str(number): frame.header[place] for number, place in enumerate(_all(positions.values()))}
    check_unique(frame.header, used, frame.path)
    has_regions = "label" in positions and are_regions(frame.columns[positions["label"][0]])
    return Roles(positions, finding_columns, is_box_table or has_regions, has_regions, label_finding)


def _all(places: object) -> Iterator[int]:
    for group in places:  # type: ignore[attr-defined]
        yield from group


def _chosen(frame: Frame, role: str, name: str | None) -> int | None:
    if name is None:
        return None
    folded = [fold_name(other) for other in frame.header]
    if fold_name(name) in folded:
        return folded.index(fold_name(name))
    raise UnknownNameError(
        f"{ROLE_OPTIONS[role].replace('_', ' ')}", name, [one.strip() for one in frame.header if one.strip()]
    )


def _accepted(frame: Frame, names: Sequence[str]) -> list[int]:
    """Return the positions of the columns with accepted names, in the order of the names."""
    return [position for name in names if (position := frame.position(name)) is not None]


def _image_column(frame: Frame, matches: Callable[[str], bool], names: Columns) -> int:
    accepted = _accepted(frame, names["image"])
    shares = {place: share_of_files(frame.columns[place], matches) for place in range(len(frame.header))}
    matching = [place for place in accepted if shares[place] > 0]
    if accepted:
        return max(matching or accepted, key=lambda place: (shares[place], -accepted.index(place)))
    others = [place for place, share in shares.items() if share > MATCHING_SHARE]
    if not others and not frame.has_header:
        others = [place for place, column in enumerate(frame.columns) if names_image_files(column)]
    if len(others) == 1:
        return others[0]
    found = f"; {list_names([frame.header[place] for place in others])} name files" if others else ""
    raise DataError(
        f"The table '{frame.path}' must have a column {'|'.join(names['image'][:3])}; received "
        f"{_describe_header(frame)}{found}. Name it with --path-column."
    )


def share_of_files(column: Sequence[str], matches: Callable[[str], bool]) -> float:
    """Return the share of a sample of the texts of a column that name a file."""
    step = max(1, len(column) // _SAMPLE)
    sample = [text for text in column[::step] if text.strip()]
    return sum(map(matches, sample)) / len(sample) if sample else 0.0


def names_image_files(column: Sequence[str]) -> bool:
    """Return whether the first text of a column ends like the name of an image file."""
    return column[0].strip().casefold().endswith(IMAGE_SUFFIXES)


def _split_column(frame: Frame, names: Columns) -> int | None:
    found = _accepted(frame, names["split"])
    if found:
        return found[0]
    for place, column in enumerate(frame.columns):
        texts = {text.strip().casefold() for text in set(column)}
        if len(texts) > 1 and texts <= PART_OF_NAME.keys():
            return place
    return None


def _label_column(frame: Frame, names: Columns, taken: set[int], options: DataOptions) -> int | None:
    """Return the position of the label column; None if there may be columns of findings.

    Raises:
        DataError: Several columns may contain the labels.
    """
    not_labels = taken | _columns_of_chosen_findings(frame, options)
    found = [place for place in _accepted(frame, names["label"]) if place not in not_labels]
    preferred = [match_key(name) for name in names["label"][:3]]
    if found and (len(found) == 1 or match_key(frame.header[found[0]]) in preferred):
        return found[0]
    if found:
        raise DataError(
            f"It must be clear which column contains the labels; '{frame.path}' has "
            f"{list_names([frame.header[place] for place in found])}. Name one with --label-column."
        )
    others = [place for place, name in enumerate(frame.header) if place not in not_labels and name.strip()]
    known = {match_key(name) for role in ("patient_id", "split", "view") for name in names[role]}
    if len(others) != 1 or match_key(frame.header[others[0]]) in known:
        return None
    column = frame.columns[others[0]]  # the only one without another use
    if options.wants_findings and finding_columns({others[0]: column}, fewest=1):
        return None
    return others[0] if _repeats(column) or are_regions(column) else None


def _is_one_of_findings(
    frame: Frame, label: int, taken: set[int], names: Columns, options: DataOptions, *, is_box_table: bool
) -> bool:
    """Return whether a label column of 0 and 1 is beside two or more other columns of 0 and 1, which it may belong to.

    It is not one of them if all images have exactly one of the others: these state the class, which has its own column. The
    label columns of public data sets, and of users who choose classes, are known.
    """
    if names["label"] != COLUMN_NAMES["label"] or options.task == MULTICLASS or options.classes or options.finding:
        return False
    if not finding_columns({label: frame.columns[label]}, fewest=1):
        return False
    others = finding_columns(_possible_findings(frame, taken | {label}, options, is_box_table=is_box_table))
    n_present = {sum(map(states_finding, texts)) for texts in zip(*(frame.columns[place] for place in others), strict=True)}
    return bool(others) and n_present != {1}


def _columns_of_chosen_findings(frame: Frame, options: DataOptions) -> set[int]:
    """Return the positions of the columns that the user chose as findings, such as a finding that is called "label"."""
    chosen = set(map(fold_name, options.findings or ()))
    named = {place: frame.columns[place] for place, name in enumerate(frame.header) if fold_name(name) in chosen}
    return set(finding_columns(named, fewest=1))


def _repeats(column: Sequence[str]) -> bool:
    """Return whether short texts of a column repeat, as labels do."""
    texts = set(column)
    return 1 < len(texts) <= min(_MAX_LABELS, len(column) / 2) and max(map(len, texts)) <= _MAX_LABEL_LENGTH


def _finding_columns(
    frame: Frame, taken: set[int], chosen: Mapping[str, int | None], options: DataOptions, *, is_box_table: bool
) -> tuple[int, ...]:
    """Return the positions of the columns of findings: two or more, or one if the user wants findings.

    Raises:
        DataError: There are none.
    """
    possible = _possible_findings(frame, taken, options, is_box_table=is_box_table)
    binary = finding_columns(possible, fewest=1 if options.wants_findings else 2)
    if binary:
        return binary
    uses = [f"'{frame.header[place].strip()}' ({role})" for role, place in chosen.items() if place is not None]
    used = f", of which {', '.join(uses)} {'is' if len(uses) == 1 else 'are'} chosen for another use" if uses else ""
    raise DataError(
        f"The table '{frame.path}' must have a column {'|'.join(COLUMN_NAMES['label'][:3])}, or a column of 0 and 1 for each "
        f"finding; received {_describe_header(frame)}{used}. Name the labels with --label-column."
    )


def _possible_findings(frame: Frame, taken: set[int], options: DataOptions, *, is_box_table: bool) -> dict[int, Sequence[str]]:
    """Return the columns without another use whose names are not those of properties of patients or boxes, by position."""
    excluded = _NO_FINDING_NAMES | set(map(match_key, options.subgroups or ())) | (BOX_NAMES if is_box_table else set())
    return {
        place: frame.columns[place]
        for place, name in enumerate(frame.header)
        if place not in taken and name.strip() and match_key(name) not in excluded
    }


def _describe_header(frame: Frame) -> str:
    if frame.has_header:
        return list_names(frame.header)
    first = ", ".join(f"{name} ('{column[0]}')" for name, column in zip(frame.header, frame.columns, strict=True))
    return f"no header and the columns {first}"
