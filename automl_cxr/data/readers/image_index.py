"""Finds the files that a table of images names: by their path, else by the longest end of it, by name, or by stem.

A table may have been written on another computer, list names only, or omit suffixes. A name that fits several files, or that
several rows share, is never guessed.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from automl_cxr.data.files import IMAGE_SUFFIXES, explain_unusable, relative_path, walk_images
from automl_cxr.errors import DataError

_SUFFIXES = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
MAX_EXPLAINED = 100  # missing files that are looked at one by one


@dataclass(frozen=True)
class ImageIndex:
    """All files below a folder, from one walk.

    Attributes:
        folder: The folder.
        reason_of: Path relative to the folder to the reason why the file cannot be used; empty if it is an image.
    """

    folder: Path
    reason_of: Mapping[str, str]
    _by_name: Mapping[str, list[str]] = field(repr=False)
    _by_stem: Mapping[str, list[str]] = field(repr=False)

    @classmethod
    def walk(cls, folder: Path) -> ImageIndex:
        """Walk a folder."""
        reason_of = dict(walk_images(folder))
        by_name, by_stem = defaultdict(list), defaultdict(list)
        for path in reason_of:
            name = _fold(path.rpartition("/")[2])
            by_name[name].append(path)
            by_stem[stem_of(name)].append(path)
        return cls(folder, reason_of, by_name, by_stem)

    def matches(self, listed: str) -> bool:
        """Return whether the end of a listed path, or its stem, is the name of a file."""
        name = _fold(_normalise(listed).rpartition("/")[2])
        return bool(name) and (name in self._by_name or stem_of(name) in self._by_stem)


@dataclass(frozen=True)
class LocatedImages:
    """The files of listed paths.

    Attributes:
        path_of: Listed path to the path of its file: relative to the folder, or absolute for a file outside of it.
        unusable: The same for files that cannot be used, with the reasons; ``missing`` are not included.
        missing: Listed paths without a file.
        copies: Further files that fit a listed path, to the path of the file that is used.
    """

    path_of: Mapping[str, str]
    unusable: Mapping[str, str]
    missing: tuple[str, ...]
    copies: Mapping[str, str]


def stem_of(name: str) -> str:
    """Return a name without the suffix of an image file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.casefold() in _SUFFIXES else name


def locate(
    index: ImageIndex, listed: Iterable[str], *, table: str, beside: Path | None = None, unique_names: bool = False
) -> LocatedImages:
    """Find the file of each listed path.

    Args:
        index: The files.
        listed: Paths as a table contains them.
        table: Name of the table, for messages.
        beside: Folder of the table, which paths may be relative to.
        unique_names: Whether the names are unique in the data set, so that files of the same name are copies.

    Raises:
        DataError: Several files fit a listed path equally well, and names are not unique.
    """
    beside = None if beside == index.folder else beside
    path_of: dict[str, str] = {}
    open_paths: list[str] = []
    for text in dict.fromkeys(listed):
        found = _direct(index, text, beside)
        if found is None:
            open_paths.append(text)
        else:
            path_of[text] = found
    copies: dict[str, str] = {}
    if index.reason_of:
        path_of |= _match_ends(index, open_paths, set(path_of.values()), table, copies if unique_names else None)
    missing = [text for text in open_paths if text not in path_of]
    unusable = {path: index.reason_of[path] for path in path_of.values() if index.reason_of.get(path)}
    if len(missing) <= MAX_EXPLAINED:
        for text in missing:
            reason = explain_unusable(index.folder / text) if text else "missing"
            unusable[relative_path(index.folder, text)] = reason or "not an image"
    return LocatedImages(path_of, unusable, tuple(missing), copies)


def _direct(index: ImageIndex, text: str, beside: Path | None) -> str | None:
    """Return the path of a file that a text names exactly."""
    if text in index.reason_of:
        return text
    for candidate in (text.strip(), _normalise(text)):
        if candidate in index.reason_of:
            return candidate
    is_outside = text.lstrip().startswith(("/", ".."))
    if not is_outside and beside is None and "./" not in text:
        return None
    for folder in (index.folder, beside):
        if folder is not None:
            path = relative_path(index.folder, str(folder / text))
            if path in index.reason_of or (is_outside and (index.folder / path).is_file()):
                return path
    return None


def _normalise(text: str) -> str:
    return text.strip().replace("\\", "/").removeprefix("./")


def _fold(name: str) -> str:
    """Return a name for comparison regardless of case, and of the encoding of accents, which macOS changes."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def _match_ends(
    index: ImageIndex, listed: list[str], taken: set[str], table: str, copies: dict[str, str] | None
) -> dict[str, str]:
    """Match the ends of listed paths with the ends of the paths of files that no other row names.

    Of several files the first is used, and the others are added to ``copies``, if it is not None.
    """
    matched: dict[str, tuple[str, str]] = {}  # the file and the common end
    for text in listed:
        parts = _fold(_normalise(text)).split("/")
        candidates = index._by_name.get(parts[-1], ())
        if candidates:
            lengths = [_common_length(parts, path) for path in candidates]
            best = max(lengths)
            ends = [path for path, length in zip(candidates, lengths, strict=True) if length == best]
            end = "/".join(parts[-best:])
        elif parts[-1]:
            ends = index._by_stem.get(stem_of(parts[-1]), [])
            end = stem_of(parts[-1])
        else:
            continue
        ends = [path for path in ends if path not in taken]
        if len(ends) > 1 and copies is not None:
            copies |= dict.fromkeys(ends[1:], ends[0])
        elif len(ends) > 1:
            raise DataError(
                f"Each row of a table must name one file; '{text.strip()}' in '{table}' fits {len(ends)} files, such as "
                f"'{ends[0]}' and '{ends[1]}'. Name the folder of the images with --images, or write paths into the table."
            )
        if ends:
            matched[text] = (ends[0], end)
    n_with_end = Counter(end for _, end in matched.values())
    n_of_file = Counter(path for path, _ in matched.values())
    return {text: path for text, (path, end) in matched.items() if n_with_end[end] == 1 and n_of_file[path] == 1}


def _common_length(parts: list[str], path: str) -> int:
    """Return the number of equal parts at the ends of two paths."""
    length = 0
    for one, other in zip(reversed(parts), reversed(_fold(path).split("/")), strict=False):
        if one != other:
            break
        length += 1
    return length
