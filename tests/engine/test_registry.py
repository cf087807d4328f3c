"""The contract of all proposers, on which the runner, the record and the dashboards rely."""

import dataclasses
import importlib.util
import random

import optuna
import pytest

from automl_cxr.engine.protocol import Decision, Outcome, Pause, Report, TrialEnd
from automl_cxr.engine.registry import SAMPLERS, build_proposer, check_proposer
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import SpaceError, UnknownNameError, UsageError
from tests.engine.simulation import CONDITIONAL, FINITE, N_FINITE, Simulation, journal, open_study

STATE = optuna.trial.TrialState
EPOCHS = 9
GRIDS = ("grid", "kt-grid")
HAS_TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = pytest.mark.skipif(not HAS_TORCH, reason="Optuna's GP needs PyTorch, which is not installed")
ALL = [pytest.param(name, marks=NEEDS_TORCH) if name == "gp" else name for name in SAMPLERS]
FREE = [entry for entry in ALL if entry not in GRIDS]


def limit_trials(sampler, n_trials):
    """Limit the trials of KerasTuner's Gaussian process, which takes seconds for each proposal after the eighth."""
    return min(n_trials, 9) if sampler == "kt-bayesian" else n_trials


def space_of(sampler):
    return FINITE if sampler in GRIDS else CONDITIONAL


def make(sampler, study=None, **settings):
    study = study or open_study()
    settings = {"pruner": "none", "epochs": EPOCHS, "seed": 3, **settings}
    return study, build_proposer(study, settings.pop("space", space_of(sampler)), sampler=sampler, **settings)


@pytest.mark.long
@pytest.mark.parametrize("sampler", ALL)
def test_every_proposal_is_a_point_of_the_space_and_is_recorded_unchanged(sampler):
    study, proposer = make(sampler)
    simulation = Simulation(EPOCHS)
    simulation.run(proposer, n_trials=limit_trials(sampler, 14))
    space = space_of(sampler)
    assert [proposal.number for proposal in simulation.proposals] == list(range(limit_trials(sampler, 14)))
    assert simulation.proposals[0].values == space.preset()
    for proposal, trial in zip(simulation.proposals, study.get_trials(), strict=True):
        space.check(proposal.values)
        assert trial.params == proposal.values
        assert {name: type(value) for name, value in trial.params.items()} == {
            name: type(value) for name, value in proposal.values.items()
        }


@pytest.mark.parametrize("sampler", ALL)
def test_concurrent_trials_and_failures_are_handled(sampler):
    study, proposer = make(sampler, sign=lambda number: {"driver": "me", "seed": 10 + number})
    simulation = Simulation(EPOCHS, concurrency=3, fails=lambda proposal: proposal.number in (2, 3, 8))
    simulation.run(proposer, n_trials=limit_trials(sampler, 14))
    trials = study.get_trials()
    assert len(trials) == limit_trials(sampler, 14)
    assert [trial.number for trial in trials if trial.state == STATE.FAIL] == [2, 3, 8]
    assert {trials[number].user_attrs["error"] for number in (2, 3, 8)} == {"ValueError: made to fail"}
    assert all(trial.user_attrs["driver"] == "me" for trial in trials)


@pytest.mark.long
@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_outcomes_are_recorded_in_both_directions(sampler, direction):
    study = open_study(direction=direction)
    _, proposer = make(sampler, study)
    simulation = Simulation(EPOCHS, concurrency=2, sign=1 if direction == "maximize" else -1)
    simulation.run(proposer, n_trials=limit_trials(sampler, 15))
    for trial, proposal in zip(study.get_trials(), simulation.proposals, strict=True):
        last = proposal.epochs or EPOCHS
        assert trial.state == (STATE.COMPLETE if last == EPOCHS else STATE.PRUNED)
        assert max(trial.intermediate_values) == last
        assert trial.value == trial.intermediate_values[last]
        assert trial.user_attrs.get("parent") == proposal.parent


@pytest.mark.parametrize("sampler", ALL)
def test_a_new_process_for_each_trial_makes_the_same_decisions_as_one_process(sampler, tmp_path):
    def points(restart, name):
        simulation = Simulation(EPOCHS)
        _, proposer = make(sampler, open_study(journal(tmp_path / name)), pruner="asha")
        for n_trials in range(1, 1 + limit_trials(sampler, 14)):
            if restart:
                _, proposer = make(sampler, open_study(journal(tmp_path / name)), pruner="asha")
            simulation.run(proposer, n_trials=n_trials)
        return simulation.proposals

    assert points(True, "broken") == points(False, "whole")


