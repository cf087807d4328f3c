"""Trials of a batch are recorded like single trials, and do not affect each other."""

import itertools
import time
from functools import partial

import optuna
import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.protocol import Outcome, Pause, Proposal, Report, TrialEnd
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.trial_batches import Batch, TrialBatcher
from tests.engine.batched_trials import SimultaneousObjective
from tests.engine.simulation import CONDITIONAL, open_study, score_of

STATE = optuna.trial.TrialState
EPOCHS = 9


class Queue:
    """A proposer with a given list of proposals."""

    def __init__(self, *proposals):
        self.proposals = list(proposals)

    def propose(self):
        return self.proposals.pop(0) if self.proposals else Pause.OVER


class FirstTrials:
    """The first trials of a proposer."""

    def __init__(self, proposer, n_trials):
        self.proposer = proposer
        self.n_left = n_trials
        self.observe, self.finish = proposer.observe, proposer.finish

    def propose(self):
        if self.n_left == 0:
            return Pause.OVER
        self.n_left -= 1
        return self.proposer.propose()


def is_batchable(proposal):
    return proposal.values.get("cheap", True)


def open_search(*, sampler="random", pruner="none", n_trials=10):
    study = open_study()
    return study, FirstTrials(
        build_proposer(study, CONDITIONAL, sampler=sampler, pruner=pruner, epochs=EPOCHS, seed=5), n_trials
    )


@pytest.fixture
def objective(tmp_path):
    return partial(SimultaneousObjective, score_of, EPOCHS, tmp_path / "log")


def decisions(study):
    return [(t.number, t.params, t.state, t.value, t.intermediate_values) for t in study.get_trials()]


def test_a_batch_ends_at_a_pause_at_the_limit_and_before_a_trial_that_cannot_be_batched(objective):
    batchable, single = {"cheap": True}, {"cheap": False}
    failed_before = Proposal(4, batchable, attempts=1)
    queue = Queue(
        *[Proposal(number, batchable) for number in range(4)],
        failed_before,
        Proposal(5, batchable),
        Pause.IDLE,
        Proposal(6, single),
        Proposal(7, batchable),
        Proposal(8, single),
    )
    batcher = TrialBatcher(objective(batchable=is_batchable), queue, limit=3)
    batches = []
    while (batch := batcher.propose()) is not Pause.OVER:
        batches.append([proposal.number for proposal in batch])
    assert batches == [[0, 1, 2], [3], [4], [5], [6], [7], [8]]


def test_an_objective_without_batches_gets_one_trial_at_a_time():
    batcher = TrialBatcher(lambda _: iter(()), Queue(Proposal(0, {}), Proposal(1, {})), limit=8)
    assert [len(batcher.propose()), len(batcher.propose())] == [1, 1]


def test_the_waiting_time_of_a_proposal_is_subtracted_from_its_seconds(objective):
    waiting = Proposal(1, {"cheap": False}, seconds=10.0)
    batcher = TrialBatcher(objective(batchable=is_batchable), Queue(Proposal(0, {}), waiting), limit=8)
    before = time.monotonic()
    batcher.propose()
    (proposal,) = batcher.propose()
    assert 10.0 - (time.monotonic() - before) <= proposal.seconds < 10.0


def test_batches_are_recorded_like_single_trials(objective):
    records = []
    for limit in (1, 4):
        study, search = open_search(n_trials=10)
        run_inline(objective(), search, batch_trials=limit)
        records.append(decisions(study))
    assert records[0] == records[1]
    assert len(records[1]) == 10


def test_the_first_generator_computes_an_epoch_of_the_whole_batch(objective):
    _, search = open_search(n_trials=10)
    run_inline(objective(), search, batch_trials=4)
    sizes = [len(numbers) for _, numbers in objective().computed()]
    assert sizes == [4] * 2 * EPOCHS + [2] * EPOCHS


def test_trials_of_a_batch_are_pruned_at_their_rung_and_no_longer_computed(objective):
    study, search = open_search(pruner="asha", n_trials=30)
    run_inline(objective(), search, batch_trials=10)
    trials = study.get_trials()
    assert {t.last_step for t in trials if t.state == STATE.PRUNED} <= {3}
    assert 10 < sum(t.state == STATE.PRUNED for t in trials) < 24
    for trial in trials:
        assert list(trial.intermediate_values) == list(range(1, trial.last_step + 1))
        computed = [epoch for epoch, numbers in objective().computed() if trial.number in numbers]
        assert computed == list(range(1, trial.last_step + 1))


