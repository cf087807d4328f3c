"""Comparison of models by areas under ROC curves: DeLong's test, and the paired bootstrap by patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from automl_cxr.scoring.delong import RocAreas, holm_adjusted, roc_areas
from automl_cxr.scoring.intervals import N_RESAMPLES, differences_from, intervals_of
from automl_cxr.scoring.metrics import metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.tasks import PRESENT


def auc_differences(
    images: Predictions,
    names: Sequence[str],
    probabilities: np.ndarray,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the first model with each other model on the same images.

    Args:
        images: Labels, patients and classes.
        names: Names of the models, (n_models,).
        probabilities: (n_models, n, n_classes), in the order of ``images``.
        n_resamples: Number of bootstrap resamples of patients.
        seed: Seed of the resamples.

    Returns:
        class (or finding), model, other, auc and other_auc, difference (the first minus the other), difference_low and
        difference_high (95 % interval of the paired bootstrap by patient), p_delong, and p_holm, which is adjusted for the
        number of rows. Of two classes, which have the same area, the second. A class that no image or every image has is
        omitted.
    """
    areas = _areas(images, probabilities) if len(names) > 1 else {}
    if not areas:
        return pd.DataFrame()
    defined = metrics_for(images.classes, task=images.task)
    resampled = resample_scores(
        images.labels,
        probabilities,
        images.patients,
        [defined[f"auc_{name}"] for name in areas],
        n_resamples=n_resamples,
        seed=seed,
    )
    rows = []
    for name, of_class in areas.items():
        intervals = intervals_of(differences_from(resampled[f"auc_{name}"], 0))
        rows += [
            {
                "finding" if images.is_multilabel else "class": name,
                "model": names[0],
                "other": names[other],
                "auc": float(of_class.areas[0]),
                "other_auc": float(of_class.areas[other]),
                "difference": float(of_class.areas[0] - of_class.areas[other]),
                "difference_low": intervals[other].low,
                "difference_high": intervals[other].high,
                "p_delong": of_class.p_value(0, other),
            }
            for other in range(1, len(names))
        ]
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm_adjusted(table["p_delong"].to_numpy()))


def _areas(images: Predictions, probabilities: np.ndarray) -> dict[str, RocAreas]:
    """Return the areas of the models for each class or finding for which they are defined."""
    labels, is_binary = images.labels, not images.is_multilabel and len(images.classes) == 2
    found = {}
    for number, name in enumerate(images.classes):
        is_known = labels[:, number] >= 0 if images.is_multilabel else labels >= 0
        is_positive = labels[:, number] == PRESENT if images.is_multilabel else labels == number
        areas = roc_areas(is_positive[is_known], probabilities[:, is_known, number])
        if not np.isnan(areas.areas).any() and not (is_binary and number == 0):
            found[name] = areas
    return found


def describe_dependence(images: Predictions) -> str:
    """Return a note for patients with several images, which DeLong's test does not consider; "" if there are none."""
    n_patients = len(set(images.patients))
    if n_patients == len(images):
        return ""
    return (
        f"DeLong's test treats the {len(images):,} images of {n_patients:,} patients as independent, so its p-values may be "
        "too small. The intervals are those of a bootstrap by patient."
    )
