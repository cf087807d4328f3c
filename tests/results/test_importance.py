"""Importances of simulated trials with a known decisive hyperparameter in a real storage."""

import random

import optuna
import pytest

from automl_cxr.engine.base_proposer import suggest, to_optuna
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
    assert table.loc["n_blocks", "left_out"] == "one value in all trials"
    assert not table.loc["dropout", "conditional"]


def add_focal_trials(store, n_focal, n_others, score):
    """Add trials with a given number of focal ones, in which the score is a function of the conditional hyperparameter."""
    space = store.spec.space
    distributions = {parameter.name: to_optuna(parameter) for parameter in space.parameters}
    rng = random.Random(0)
    for number in range(n_focal + n_others):
        values = {"dropout": rng.uniform(0, 0.5), "learning_rate": 10 ** rng.uniform(-5, -1), "n_blocks": 2, "loss": "ce"}
        if number < n_focal:
            values |= {"loss": "focal", "focal_gamma": rng.uniform(0.5, 5.0)}
        store.study.add_trial(
            optuna.trial.create_trial(
                params=values, distributions={name: distributions[name] for name in values}, value=score(values)
            )
        )


def by_gamma(values):
    return values["focal_gamma"] / 10 if "focal_gamma" in values else 0.2 + values["dropout"] / 5


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_conditional_hyperparameter_is_compared_within_its_trials_and_is_not_ranked_among_the_others(store, evaluator):
    add_focal_trials(store, n_focal=7, n_others=39, score=by_gamma)
    table = importance_table(store, evaluator=evaluator)
    assert list(table["parameter"])[3:] == ["focal_gamma", "n_blocks"]
    ranking = table[~table["conditional"] & (table["left_out"] == "")]
    assert set(ranking["parameter"]) == {"dropout", "learning_rate", "loss"}
    assert ranking["importance"].sum() == pytest.approx(1.0)
    assert set(ranking["trials"]) == {46}
    focal = table.set_index("parameter").loc["focal_gamma"]
    assert (focal["trials"], bool(focal["conditional"]), focal["left_out"]) == (7, True, "")
    assert 0 < focal["importance"] < 1  # dropout and the learning rate share the rest; the loss has one value in these trials
    first, second = Figures(store).importance(evaluator=evaluator).data
    assert list(first.y) == list(ranking["parameter"])
    assert list(second.y) == ["focal_gamma (7 trials)"]
    assert second.x[0] == focal["importance"]


def test_the_importances_over_all_trials_do_not_depend_on_conditional_hyperparameters(store):
    add_focal_trials(store, n_focal=7, n_others=39, score=by_gamma)
    ranking = importance_table(store).set_index("parameter")["importance"]
    study = optuna.create_study(direction="maximize")
    for trial in store.study.trials:
        unconditional = {name: value for name, value in trial.params.items() if name not in ("focal_gamma", "n_blocks")}
        distributions = {name: trial.distributions[name] for name in unconditional}
        study.add_trial(optuna.trial.create_trial(value=trial.value, params=unconditional, distributions=distributions))
    expected = optuna.importance.get_param_importances(study)
    assert {name: ranking[name] for name in expected} == pytest.approx(expected)


def test_a_conditional_hyperparameter_of_too_few_trials_is_left_out(store):
    add_focal_trials(store, n_focal=3, n_others=20, score=by_gamma)
    assert importance_table(store).set_index("parameter").loc["focal_gamma", "left_out"] == "active in 3 complete trials"


def test_a_conditional_hyperparameter_whose_trials_have_one_score_is_left_out(store):
    add_focal_trials(store, n_focal=5, n_others=20, score=lambda values: 0.3 if "focal_gamma" in values else values["dropout"])
    table = importance_table(store).set_index("parameter")
    assert table.loc["focal_gamma", "left_out"] == "the same score in all its trials"


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
