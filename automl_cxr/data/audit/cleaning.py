"""A cleaned table of a data set: each picture once, with one label, and each patient in one part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from automl_cxr.data.arrays import split_row
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import UsageError

_MOST_SEALED = ("test", "valid", "train", "")


@dataclass(frozen=True)
class CleanedTable:
    """A table that the layout "csv" reads, and what was changed for it.

    Attributes:
        table: path, label, patient_id, split, view.
        changes: image, change ("dropped" or "moved"), reason.
    """

    table: pd.DataFrame
    changes: pd.DataFrame


def clean_table(dataset: Dataset, audit: Audit, *, beside: Path) -> CleanedTable:
    """Drop duplicates and conflicts, and bring each patient to one part.

    Of copies with one label the one in the most sealed part stays (test, then valid, then train), of several there the first
    by name. A picture with two labels is dropped with all its copies, since nobody knows which is right. A patient in several
    parts goes to the one that has most of the patient's images, of equals to the most sealed.

    Args:
        dataset: What was audited.
        audit: What was found in it.
        beside: Folder that the table will lie in; images below it are named relative to it, others absolutely.

    Raises:
        UsageError: The images are rows of arrays, which no table of files can name.
    """
    if any(split_row(image)[1] is not None for image in dataset.table["image"]):
        raise UsageError(
            "A cleaned table names image files; these images are rows of arrays. Drop the rows in the array's CSV."
        )
    rows = dataset.table.set_index("image", drop=False)
    dropped = {image: f"cannot be read: {reason}" for image, reason in audit.unreadable.items()}
    for copies in _groups(audit):
        dropped |= _drop_copies(copies, rows)
    kept = rows.drop(index=list(dropped))
    moved = _gather_patients(kept) if dataset.patients_known else {}
    changes = [(image, "dropped", reason) for image, reason in dropped.items()]
    for image, part in moved.items():
        row = kept.loc[image]
        changes.append((image, "moved", f"from {row['split']} to {part}, where most images of patient {row['patient_id']} are"))
    table = pd.DataFrame(
        {
            "path": [_name_file(dataset.root / image, beside) for image in kept["image"]],
            "label": kept["label"].to_numpy(),
            "patient_id": kept["patient_id"].to_numpy() if dataset.patients_known else "",
            "split": [moved.get(image, part) for image, part in zip(kept["image"], kept["split"], strict=True)],
            "view": kept["view"].to_numpy(),
        }
    )
    return CleanedTable(table, pd.DataFrame(sorted(changes), columns=["image", "change", "reason"]))


def _groups(audit: Audit) -> list[list[str]]:
    """Put the copies of each picture together, each group in order of name."""
    group_of: dict[str, list[str]] = {}
    for found in audit.found_duplicates:
        one, other = (group_of.setdefault(image, [image]) for image in (found.of, found.image))
        if one is not other:
            one.extend(other)
            group_of |= dict.fromkeys(other, one)
    return [sorted(group) for group in {id(group): group for group in group_of.values()}.values()]


def _drop_copies(copies: list[str], rows: pd.DataFrame) -> dict[str, str]:
    labels = sorted(set(rows.loc[copies, "label"]))
    if len(labels) > 1:
        return {image: f"one picture with the labels {', '.join(labels)}: {', '.join(copies)}" for image in copies}
    kept = min(copies, key=lambda image: (_MOST_SEALED.index(rows["split"][image]), image))
    where = f", in the part {rows['split'][kept]}" if rows["split"][kept] else ""
    return {image: f"shows the same picture as {kept}, which stays{where}" for image in copies if image != kept}


def _gather_patients(rows: pd.DataFrame) -> Mapping[str, str]:
    """Give the new part of each image that has to move."""
    moved: dict[str, str] = {}
    for _, images in rows.groupby("patient_id"):
        counts = images["split"].value_counts()
        if len(counts) > 1:
            home = min(counts.index, key=lambda part: (-counts[part], _MOST_SEALED.index(part)))
            moved |= dict.fromkeys(images.index[images["split"] != home], str(home))
    return moved


def _name_file(file: Path, beside: Path) -> str:
    """Name a file so that a table reads it: relative where it lies below, never like a formula of a spreadsheet."""
    if not file.is_relative_to(beside):
        return file.as_posix()
    relative = file.relative_to(beside).as_posix()
    return f"./{relative}" if relative.startswith(("=", "+", "-", "@")) else relative
