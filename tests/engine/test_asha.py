"""Successive halving under Ray, where Ray's own OptunaSearch told all 30 trials COMPLETE and forgot its rungs at a restart."""

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
from automl_cxr.engine.proposal import Pause, Report
from automl_cxr.engine.proposers import build_proposer
from automl_cxr.engine.ray_execution import RayResources, run_with_ray
from tests.engine.simulation import CONDITIONAL, open_study, score_of

STATE = optuna.trial.TrialState
EPOCHS = 9
RUNGS = {first_rung(EPOCHS), 3 * first_rung(EPOCHS)}


@pytest.fixture(scope="module", autouse=True)
def running_ray():
    """Start Ray once; a search on a Ray that runs already leaves it running."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL)
    yield
    assert ray.is_initialized()
    ray.shutdown()


def scripted_trial(proposal, *, log):
    """Score by a formula and write down what was yielded and how the trial ended."""
    score = 0.0
    for epoch in range(1, EPOCHS + 1):
        score = score_of(proposal.values, epoch)
        with (log / f"{proposal.number:02d}").open("a") as file:
            file.write(json.dumps([epoch, score]) + "\n")
        yield Report(epoch, score)
    return {"score": score}


@dataclass
class Search:
    """The first trials of a proposer, which may break off after an epoch of a trial, as a driver that is killed."""

    proposer: object
    n_trials: int
    n_begun: int = 0
    left_running: list[int] = field(default_factory=list)
    breaks_after: tuple[int, int] | None = None

    def propose(self):
        if self.left_running:
            return self.proposer.resume(self.left_running.pop())
        if self.n_begun == self.n_trials:
            return Pause.OVER
        self.n_begun += 1
        return self.proposer.propose()

    def observe(self, number, report):
        verdict = self.proposer.observe(number, report)
        if (number, report.epoch) == self.breaks_after:
            raise ConnectionResetError("the driver is killed")
        return verdict

    def finish(self, number, ending):
        self.proposer.finish(number, ending)


def open_search(file, *, sampler="tpe", **settings):
    study = open_study(f"sqlite:///{file}")
    proposer = build_proposer(study, CONDITIONAL, sampler=sampler, pruner="asha", epochs=EPOCHS, seed=5)
    running = [trial.number for trial in study.get_trials(states=(STATE.RUNNING,))]
    return study, Search(proposer, n_begun=len(study.get_trials()), left_running=running, **settings)


def run(search, log, *, concurrency):
    log.mkdir(exist_ok=True)
    resources = RayResources(concurrency=concurrency, cpus_per_trial=1)
    run_with_ray(partial(scripted_trial, log=log), search, resources=resources)


def decisions(study):
    return [(trial.number, trial.params, trial.state, trial.value, trial.last_step) for trial in study.get_trials()]


def test_thirty_trials_are_told_as_they_ended(tmp_path):
    study, search = open_search(tmp_path / "studies.db", sampler="random", n_trials=30)
    run(search, tmp_path / "log", concurrency=2)
    seen = defaultdict(dict)
    for file in (tmp_path / "log").iterdir():
        seen[int(file.name)] = dict(json.loads(line) for line in file.read_text().splitlines())
    trials = study.get_trials()
    assert len(trials) == 30
    for trial in trials:
        assert trial.intermediate_values == seen[trial.number], "every score that the objective gave, and no other"
        assert trial.value == seen[trial.number][trial.last_step]
        if trial.state == STATE.PRUNED:
            assert trial.last_step in RUNGS
        else:
            assert (trial.state, trial.last_step) == (STATE.COMPLETE, EPOCHS)
    pruned = {trial.number for trial in trials if trial.state == STATE.PRUNED}
    assert 10 < len(pruned) < 24, "most are stopped, and never the first six"
    full = [trial.value for trial in trials if trial.number not in pruned]
    assert study.best_value == max(full)


def test_the_rungs_still_count_after_a_restart(tmp_path):
    broken_after = 11, 1
    whole, search = open_search(tmp_path / "whole.db", n_trials=20)
    (tmp_path / "whole").mkdir()
    run_inline(partial(scripted_trial, log=tmp_path / "whole"), search)

    study, search = open_search(tmp_path / "broken.db", n_trials=20, breaks_after=broken_after)
    with pytest.raises(ConnectionResetError):
        run(search, tmp_path / "broken", concurrency=1)
    assert [trial.number for trial in study.get_trials(states=(STATE.RUNNING,))] == [broken_after[0]]
    study, search = open_search(tmp_path / "broken.db", n_trials=20)
    run(search, tmp_path / "broken", concurrency=1)
    assert decisions(study) == decisions(whole)
    after = [trial for trial in study.get_trials() if trial.number > broken_after[0]]
    assert any(trial.state == STATE.PRUNED and trial.last_step == min(RUNGS) for trial in after)
