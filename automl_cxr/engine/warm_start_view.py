"""A view of a study that adds the trials of an earlier study, for samplers only.

A sampler reads the trials of its study. It gets a view whose storage returns the earlier trials first. All other readers
(leaderboard, pruner, dashboard, budgets) use the real storage, which does not contain them.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.engine.base_proposer import to_optuna
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.space import Space
from automl_cxr.optuna_private import storage_of, with_trial_id


@dataclass(frozen=True)
class WarmStartPoint:
    """A point of the space and its scores in an earlier study, one for each objective."""

    values: Mapping[str, Value]
    scores: tuple[float, ...]


def add_priors_to_study(study: optuna.Study, space: Space, priors: Sequence[WarmStartPoint]) -> optuna.Study:
    """Return a view of the study with the priors as COMPLETE trials; the study itself if there are none."""
    if not priors:
        return study
    storage: Any = _WarmStartStorage(storage_of(study), _to_frozen_trials(space, priors))
    return optuna.Study(study.study_name, storage, sampler=study.sampler, pruner=study.pruner)


def _to_frozen_trials(space: Space, priors: Sequence[WarmStartPoint]) -> list[FrozenTrial]:
    """Convert priors to COMPLETE trials. Their numbers are negative, to be distinct from those of stored trials."""
    distributions = {parameter.name: to_optuna(parameter) for parameter in space.parameters}
    trials = []
    for number, prior in enumerate(priors, start=-len(priors)):
        trial = optuna.trial.create_trial(
            values=list(prior.scores),
            params=dict(prior.values),
            distributions={name: distributions[name] for name in prior.values},
        )
        trials.append(with_trial_id(trial, number, number))
    return trials


class _WarmStartStorage:
    """A storage that returns some trials before its own, and forwards everything else."""

    def __init__(self, storage: optuna.storages.BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        self._storage = storage
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        earlier = [trial for trial in self._trials if states is None or trial.state in states]
        own = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [*(copy.deepcopy(earlier) if deepcopy else earlier), *own]