def test_a_rung_of_hyperband_runs_as_a_batch_and_promotes_the_same(objective):
    promoted = []
    for limit in (1, 9):
        study, search = open_search(sampler="kt-hyperband", n_trials=100)
        run_inline(objective(), search, batch_trials=limit)
        members = [t for t in study.get_trials() if t.user_attrs["bracket"] == 2]
        promoted.append([(t.user_attrs["round"], t.params, t.state, t.value) for t in members])
        assert [step for step, *_ in promoted[-1]] == [0] * 9 + [1] * 3 + [2]
        rungs = [{t.number: t for t in members if t.user_attrs["round"] == number} for number in range(3)]
        for below, above in itertools.pairwise(rungs):
            best = sorted(below.values(), key=lambda t: t.user_attrs["score"], reverse=True)[: len(above)]
            assert {t.user_attrs["parent"] for t in above.values()} == {t.number for t in best}
    assert promoted[0] == promoted[1]
    assert ([0, *range(1, 9)]) in [numbers for epoch, numbers in objective().computed() if epoch == 1]


def test_an_error_of_one_trial_does_not_affect_the_batch(objective):
    study, search = open_search(n_trials=5)
    run_inline(objective(raising=(1,)), search, batch_trials=5)
    trials = study.get_trials()
    assert [t.state for t in trials] == [STATE.COMPLETE, STATE.FAIL, *[STATE.COMPLETE] * 3]
    assert trials[1].user_attrs["error"] == "ValueError: trial 1 was made to fail"
    assert trials[1].last_step == 1


class FailingObjective(SimultaneousObjective):
    def run_batch(self, proposals):
        raise ValueError("no such graph")


def test_an_error_at_the_start_of_a_batch_fails_each_of_its_trials(tmp_path):
    batch = Batch(FailingObjective(score_of, EPOCHS, tmp_path / "log"), [Proposal(3, {}), Proposal(5, {})])
    events = dict(batch.advance())
    assert {number: ending.error for number, ending in events.items()} == dict.fromkeys((3, 5), "ValueError: no such graph")
    assert batch.is_over


def test_stopped_trials_clean_up_and_the_others_continue(objective):
    values = open_search()[1].propose().values
    batch = Batch(objective(), [Proposal(number, values) for number in range(3)])
    assert [number for number, _ in batch.advance()] == [0, 1, 2]
    batch.stop([1])
    assert [number for number, _ in batch.advance()] == [0, 2]
    batch.stop([0])
    assert [(number, type(event)) for number, event in batch.advance()] == [(2, Report)]
    batch.close()
    batch.close()
    assert batch.is_over
    assert objective().computed() == [(1, [0, 1, 2]), (2, [0, 2]), (3, [2])]


class InterruptedSearchError(Exception):
    """An error that ends the driver during a batch."""


def test_the_next_search_resumes_the_trials_of_an_interrupted_batch(objective, monkeypatch):
    study, search = open_search(n_trials=8)
    original_observe = search.observe

    def observe(number, report):
        if (number, report.epoch) == (2, 3):
            raise InterruptedSearchError
        return original_observe(number, report)

    monkeypatch.setattr(search, "observe", observe)
    with pytest.raises(InterruptedSearchError):
        run_inline(objective(), search, batch_trials=4)
    assert [t.number for t in study.get_trials(states=(STATE.RUNNING,))] == [0, 1, 2, 3]

    restarted = build_proposer(study, CONDITIONAL, sampler="random", pruner="none", epochs=EPOCHS, seed=5)
    resumed = [restarted.resume(number) for number in range(4)]
    assert [proposal.attempts for proposal in resumed] == [1] * 4
    queue = Queue(*resumed)
    queue.observe, queue.finish = restarted.observe, restarted.finish
    run_inline(objective(), queue, batch_trials=4)
    run_inline(objective(), FirstTrials(restarted, 4), batch_trials=4)
    uninterrupted, search = open_search(n_trials=8)
    run_inline(objective(), search)
    assert decisions(study) == decisions(uninterrupted)


def test_a_batch_has_the_time_of_all_its_trials(tmp_path):
    endings = {}

    class RecordingQueue(Queue):
        def observe(self, number, report):
            """Continue."""

        def finish(self, number, ending):
            endings[number] = ending

    endless = SimultaneousObjective(lambda *_: 0.5, 10**9, tmp_path / "log")
    before = time.monotonic()
    run_inline(endless, RecordingQueue(*[Proposal(number, {}) for number in range(3)]), seconds_per_trial=0.05, batch_trials=3)
    assert time.monotonic() - before >= 0.15
    assert endings == dict.fromkeys(range(3), TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"}))
