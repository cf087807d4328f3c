"""Search for image files by their suffix, else by their content, and the reasons why a file cannot be used."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from automl_cxr.data.file_format import HEAD_BYTES, detect_format, is_text

# Arrays of images (.npy) are not included, because such a file is not one image of one class.
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".j2k", ".pgm", ".ppm",
    ".pnm", ".dcm", ".dicom", ".dic",
)  # fmt: skip
# Files that accompany images. They are neither read nor listed as left out.
_OTHER_SUFFIXES = (
    ".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".html",
    ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".ppt", ".pptx", ".py", ".ipynb", ".sh", ".r", ".bib",
    ".db", ".sqlite", ".lock",
)  # fmt: skip
DATA_SUFFIXES = (".csv", ".tsv", ".tab", ".xlsx", ".xlsm", ".npy", ".npz", ".txt")
_TEXT_BYTES = 4096
_NAMES_IMAGE = re.compile(rb"\.(?:png|jpe?g|dcm|dicom|tiff?|bmp)\b", re.IGNORECASE)  # in a table with the suffix .txt
_ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_ARCHIVES_SHOWN = 4  # in a message
_COPY_SUFFIXES = (".bak", ".orig", ".old", ".tmp", ".part", ".crdownload", "~")


def walk_images(folder: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[tuple[str, str]]:
    """Walk all image files below a folder, in a stable order.

    A file without a known suffix is an image if its content starts like one. If not, it is yielded with this reason, unless it
    is text. Symbolic links are followed, and each folder is read once.

    Args:
        folder: The folder to search; hidden files and folders in it are skipped.
        suffixes: Suffixes of image files, in lower case.

    Yields:
        Path relative to the folder and "", or a printable path and the reason why it cannot be used.
    """
    visited: set[tuple[int, int]] = set()  # device and number of each folder; comparing real paths would take much longer
    pending = [""]
    linked: deque[str] = deque()  # followed last, so that a folder is listed under its own name and not under a link's
    while pending or linked:
        inside = pending.pop() if pending else linked.popleft()
        opened = os.path.join(folder, inside)
        try:
            status = os.stat(opened)
            identity = (status.st_dev, status.st_ino)
            if identity in visited:
                yield inside, "link to a folder that is already read"
                continue
            visited.add(identity)
            with os.scandir(opened) as found:
                entries = sorted((entry for entry in found if not _is_hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield inside or str(folder), f"folder cannot be read ({error.strerror})"
            continue
        folders = []
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            kind = _kind_of_entry(entry, suffixes)
            if kind != "other" and not _is_utf8(entry.name):
                yield os.fsencode(path).decode("utf-8", "backslashreplace"), "name is not valid UTF-8"
            elif kind == "folder":
                folders.append(path)
            elif kind == "linked folder":
                linked.append(path)
            elif kind == "image":
                yield path, "" if entry.is_file(follow_symlinks=False) else explain_unusable(Path(entry.path))
            elif kind == "unknown":
                reason = _explain_content(entry.path)
                if reason is not None:
                    yield path, reason
        pending.extend(reversed(folders))


def _kind_of_entry(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.name.lower().endswith(suffixes):
        return "linked folder" if entry.is_symlink() and os.path.isdir(entry.path) else "image"
    if entry.is_symlink() and os.path.isdir(entry.path):
        return "linked folder"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "image"  # a broken link may have pointed to a folder of images, so it is reported regardless of its name
    return "unknown" if entry.is_file() and not entry.name.lower().endswith(_OTHER_SUFFIXES) else "other"


def _explain_content(path: str) -> str | None:
    """Look into a file with an unknown suffix.

    Returns:
        "" if it starts like an image, None if it is text, else the reason why it is left out.
    """
    if path.lower().endswith(_COPY_SUFFIXES):
        return "a backup or an incomplete file, by its suffix; rename it to use it"
    if os.path.basename(path).upper() == "DICOMDIR":  # the fixed name of such an index
        return "an index of DICOM files, not an image"
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    found = detect_format(head)
    if found == "NumPy":
        return "an array, which is only read beside a table of labels (layout arrays)"
    if found:
        return ""
    return None if is_text(head) else "not an image in a known format"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def explain_unusable(path: Path) -> str:
    """Return the reason why a path is not a readable regular file; empty if it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "circular symbolic link"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "broken symbolic link" if path.is_symlink() else "missing"
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


