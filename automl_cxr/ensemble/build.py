"""From members' predictions to an ensemble: fit a rule by a named method, compare the methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.combiners import Combiner, WeightedAverage
from automl_cxr.ensemble.cross_fitting import evolve_on_halves
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.ensemble.stacking import fit_stacking
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.predictions import Predictions, align

Fit = Callable[[WeightScorer, Sequence[str], GeneticSettings], Combiner]


@dataclass(frozen=True)
class Method:
    """A way to fit a rule.

    Attributes:
        description: One line for people.
        fit: (ballots, the patient of each image, settings) to the rule.
        n_members: How many members it is for; None for any number.
    """

    description: str
    fit: Fit
    n_members: int | None = None


def _average_of(weigh: Callable[[WeightScorer], np.ndarray]) -> Fit:
    return lambda ballots, _patients, _settings: WeightedAverage(weigh(ballots))


# From the simplest to the most elaborate: of methods that cannot be told apart the first is recommended.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "best": Method("the best member alone", _average_of(lambda ballots: top_k_weights(rank_members(ballots), 1))),
        "average": Method("all members alike", _average_of(lambda ballots: uniform_weights(ballots.n_members))),
        "greedy": Method("greedy selection with replacement (Caruana et al. 2004)", _average_of(greedy_weights)),
        "sweep": Method("two members: the exact optimum", _average_of(exact_two_member_weights), n_members=2),
        "ga": Method(
            "genetic algorithm, averaged over halves of the patients",
            lambda ballots, patients, settings: WeightedAverage(evolve_on_halves(ballots, patients, settings)),
        ),
        "ga-by-class": Method(
            "the same with a weight for each member and class",
            lambda ballots, patients, settings: WeightedAverage(evolve_on_halves(ballots, patients, settings, by_class=True)),
        ),
        "stacking": Method(
            "regularised multinomial regression on log-probabilities",
            lambda ballots, patients, settings: fit_stacking(
                ballots.probabilities, ballots.labels, patients, seed=settings.seed
            ),
        ),
    }
)


DEFAULT_METHOD = "ga-by-class"
"""Half a point of test macro-F1 above ``ga`` over 80 splits of four collections, and again over 40 new ones
(benchmarks/README.md)."""


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """A rule, and how it was found.

    Attributes:
        method: A name in ``METHODS``.
        rule: How the members' probabilities are combined.
        score: The objective's metric on the images that it was fitted on: optimistic, the more so the more members.
    """

    method: str
    rule: Combiner
    score: float


def fit_ensemble(
    members: Sequence[Predictions],
    *,
    method: str = DEFAULT_METHOD,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
) -> FittedEnsemble:
    """Fit a rule on labelled predictions of the same images.

    Args:
        members: Predictions of each member, on images that no member was trained on.
        method: A name in ``METHODS``.
        objective: What the rule is chosen by; stacking has its own, log loss.
        settings: Of the genetic algorithm; of the other methods only stacking takes the seed of its folds from it.

    Raises:
        UnknownNameError: If there is no such method.
        UsageError: If there is no member, or the method is for another number of them.
        DataError: If members differ in images, labels or classes, or a label is unknown.
    """
    check_method(method, len(members))
    ballots, images = expand_weights(members, objective)
    return _fit(method, ballots, images.patients, settings)


def compare_methods(
    members: Sequence[Predictions], *, objective: Objective = MACRO_F1, settings: GeneticSettings = DEFAULT_SETTINGS
) -> dict[str, FittedEnsemble]:
    """Fit by every method that there is for as many members, so that none stands without its simpler rivals beside it.

    Arguments and errors as in ``fit_ensemble``. Scores are on the fitting images: which method is better shows only on
    images that none was fitted on (``ensemble.judgement``).
    """
    ballots, images = expand_weights(members, objective)
    return {method: _fit(method, ballots, images.patients, settings) for method in methods_for(len(members))}


def methods_for(n_members: int) -> tuple[str, ...]:
    """Name the methods that there are for a number of members, from the simplest."""
    return tuple(name for name, row in METHODS.items() if row.n_members in (None, n_members))


def check_method(method: str, n_members: int) -> None:
    """Refuse a method that does not exist or is for another number of members.

    Raises:
        UnknownNameError: There is no such method.
        UsageError: It is for another number of members.
    """
    if method not in METHODS:
        raise UnknownNameError("ensemble method", method, METHODS)
    if method not in methods_for(n_members):
        raise UsageError(f"The method '{method}' is for {METHODS[method].n_members} members; received {n_members}. Try ga.")


def expand_weights(members: Sequence[Predictions], objective: Objective) -> tuple[WeightScorer, Predictions]:
    """Match members' images by id and lay their votes out; give the first member beside, whose order the rows follow.

    Raises:
        UsageError: If there is no member, or the objective misses its normal class.
        DataError: If members differ in images, labels or classes, or a label is unknown.
    """
    probabilities, images = align(members)
    images.require_labels()
    return WeightScorer(probabilities, images.labels, objective=objective), images


def ensemble_predictions(members: Sequence[Predictions], rule: Combiner) -> Predictions:
    """Combine members' predictions by a rule; labels may be unknown.

    Args:
        members: Predictions of each member for the same images, in the order that the rule was fitted in.
        rule: How they are combined.

    Raises:
        UsageError: If there is no member, or the rule is for others.
        DataError: If members differ in images, labels or classes.
    """
    probabilities, images = align(members)
    return replace(images, probabilities=rule.combine(probabilities))


def _fit(method: str, ballots: WeightScorer, patients: Sequence[str], settings: GeneticSettings) -> FittedEnsemble:
    rule = METHODS[method].fit(ballots, patients, settings)
    return FittedEnsemble(method, rule, ballots.objective.score(ballots.labels, rule.combine(ballots.probabilities)))
