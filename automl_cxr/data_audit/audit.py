"""The audit of a data set: duplicates, leaks between parts, and non-anatomical differences between classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.audit.duplicate_results import Duplicate, SharedPatient
from automl_cxr.data.audit.duplicates import SMALLEST_SIDE, Link, find_duplicates
from automl_cxr.data.audit.image_statistics import measure_image_statistics
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.audit.sample import MAX_MEASURED, MIN_OF_CLASS, sample_rows
from automl_cxr.data.audit.shortcut_baseline import baseline_folds
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data.audit.statistic_results import StatisticDifference
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.finding_choice import describe_findings
from automl_cxr.data.inspection import INSPECTED_SIZE
from automl_cxr.data_audit.measured_images import (
    MeasuredImages,
    compare_findings,
    compare_statistics,
    count_formats,
    lettering_rates,
    score_findings,
    score_shortcut,
)
from automl_cxr.data_audit.metadata_baseline import informative_columns, score_metadata
from automl_cxr.tasks import MULTICLASS, MULTILABEL, PRESENT


@dataclass(frozen=True, kw_only=True)
class AuditedImages:
    """The images to audit, one entry for each image in the order of the decoded array.

    Attributes:
        root: Folder to which the ids are relative.
        classes: Names of the classes or findings.
        labels: Index of the class of each image; of several findings, their label codes (``tasks``).
        patients: Patient of each image; the image id where patients are unknown.
        parts: "train", "valid" or "test" for each image; "" where no split is given.
        patients_known: Whether patients are known.
        decoded: Ids, pixels and sizes.
        unreadable: Image id to the reason why it cannot be read.
        notes: Notes on the data for the user.
        metadata: Sex, age and other metadata, with the ids as index (``Dataset.metadata``); without a column if none are known.
    """

    root: Path
    classes: tuple[str, ...]
    labels: tuple[int, ...] | tuple[tuple[int, ...], ...]
    patients: tuple[str, ...]
    parts: tuple[str, ...]
    patients_known: bool
    decoded: DecodedImages
    unreadable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metadata: pd.DataFrame = field(default_factory=pd.DataFrame)


def audit_dataset(
    dataset: Dataset, *, max_measured: int = MAX_MEASURED, on_progress: Callable[[int, int], None] | None = None
) -> Audit:
    """Audit all images of a data set, including those of a given test part.

    Args:
        dataset: From ``load_dataset``.
        max_measured: As in ``audit_images``.
        on_progress: Called with (images that are done, all images), first of decoding, then of each step that reads images.

    Raises:
        DataError: No image can be read, or the cache folder cannot be written.
    """
    decoded = decode_dataset(dataset.root, list(dataset.table["image"]), INSPECTED_SIZE, on_progress=on_progress)
    rows = dataset.table.set_index("image").loc[list(decoded.ids)]
    labels = dataset.labels_of(decoded.ids).tolist()
    return audit_images(
        AuditedImages(
            root=dataset.root,
            classes=dataset.classes,
            labels=tuple(map(tuple, labels)) if dataset.is_multilabel else tuple(labels),
            patients=tuple(rows["patient_id"]),
            parts=tuple(rows["split"]),
            patients_known=dataset.patients_known,
            decoded=decoded,
            unreadable=decoded.unreadable,
            notes=(*dataset.notes, *dataset.column_notes),
            metadata=dataset.metadata,
        ),
        max_measured=max_measured,
        on_progress=on_progress,
    )


def audit_images(
    audited: AuditedImages, *, max_measured: int = MAX_MEASURED, on_progress: Callable[[int, int], None] | None = None
) -> Audit:
    """Audit decoded images: find duplicates, measure image statistics, and classify the images by these statistics.

    Args:
        audited: The images.
        max_measured: Number of images above which the statistics are those of a random sample of this size. Duplicates are
            searched in all images.
        on_progress: Called with (images that are done, all images) of each step that reads images.
    """
    pixels, sizes = audited.decoded.open(), audited.decoded.original_sizes
    labels = np.array(audited.labels)
    is_multilabel = labels.ndim == 2
    if is_multilabel:
        members, texts = [codes == PRESENT for codes in labels.T], describe_findings(labels, audited.classes)
    else:
        members = [labels == number for number in range(len(audited.classes))]
        texts = [audited.classes[label] for label in labels]
    links = find_duplicates(pixels, sizes, on_progress=on_progress)
    rows = sample_rows(members, max_images=max_measured)
    sample = MeasuredImages(
        ids=tuple(audited.decoded.ids[row] for row in rows),
        classes=audited.classes,
        labels=labels[rows],
        members=[is_member[rows] for is_member in members],
        patients=tuple(audited.patients[row] for row in rows),
        statistics=measure_image_statistics(
            audited.root, audited.decoded.ids, pixels, sizes, rows=rows, on_progress=on_progress
        ),
    )
    folds = baseline_folds(sample.labels, sample.patients)
    metadata = audited.metadata.reindex(list(sample.ids)).fillna("")
    if is_multilabel:
        differences: tuple[StatisticDifference, ...] = ()
        shortcut: Shortcut | FindingShortcut | None = score_findings(sample, folds) if folds else None
    else:
        differences = compare_statistics(sample, folds)
        shortcut = score_shortcut(sample, folds) if folds else None
    return Audit(
        root=str(audited.root),
        classes=audited.classes,
        n_images=tuple(int(is_member.sum()) for is_member in members),
        n_patients=len(set(audited.patients)) if audited.patients_known else None,
        parts={part: audited.parts.count(part) for part in ("train", "valid", "test") if part in audited.parts},
        found_duplicates=tuple(_describe(audited, link, texts, labels) for link in links),
        shared_patients=_find_shared_patients(audited) if audited.patients_known else (),
        differences=differences,
        formats=count_formats(sample),
        lettering=lettering_rates(sample),
        shortcut=shortcut,
        unreadable=dict(audited.unreadable),
        notes=(*audited.notes, *_note_limits(pixels.shape[1], n_images=len(labels), n_measured=len(rows), n_folds=len(folds))),
        task=MULTILABEL if is_multilabel else MULTICLASS,
        finding_differences=compare_findings(sample) if is_multilabel else (),
        n_readable=len(labels) if is_multilabel else 0,
        metadata_shortcut=score_metadata(sample, metadata, folds),
        metadata_columns=informative_columns(metadata),
    )


def _note_limits(image_size: int, *, n_images: int, n_measured: int, n_folds: int) -> list[str]:
    """Describe what the audit could not examine."""
    notes = []
    if n_measured < n_images:
        notes.append(
            f"The image statistics, file formats, burnt-in text and the shortcut baseline are those of a random sample of "
            f"{n_measured:,} of {n_images:,} images, with at least {MIN_OF_CLASS} of each class if there are as many. "
            "Duplicates are searched in all images."
        )
    if not n_folds:
        notes.append(
            "No shortcut baseline: each class needs images of at least two patients, and one class has only one patient."
        )
    if image_size < SMALLEST_SIDE:
        notes.append(
            f"At {image_size} pixels, only identical copies are found. Other copies need {SMALLEST_SIDE} pixels or more."
        )
    return notes


def _describe(audited: AuditedImages, link: Link, texts: Sequence[str], labels: np.ndarray) -> Duplicate:
    ids, row, of = audited.decoded.ids, link.row, link.of
    conflicting = None
    if labels.ndim == 2:
        are_known = (labels[row] >= 0) & (labels[of] >= 0)
        conflicting = tuple(compress(audited.classes, are_known & (labels[row] != labels[of])))
    return Duplicate(
        image=ids[row],
        of=ids[of],
        kind=link.kind,
        correlation=round(link.correlation, 4),
        label=texts[row],
        of_label=texts[of],
        part=audited.parts[row],
        of_part=audited.parts[of],
        patient=audited.patients[row],
        of_patient=audited.patients[of],
        conflicting=conflicting,
    )


def _find_shared_patients(audited: AuditedImages) -> tuple[SharedPatient, ...]:
    table = pd.DataFrame({"patient": audited.patients, "part": audited.parts})
    found = table.groupby("patient")["part"].agg(["nunique", "size", "unique"])
    return tuple(
        SharedPatient(patient=str(patient), parts=tuple(sorted(row["unique"])), n_images=int(row["size"]))
        for patient, row in found[found["nunique"] > 1].iterrows()
    )
