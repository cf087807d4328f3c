"""The counts of a study's trials by outcome."""

import optuna

from automl_cxr.study.heartbeat import DriverHeartbeat
from automl_cxr.study.trial_counts import TrialCounts, count_trials


def test_every_trial_is_counted_once_with_its_reason(prepare, quick_search):
    prepared = prepare()
    attempts = []

    def fail(proposal, epoch):
        if proposal.number in (1, 3) and epoch == 2:
            raise ValueError("no such luck")
        if proposal.number == 2 and epoch == 2 and not attempts:
            attempts.append(2)
            raise OSError("away")

    quick_search(prepared, trials=5, between_epochs=fail)
    store = prepared.store
    with DriverHeartbeat(store.folder) as other:
        for driver in (other.driver, "dead"):
            store.study.ask().set_user_attr("driver", driver)
        store.study.enqueue_trial({})
        parent = {"parent": 0}
        store.study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs=parent))
        assert count_trials(store) == TrialCounts(
            asked=5,
            asked_in_full=None,
            complete=3,
            pruned=1,
            refused=0,
            promoted=1,
            failed={"ValueError: no such luck": 2},
            retried={"OSError: away": 1},
            running=1,
            left=1,
            waiting=1,
        )


def test_all_counts_of_a_study_without_trials_are_zero(prepare):
    counts = count_trials(prepare().store)
    assert counts.asked is None
    assert counts.n_failed == counts.complete == counts.running == counts.left == 0
