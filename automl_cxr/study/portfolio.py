"""The portfolio of a search space: configurations that a study evaluates first."""

from __future__ import annotations

from automl_cxr.optuna_private import enqueued_values
from automl_cxr.study.store import StudyStore


def enqueue_portfolio(store: StudyStore) -> None:
    """Enqueue the configurations of the portfolio that are not among the trials yet, in their order.

    The caller holds the lock ``creation_lock``.
    """
    space = store.spec.space
    trials = store.study.get_trials(deepcopy=False) if space.portfolio else []
    known = {space.key({**enqueued_values(trial), **trial.params}) for trial in trials}
    for point in space.portfolio:
        if space.key(point) not in known:
            store.study.enqueue_trial(dict(point))
