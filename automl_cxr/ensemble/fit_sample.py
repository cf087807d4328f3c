"""A sample of the patients for fits of ensembles to many images of several findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from automl_cxr.data.iterative_stratification import count_labels
from automl_cxr.ensemble.finding_weight_scoring import FindingWeightScorer
from automl_cxr.ensemble.genetic_settings import GeneticSettings

MAX_FIT_IMAGES = 5_000
MIN_FIT_LABELS = 100
"""Images with each finding, and without it, that a sample has at least if there are so many."""
_MAX_HALVINGS = 1  # halves of so many images differ little


def sample_patients(
    scorer: FindingWeightScorer, patients: Sequence[str], settings: GeneticSettings
) -> tuple[FindingWeightScorer, Sequence[str], GeneticSettings]:
    """Draw patients until their images reach a number that determines the weights of some dozens of members.

    Patients are drawn at random, but first those with rare findings, until the sample has 100 images with each finding and 100
    without it, or all of them if there are fewer. Rare findings are therefore more frequent in the sample than in all images.
    The sample has more than 5,000 images only if these patients have more.

    Args:
        scorer: Members' probabilities and labels.
        patients: The patient of each image, (n,).
        settings: Settings of the genetic algorithm.

    Returns:
        The scorer of the sample, which approximates areas under the ROC curve; its patients; and the settings with at most one
        halving. The arguments themselves for at most 5,000 images.
    """
    if scorer.n_images <= MAX_FIT_IMAGES:
        return scorer, patients, settings
    names, patient = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    counts = count_labels(scorer.labels, patient, len(names))
    order = np.random.default_rng(settings.seed).permutation(len(names))
    rows = np.flatnonzero(_draw(counts, order)[patient])
    fewer = replace(settings, halvings=min(settings.halvings, _MAX_HALVINGS))
    return scorer.take(rows, is_rounded=True), [patients[row] for row in rows.tolist()], fewer


def _draw(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return whether each patient is drawn, bool (n_patients,).

    Args:
        counts: Images of each patient with each label, and all of its images in the last column, (n_patients, n_labels + 1).
        order: The patients in random order.
    """
    is_drawn = np.zeros(len(order), dtype=bool)
    by_label, n_images = counts[:, :-1], counts[:, -1]
    for label in by_label.sum(axis=0).argsort(kind="stable"):
        lacking = MIN_FIT_LABELS - by_label[is_drawn, label].sum()
        others = order[~is_drawn[order] & (by_label[order, label] > 0)]
        before = np.cumsum(by_label[others, label]) - by_label[others, label]
        is_drawn[others[before < lacking]] = True
    others = order[~is_drawn[order]]
    is_drawn[others[np.cumsum(n_images[others]) <= MAX_FIT_IMAGES - n_images[is_drawn].sum()]] = True
    return is_drawn
