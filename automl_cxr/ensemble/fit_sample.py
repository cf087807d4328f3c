"""A sample of the patients for fits of ensembles to many images of several findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer

MAX_FIT_IMAGES = 5_000
_MAX_HALVINGS = 1  # halves of so many images differ little


def sample_patients(
    scorer: BaseWeightScorer, patients: Sequence[str], settings: GeneticSettings
) -> tuple[BaseWeightScorer, Sequence[str], GeneticSettings]:
    """Draw patients until their images reach a number that determines the weights of some dozens of members.

    Args:
        scorer: Members' probabilities and labels.
        patients: The patient of each image, (n,).
        settings: Settings of the genetic algorithm.

    Returns:
        The scorer of the sample, its patients, and the settings with at most one halving; the arguments themselves for at most
        5,000 images.
    """
    if scorer.n_images <= MAX_FIT_IMAGES:
        return scorer, patients, settings
    names, patient = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    order = np.random.default_rng(settings.seed).permutation(len(names))
    n_images = np.bincount(patient)[order].cumsum()
    is_drawn = np.zeros(len(names), dtype=bool)
    is_drawn[order[: max(1, int(np.searchsorted(n_images, MAX_FIT_IMAGES, side="right")))]] = True
    rows = np.flatnonzero(is_drawn[patient])
    fewer = replace(settings, halvings=min(settings.halvings, _MAX_HALVINGS))
    return scorer.take(rows), [patients[row] for row in rows.tolist()], fewer
