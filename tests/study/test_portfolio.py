"""Portfolios: the configurations of a space that a study evaluates first."""

import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.optuna_private import enqueued_values
from automl_cxr.records import TrialState
from automl_cxr.study.budget import Budget
from automl_cxr.study.portfolio import enqueue_portfolio
from automl_cxr.study.runner import run_search
from tests.fast_trials import RecordingListener

SPACE = """
family = "scratch"
[filters]
type = "int"
low = 2
high = 30
default = 3
[[portfolio]]
filters = 7
[[portfolio]]
filters = 5
[[portfolio]]
filters = 9
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "p.toml").write_text(SPACE)
    return str(tmp_path / "p.toml")


def filters_of(store):
    return [{**enqueued_values(trial), **trial.params}["filters"] for trial in store.study.get_trials()]


def test_the_portfolio_is_evaluated_first_in_its_order(prepare, quick_search, space):
    prepared = prepare(space=space)
    assert filters_of(prepared.store) == [7, 5, 9]
    quick_search(prepared, trials=5)
    assert filters_of(prepared.store)[:3] == [7, 5, 9]
    assert {record.state for record in prepared.store.records()} == {TrialState.COMPLETE}


def test_only_configurations_that_are_missing_are_enqueued(prepare, quick_search, space):
    """As after a creation that ended between two of them."""
    prepared = prepare(space=space)
    quick_search(prepared, trials=1)
    enqueue_portfolio(prepare(space=space).store)
    assert filters_of(prepared.store) == [7, 5, 9]


@pytest.mark.slow
def test_a_warm_start_does_not_repeat_a_configuration_of_the_portfolio(prepare, quick_search, space):
    quick_search(prepare(name="old", space=space), trials=4)
    prepared = prepare(space=space, warm_start="old", warm_start_top=2)
    filters = filters_of(prepared.store)
    assert filters[0] == 7
    assert {5, 9} <= set(filters)
    assert len(set(filters)) == len(filters)


@pytest.mark.slow
def test_a_fixed_family_selects_its_part_of_the_space_auto(prepare):
    prepared = prepare(space="auto", fixed={"family": "scratch"})
    assert prepared.store.spec.space.preset()["n_blocks"] == 5
    assert all("probe_layers" not in point for point in prepared.store.spec.space.portfolio)


@pytest.mark.slow
def test_the_first_trial_of_the_space_auto_is_a_probe(prepare):
    prepared = prepare(space="auto", image_size=64, epochs=2)
    run_search(
        prepared.store,
        prepared.images,
        weights_folder=None,
        sampler="tpe",
        budget=Budget(n_trials=1, seconds=None, keep_models=1),
        execute=run_inline,
        listener=RecordingListener(),
    )
    record = prepared.store.record(0)
    assert (record.state, record.params["family"]) == (TrialState.COMPLETE, "probe")
    assert prepared.store.has_model(0)
