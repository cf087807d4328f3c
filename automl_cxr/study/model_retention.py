"""Which trials keep their model on disk: the best ones, and nothing is read again to know them."""

from __future__ import annotations

from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study.store import StudyStore


class ModelRetention:
    """The best trials that one search knows of. A trial that is not among them, or no longer, loses its model.

    A second search on the same study has a list of its own, so that up to twice as many models may lie on the disk until
    one of them ends and calls ``StudyStore.drop_models_beyond``.

    Args:
        store: The study.
        n_kept: Number of trials that keep their model.
    """

    def __init__(self, store: StudyStore, n_kept: int) -> None:
        self._store = store
        self._n_kept = n_kept
        store.drop_models_beyond(n_kept)
        self._best = store.by_worth(store.records(TrialState.COMPLETE))[:n_kept]

    def settle(self, record: TrialRecord) -> None:
        """Decide about the model of a trial that has just ended, and about the one that it displaces."""
        if record.state is not TrialState.COMPLETE:
            return
        self._best = self._store.by_worth([*self._best, record])
        for beaten in self._best[self._n_kept :]:
            self._store.drop_model(beaten.number)
        del self._best[self._n_kept :]
