"""Fitting an ensemble to members' predictions by a named method, and comparing the methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.combiners import WeightedAverage
from automl_cxr.ensemble.cross_fitting import evolve_on_halves
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.finding_combiners import AverageByFinding
from automl_cxr.ensemble.finding_fits import correct_intercepts, fit_logit_mean, fit_stacking_of_findings
from automl_cxr.ensemble.finding_weight_scoring import FindingWeightScorer
from automl_cxr.ensemble.fit_sample import sample_patients
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.geometric_mean import fit_geometric_mean
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.ensemble.stacking import fit_stacking
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.predictions import Predictions, align

Fit = Callable[[BaseWeightScorer, Sequence[str], GeneticSettings], Combiner]


@dataclass(frozen=True)
class Method:
    """A way to fit a combiner.

    Attributes:
        description: One line for help texts.
        fit_classes: Takes the scorer, the patient of each image and the settings; returns the combiner. For one class of each
            image.
        n_members: Required number of members; None for any number.
        fit_findings: The same for several findings; by default ``fit_classes``.
        is_costly: Whether fits for findings use a sample of the images if there are many.
        correct_findings: Corrects a combiner that was fitted to a sample, in which rare findings are more frequent. Takes the
            combiner, the label codes of the sample and those of all images; None if the combiner does not need it.
    """

    description: str
    fit_classes: Fit
    n_members: int | None = None
    fit_findings: Fit | None = None
    is_costly: bool = True
    correct_findings: Callable[[Any, np.ndarray, np.ndarray], Combiner] | None = None


def _average_of(find_weights: Callable[[BaseWeightScorer], np.ndarray]) -> Fit:
    return lambda scorer, _patients, _settings: WeightedAverage(find_weights(scorer))


# Ordered from simple to elaborate: the first of several methods that are not distinguishable is recommended.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "best": Method(
            "the best member alone", _average_of(lambda scorer: top_k_weights(rank_members(scorer), 1)), is_costly=False
        ),
        "average": Method(
            "equal weights for all members", _average_of(lambda scorer: uniform_weights(scorer.n_members)), is_costly=False
        ),
        "geometric": Method(
            "geometric mean with weights that minimise the log loss, close to equal weights",
            lambda scorer, _patients, _settings: fit_geometric_mean(scorer.probabilities, scorer.labels),
            fit_findings=lambda scorer, _patients, _settings: fit_logit_mean(scorer.probabilities, scorer.labels),
        ),
        "greedy": Method("greedy selection with replacement (Caruana et al. 2004)", _average_of(greedy_weights)),
        "sweep": Method("two members: the exact optimum", _average_of(exact_two_member_weights), n_members=2),
        "ga": Method(
            "genetic algorithm, averaged over halves of the patients",
            lambda scorer, patients, settings: WeightedAverage(evolve_on_halves(scorer, patients, settings)),
        ),
        "ga-by-class": Method(
            "genetic algorithm with a weight for each member and class or finding",
            lambda scorer, patients, settings: WeightedAverage(evolve_on_halves(scorer, patients, settings, by_class=True)),
            fit_findings=lambda scorer, patients, settings: AverageByFinding(
                evolve_on_halves(scorer, patients, settings, by_class=True)
            ),
        ),
        "stacking": Method(
            "regularised multinomial regression on log-probabilities, or a regression for each finding on logits",
            lambda scorer, patients, settings: fit_stacking(scorer.probabilities, scorer.labels, patients, seed=settings.seed),
            fit_findings=lambda scorer, patients, settings: fit_stacking_of_findings(
                scorer.probabilities, scorer.labels, patients, seed=settings.seed
            ),
            correct_findings=correct_intercepts,
        ),
    }
)


AUTO = "auto"
"""Instead of a method: the simplest of the methods that are within one standard error of the best one out of fold."""

DEFAULT_METHOD = AUTO


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """A combiner, with the method that fitted it.

    Attributes:
        method: A name in ``METHODS``.
        combiner: Combines the members' probabilities.
        score: The objective's metric on the images that the combiner was fitted on. It is optimistic, and more so with more
            members.
    """

    method: str
    combiner: Combiner
    score: float


def fit_ensemble(
    members: Sequence[Predictions],
    *,
    method: str,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
) -> FittedEnsemble:
    """Fit a combiner on labelled predictions of the same images.

    Args:
        members: Predictions of each member, on images that no member was trained on.
        method: A name in ``METHODS``.
        objective: The metric to optimise; geometric and stacking always minimise the log loss.
        settings: Settings of the methods "ga" and "ga-by-class". Stacking uses only their seed, for its folds.

    Raises:
        UnknownNameError: There is no such method.
        UsageError: There is no member, or the method needs another number of members.
        DataError: Members differ in images, labels or classes, or a label is unknown.
    """
    check_method(method, len(members))
    scorer, images = build_weight_scorer(members, objective)
    return fit_methods([method], scorer, images.patients, settings)[method]


def compare_methods(
    members: Sequence[Predictions],
    *,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
    methods: Sequence[str] | None = None,
) -> dict[str, FittedEnsemble]:
    """Fit a combiner by each of several methods, so that simpler methods are always reported too.

    Arguments and errors as in ``fit_ensemble``; ``methods`` are all methods for this number of members by default. The scores
    are on the images used for fitting. Only images that no method was fitted on can show which method is better
    (``ensemble.method_comparison``).
    """
    scorer, images = build_weight_scorer(members, objective)
    names = methods_for(len(members)) if methods is None else methods
    return fit_methods(names, scorer, images.patients, settings)


def methods_for(n_members: int) -> tuple[str, ...]:
    """Return the names of the methods for a number of members, simplest first."""
    return tuple(name for name, row in METHODS.items() if row.n_members in (None, n_members))


def check_method(method: str, n_members: int) -> None:
    """Refuse a method that is not ``AUTO``, does not exist or needs another number of members.

    Raises:
        UnknownNameError: There is no such method.
        UsageError: The method needs another number of members.
    """
    if method == AUTO:
        return
    if method not in METHODS:
        raise UnknownNameError("ensemble method", method, (AUTO, *METHODS))
    if method not in methods_for(n_members):
        raise UsageError(f"The method '{method}' is for {METHODS[method].n_members} members; received {n_members}. Try ga.")


def build_weight_scorer(
    members: Sequence[Predictions], objective: Objective, *, names: Sequence[str] = ()
) -> tuple[BaseWeightScorer, Predictions]:
    """Match members' images by id and create their scorer.

    Args:
        members: Labelled predictions of each member.
        objective: The metric that weightings are scored by.
        names: Names of the members for messages; by default their numbers.

    Returns:
        The scorer, and the first member's predictions without thresholds. Both have the same order of images.

    Raises:
        UsageError: There is no member, or the objective needs a normal class and has none.
        DataError: Members differ in images, labels or classes, or a label is unknown.
    """
    probabilities, images = align(members, names=names)
    images.require_labels()
    images = images.with_probabilities(images.probabilities)
    if images.is_multilabel:
        return FindingWeightScorer(probabilities, images.labels, objective=objective), images
    return WeightScorer(probabilities, images.labels, objective=objective), images


def ensemble_predictions(members: Sequence[Predictions], combiner: Combiner) -> Predictions:
    """Combine members' predictions; labels may be unknown.

    Args:
        members: Predictions of each member for the same images, in the order of the fit.
        combiner: Combines their probabilities.

    Raises:
        UsageError: There is no member, or the combiner is for another number of members or classes.
        DataError: Members differ in images, labels or classes.
    """
    probabilities, images = align(members)
    return images.with_probabilities(combiner.combine(probabilities))


def fit_combiners(
    methods: Sequence[str], scorer: BaseWeightScorer, patients: Sequence[str], settings: GeneticSettings
) -> dict[str, Combiner]:
    """Fit a combiner by each of several methods to the images of a scorer.

    Args:
        methods: Names in ``METHODS``.
        scorer: Members' probabilities, labels and the objective.
        patients: The patient of each image, (n,).
        settings: Settings of the genetic algorithm.
    """
    if not isinstance(scorer, FindingWeightScorer):
        return {method: METHODS[method].fit_classes(scorer, patients, settings) for method in methods}
    sample = sample_patients(scorer, patients, settings)
    fitted = {}
    for method in methods:
        row = METHODS[method]
        used = sample if row.is_costly else (scorer, patients, settings)
        combiner = (row.fit_findings or row.fit_classes)(*used)
        if row.correct_findings is not None and used[0] is not scorer:
            combiner = row.correct_findings(combiner, used[0].labels, scorer.labels)
        fitted[method] = combiner
    return fitted


def fit_methods(
    methods: Sequence[str], scorer: BaseWeightScorer, patients: Sequence[str], settings: GeneticSettings
) -> dict[str, FittedEnsemble]:
    """Fit combiners as ``fit_combiners``, and score them on the images of the scorer."""
    return {
        method: FittedEnsemble(method, combiner, scorer.objective.score(scorer.labels, combiner.combine(scorer.probabilities)))
        for method, combiner in fit_combiners(methods, scorer, patients, settings).items()
    }
