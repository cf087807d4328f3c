"""Several objectives and constraints: the records of trials, the proposals of samplers, and early stopping."""

import dataclasses
import importlib.util
import math

import numpy as np
import optuna
import pytest

from automl_cxr.engine.intermediate_values import read_scores, read_values
from automl_cxr.engine.optuna_proposer import SEVERAL_OBJECTIVES
from automl_cxr.engine.protocol import Decision, Outcome, Proposal, Report, TrialEnd, TrialRun
from automl_cxr.engine.registry import PRUNERS, SAMPLERS, build_proposer, check_proposer
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import InfeasibleError, UsageError
from tests.engine.simulation import CONDITIONAL, FINITE, N_FINITE, journal

STATE = optuna.trial.TrialState
EPOCHS = 6
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="Optuna's GP needs PyTorch")
SAMPLERS_FOR_SEVERAL = [
    pytest.param(name, marks=NEEDS_TORCH) if name == "gp" else name for name in SAMPLERS if name in SEVERAL_OBJECTIVES
]
PLANE = parse_space(
    """
[quality]
type = "float"
low = 0.0
high = 1.0
default = 0.5
[size]
type = "float"
low = 1.0
high = 100.0
default = 50.0
""",
    name="plane",
)


def open_study(storage=None, directions=("maximize", "minimize")):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=storage, study_name="s", directions=list(directions), load_if_exists=True)


def make(sampler="random", study=None, **settings):
    study = study or open_study()
    return study, build_proposer(
        study, **{"space": PLANE, "sampler": sampler, "pruner": "none", "epochs": EPOCHS, "seed": 3, **settings}
    )


def objective_values(values, epoch):
    """Return a score that grows with the epochs and a cost that does not change."""
    size = values.get("size", 10.0 * values.get("depth", 1))
    return values.get("quality", 0.3) - 0.2 / epoch, size


def run_one(proposer, violations=lambda values: {}):
    """Run a proposal to its end; return its number and its last epoch."""
    proposal = proposer.propose()
    if not isinstance(proposal, Proposal):
        return proposal
    for epoch in range(1, EPOCHS + 1):
        score, size = objective_values(proposal.values, epoch)
        if proposer.observe(proposal.number, Report(epoch, score, values=(score, size))) is Decision.STOP:
            proposer.finish(proposal.number, TrialEnd(Outcome.STOPPED))
            return proposal.number, epoch
    facts = {"score": score, "values": (score, size), "violations": violations(proposal.values)}
    proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts=facts))
    return proposal.number, EPOCHS


def run_refused_trial(proposer, violation=0.5):
    proposal = proposer.propose()
    facts = {"stopped_by": "constraint", "violations": {"size<=10": violation}, "n_parameters": 7}
    proposer.finish(proposal.number, TrialEnd(Outcome.REFUSED, facts=facts, error="size 20 > 10"))
    return proposal


@pytest.mark.parametrize("sampler", SAMPLERS_FOR_SEVERAL)
def test_every_supported_sampler_proposes_for_two_objectives(sampler, tmp_path):
    space = FINITE if sampler == "grid" else CONDITIONAL
    study, proposer = make(sampler, open_study(journal(tmp_path / "s")), space=space, pruner="asha")
    ends = dict(run_one(proposer) for _ in range(14))
    for trial in study.get_trials():
        space.check(trial.params)
        end = ends[trial.number]
        assert trial.state == (STATE.COMPLETE if end == EPOCHS else STATE.PRUNED)
        assert list(read_scores(trial)) == list(range(1, end + 1))
        assert read_values(trial, end) == objective_values(trial.params, end)
        assert trial.values == (list(objective_values(trial.params, end)) if end == EPOCHS else None)
    assert len(study.best_trials) >= 1
    if sampler == "grid":
        run_one(proposer)
        assert len(study.get_trials()) == N_FINITE


@pytest.mark.parametrize("sampler", SAMPLERS_FOR_SEVERAL)
def test_a_new_process_for_each_trial_makes_the_same_decisions_as_one_process(sampler, tmp_path):
    def ends(restart, name):
        space = FINITE if sampler == "grid" else PLANE
        study, proposer = make(sampler, open_study(journal(tmp_path / name)), space=space, pruner="asha")
        proposals = []
        for _ in range(12):
            if restart:
                study, proposer = make(sampler, open_study(journal(tmp_path / name)), space=space, pruner="asha")
            proposals.append(run_one(proposer))
        return proposals, [trial.params for trial in study.get_trials()]

    assert ends(True, "broken") == ends(False, "whole")


def test_asha_continues_the_best_third_by_pareto_rank_at_equal_epochs():
    study, proposer = make(pruner="asha")
    ends = dict(run_one(proposer) for _ in range(40))
    assert [ends[number] for number in range(6)] == [EPOCHS] * 6, "the first trials run to their end"
    assert set(ends.values()) == {2, EPOCHS}
    assert 15 <= list(ends.values()).count(2) <= 34
    for number in range(6, 40):  # each is compared with the trials that reached epoch 2 before it
        before = np.array([objective_values(trial.params, 2) for trial in study.get_trials()[: number + 1]]) * (-1, 1)
        n_dominating = sum((loss <= before[-1]).all() and (loss < before[-1]).any() for loss in before)
        if n_dominating > len(before) // 3:
            assert ends[number] == 2
        if ends[number] == 2:
            assert len(before) >= 3


