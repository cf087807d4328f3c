"""How image folders and tables are laid out on disk: one row of ``LAYOUTS`` a layout, in the order of detection.

A layout finds images and what is said about them; ``dataset.py`` makes a data set of it. Nothing here opens an image.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from automl_cxr.data.tables import COLUMN_NAMES, read_columns, read_table
from automl_cxr.errors import DataError, UnknownNameError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".pgm", ".ppm")
METADATA_NAME = "metadata.csv"
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
_PART_OF_NAME = {name: part for part, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class ImageRow:
    """What a layout knows of one image. Text that is not known is empty.

    Attributes:
        image: Posix path relative to the root, or absolute for an image that lies outside of it.
        label: Class name.
        patient_id: Whose image it is.
        split: "train", "valid", "test" or "".
        view: Projection, in the words of the table.
    """

    image: str
    label: str
    patient_id: str = ""
    split: str = ""
    view: str = ""


@dataclass(frozen=True)
class RawTable:
    """All images that a layout found, with the files it left out (path to reason) and what the user should hear."""

    rows: tuple[ImageRow, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        name: What ``--layout`` calls it.
        description: What it looks like, for messages and help.
        recognises: Tells whether a path that exists looks like it; must be cheap and must not raise.
        read: Finds the images; raises DataError where the path is not laid out so.
    """

    name: str
    description: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], RawTable]


def find_layout(root: Path, name: str | None = None) -> Layout:
    """Take the layout of that name, or the first that recognises the root.

    Raises:
        UnknownNameError: No layout has the name.
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
    raise DataError(f"The data must follow a known layout; found none in '{root}'. Arrange it as one ({known}).")


# Finding files


def walk_images(folder: Path) -> Iterator[tuple[str, str]]:
    """Visit every file with an image's suffix below a folder, in a stable order, through links but never in circles.

    Args:
        folder: Where to start; hidden files and folders below it are passed over.

    Yields:
        Path relative to the folder and "", or a printable path and the reason why it cannot serve.
    """
    visited: set[str] = set()
    pending = [""]
    linked: deque[str] = deque()  # followed last, so that a folder keeps its own name when a link leads to it as well
    while pending or linked:
        inside = pending.pop() if pending else linked.popleft()
        real = os.path.realpath(folder / inside)
        if real in visited:
            yield inside, "link to a folder that is read already"
            continue
        visited.add(real)
        try:
            with os.scandir(folder / inside) as found:
                entries = sorted((entry for entry in found if not _is_hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield inside or str(folder), f"folder cannot be read ({error.strerror})"
            continue
        folders = []
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            kind = _kind_of_entry(entry)
            if kind != "other" and not _is_utf8(entry.name):
                yield os.fsencode(path).decode("utf-8", "backslashreplace"), "name is not valid UTF-8"
            elif kind == "folder":
                folders.append(path)
            elif kind == "linked folder":
                linked.append(path)
            elif kind == "image":
                yield path, "" if entry.is_file(follow_symlinks=False) else explain_unusable(Path(entry.path))
        pending.extend(reversed(folders))


def _kind_of_entry(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.name.lower().endswith(IMAGE_SUFFIXES):
        return "linked folder" if entry.is_symlink() and os.path.isdir(entry.path) else "image"
    if not entry.is_symlink():
        return "other"
    if os.path.isdir(entry.path):
        return "linked folder"
    # A link that leads nowhere may have been a folder of images, whatever its name: it is worth a word.
    return "other" if os.path.exists(entry.path) else "image"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def explain_unusable(path: Path) -> str:
    """Say why a path leads to no regular file; empty where it does."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "circular link"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "dead link" if path.is_symlink() else "missing"
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _holds_images(folder: Path) -> bool:
    return any(not reason for _, reason in walk_images(folder))


