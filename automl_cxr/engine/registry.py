"""Names of all proposers and pruners, and the functions that create and check proposers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from automl_cxr.engine import optuna_proposer
from automl_cxr.engine.base_proposer import StudyProposer
from automl_cxr.engine.fold_pruners import FOLD_PRUNERS
from automl_cxr.engine.hub_samplers import is_hub_sampler
from automl_cxr.engine.optuna_proposer import (
    LEARNING_SAMPLERS,
    PRUNERS,
    OptunaProposer,
    check_several_objectives,
    make_pruner,
)
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.protocol import Facts
from automl_cxr.engine.space import Space
from automl_cxr.engine.warm_start_view import WarmStartPoint
from automl_cxr.errors import UnknownNameError, UsageError

__all__ = [
    "FINITE_SAMPLERS",
    "FOLD_PRUNERS",
    "LEARNING_SAMPLERS",
    "PRUNERS",
    "RUNG_SAMPLERS",
    "SAMPLERS",
    "build_proposer",
    "check_proposer",
    "default_batch_trials",
]

_KERASTUNER = ("kt-hyperband", "kt-bayesian", "kt-random", "kt-grid")  # names only: their module loads Keras

SAMPLERS = (*optuna_proposer.SAMPLERS, *_KERASTUNER)
"""Names of all samplers except those of OptunaHub (``hub_samplers.py``)."""

FINITE_SAMPLERS = ("grid", "kt-grid", "kt-hyperband")
"""Samplers that propose a finite number of trials: all points of a grid, or one sweep over the brackets of Hyperband."""

_INDEPENDENT_SAMPLERS = (
    "random",
    "qmc",
    "grid",
    "kt-random",
    "kt-grid",
    "kt-hyperband",
)  # their points do not depend on scores
_MAX_BATCH_TRIALS = 16  # larger stacks of heads hardly reduce the time of a head
_MIN_BATCHES = 8  # per study, so that a sampler can learn from earlier batches

RUNG_SAMPLERS = ("kt-hyperband",)
"""Samplers that run trials in rungs. Each rung continues from the checkpoints of the rung below."""


def build_proposer(
    study: optuna.Study,
    space: Space,
    *,
    sampler: str,
    pruner: str,
    epochs: int,
    folds: int = 0,
    seed: int,
    sign: Callable[[int], Facts] = lambda _: {},
    priors: Sequence[WarmStartPoint] = (),
    fits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
    effective: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda point: point,
) -> StudyProposer:
    """Create the proposer for a sampler name.

    Args:
        study: See ``StudyProposer``.
        space: The search space.
        sampler: A name in ``SAMPLERS``, or that of a sampler of OptunaHub.
        pruner: A name in ``PRUNERS``, or in ``FOLD_PRUNERS`` if there are folds.
        epochs: Maximum number of epochs of a trial.
        folds: Number of folds; 0 for none.
        seed: See ``StudyProposer``.
        sign: See ``StudyProposer``.
        priors: Points and scores of an earlier study, for ``LEARNING_SAMPLERS``.
        fits: See ``StudyProposer``.
        effective: See ``StudyProposer``.

    Raises:
        UnknownNameError: The sampler or the pruner does not exist.
        UsageError: The sampler needs a library that is not installed, or a finite space; or the sampler or the pruner does not
            support several objectives, or folds, or trials without folds.
    """
    _check_sampler(sampler)
    _check_folds(sampler, folds)
    settings: dict[str, Any] = {
        "pruner": pruner,
        "epochs": epochs,
        "folds": folds,
        "seed": seed,
        "sign": sign,
        "fits": fits,
        "effective": effective,
    }
    if sampler not in _KERASTUNER:
        return OptunaProposer(study, space, sampler=sampler, priors=priors, **settings)
    check_several_objectives(len(study.directions), sampler=sampler, pruner=pruner)
    from automl_cxr.engine.kerastuner_proposer import ORACLES  # here: loads Keras

    return ORACLES[sampler](study, space, **settings)


def check_proposer(space: Space, *, sampler: str, pruner: str, n_objectives: int = 1, folds: int = 0) -> None:
    """Raise the errors of ``build_proposer`` before a study is created, without loading KerasTuner.

    Raises:
        UnknownNameError: The sampler or the pruner does not exist.
        UsageError: The sampler needs a library that is not installed, or a finite space; or the sampler or the pruner does not
            support several objectives, or folds, or trials without folds.
    """
    _check_sampler(sampler)
    _check_folds(sampler, folds)
    make_pruner(pruner, epochs=1, folds=folds)
    check_several_objectives(n_objectives, sampler=sampler, pruner=pruner)
    if sampler == "kt-grid":
        space.points()
    elif sampler not in _KERASTUNER:
        optuna_proposer.make_sampler(sampler, space, study_seed=0, seed=0)


def default_batch_trials(sampler: str, *, n_trials: int | None) -> int:
    """Return the default maximum number of trials in a batch: 16, or an eighth of the study's trials if the sampler learns.

    The trials of a batch are proposed before any of them has a score, so a sampler learns from earlier batches only.

    Args:
        sampler: A name in ``SAMPLERS``, or that of a sampler of OptunaHub.
        n_trials: Planned number of trials of the study; None if it is not limited.
    """
    if n_trials is None or sampler in _INDEPENDENT_SAMPLERS:
        return _MAX_BATCH_TRIALS
    return max(1, min(_MAX_BATCH_TRIALS, n_trials // _MIN_BATCHES))


def _check_sampler(sampler: str) -> None:
    if sampler not in SAMPLERS and not is_hub_sampler(sampler):
        raise UnknownNameError("sampler", sampler, SAMPLERS)


def _check_folds(sampler: str, folds: int) -> None:
    if folds and sampler == "kt-hyperband":
        raise UsageError(
            f"Sampler kt-hyperband needs trials that report epochs, not folds; received --folds {folds}. "
            "Use another sampler, such as tpe, or omit --folds."
        )
