"""A storage that may be away for a moment: locked, restarted, full. Who asks it waits, instead of ending the search."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from automl_cxr.optuna_private import trial_id_of
from automl_cxr.storage.storage_proxy import StorageProxy
from automl_cxr.storage.urls import failed_storage, reason_of

PATIENCE_SECONDS = 300.0
"""How long a search waits for a storage that does not answer before it ends, resumable."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds
# What a proxy answers where asking again cannot help; everything else it says when its database or itself is away.
_FINAL_CODES = frozenset(
    {"NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNIMPLEMENTED", "PERMISSION_DENIED"}
)

_Answer = TypeVar("_Answer")


class RetryingStorage(StorageProxy):
    """Asks its backend again, with growing pauses, while that is away.

    A question that failed may have been answered all the same: the answer was lost. To set a parameter, an attribute or a
    score again changes nothing. Two questions are not like that. A trial that was told its end cannot be told again: if the
    record says what was to be told, it is done. A trial that was begun would be begun twice: one that stands in the record
    as it was to be begun, and that nobody has signed, is taken instead. That it cannot be another driver's is the callers'
    business: they begin and sign trials under a lock of the study (``CommitLock``).

    Args:
        backend: The storage.
        patience: Seconds to wait in all before ``StudyError``.
        on_away: Told once, each time that the storage is found away, why.

    Raises:
        StudyError: By any of its methods, when the backend stays away.
    """

    def __init__(self, backend: BaseStorage, *, patience: float, on_away: Callable[[str], None]) -> None:
        super().__init__(backend)
        self._patience = patience
        self._on_away = on_away
        self._begun: set[int] = set()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        def begin() -> int:
            return self._backend.create_new_trial(study_id, template_trial)

        def begin_once() -> int:
            trials = self._backend.get_all_trials(study_id, deepcopy=False)
            created = (trial_id_of(trial) for trial in reversed(trials) if _is_created_from(template_trial, trial))
            trial_id = next((trial_id for trial_id in created if trial_id not in self._begun), None)
            return begin() if trial_id is None else trial_id

        trial_id = self._ask(begin, again=begin_once)
        self._begun.add(trial_id)
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def tell() -> bool:
            return self._backend.set_trial_state_values(trial_id, state, values)

        def tell_once() -> bool:
            try:
                return tell()
            except UpdateFinishedTrialError:
                stored = self._backend.get_trial(trial_id)
                if stored.state is not state or (values is not None and list(stored.values or ()) != list(values)):
                    raise
                return True

        return self._ask(tell, again=tell_once)

    def _ask(self, question: Callable[[], _Answer], *, again: Callable[[], _Answer] | None = None) -> _Answer:
        pause, deadline = _FIRST_PAUSE, None
        while True:
            try:
                return question()
            except Exception as error:
                if not is_away(error):
                    raise
                if deadline is None:
                    deadline = time.monotonic() + self._patience
                    if self._patience > 0:
                        self._on_away(reason_of(error))
                if time.monotonic() >= deadline:
                    raise failed_storage(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            question = again or question


def _is_created_from(template: FrozenTrial | None, trial: FrozenTrial) -> bool:
    if template is None:
        return trial.state is TrialState.RUNNING and not trial.params and not trial.user_attrs
    return (trial.state, trial.params, trial.user_attrs) == (template.state, template.params, template.user_attrs)


def is_away(error: BaseException) -> bool:
    """Tell whether a storage that raised this may answer later: locked, unreachable, full, restarted."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, (OperationalError, InterfaceError, PoolTimeoutError, OSError)):
        return True
    if isinstance(cause, DBAPIError):
        return bool(cause.connection_invalidated)
    grpc = sys.modules.get("grpc")  # whose errors nobody has who has not loaded it
    return grpc is not None and isinstance(cause, grpc.RpcError) and cause.code().name not in _FINAL_CODES