@pytest.mark.parametrize("sampler", ALL)
def test_the_trials_of_a_killed_search_are_resumed(sampler, tmp_path):
    _, proposer = make(sampler, open_study(journal(tmp_path / "studies")))
    proposals = [proposer.propose() for _ in range(3)]
    proposer.observe(proposals[1].number, Report(1, 0.5))
    study, restarted = make(sampler, open_study(journal(tmp_path / "studies")))
    resumed = [restarted.resume(proposal.number) for proposal in proposals]
    assert resumed == [dataclasses.replace(proposal, attempts=1) for proposal in proposals]
    simulation = Simulation(EPOCHS, concurrency=3)
    simulation.run(restarted, n_trials=6, resumed=resumed)
    trials = study.get_trials()
    assert [trial.user_attrs.get("attempts") for trial in trials] == [2, 2, 2, None, None, None]
    assert all(trial.state.is_finished() for trial in trials)
    assert trials[1].intermediate_values[1] == 0.5


@pytest.mark.parametrize("sampler", ALL)
def test_a_trial_without_values_gets_them(sampler):
    study, proposer = make(sampler)
    Simulation(EPOCHS).run(proposer, n_trials=3)
    study.ask()  # the process ends before it records values
    _, restarted = make(sampler, study)
    resumed = restarted.resume(3)
    space_of(sampler).check(resumed.values)
    restarted.finish(3, TrialEnd(Outcome.FAILED, error="no"))
    assert study.get_trials()[3].params == resumed.values


@pytest.mark.parametrize("sampler", ALL)
def test_an_enqueued_configuration_is_proposed_next(sampler):
    study, proposer = make(sampler)
    Simulation(EPOCHS).run(proposer, n_trials=2)
    enqueued = (
        next(point for point in space_of(sampler).fix({}).points()) if sampler in GRIDS else {"dropout": 0.125, "depth": 2}
    )
    study.enqueue_trial(enqueued)
    proposal = proposer.propose()
    assert {name: proposal.values[name] for name in enqueued} == enqueued
    space_of(sampler).check(proposal.values)


@pytest.mark.parametrize("sampler", [entry for entry in FREE if entry != "kt-bayesian"])  # takes seconds for each proposal
def test_no_point_of_a_small_space_is_evaluated_twice_before_all_others(sampler):
    _, proposer = make(sampler, space=FINITE, epochs=1)
    simulation = Simulation(1)
    simulation.run(proposer, n_trials=N_FINITE + 3)
    keys = [FINITE.key(proposal.values) for proposal in simulation.proposals]
    if sampler == "kt-hyperband":  # with one epoch: one bracket of one trial
        assert len(keys) == 1
    else:
        assert len(set(keys[:N_FINITE])) == N_FINITE
        assert len(keys) == N_FINITE + 3, "the last three are replicates"


@pytest.mark.parametrize("sampler", GRIDS)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_grid_evaluates_every_point_once_and_ends(sampler, concurrency):
    study, proposer = make(sampler)
    simulation = Simulation(EPOCHS, concurrency=concurrency, fails=lambda proposal: proposal.number == 4)
    assert simulation.run(proposer, n_trials=100) is Pause.OVER
    keys = [FINITE.key(proposal.values) for proposal in simulation.proposals]
    assert len(keys) == N_FINITE
    assert set(keys) == {FINITE.key(point) for point in FINITE.points()}
    _, restarted = make(sampler, study)
    assert restarted.propose() is Pause.OVER


@pytest.mark.parametrize("sampler", GRIDS)
def test_a_grid_rejects_an_infinite_space(sampler):
    with pytest.raises(SpaceError, match=r"'dropout' can be any number from 0\.0 to 0\.5\. Give it a step"):
        make(sampler, space=CONDITIONAL)
    with pytest.raises(SpaceError, match="Give it a step"):
        check_proposer(CONDITIONAL, sampler=sampler, pruner="none")


@pytest.mark.parametrize("sampler", FREE)
def test_a_space_without_parameters_gives_replicates(sampler):
    study, proposer = make(sampler, space=Space("fixed", {"depth": 2, "batch_norm": True}, ()), epochs=3)
    for number in range(3):
        assert proposer.propose().values == {}
        proposer.finish(number, TrialEnd(Outcome.FINISHED, facts={"score": 0.5}))
    assert len(study.get_trials()) == 3


