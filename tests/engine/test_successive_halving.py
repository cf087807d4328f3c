"""Successive halving makes the same decisions as Optuna's pruner, with fewer reads and no writes."""

import math
import random

import optuna
import pytest
from optuna.trial import TrialState

from automl_cxr.engine.successive_halving import SuccessiveHalving

NEVER_STOPPED = 4
EPOCHS = 20


def scores_of(rng, *, first_rung):
    """Draw the scores of a trial: some are tied, NaN or infinite, but none is NaN in the epoch before a later rung."""
    scores = [round(rng.random(), rng.choice((1, 3))) for _ in range(EPOCHS)]
    for epoch in range(EPOCHS):
        if rng.random() < 0.08:
            scores[epoch] = rng.choice((math.nan, math.nan, math.inf, -math.inf))
    for rung in (first_rung, 3 * first_rung, 9 * first_rung):
        if rung > first_rung and rung <= EPOCHS and math.isnan(scores[rung - 2]):
            scores[rung - 2] = 0.5
    return scores


def compare_decisions(rng, *, direction, first_rung, restart_after=None):
    """Run concurrent trials, one epoch of a random trial at a time; compare each decision with Optuna's and return all."""
    study = optuna.create_study(direction=direction)
    optuna_pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=3)
    pruner = SuccessiveHalving(first_rung)
    running, decisions = {}, []
    n_left = rng.randint(5, 25)
    while running or n_left:
        if n_left and (not running or (len(running) < 6 and rng.random() < 0.3)):
            trial = study.ask()
            running[trial.number] = (trial, iter(enumerate(scores_of(rng, first_rung=first_rung), start=1)))
            n_left -= 1
            continue
        number = rng.choice(list(running))
        trial, scores = running[number]
        epoch, score = next(scores)
        trial.report(score, epoch)
        stored_attrs = [dict(stored.system_attrs) for stored in study.get_trials(deepcopy=False)]
        frozen = study._storage.get_trial(trial._trial_id)
        decision = pruner.prune(study, frozen)
        assert [dict(stored.system_attrs) for stored in study.get_trials(deepcopy=False)] == stored_attrs
        assert decision == optuna_pruner.prune(study, frozen)
        decisions.append(decision)
        if restart_after is not None and rng.random() < restart_after:
            pruner = SuccessiveHalving(first_rung)
        if epoch == EPOCHS or (decision and number >= NEVER_STOPPED) or rng.random() < 0.02:
            study.tell(trial, state=TrialState.FAIL)
            del running[number]
    return decisions


@pytest.fixture(autouse=True)
def quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("restart_after", [None, 0.1])
def test_decisions_equal_those_of_optuna(direction, restart_after):
    decisions = []
    for seed in range(500):
        rng = random.Random(seed)
        decisions += compare_decisions(rng, direction=direction, first_rung=rng.choice((1, 2, 4)), restart_after=restart_after)
    assert 1_000 < sum(decisions) < len(decisions) - 1_000


def test_nan_at_a_rung_stops_the_trial_and_is_not_compared():
    study = optuna.create_study(direction="maximize")
    pruner = SuccessiveHalving(2)
    decisions = {}
    for scores in ([0.5, math.nan], [0.1, 0.2], [0.9, 0.1]):
        trial = study.ask()
        for epoch, score in enumerate(scores, start=1):
            trial.report(score, epoch)
            decisions[trial.number, epoch] = pruner.prune(study, study._storage.get_trial(trial._trial_id))
    assert decisions == {(0, 1): False, (0, 2): True, (1, 1): False, (1, 2): False, (2, 1): False, (2, 2): True}


def test_an_unchanged_trial_is_not_read_again(monkeypatch):
    study = optuna.create_study(direction="maximize")
    pruner = SuccessiveHalving(1)
    read_trials = []
    add_scores = SuccessiveHalving._add_scores
    monkeypatch.setattr(
        SuccessiveHalving, "_add_scores", lambda self, trial: (read_trials.append(trial.number), add_scores(self, trial))
    )
    for number in range(30):
        trial = study.ask()
        trial.report(0.1 * number, 1)
        pruner.prune(study, study._storage.get_trial(trial._trial_id))
        study.tell(trial, state=TrialState.PRUNED)
    assert len(read_trials) < 3 * 30
