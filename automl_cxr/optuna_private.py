"""The private names of Optuna that this package uses, each in one function. Checked with Optuna 5.0.

tests/test_private_names.py fails when a new version of Optuna renames or removes one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

# The element type of the public ``BaseStorage.get_all_studies`` is exported by no public module.
__all__ = [
    "FrozenStudy",
    "enqueued_attrs",
    "enqueued_values",
    "storage_of",
    "study_id_of",
    "trial_id_of",
    "uncached_storage",
    "with_trial_id",
]

_ENQUEUED = "fixed_params"


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage of a study (``Study._storage``). ``Study`` has no public property for it."""
    return study._storage


def study_id_of(study: optuna.Study | FrozenStudy) -> int:
    """Return the storage's id of a study (``_study_id``), which the methods of ``BaseStorage`` take.

    The public ``BaseStorage.get_study_id_from_name`` returns it too, with one query more.
    """
    return study._study_id


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the storage's id of a trial (``_trial_id``), which the methods of ``BaseStorage`` take.

    The public ``BaseStorage.get_trial_id_from_study_id_trial_number`` returns it too, with one query more.
    """
    return trial._trial_id


def with_trial_id(trial: FrozenTrial, number: int, trial_id: int) -> FrozenTrial:
    """Set the number and the storage's id (``_trial_id``) of a frozen trial in memory, and return it.

    The public ``create_trial`` sets both to -1.
    """
    trial.number, trial._trial_id = number, trial_id
    return trial


def enqueued_values(trial: FrozenTrial) -> dict[str, Any]:
    """Return the values that ``Study.enqueue_trial`` stored for a trial (system attribute ``fixed_params``).

    Optuna itself reads them only in ``Trial.suggest_*``, one parameter at a time.
    """
    return dict(trial.system_attrs.get(_ENQUEUED, {}))


def enqueued_attrs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the system attributes of a trial with enqueued values (``fixed_params``), for ``create_trial``.

    ``Study.enqueue_trial`` stores them too, but adds the trial itself, not in a list for ``Study.add_trials``.
    """
    return {_ENQUEUED: dict(values)}


def uncached_storage(storage: BaseStorage) -> BaseStorage:
    """Return the database storage below Optuna's cache (``_CachedStorage._backend``), or any other storage itself.

    ``load_study`` puts an ``RDBStorage`` into a ``_CachedStorage``, which reads all running trials again at every
    ``get_all_trials``, the caller's own included. ``CachedDriverStorage`` replaces this cache. No public call removes it.
    """
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    return backend if isinstance(backend, RDBStorage) else storage