def _folders(root: Path) -> list[Path]:
    """List the direct, visible subfolders; none where they cannot be listed."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if os.path.isdir(entry.path) and not _is_hidden(entry.name)]
    except OSError:
        return []
    return [root / name for name in sorted(names)]


def _image_folders(root: Path) -> list[Path]:
    """List the direct, visible subfolders with an image anywhere below."""
    return [folder for folder in _folders(root) if _holds_images(folder)]


# Class folders


def _read_folders(root: Path) -> RawTable:
    rows, ignored = [], {}
    for path, reason in _walk_root(root):
        label, _, below = path.partition("/")
        if reason or not below:
            ignored[path] = reason or "stands in no class folder"
        else:
            rows.append(ImageRow(path, label))
    return _join_metadata(root, RawTable(tuple(rows), ignored))


def _recognises_split_folders(root: Path) -> bool:
    trains = [folder for folder in _folders(root) if _PART_OF_NAME.get(folder.name.casefold()) == "train"]
    return any(_image_folders(folder) for folder in trains)


def _read_split_folders(root: Path) -> RawTable:
    rows, ignored = [], {}
    for path, reason in _walk_root(root):
        part = _PART_OF_NAME.get(path.split("/")[0].casefold())
        if reason:
            ignored[path] = reason
        elif part is None:
            ignored[path] = "outside of the folders train, valid and test"
        elif path.count("/") < 2:
            ignored[path] = "stands in no class folder"
        else:
            rows.append(ImageRow(path, path.split("/")[1], split=part))
    joined = _join_metadata(root, RawTable(tuple(rows), ignored))
    # The folder is the split: a split column could only contradict it.
    parts = {row.image: row.split for row in rows}
    return replace(joined, rows=tuple(replace(row, split=parts[row.image]) for row in joined.rows))


def _walk_root(root: Path) -> Iterator[tuple[str, str]]:
    if not root.is_dir():
        raise DataError(f"This layout needs a folder of class folders; received the file '{root}'. Name the folder.")
    return walk_images(root)


def _join_metadata(root: Path, found: RawTable) -> RawTable:
    """Add patient, split and view from a metadata.csv in the root, by relative path."""
    path = root / METADATA_NAME
    if not path.is_file():
        return found
    columns, records = read_table(path)
    if "image" not in columns:
        wanted = "|".join(COLUMN_NAMES["image"])
        return replace(found, notes=(*found.notes, f"{METADATA_NAME} has no column {wanted} and is not used."))
    listed = {_relative_path(root, record["image"]): record for record in records if record["image"]}
    rows = tuple(_with_metadata(row, listed.get(row.image, {})) for row in found.rows)
    accounted = {row.image for row in rows} | set(found.ignored)
    gone = {image: _explain_listed(root, image) for image in listed if image not in accounted}
    return RawTable(rows, {**gone, **found.ignored}, (*found.notes, *_metadata_notes(rows, listed)))


def _with_metadata(row: ImageRow, record: Mapping[str, str]) -> ImageRow:
    return replace(
        row,
        patient_id=record.get("patient_id", ""),
        split=_part_named(record.get("split", ""), METADATA_NAME),
        view=record.get("view", ""),
    )


def _metadata_notes(rows: Collection[ImageRow], listed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    n_unlisted = sum(row.image not in listed for row in rows)
    if n_unlisted:
        yield (
            f"{n_unlisted} of {len(rows)} images are not listed in {METADATA_NAME}: each counts as its own patient "
            "(its image column holds paths relative to the data folder)."
        )
    told = [(row.label, listed[row.image].get("label", "")) for row in rows if row.image in listed]
    n_other = sum(label not in ("", folder) for folder, label in told)
    if n_other:
        yield f"{n_other} of {len(told)} labels in {METADATA_NAME} differ from the class folder: the folder counts."


def _explain_listed(root: Path, image: str) -> str:
    reason = explain_unusable(root / image)
    return f"listed in {METADATA_NAME} but {reason or 'not in a class folder'}"


# Tables


def _recognises_csv(root: Path) -> bool:
    if not root.is_dir():
        return root.suffix.casefold() == ".csv"
    tables = _label_tables(root)
    if len(tables) != 1:
        return False
    folders = {folder.name for folder in _image_folders(root)}
    if len(folders) < 2:
        return True
    # Two or more folders of images may be classes (then the table is an addition to them) or mere shelves, such as
    # NIH's images_001 and images_002. Class folders are named like labels; metadata.csv promises to be an addition.
    return tables[0].name != METADATA_NAME and not folders & _labels_in(tables[0])


def _labels_in(table: Path) -> set[str]:
    try:
        return {record["label"] for record in read_table(table)[1]}
    except DataError:
        return set()  # recognised, so that reading it tells what is wrong


def _read_csv(root: Path) -> RawTable:
    path = root if root.is_file() else _only_table(root)
    columns, records = read_table(path)
    for column in ("image", "label"):
        if column not in columns:
            raise DataError(
                f"The table '{path}' must have a column {'|'.join(COLUMN_NAMES[column])}; "
                f"received {', '.join(columns.values()) or 'no column'}. Rename one."
            )
    return _rows_from_records(path, records)


def _only_table(root: Path) -> Path:
    tables = _label_tables(root)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"The layout 'csv' needs exactly one table with columns {'|'.join(COLUMN_NAMES['image'])} and "
            f"{'|'.join(COLUMN_NAMES['label'])} in '{root}'; found {names}. Name the CSV file itself."
        )
    return tables[0]


def _label_tables(root: Path) -> list[Path]:
    """List the CSV files directly in a folder that say an image and a label in each row."""
    tables = []
    for path in sorted(root.glob("*.[cC][sS][vV]")):
        try:
            columns = read_columns(path)
        except DataError:
            continue  # another program's file need not be ours to read
        if "image" in columns and "label" in columns:
            tables.append(path)
    return tables


def _rows_from_records(path: Path, records: Iterable[Mapping[str, str]]) -> RawTable:
    root = path.parent
    rows: dict[str, ImageRow] = {}
    ignored: dict[str, str] = {}
    n_unlabelled = n_repeated = 0
    for record in records:
        if not record["image"] or not record["label"]:
            n_unlabelled += 1
            continue
        row = _row_from_record(root, path.name, record)
        n_repeated += row.image in rows
        if rows.get(row.image, row) != row:
            ignored[row.image] = f"listed more than once in {path.name}, with differing entries"
        rows[row.image] = row
    for image in rows:
        reason = explain_unusable(root / image)
        if reason:
            ignored[image] = f"listed in {path.name} but {reason}"
    usable = tuple(row for row in rows.values() if row.image not in ignored)
    if rows and not usable:
        image, reason = next(iter(ignored.items()))
        raise DataError(
            f"The images of '{path}' must be where it says, relative to its folder; none of {len(rows)} can be used, "
            f"the first being '{image}' ({reason}). Correct the paths or move the table."
        )
    notes = []
    if n_unlabelled:
        notes.append(f"{n_unlabelled} rows of {path.name} lack an image or a label and are left out.")
    if n_repeated:
        notes.append(f"{n_repeated} rows of {path.name} name an image again: equal rows count once.")
    return RawTable(usable, ignored, tuple(notes))


def _row_from_record(root: Path, table_name: str, record: Mapping[str, str]) -> ImageRow:
    return ImageRow(
        image=_relative_path(root, record["image"]),
        label=record["label"],
        patient_id=record.get("patient_id", ""),
        split=_part_named(record.get("split", ""), table_name),
        view=record.get("view", ""),
    )


def _part_named(name: str, table_name: str) -> str:
    if name and name.casefold() not in _PART_OF_NAME:
        raise DataError(
            f"The split column of {table_name} must say train, valid or test; received '{name}'. "
            "Rename it, or remove the column to have a split made."
        )
    return _PART_OF_NAME[name.casefold()] if name else ""


def _relative_path(root: Path, listed: str) -> str:
    """Normalise a listed path: relative to the root where it is below, absolute where it is not."""
    if "\\" in listed and not os.path.lexists(root / listed):
        listed = listed.replace("\\", "/")  # a table written on Windows
    absolute = os.path.abspath(root / listed)
    relative = os.path.relpath(absolute, os.path.abspath(root))
    return Path(absolute if relative.split(os.sep)[0] == os.pardir else relative).as_posix()


LAYOUTS = (
    Layout(
        "split-folders",
        "folders train, valid and test (at least train), each of class folders",
        _recognises_split_folders,
        _read_split_folders,
    ),
    Layout(
        "csv",
        "a CSV file with a path and a label in each row, optionally patient_id, split, view",
        _recognises_csv,
        _read_csv,
    ),
    Layout(
        "folders",
        "a folder for each class, optionally with a metadata.csv beside them",
        lambda root: bool(_image_folders(root)),
        _read_folders,
    ),
)
