"""A storage as one driver sees it: its own running trials stay in memory, only what others may have changed is read again.

Optuna's own cache reads every running trial again at every question, whoever runs it. With 500 running at once that is
500 rows and their attributes for each epoch of each trial, and the driver does nothing else.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.storage.database_piece import (
    EndWrite,
    ParamWrite,
    StepWrite,
    SystemAttrWrite,
    UserAttrWrite,
    Write,
    has_later_trials,
    signed_trials,
    write_piece,
)
from automl_cxr.storage.journal import JournalFile
from automl_cxr.storage.retrying_storage import RetryingStorage

_SIGNATURE = "driver"  # attribute of a trial: the name of the driver that runs it


class CachedDriverStorage(RetryingStorage):
    """Remembers the trials of one study, and writes what belongs together in one piece.

    A trial that this driver begins, or writes to, is its own until it ends: no other may write to it, since the driver holds
    a lease. A finished trial never changes. So the memory is exact, and a question costs what others have changed since the
    last, not what the study holds. A driver that was silent for so long that another has taken its trials over learns it by
    ``signed_trials``; what it writes to a trial that the other has ended is dropped.

    Args:
        backend: The storage.
        study_id: The study that the driver works on; other studies are read from the backend.
        patience: Seconds to wait for a backend that is away.
        on_away: Told why the storage is waited for.
    """

    def __init__(self, backend: BaseStorage, study_id: int, *, patience: float, on_away: Callable[[str], None]) -> None:
        super().__init__(backend, patience=patience, on_away=on_away)
        self._study_id = study_id
        self._trials: list[FrozenTrial] = []  # by number
        self._numbers: dict[int, int] = {}  # by trial id
        self._in_state: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        self._own: set[int] = set()  # ids of unfinished trials that nobody else writes to
        self._others: set[int] = set()  # ids of unfinished trials that others may write to
        self._held: list[Write] = []  # to own trials
        self._is_held = False
        self._has_looked = False  # for changes of others, since it was held

    # ------------------------------------------------------------------------------------------------------------ reading

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if study_id != self._study_id:
            return super().get_all_trials(study_id, deepcopy, states)
        if not (self._is_held and self._has_looked):
            self._catch_up()
        if states is None:
            trials = list(self._trials)
        else:
            numbers = sorted(set().union(*(self._in_state[state] for state in TrialState if state in states)))
            trials = [self._trials[number] for number in numbers]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id in self._numbers and trial_id not in self._others:
            return self._trials[self._numbers[trial_id]]
        return super().get_trial(trial_id)

    def signed_trials(self, trial_ids: Collection[int], driver: str) -> set[int]:
        """Tell which of some trials are RUNNING in the name of a driver (their attribute ``driver``), as the backend has it.

        Own ones that are not any more are given up: another has taken them over, who took this driver for dead.
        """
        self._write_held()
        if not isinstance(self._backend, _CachedStorage):
            return {trial._trial_id for trial in self._read_anew(trial_ids) if _is_signed(trial, driver)}
        database = self._backend._backend
        signed = self._ask(lambda: signed_trials(database, trial_ids, _SIGNATURE, driver))
        self._read_anew(set(trial_ids) - signed)
        return signed

    def _read_anew(self, trial_ids: Collection[int]) -> list[FrozenTrial]:
        trials = self._ask(lambda: self._read_stored(trial_ids)) if trial_ids else []
        for stored in trials:
            if stored._trial_id in self._own and not self._is_known(stored):
                self._give_up(stored)
        return trials

    def _read_stored(self, trial_ids: Collection[int]) -> list[FrozenTrial]:
        if len(trial_ids) == 1 or not isinstance(self._backend, _CachedStorage):
            return [self._backend.get_trial(trial_id) for trial_id in trial_ids]
        database: RDBStorage = self._backend._backend
        wanted = set(trial_ids)
        trials = database._get_trials(self._study_id, None, wanted, max(wanted))
        return [trial for trial in trials if trial._trial_id in wanted]

    def _give_up(self, stored: FrozenTrial) -> None:
        self._own.discard(stored._trial_id)
        self._remember(stored)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        if study_id == self._study_id and trial_number < len(self._trials):
            return self._trials[trial_number]._trial_id
        return super().get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def _catch_up(self) -> None:
        for trial in self._ask(self._read_changes):
            if trial._trial_id not in self._own:
                self._remember(trial)
        self._has_looked = True

    def _read_changes(self) -> list[FrozenTrial]:
        """Read the trials that are new, and those of others that had not ended."""
        last_id = self._trials[-1]._trial_id if self._trials else -1
        if isinstance(self._backend, _CachedStorage):
            database: RDBStorage = self._backend._backend
            if not (self._others or has_later_trials(database, self._study_id, last_id)):
                return []
            return database._get_trials(self._study_id, None, self._others, last_id)
        if self._others or not self._trials:
            trials = self._backend.get_all_trials(self._study_id, deepcopy=False)
            return [trial for trial in trials if trial._trial_id > last_id or trial._trial_id in self._others]
        new: list[FrozenTrial] = []
        while True:
            try:
                number = len(self._trials) + len(new)
                trial_id = self._backend.get_trial_id_from_study_id_trial_number(self._study_id, number)
            except KeyError:
                return new
            new.append(self._backend.get_trial(trial_id))

    def _remember(self, trial: FrozenTrial) -> None:
        if trial.number == len(self._trials):
            self._trials.append(trial)
            self._numbers[trial._trial_id] = trial.number
        else:
            self._in_state[self._trials[trial.number].state].discard(trial.number)
            self._trials[trial.number] = trial
        self._in_state[trial.state].add(trial.number)
        if trial.state.is_finished():
            self._own.discard(trial._trial_id)
            self._others.discard(trial._trial_id)
        elif trial._trial_id not in self._own:
            self._others.add(trial._trial_id)

    # ------------------------------------------------------------------------------------------------------------ writing

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        if study_id == self._study_id:
            self._meet(trial_id)
            if template_trial is None or template_trial.state is TrialState.RUNNING:
                self._others.discard(trial_id)
                self._own.add(trial_id)
        return trial_id

    def _meet(self, trial_id: int) -> None:
        """Learn of a trial that was just begun, without asking for it where Optuna has kept what it wrote."""
        if isinstance(self._backend, _CachedStorage):
            _, number = self._backend._trial_id_to_study_id_and_number.get(trial_id, (None, None))
            if number == len(self._trials):
                self._remember(self._backend._studies[self._study_id].trials[number])
                return
        self._catch_up()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Hold back what is written to own trials, and write it in one piece at the end, or when a trial is read anew.

        Others' trials are looked at once meanwhile: what is decided in one piece is decided from one state of the record.
        """
        was_held, self._is_held = self._is_held, True
        self._has_looked = self._has_looked and was_held
        try:
            yield
        finally:
            self._is_held = was_held
            if not was_held:
                self._write_held()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._own_trial(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        trial.params = {**trial.params, param_name: value}
        trial.distributions = {**trial.distributions, param_name: distribution}
        self._write(trial, ParamWrite(trial_id, param_name, param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state is TrialState.RUNNING:  # others want to begin this trial too
            has_begun = super().set_trial_state_values(trial_id, state, values)
            if has_begun:
                self._own_trial(trial_id)
            return has_begun
        trial = self._own_trial(trial_id)
        if values is not None:
            trial.values = list(values)
        trial.state, trial.datetime_complete = state, datetime.now()
        self._write(trial, EndWrite(trial_id, state, None if values is None else tuple(values), trial.datetime_complete))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._own_trial(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
        self._write(trial, StepWrite(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._own_trial(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}
        self._write(trial, UserAttrWrite(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._own_trial(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}
        self._write(trial, SystemAttrWrite(trial_id, key, value))

    def _write(self, trial: FrozenTrial, write: Write) -> None:
        if self._trials[trial.number].state.is_finished():
            self._ask(lambda: write.apply(self._backend))  # which the backend refuses
            return
        self._held.append(write)
        self._remember(trial)
        if not self._is_held:
            self._write_held()

    def _write_held(self) -> None:
        held, self._held = self._held, []
        if held:
            self._write_piece(held)

    def _write_piece(self, held: Sequence[Write]) -> None:
        trial_ids = {write.trial_id for write in held}
        left = list(held)

        def write() -> None:
            if isinstance(self._backend, _CachedStorage):
                write_piece(self._backend, self._study_id, held)
            elif isinstance(self._backend, JournalStorage) and isinstance(self._backend._backend, JournalFile):
                _append_piece(self._backend, self._backend._backend, held)
            else:  # one by one; a proxy knows no transactions
                while left:
                    left[0].apply(self._backend)
                    del left[0]

        def write_unless_written() -> None:
            if not all(self._stands(trial_id) for trial_id in trial_ids):
                write()

        try:
            self._ask(write, again=write_unless_written)
        except UpdateFinishedTrialError:  # another took a trial over and ended it; what it wrote stands
            if len(trial_ids) == 1:
                self._give_up(super().get_trial(*trial_ids))
                return
            for trial_id in sorted(trial_ids):
                self._write_piece([write for write in held if write.trial_id == trial_id])

    def _stands(self, trial_id: int) -> bool:
        """Tell whether the backend knows all that is remembered of an own trial."""
        return self._is_known(self._backend.get_trial(trial_id))

    def _is_known(self, stored: FrozenTrial) -> bool:
        known = self._trials[stored.number]
        parts = ("state", "values", "params", "user_attrs", "system_attrs", "intermediate_values")
        return all(getattr(stored, part) == getattr(known, part) for part in parts)

    def _own_trial(self, trial_id: int) -> FrozenTrial:
        """Give a copy of a trial to change, read anew if it was not this driver's so far."""
        if trial_id not in self._own:
            trial = super().get_trial(trial_id)
            if trial.state.is_finished():
                return copy.copy(trial)  # to write to it is for the backend to refuse
            self._catch_up()
            if isinstance(self._backend, _CachedStorage):  # which writes parameters only of trials that it has listed
                self._backend.get_study_name_from_id(self._study_id)
                self._backend._add_trials_to_cache(self._study_id, [trial])
            self._others.discard(trial_id)
            self._own.add(trial_id)
            self._remember(trial)
        return copy.copy(self._trials[self._numbers[trial_id]])


def _append_piece(storage: JournalStorage, file: JournalFile, held: Sequence[Write]) -> None:
    """Write by one append to a journal."""
    with file.together():
        for write in held:
            write.apply(storage)
    storage.get_all_studies()  # which applies what was appended, and raises here what Optuna refuses of it


def _is_signed(trial: FrozenTrial, driver: str) -> bool:
    return trial.state is TrialState.RUNNING and trial.user_attrs.get(_SIGNATURE) == driver
