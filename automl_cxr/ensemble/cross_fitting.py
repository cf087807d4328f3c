"""Genetic ensemble weights with less overfitting: evolved on halves of the patients, averaged and shrunk."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.genetic import evolve_weights, seed_weights
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer

_N_STEPS = 10


def evolve_on_halves(
    scorer: BaseWeightScorer, patients: Sequence[str], settings: GeneticSettings, *, by_class: bool = False
) -> np.ndarray:
    """Find ensemble weights that generalise to other patients.

    Patients are divided into halves several times, weights are evolved on each half, and their mean is taken. This reduces
    overfitting to the patients of one half. The mean is then shrunk towards equal weights of the best members.

    Averaging and shrinkage cost score on these images. Weights of members that are below the best member, equal weights or
    greedy selection are therefore moved towards the best of these three, no further than necessary. Weights by class are not.

    Args:
        scorer: Members' probabilities, labels and the objective.
        patients: The patient of each image, (n,).
        settings: Settings of the algorithm; ``halvings``, ``shrinkage`` and ``shrink_to`` apply here.
        by_class: Find a weight for each member and class instead of one for each member.

    Returns:
        float64 (n_members,), sum 1; by class (n_members, k), sum k.
    """
    evolved = []
    for part, name in _halves(scorer, patients, settings):
        # Weights by class start from the same seeds, of which greedy selection takes as long as the evolution.
        seeds = scorer.compute_once(("seeds", *name), functools.partial(seed_weights, part))
        evolved.append(evolve_weights(part, settings, by_class=by_class, seeds=seeds).weights)
    if by_class:
        evolved = [scorer.standardize(weights) for weights in evolved]
    simple = top_k_weights(rank_members(scorer), min(settings.shrink_to, scorer.n_members))
    mean = np.mean(evolved, axis=0)
    if by_class:
        return (1 - settings.shrinkage) * mean + settings.shrinkage * simple[:, None]
    return _at_least_as_good_as_simple((1 - settings.shrinkage) * mean + settings.shrinkage * simple, scorer)


def _at_least_as_good_as_simple(weights: np.ndarray, scorer: BaseWeightScorer) -> np.ndarray:
    """Move weights towards the best simple weights until their score on the images of the scorer is not lower."""
    best_member = top_k_weights(rank_members(scorer), 1)
    simple = np.stack([best_member, uniform_weights(scorer.n_members), greedy_weights(scorer)])
    scores = scorer.score(simple)
    target = simple[scores.argmax()]
    shares = np.linspace(0, 1, _N_STEPS + 1)[:, None]
    moved = (1 - shares) * weights + shares * target
    is_enough = scorer.score(moved) >= scores.max()
    return np.asarray(moved[is_enough.argmax()])


def _halves(
    scorer: BaseWeightScorer, patients: Sequence[str], settings: GeneticSettings
) -> Iterator[tuple[BaseWeightScorer, tuple[int, ...]]]:
    """Yield both halves of each division; all images if there is no division or a class has only one patient.

    Each is yielded with the seed of the division and the number of the half, or an empty tuple for all images.
    """
    for number in range(settings.halvings):
        folds = patient_folds(scorer.labels, patients, 2, seed=settings.seed + number)
        if folds is None:
            break
        yield from ((scorer.take(folds == half), (settings.seed + number, half)) for half in (0, 1))
    else:
        if settings.halvings:
            return
    yield scorer, ()
