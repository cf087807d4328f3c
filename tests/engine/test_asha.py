"""Successive halving with Ray. Ray's own OptunaSearch recorded all 30 trials as COMPLETE and lost its rungs at a restart."""

import json
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import optuna
import pytest
import ray

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.optuna_proposer import first_rung
from automl_cxr.engine.placement import RayResources
from automl_cxr.engine.protocol import Pause, Report, TrialEnd
from automl_cxr.engine.ray_execution import run_with_ray
from automl_cxr.engine.registry import build_proposer
from tests.engine.batched_trials import SimultaneousObjective
from tests.engine.simulation import CONDITIONAL, open_study, score_of

STATE = optuna.trial.TrialState
EPOCHS = 9
RUNGS = {first_rung(EPOCHS), 3 * first_rung(EPOCHS)}


@pytest.fixture(scope="module", autouse=True)
def running_ray():
    """Start Ray once. A search that connects to a running Ray must not shut it down."""
    # Without "local", Ray would connect to a cluster that the tests of another process have started.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.CRITICAL,
    )
    yield
    assert ray.is_initialized()
    ray.shutdown()


def scripted_trial(proposal, *, log):
    """Compute scores by a formula; log each epoch and its score before the report."""
    score = 0.0
    for epoch in range(1, EPOCHS + 1):
        score = score_of(proposal.values, epoch)
        with (log / f"{proposal.number:02d}").open("a") as file:
            file.write(json.dumps([epoch, score]) + "\n")
        yield Report(epoch, score)
    return {"score": score}


@dataclass
class Search:
    """Runs the first trials of a proposer, and may raise an error after an epoch, like a driver that is killed."""

    proposer: object
    n_trials: int
    n_started: int = 0
    left_running: list[int] = field(default_factory=list)
    raises_after: tuple[int, int] | None = None

    def propose(self):
        if self.left_running:
            return self.proposer.resume(self.left_running.pop())
        if self.n_started == self.n_trials:
            return Pause.OVER
        self.n_started += 1
        return self.proposer.propose()

    def observe(self, number, report):
        decision = self.proposer.observe(number, report)
        if (number, report.epoch) == self.raises_after:
            raise ConnectionResetError("the driver is killed")
        return decision

    def finish(self, number, ending):
        self.proposer.finish(number, ending)


def open_search(file, *, sampler="tpe", **settings):
    study = open_study(f"sqlite:///{file}")
    proposer = build_proposer(study, CONDITIONAL, sampler=sampler, pruner="asha", epochs=EPOCHS, seed=5)
    running = [trial.number for trial in study.get_trials(states=(STATE.RUNNING,))]
    return study, Search(proposer, n_started=len(study.get_trials()), left_running=running, **settings)


def run(search, log, *, concurrency):
    log.mkdir(exist_ok=True)
    resources = RayResources(concurrency=concurrency, cpus_per_trial=1)
    run_with_ray(partial(scripted_trial, log=log), search, resources=resources)


def decisions(study):
    return [(trial.number, trial.params, trial.state, trial.value, trial.last_step) for trial in study.get_trials()]


@pytest.mark.long
def test_thirty_trials_are_recorded_with_their_outcomes(tmp_path):
    study, search = open_search(tmp_path / "studies.db", sampler="random", n_trials=30)
    run(search, tmp_path / "log", concurrency=2)
    logged = defaultdict(dict)
    for file in (tmp_path / "log").iterdir():
        logged[int(file.name)] = dict(json.loads(line) for line in file.read_text().splitlines())
    trials = study.get_trials()
    assert len(trials) == 30
    for trial in trials:
        assert trial.intermediate_values == logged[trial.number], "exactly the scores that the objective reported"
        assert trial.value == logged[trial.number][trial.last_step]
        if trial.state == STATE.PRUNED:
            assert trial.last_step in RUNGS
        else:
            assert (trial.state, trial.last_step) == (STATE.COMPLETE, EPOCHS)
    pruned = {trial.number for trial in trials if trial.state == STATE.PRUNED}
    assert 10 < len(pruned) < 24, "most trials are stopped, but none of the first six"
    full = [trial.value for trial in trials if trial.number not in pruned]
    assert study.best_value == max(full)


