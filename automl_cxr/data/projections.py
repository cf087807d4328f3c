"""Projections (views) of radiographs: their names in tables, DICOM headers and paths, and the choice of some of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.errors import DataError, UnknownNameError, UsageError

FRONTAL, LATERAL, OTHER, UNKNOWN = "frontal", "lateral", "other", "unknown"
PROJECTIONS = ("PA", "AP", FRONTAL, LATERAL, OTHER, UNKNOWN)
"""Names for ``--projections``. An image is "frontal" if it is not known whether it is PA or AP."""

_PHRASES = {
    **dict.fromkeys(("postero anterior", "posterior anterior", "posterior to anterior", "p a"), "PA"),
    **dict.fromkeys(("antero posterior", "anterior posterior", "anterior to posterior", "a p"), "AP"),
}
_WORDS = {
    "pa": "PA",
    "posteroanterior": "PA",
    "ap": "AP",
    "anteroposterior": "AP",
    "frontal": FRONTAL,
    "lateral": LATERAL,
    "lat": LATERAL,
    "ll": LATERAL,
    "rl": LATERAL,
    "seitlich": LATERAL,
    "profil": LATERAL,
    **dict.fromkeys(("oblique", "lao", "rao", "lpo", "rpo", "llo", "rlo", "lordotic", "swimmers", "xtable"), OTHER),
    **dict.fromkeys((OTHER, "axial", "coronal", "sagittal", "costal"), OTHER),
}
_DECUBITUS = frozenset({"decubitus", "decub", "lld", "rld"})  # "left lateral decubitus" is a position, not a lateral view
_WORDS_OF_PATHS = "pa|ap|frontal|lateral|lat"
_IN_NAME = re.compile(rf"(?<![a-z0-9])(?:{_WORDS_OF_PATHS})(?![a-z0-9])", re.IGNORECASE)
_IN_FOLDERS = re.compile(rf"(?<![^/])(?:{_WORDS_OF_PATHS})(?=/)", re.IGNORECASE)
_LATERAL_WORDS = frozenset(word for word, projection in _WORDS.items() if projection == LATERAL)
_NO_VIEW = frozenset({"", UNKNOWN, "unk", "nan", "none", "null", "na", "n/a", "-", "?"})
_SHOWN = 4
_SEVERAL_VIEWS = re.compile(r"\b(?:2|two)[\s_-]*views?\b", re.IGNORECASE)
_SEPARATORS = re.compile(r"[^a-z0-9]+")


@lru_cache(maxsize=4096)
def projection_of(view: str) -> str:
    """Return the projection that a text describes, such as a field ViewPosition or a column of a table.

    Args:
        view: For example "PA", "AP Supine", "LL", "postero-anterior", "Thorax p.a." or "view1_frontal".

    Returns:
        One of ``PROJECTIONS``; "unknown" for an empty text, and for one that names several, such as "CHEST PA AND LAT".
    """
    words = _split(view)
    if words == ["l"]:
        return LATERAL
    found = {_WORDS[word] for word in words if word in _WORDS}
    found |= {name for phrase, name in _PHRASES.items() if f" {phrase} " in f" {' '.join(words)} "}
    if not _DECUBITUS.isdisjoint(words):
        found = (found - {LATERAL}) or {OTHER}
    return _only(found)


@lru_cache(maxsize=4096)
def may_be_lateral(view: str) -> bool:
    """Return whether a description names a lateral view among others, such as "CHEST PA AND LAT" or "Chest 2 views"."""
    mentions = not _LATERAL_WORDS.isdisjoint(_split(view)) or _SEVERAL_VIEWS.search(view) is not None
    return mentions and projection_of(view) == UNKNOWN


def projection_in_path(path: str) -> str:
    """Return the projection that a path names: words of the file name, or a folder, such as ``view1_frontal`` or ``PA``.

    A word is separated by other characters than letters and digits, so the folder ``PA000001`` of a DICOM export names none.

    Returns:
        One of ``PROJECTIONS``; "unknown" if the path names none or several.
    """
    words = _IN_NAME.findall(path.rpartition("/")[2]) or _IN_FOLDERS.findall(path)
    return _only({_WORDS[word.casefold()] for word in words})


def _split(text: str) -> list[str]:
    return [word for word in _SEPARATORS.split(text.casefold()) if word]


def _only(found: set[str]) -> str:
    if len(found) == 2 and FRONTAL in found and found & {"PA", "AP"}:
        found = found - {FRONTAL}
    return found.pop() if len(found) == 1 else UNKNOWN


def count_projections(views: Iterable[str]) -> dict[str, int]:
    """Count images by projection, in the order of ``PROJECTIONS``, without those that do not occur."""
    counts = Counter(map(projection_of, views))
    return {name: counts[name] for name in PROJECTIONS if counts[name]}


def describe_counts(counts: dict[str, int]) -> str:
    """Return counts as text, such as "3 PA, 2 lateral"."""
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def check_view_column(rows: Sequence[ImageRow], column: str) -> None:
    """Check that a column that the user chose contains projections.

    Raises:
        UsageError: None of its texts names a projection.
    """
    texts = {row.view for row in rows if row.view}
    if all(projection_of(text) == UNKNOWN and not may_be_lateral(text) for text in texts):
        listed = ", ".join(f"'{text}'" for text in sorted(texts)[:_SHOWN]) or "no text"
        raise UsageError(
            f"--view-column must name a column of projections, such as PA, AP and lateral; received '{column}' with {listed}. "
            "Name another column, or omit the option."
        )


def choose_projections(rows: Sequence[ImageRow], requested: Sequence[str] | None, notes: list[str]) -> list[ImageRow]:
    """Select the images of the requested projections. Add a note on images that are left out, or on laterals that are used.

    Args:
        rows: All images.
        requested: Names of ``PROJECTIONS`` in any case, or other names of these, such as "LL"; None for all images.
        notes: Notes for the user, to which notes are appended.

    Raises:
        UnknownNameError: There is no such projection.
        DataError: No image has one of the projections.
    """
    counts = count_projections(row.view for row in rows)
    unclear = [row.view for row in rows if _is_unclear(row.view)]
    if unclear:
        notes.append(
            f"{len(unclear)} of {len(rows)} images have a view that names no projection, such as '{unclear[0]}', and count as "
            f"{UNKNOWN}."
        )
    if requested is None:
        if LATERAL in counts or OTHER in counts:
            notes.append(_note_other_views(counts, len(rows)))
        suspected = [row.view for row in rows if row.view and may_be_lateral(row.view)]
        if suspected:
            notes.append(
                f"{len(suspected)} of {len(rows)} images may be lateral views by descriptions such as '{suspected[0]}', and "
                "are used. A column view in a table of the images would tell; --projections PA,AP uses frontal images only."
            )
        return list(rows)
    chosen = included_projections(requested)
    kept = [row for row in rows if projection_of(row.view) in chosen]
    listed = ", ".join(requested)
    if not kept:
        raise DataError(
            f"--projections must name projections of the images; received {listed} for {describe_counts(counts)}. Choose one "
            "of these, or omit the option. Projections are read from DICOM headers, a column of the table, or words of the "
            "paths such as frontal, lateral, PA and AP."
        )
    left_out = {name: n for name, n in counts.items() if name not in chosen}
    if left_out:
        n_left_out = len(rows) - len(kept)
        hint = f" '{UNKNOWN}' in --projections keeps images of unknown projection." if UNKNOWN in left_out else ""
        notes.append(
            f"{n_left_out} of {len(rows)} images are not used (--projections {','.join(requested)}): "
            f"{describe_counts(left_out)}.{hint}"
        )
    return kept


def _is_unclear(view: str) -> bool:
    """Return whether a text for a view is not understood; empty and similar texts state that it is unknown."""
    return projection_of(view) == UNKNOWN and not may_be_lateral(view) and view.strip().casefold() not in _NO_VIEW


def included_projections(requested: Sequence[str]) -> set[str]:
    """Return the names of ``PROJECTIONS`` that a choice includes: PA and AP together include frontal, which includes both.

    Raises:
        UnknownNameError: There is no such projection.
    """
    chosen = {_read_name(name) for name in requested}
    if {"PA", "AP"} <= chosen:
        chosen.add(FRONTAL)
    if FRONTAL in chosen:
        chosen |= {"PA", "AP"}
    return chosen


def _read_name(name: str) -> str:
    by_folded = {one.casefold(): one for one in PROJECTIONS}
    found = by_folded.get(name.strip().casefold()) or projection_of(name)
    if found == UNKNOWN and name.strip().casefold() != UNKNOWN:
        raise UnknownNameError("projection", name, PROJECTIONS)
    return found


def _note_other_views(counts: dict[str, int], n_images: int) -> str:
    n_others = counts.get(LATERAL, 0) + counts.get(OTHER, 0)
    extent = f"{n_others} of {n_images} images are not frontal ({describe_counts(counts)}) and are used."
    if n_others == n_images:
        return extent
    names = ["PA", "AP", *([UNKNOWN] if UNKNOWN in counts else [])]
    return f"{extent} If the classifier is for frontal images, leave them out with --projections {','.join(names)}."
