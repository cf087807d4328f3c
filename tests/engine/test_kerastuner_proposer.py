"""The conversion of spaces to KerasTuner, and its Hyperband with replacements for failed trials."""

import dataclasses
import random
from collections import Counter

import keras_tuner
import numpy as np
import optuna
import pytest
from keras_tuner.oracles import HyperbandOracle, RandomSearchOracle

from automl_cxr.engine.kerastuner_proposer import ORACLES, from_kerastuner, to_kerastuner
from automl_cxr.engine.protocol import Outcome, Pause, Report, TrialEnd
from automl_cxr.engine.registry import SAMPLERS, build_proposer
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.study.spaces import load_space, shipped
from tests.engine.simulation import CONDITIONAL, FINITE, Simulation, journal, open_study

STATE = optuna.trial.TrialState
EPOCHS = 9  # three brackets: 9, 3, 1 trials of 1, 3, 9 epochs; 5, 2 of 3, 9; 3 of 9
SIZES = {(2, 0): 9, (2, 1): 3, (2, 2): 1, (1, 0): 5, (1, 1): 2, (0, 0): 3}
N_SWEEP = sum(SIZES.values())


def sample_with_kerastuner(space, n):
    oracle = RandomSearchOracle(
        objective=keras_tuner.Objective("score", "max"), hyperparameters=to_kerastuner(space), seed=1, max_trials=None
    )
    return [from_kerastuner(space, oracle.populate_space(str(number))["values"]) for number in range(n)]


@pytest.mark.parametrize("name", [*shipped("search_spaces"), "conditional"])
def test_the_possible_values_are_exactly_those_of_the_space(name):
    space = CONDITIONAL if name == "conditional" else load_space(name)
    n = 1500
    numpy_points, kerastuner_points = (
        [space.sample(np.random.default_rng(number)) for number in range(n)],
        sample_with_kerastuner(space, n),
    )
    for point in kerastuner_points:
        space.check(point)
    assert {frozenset(point) for point in kerastuner_points} == {frozenset(point) for point in numpy_points}, (
        "the same combinations of active parameters"
    )
    for parameter in space.parameters:
        values = [
            [point[parameter.name] for point in points if parameter.name in point]
            for points in (numpy_points, kerastuner_points)
        ]
        if not values[0]:
            assert not values[1]
        elif (grid := parameter.grid()) is not None and len(grid) <= 20:
            assert {(type(value), value) for value in values[1]} == {(type(value), value) for value in grid}
            assert set(values[0]) == set(values[1])
        else:
            width = parameter.high - parameter.low
            for reached in values:
                assert min(reached) < parameter.low + 0.02 * width
                assert max(reached) > parameter.high - 0.1 * width
            middles = [float(np.median(reached)) for reached in values]
            assert middles[0] == pytest.approx(middles[1], rel=0.35), "values are drawn on the same scale"


def test_a_kerastuner_space_has_conditions_and_defaults():
    hyperparameters = to_kerastuner(FINITE)
    depth, shift = (next(hp for hp in hyperparameters.space if hp.name == name) for name in ("depth", "shift"))
    assert depth.default == 1
    assert shift.conditions[0].get_config() == {"name": "batch_norm", "values": [0]}
    assert from_kerastuner(FINITE, hyperparameters.values) == FINITE.preset()


def test_the_end_of_a_logarithmic_scale_is_clipped():
    space = parse_space('[units]\ntype = "int"\nlow = 3\nhigh = 96\nlog = true', name="log")
    assert from_kerastuner(space, {"units": to_kerastuner(space).space[-1].prob_to_value(1.0)}) == {"units": 96}


def make(study=None, **settings):
    study = study or open_study()
    settings = {"pruner": "asha", "epochs": EPOCHS, "seed": 3, **settings}
    return study, build_proposer(study, settings.pop("space", CONDITIONAL), sampler="kt-hyperband", **settings)


