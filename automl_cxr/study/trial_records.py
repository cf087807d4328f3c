"""The trials of a study in its Optuna storage: records, ranking, counts and drivers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from automl_cxr.engine.intermediate_values import read_scores
from automl_cxr.engine.pareto import is_on_front
from automl_cxr.errors import StudyError
from automl_cxr.optuna_private import storage_of, study_id_of
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.storage.cached_storage import CachedDriverStorage
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.provenance import SearchEntry

_STATES = {
    optuna.trial.TrialState.WAITING: TrialState.WAITING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}
_SEARCH = "search "  # prefix; each search has a separate attribute, so that simultaneous searches overwrite nothing


class TrialRecordsMixin:
    """The methods of a study that read its trials and searches from the Optuna storage.

    Attributes:
        name: Name of the study.
        study: The Optuna study.
    """

    name: str
    study: optuna.Study

    def records(self, *states: TrialState) -> list[TrialRecord]:
        """Return the trials in the given states (in any state by default), by number."""
        selected = _to_optuna(states) if states else None
        return [_to_record(trial) for trial in self.study.get_trials(deepcopy=False, states=selected)]

    def elapsed_seconds(self, *states: TrialState) -> dict[int, float]:
        """Return the seconds between start and end of the finished trials in the given states, by number."""
        trials = self.study.get_trials(deepcopy=False, states=_to_optuna(states))
        return {trial.number: trial.duration.total_seconds() for trial in trials if trial.duration is not None}

    def has_any(self, *states: TrialState) -> bool:
        """Return whether the study has a trial in one of the states."""
        return bool(self.study.get_trials(deepcopy=False, states=_to_optuna(states)))

    def record(self, number: int) -> TrialRecord:
        """Return one trial.

        Raises:
            StudyError: The trial does not exist.
        """
        return _to_record(self._trial(number))

    def facts(self, number: int) -> dict[str, Any]:
        """Return the user attributes of a trial, such as its ``driver``, ``worker``, ``rung`` and the ``sha256`` of its files.

        Raises:
            StudyError: The trial does not exist.
        """
        return dict(self._trial(number).user_attrs)

    def _trial(self, number: int) -> optuna.trial.FrozenTrial:
        storage, study_id = storage_of(self.study), study_id_of(self.study)
        with contextlib.suppress(KeyError):
            if number >= 0:  # some storages count negative numbers from the end
                return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))
        last = len(self.study.get_trials(deepcopy=False)) - 1
        raise StudyError(f"Study '{self.name}' has trials 0 to {last}; received {number}.")

    def lineage(self, number: int) -> list[TrialRecord]:
        """Return a trial and all trials that it continues, the earliest first."""
        records = [self.record(number)]
        while records[0].parent is not None:
            records.insert(0, self.record(records[0].parent))
        return records

    # ---------------------------------------------------------------------------------------------------- ranking

    def ranked(self) -> list[TrialRecord]:
        """Return the COMPLETE trials, best first by the first objective; equal scores are sorted by trial number.

        Trials that violate a constraint rank below all others, by increasing violation (Deb 2000).
        """
        return sorted(self.records(TrialState.COMPLETE), key=self._rank_key)

    def eligible(self) -> list[TrialRecord]:
        """Return the COMPLETE trials that violate no constraint, best first. Only these can be selected."""
        return [record for record in self.ranked() if record.is_feasible]

    def pareto_front(self) -> list[TrialRecord]:
        """Return the eligible trials that no other trial dominates, best first by the first objective."""
        return self._undominated(self.eligible())

    def rank_for_retention(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Sort COMPLETE trials by priority for keeping their models.

        The Pareto front is first, then the best trial of each network family, which is a candidate for an ensemble, then the
        others by the first objective.
        """
        feasible = [record for record in records if record.is_feasible]
        front = {record.number for record in self._undominated(feasible)}
        worst_first = sorted(feasible, key=self._rank_key, reverse=True)
        best_of_families = set({record.params.get("family"): record.number for record in worst_first}.values())

        def priority(record: TrialRecord) -> tuple[bool, bool, float, float, int]:
            return record.number not in front, record.number not in best_of_families, *self._rank_key(record)

        return sorted(records, key=priority)

    def is_better(self, score: float, other: float) -> bool:
        """Return whether a score is better than another in the direction of the study's first objective."""
        return score > other if self._is_maximized else score < other

    def _rank_key(self, record: TrialRecord) -> tuple[float, float, int]:
        sign = -1 if self._is_maximized else 1
        return record.violation, sign * record.score, record.number  # type: ignore[operator]

    def _undominated(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        signs = [-1.0 if direction == optuna.study.StudyDirection.MAXIMIZE else 1.0 for direction in self.study.directions]
        values = [record.values or (record.score,) for record in records]
        losses = np.array(values, dtype=np.float64).reshape(-1, len(signs)) * signs
        return [record for record, is_optimal in zip(records, is_on_front(losses), strict=True) if is_optimal]

    @property
    def _is_maximized(self) -> bool:
        return self.study.directions[0] == optuna.study.StudyDirection.MAXIMIZE

    # ----------------------------------------------------------------------------------------------------- counts

    def n_started(self) -> int:
        """Return the number of trials in any state except WAITING."""
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        return len(self.study.get_trials(deepcopy=False)) - len(waiting)

    def n_epochs(self) -> int:
        """Return the total number of epochs of all trials. With cross-validation, it is recorded after each fold."""
        return sum(
            trial.user_attrs["epochs"] if "folds" in trial.user_attrs else len(read_scores(trial))
            for trial in self.study.get_trials(deepcopy=False)
        )

    # ---------------------------------------------------------------------------------------------------- drivers

    def abandoned(self, monitor: DriverMonitor) -> list[TrialRecord]:
        """Return the running trials whose driver is dead."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        alive = monitor.alive()
        return [_to_record(trial) for trial in running if trial.user_attrs.get("driver") not in alive]

    def has_unverified_driver(self, monitor: DriverMonitor) -> bool:
        """Return whether the driver of a running trial may be dead: its heartbeat has not advanced since monitoring started."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        monitor.alive()
        return any(not monitor.is_verified(trial.user_attrs.get("driver", "")) for trial in running)

    def owns(self, number: int, driver: str) -> bool:
        """Return whether a driver is running a trial, according to the current state of the storage."""
        return number in self.select_owned([number], driver)

    def select_owned(self, numbers: Sequence[int], driver: str) -> set[int]:
        """Return the trials that a driver is running, according to the current state of the storage."""
        storage, study_id = storage_of(self.study), study_id_of(self.study)
        ids = [storage.get_trial_id_from_study_id_trial_number(study_id, number) for number in numbers]
        if isinstance(storage, CachedDriverStorage):
            signed = storage.signed_trials(ids, driver)
            return {number for number, trial_id in zip(numbers, ids, strict=True) if trial_id in signed}
        trials = [storage.get_trial(trial_id) for trial_id in ids]
        running = (trial for trial in trials if trial.state is optuna.trial.TrialState.RUNNING)
        return {trial.number for trial in running if trial.user_attrs.get("driver") == driver}

    def record_search(self, entry: SearchEntry) -> None:
        """Record the provenance of a search."""
        self.study.set_user_attr(_SEARCH + entry.driver, dataclasses.asdict(entry))

    def searches(self) -> list[SearchEntry]:
        """Return every search that was started on the study, in order."""
        attrs = self.study.user_attrs
        entries = [SearchEntry(**values) for name, values in attrs.items() if name.startswith(_SEARCH)]
        return sorted(entries, key=lambda entry: (entry.position, entry.when))


def state_of(trial: optuna.trial.FrozenTrial) -> TrialState:
    """Return the state of an Optuna trial as a ``TrialState``."""
    return _STATES[trial.state]


def _to_optuna(states: Sequence[TrialState]) -> tuple[optuna.trial.TrialState, ...]:
    return tuple(optuna_state for optuna_state, state in _STATES.items() if state in states)


def _to_record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    attrs, scores = trial.user_attrs, read_scores(trial)
    retries = tuple(attrs.get("retries", ()))
    has_progress = max(scores, default=0) > attrs.get("epochs_at_progress", 0)  # in the last attempt
    return TrialRecord(
        number=trial.number,
        state=state_of(trial),
        params=trial.params,
        score=_score(trial, scores),
        values=trial.values if trial.values is not None and len(trial.values) > 1 else (),
        violations=trial.constraints,
        scores=scores,
        n_parameters=attrs.get("n_parameters"),
        seconds=attrs.get("seconds"),
        error=attrs.get("error"),
        refusal=attrs.get("refusal"),
        seed=attrs.get("seed"),
        best_epoch=attrs.get("best_epoch"),
        folds=attrs.get("folds"),
        attempts=attrs.get("attempts", 1),
        starts_in_driver=0 if has_progress else attrs.get("starts_in_driver", 0),
        parent=attrs.get("parent"),
        retries=retries,
        recent_retries=() if has_progress else retries[attrs.get("retries_at_progress", 0) :],
    )


def _score(trial: optuna.trial.FrozenTrial, scores: Mapping[int, float]) -> float | None:
    """Return the first objective. For a pruned trial with several objectives, it is the score of the last epoch."""
    if trial.values is not None:
        return trial.values[0]
    return scores[max(scores)] if scores and trial.state is optuna.trial.TrialState.PRUNED else None
