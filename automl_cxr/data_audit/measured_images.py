"""The statistics of a sample of images: differences between classes or findings, burnt-in text, and the shortcut baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from automl_cxr.data.audit.image_statistics import CORNERS, FORMAT, has_lettering
from automl_cxr.data.audit.shortcut_baseline import (
    Folds,
    auc_of_statistics,
    findings_out_of_fold,
    forest_out_of_fold,
    tree_predictions_out_of_fold,
)
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data.audit.statistic_results import FindingDifference, Lettering, StatisticDifference
from automl_cxr.scoring.intervals import bootstrap_interval, bootstrap_intervals
from automl_cxr.scoring.metrics import metric, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import MULTILABEL

_N_EXAMPLES = 3  # images of each corner


@dataclass(frozen=True, kw_only=True)
class MeasuredImages:
    """The images whose statistics are measured.

    Attributes:
        ids: Ids of the images.
        classes: Names of the classes or findings.
        labels: Index of the class of each image, int (n,); of several findings, their label codes, (n, n_findings).
        members: For each class or finding, which images have it, bool (n,).
        patients: Patient of each image.
        statistics: One row for each image.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    members: Sequence[np.ndarray]
    patients: tuple[str, ...]
    statistics: pd.DataFrame


def score_shortcut(sample: MeasuredImages, folds: Folds) -> Shortcut:
    """Score the shortcut baseline of classes."""
    probabilities = forest_out_of_fold(sample.statistics, sample.labels, len(sample.classes), folds)
    return score_class_baseline(sample, probabilities, n_folds=len(folds))


def score_class_baseline(sample: MeasuredImages, probabilities: np.ndarray, *, n_folds: int) -> Shortcut:
    """Score out-of-fold probabilities of classes, float32 (n, n_classes)."""
    predictions = Predictions(sample.ids, sample.labels, probabilities, sample.classes, sample.patients)
    interval = bootstrap_interval(predictions, metric="macro_f1")
    return Shortcut(
        macro_f1=metric("macro_f1").function(sample.labels, probabilities, None),
        low=interval.low,
        high=interval.high,
        chance=1 / len(sample.classes),  # random guesses: precision and recall of a class equal its frequency
        n_folds=n_folds,
    )


def score_findings(sample: MeasuredImages, folds: Folds) -> FindingShortcut | None:
    """Score the shortcut baseline of each finding; None if no finding is known to be both present and absent."""
    probabilities = findings_out_of_fold(sample.statistics, sample.labels, folds)
    return score_finding_baseline(sample, probabilities, n_folds=len(folds))


def score_finding_baseline(sample: MeasuredImages, probabilities: np.ndarray, *, n_folds: int) -> FindingShortcut | None:
    """Score out-of-fold probabilities of findings, float32 (n, n_findings); None as in ``score_findings``."""
    predictions = Predictions(sample.ids, sample.labels, probabilities, sample.classes, sample.patients)
    metrics = metrics_for(sample.classes, task=MULTILABEL)
    names = ["macro_auc", *(f"auc_{finding}" for finding in sample.classes)]
    scores = {name: float(metrics[name].function(sample.labels, probabilities, None)) for name in names}
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
        n_folds=n_folds,
    )


def compare_findings(sample: MeasuredImages) -> tuple[FindingDifference, ...]:
    """Compare each statistic between images with and without each finding, the largest difference first."""
    found = [
        FindingDifference(
            trait=name,
            medians=tuple(_typical(sample.statistics[name], is_member) for is_member in sample.members),
            aucs=aucs,
        )
        for name, aucs in auc_of_statistics(sample.statistics, sample.labels)
    ]
    return tuple(sorted(found, key=lambda one: one.largest, reverse=True))


def _typical(values: pd.Series[float], is_member: np.ndarray) -> float | str | None:
    """Return the median of some images, or the most frequent file format; None if there is no image."""
    chosen = values[is_member]
    if chosen.empty:
        return None
    return str(chosen.mode().iloc[0]) if values.name == FORMAT else float(chosen.median())


def compare_statistics(sample: MeasuredImages, folds: Folds) -> tuple[StatisticDifference, ...]:
    """Compare each statistic between classes, the largest difference first; empty without folds."""
    if not folds:
        return ()
    found = []
    n_classes = len(sample.classes)
    for name, probabilities in tree_predictions_out_of_fold(sample.statistics, sample.labels, n_classes, folds):
        pair, share = _best_separated_pair(probabilities, sample.labels, n_classes)
        by_class = sample.statistics[name].groupby(sample.labels)
        found.append(
            StatisticDifference(
                trait=name,
                by_class=tuple(
                    (by_class.agg(lambda values: values.mode()[0]) if name == FORMAT else by_class.median()).tolist()
                ),
                macro_f1=metric("macro_f1").function(sample.labels, probabilities, None),
                told=(sample.classes[pair[0]], sample.classes[pair[1]]),
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


def count_formats(sample: MeasuredImages) -> dict[str, dict[str, int]]:
    """Count the images of each file format by class."""
    counted = {}
    for name, is_member in zip(sample.classes, sample.members, strict=True):
        names, counts = np.unique(sample.statistics[FORMAT][is_member].to_numpy(str), return_counts=True)
        counted[name] = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return counted


def lettering_rates(sample: MeasuredImages) -> tuple[Lettering, ...]:
    """Compute the share of images with suspected burnt-in text by class, in each corner and anywhere."""
    suspected = has_lettering(sample.statistics)
    with_any = suspected.assign(anywhere=suspected.any(axis=1))
    rates = pd.DataFrame([with_any[is_member].mean() for is_member in sample.members]).fillna(0.0).reset_index(drop=True)
    of_corners = [
        Lettering(
            place=corner,
            rates=tuple(rates[corner].tolist()),
            examples=_lettering_examples(sample, corner, sample.members[int(rates[corner].argmax())]),
        )
        for corner in CORNERS
    ]
    return (*of_corners, Lettering(place="anywhere", rates=tuple(rates["anywhere"].tolist()), examples=()))


def _lettering_examples(sample: MeasuredImages, corner: str, is_of_class: np.ndarray) -> tuple[str, ...]:
    """Return the images of a class with the largest shares of bright structures in a corner."""
    rows = sample.statistics[f"lettering_{corner}"][is_of_class].nlargest(_N_EXAMPLES)
    return tuple(sample.ids[row] for row in rows.index[rows > 0])
