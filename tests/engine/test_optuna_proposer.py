import dataclasses

import optuna
import pytest

from automl_cxr.engine.optuna_proposer import PRUNERS, OptunaProposer, first_rung, shortest_trial
from automl_cxr.engine.protocol import Decision, Outcome, Proposal, Report, TrialEnd
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import UnknownNameError

SPACE = parse_space(
    """
[dropout]
type = "float"
low = 0.0
high = 0.5
default = 0.25
[loss]
type = "choice"
values = ["ce", "focal"]
default = "ce"
[focal_gamma]
type = "float"
low = 0.5
high = 5.0
when = { loss = ["focal"] }
""",
    name="small",
)
STATE = optuna.trial.TrialState
EPOCHS = 9


def open_study(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'studies.db'}", study_name="s", direction="maximize", load_if_exists=True
    )


def make(tmp_path, **settings):
    study = open_study(tmp_path)
    return study, OptunaProposer(study, SPACE, **{"epochs": EPOCHS, "seed": 3, **settings})


def score_of(values, epoch):
    return 0.9 - values["dropout"] - (0.2 if values["loss"] == "focal" else 0.0) - 0.3 / epoch


def run_one(proposer):
    """Run one proposal to its end; return its number, its values and its last epoch."""
    proposal = proposer.propose()
    for epoch in range(1, EPOCHS + 1):
        if proposer.observe(proposal.number, Report(epoch, score_of(proposal.values, epoch))) is Decision.STOP:
            proposer.finish(proposal.number, TrialEnd(Outcome.STOPPED))
            return proposal.number, proposal.values, epoch
    score = score_of(proposal.values, EPOCHS)
    proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={"score": score, "best_epoch": EPOCHS}))
    return proposal.number, proposal.values, EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pruner", "sampler"), [*((pruner, "tpe") for pruner in PRUNERS if pruner != "median"), ("median", "random")]
)
def test_an_interrupted_search_makes_the_same_decisions_as_an_uninterrupted_one(tmp_path, sampler, pruner):
    uninterrupted_folder, interrupted_folder = tmp_path / "whole", tmp_path / "broken"
    uninterrupted_folder.mkdir()
    interrupted_folder.mkdir()
    _, proposer = make(uninterrupted_folder, sampler=sampler, pruner=pruner)
    uninterrupted = [run_one(proposer) for _ in range(14)]
    interrupted = []
    for _ in range(14):  # a new process for each trial
        _, proposer = make(interrupted_folder, sampler=sampler, pruner=pruner)
        interrupted.append(run_one(proposer))
    assert interrupted == uninterrupted


@pytest.mark.slow
def test_asha_stops_trials_at_its_rungs_and_records_them(tmp_path):
    study, proposer = make(tmp_path, sampler="random")
    ends = [run_one(proposer)[2] for _ in range(30)]
    states = [trial.state for trial in study.get_trials()]
    assert ends[:6] == [EPOCHS] * 6, "the first trials run to their end"
    assert set(ends) == {3, 9}
    assert [state == STATE.PRUNED for state in states] == [end < EPOCHS for end in ends]
    assert states.count(STATE.PRUNED) >= 10
    for trial, end in zip(study.get_trials(), ends, strict=True):
        assert list(trial.intermediate_values) == list(range(1, end + 1))
        assert trial.value == pytest.approx(score_of(trial.params, end))


@pytest.mark.long
def test_median_stops_no_trial_before_a_ninth_of_the_epochs(tmp_path):
    _, proposer = make(tmp_path, sampler="random", pruner="median")
    ends = [run_one(proposer)[2] for _ in range(30)]
    assert min(ends) == shortest_trial(EPOCHS)
    assert ends[:6] == [EPOCHS] * 6


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_repeated_trial_is_not_compared_by_its_later_epochs(tmp_path, pruner):
    _, proposer = make(tmp_path, sampler="random", pruner=pruner)
    for _ in range(8):
        run_one(proposer)
    proposal = proposer.propose()
    reports = [Report(epoch, 1.0 if epoch < EPOCHS else 0.0) for epoch in range(1, EPOCHS + 1)]
    assert [proposer.observe(proposal.number, report) for report in reports] == [Decision.CONTINUE] * EPOCHS
    _, restarted = make(tmp_path, sampler="random", pruner=pruner)
    restarted.resume(proposal.number)
    assert [restarted.observe(proposal.number, report) for report in reports] == [Decision.CONTINUE] * EPOCHS


