"""Segmentation masks among images, by the names of their folders and files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from automl_cxr.data.layout_rows import ImageRow

_MASK_WORDS = frozenset({"mask", "masks"})
_OUTLINE_WORDS = frozenset({"segmentation", "segmentations"})  # also in titles of data sets: Lung Segmentation/CXR_png
_END_WORD = "seg"  # of a file name
_MAX_OTHER_WORDS = 2  # in the name of a folder of masks; more are a title, such as "Chest Xray Masks and Labels"
# Words are separated by other characters than letters, and by a capital after a small letter: ManualMask, leftMask_01.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def is_mask(path: str) -> bool:
    """Return whether a path names a mask: a folder such as ``masks`` or ``ManualMask``, or a file such as ``x_mask.png``."""
    lowered = path.lower()
    if "mask" not in lowered and "seg" not in lowered:  # as most paths, in a tenth of the time
        return False
    *folders, name = path.split("/")
    words = _words(name.rpartition(".")[0] or name)
    if not (_MASK_WORDS | _OUTLINE_WORDS).isdisjoint(words) or words[-1:] == [_END_WORD]:
        return True
    if path.startswith("/"):  # outside of the data folder, so that other folders are not of the data set
        folders = folders[-1:]
    if any(_names_masks(folder, _MASK_WORDS) for folder in folders):
        return True
    return any(_names_masks(folder, _OUTLINE_WORDS) for folder in folders[-1:])


def _names_masks(folder: str, mask_words: frozenset[str]) -> bool:
    words = _words(folder)
    n_others = sum(word not in mask_words for word in words)
    return n_others < len(words) and n_others <= _MAX_OTHER_WORDS


def _words(name: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(name)]


def leave_out_masks(rows: Sequence[ImageRow], classes: Sequence[str] | None, notes: list[str]) -> list[ImageRow]:
    """Leave out masks, which show the outline of organs and not a chest, and add a note with their number.

    If all images have names of masks, these are no sign of masks, and all are used.

    Args:
        rows: All images.
        classes: The classes that the user named, which are used whatever their names are; None if none were named.
        notes: Notes for the user.
    """
    masks = [row for row in rows if row.label not in (classes or ()) and is_mask(row.image)]
    if not masks:
        return list(rows)
    if len(masks) == len(rows):
        notes.append(f"All {len(rows)} images have names of masks, such as {masks[0].image}, and are used.")
        return list(rows)
    notes.append(
        f"{len(masks)} of {len(rows)} images are masks by the names of their folders or files, such as {masks[0].image}, and "
        "are not used."
    )
    left_out = {row.image for row in masks}
    return [row for row in rows if row.image not in left_out]
