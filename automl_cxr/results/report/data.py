"""Which images a study is made of, how they were divided, and by which digests they are known again."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from automl_cxr.records import PartRecord
from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import counted

_MOST_UNREADABLE = 20


def data_section(evidence: ReportData) -> Section:
    """Show classes, patients, parts and digests."""
    split = evidence.split
    parts: list[Part] = [
        Table(
            parts_table(evidence),
            "Images and patients by part. The test part is sealed: the study has its images' names and nothing more.",
        ),
        Table(digests_table(evidence), "What the data are known by"),
    ]
    if split.unreadable:
        rows = [{"image": image, "reason": reason} for image, reason in list(split.unreadable.items())[:_MOST_UNREADABLE]]
        told = f"Left out because they could not be read: {counted(len(split.unreadable), 'image')}"
        shown = f", of which {_MOST_UNREADABLE} are named" if len(split.unreadable) > _MOST_UNREADABLE else ""
        parts.append(Table(pd.DataFrame(rows), told + shown))
    if not split.grouped:
        parts.append(Text("Patients are not known; every image is its own patient.", is_warning=True))
    return Section("Data and split", parts)


def parts_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate part, images, patients and the images of each class, one row a part or a fold."""
    split = evidence.split
    if split.folds:
        rows = [
            _row(f"fold {fold}", _of_fold(split.train, split.folds, fold), split.classes) for fold in sorted(set(split.folds))
        ]
        rows.append(_row("all folds", split.train, split.classes))
    else:
        rows = [_row("training", split.train, split.classes), _row("validation", split.valid, split.classes)]
    sealed = dict.fromkeys(split.classes, "sealed")
    rows.append({"part": "test", "images": str(len(split.test)), "patients": "sealed", **sealed})
    return pd.DataFrame(rows)


def _of_fold(part: PartRecord, folds: tuple[int, ...], fold: int) -> PartRecord:
    chosen = [position for position, number in enumerate(folds) if number == fold]
    return PartRecord(
        images=tuple(part.images[position] for position in chosen),
        labels=tuple(part.labels[position] for position in chosen),
        patients=tuple(part.patients[position] for position in chosen),
    )


def _row(name: str, part: PartRecord, classes: tuple[str, ...]) -> dict[str, str]:
    counts = Counter(part.labels)
    sizes = {"part": name, "images": str(len(part.images)), "patients": str(len(set(part.patients)))}
    return {**sizes, **{label: str(counts[number]) for number, label in enumerate(classes)}}


def digests_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate where the data were, how they were read and divided, and their digests."""
    spec, split = evidence.spec, evidence.split
    rows = {
        "data": spec.data,
        "layout": spec.layout,
        "digest of images' names, labels and patients": spec.data_digest,
        "digest of the training and validation files": spec.pixels_digest,
        "digest of the split": evidence.store.split_digest,
        "seed of the split": str(split.seed),
        "origin of the split": split.origin,
        "patients known": "yes" if split.grouped else "no",
        "class without a finding": spec.normal_class or "none named",
        "image size": f"{spec.image_size} pixels, {spec.fit}",
    }
    return pd.DataFrame({"what": rows.keys(), "value": rows.values()})
