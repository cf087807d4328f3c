"""Images without a patient, and names that may not be those of a patient.

An image without a patient is a patient of its own if no image has one. If others have one, the choice is "separate", where each
such image is a patient of its own, or "drop", where they are not used. A split by patient of data in which more than
``MAX_UNKNOWN_SHARE`` of the images have no patient needs a choice, because images of one patient could be in two parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.errors import DataError, UnknownNameError

MAX_UNKNOWN_SHARE = 0.05  # of the images; above it a split by patient is refused without a choice
SEPARATE, DROP = UNKNOWN_PATIENTS = ("separate", "drop")

_MISSING_NAMES = frozenset({"nan", "<na>", "nat", "none", "null"})  # as programs write a missing value
_PLACEHOLDERS = frozenset(
    [
        *("0", "-1", "-", "?", "n/a", "na", "unknown", "unk", "undefined", "missing", "unnamed", "noname", "removed"),
        *("anonymous", "anon", "anonymized", "anonymised", "deidentified"),
    ]
)
_MIN_IMPLAUSIBLE_IMAGES = 10  # of one class
_IMPLAUSIBLE_SHARE = 0.5  # of a class


def known_patient(name: str) -> str:
    """Return the name of a patient without outer spaces; "" for what programs write for a missing value, such as nan."""
    stripped = name.strip()
    return "" if stripped.casefold() in _MISSING_NAMES else stripped


def settle_unknown_patients(
    rows: Sequence[ImageRow], choice: str | None, notes: list[str]
) -> tuple[list[ImageRow], tuple[str, ...]]:
    """Apply the choice for images without a patient, and report them and names that may be placeholders.

    Args:
        rows: All images.
        choice: "separate", "drop", or None if the user chose nothing.
        notes: Notes for the user, to which notes are appended.

    Returns:
        The rows to use, still without a patient where it is unknown; and the images that have no patient although others
        have one, whether they are used or not.

    Raises:
        UnknownNameError: There is no such choice.
    """
    if choice is not None and choice not in UNKNOWN_PATIENTS:
        raise UnknownNameError("choice for unknown patients", choice, UNKNOWN_PATIENTS)
    rows = [replace(row, patient_id=known_patient(row.patient_id)) for row in rows]
    unknown = tuple(row.image for row in rows if not row.patient_id)
    notes.extend(_placeholder_notes(rows))
    if not unknown or len(unknown) == len(rows):
        return rows, ()
    n_images = describe_share(len(unknown), len(rows))
    if choice == DROP:
        notes.append(f"{n_images} have no patient and are not used (--unknown-patients {DROP}).")
        return [row for row in rows if row.patient_id], unknown
    limit = ""
    if choice is None and len(unknown) > MAX_UNKNOWN_SHARE * len(rows):
        limit = f" A split by patient is refused unless --unknown-patients is {SEPARATE} or {DROP}."
    notes.append(f"{n_images} have no patient: each of them is a patient of its own.{limit}")
    return rows, unknown


def check_unknown_share(n_unknown: int, n_images: int, choice: str | None) -> None:
    """Refuse a split by patient in which too many images have no patient, unless the user has chosen what to do with them.

    Raises:
        DataError: More than ``MAX_UNKNOWN_SHARE`` of the images have no patient, and there is no choice.
    """
    if choice is None and n_unknown > MAX_UNKNOWN_SHARE * n_images:
        raise DataError(
            f"At most {100 * MAX_UNKNOWN_SHARE:.0f} % of the images may lack a patient in a split by patient, because images "
            f"of one patient could be in two parts; received {describe_share(n_unknown, n_images)} without one. Name the "
            f"patients with --patients REGEX or in a column patient_id, or choose --unknown-patients {SEPARATE} (each is a "
            f"patient of its own) or {DROP} (they are not used)."
        )


def describe_share(n_part: int, n_all: int) -> str:
    """Describe a part of the images, such as "12 of 24 images (50.0 %)"."""
    return f"{n_part} of {n_all} images ({100 * n_part / n_all:.1f} %)"


def _placeholder_notes(rows: Sequence[ImageRow]) -> Iterator[str]:
    """Name each patient who has half of a class, or several images and a name that may be a placeholder."""
    n_of_class = Counter(row.label for row in rows)
    n_of_patient = Counter(row.patient_id for row in rows if row.patient_id)
    n_in_class = Counter((row.patient_id, row.label) for row in rows if row.patient_id)
    largest: dict[str, tuple[int, str]] = {}
    for (patient, label), n_images in n_in_class.items():
        if n_images >= max(_MIN_IMPLAUSIBLE_IMAGES, _IMPLAUSIBLE_SHARE * n_of_class[label]):
            largest[patient] = max(largest.get(patient, (0, "")), (n_images, label))
    for patient, n_images in n_of_patient.items():
        if patient in largest:
            n_largest, label = largest[patient]
            extent = f"{describe_share(n_largest, n_of_class[label])} of class '{label}'"
        elif n_images > 1 and patient.casefold() in _PLACEHOLDERS:
            extent = describe_share(n_images, len(rows))
        else:
            continue
        yield (
            f"Patient '{patient}' has {extent}, and all images of a patient are in one part or fold. If the name stands for an "
            "unknown patient, leave it empty in a table of the images and choose --unknown-patients."
        )