@pytest.mark.long
def test_rungs_are_restored_after_a_restart(tmp_path):
    interrupted_at = 11, 1
    uninterrupted, search = open_search(tmp_path / "whole.db", n_trials=20)
    (tmp_path / "whole").mkdir()
    run_inline(partial(scripted_trial, log=tmp_path / "whole"), search)

    study, search = open_search(tmp_path / "broken.db", n_trials=20, raises_after=interrupted_at)
    with pytest.raises(ConnectionResetError):
        run(search, tmp_path / "broken", concurrency=1)
    assert [trial.number for trial in study.get_trials(states=(STATE.RUNNING,))] == [interrupted_at[0]]
    study, search = open_search(tmp_path / "broken.db", n_trials=20)
    run(search, tmp_path / "broken", concurrency=1)
    assert decisions(study) == decisions(uninterrupted)
    after = [trial for trial in study.get_trials() if trial.number > interrupted_at[0]]
    assert any(trial.state == STATE.PRUNED and trial.last_step == min(RUNGS) for trial in after)


@dataclass
class RepeatingSearch(Search):
    """Repeats trials with temporary errors."""

    running: set[int] = field(default_factory=set)
    endings: list[tuple[int, TrialEnd]] = field(default_factory=list)

    def propose(self):
        if self.n_started == self.n_trials and self.running and not self.left_running:
            return Pause.IDLE
        proposal = super().propose()
        if proposal is not Pause.OVER:
            self.running.add(proposal.number)
        return proposal

    def finish(self, number, ending):
        self.running.remove(number)
        self.endings.append((number, ending))
        if ending.retry.times:
            self.proposer.requeue(number, ending)
            self.left_running.append(number)
        else:
            self.proposer.finish(number, ending)


@pytest.mark.long
def test_trials_of_a_batch_are_recorded_with_their_outcomes(tmp_path):
    study = open_study()
    proposer = build_proposer(study, CONDITIONAL, sampler="random", pruner="asha", epochs=EPOCHS, seed=5)
    search = RepeatingSearch(proposer, n_trials=26)
    objective = SimultaneousObjective(score_of, EPOCHS, tmp_path / "log", raising=(9,), killing=(18,))
    run_with_ray(objective, search, resources=RayResources(concurrency=2, cpus_per_trial=1), batch_trials=8)

    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(26))
    assert [trial.number for trial in trials if trial.state == STATE.FAIL] == [9]
    assert trials[9].user_attrs["error"] == "ValueError: trial 9 was made to fail"
    for trial in trials:
        assert trial.intermediate_values == {epoch: score_of(trial.params, epoch) for epoch in range(1, trial.last_step + 1)}
        last = {STATE.COMPLETE: {EPOCHS}, STATE.PRUNED: RUNGS, STATE.FAIL: {1}}[trial.state]
        assert trial.last_step in last
    assert sum(trial.state == STATE.PRUNED for trial in trials) > 6

    batches = [numbers for epoch, numbers in objective.computed() if epoch == 1 and len(numbers) > 1]
    assert sorted(batches) == [[*range(8)], [*range(8, 16)], [*range(16, 24)], [24, 25]]
    failed = {number for number, ending in search.endings if ending.kind == "WorkerDiedError"}
    assert failed == set(range(16, 24)), "all trials of a process fail if it exits"
    for trial in trials:
        computations = [(epoch, numbers) for epoch, numbers in objective.computed() if trial.number in numbers]
        single_epochs = [epoch for epoch, numbers in computations if numbers == [trial.number] and epoch <= 2]
        assert (trial.number in failed) == (single_epochs[:1] == [1]), "each of these trials is repeated as a single trial"
        if trial.number not in failed | {9}:
            assert [epoch for epoch, _ in computations] == list(trial.intermediate_values), (
                "no epoch of a stopped trial is computed"
            )
