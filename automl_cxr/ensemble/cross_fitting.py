"""The genetic algorithm kept from fitting chance: evolved on halves of the patients, averaged, drawn to the best members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.baselines import rank_members, top_k_weights
from automl_cxr.ensemble.genetic import evolve_weights
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scoring import WeightScorer


def evolve_on_halves(
    ballots: WeightScorer, patients: Sequence[str], settings: GeneticSettings, *, by_class: bool = False
) -> np.ndarray:
    """Find ensemble weights that hold on other patients too.

    Patients are parted into halves several times, weights are evolved on each half, and their mean is taken: what only suits
    one half's patients averages out. Then the mean is drawn a little to the uniform weights of the best members.

    Args:
        ballots: Members' probabilities, the truth and the objective.
        patients: The patient of each image, (n,).
        settings: ``halvings``, ``shrinkage`` and ``shrink_to`` among them.
        by_class: Find a weight for each member and class instead of one for each member.

    Returns:
        float64 (n_members,), sum 1; by class (n_members, k), sum k.
    """
    evolved = [evolve_weights(part, settings, by_class=by_class).weights for part in _parts(ballots, patients, settings)]
    mean = np.mean(evolved, axis=0)
    simple = top_k_weights(rank_members(ballots), min(settings.shrink_to, ballots.n_members))
    return (1 - settings.shrinkage) * mean + settings.shrinkage * (simple[:, None] if by_class else simple)


def _parts(ballots: WeightScorer, patients: Sequence[str], settings: GeneticSettings) -> Iterator[WeightScorer]:
    """Yield both halves of each halving; all images where there is none, or a class has but one patient."""
    for number in range(settings.halvings):
        halves = patient_folds(ballots.labels, patients, 2, seed=settings.seed + number)
        if halves is None:
            break
        yield from (ballots.take(halves == half) for half in (0, 1))
    else:
        if settings.halvings:
            return
    yield ballots
