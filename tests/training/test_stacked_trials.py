import csv
import dataclasses

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import InfeasibleError, NonFiniteLossError, TrialError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.inference import load_model
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.stacked_training import HeadTraining
from automl_cxr.training.stacked_trials import run_stacked_trials
from automl_cxr.training.trial import TrialTask, load_parts, run_trial

SMALL = {
    "family": "transfer",
    "backbone": "squeezenet",
    "cut": "1",
    "image_size": 32,
    "n_dense": 1,
    "dense_units": 8,
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 0.01,
    "dropout": 0.3,
}
SEVERAL = [
    {"seed": 1, "warmup": 0.2, "gradient_clip": 0.5},
    {"seed": 2, "dense_units": 7, "loss": "focal", "schedule": "plateau"},
    {"seed": 3, "n_dense": 0, "normalise": True, "scaled_rate": True},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, phantoms):
    runs = tmp_path_factory.mktemp("runs")
    request = SearchOptions(space="scratch", data=str(phantoms), name="s", image_size=32)
    return prepare_study(request, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "squeezenet.weights.h5"
    keras.utils.set_random_seed(0)
    build_backbone("squeezenet", 32).save_weights(file)
    return file


@pytest.fixture
def task(prepared, weights, tmp_path):
    def make(name, **values):
        own = {field.name: values.pop(field.name) for field in dataclasses.fields(TrialTask) if field.name in values}
        (tmp_path / name).mkdir()
        return TrialTask(
            config=TrialConfig.from_values({**SMALL, "weights": str(weights), "second_weights": str(weights), **values}),
            images=prepared.images,
            split=prepared.store.folder / "split.json",
            folder=tmp_path / name,
            **own,
        )

    return make


def run(trial):
    epochs = []
    while True:
        try:
            epochs.append(next(trial))
        except StopIteration as end:
            return epochs, end.value


def run_round_robin(trials):
    """Request an epoch of each in rotation, as an executor does; return the epochs and the result or error of each."""
    epochs, ends = [[] for _ in trials], [None] * len(trials)
    while None in ends:
        for index, trial in enumerate(trials):
            try:
                if ends[index] is None:
                    epochs[index].append(next(trial))
            except StopIteration as end:
                ends[index] = end.value
            except TrialError as error:
                ends[index] = error
    return epochs, ends


def values_of(epoch):
    return [epoch.learning_rate, epoch.score, epoch.loss, epoch.valid_loss, epoch.valid_accuracy]


def probabilities(task):
    return Predictions.from_npz(task.folder / "valid.npz").probabilities


@pytest.mark.slow
def test_stacked_trials_equal_separate_trials(task):
    alone = [task(f"alone-{n}", **values) for n, values in enumerate(SEVERAL)]
    stacked = [task(f"together-{n}", **values) for n, values in enumerate(SEVERAL)]
    epochs, results = run_round_robin(run_stacked_trials(stacked))
    for number, one in enumerate(alone):
        expected_epochs, expected = run(run_trial(one))
        for epoch, expected_epoch in zip(epochs[number], expected_epochs, strict=True):
            assert values_of(epoch) == pytest.approx(values_of(expected_epoch), abs=1e-5)
            assert (epoch.n_parameters, epoch.features) == (expected_epoch.n_parameters, expected_epoch.features)
        assert probabilities(stacked[number]) == pytest.approx(probabilities(one), abs=1e-5)
        own = ("seconds", "sha256")
        assert {**dataclasses.asdict(results[number]), **dict.fromkeys(own)} == {
            **dataclasses.asdict(expected),
            **dict.fromkeys(own),
        }
        assert results[number].sha256.keys() == expected.sha256.keys()
        assert (stacked[number].folder / "config.json").read_text() == (one.folder / "config.json").read_text()


def test_a_saved_model_predicts_from_pixels(task, prepared):
    one, other = task("a", seed=4), task("b", seed=5, dense_units=12)
    run_round_robin(run_stacked_trials([one, other]))
    _, valid = load_parts(prepared.images, prepared.store.split)
    for each in (one, other):  # the second file is a copy of the first with another head
        model = load_model(str(each.folder / "model.keras"))
        assert predict_probabilities(model, valid) == pytest.approx(probabilities(each), abs=1e-5)
        assert "predictions of the whole network from pixels differ by at most" in (each.folder / "train.log").read_text()


@pytest.mark.long
@pytest.mark.parametrize(("first_half", "second_half"), [("alone", "together"), ("together", "alone")])
def test_a_head_can_be_resumed_from_a_checkpoint_of_separate_or_stacked_training(task, tmp_path, first_half, second_half):
    values = {"seed": 6, "optimizer": "adamw", "weight_decay": 0.01}
    checkpoint = tmp_path / "checkpoint.npz"

    def train(name, mode, **own):
        one = task(name, **values, **own)
        return run(run_trial(one)) if mode == "alone" else run(run_stacked_trials([one])[0])

    expected, _ = train("whole", "alone")
    first, _ = train("first", first_half, until=2, checkpoint=checkpoint)
    second, result = train("second", second_half, resume=checkpoint)
    assert [epoch.epoch for epoch in (*first, *second)] == [1, 2, 3, 4]
    assert [epoch.loss for epoch in (*first, *second)] == pytest.approx([epoch.loss for epoch in expected], abs=1e-5)
    assert result.score == pytest.approx(max(epoch.score for epoch in expected))
    assert result.epochs == 4


def test_an_interrupted_head_yields_unreported_epochs_again(task, tmp_path):
    checkpoint = tmp_path / "own.npz"
    run(run_stacked_trials([task("before", seed=7, until=3, checkpoint=checkpoint)])[0])
    (again,) = run_stacked_trials([task("after", seed=7, checkpoint=checkpoint, resume=checkpoint, reported=1)])
    assert [epoch.epoch for epoch in run(again)[0]] == [2, 3, 4]


def test_only_the_head_that_diverges_fails(task, monkeypatch):
    sound, diverging = task("sound", seed=1), task("diverging", seed=2)
    trials = run_stacked_trials([diverging, sound])
    first = next(trials[0])
    assert first.epoch == 1
    original = HeadTraining.learning_rates

    def rates(self, n_steps):
        return original(self, n_steps) * (np.nan if self.config.seed == 2 else 1)

    monkeypatch.setattr(HeadTraining, "learning_rates", rates)
    epochs, ends = run_round_robin(trials)
    assert isinstance(ends[0], NonFiniteLossError)
    assert "became nan in epoch 2" in str(ends[0])
    assert len(epochs[1]) == 4
    assert ends[1].epochs == 4


def test_a_closed_trial_is_trained_no_further_and_the_others_are(task):
    closed, other = run_stacked_trials([task("closed", seed=1), task("other", seed=2)])
    assert next(closed).epoch == next(other).epoch == 1
    closed.close()
    epochs, result = run(other)
    assert [epoch.epoch for epoch in epochs] == [2, 3, 4]
    assert result.epochs == 4


def test_each_trial_has_its_own_limits(task):
    tasks = [
        task("patient", seed=1, learning_rate=1e-30, patience=2, epochs=9),
        task("late", seed=2, seconds=-1.0),
        task("rung", seed=3, until=2),
        task("infeasible", seed=4, requirements=(Requirement.parse("parameters<=10"),)),
        task("whole", seed=5, objectives=("macro_f1", "parameters")),
    ]
    epochs, ends = run_round_robin(run_stacked_trials(tasks))
    assert [len(one) for one in epochs] == [3, 1, 2, 0, 4]
    assert [ends[n].cut_short for n in (0, 1, 2, 4)] == [False, True, False, False]
    assert isinstance(ends[3], InfeasibleError)
    assert ends[4].values == (ends[4].score, ends[4].n_parameters)
    with (tasks[4].folder / "history.csv").open(newline="") as file:
        assert [float(row["parameters"]) for row in csv.DictReader(file)] == [ends[4].n_parameters] * 4


def test_a_head_whose_training_is_not_implemented_for_stacks_is_run_on_its_own(task, monkeypatch):
    separate = []
    monkeypatch.setattr("automl_cxr.training.stacked_trials.run_trial", lambda one: separate.append(one) or iter(()))
    monkeypatch.setattr("automl_cxr.training.stack_grouping.STACKED_LOSSES", frozenset({"ce"}))
    stacked, focal, averaged = task("ce", seed=1), task("focal", seed=1, loss="focal"), task("averaged", weight_average=0.5)
    run_stacked_trials([stacked, focal, averaged])
    assert separate == [focal, averaged]


@pytest.mark.slow
def test_trials_are_trained_from_pixels_if_the_cache_is_full(task, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "10")
    one = task("a", seed=8, cut="2", epochs=1)
    epochs, result = run(run_stacked_trials([one])[0])
    assert epochs[0].features.startswith("pixels")
    assert result.epochs == 1


@pytest.mark.long
def test_stacked_heads_on_two_backbones_equal_separate_trials(task):
    values = {"family": "concat", "second_backbone": "squeezenet", "second_cut": "2", "epochs": 2, "seed": 9}
    (stacked,), alone = run_stacked_trials([task("a", **values)]), run_trial(task("b", **values))
    for epoch, expected in zip(run(stacked)[0], run(alone)[0], strict=True):
        assert values_of(epoch) == pytest.approx(values_of(expected), abs=1e-5)