@pytest.mark.parametrize("pruner", sorted(PRUNERS.keys() - {"none"}))
def test_a_resumed_trial_gets_the_same_decisions_if_its_end_was_not_recorded(tmp_path, pruner):
    _, proposer = make(tmp_path, sampler="random", pruner=pruner)
    while True:  # only the first bracket of hyperband stops trials this early
        proposal, decisions = proposer.propose(), []
        while Decision.STOP not in decisions and len(decisions) < EPOCHS:
            decisions.append(proposer.observe(proposal.number, Report(len(decisions) + 1, 0.5 - proposal.number / 1000)))
        if Decision.STOP in decisions:
            break
        proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={"score": 0.5}))
    _, restarted = make(tmp_path, sampler="random", pruner=pruner)
    restarted.resume(proposal.number)
    repeated_decisions = [
        restarted.observe(proposal.number, Report(epoch, 0.5 - proposal.number / 1000))
        for epoch in range(1, len(decisions) + 1)
    ]
    assert repeated_decisions == decisions


def test_no_trial_is_stopped_at_the_last_epoch(tmp_path):
    _, proposer = make(tmp_path, sampler="random", epochs=6)
    proposals = [proposer.propose() for _ in range(12)]
    for proposal in proposals:
        for epoch in range(1, 6):
            proposer.observe(proposal.number, Report(epoch, 1 - proposal.number / 100))
        assert proposer.observe(proposal.number, Report(6, 1 - proposal.number / 100)) is Decision.CONTINUE


def test_a_resumed_trial_keeps_its_values_and_ends_once(tmp_path):
    study, proposer = make(tmp_path)
    run_one(proposer)
    proposal = proposer.propose()
    proposer.observe(proposal.number, Report(1, 0.5))
    _, restarted = make(tmp_path)
    resumed = restarted.resume(proposal.number)
    assert resumed == dataclasses.replace(proposal, attempts=1)
    for epoch in (1, 2, 3):
        assert restarted.observe(resumed.number, Report(epoch, 0.5 + epoch / 10)) is Decision.CONTINUE
    restarted.finish(resumed.number, TrialEnd(Outcome.FINISHED, facts={"score": 0.8}))
    trial = study.get_trials()[proposal.number]
    assert trial.state == STATE.COMPLETE
    assert trial.intermediate_values == {1: 0.5, 2: 0.7, 3: 0.8}


def test_a_resumed_trial_gets_its_missing_values(tmp_path):
    study, proposer = make(tmp_path)
    run_one(proposer)
    incomplete = study.ask()
    incomplete.suggest_float("dropout", 0.0, 0.5)
    resumed = proposer.resume(incomplete.number)
    assert resumed.values["dropout"] == incomplete.params["dropout"]
    SPACE.check(resumed.values)


def test_failures_and_signatures_are_recorded(tmp_path):
    study, proposer = make(tmp_path, sign=lambda number: {"driver": "me", "seed": 10 + number})
    proposal = proposer.propose()
    assert isinstance(proposal, Proposal)
    assert study.get_trials()[0].user_attrs == {"driver": "me", "seed": 10}
    proposer.finish(0, TrialEnd(Outcome.FAILED, error="ValueError: no"))
    trial = study.get_trials()[0]
    assert trial.state == STATE.FAIL
    assert trial.user_attrs["error"] == "ValueError: no"
    assert trial.value is None


@pytest.mark.parametrize(("wrong", "nearest"), [({"sampler": "tpee"}, "tpe"), ({"pruner": "ahsa"}, "asha")])
def test_unknown_names_are_rejected(tmp_path, wrong, nearest):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        make(tmp_path, **wrong)


@pytest.mark.parametrize(("epochs", "rung", "shortest"), [(1, 2, 2), (9, 3, 2), (30, 10, 3), (100, 33, 11)])
def test_the_first_epoch_of_stops_depends_on_the_epochs(epochs, rung, shortest):
    assert (first_rung(epochs), shortest_trial(epochs)) == (rung, shortest)


def test_only_configurations_for_which_the_time_suffices_are_proposed(tmp_path):
    study, proposer = make(tmp_path, fits=lambda values: values["loss"] == "ce")
    study.enqueue_trial({"loss": "focal", "focal_gamma": 2.0, "dropout": 0.1})
    study.enqueue_trial({"loss": "ce", "dropout": 0.1})
    losses = []
    for attempt in range(12):
        proposal = proposer.propose()
        assert (proposal.number == 1) == (attempt == 0), "a waiting trial that fits is not blocked by an earlier one"
        losses.append(proposal.values["loss"])
        proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={"score": 0.5}))
    assert losses == ["ce"] * 12
    assert [trial.number for trial in study.trials if trial.state is STATE.WAITING] == [0], "it waits for another search"
    _, later = make(tmp_path)
    assert later.propose().values == {"loss": "focal", "focal_gamma": 2.0, "dropout": 0.1}
