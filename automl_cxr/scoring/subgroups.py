"""Groups of images by metadata, such as sex, bands of age, and intersections of two columns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

AGE = "age"
AGE_BANDS = (0, 18, 40, 60, 80)
"""Ages in years at which a band begins."""
SEPARATOR = " & "
"""Between two columns, and between two groups of an intersection."""
NO_GROUP = -1
"""Index of the group of an image whose value is unknown."""
_MAX_GROUPS = 12  # of a column of texts; the rarest ones are joined
_OTHER = "other"
_N_QUANTILES = 4


@dataclass(frozen=True, eq=False)
class Grouping:
    """A division of images into groups.

    Attributes:
        column: Name of the metadata; of an intersection, both names, such as "sex & age".
        groups: Names of the groups, in the order in which they are shown.
        of_image: Index of the group of each image, int64 (n,); ``NO_GROUP`` where the value is unknown.
    """

    column: str
    groups: tuple[str, ...]
    of_image: np.ndarray


def split_columns(name: str) -> tuple[str, ...]:
    """Split the name of a column, or of an intersection such as "sex&age", into the names of one or two columns.

    Raises:
        UsageError: There are more than two columns, or a name is empty.
    """
    columns = tuple(part.strip() for part in name.split(SEPARATOR.strip()))
    if len(columns) > 2 or not all(columns):
        raise UsageError(f"An intersection has two columns, such as sex&age; received '{name}'. Name two.")
    return columns


def group_by_metadata(metadata: pd.DataFrame, columns: Sequence[str], ids: Sequence[str]) -> Grouping:
    """Divide images into groups by one or two columns of metadata.

    The groups, such as quartiles, are those of all images of the metadata, so that they are the same in all parts.

    Args:
        metadata: Texts, "" where unknown, with images as index.
        columns: Names of one or two of its columns.
        ids: The images to divide; images without metadata are in no group.

    Returns:
        The groups that contain one of the images.
    """
    groupings = [group_images(name, metadata[name].tolist()) for name in columns]
    grouping = groupings[0] if len(groupings) == 1 else intersect(*groupings)
    place = {image: number for number, image in enumerate(metadata.index)}
    of_image = np.append(grouping.of_image, NO_GROUP)[[place.get(image, -1) for image in ids]]
    occurring = np.unique(of_image[of_image != NO_GROUP])
    index = np.full(len(grouping.groups) + 1, NO_GROUP)
    index[occurring] = np.arange(len(occurring))
    return Grouping(grouping.column, tuple(grouping.groups[number] for number in occurring), index[of_image])


def group_images(column: str, values: Sequence[str]) -> Grouping:
    """Divide images into groups by a column of metadata.

    Ages are divided into bands (``AGE_BANDS``), and other numbers with more than 12 values at their quartiles. Of texts with
    more than 12 values, the rarest ones are one group "other".

    Args:
        column: Name of the column.
        values: Value of each image, "" where it is unknown, (n,).
    """
    known = sorted({value for value in values if value})
    are_numbers = _are_numbers(known)
    if column == AGE and are_numbers:
        return _group_numbers(column, values, AGE_BANDS[1:], _band_names(AGE_BANDS))
    if are_numbers and len(known) > _MAX_GROUPS:
        ends = np.quantile([float(value) for value in values if value], np.arange(1, _N_QUANTILES) / _N_QUANTILES)
        ends = np.unique(ends)
        return _group_numbers(column, values, ends, _quantile_names(ends))
    names = sorted(known, key=float) if are_numbers else known
    if len(names) > _MAX_GROUPS:
        frequent = {value for value, _ in Counter(filter(None, values)).most_common(_MAX_GROUPS - 1)} - {_OTHER}
        values = [value if value in frequent or not value else _OTHER for value in values]
        names = [*sorted(frequent), _OTHER]
    index = {name: number for number, name in enumerate(names)}
    return Grouping(column, tuple(names), np.array([index.get(value, NO_GROUP) for value in values], np.int64))


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return bool(values) and bool(np.isfinite([float(value) for value in values]).all())
    except ValueError:
        return False


def _group_numbers(column: str, values: Sequence[str], ends: Sequence[float] | np.ndarray, names: Sequence[str]) -> Grouping:
    """Divide numbers at ``ends``, each of which is the smallest number of the next group."""
    bands = [int(np.searchsorted(ends, float(value), side="right")) if value else NO_GROUP for value in values]
    occurring = sorted(set(bands) - {NO_GROUP})
    index = {band: number for number, band in enumerate(occurring)}
    of_image = np.array([index.get(band, NO_GROUP) for band in bands], np.int64)
    return Grouping(column, tuple(names[band] for band in occurring), of_image)


def _band_names(starts: Sequence[int]) -> list[str]:
    return [*(f"{start}-{end - 1}" for start, end in itertools.pairwise(starts)), f"{starts[-1]}+"]


def _quantile_names(ends: np.ndarray) -> list[str]:
    between = (f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(ends))
    return [f"below {ends[0]:.4g}", *between, f"{ends[-1]:.4g} or more"]


def intersect(first: Grouping, second: Grouping) -> Grouping:
    """Divide images by two columns at once. Only the intersections that contain an image are groups."""
    is_known = (first.of_image != NO_GROUP) & (second.of_image != NO_GROUP)
    code = np.where(is_known, first.of_image * len(second.groups) + second.of_image, NO_GROUP)
    occurring = np.unique(code[is_known])
    names = [
        SEPARATOR.join((first.groups[number // len(second.groups)], second.groups[number % len(second.groups)]))
        for number in occurring
    ]
    of_image = np.where(is_known, np.searchsorted(occurring, code), NO_GROUP)
    return Grouping(SEPARATOR.join((first.column, second.column)), tuple(names), of_image.astype(np.int64))
