"""A summary of a data folder before training."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.layout_rows import UsedTable
from automl_cxr.data.projections import count_projections
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

N_EXAMPLES = 3
_COUNTED_CODES = {"positives": PRESENT, "negatives": ABSENT, "uncertain": UNCERTAIN, "unknown": UNKNOWN}
INSPECTED_SIZE = 112  # pixels; the default image size of a search, which can then use the cache


@dataclass(frozen=True)
class Inspection:
    """The result of ``inspect_data``.

    Attributes:
        root: The folder.
        layout: Name of its layout.
        task: What is predicted, a name in ``tasks.TASKS``.
        classes: One row for each class: class, images, patients, share, unreadable. Or one row for each finding: finding,
            positives, negatives, uncertain, unknown (numbers of images), patients (with the finding), prevalence (share of the
            images with a known label that have it), unreadable.
        n_patients: Number of patients, or None where they are unknown.
        n_without_patient: Number of images without a patient, if others have one.
        n_patients_in_classes: Number of patients with images in more than one class; 0 for findings.
        splits: One row for each class or finding with the number of images in each given part; empty where no split is given.
        views: Number of images by projection, names of ``projections.PROJECTIONS``.
        headers: Number of DICOM files by the values of some elements, as in ``Dataset``.
        sizes: Height and width in pixels of the smallest, median and largest readable image, by area.
        unreadable: Path of each image that cannot be decoded, with the reason.
        ignored: Path of each other file that is not used, with the reason.
        notes: Further notes for the user.
        columns: One row for each use of a column of the tables of labels: table, use, column.
        unused_columns: Names of the other columns of these tables.
        examples: Three images as they were understood: image, label, patient_id, split, view.
        n_uncertain: Number of images with an uncertain label.
        n_missing: Number of images without a label.
        images: All images: image, label, patient_id, split, view. A patient that is unknown is empty.
        findings: Label code of each finding of each image, as in ``Dataset``; None for classes.
    """

    root: Path
    layout: str
    task: str
    classes: pd.DataFrame
    n_patients: int | None
    n_without_patient: int
    n_patients_in_classes: int
    splits: pd.DataFrame
    views: Mapping[str, int]
    headers: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, tuple[int, int]]
    unreadable: Mapping[str, str]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    columns: pd.DataFrame
    unused_columns: tuple[str, ...]
    examples: pd.DataFrame
    n_uncertain: int
    n_missing: int
    images: pd.DataFrame
    findings: pd.DataFrame | None

    def _repr_html_(self) -> str:
        """Return the tables as HTML, which Jupyter shows."""
        patients = "unknown" if self.n_patients is None else str(self.n_patients)
        head = f"{self.root}: layout {self.layout}, {len(self.images)} images, patients: {patients}"
        tables = (self.classes, self.splits, self.columns, self.examples)
        shown = "".join(table.to_html(index=False, escape=True, border=0) for table in tables if not table.empty)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<p>{html.escape(head)}</p>{shown}<ul>{notes}</ul>"


def inspect_data(
    root: Path | str,
    options: DataOptions | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Read a data folder as a search does, and decode every image.

    Arguments and errors as in ``load_dataset``. ``on_progress`` is called with (images decoded, all images).
    """
    dataset = load_dataset(root, options)
    table = dataset.table
    is_unnamed = table["image"].isin(dataset.without_patient)
    named = table.assign(patient_id=table["patient_id"].where(~is_unnamed, None))
    known = table["patient_id"].where(~is_unnamed & dataset.patients_known, "")
    normal = table.assign(patient_id=known)
    decoded = decode_dataset(dataset.root, list(table["image"]), INSPECTED_SIZE, on_progress=on_progress)
    if dataset.findings is None:
        in_classes = table.groupby("patient_id")["label"].nunique()
        classes, splits = _count_classes(named, dataset.classes, decoded.unreadable), _count_splits(table, dataset.classes)
        n_patients_in_classes = int((in_classes > 1).sum())
    else:
        classes = _count_findings(dataset.findings, table, decoded.unreadable)
        splits, n_patients_in_classes = _count_positives(dataset.findings, table), 0
    return Inspection(
        root=dataset.root,
        layout=dataset.layout,
        task=dataset.task,
        classes=classes,
        n_patients=int(named["patient_id"].nunique()) if dataset.patients_known else None,
        n_without_patient=len(dataset.without_patient),
        n_patients_in_classes=n_patients_in_classes,
        splits=splits,
        views=count_projections(table["view"]),
        headers=dataset.headers,
        sizes=_summarise_sizes(decoded.original_sizes),
        unreadable=decoded.unreadable,
        ignored=dataset.ignored,
        notes=dataset.notes,
        columns=_describe_tables(dataset.used_tables),
        unused_columns=tuple(dict.fromkeys(name for used in dataset.used_tables for name in used.unused)),
        examples=_choose_examples(normal),
        n_uncertain=dataset.n_uncertain,
        n_missing=dataset.n_missing,
        images=normal,
        findings=dataset.findings,
    )


