"""The options of a study with an encoder in an ONNX file or with a table of features."""

import pytest

from automl_cxr import api
from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError, StudyError, StudyMismatchError, UsageError
from automl_cxr.results.export import export_classifier
from automl_cxr.results.replay import replay_trial
from automl_cxr.study.external_encoders import ENCODER_SPACE, with_resolved_encoders, with_table
from automl_cxr.study.options import AUTO, SearchOptions
from automl_cxr.study.source_overlap import load_source_checks
from tests.onnx_files import SCALING, write_encoder


@pytest.fixture
def encoder(tmp_path):
    return write_encoder(tmp_path / "a.onnx")


def test_an_encoder_chooses_the_space_the_size_and_the_probes(encoder):
    options = with_resolved_encoders(SearchOptions(fixed={"backbone": f"onnx:{encoder}", "n_dense": 0}))
    name = options.fixed["backbone"]
    assert name.startswith(f"onnx:{encoder}#")
    assert options.fixed == {"backbone": name, "probe_layers": f"{name}@features", "n_dense": 0}
    assert (options.space, options.folds, options.image_size) == (ENCODER_SPACE, AUTO, 16)
    assert with_resolved_encoders(options).fixed == options.fixed


@pytest.mark.parametrize(("family", "left"), [("probe", "probe_layers"), ("transfer", "backbone")])
def test_only_hyperparameters_of_the_chosen_family_are_set(family, left, encoder):
    options = with_resolved_encoders(SearchOptions(fixed={"backbone": f"onnx:{encoder}", "family": family}))
    assert set(options.fixed) == {"family", left}


def test_an_explicit_space_is_not_replaced(encoder):
    layers = f"onnx:{encoder}@features + efficientnetlite0@5"
    options = with_resolved_encoders(SearchOptions(space="probe", fixed={"probe_layers": layers}, image_size=64, folds=0))
    assert options.fixed["probe_layers"].endswith("@features+efficientnetlite0@5")
    assert (options.space, options.folds, options.image_size) == ("probe", 0, 64)


def test_other_options_are_not_changed():
    options = SearchOptions(fixed={"backbone": "squeezenet"})
    assert with_resolved_encoders(options) is options
    assert with_table(options) is options


def test_a_table_of_features_replaces_the_backbone():
    options = with_table(SearchOptions(features="t.npz"))
    assert options.fixed == {"backbone": "features", "probe_layers": "features@features"}
    assert (options.space, options.folds) == (ENCODER_SPACE, AUTO)


def test_a_reserved_character_in_the_path_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must not contain any of"):
        with_resolved_encoders(SearchOptions(fixed={"backbone": f"onnx:{write_encoder(tmp_path / 'a+b.onnx')}"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unfreeze": 2}, "unfreeze=2. Omit them"),
        ({"augmentation": 0.5}, "augmentation=0.5. Omit them"),
        ({"family": "probe", "probe_layers": "features@features", "probe_mirrored": True}, "probe_mirrored=True"),
        ({"family": "probe", "probe_layers": "features@features+hog@1"}, "takes no images; received features, hog"),
    ],
)
def test_hyperparameters_of_images_are_refused_with_a_table(changes, message):
    values = {"family": "transfer", "backbone": "features", "n_features": 3, **changes}
    with pytest.raises(ImpossibleModelError, match=message):
        TrialConfig.from_values(values).refuse_conflicts(2)


@pytest.mark.long
def test_a_study_of_an_encoder_gives_a_classifier_that_does_not_need_the_file(phantoms, tmp_path):
    file = write_encoder(tmp_path / "a.onnx", size=32, output="maps")
    options = {"data": str(phantoms), "name": "e", "runs": tmp_path / "runs", "epochs": 3, "executor": "inline", "folds": 2}
    study = api.search(fixed={"backbone": f"onnx:{file}"}, trials=3, seed=1, **options)
    (check,) = load_source_checks(study.folder)
    assert not check.is_known
    assert check.source.startswith("the encoder onnx_a_")
    assert set(study.leaderboard()["family"]) == {"probe", "transfer"}

    file.with_suffix(".toml").write_text(SCALING.replace("0.4", "0.3"))
    with pytest.raises(StudyMismatchError, match="with fixed"):
        api.search(fixed={"backbone": f"onnx:{file}"}, trials=4, **options)
    file.unlink()
    with pytest.raises(StudyError, match="AUTOML_CXR_WEIGHTS"):
        replay_trial(study._store, 0)

    assert study.explain(what=2, per_class=1)
    assert study.evaluate(0).n_opened == 1
    ensemble = study.ensemble(top=3, method="average", name="all")
    done = export_classifier(api.open_classifier(ensemble.folder), tmp_path / "all.onnx")
    assert done.difference < 1e-5
