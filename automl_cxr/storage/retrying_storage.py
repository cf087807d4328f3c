"""A storage that repeats calls while its backend is temporarily unavailable: locked, restarted or full."""

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
from automl_cxr.storage.urls import failed_storage, is_read_only, reason_of

PATIENCE_SECONDS = 300.0
"""Seconds that a search waits for an unavailable storage. The search then ends and can be resumed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds
# gRPC status codes for which a repeated call cannot succeed. A proxy sends the others when it or its database is unavailable.
_FINAL_CODES = frozenset(
    {"NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNIMPLEMENTED", "PERMISSION_DENIED"}
)

_Result = TypeVar("_Result")


class RetryingStorage(StorageProxy):
    """A storage that repeats failed calls, with growing pauses, while its backend is unavailable.

    A failed call may have been executed, with only its reply lost. Setting a parameter, an attribute or an intermediate value
    again changes nothing. Two calls are exceptions. A finished trial rejects a second end: if the stored state and values are
    those of the call, the call was executed. A repeated creation would create a second trial: if there is a stored trial with
    the contents of the call that this storage has not created before, this trial is returned instead. It cannot be a trial of
    another driver, because drivers create and sign trials under a lock of the study (``CommitLock``).

    Args:
        backend: The storage.
        patience: Seconds to wait in total before ``StudyError`` is raised.
        on_away: Called with the reason, once each time that the backend becomes unavailable.

    Raises:
        StudyError: From any method, if the backend remains unavailable, or is read-only.
    """

    def __init__(self, backend: BaseStorage, *, patience: float, on_away: Callable[[str], None]) -> None:
        super().__init__(backend)
        self._patience = patience
        self._on_away = on_away
        self._created: set[int] = set()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        def create() -> int:
            return self._backend.create_new_trial(study_id, template_trial)

        def create_once() -> int:
            trials = self._backend.get_all_trials(study_id, deepcopy=False)
            created = (trial_id_of(trial) for trial in reversed(trials) if _is_created_from(template_trial, trial))
            trial_id = next((trial_id for trial_id in created if trial_id not in self._created), None)
            return create() if trial_id is None else trial_id

        trial_id = self._call_backend(create, again=create_once)
        self._created.add(trial_id)
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def finish() -> bool:
            return self._backend.set_trial_state_values(trial_id, state, values)

        def finish_once() -> bool:
            try:
                return finish()
            except UpdateFinishedTrialError:
                stored = self._backend.get_trial(trial_id)
                if stored.state is not state or (values is not None and list(stored.values or ()) != list(values)):
                    raise
                return True

        return self._call_backend(finish, again=finish_once)

    def _call_backend(self, call: Callable[[], _Result], *, again: Callable[[], _Result] | None = None) -> _Result:
        """Make a call to the backend. While the backend is unavailable, repeat the call, or call ``again`` if it is given."""
        pause, deadline = _FIRST_PAUSE, None
        while True:
            try:
                return call()
            except Exception as error:
                if is_read_only(error):
                    raise failed_storage(error) from error
                if not is_unavailable(error):
                    raise
                if deadline is None:
                    deadline = time.monotonic() + self._patience
                    if self._patience > 0:
                        self._on_away(reason_of(error))
                if time.monotonic() >= deadline:
                    raise failed_storage(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            call = again or call


def _is_created_from(template: FrozenTrial | None, trial: FrozenTrial) -> bool:
    if template is None:
        return trial.state is TrialState.RUNNING and not trial.params and not trial.user_attrs
    return (trial.state, trial.params, trial.user_attrs) == (template.state, template.params, template.user_attrs)


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error of a storage may be temporary: locked, unreachable, full or restarted."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, (OperationalError, InterfaceError, PoolTimeoutError, OSError)):
        return True
    if isinstance(cause, DBAPIError):
        return bool(cause.connection_invalidated)
    grpc = sys.modules.get("grpc")  # a gRPC error cannot occur before gRPC is imported
    return grpc is not None and isinstance(cause, grpc.RpcError) and cause.code().name not in _FINAL_CODES
