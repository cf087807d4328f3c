"""A storage for one driver: it caches the driver's own trials and reads only trials that other processes may have changed.

Optuna's own cache reads every unfinished trial again at each query, including those that only this process writes to. With 500
trials running at once, each epoch of each trial would read 500 rows and their attributes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, groupby
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl_cxr.optuna_private import trial_id_of, with_trial_id
from automl_cxr.storage.journal import JournalFileStorage
from automl_cxr.storage.retrying_storage import RetryingStorage

_DRIVER = "driver"  # user attribute of a trial: the name of the driver that runs it
_UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
_FIRST_PROVISIONAL_ID = 2**62  # of trials that are created in a block; no backend assigns such ids
_BULK_READ_COST = 8  # a bulk read of n unfinished trials costs about as much as n / 8 single reads

# The order in which the writes of one trial are applied. A driver may be killed between any two of them.
_USER_ATTR, _SYSTEM_ATTR, _PARAM, _INTERMEDIATE_VALUE, _STATE = range(5)


@dataclass(frozen=True)
class _Write:
    """A write to a trial.

    Attributes:
        number: Number of the trial.
        kind: Its kind, which determines the order.
        name: Name of the attribute, parameter or step; a later write of the same kind and name replaces an earlier one.
        apply: Writes to the backend, given the backend's id of the trial.
    """

    number: int
    kind: int
    name: Any
    apply: Callable[[int], Any]


class CachedDriverStorage(RetryingStorage):
    """A cache of the trials of one study, with deferred writes.

    A trial that this driver creates or writes to is its own until the trial ends: no other process writes to it, because the
    driver has a heartbeat. Finished trials never change. The cache is therefore exact, and the cost of a query depends on what
    other processes have changed since the last one, not on the size of the study. ``signed_trials`` detects the trials that
    another driver has taken over because this driver was suspended for too long. Writes to a trial that another process has
    finished are discarded.

    Only public methods of ``BaseStorage`` are called.

    Args:
        backend: The storage. Pass a database storage without Optuna's own cache; see ``uncached_storage``.
        study_id: The study that the driver works on. Other studies are read from the backend.
        patience: Seconds to wait for a backend that does not respond.
        on_away: Called with the reason when the backend does not respond.
    """

    def __init__(self, backend: BaseStorage, study_id: int, *, patience: float, on_away: Callable[[str], None]) -> None:
        super().__init__(backend, patience=patience, on_away=on_away)
        self._study_id = study_id
        self._trials: list[FrozenTrial] = []  # by number
        self._numbers: dict[int, int] = {}  # by id: the backend's, and the provisional ones of this driver
        self._backend_ids: dict[int, int] = {}  # by number; those of trials that are not stored yet are missing
        self._provisional_ids = count(_FIRST_PROVISIONAL_ID)
        self._in_state: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        self._own: set[int] = set()  # numbers of unfinished trials that no other process writes to
        self._others: set[int] = set()  # numbers of unfinished trials that other processes may write to
        self._deferred: list[_Write] = []  # to own trials
        self._is_deferring = False
        self._is_current = False  # whether the changes of others were read since deferring began

    # ------------------------------------------------------------------------------------------------------------ reading

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if study_id != self._study_id:
            return super().get_all_trials(study_id, deepcopy, states)
        if not (self._is_deferring and self._is_current):
            self._update()
        if states is None:
            trials = list(self._trials)
        else:
            numbers = sorted(set().union(*(self._in_state[state] for state in TrialState if state in states)))
            trials = [self._trials[number] for number in numbers]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        number = self._numbers.get(trial_id)
        if number is None:
            return super().get_trial(trial_id)
        if number in self._others:
            return super().get_trial(self._backend_ids[number])
        return self._trials[number]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        if study_id == self._study_id and trial_number < len(self._trials):
            return trial_id_of(self._trials[trial_number])
        return super().get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def signed_trials(self, trial_ids: Collection[int], driver: str) -> set[int]:
        """Return the trials that are RUNNING with a driver's name (user attribute ``driver``), read from the backend.

        If an own trial is no longer RUNNING with this name, another driver has taken it over, and it stops being an own trial.
        """
        self._write_deferred()
        numbers = {trial_id: self._numbers[trial_id] for trial_id in trial_ids if trial_id in self._numbers}
        confirmed = self._call_backend(lambda: self._read_signed(set(numbers.values()), driver))
        for number in self._own.intersection(numbers.values()) - confirmed:
            stored = super().get_trial(self._backend_ids[number])
            if not self._is_cached(stored):
                self._release(stored)
        return {trial_id for trial_id, number in numbers.items() if number in confirmed}

    def _read_signed(self, numbers: Collection[int], driver: str) -> set[int]:
        """Read which trials are RUNNING with a driver's name.

        The state of a single own trial is not read: another driver writes its name to a trial before it finishes the trial.
        """
        if len(numbers) == 1 and self._own.issuperset(numbers):
            return {n for n in numbers if self._backend.get_trial_user_attrs(self._backend_ids[n]).get(_DRIVER) == driver}
        return {trial.number for trial in self._read_trials(numbers) if _is_run_by(trial, driver)}

    def _read_trials(self, numbers: Collection[int]) -> list[FrozenTrial]:
        """Read some trials from the backend, in one query if they are a large part of the unfinished ones."""
        unfinished: dict[int, FrozenTrial] = {}
        if len(numbers) > 1 and _BULK_READ_COST * len(numbers) >= len(self._own) + len(self._others):
            trials = self._backend.get_all_trials(self._study_id, deepcopy=False, states=_UNFINISHED)
            unfinished = {trial.number: trial for trial in trials}
        return [unfinished.get(number) or self._backend.get_trial(self._backend_ids[number]) for number in numbers]

    def _update(self) -> None:
        """Read what other processes have changed."""
        for trial in self._call_backend(self._read_changes):
            if trial.number not in self._own:
                self._cache(trial)
        self._is_current = True

    def _read_changes(self) -> list[FrozenTrial]:
        """Read the trials that are new, and the unfinished ones that other processes may write to."""
        if not self._trials:
            return self._backend.get_all_trials(self._study_id, deepcopy=False)
        return [*self._read_trials(self._others), *map(self._backend.get_trial, self._new_trial_ids())]

    def _new_trial_ids(self) -> list[int]:
        """Read the ids of the trials that follow the cached ones, up to the first number that the backend does not have."""
        trial_ids: list[int] = []
        with contextlib.suppress(KeyError):
            while True:
                number = len(self._trials) + len(trial_ids)
                trial_ids.append(self._backend.get_trial_id_from_study_id_trial_number(self._study_id, number))
        return trial_ids

    def _cache(self, trial: FrozenTrial, *, is_stored: bool = True) -> None:
        """Put a trial into the cache: its state in the backend, or the state after the deferred writes."""
        number, trial_id = trial.number, trial_id_of(trial)
        if number == len(self._trials):
            self._trials.append(trial)
        else:
            self._in_state[self._trials[number].state].discard(number)
            self._trials[number] = trial
        self._numbers[trial_id] = number
        if is_stored:
            self._backend_ids.setdefault(number, trial_id)
        self._in_state[trial.state].add(number)
        if trial.state.is_finished():
            self._own.discard(number)
            self._others.discard(number)
        elif number not in self._own:
            self._others.add(number)

    def _release(self, stored: FrozenTrial) -> None:
        self._own.discard(stored.number)
        self._cache(stored)

    def _is_cached(self, stored: FrozenTrial) -> bool:
        """Return whether the cache has the same contents of a trial as the backend."""
        cached = self._trials[stored.number]
        parts = ("state", "values", "params", "user_attrs", "system_attrs", "intermediate_values")
        return all(getattr(stored, part) == getattr(cached, part) for part in parts)

    # ------------------------------------------------------------------------------------------------------------ writing

    @contextlib.contextmanager
    def batch_writes(self) -> Iterator[None]:
        """Defer the writes to own trials until the end of the block, or until ``signed_trials`` reads trials again.

        A RUNNING trial that is created in the block is stored at its end, with all its contents, in one transaction. It gets
        the next free number, so the caller must hold a lock that keeps other processes from creating trials. If another
        process nevertheless creates a trial of this number, this driver does not own it, and the contents of its own trial
        are stored as a RUNNING trial without a driver, which any search may resume.

        Writes to trials that are stored already are applied as follows. A journal file appends all of them at once: after a
        crash, the file contains all of them or none. Other storages have no public call for this. They apply the writes one
        by one: trial by trial and, for each trial, first its attributes, then parameters, then intermediate values, its state
        last. A driver that is killed between two writes thus leaves a RUNNING trial, which the next search resumes. The
        decision to stop a trial is an attribute, so it is stored before the intermediate value that it is based on.

        Changes of other processes are read once within the block, so that all its decisions are based on the same state of the
        study.
        """
        was_deferring, self._is_deferring = self._is_deferring, True
        self._is_current = self._is_current and was_deferring
        try:
            yield
        finally:
            self._is_deferring = was_deferring
            if not was_deferring:
                self._write_deferred()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if study_id != self._study_id:
            return super().create_new_trial(study_id, template_trial)
        is_own = template_trial is None or template_trial.state is TrialState.RUNNING
        if not (self._is_deferring and is_own):
            self._write_deferred()  # trials get their numbers in the order of their creation
            trial_id = super().create_new_trial(study_id, template_trial)
            self._update()
            number = self._numbers[trial_id]
        else:
            if not self._is_current:
                self._update()
            trial_id, number = next(self._provisional_ids), len(self._trials)
            trial = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.copy(template_trial)
            self._cache(with_trial_id(trial, number, trial_id), is_stored=False)
        if is_own:
            self._others.discard(number)
            self._own.add(number)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._modifiable_trial(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        trial.params = {**trial.params, param_name: value}
        trial.distributions = {**trial.distributions, param_name: distribution}
        write = super().set_trial_param
        apply = lambda stored_id: write(stored_id, param_name, param_value_internal, distribution)  # noqa: E731
        self._write(trial, _Write(trial.number, _PARAM, param_name, apply))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        write = super().set_trial_state_values
        if state is TrialState.RUNNING:  # other processes may start the same WAITING trial
            is_started = write(self._stored_id(trial_id), state, values)
            if is_started:
                self._modifiable_trial(trial_id)
            return is_started
        trial = self._modifiable_trial(trial_id)
        if values is not None:
            trial.values = list(values)
        trial.state, trial.datetime_complete = state, datetime.now()
        self._write(trial, _Write(trial.number, _STATE, None, lambda stored_id: write(stored_id, state, values)))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._modifiable_trial(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
        write = super().set_trial_intermediate_value
        apply = lambda stored_id: write(stored_id, step, intermediate_value)  # noqa: E731
        self._write(trial, _Write(trial.number, _INTERMEDIATE_VALUE, step, apply))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._modifiable_trial(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}
        write = super().set_trial_user_attr
        self._write(trial, _Write(trial.number, _USER_ATTR, key, lambda stored_id: write(stored_id, key, value)))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._modifiable_trial(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}
        write = super().set_trial_system_attr
        self._write(trial, _Write(trial.number, _SYSTEM_ATTR, key, lambda stored_id: write(stored_id, key, value)))

    def _stored_id(self, trial_id: int) -> int:
        """Return the backend's id of a trial."""
        return self._backend_ids[self._numbers[trial_id]] if trial_id in self._numbers else trial_id

    def _modifiable_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial to modify, read again if it was not an own trial so far."""
        if trial_id not in self._numbers:
            self._update()
        number = self._numbers[trial_id]
        if number in self._others:
            trial = super().get_trial(self._backend_ids[number])
            if not trial.state.is_finished():
                self._others.discard(number)
                self._own.add(number)
            self._cache(trial)
        return copy.copy(self._trials[number])

    def _write(self, trial: FrozenTrial, write: _Write) -> None:
        if self._trials[trial.number].state.is_finished():
            self._write_deferred()  # the end of the trial may be among them
            write.apply(self._backend_ids[trial.number])  # raises UpdateFinishedTrialError
            return
        self._deferred.append(write)
        self._cache(trial, is_stored=False)
        if not self._is_deferring:
            self._write_deferred()

    def _write_deferred(self) -> None:
        created = range(len(self._backend_ids), len(self._trials))
        for number in created:
            self._store_new(number)
        latest = {(write.number, write.kind, write.name): write for write in self._deferred}
        self._deferred = []
        writes = [write for write in latest.values() if write.number not in created]
        writes.sort(key=lambda write: (write.number, write.kind))
        if isinstance(self._backend, JournalFileStorage) and len(writes) > 1:
            self._append(self._backend, writes)
            return
        for number, group in groupby(writes, key=lambda write: write.number):
            stored_id = self._backend_ids[number]
            try:
                for write in group:
                    write.apply(stored_id)
            except UpdateFinishedTrialError:
                self._release(super().get_trial(stored_id))

    def _store_new(self, number: int) -> None:
        """Store a trial that was created in a block."""
        trial = self._trials[number]
        stored_id = super().create_new_trial(self._study_id, trial)
        id_of_number = super().get_trial_id_from_study_id_trial_number(self._study_id, number)
        if id_of_number == stored_id:
            self._backend_ids[number] = stored_id
            self._numbers[stored_id] = number
            return
        if trial.state is TrialState.RUNNING:  # another process took the number; any search may resume this trial
            super().set_trial_user_attr(stored_id, _DRIVER, "")
        self._release(super().get_trial(id_of_number))

    def _append(self, journal: JournalFileStorage, writes: Sequence[_Write]) -> None:
        """Append writes to a journal file, all at once."""
        stored_ids = {write.number: self._backend_ids[write.number] for write in writes}

        def append() -> None:
            with journal.transaction():
                for write in writes:
                    write.apply(stored_ids[write.number])

        def append_unless_stored() -> None:
            if not all(self._is_cached(self._backend.get_trial(stored_id)) for stored_id in stored_ids.values()):
                append()

        try:
            self._call_backend(append, again=append_unless_stored)
        except UpdateFinishedTrialError:  # another process took over one of the trials and finished it
            if len(stored_ids) == 1:
                self._release(super().get_trial(*stored_ids.values()))
                return
            for number in stored_ids:
                self._append(journal, [write for write in writes if write.number == number])


def _is_run_by(trial: FrozenTrial, driver: str) -> bool:
    return trial.state is TrialState.RUNNING and trial.user_attrs.get(_DRIVER) == driver
