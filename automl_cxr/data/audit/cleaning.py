"""A cleaned table of a data set: each picture once, with one label, and each patient in one part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from automl_cxr.data.audit.record import Audit
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.normal_form import check_files, to_normal_form
from automl_cxr.tasks import ABSENT, PRESENT

CHANGES_COLUMNS = ("image", "change", "reason")
_PART_PRIORITY = ("test", "valid", "train", "")


@dataclass(frozen=True)
class CleanedTable:
    """A table for the layout "csv", with the changes relative to the audited data set.

    Attributes:
        table: Columns path, label (of several findings, a column for each), patient_id, split, view.
        changes: Columns image, change ("dropped" or "moved"), reason.
    """

    table: pd.DataFrame
    changes: pd.DataFrame


def clean_table(dataset: Dataset, audit: Audit, *, beside: Path) -> CleanedTable:
    """Drop duplicates and conflicts, and move each patient to one part.

    If several images show the same picture with the same label, one of them is kept: the one in the test part, else in the
    validation part, else in the training part; within a part the first by name. If the labels differ (of several findings, if
    one is present in one image and absent in another), all images of the picture are dropped, because the correct label is
    unknown. A patient in several parts is moved to the part with most of
    the patient's images; in a tie, to the first of test, validation and training part.

    Args:
        dataset: The audited data set.
        audit: Its audit.
        beside: Folder of the new table. Images below it are named by relative paths, others by absolute paths.

    Raises:
        UsageError: The images are rows of arrays, which a table of files cannot name.
    """
    check_files(list(dataset.table["image"]))
    rows = dataset.table.set_index("image", drop=False)
    dropped = {image: f"cannot be read: {reason}" for image, reason in audit.unreadable.items()}
    for copies in _duplicate_groups(audit):
        dropped |= _drop_copies(copies, rows, _conflicting_labels(dataset, copies, rows))
    remaining = rows.drop(index=list(dropped))
    moved = _move_patients(remaining) if dataset.patients_known else {}
    changes = [(image, "dropped", reason) for image, reason in dropped.items()]
    for image, part in moved.items():
        row = remaining.loc[image]
        changes.append((image, "moved", f"from {row['split']} to {part}, which has most images of patient {row['patient_id']}"))
    cleaned = remaining.assign(
        patient_id=_patients_for_table(dataset, remaining),
        split=[moved.get(image, part) for image, part in zip(remaining["image"], remaining["split"], strict=True)],
    )
    findings = None if dataset.findings is None else dataset.findings.loc[remaining["image"]]
    table = to_normal_form(dataset.root, cleaned, beside=beside, findings=findings)
    return CleanedTable(table, pd.DataFrame(sorted(changes), columns=list(CHANGES_COLUMNS)))


def _patients_for_table(dataset: Dataset, rows: pd.DataFrame) -> list[str]:
    """Return the patient of each image; "" where it is unknown, so that the new table does not invent patients."""
    unknown = set(rows["image"]) if not dataset.patients_known else set(dataset.without_patient)
    return ["" if image in unknown else patient for image, patient in zip(rows["image"], rows["patient_id"], strict=True)]


def _duplicate_groups(audit: Audit) -> list[list[str]]:
    """Group the images that show the same picture, each group in order of name."""
    group_of: dict[str, list[str]] = {}
    for duplicate in audit.found_duplicates:
        one, other = (group_of.setdefault(image, [image]) for image in (duplicate.of, duplicate.image))
        if one is not other:
            one.extend(other)
            group_of |= dict.fromkeys(other, one)
    return [sorted(group) for group in {id(group): group for group in group_of.values()}.values()]


def _conflicting_labels(dataset: Dataset, copies: list[str], rows: pd.DataFrame) -> list[str]:
    """Return the different labels of copies of one picture, or the findings on which they differ; empty if they agree."""
    if dataset.findings is None:
        labels = sorted(set(rows.loc[copies, "label"]))
        return labels if len(labels) > 1 else []
    codes = dataset.findings.loc[copies]
    is_contradictory = (codes == PRESENT).any() & (codes == ABSENT).any()
    return [f"{name} 0 and 1" for name in codes.columns[is_contradictory]]


def _drop_copies(copies: list[str], rows: pd.DataFrame, labels: list[str]) -> dict[str, str]:
    """Return the images of one picture to drop, with the reasons.

    Args:
        copies: The images of the picture.
        rows: The table of the data set.
        labels: Labels that contradict each other; empty if there are none.
    """
    if labels:
        return {image: f"one picture with the labels {', '.join(labels)}: {', '.join(copies)}" for image in copies}
    retained = min(copies, key=lambda image: (_PART_PRIORITY.index(rows["split"][image]), image))
    where = f" in the {rows['split'][retained]} part" if rows["split"][retained] else ""
    return {image: f"same picture as {retained}, which is retained{where}" for image in copies if image != retained}


def _move_patients(rows: pd.DataFrame) -> Mapping[str, str]:
    """Return the new part of each image that is moved."""
    moved: dict[str, str] = {}
    for _, images in rows.groupby("patient_id"):
        counts = images["split"].value_counts()
        if len(counts) > 1:
            target = min(counts.index, key=lambda part: (-counts[part], _PART_PRIORITY.index(part)))
            moved |= dict.fromkeys(images.index[images["split"] != target], str(target))
    return moved
