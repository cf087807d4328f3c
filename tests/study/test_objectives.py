"""Several objectives and requirements in a study's record: ranking, eligibility and retained models."""

import io

import pytest

from automl_cxr.errors import StudyError, StudyMismatchError, UsageError
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study.budget import Budget
from automl_cxr.study.model_retention import ModelRetention
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.trial_counts import count_trials

TWO = ("macro_f1", "parameters")


def test_trials_are_ranked_by_the_first_objective_and_the_front_is_not_dominated(prepare, quick_search):
    prepared = prepare(objective=TWO)
    quick_search(prepared, trials=8)
    store = prepared.store
    ranked = store.ranked()
    assert [record.score for record in ranked] == sorted((record.score for record in ranked), reverse=True)
    assert all(record.values == [record.score, record.n_parameters] for record in ranked)
    assert all(list(record.scores) == [1, 2, 3] for record in ranked)
    front = {record.number for record in store.pareto_front()}
    for one in ranked:
        is_dominated = any(
            other.score >= one.score and other.n_parameters <= one.n_parameters and other.values != one.values
            for other in ranked
        )
        assert (one.number in front) != is_dominated
    assert store.study.metric_names == list(TWO)
    assert {trial.number for trial in store.study.best_trials} == front


@pytest.mark.slow
def test_models_of_the_front_are_retained_first(prepare, quick_search):
    prepared = prepare(objective=TWO)
    quick_search(prepared, trials=8, keep_models=8)
    store = prepared.store
    front = [record.number for record in store.pareto_front()]
    others = [record.number for record in store.ranked() if record.number not in front]
    for n_models in (len(front) + 1, 1):
        ModelRetention(store, n_models)
        retained = {record.number for record in store.ranked() if store.has_model(record.number)}
        assert retained == set([*front, *others][:n_models])


@pytest.mark.long
def test_a_pruned_trial_has_its_last_score(prepare, quick_search):
    prepared = prepare(objective=TWO, pruner="asha", epochs=9)
    quick_search(prepared, trials=12, epochs=9)
    pruned = prepared.store.records(TrialState.PRUNED)
    assert pruned
    for record in pruned:
        assert record.score == record.scores[max(record.scores)]
        assert max(record.scores) < 9


def test_objectives_and_requirements_of_a_study_cannot_change(prepare):
    prepare(objective=TWO, require=["parameters<=1e6"])
    spec = prepare().store.spec
    assert (spec.objectives, spec.requirements) == (TWO, ("parameters<=1000000",))
    prepare(require=["parameters <= 1000000"])
    with pytest.raises(StudyMismatchError, match=r"with requirements parameters<=1000000; received parameters<=2000000\."):
        prepare(require=["parameters<=2e6"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": TWO, "pruner": "median"}, "Pruner 'median' supports one objective only"),
        ({"objective": TWO, "sampler": "kt-bayesian"}, "Sampler 'kt-bayesian' supports one objective only"),
        ({"require": ["sensitivity_at_90_specificity>=0.8"], "classes": ["opacity", "effusion"]}, "--normal-class"),
        ({"require": ["parameters"]}, "written like"),
    ],
)
def test_invalid_settings_are_rejected_before_the_study_is_created(prepare, settings, message):
    with pytest.raises(UsageError, match=message):
        prepare(**settings)


@pytest.mark.slow
def test_a_refused_trial_is_pruned_with_its_reason_and_without_files(prepare, quick_search):
    prepared = prepare(require=["parameters<=116"])
    quick_search(prepared, trials=7)
    store = prepared.store
    refused = [record for record in store.records() if record.refusal]
    assert 1 <= len(refused) < 7
    counts = count_trials(store)
    assert (counts.refused, counts.pruned, counts.failed) == (len(refused), len(refused), {})
    for record in refused:
        assert record.state is TrialState.PRUNED
        assert record.refusal == f"parameters {record.n_parameters}"
        assert record.violations["parameters<=116"] > 0
        assert record.score is None
        assert not store.trial_folder(record.number).exists()
    assert all(record.violations["parameters<=116"] <= 0 for record in store.ranked())


def test_a_violation_after_training_makes_a_trial_infeasible_and_ranks_it_last(prepare, quick_search):
    prepared = prepare(require=["macro_f1<=0.6"])
    quick_search(prepared, trials=10)
    ranked, eligible = prepared.store.ranked(), prepared.store.eligible()
    assert 0 < len(eligible) < len(ranked) == 10
    assert ranked[: len(eligible)] == eligible
    assert all(record.score <= 0.6 for record in eligible)
    assert [record.score for record in ranked[len(eligible) :]] == sorted(r.score for r in ranked[len(eligible) :])


def test_a_search_whose_trials_are_all_refused_is_an_error(prepare, quick_search, monkeypatch):
    prepared = prepare(require=["parameters<=10"])
    with pytest.raises(
        StudyError, match=r"3 trials were refused before training .* Trial 2: parameters \d+\. Relax the requirements"
    ):
        quick_search(prepared, trials=3)
    monkeypatch.setattr("automl_cxr.study.recorded_proposer._MAX_REFUSALS", 4)
    with pytest.raises(StudyError, match="4 trials were refused"):
        quick_search(prepared, trials=500)
    assert prepared.store.n_started() == 7


def test_messages_name_refused_trials_and_violated_requirements(prepare, quick_search):
    prepared = prepare(require=["parameters<=116", "macro_f1<=0.6"])
    stream = io.StringIO()
    budget = Budget(n_trials=10, seconds=None, keep_models=3)
    with SearchProgress(prepared.store, budget, stream=stream) as progress:
        quick_search(prepared, trials=10, listener=progress)
    text = stream.getvalue()
    assert "refused: parameters 1" in text
    assert "; violates macro_f1<=0.6 |" in text
    best = prepared.store.eligible()[0]
    assert text.splitlines()[-1].endswith(f"best {best.score:.4f} (trial {best.number})")


def test_the_model_of_the_best_trial_of_each_family_is_retained(prepare):
    store = prepare().store
    families = ["probe", "probe", "probe", "fused", "scratch", "scratch"]
    records = [
        TrialRecord(number=number, state=TrialState.COMPLETE, params={"family": family}, score=0.9 - number / 10)
        for number, family in enumerate(families)
    ]
    assert [record.number for record in store.rank_for_retention(records[::-1])] == [0, 3, 4, 1, 2, 5]
