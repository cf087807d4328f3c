"""From members' predictions to an ensemble: fit weights by a named method, compare the methods, predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from automl_cxr.ensemble.genetic import DEFAULT_SETTINGS, GeneticSettings, evolve_weights
from automl_cxr.ensemble.selection import greedy_selection, top_k_weights, uniform_weights
from automl_cxr.ensemble.voting import score_population, weighted_average
from automl_cxr.errors import UnknownNameError
from automl_cxr.scoring.metrics import score_macro_f1
from automl_cxr.scoring.predictions import Predictions, align


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """Weights of an ensemble, and how they were found.

    Attributes:
        method: A name in ``METHODS``.
        weights: float64 (n_members,), sum 1, in the order of the members.
        score: Macro-F1 on the images that the weights were fitted on: optimistic, the more so the more members.
    """

    method: str
    weights: np.ndarray
    score: float


Method = Callable[[np.ndarray, np.ndarray, GeneticSettings], np.ndarray]


def _evolved(probabilities: np.ndarray, labels: np.ndarray, settings: GeneticSettings) -> np.ndarray:
    return evolve_weights(probabilities, labels, settings=settings).weights


def _average(probabilities: np.ndarray, labels: np.ndarray, settings: GeneticSettings) -> np.ndarray:
    return uniform_weights(len(probabilities))


def _greedy(probabilities: np.ndarray, labels: np.ndarray, settings: GeneticSettings) -> np.ndarray:
    return greedy_selection(probabilities, labels)


def _best_single(probabilities: np.ndarray, labels: np.ndarray, settings: GeneticSettings) -> np.ndarray:
    return top_k_weights(score_population(probabilities, labels, np.eye(len(probabilities))), 1)


METHODS: Mapping[str, Method] = MappingProxyType({"ga": _evolved, "average": _average, "greedy": _greedy, "best": _best_single})


def fit_ensemble(
    members: Sequence[Predictions], *, method: str = "ga", seed: int = 0, settings: GeneticSettings = DEFAULT_SETTINGS
) -> FittedEnsemble:
    """Fit ensemble weights on labelled predictions of the same images.

    Args:
        members: Predictions of each member, on images that no member was trained on.
        method: A name in ``METHODS``.
        seed: Seed of random choices; takes the place of the one in ``settings``.
        settings: Of the genetic algorithm; the other methods have none.

    Raises:
        UnknownNameError: If there is no such method.
        UsageError: If there is no member, or the seed is below 0.
        DataError: If members differ in images, labels or classes, or a label is unknown.
    """
    if method not in METHODS:
        raise UnknownNameError("ensemble method", method, METHODS)
    probabilities, images = align(members)
    images.require_labels()
    weights = METHODS[method](probabilities, images.labels, replace(settings, seed=seed))
    score = score_macro_f1(images.labels, weighted_average(probabilities, weights))
    return FittedEnsemble(method, weights, score)


def compare_methods(
    members: Sequence[Predictions], *, seed: int = 0, settings: GeneticSettings = DEFAULT_SETTINGS
) -> dict[str, FittedEnsemble]:
    """Fit by every method, so that the genetic algorithm never stands without its simpler rivals beside it.

    Arguments and errors as in ``fit_ensemble``. Scores are on the fitting images, where "ga" cannot lose: which method
    is better shows only on images that none was fitted on.
    """
    return {method: fit_ensemble(members, method=method, seed=seed, settings=settings) for method in METHODS}


def ensemble_predictions(members: Sequence[Predictions], weights: np.ndarray) -> Predictions:
    """Predict by weighted average; labels may be unknown.

    Args:
        members: Predictions of each member for the same images, in the order of the weights.
        weights: (n_members,), at least 0, scaled to sum to 1.

    Raises:
        UsageError: If there is no member, or the weights do not fit them.
        DataError: If members differ in images, labels or classes.
    """
    probabilities, images = align(members)
    return replace(images, probabilities=weighted_average(probabilities, weights))
