"""Real trials on a full disk: the failure is recorded, no partial file remains, and the next trials are complete."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.study.budget import Budget
from automl_cxr.study.objective import TrialObjective
from automl_cxr.study.runner import run_search
from tests.fast_trials import RecordingListener
from tests.full_disk import files_limited_to

LIMIT = 4000  # bytes; less than a model, a checkpoint and the predictions


@dataclass
class FullDisk:
    """An objective whose first attempts at some trials run on a full disk."""

    real: TrialObjective
    attempts: dict[int, int]  # number of such attempts by trial
    began: list[int] = field(default_factory=list)

    def __call__(self, proposal):
        self.began.append(proposal.number)
        is_full = self.began.count(proposal.number) <= self.attempts.get(proposal.number, 0)
        run = self.real(proposal)
        with contextlib.closing(run):
            while True:
                try:
                    with files_limited_to(LIMIT) if is_full else contextlib.nullcontext():
                        report = next(run)
                except StopIteration as end:
                    return end.value
                yield report


def search(prepared, listener, *, trials, attempts):
    run_search(
        prepared.store,
        prepared.images,
        weights_folder=None,
        sampler="random",
        budget=Budget(n_trials=trials, seconds=None, keep_models=3),
        execute=lambda objective, proposer: run_inline(FullDisk(objective, attempts), proposer),
        listener=listener,
    )


SPACE = """
family = "scratch"
n_blocks = 1
filters = 4
[dense_units]
type = "int"
low = 4
high = 16
"""


@pytest.mark.long
@pytest.mark.parametrize("folds", [0, 2])
def test_a_trial_on_a_full_disk_is_retried_then_fails_and_the_others_are_complete(prepare, tmp_path, folds):
    (tmp_path / "tiny.toml").write_text(SPACE)
    settings = {"space": str(tmp_path / "tiny.toml"), "epochs": 1, "batch_size": 64}
    prepared = prepare(**settings, **({"folds": folds} if folds else {}))
    listener = RecordingListener()
    search(prepared, listener, trials=3, attempts={0: 1, 1: 2})
    records = prepared.store.records()
    assert [record.state for record in records] == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE]
    assert "DiskFullError: The disk is full" in records[1].error
    assert [number for number, _ in listener.failures] == [0, 1]
    trials = prepared.store.folder / "trials"
    assert sorted(path.name for path in trials.iterdir()) == ["00000", "00001", "00002"]
    assert [path.name for path in (trials / "00001").iterdir()] == ["train.log"]
    assert not list(prepared.store.checkpoints.glob(".*"))
    for record in (records[0], records[2]):
        assert np.isfinite(prepared.store.predictions(record.number).probabilities).all()


@pytest.mark.long
def test_a_search_that_finds_no_space_ends_with_the_reason_and_continues_later(prepare, tmp_path):
    (tmp_path / "tiny.toml").write_text(SPACE)
    prepared = prepare(space=str(tmp_path / "tiny.toml"), epochs=1, batch_size=64)
    with pytest.raises(StudyError, match=r"all 1 trials failed.*The disk is full"):
        search(prepared, RecordingListener(), trials=1, attempts={0: 2})
    search(prepared, RecordingListener(), trials=2, attempts={})
    assert [record.state for record in prepared.store.records()] == [TrialState.FAILED, TrialState.COMPLETE]
