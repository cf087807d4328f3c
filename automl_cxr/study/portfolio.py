"""The portfolio of a search space: configurations that a study evaluates first."""

from __future__ import annotations

from automl_cxr.study.store import StudyStore

_POSITION = "portfolio"  # user attribute: position of a trial's configuration in the portfolio, from 0


def enqueue_portfolio(store: StudyStore) -> None:
    """Enqueue the configurations of the portfolio that are not among the trials yet.

    The caller holds the lock ``creation_lock``.
    """
    known = {trial.user_attrs.get(_POSITION) for trial in store.study.get_trials(deepcopy=False)}
    for position, point in enumerate(store.spec.space.portfolio):
        if position not in known:
            store.study.enqueue_trial(dict(point), user_attrs={_POSITION: position})
