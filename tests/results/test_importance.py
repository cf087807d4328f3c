"""Importances of simulated trials with a known decisive hyperparameter in a real storage."""

import optuna
import pytest

from automl_cxr.engine.base_proposer import suggest
from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.results.figures import Figures
from automl_cxr.results.importance import EVALUATORS, importance_table
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study

SPACE = """
[dropout]
type = "float"
low = 0.0
high = 0.5
[learning_rate]
type = "float"
low = 1e-5
high = 1e-1
log = true
[n_blocks]
type = "int"
low = 2
high = 2
[loss]
type = "choice"
values = ["ce", "focal"]
[focal_gamma]
type = "float"
low = 0.5
high = 5.0
when = { loss = ["focal"] }
"""


@pytest.fixture
def store(tmp_path, phantoms):
    (tmp_path / "space.toml").write_text(SPACE)
    request = SearchOptions(space=str(tmp_path / "space.toml"), data=str(phantoms), name="s", image_size=32)
    return prepare_study(request, runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}").store


def add_trials(store, n, score):
    study = store.study
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, score(store.spec.space.resolve(lambda parameter: suggest(trial, parameter))))  # noqa: B023


def quadratic(values):
    return 1 - (values["dropout"] - 0.1) ** 2 - 1e-3 * (values["loss"] == "focal")


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_decisive_hyperparameter_is_first_and_omitted_ones_have_a_reason(store, evaluator):
    add_trials(store, 40, quadratic)
    table = importance_table(store, evaluator=evaluator).set_index("parameter")
    assert table.index[0] == "dropout"
    assert table["importance"].iloc[0] > 0.5
    assert table["importance"].sum() == pytest.approx(1.0)
    assert table.loc["n_blocks", "left_out"] == "one value in all trials"
    n_focal = table.loc["focal_gamma", "trials"]
    assert 4 <= n_focal < 40
    if evaluator == "fanova":
        assert table.loc["focal_gamma", "left_out"] == f"not active in {40 - n_focal} trials; use --evaluator ped-anova"
    else:
        assert table.loc["focal_gamma", "left_out"] == ""
        assert table.loc["focal_gamma", "importance"] >= 0
    bars = Figures(store).importance(evaluator=evaluator).data[0]
    assert list(bars.y)[::-1] == list(table.index[table["left_out"] == ""])


@pytest.mark.parametrize(
    ("n", "score", "rule"), [(3, quadratic, "need at least 4 complete trials"), (6, lambda _: 0.5, "have the same score")]
)
def test_too_few_or_equal_scores_are_refused(store, n, score, rule):
    add_trials(store, n, score)
    with pytest.raises(StudyError, match=rule):
        importance_table(store)


def test_an_unknown_evaluator_gets_a_suggestion(store):
    with pytest.raises(UnknownNameError, match="Did you mean 'ped-anova'"):
        importance_table(store, evaluator="pedanova")