def slots(study, *, include_failed=True):
    counted = [trial for trial in study.get_trials() if include_failed or trial.state != STATE.FAIL]
    return Counter((trial.user_attrs["bracket"], trial.user_attrs["round"]) for trial in counted)


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_a_sweep_fills_every_bracket_promotes_the_best_and_ends(concurrency):
    study, proposer = make()
    simulation = Simulation(EPOCHS, concurrency=concurrency)
    assert simulation.run(proposer, n_trials=1000) is Pause.OVER
    assert slots(study) == SIZES
    trials = study.get_trials()
    epochs = {(bracket, round_): EPOCHS // 3 ** (bracket - round_) for bracket, round_ in SIZES}
    for trial, proposal in zip(trials, simulation.proposals, strict=True):
        rung = epochs[trial.user_attrs["bracket"], trial.user_attrs["round"]]
        assert proposal.epochs == trial.user_attrs["rung"] == rung
        assert trial.state == (STATE.COMPLETE if rung == EPOCHS else STATE.PRUNED)
        if proposal.parent is not None:
            parent = trials[proposal.parent]
            assert parent.params == trial.params == proposal.values
            assert min(trial.intermediate_values) == parent.user_attrs["rung"] + 1
    for bracket, round_ in [(2, 0), (2, 1), (1, 0)]:
        rung = [t for t in trials if (t.user_attrs["bracket"], t.user_attrs["round"]) == (bracket, round_)]
        promoted = {t.user_attrs["parent"] for t in trials if "parent" in t.user_attrs}
        best = sorted(rung, key=lambda t: -t.user_attrs["score"])[: SIZES[bracket, round_ + 1]]
        assert {t.number for t in rung} & promoted == {t.number for t in best}
    states = [trial.state for trial in trials]
    assert proposer.n_planned_full_trials == states.count(STATE.COMPLETE) == 6
    assert states.count(STATE.PRUNED) == N_SWEEP - 6
    assert len({trial.user_attrs["parent"] for trial in trials if "parent" in trial.user_attrs}) == 6


def test_the_lowest_score_is_best_in_a_minimising_study():
    study, proposer = make(open_study(direction="minimize"))
    Simulation(EPOCHS, sign=-1).run(proposer, n_trials=1000)
    trials = study.get_trials()
    rung = [trial for trial in trials if (trial.user_attrs["bracket"], trial.user_attrs["round"]) == (1, 0)]
    promoted = {
        trial.user_attrs["parent"] for trial in trials if trial.user_attrs["bracket"] == 1 and "parent" in trial.user_attrs
    }
    assert promoted == {trial.number for trial in sorted(rung, key=lambda trial: trial.user_attrs["score"])[:2]}


def test_a_promoted_trial_keeps_its_parents_seed():
    study, proposer = make(sign=lambda number: {"seed": 100 + number})
    Simulation(EPOCHS).run(proposer, n_trials=1000)
    trials = study.get_trials()
    for trial in trials:
        parent = trial.user_attrs.get("parent")
        assert trial.user_attrs["seed"] == (100 + trial.number if parent is None else trials[parent].user_attrs["seed"])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_search_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(concurrency, tmp_path):
    def sweep(name, kills):
        study, proposer = make(open_study(journal(tmp_path / name)))
        simulation = Simulation(EPOCHS, concurrency=concurrency, fails=lambda proposal: proposal.number in (1, 7, 12))
        for n_trials in [*kills, 1000]:
            simulation.run(proposer, n_trials=n_trials)
            if n_trials < 1000:
                study, proposer = make(open_study(journal(tmp_path / name)))
        return [(t.number, t.params, t.state, t.user_attrs.get("parent")) for t in study.get_trials()]

    batches = [4, 8, 12, 16, 20, 24]  # with four concurrent trials, the uninterrupted search must pause at the same numbers
    uninterrupted = sweep("whole", batches) if concurrency == 4 else sweep("whole", [])
    assert sweep("broken", batches) == uninterrupted


def test_trials_of_a_killed_rung_are_resumed_in_their_rung(tmp_path):
    _, proposer = make(open_study(journal(tmp_path / "s")))
    simulation = Simulation(EPOCHS)
    simulation.run(proposer, n_trials=9)
    promoted = proposer.propose()
    assert promoted.parent is not None
    study, restarted = make(open_study(journal(tmp_path / "s")))
    assert restarted.resume(promoted.number) == dataclasses.replace(promoted, attempts=1)
    simulation.run(restarted, n_trials=1000, resumed=[promoted])
    assert slots(study) == SIZES


# ----------------------------------------------------------------------------------- replacement of failed trials


def run_kerastuner_hyperband(tmp_path, fails, rng):
    """Run Hyperband with the public calls of KerasTuner's Tuner; return the number of promoted trials with full epochs."""
    oracle = HyperbandOracle(
        objective=keras_tuner.Objective("score", "max"),
        max_epochs=EPOCHS,
        hyperparameters=to_kerastuner(CONDITIONAL),
        seed=1,
        max_consecutive_failed_trials=1000,
    )
    oracle._set_project_dir(str(tmp_path), "theirs")
    oracle.verbose = 0
    n_full = 0
    while (trial := oracle.create_trial("tuner")).status == "RUNNING":
        values = trial.hyperparameters.values
        if values["tuner/round"] == 0 and fails(rng):
            trial.status = "FAILED"
        else:
            oracle.update_trial(trial.trial_id, {"score": rng.random()}, step=values["tuner/epochs"])
            trial.status = "COMPLETED"
            n_full += values["tuner/epochs"] == EPOCHS and values["tuner/round"] > 0
        oracle.end_trial(trial)
    return n_full


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner 1.4.8 calls a deprecated function of threading
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4])
def test_failures_in_the_first_round_are_replaced_unlike_in_kerastuner(rate, tmp_path):
    n_promoted_by_kerastuner = run_kerastuner_hyperband(tmp_path, lambda rng: rng.random() < rate, random.Random(4))
    rng, failures = random.Random(4), {}

    def fails(proposal):
        failures.setdefault(proposal.number, proposal.parent is None and rng.random() < rate)
        return failures[proposal.number]

    study, proposer = make()
    assert Simulation(EPOCHS, concurrency=2, fails=fails).run(proposer, n_trials=1000) is Pause.OVER
    n_promoted = sum(t.state == STATE.COMPLETE and t.user_attrs["round"] > 0 for t in study.get_trials())
    assert slots(study, include_failed=False) == SIZES
    assert n_promoted == SIZES[2, 2] + SIZES[1, 1]
    assert n_promoted_by_kerastuner == n_promoted if rate == 0 else n_promoted_by_kerastuner < n_promoted
    states = [trial.state for trial in study.get_trials()]
    assert states.count(STATE.COMPLETE) == proposer.n_planned_full_trials
    assert states.count(STATE.FAIL) == sum(failures.values())


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.STOPPED])
def test_a_promoted_trial_that_does_not_reach_its_rung_is_replaced(outcome):
    study, proposer = make()
    simulation = Simulation(EPOCHS)
    simulation.run(proposer, n_trials=9)
    promoted = proposer.propose()
    proposer.observe(promoted.number, Report(2, 0.99))
    facts = {} if outcome is Outcome.FAILED else {"stopped_by": "time"}
    proposer.finish(promoted.number, TrialEnd(outcome, facts=facts))
    simulation.proposals.append(promoted)
    assert simulation.run(proposer, n_trials=1000) is Pause.OVER
    trials = study.get_trials()
    assert sum(trial.user_attrs.get("parent") == promoted.parent for trial in trials) == 1, "it is not promoted again"
    assert sum(trial.state == STATE.COMPLETE for trial in trials) == 6
    assert slots(study) == Counter(SIZES) + Counter({(2, 0): 1, (2, 1): 1}), "its slots in both rounds are filled by new trials"


def test_trials_of_an_earlier_search_are_ignored():
    study = open_study()
    tpe = build_proposer(study, CONDITIONAL, sampler="tpe", pruner="none", epochs=EPOCHS, seed=3)
    Simulation(EPOCHS).run(tpe, n_trials=3)
    _, proposer = make(study)
    simulation = Simulation(EPOCHS)
    simulation.proposals = [None] * 3
    simulation._first_epoch = lambda proposal: 1
    simulation.run(proposer, n_trials=1000)
    assert Counter((t.user_attrs["bracket"], t.user_attrs["round"]) for t in study.get_trials()[3:]) == SIZES


def test_the_names_in_the_registry_are_those_of_the_oracles():
    assert [name for name in SAMPLERS if name.startswith("kt-")] == list(ORACLES)
