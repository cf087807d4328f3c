"""What a sampler may know from an earlier study: scores that teach it and stand in no result.

A sampler asks its study for the trials so far. Here it is given a view of the study whose storage names the earlier trials
first; whoever else reads the study (leaderboard, pruner, dashboard, budgets) reads the storage itself, where they are not.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.engine.base_proposer import to_optuna
from automl_cxr.engine.space import Space, Value
from automl_cxr.optuna_private import storage_of, with_trial_id


@dataclass(frozen=True)
class WarmStartPoint:
    """A point of the space and the scores that it had in an earlier study, one for each objective."""

    values: Mapping[str, Value]
    scores: Sequence[float]


def add_priors_to_study(study: optuna.Study, space: Space, priors: Sequence[WarmStartPoint]) -> optuna.Study:
    """Give the study as a sampler is to see it; the study itself where there are no priors."""
    if not priors:
        return study
    storage: Any = _WarmStartStorage(storage_of(study), _freeze(space, priors))
    return optuna.Study(study.study_name, storage, sampler=study.sampler, pruner=study.pruner)


def _freeze(space: Space, priors: Sequence[WarmStartPoint]) -> list[FrozenTrial]:
    """Make COMPLETE trials of priors, with numbers below 0, which no trial of a storage has."""
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
    """A storage that names some trials before its own, and is the storage in everything else."""

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
