"""Several objectives and requirements in the record of a study: who ranks, who may be chosen, whose model is kept."""

import io

import pytest

from automl_cxr.errors import StudyError, StudyMismatchError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.runner import Budget
from automl_cxr.study.trial_counts import count_trials

TWO = ("macro_f1", "parameters")


def test_the_first_objective_ranks_and_the_front_is_what_nobody_beats(prepare, quick_search):
    prepared = prepare(objectives=TWO)
    quick_search(prepared, trials=8)
    store = prepared.store
    ranked = store.ranked()
    assert [record.score for record in ranked] == sorted((record.score for record in ranked), reverse=True)
    assert all(record.values == [record.score, record.n_parameters] for record in ranked)
    assert all(list(record.scores) == [1, 2, 3] for record in ranked)
    front = {record.number for record in store.pareto_front()}
    for one in ranked:
        beaten = any(
            other.score >= one.score and other.n_parameters <= one.n_parameters and other.values != one.values
            for other in ranked
        )
        assert (one.number in front) != beaten
    assert store.study.metric_names == list(TWO)
    assert {trial.number for trial in store.study.best_trials} == front


def test_models_of_the_front_are_kept_first(prepare, quick_search):
    prepared = prepare(objectives=TWO)
    quick_search(prepared, trials=8, keep_models=8)
    store = prepared.store
    front = [record.number for record in store.pareto_front()]
    others = [record.number for record in store.ranked() if record.number not in front]
    for n_kept in (len(front) + 1, 1):
        store.drop_models_beyond(n_kept)
        kept = {record.number for record in store.ranked() if store.has_model(record.number)}
        assert kept == set([*front, *others][:n_kept])


def test_a_stopped_trial_keeps_its_last_score(prepare, quick_search):
    prepared = prepare(objectives=TWO, pruner="asha", epochs=9)
    quick_search(prepared, trials=12, epochs=9)
    stopped = prepared.store.records(TrialState.PRUNED)
    assert stopped
    for record in stopped:
        assert record.score == record.scores[max(record.scores)]
        assert max(record.scores) < 9


def test_a_study_keeps_its_objectives_and_requirements(prepare):
    prepare(objectives=TWO, requirements=["parameters<=1e6"])
    spec = prepare().store.spec
    assert (spec.objectives, spec.requirements) == (TWO, ("parameters<=1000000",))
    prepare(requirements=["parameters <= 1000000"])
    with pytest.raises(StudyMismatchError, match=r"with requirements parameters<=1000000; received parameters<=2000000\."):
        prepare(requirements=["parameters<=2e6"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objectives": TWO, "pruner": "median"}, "Pruner 'median' supports one objective only"),
        ({"objectives": TWO, "sampler": "kt-bayesian"}, "Sampler 'kt-bayesian' supports one objective only"),
        ({"requirements": ["sensitivity_at_90_specificity>=0.8"], "classes": ["opacity", "effusion"]}, "--normal-class"),
        ({"requirements": ["parameters"]}, "written like"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_study_begins(prepare, wrong, said):
    with pytest.raises(UsageError, match=said):
        prepare(**wrong)


def test_a_refused_trial_is_pruned_with_its_reason_and_leaves_no_files(prepare, quick_search):
    prepared = prepare(requirements=["parameters<=116"])
    quick_search(prepared, trials=7)
    store = prepared.store
    refused = [record for record in store.records() if record.refusal]
    assert 1 <= len(refused) < 7
    tally = count_trials(store)
    assert (tally.refused, tally.pruned, tally.failed) == (len(refused), len(refused), {})
    for record in refused:
        assert record.state is TrialState.PRUNED
        assert record.refusal == f"parameters {record.n_parameters}"
        assert record.violations["parameters<=116"] > 0
        assert record.score is None
        assert not store.trial_folder(record.number).exists()
    assert all(record.violations["parameters<=116"] <= 0 for record in store.ranked())


def test_what_the_end_tells_makes_a_trial_infeasible_and_ranks_it_last(prepare, quick_search):
    prepared = prepare(requirements=["macro_f1<=0.6"])
    quick_search(prepared, trials=10)
    ranked, eligible = prepared.store.ranked(), prepared.store.eligible()
    assert 0 < len(eligible) < len(ranked) == 10
    assert ranked[: len(eligible)] == eligible
    assert all(record.score <= 0.6 for record in eligible)
    assert [record.score for record in ranked[len(eligible) :]] == sorted(r.score for r in ranked[len(eligible) :])


def test_a_search_that_only_refuses_says_so(prepare, quick_search, monkeypatch):
    prepared = prepare(requirements=["parameters<=10"])
    with pytest.raises(StudyError, match=r"3 trials were refused before training .* Trial 2: parameters \d+\. Loosen what"):
        quick_search(prepared, trials=3)
    monkeypatch.setattr("automl_cxr.study.runner._FUTILE", 4)
    with pytest.raises(StudyError, match="4 trials were refused"):
        quick_search(prepared, trials=500)
    assert prepared.store.n_begun() == 7


def test_people_are_told_what_was_refused_and_what_misses_a_requirement(prepare, quick_search):
    prepared = prepare(requirements=["parameters<=116", "macro_f1<=0.6"])
    stream = io.StringIO()
    budget = Budget(n_trials=10, seconds=None, keep_models=3)
    with SearchProgress(prepared.store, budget, stream=stream) as progress:
        quick_search(prepared, trials=10, listener=progress)
    told = stream.getvalue()
    assert "refused: parameters 1" in told
    assert "; misses macro_f1<=0.6 |" in told
    best = prepared.store.eligible()[0]
    assert told.splitlines()[-1].endswith(f"best {best.score:.4f} (trial {best.number})")
