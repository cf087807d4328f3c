"""Retention of models and checkpoints on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection

from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study.store import StudyStore


class ModelRetention:
    """The retention rules of one search.

    The models of the best trials that the search has observed are kept, including the best one of each network family; the
    model of a trial that is no longer among them is removed. The record is read only once. A second search on the same study
    has a separate list. Therefore up to twice as many models can be on disk until one of the searches ends and calls
    ``remove_other_models``.

    Args:
        store: The study.
        n_models: Number of trials whose models are kept.
        max_bytes: Maximum size of models and checkpoints together; None for no limit.
    """

    def __init__(self, store: StudyStore, n_models: int, max_bytes: int | None = None) -> None:
        self._store = store
        self._n_models = n_models
        self._max_bytes = max_bytes
        self._best = self.remove_other_models()

    def remove_other_models(self) -> list[TrialRecord]:
        """Remove the models of all but the best trials in the record, and return the best trials."""
        ranked = self._store.rank_for_retention(self._store.records(TrialState.COMPLETE))
        for record in ranked[self._n_models :]:
            self._store.drop_model(record.number)
        return ranked[: self._n_models]

    def add(self, record: TrialRecord) -> None:
        """Keep or remove the model of a trial that has just ended, and remove the model of a trial that it replaces."""
        if record.state is not TrialState.COMPLETE:
            return
        self._best = self._store.rank_for_retention([*self._best, record])
        for displaced in self._best[self._n_models :]:
            self._store.drop_model(displaced.number)
        del self._best[self._n_models :]

    def free_disk_space(self, continuable: Callable[[], Collection[int]]) -> None:
        """Remove unneeded checkpoints; then remove models, the worst first, until the size limit is met. The best one is kept.

        Args:
            continuable: Returns the numbers of the trials that may be continued.
        """
        self._store.remove_other_checkpoints(continuable)
        if self._max_bytes is not None:
            self._remove_models_above(self._max_bytes)

    def _remove_models_above(self, max_bytes: int) -> None:
        ranked = self._store.rank_for_retention(self._store.records(TrialState.COMPLETE))
        sizes = {record.number: n_bytes for record in ranked if (n_bytes := self._store.model_bytes(record.number))}
        excess = sum(sizes.values()) + self._store.checkpoint_bytes() - max_bytes
        for number in reversed(list(sizes)[1:]):
            if excess > 0:
                self._store.drop_model(number)
                excess -= sizes[number]