def test_a_resumed_trial_writes_each_epoch_once():
    study, proposer = make(pruner="asha")
    proposal = proposer.propose()
    for epoch in (1, 2):
        proposer.observe(proposal.number, Report(epoch, 0.1 * epoch, values=(0.1 * epoch, None)))
    _, restarted = make(study=study, pruner="asha")
    assert restarted.resume(proposal.number) == dataclasses.replace(proposal, attempts=1)
    for epoch in (1, 2, 3):
        assert restarted.observe(proposal.number, Report(epoch, 0.1 * epoch, values=(0.1 * epoch, None))) is Decision.CONTINUE
    assert read_scores(study.get_trials()[0]) == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3})
    assert read_values(study.get_trials()[0], 3) == (pytest.approx(0.3), None)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in SEVERAL_OBJECTIVES])
def test_samplers_for_one_objective_are_rejected_for_two(sampler):
    for rejected_call in (
        lambda: make(sampler, space=CONDITIONAL),
        lambda: check_proposer(PLANE, sampler=sampler, pruner="none", n_objectives=2),
    ):
        with pytest.raises(UsageError, match=f"'{sampler}' supports one objective only; received 2. Use one of tpe"):
            rejected_call()


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name not in SEVERAL_OBJECTIVES])
def test_pruners_for_one_objective_are_rejected_for_two(pruner):
    with pytest.raises(UsageError, match=f"'{pruner}' supports one objective only; received 2. Use one of asha, none"):
        make(pruner=pruner)


# ------------------------------------------------------------------------------------------------------- constraints


def test_an_infeasible_error_ends_the_trial_as_refused():
    def objective(_):
        raise InfeasibleError("size 20 > 10", stopped_by="memory", violations={"memory": 0.7}, facts={"n_parameters": 7})
        yield

    ending = TrialRun(objective(Proposal(0, {}))).advance()
    assert ending == TrialEnd(
        Outcome.REFUSED,
        facts={"n_parameters": 7, "stopped_by": "memory", "violations": {"memory": 0.7}},
        error="size 20 > 10",
    )


@pytest.mark.parametrize("sampler", [*SAMPLERS_FOR_SEVERAL, pytest.param("cmaes"), "kt-random", "kt-hyperband"])
def test_a_refused_trial_is_pruned_with_its_violation_and_its_reason(sampler):
    one_objective = sampler not in SEVERAL_OBJECTIVES
    space = FINITE if sampler == "grid" else CONDITIONAL if one_objective else PLANE
    study, proposer = make(sampler, open_study(directions=["maximize"]) if one_objective else None, space=space)
    for _ in range(3):
        run_refused_trial(proposer)
    for trial in study.get_trials():
        assert trial.state == STATE.PRUNED
        assert trial.constraints == {"size<=10": 0.5}
        assert trial.user_attrs["refusal"] == "size 20 > 10"
        assert trial.user_attrs["stopped_by"] == "constraint"
        assert trial.values is None


def feasible_share(sampler, n_trials, directions):
    """Search with the constraint size <= 30 and scores that grow with size; return the feasible share of the later half."""
    study, proposer = make(sampler, open_study(directions=directions))
    for _ in range(n_trials):
        proposal = proposer.propose()
        quality, size = proposal.values["quality"], proposal.values["size"]
        violations = {"size<=30": math.log(size / 30)}
        values = (quality + size / 100, size)[: len(directions)]
        facts = {"score": values[0], "values": values if len(values) > 1 else None, "violations": violations}
        if size > 30 and sampler == "tpe":  # refused before training
            proposer.finish(proposal.number, TrialEnd(Outcome.REFUSED, facts={"violations": violations}, error="too large"))
        else:
            proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts=facts))
    later_trials = study.get_trials()[n_trials // 2 :]
    return sum(trial.params["size"] <= 30 for trial in later_trials) / len(later_trials)


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "maximize")], ids=["one", "two"])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", pytest.param("gp", marks=NEEDS_TORCH)])
def test_samplers_learn_where_the_constraint_is_satisfied(sampler, directions):
    share = feasible_share(sampler, 16 if sampler == "gp" else 80, directions)
    assert share > 0.5, "the share of random proposals is 0.3"


def test_kerastuner_gets_the_worst_score_for_a_violated_constraint():
    """Two records that differ only in the scores of infeasible trials lead to the same proposals."""

    def proposal_after(ignored_score):
        _, proposer = make("kt-bayesian", open_study(directions=["maximize"]))
        for number in range(10):
            proposal = proposer.propose()
            is_infeasible = number % 3 == 2
            score = ignored_score if is_infeasible else proposal.values["quality"]
            facts = {"score": score, "violations": {"size<=30": 0.1 if is_infeasible else -0.1}}
            proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts=facts))
        return proposer.propose().values

    assert proposal_after(2.0) == proposal_after(90.0)


def test_hyperband_of_kerastuner_promotes_feasible_trials_first():
    _, proposer = make("kt-hyperband", open_study(directions=["maximize"]), epochs=9)
    infeasible = set()
    while isinstance(proposal := proposer.propose(), Proposal) and proposal.parent is None:
        if proposal.number % 2:
            infeasible.add(proposal.number)
        score = proposal.values["quality"] + (10 if proposal.number in infeasible else 0)
        facts = {"score": score, "violations": {"size<=30": 0.1 if proposal.number in infeasible else -0.1}}
        proposer.observe(proposal.number, Report(1, score))
        proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts=facts))
    assert infeasible
    assert proposal.parent not in infeasible
