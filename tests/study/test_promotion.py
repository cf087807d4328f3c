"""Trials that continue from a checkpoint: promoted by Hyperband, or abandoned by a killed driver. The networks are real."""

import csv
import dataclasses
import json

import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.engine.protocol import Proposal
from automl_cxr.records import TrialState
from automl_cxr.study.objective import TrialObjective, checkpoint_file
from automl_cxr.training.trial import TrialTask, run_trial

SPACE = """
family = "scratch"
n_blocks = 1
dense_units = 4
augmentation = 0.5
patience = 9
[filters]
type = "int"
low = 2
high = 4
default = 3
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
default = 1e-2
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "tiny.toml").write_text(SPACE)
    return str(tmp_path / "tiny.toml")


def run(task):
    task.folder.mkdir()
    return {epoch.epoch: epoch.score for epoch in run_trial(task)}


def task_of(prepared, number, folder):
    config = (prepared.store.trial_folder(number) / "config.json").read_text()
    split = prepared.store.folder / "split.json"
    return TrialTask(config=TrialConfig.from_json(config), images=prepared.images, split=split, folder=folder)


@pytest.mark.slow
def test_hyperband_promotes_from_checkpoints_and_records_correct_states(prepare, space, tmp_path, hyperband_search):
    prepared = prepare(space=space, sampler="kt-hyperband", epochs=4, batch_size=64)
    hyperband_search(prepared)
    store = prepared.store
    records = store.records()
    promoted = [record for record in records if record.parent is not None]
    pruned = [record for record in records if record.state is TrialState.PRUNED]
    assert promoted
    assert {record.state for record in records} == {TrialState.COMPLETE, TrialState.PRUNED}
    for record in records:
        is_complete = record.state is TrialState.COMPLETE
        assert max(record.scores) == 4 if is_complete else max(record.scores) < 4
    again = run(task_of(prepared, promoted[-1].number, tmp_path / "uninterrupted"))
    assert {**store.record(promoted[-1].parent).scores, **promoted[-1].scores} == again
    for record in promoted:
        parent = store.record(record.parent)
        assert parent.state is TrialState.PRUNED
        assert parent.params == record.params
        assert parent.seed == record.seed
        assert min(record.scores) == max(parent.scores) + 1, "the trial continues after its parent's last epoch"
        with (store.trial_folder(record.number) / "history.csv").open(newline="") as file:
            assert [int(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]
        assert not checkpoint_file(store.checkpoints, record.number).exists()
        assert not checkpoint_file(store.checkpoints, record.parent).exists()
    assert not any(store.has_model(record.number) for record in pruned)
    assert sum(store.has_model(record.number) for record in records) == 2


@pytest.mark.long
def test_an_abandoned_trial_continues_from_its_checkpoint(prepare, space, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial._CHECKPOINT_SECONDS", 0.0)
    prepared = prepare(space=space, epochs=4, batch_size=64)
    store = prepared.store
    store.checkpoints.mkdir()

    def objective(driver):
        return TrialObjective(
            fixed={"image_size": 32, "epochs": 4, "batch_size": 64, **store.spec.space.constants},
            study_seed=0,
            images=prepared.images,
            weights_folder=None,
            split=store.folder / "split.json",
            trials=store.folder / "trials",
            checkpoints=store.checkpoints,
            driver=driver,
            objectives=("macro_f1",),
            requirements=(),
            normal_class=None,
        )

    proposal = Proposal(0, {"filters": 3, "learning_rate": 0.01})
    interrupted = objective("a")(proposal)
    reported = {report.epoch: report.score for report in (next(interrupted), next(interrupted))}
    del interrupted  # without a call of close, as in a process that is killed
    resumed, trained = objective("b")(proposal), []
    monkeypatch.setattr("automl_cxr.training.trainer.fit_epoch", count_fitted_epochs(trained))
    scores = {report.epoch: report.score for report in resumed}
    assert list(scores) == [1, 2, 3, 4], "earlier epochs are reported again"
    assert trained == [3, 4], "earlier epochs are not trained again"
    assert {1: scores[1], 2: scores[2]} == reported
    uninterrupted = run(
        TrialTask(
            config=objective("c").config_of(proposal),
            images=prepared.images,
            split=store.folder / "split.json",
            folder=tmp_path / "uninterrupted",
        )
    )
    assert scores == uninterrupted


def count_fitted_epochs(epochs):
    from automl_cxr.training import trainer

    fit = trainer.fit_epoch

    def fit_and_count(*arguments, epoch, learning_rate):
        epochs.append(epoch)
        return fit(*arguments, epoch=epoch, learning_rate=learning_rate)

    return fit_and_count


def test_bracket_and_rung_are_recorded(prepare, space, hyperband_search):
    prepared = prepare(space=space, sampler="kt-hyperband", epochs=4, batch_size=64)

    def execute(objective, proposer):
        proposal = proposer.propose()
        assert proposal.epochs < 4

    hyperband_search(prepared, execute)
    attrs = prepared.store.study.get_trials()[0].user_attrs
    assert attrs["round"] == 0
    assert attrs["rung"] < 4
    assert "bracket" in attrs
    assert json.dumps(attrs)


@pytest.mark.long
def test_a_rung_that_ends_by_early_stopping_can_be_promoted(prepare, space, tmp_path):
    prepared = prepare(space=space, epochs=9, batch_size=64)
    values = {**prepared.store.spec.constants, "patience": 1, "learning_rate": 0.1, "filters": 2}
    task = TrialTask(
        config=TrialConfig.from_values(values),
        images=prepared.images,
        split=prepared.store.folder / "split.json",
        folder=tmp_path / "rung",
        until=8,
        checkpoint=tmp_path / "checkpoint.npz",
    )
    assert max(run(task)) < 8
    promoted = dataclasses.replace(task, folder=tmp_path / "promoted", until=None, resume=task.checkpoint, checkpoint=None)
    assert run(promoted) == {}, "no epochs remain"
    assert (tmp_path / "promoted" / "history.csv").read_text() == (tmp_path / "rung" / "history.csv").read_text()