@pytest.mark.parametrize("sampler", FREE)
def test_a_space_of_one_parameter_is_supported(sampler):
    for text in (
        '[dropout]\ntype = "float"\nlow = 0.0\nhigh = 0.5',
        '[loss]\ntype = "choice"\nvalues = ["ce", "focal", "mse"]',
    ):
        space = parse_space(text, name="one")
        _, proposer = make(sampler, space=space)
        for number in range(10):
            proposal = proposer.propose()
            space.check(proposal.values)
            if not isinstance(proposal.epochs, int) or proposal.parent is None:
                proposer.observe(number, Report(1, 0.1))
            proposer.finish(number, TrialEnd(Outcome.FINISHED, facts={"score": random.Random(number).random()}))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in ALL if name not in (*GRIDS, "kt-hyperband")])
def test_the_pruner_stops_trials_of_every_proposer(sampler):
    study, proposer = make(sampler, pruner="hyperband")
    Simulation(EPOCHS).run(proposer, n_trials=limit_trials(sampler, 20))
    states = [trial.state for trial in study.get_trials()]
    assert states[:6] == [STATE.COMPLETE] * 6
    assert states.count(STATE.PRUNED) + states.count(STATE.COMPLETE) == len(states)
    for trial in study.get_trials(states=[STATE.PRUNED]):
        assert trial.last_step < EPOCHS


@pytest.mark.parametrize("sampler", ["cmaes", "nsga2", "nsga3", "kt-bayesian", pytest.param("gp", marks=NEEDS_TORCH)])
def test_the_scores_of_stopped_trials_do_not_mislead(sampler):
    """Two records that differ only in the scores of PRUNED trials lead to the same proposals."""

    def proposals_after(ignored_score):
        study, proposer = make(sampler)
        for number in range(14 if sampler == "kt-bayesian" else 30):
            proposal = proposer.propose()
            is_stopped = number % 3 == 2
            proposer.observe(number, Report(1, ignored_score if is_stopped else 0.1 + 0.5 * proposal.values["dropout"]))
            facts = {} if is_stopped else {"score": 0.1 + 0.5 * proposal.values["dropout"]}
            proposer.finish(number, TrialEnd(Outcome.STOPPED if is_stopped else Outcome.FINISHED, facts=facts))
        return [trial.params for trial in study.get_trials()]

    assert proposals_after(0.99) == proposals_after(0.01)


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2", "kt-bayesian", pytest.param("gp", marks=NEEDS_TORCH)])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_learning_samplers_prefer_regions_with_better_scores(sampler, direction):
    sign = 1 if direction == "maximize" else -1
    space = parse_space('[x]\ntype = "float"\nlow = 0.0\nhigh = 1.0\n[y]\ntype = "float"\nlow = 0.0\nhigh = 1.0', name="square")
    _, proposer = make(sampler, open_study(direction=direction), space=space)
    n_trials = 24 if sampler == "kt-bayesian" else 60
    scores = []
    for number in range(n_trials):
        values = proposer.propose().values
        score = sign * (1 - (values["x"] - 0.9) ** 2 - (values["y"] - 0.2) ** 2)
        proposer.finish(number, TrialEnd(Outcome.FINISHED, facts={"score": score}))
        scores.append(sign * score)
    assert sum(scores[-10:]) / 10 > sum(scores[:10]) / 10 + 0.1


def test_a_trial_out_of_time_is_pruned_with_every_proposer():
    for sampler in ("tpe", "kt-hyperband"):
        study, proposer = make(sampler)
        proposal = proposer.propose()
        assert proposer.observe(proposal.number, Report(1, 0.5)) is Decision.CONTINUE
        proposer.finish(proposal.number, TrialEnd(Outcome.STOPPED, facts={"stopped_by": "time"}))
        assert study.get_trials()[0].state == STATE.PRUNED


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is installed")
def test_the_error_of_gp_names_the_missing_library():
    with pytest.raises(UsageError, match=r"Install automl-cxr\[gp\]"):
        make("gp")
    with pytest.raises(UsageError, match=r"Install automl-cxr\[gp\]"):
        check_proposer(CONDITIONAL, sampler="gp", pruner="none")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [({"sampler": "kt-hyperbnd"}, "kt-hyperband"), ({"sampler": "kt-random", "pruner": "hyperbnd"}, "hyperband")],
)
def test_unknown_names_are_rejected(wrong, nearest):
    names = {"sampler": "tpe", "pruner": "none", **wrong}
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        build_proposer(open_study(), CONDITIONAL, epochs=9, seed=0, **names)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        check_proposer(CONDITIONAL, **names)
