"""The results of a small study with real networks, two objectives and a requirement."""

import pytest

from automl_cxr import api
from automl_cxr.api.study import Study
from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.records import TrialState
from automl_cxr.results.figures.trade_offs import pareto_table
from automl_cxr.results.tables import FORMATS, format_table
from tests.results.conftest import TINY_SPACE


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantoms):
    """Run five trials of one epoch; those with too many parameters are refused."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "tiny.toml").write_text(TINY_SPACE)
    return api.search(
        str(runs / "tiny.toml"), phantoms, name="two", trials=5, epochs=1, image_size=32, batch_size=64, runs=runs, seed=2,
        executor="inline", sampler="random", objective=["macro_f1", "parameters"], require="parameters<=500",
    )  # fmt: skip


def test_the_leaderboard_marks_the_front_and_feasible_trials(study):
    table = study.leaderboard()
    assert list(table.columns[:7]) == ["rank", "trial", "feasible", "pareto", "macro_f1", "macro_f1_low", "macro_f1_high"]
    assert table["feasible"].all()
    assert (table["parameters"] == table["n_parameters"]).all()
    for row in table.itertuples():
        dominated_by = (table["macro_f1"] >= row.macro_f1) & (table["parameters"] <= row.parameters)
        dominated_by &= (table["macro_f1"] > row.macro_f1) | (table["parameters"] < row.parameters)
        assert row.pareto == (not dominated_by.any())
    for kind in FORMATS.keys() - {"xlsx"}:
        assert "pareto" in format_table(table, kind)


def test_refused_trials_are_recorded_with_their_reason(study):
    refused = [trial for trial in study.trials if trial.refusal]
    assert refused
    for trial in refused:
        assert trial.state is TrialState.PRUNED
        assert trial.refusal == f"parameters {trial.n_parameters} > 500"
        assert f"({trial.refusal})" in repr(trial)
    assert {trial.number for trial in study.trials} == {
        *study.leaderboard()["trial"],
        *(t.number for t in refused),
    }


def test_the_front_is_plotted_from_its_table(study):
    table = pareto_table(study._store)
    front = table[table["kind"] == "Pareto front"]
    assert front["trial"].tolist() == table["trial"][: len(front)].tolist()
    assert front["parameters"].is_monotonic_increasing
    assert front["macro_f1"].is_monotonic_increasing
    assert set(front["trial"]) == {trial.number for trial in study.pareto_front}
    figure = study.figures.pareto()
    assert list(figure.data[0].x) == front["parameters"].tolist()
    assert list(figure.data[0].y) == front["macro_f1"].tolist()
    assert study.figures.pareto(x="macro_f1", y="parameters").layout.xaxis.title.text == "macro_f1"
    assert len(study.figures.history().data) >= 2
    assert len(study.figures.learning_curves().data) == len(study.leaderboard())
    with pytest.raises(UnknownNameError, match="Did you mean 'parameters'"):
        study.figures.pareto(x="parametres")


def test_a_study_of_one_objective_has_no_front(finished):
    with pytest.raises(StudyError, match="needs several objectives"):
        finished.figures.pareto()
    assert not {"pareto", "feasible"} & set(finished.leaderboard())


def test_a_trial_that_violates_a_requirement_is_not_the_default(prepare, quick_search):
    prepared = prepare(name="strict", require=["macro_f1>=1.1"])
    quick_search(prepared, trials=1)
    strict = Study(prepared.store)
    assert strict.best is None
    assert repr(strict).endswith("no trial meets macro_f1>=1.1")
    assert strict.leaderboard()["feasible"].tolist() == [False]
    for method in (strict.classifier, strict.ensemble, strict.evaluate, strict.figures.confusion):
        with pytest.raises(StudyError, match=r"No finished trial of study 'strict' satisfies macro_f1>=1\.1\."):
            method()
    assert strict.classifier(0).name == "trial 0"
