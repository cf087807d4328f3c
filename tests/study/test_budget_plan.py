"""The plan of a search with a time limit."""

import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import DataError
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study import budget_plan
from automl_cxr.study.budget import Budget, BudgetCheck, reserved_seconds, trial_deadline
from automl_cxr.study.budget_plan import StepTimes, choose_epochs, plan_budget
from automl_cxr.study.expected_workers import ExpectedWorkers, expected_workers
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.trial_times import TrialTimes, estimate_probe

SETTINGS = {"task": "multiclass", "image_size": 32, "fit": "stretch", "batch_size": 32}


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [
        (10_000, 30),  # 6 trials of 30 epochs and more
        (600, 20),  # 6 trials of 20 epochs
        (100, 6),  # 3 trials of 6 epochs
        (32, 6),  # 1 trial of 6 epochs
        (10, 6),  # none
    ],
)
def test_the_number_of_epochs_follows_from_the_time(seconds, epochs):
    assert choose_epochs(seconds, 5.0, n_trials=6, most=30) == epochs


@pytest.mark.long
def test_a_plan_is_made_from_measured_step_times(prepare):
    store = prepare(image_size=32).store
    with StepTimes(store.spec.space, SETTINGS, n_classes=3, workers=ExpectedWorkers(2, 1)) as times:
        plan = plan_budget(times, store.split, seconds=lambda: 600, most_epochs=30)
    assert plan.epochs == 30, "an epoch of so few small images takes less than a second"
    assert 0 < plan.seconds["scratch"] < 300
    assert plan.description.startswith("Plan for 10 min, from step times measured on this machine: scratch at 32 pixels, 30 ep")


def test_networks_of_findings_are_measured_for_findings(prepare):
    settings = {**SETTINGS, "task": "multilabel"}
    times = StepTimes(prepare().store.spec.space, settings, n_classes=3, workers=ExpectedWorkers(2, 1))
    assert all(config.is_multilabel for config in times.configs.values())


def test_without_a_measurement_there_is_no_plan(prepare, monkeypatch):
    monkeypatch.setattr(budget_plan, "_COMMAND", ("-c", "raise SystemExit(1)"))
    store = prepare().store
    with StepTimes(store.spec.space, SETTINGS, n_classes=3, workers=ExpectedWorkers(2, 1)) as times:
        assert plan_budget(times, store.split, seconds=lambda: 600, most_epochs=30) is None


def test_the_measurement_ends_with_an_error_of_the_search(prepare, monkeypatch):
    monkeypatch.setattr(budget_plan, "_COMMAND", ("-c", "import time; time.sleep(1000)"))
    store = prepare().store
    with pytest.raises(DataError), StepTimes(store.spec.space, SETTINGS, n_classes=3, workers=ExpectedWorkers(2, 1)) as times:  # noqa: PT012
        process = times._process
        raise DataError("unusable")
    assert process.poll() is not None


def test_the_time_counts_from_the_start_and_keeps_some_for_the_ensemble(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 130.0)
    assert reserved_seconds(600) == 24
    assert trial_deadline(600, started=100.0) == 700 - 24
    assert trial_deadline(600, started=-900.0) == 130 + 300 - 24, "half of the time remains after a long preparation"


def test_a_trial_that_cannot_end_in_time_does_not_start(prepare, quick_search):
    prepared = prepare()
    check = BudgetCheck(Budget(n_trials=None, seconds=60, keep_models=1), prepared.store, times=TrialTimes(prepared.store))
    assert check.fits({"filters": 16}), "the time of a trial is unknown"
    planned = TrialTimes(prepared.store, {"scratch": 61.0})
    check = BudgetCheck(Budget(n_trials=None, seconds=60, keep_models=1), prepared.store, times=planned)
    assert not check.fits({"filters": 16})
    assert not check.fits({"family": "fused"}), "a family that was not measured is assumed to take the longest planned time"
    quick_search(prepared, trials=1)
    assert check.fits({"filters": 16}), "a finished trial took a hundredth of a second"
    assert set(prepared.store.elapsed_seconds(TrialState.COMPLETE)) == {0}


def test_pruned_trials_tell_how_long_a_whole_trial_takes(prepare, monkeypatch):
    store = prepare(epochs=10).store
    pruned = TrialRecord(number=0, state=TrialState.PRUNED, params={}, scores={1: 0.4, 2: 0.5})
    monkeypatch.setattr(store, "records", lambda *states: [pruned] if TrialState.PRUNED in states else [])
    monkeypatch.setattr(store, "elapsed_seconds", lambda *_: {0: 12.0})
    assert TrialTimes(store, {"scratch": 10.0}).estimate({"filters": 16}) == 60


def test_a_cross_validated_search_ends_when_no_trial_fits(prepare, quick_search):
    prepared = prepare(folds=2)
    quick_search(prepared, trials=1)
    budget = Budget(n_trials=None, seconds=60, keep_models=1)
    assert not BudgetCheck(budget, prepared.store).is_spent([])
    deadline = trial_deadline(0.001, started=0.0)
    assert BudgetCheck(budget, prepared.store, deadline=deadline).is_spent([])


def probe(layers, **changes):
    return TrialConfig(family="probe", probe_layers=layers, **changes)


def test_the_time_of_a_probe_depends_on_the_features_that_are_cached():
    one, deeper, other, both = map(probe, ("squeezenet@2", "squeezenet@6", "hog@1", "squeezenet@2+hog@1"))
    assert estimate_probe(deeper, [(one, 50.0)]) == 50, "no fit alone was measured yet"
    assert estimate_probe(deeper, [(one, 50.0), (deeper, 8.0)]) == 8
    assert estimate_probe(other, [(one, 50.0), (deeper, 8.0)]) == 58
    mirrored = probe("squeezenet@2", probe_mirrored=True)
    assert estimate_probe(mirrored, [(one, 50.0), (deeper, 8.0)]) == 58
    assert estimate_probe(both, [(one, 50.0), (deeper, 8.0), (other, 20.0), (deeper, 9.0)]) == 9
    mirrored_other = probe("hog@1", probe_mirrored=True)
    assert estimate_probe(mirrored_other, [(one, 50.0), (deeper, 8.0), (other, 20.0)]) == 28, "a pass of hog takes 20 s"


def test_workers_are_expected_as_the_executor_starts_them(monkeypatch):
    monkeypatch.setattr("automl_cxr.study.expected_workers.n_usable_cores", lambda: 8)
    monkeypatch.setattr("automl_cxr.study.expected_workers.nvidia_gpus", list)
    assert expected_workers(SearchOptions()) == ExpectedWorkers(8, 1)
    assert expected_workers(SearchOptions(cpus_per_trial=4)) == ExpectedWorkers(2, 4)
    assert expected_workers(SearchOptions(concurrency=3)) == ExpectedWorkers(3, 1)
    assert expected_workers(SearchOptions(executor="inline")) == ExpectedWorkers(1, 8)
    monkeypatch.setattr("automl_cxr.study.expected_workers.nvidia_gpus", lambda: ["H200", "H200"])
    assert expected_workers(SearchOptions()) == ExpectedWorkers(2, 1)