def _describe_tables(used_tables: Sequence[UsedTable]) -> pd.DataFrame:
    rows = [(used.name, use, column) for used in used_tables for use, column in used.columns.items()]
    return pd.DataFrame(rows, columns=["table", "use", "column"])


def _choose_examples(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first image of up to three classes, and further images if there are fewer classes."""
    first = table.drop_duplicates("label")
    others = table.drop(index=first.index)
    return pd.concat([first, others]).head(N_EXAMPLES).reset_index(drop=True)


def _count_classes(table: pd.DataFrame, classes: Sequence[str], unreadable: Mapping[str, str]) -> pd.DataFrame:
    grouped = table.assign(unreadable=table["image"].isin(list(unreadable))).groupby("label")
    counts = grouped.agg(images=("image", "size"), patients=("patient_id", "nunique"), unreadable=("unreadable", "sum"))
    counts = counts.loc[list(classes)]
    counts.insert(2, "share", counts["images"] / counts["images"].sum())
    return counts.rename_axis("class").reset_index()


def _count_findings(findings: pd.DataFrame, table: pd.DataFrame, unreadable: Mapping[str, str]) -> pd.DataFrame:
    """Count the images with each label code of each finding, and the patients with the finding."""
    is_unreadable = findings.index.isin(list(unreadable))
    is_positive = (findings == PRESENT).to_numpy()
    counts = pd.DataFrame(
        {
            "finding": list(findings.columns),
            **{name: (findings == code).to_numpy().sum(axis=0) for name, code in _COUNTED_CODES.items()},
            "patients": [table["patient_id"][has_finding].nunique() for has_finding in is_positive.T],
        }
    )
    counts["prevalence"] = counts["positives"] / (counts["positives"] + counts["negatives"])
    return counts.assign(unreadable=(is_positive & is_unreadable[:, None]).sum(axis=0))


def _count_positives(findings: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Count the images with each finding in each given part."""
    parts = [part for part in ("train", "valid", "test") if part in set(table["split"])]
    if not parts:
        return pd.DataFrame()
    is_positive = (findings == PRESENT).to_numpy()
    counts = {part: is_positive[(table["split"] == part).to_numpy()].sum(axis=0) for part in parts}
    return pd.DataFrame({"finding": list(findings.columns), **counts})


def _count_splits(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    given = table[table["split"] != ""]
    counts = pd.crosstab(given["label"], given["split"]).reindex(list(classes), fill_value=0)
    parts = [part for part in ("train", "valid", "test") if part in counts]
    return counts[parts].rename_axis("class").reset_index() if parts else pd.DataFrame()


def _summarise_sizes(sizes: np.ndarray) -> dict[str, tuple[int, int]]:
    by_area = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
    chosen = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {name: (int(height), int(width)) for name, (height, width) in chosen.items()}
