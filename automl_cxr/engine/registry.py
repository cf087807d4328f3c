"""The door to all proposers: their names, and the one that a name asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna

from automl_cxr.engine import optuna_proposer
from automl_cxr.engine.base_proposer import StudyProposer
from automl_cxr.engine.fold_pruners import FOLD_PRUNERS
from automl_cxr.engine.optuna_proposer import (
    LEARNING_SAMPLERS,
    PRUNERS,
    OptunaProposer,
    check_several_objectives,
    make_pruner,
)
from automl_cxr.engine.protocol import Facts
from automl_cxr.engine.space import Space
from automl_cxr.engine.warm_start_view import WarmStartPoint
from automl_cxr.errors import UnknownNameError, UsageError

__all__ = [
    "ENDING_SAMPLERS",
    "FOLD_PRUNERS",
    "LEARNING_SAMPLERS",
    "PRUNERS",
    "RUNG_SAMPLERS",
    "SAMPLERS",
    "build_proposer",
    "check_proposer",
    "default_batch_trials",
]

_KERASTUNER = ("kt-hyperband", "kt-bayesian", "kt-random", "kt-grid")  # their module loads Keras, which names must not

SAMPLERS = (*optuna_proposer.SAMPLERS, *_KERASTUNER)
"""Names of all that may propose."""

ENDING_SAMPLERS = ("grid", "kt-grid", "kt-hyperband")
"""Those that come to an end by themselves: a grid when it is exhausted, Hyperband after a sweep over its brackets."""

_UNTAUGHT_SAMPLERS = ("random", "qmc", "grid", "kt-random", "kt-grid", "kt-hyperband")  # no score changes what they draw
_TOGETHER = 16  # heads of one population: more of them are hardly cheaper each
_ROUNDS = 8  # of learning that a study has at least

RUNG_SAMPLERS = ("kt-hyperband",)
"""Those that run trials in rungs, each from the checkpoint that the rung below left."""


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
) -> StudyProposer:
    """Make the proposer of a name.

    The arguments are those of ``StudyProposer``, and ``priors``: what ``LEARNING_SAMPLERS`` know from an earlier study.

    Raises:
        UnknownNameError: No such sampler or pruner.
        UsageError: The sampler needs a library that is not installed, or a space with an end; or sampler or pruner know one
            objective only and the study has several, or does not go with folds, or not without.
    """
    if sampler not in SAMPLERS:
        raise UnknownNameError("sampler", sampler, SAMPLERS)
    _check_folds(sampler, folds)
    settings: dict[str, Any] = {"pruner": pruner, "epochs": epochs, "folds": folds, "seed": seed, "sign": sign}
    if sampler not in _KERASTUNER:
        return OptunaProposer(study, space, sampler=sampler, priors=priors, **settings)
    check_several_objectives(len(study.directions), sampler=sampler, pruner=pruner)
    from automl_cxr.engine.kerastuner_proposer import ORACLES  # here: loads Keras

    return ORACLES[sampler](study, space, **settings)


def check_proposer(space: Space, *, sampler: str, pruner: str, n_objectives: int = 1, folds: int = 0) -> None:
    """Refuse, before a study is begun, what ``build_proposer`` would refuse for it; loads no KerasTuner.

    Raises:
        UnknownNameError: No such sampler or pruner.
        UsageError: The sampler needs a library that is not installed, or a space with an end; or sampler or pruner know one
            objective only and there are several, or does not go with folds, or not without.
    """
    if sampler not in SAMPLERS:
        raise UnknownNameError("sampler", sampler, SAMPLERS)
    _check_folds(sampler, folds)
    make_pruner(pruner, epochs=1, folds=folds)
    check_several_objectives(n_objectives, sampler=sampler, pruner=pruner)
    if sampler == "kt-grid":
        space.points()
    elif sampler in optuna_proposer.SAMPLERS:
        optuna_proposer.make_sampler(sampler, space, study_seed=0, seed=0)


def default_batch_trials(sampler: str, *, n_trials: int | None) -> int:
    """Choose how many cheap trials run together at most: 16, and for a sampler that learns an eighth of the study's trials.

    The trials of a batch are proposed before any of them has a score. Of a study that only time ends, 16 are few.

    Args:
        sampler: A name in ``SAMPLERS``.
        n_trials: Trials that the study is to have; None where that is open.
    """
    if n_trials is None or sampler in _UNTAUGHT_SAMPLERS:
        return _TOGETHER
    return max(1, min(_TOGETHER, n_trials // _ROUNDS))


def _check_folds(sampler: str, folds: int) -> None:
    if folds and sampler == "kt-hyperband":
        raise UsageError(
            f"Sampler kt-hyperband runs trials in rungs of epochs, and trials report folds here; received --folds {folds}. "
            "Take another sampler, such as tpe, or leave --folds out."
        )
