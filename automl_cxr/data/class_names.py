"""Choice and order of the classes, and class names that are probably mistakes."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.errors import DataError, UnknownNameError, UsageError

# Texts that programs and people write where a label is missing or not decided.
_PLACEHOLDERS = frozenset(
    {
        "#n/a", "-", "--", "?", "empty", "exclude", "excluded", "missing", "n.a.", "n/a", "na", "nan", "nat", "nil", "none",
        "not available", "null", "tba", "tbc", "tbd", "to do", "todo", "uncertain", "undefined", "undetermined", "unkn",
        "unknown", "unlabeled", "unlabelled", "unspecified", "unsure", "xxx",
    }
)  # fmt: skip
_MOST_IN_EXAMPLE = 5  # classes
_NEGATIVE_NUMBER = re.compile(r"-\d+(\.0*)?")


def strip_labels(rows: Sequence[ImageRow], notes: list[str]) -> list[ImageRow]:
    """Remove outer spaces from the labels, as in a table; names of folders may have them. Add a note if this joins classes."""
    spellings = defaultdict(set)
    for row in rows:
        spellings[row.label.strip() or row.label].add(row.label)
    for label, names in spellings.items():
        if len(names) > 1:
            listed = ", ".join(repr(name) for name in sorted(names))
            notes.append(f"The class names {listed} differ only in outer spaces and are used as one class, '{label}'.")
    return [replace(row, label=row.label.strip() or row.label) for row in rows]


def choose_classes(
    labels: Sequence[str], requested: Sequence[str] | None, root: Path | str, notes: list[str]
) -> tuple[str, ...]:
    """Return the classes in the order of their indices. Add notes on class names that are probably mistakes.

    Args:
        labels: The label of each image.
        requested: The classes to use; by default all, sorted.
        root: The data, for messages.
        notes: Notes for the user.

    Raises:
        UsageError: A requested class does not exist, is repeated, or there is only one.
        DataError: There are fewer than two classes, or no classes are requested and two of them differ only in case.
    """
    n_images = Counter(labels)
    known = sorted(n_images)
    for name in requested or ():
        if name not in known:
            raise UnknownNameError("class", name, known)
    names = tuple(known if requested is None else requested)
    if len(set(names)) < len(names):
        raise UsageError(f"Each class must be named once; received {', '.join(names)}. Remove the repeated one.")
    if len(names) < 2:
        error = DataError if requested is None else UsageError
        raise error(
            f"A data set needs two classes or more; received {', '.join(names) or 'none'} for '{root}', "
            f"which has {', '.join(known)}. Name the folder of the class folders, or other labels with --labels or "
            "--label-column."
        )
    for similar in similar_names(known):
        listed = " and ".join(f"'{name}' ({n_images[name]} images)" for name in similar)
        if requested is None:
            raise DataError(
                f"Class names must differ in more than case, spaces and quotation marks; received {listed} in '{root}'. Give "
                f"them one name, such as --class-map {shlex.quote(f'{similar[0]}={similar[1]}')}, or name the classes to use "
                "with --classes."
            )
        if not set(similar) <= set(names) and set(similar) & set(names):
            notes.append(f"The names of the classes {listed} are nearly equal, and only those in --classes are used.")
    if all(name.isdecimal() for name in names):
        pairs = ",".join(f"{name}=NAME" for name in names[:_MOST_IN_EXAMPLE])
        notes.append(f"The classes are numbers. To give them names: --class-map {shlex.quote(pairs)}.")
    if requested is None:
        notes.extend(_note_placeholder(name, names, n_images[name]) for name in names if is_placeholder(name))
    return names


def is_placeholder(name: str) -> bool:
    """Return whether a class name usually stands for a missing or uncertain label."""
    return name.strip().casefold() in _PLACEHOLDERS or _NEGATIVE_NUMBER.fullmatch(name.strip()) is not None


def _note_placeholder(name: str, names: Sequence[str], n_images: int) -> str:
    others = [other for other in names if not is_placeholder(other)]
    selection = (
        f"name the other classes: --classes {shlex.quote(','.join(others))}" if len(others) > 1 else "correct the labels"
    )
    return f"The class '{name}' ({n_images} images) looks like a missing or uncertain label. If it is not a class, {selection}."


def similar_names(names: Sequence[str]) -> list[list[str]]:
    """Group the names that are equal except for case, spaces, quotation marks and the encoding of accents."""
    groups = defaultdict(list)
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        groups["".join(folded.replace('"', "").replace("'", "").split()) or name].append(name)
    return [group for group in groups.values() if len(group) > 1]
