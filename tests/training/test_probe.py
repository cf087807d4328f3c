import csv
import dataclasses

import numpy as np
import pytest

from automl_cxr.architectures import BackboneLayer, parse_backbone_layers
from automl_cxr.config import TrialConfig
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.build import build_model
from automl_cxr.model.feature_maps import last_feature_map_layers
from automl_cxr.model.gradcam import GradCam
from automl_cxr.model.inference import load_model
from automl_cxr.records import EpochRecord, FoldRecord, PartRecord, SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.probe import probe_features, run_probe
from automl_cxr.training.trial_task import TrialTask

SIZE = 32
CONFIG = TrialConfig(family="probe", probe_layers="squeezenet@2+squeezenet@1", weights="none", image_size=SIZE, seed=3)


def part(first, n):
    rows = range(first, first + n)
    return PartRecord(
        images=tuple(f"{row}.png" for row in rows),
        labels=tuple(row % 3 for row in rows),
        patients=tuple(f"p{row}" for row in rows),
    )


def pictures(n):
    """Draw pictures whose stripes are horizontal, vertical or absent, by class."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 140, (n, SIZE, SIZE))
    images[0::3, ::4] += 80
    images[1::3, :, ::4] += 80
    return images.astype(np.uint8)


@pytest.fixture
def task(tmp_path):
    def create(config=CONFIG, *, n_folds=0):
        split = SplitRecord(
            classes=("a", "b", "c"),
            train=part(0, 60 if n_folds else 45),
            valid=part(0, 0) if n_folds else part(45, 15),
            test=(),
            seed=0,
            grouped=True,
            origin="made",
            unreadable={},
            folds=tuple(row // 3 % n_folds + 1 for row in range(60)) if n_folds else (),
        )
        np.save(tmp_path / "images.npy", pictures(60))
        (tmp_path / "split.json").write_text(split.to_json())
        folder = tmp_path / f"trial{n_folds}"
        folder.mkdir()
        return TrialTask(
            config=config,
            images=tmp_path / "images.npy",
            weights_folder=None,
            split=tmp_path / "split.json",
            folder=folder,
            objectives=("macro_f1",),
        )

    return create


def run(task):
    records, generator = [], run_probe(task)
    while True:
        try:
            records.append(next(generator))
        except StopIteration as end:
            return records, end.value


def test_layers_are_named_by_splice_point_or_number():
    assert parse_backbone_layers("squeezenet@4+efficientnetlite0@block9_project_bn") == (
        BackboneLayer("squeezenet", "fire5_concat"),
        BackboneLayer("efficientnetlite0", "block9_project_bn"),
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UsageError, "must be written as backbone@splice point"),
        ("squeezenet", UsageError, "must be written as backbone@splice point"),
        ("squeezenet@4+squeezenet@fire5_concat", UsageError, "must be named once"),
        ("squeezenot@4", UnknownNameError, "Did you mean 'squeezenet'"),
        ("squeezenet@9", UnknownNameError, "fire2_concat"),
    ],
)
def test_layers_that_do_not_exist_are_refused(text, error, message):
    with pytest.raises(error, match=message):
        TrialConfig(family="probe", probe_layers=text)


@pytest.mark.slow
def test_a_probe_separates_classes_that_differ_in_texture(task):
    trial = task()
    (epoch,), result = run(trial)
    assert isinstance(epoch, EpochRecord)
    assert result.score == epoch.score > 0.9
    assert result.best_epoch == 1
    saved = Predictions.from_npz(trial.folder / "valid.npz")
    assert saved.ids == part(45, 15).images
    model = load_model(str(trial.folder / "model.keras"))
    from_pixels = model.predict(pictures(60)[45:, ..., None].astype(np.float32), verbose=0)
    assert saved.probabilities == pytest.approx(from_pixels, abs=1e-4)
    assert (trial.folder / "config.json").is_file()
    assert set(result.sha256) == {"config.json", "history.csv", "model.keras", "train.log", "valid.npz"}


@pytest.mark.long
def test_each_fold_is_predicted_by_a_probe_of_the_others(task):
    trial = task(n_folds=3)
    folds, result = run(trial)
    assert [(type(fold), fold.fold, fold.n_folds) for fold in folds] == [(FoldRecord, number, 3) for number in (1, 2, 3)]
    saved = Predictions.from_npz(trial.folder / "valid.npz")
    assert saved.ids == part(0, 60).images
    with (trial.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["epoch"]) for row in rows] == [("1", "1"), ("2", "1"), ("3", "1")]
    assert result.score == pytest.approx(np.mean([fold.score for fold in folds]), abs=0.1)
    model = load_model(str(trial.folder / "model.keras"))
    of_all = model.predict(pictures(60)[..., None].astype(np.float32), verbose=0)
    assert np.abs(of_all - saved.probabilities).max() > 1e-4  # the model is fitted on all images, the predictions are not


@pytest.mark.long
def test_layers_of_several_backbones_are_concatenated(task):
    layers = "squeezenet@2+efficientnetlite0@3+squeezenet@1"
    trial = task(dataclasses.replace(CONFIG, probe_layers=layers, logistic_c=0.01))
    _, result = run(trial)  # compares its predictions with those from pixels
    model = load_model(str(trial.folder / "model.keras"))
    assert model.get_layer("vector").output.shape == (None, 128 + 128 + 24)
    found = [layer.name for layer in last_feature_map_layers(model)]
    assert found == ["squeezenet/fire3_concat", "squeezenet/fire2_concat", "efficientnetlite0/block3_add"]
    evidence = GradCam(model).evidence(pictures(2), np.array([0, 1]))
    assert [np.isfinite(one).all() and one.any() for one in evidence] == [True] * 3
    assert [layer.name for layer in model.layers if layer.name in ("squeezenet", "efficientnetlite0")]
    assert "C 0.01" in (trial.folder / "train.log").read_text()
    assert result.features == "probe@pooled, float32"


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [{"probe_kernel": "rbf", "probe_pooling": "average+deviation"}, {"probe_mirrored": True}, {"probe_layers": "hog@3"}],
    ids=str,
)
def test_the_saved_network_equals_the_fitted_classifier(task, changes):
    trial = task(dataclasses.replace(CONFIG, **changes), n_folds=3)
    _, result = run(trial)
    assert result.score > 0.9
    log = (trial.folder / "train.log").read_text()
    assert float(log.split("from pixels differ by at most ")[1]) < 1e-4


@pytest.mark.slow
def test_mirrored_features_do_not_depend_on_the_side(task):
    trial = task(dataclasses.replace(CONFIG, probe_mirrored=True))
    run(trial)
    model = load_model(str(trial.folder / "model.keras"))
    images = pictures(9)[..., None].astype(np.float32)
    predicted, mirrored = (model.predict(each, verbose=0) for each in (images, images[:, :, ::-1]))
    assert mirrored == pytest.approx(predicted, abs=1e-6)


@pytest.mark.slow
def test_layers_without_positions_have_no_deviations(task):
    one, other = (
        dataclasses.replace(CONFIG, probe_layers="hog@2", probe_kernel="rbf", probe_pooling=pooling)
        for pooling in ("average", "average+deviation")
    )
    assert one.effective(TrialConfig.names()) == other.effective(TrialConfig.names())
    images = pictures(12)
    features = [probe_features(config, images, weights_folder=None) for config in (one, other)]
    assert np.array_equal(*features)
    networks = [build_model(config, 3, steps_per_epoch=1) for config in (one, other)]
    assert [network.get_layer("standardised").output.shape[1] for network in networks] == [features[0].shape[1]] * 2
