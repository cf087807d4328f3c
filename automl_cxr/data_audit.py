"""The audit of a data set: duplicates, leaks between parts, and non-anatomical differences between classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, compress
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.audit.duplicate_results import Duplicate, SharedPatient
from automl_cxr.data.audit.duplicates import SMALLEST_SIDE, Link, find_duplicates
from automl_cxr.data.audit.image_statistics import CORNERS, FORMAT, has_lettering, measure_image_statistics
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.audit.shortcut_baseline import (
    Folds,
    auc_of_statistics,
    baseline_folds,
    findings_out_of_fold,
    forest_out_of_fold,
    tree_predictions_out_of_fold,
)
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data.audit.statistic_results import FindingDifference, Lettering, StatisticDifference
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.finding_choice import describe_findings
from automl_cxr.data.inspection import INSPECTED_SIZE
from automl_cxr.scoring.intervals import bootstrap_interval, bootstrap_intervals
from automl_cxr.scoring.metrics import metric, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import MULTICLASS, MULTILABEL, PRESENT

_N_EXAMPLES = 3  # images of each corner


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


def audit_dataset(dataset: Dataset, *, on_progress: Callable[[int, int], None] | None = None) -> Audit:
    """Audit all images of a data set, including those of a given test part.

    Args:
        dataset: From ``load_dataset``.
        on_progress: Called with (images decoded, all images) while decoding.

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
        )
    )


def audit_images(audited: AuditedImages) -> Audit:
    """Audit decoded images: find duplicates, measure image statistics, and classify the images by these statistics."""
    pixels, sizes = audited.decoded.open(), audited.decoded.original_sizes
    labels = np.array(audited.labels)
    is_multilabel = labels.ndim == 2
    if is_multilabel:
        members, texts = [codes == PRESENT for codes in labels.T], describe_findings(labels, audited.classes)
    else:
        members = [labels == number for number in range(len(audited.classes))]
        texts = [audited.classes[label] for label in labels]
    links = find_duplicates(pixels, sizes)
    statistics = measure_image_statistics(audited.root, audited.decoded.ids, pixels, sizes)
    folds = baseline_folds(labels, audited.patients)
    notes = list(audited.notes)
    if not folds:
        notes.append(
            "No shortcut baseline: each class needs images of at least two patients, and one class has only one patient."
        )
    if pixels.shape[1] < SMALLEST_SIDE:
        notes.append(
            f"At {pixels.shape[1]} pixels, only identical copies are found. Other copies need {SMALLEST_SIDE} pixels or more."
        )
    if is_multilabel:
        differences: tuple[StatisticDifference, ...] = ()
        shortcut: Shortcut | FindingShortcut | None = _score_findings(audited, statistics, labels, folds) if folds else None
    else:
        differences = _compare_statistics(audited, statistics, labels, folds)
        shortcut = _score_shortcut(audited, statistics, labels, folds) if folds else None
    return Audit(
        root=str(audited.root),
        classes=audited.classes,
        n_images=tuple(int(is_member.sum()) for is_member in members),
        n_patients=len(set(audited.patients)) if audited.patients_known else None,
        parts={part: audited.parts.count(part) for part in ("train", "valid", "test") if part in audited.parts},
        found_duplicates=tuple(_describe(audited, link, texts, labels) for link in links),
        shared_patients=_find_shared_patients(audited) if audited.patients_known else (),
        differences=differences,
        formats=_count_formats(audited.classes, statistics[FORMAT], members),
        lettering=_lettering_rates(audited, statistics, members),
        shortcut=shortcut,
        unreadable=dict(audited.unreadable),
        notes=tuple(notes),
        task=MULTILABEL if is_multilabel else MULTICLASS,
        finding_differences=_compare_findings(statistics, labels, members) if is_multilabel else (),
        n_readable=len(labels) if is_multilabel else 0,
    )


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


def _score_shortcut(audited: AuditedImages, statistics: pd.DataFrame, labels: np.ndarray, folds: Folds) -> Shortcut:
    probabilities = forest_out_of_fold(statistics, labels, len(audited.classes), folds)
    predictions = Predictions(audited.decoded.ids, labels, probabilities, audited.classes, audited.patients)
    interval = bootstrap_interval(predictions, metric="macro_f1")
    return Shortcut(
        macro_f1=metric("macro_f1").function(labels, probabilities, None),
        low=interval.low,
        high=interval.high,
        chance=1 / len(audited.classes),  # random guesses: precision and recall of a class equal its frequency
        n_folds=len(folds),
    )


