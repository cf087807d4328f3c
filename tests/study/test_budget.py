"""The limits of a search, and the models that it retains."""

import pytest

from automl_cxr.study.budget import Budget, BudgetCheck


@pytest.mark.slow
def test_no_trial_starts_at_the_limit_of_epochs(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, limits={"n_epochs": 10})
    assert prepared.store.n_epochs() == 12, "a trial has three epochs, and the fourth trial starts after nine"
    assert quick_search(prepared, limits={"n_epochs": 12}).ended == []
    assert quick_search(prepared, limits={"n_epochs": 13}).ended == [4]


def test_epochs_are_counted_with_several_objectives(prepare, quick_search):
    prepared = prepare(objective=("macro_f1", "parameters"))
    quick_search(prepared, limits={"n_epochs": 4}, trials=9)
    assert prepared.store.n_epochs() == 6


@pytest.mark.long
def test_batched_trials_respect_the_limit_of_trials(prepare, quick_search):
    prepared = prepare()
    assert quick_search(prepared, trials=10, batch_trials=4).ended == list(range(10))
    assert quick_search(prepared, trials=12, batch_trials=4).ended == [10, 11]
    unbatched = prepare(name="unbatched")
    quick_search(unbatched, trials=12)
    assert [(r.params, r.scores, r.score) for r in prepared.store.records()] == [
        (r.params, r.scores, r.score) for r in unbatched.store.records()
    ]


@pytest.mark.long
def test_batched_trials_respect_the_limit_of_epochs(prepare, quick_search):
    prepared = prepare(epochs=3)
    quick_search(prepared, limits={"n_epochs": 10}, batch_trials=8)
    assert prepared.store.n_epochs() == 12
    # These trials use fewer epochs than planned; further trials use the remaining ones.
    shorter = prepare(epochs=30, name="shorter")
    quick_search(shorter, limits={"n_epochs": 31}, batch_trials=8)
    assert shorter.store.n_epochs() == 33


@pytest.mark.long
@pytest.mark.parametrize("objective", ["macro_f1", "log_loss"])
def test_a_search_ends_at_the_target_score(prepare, quick_search, objective):
    prepared = prepare(objective=(objective,))
    quick_search(prepared, trials=8)
    scores = [record.score for record in prepared.store.records()]
    best = prepared.store.ranked()[0]
    other = prepare(objective=(objective,), name="other")
    quick_search(other, limits={"target": best.score})
    assert [record.score for record in other.store.records()] == scores[: best.number + 1]
    assert quick_search(other, limits={"target": best.score}).ended == []


@pytest.mark.slow
def test_models_above_the_disk_limit_are_removed_except_the_best(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=6, keep_models=6, limits={"disk_bytes": 3 * len(b"weights") + 1})
    ranked = [record.number for record in prepared.store.ranked()]
    assert [number for number in ranked if prepared.store.has_model(number)] == ranked[:3]
    quick_search(prepared, trials=7, keep_models=6, limits={"disk_bytes": 1})
    ranked = [record.number for record in prepared.store.ranked()]
    assert [number for number in ranked if prepared.store.has_model(number)] == ranked[:1]
    for number in ranked:
        assert (prepared.store.trial_folder(number) / "valid.npz").exists()


def test_folds_after_the_time_limit_are_not_trained(prepare, quick_search, monkeypatch):
    prepared = prepare(folds=3)
    begun = []
    monkeypatch.setattr(BudgetCheck, "seconds_left", lambda _: -1.0 if 1 in begun else 100.0)
    quick_search(prepared, trials=3, between_epochs=lambda proposal, _: begun.append(proposal.number))
    first, second = prepared.store.study.get_trials()[:2]
    assert [trial.state.name for trial in (first, second)] == ["COMPLETE", "PRUNED"]
    assert second.user_attrs["stopped_by"] == "time"
    assert len(prepared.store.record(1).scores) == 1


def test_processes_are_killed_at_the_end_of_the_time_if_there_is_a_result(prepare, quick_search):
    prepared = prepare()
    budget = Budget(n_trials=None, seconds=600, keep_models=1)
    assert BudgetCheck(budget, prepared.store).seconds_to_kill() is None, "the first trial may always finish"
    quick_search(prepared, trials=1)
    assert BudgetCheck(budget, prepared.store).seconds_to_kill() == pytest.approx(624, abs=1)
    assert BudgetCheck(Budget(n_trials=3, seconds=None, keep_models=1), prepared.store).seconds_to_kill() is None