def holds_images(folder: Path) -> bool:
    """Return whether a folder contains an image at any depth."""
    return any(not reason for _, reason in walk_images(folder))


def visible_folders(root: Path) -> list[Path]:
    """List the visible direct subfolders; none if the folder cannot be listed."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if os.path.isdir(entry.path) and not _is_hidden(entry.name)]
    except OSError:
        return []
    return [root / name for name in sorted(names)]


def image_folders(root: Path) -> list[Path]:
    """List the visible direct subfolders that contain an image at any depth."""
    return [folder for folder in visible_folders(root) if holds_images(folder)]


def enter_lone_folders(root: Path) -> Path:
    """Return the folder that contains the data, if the root contains nothing but one folder, at any depth.

    A folder with images or a table beside its only subfolder, and a folder of images without subfolders, are not entered.
    """
    folder = root
    while True:
        inside = visible_folders(folder)
        if len(inside) != 1 or _has_data(folder):
            return folder
        if not visible_folders(inside[0]) and not _has_data(inside[0], only_tables=True):
            return folder
        folder = inside[0]


def _has_data(folder: Path, *, only_tables: bool = False) -> bool:
    """Return whether a folder directly contains tables or arrays, or images."""
    suffixes = DATA_SUFFIXES if only_tables else (*DATA_SUFFIXES, *IMAGE_SUFFIXES)
    try:
        names = [name for name in os.listdir(folder) if not _is_hidden(name)]
    except OSError:
        return False
    texts = [name for name in names if name.lower().endswith(".txt")]
    if any(name.lower().removesuffix(".gz").endswith(suffixes) for name in names if name not in texts):
        return True
    return any(names_images(folder / name) for name in texts)


def names_images(path: Path) -> bool:
    """Return whether the start of a text names image files: it may also be a licence, checksums or robots.txt of a download."""
    try:
        with path.open("rb") as file:
            return _NAMES_IMAGE.search(file.read(_TEXT_BYTES)) is not None
    except OSError:
        return False


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive of files by its suffix."""
    return path.name.casefold().endswith(_ARCHIVE_SUFFIXES)


def archives_in(folder: Path) -> list[Path]:
    """List the visible archives directly in a folder and in its subfolders; none if it cannot be listed."""
    found: list[Path] = []
    for inside in (folder, *visible_folders(folder)):
        try:
            names = sorted(os.listdir(inside))
        except OSError:
            continue
        found.extend(inside / name for name in names if not _is_hidden(name) and is_archive(Path(name)))
    return found


def list_archives(archives: Sequence[Path]) -> str:
    """Return the names of archives for a message, such as "the archives 0.zip, 1.zip"."""
    names = ", ".join(path.name for path in archives[:_ARCHIVES_SHOWN])
    return f"the {'archive' if len(archives) == 1 else 'archives'} {names}{', ...' if len(archives) > _ARCHIVES_SHOWN else ''}"


def relative_path(root: Path, listed: str) -> str:
    """Normalise a path from a table: relative if it is below the root, otherwise absolute."""
    if listed != listed.strip() and not os.path.lexists(root / listed):
        listed = listed.strip()  # spaces that separate columns, not part of the file name
    if "\\" in listed and not os.path.lexists(root / listed):
        listed = listed.replace("\\", "/")  # a table written on Windows
    absolute = os.path.abspath(root / listed)
    relative = os.path.relpath(absolute, os.path.abspath(root))
    return Path(absolute if relative.split(os.sep)[0] == os.pardir else relative).as_posix()