def _score_findings(
    audited: AuditedImages, statistics: pd.DataFrame, labels: np.ndarray, folds: Folds
) -> FindingShortcut | None:
    """Score the shortcut baseline of each finding; None if no finding is known to be both present and absent."""
    probabilities = findings_out_of_fold(statistics, labels, folds)
    predictions = Predictions(audited.decoded.ids, labels, probabilities, audited.classes, audited.patients)
    metrics = metrics_for(audited.classes, task=MULTILABEL)
    names = ["macro_auc", *(f"auc_{finding}" for finding in audited.classes)]
    scores = {name: float(metrics[name].function(labels, probabilities, None)) for name in names}
    defined = [name for name in names if not np.isnan(scores[name])]
    if not defined:
        return None
    intervals = bootstrap_intervals(predictions, defined)
    return FindingShortcut(
        macro_auc=scores["macro_auc"],
        low=intervals["macro_auc"].low,
        high=intervals["macro_auc"].high,
        aucs=tuple(scores[name] if name in intervals else None for name in names[1:]),
        lows=tuple(intervals[name].low if name in intervals else None for name in names[1:]),
        highs=tuple(intervals[name].high if name in intervals else None for name in names[1:]),
        n_folds=len(folds),
    )


def _compare_findings(
    statistics: pd.DataFrame, labels: np.ndarray, members: Sequence[np.ndarray]
) -> tuple[FindingDifference, ...]:
    found = [
        FindingDifference(trait=name, medians=tuple(_typical(statistics[name], is_member) for is_member in members), aucs=aucs)
        for name, aucs in auc_of_statistics(statistics, labels)
    ]
    return tuple(sorted(found, key=lambda one: one.largest, reverse=True))


def _typical(values: pd.Series[float], is_member: np.ndarray) -> float | str | None:
    """Return the median of some images, or the most frequent file format; None if there is no image."""
    chosen = values[is_member]
    if chosen.empty:
        return None
    return str(chosen.mode().iloc[0]) if values.name == FORMAT else float(chosen.median())


def _compare_statistics(
    audited: AuditedImages, statistics: pd.DataFrame, labels: np.ndarray, folds: Folds
) -> tuple[StatisticDifference, ...]:
    if not folds:
        return ()
    found = []
    for name, probabilities in tree_predictions_out_of_fold(statistics, labels, len(audited.classes), folds):
        pair, share = _best_separated_pair(probabilities, labels, len(audited.classes))
        by_class = statistics[name].groupby(labels)
        found.append(
            StatisticDifference(
                trait=name,
                by_class=tuple(
                    (by_class.agg(lambda values: values.mode()[0]) if name == FORMAT else by_class.median()).tolist()
                ),
                macro_f1=metric("macro_f1").function(labels, probabilities, None),
                told=(audited.classes[pair[0]], audited.classes[pair[1]]),
                told_share=share,
            )
        )
    return tuple(sorted(found, key=lambda one: one.macro_f1, reverse=True))


def _best_separated_pair(probabilities: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[tuple[int, int], float]:
    """Find the two classes with the best mean of both sensitivities; equal probabilities count half."""
    shares = {}
    for one, other in combinations(range(n_classes), 2):
        margins = probabilities[:, one] - probabilities[:, other]
        right_one = (np.sign(margins[labels == one]) + 1).mean() / 2
        right_other = (1 - np.sign(margins[labels == other])).mean() / 2
        shares[one, other] = float(right_one + right_other) / 2
    best = max(shares, key=lambda pair: shares[pair])
    return best, shares[best]


def _count_formats(classes: Sequence[str], formats: pd.Series[str], members: Sequence[np.ndarray]) -> dict[str, dict[str, int]]:
    counted = {}
    for name, is_member in zip(classes, members, strict=True):
        names, counts = np.unique(formats[is_member].to_numpy(str), return_counts=True)
        counted[name] = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return counted


def _lettering_rates(audited: AuditedImages, statistics: pd.DataFrame, members: Sequence[np.ndarray]) -> tuple[Lettering, ...]:
    suspected = has_lettering(statistics)
    with_any = suspected.assign(anywhere=suspected.any(axis=1))
    rates = pd.DataFrame([with_any[is_member].mean() for is_member in members]).fillna(0.0).reset_index(drop=True)
    of_corners = [
        Lettering(
            place=corner,
            rates=tuple(rates[corner].tolist()),
            examples=_lettering_examples(audited, statistics[f"lettering_{corner}"], members[int(rates[corner].argmax())]),
        )
        for corner in CORNERS
    ]
    return (*of_corners, Lettering(place="anywhere", rates=tuple(rates["anywhere"].tolist()), examples=()))


def _lettering_examples(audited: AuditedImages, bright_shares: pd.Series[float], is_of_class: np.ndarray) -> tuple[str, ...]:
    """Return the images of a class with the largest shares of bright structures in a corner."""
    rows = bright_shares[is_of_class].nlargest(_N_EXAMPLES)
    return tuple(audited.decoded.ids[row] for row in rows.index[rows > 0])
