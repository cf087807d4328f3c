"""The section about the images of a study, their split and their digests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import counted, images_without_patient
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

_MAX_UNREADABLE = 20
_WITHOUT_FINDING = "without_finding"


def data_section(data: ReportData) -> Section:
    """Show classes, patients, parts and digests."""
    split = data.split
    parts: list[Part] = [
        Table(
            parts_table(data),
            "Images and patients of each part. The test part is sealed: only its image names are read.",
        ),
        *_prevalence(data),
        Table(digests_table(data), "Source and digests of the data"),
    ]
    if split.unreadable:
        rows = [{"image": image, "reason": reason} for image, reason in list(split.unreadable.items())[:_MAX_UNREADABLE]]
        caption = f"Unreadable and therefore excluded: {counted(len(split.unreadable), 'image')}"
        shown = f" (the first {_MAX_UNREADABLE} are listed)" if len(split.unreadable) > _MAX_UNREADABLE else ""
        parts.append(Table(pd.DataFrame(rows), caption + shown))
    without_patient = images_without_patient(split, data.spec.unknown_patients)
    if without_patient:
        parts.append(Text(without_patient, is_warning=True))
    if not split.grouped:
        parts.append(Text("Patients are unknown. Every image is treated as a separate patient.", is_warning=True))
    return Section("Data and split", parts)


def parts_table(data: ReportData) -> pd.DataFrame:
    """Return a table with one row per part or fold: part, images, patients and the number of images of each class.

    For several findings, the last column is without_finding, the number of images in which all findings are absent.
    """
    split = data.split
    if split.folds:
        rows = [
            _row(f"fold {fold}", split.train.chosen([number == fold for number in split.folds]), split.classes)
            for fold in sorted(set(split.folds))
        ]
        rows.append(_row("all folds", split.train, split.classes))
    else:
        rows = [_row("training", split.train, split.classes), _row("validation", split.valid, split.classes)]
    sealed = dict.fromkeys([_WITHOUT_FINDING] if split.is_multilabel else split.classes, "sealed")
    rows.append({"part": "test", "images": str(len(split.test)), "patients": "sealed", **sealed})
    return pd.DataFrame(rows)


def _row(name: str, part: PartRecord, classes: tuple[str, ...]) -> dict[str, str]:
    sizes = {"part": name, "images": str(len(part.images)), "patients": str(len(set(part.patients)))}
    if part.labels and isinstance(part.labels[0], tuple):
        return {**sizes, _WITHOUT_FINDING: str(sum(set(row) == {ABSENT} for row in part.labels))}  # type: ignore[arg-type]
    counts = Counter(part.labels)
    return {**sizes, **{label: str(counts[number]) for number, label in enumerate(classes)}}


def _prevalence(data: ReportData) -> list[Part]:
    """Return the table of the prevalence of each finding; nothing for a study of classes."""
    if not data.split.is_multilabel:
        return []
    caption = (
        "Images with each finding, their share of the images whose label is known (prevalence), and the numbers of unknown and "
        "uncertain labels."
    )
    return [Table(prevalence_table(data.split), caption)]


def prevalence_table(split: SplitRecord) -> pd.DataFrame:
    """Return a table with one row per finding: finding, and for each part present, prevalence, unknown and uncertain.

    The columns unknown and uncertain are omitted if no label of the part is so.
    """
    parts = {"folds": split.train} if split.folds else {"training": split.train, "validation": split.valid}
    columns: dict[str, Any] = {"finding": split.classes}
    for name, part in parts.items():
        labels = np.asarray(part.labels, np.int64).reshape(-1, len(split.classes))
        n_present, n_known = (labels == PRESENT).sum(axis=0), (labels >= 0).sum(axis=0)
        columns[f"{name}: present"] = n_present
        columns[f"{name}: prevalence"] = [
            f"{count / n:.1%}" if n else "" for count, n in zip(n_present.tolist(), n_known.tolist(), strict=True)
        ]
        for state, code in (("unknown", UNKNOWN), ("uncertain", UNCERTAIN)):
            if (labels == code).any():
                columns[f"{name}: {state}"] = (labels == code).sum(axis=0)
    return pd.DataFrame(columns)


def digests_table(data: ReportData) -> pd.DataFrame:
    """Return a table of the source, layout and split of the data and of their digests."""
    spec, split = data.spec, data.split
    rows = {
        "data": spec.data,
        "layout": spec.layout,
        "digest of image names, labels and patients": spec.data_digest,
        "digest of the training and validation files": spec.pixels_digest,
        "digest of the split": data.store.split_digest,
        "seed of the split": str(split.seed),
        "origin of the split": split.origin,
        "patients known": "yes" if split.grouped else "no",
        "images without a patient": str(split.n_without_patient) if split.grouped else "all",
        "class without a finding": spec.normal_class or "not specified",
        "image size": f"{spec.image_size} pixels, {spec.fit}",
    }
    return pd.DataFrame({"property": rows.keys(), "value": rows.values()})
