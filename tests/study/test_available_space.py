import numpy as np
import pytest

from automl_cxr import weight_files
from automl_cxr.study.available_space import restrict_to_available
from automl_cxr.study.spaces import check_space, load_space, refuse_unused


@pytest.fixture
def only_folder(tmp_path, monkeypatch):
    """Hide all weights except those in a folder."""
    monkeypatch.delenv("AUTOML_CXR_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(weight_files, "_package_folder", lambda package: [])
    return tmp_path


def values_of(space, name):
    return next((parameter.values for parameter in space.parameters if parameter.name == name), ())


def test_a_space_keeps_only_the_backbones_with_weights_on_this_machine(only_folder):
    (only_folder / "squeezenet_v1.1_imagenet_notop.h5").write_bytes(b"")
    space, left_out = restrict_to_available(load_space("auto"), str(only_folder))
    assert left_out == ("efficientnetlite0", "efficientnetlite1", "efficientnetlite2")
    assert values_of(space, "backbone") == ("squeezenet",)
    assert set(values_of(space, "family")) == {"probe", "transfer", "scratch", "fused"}
    assert space.portfolio
    assert all("efficientnet" not in str(point) for point in space.portfolio)
    assert space.preset()["family"] == "probe"


def test_a_space_without_any_weights_has_no_pretrained_backbones(only_folder):
    space, _ = restrict_to_available(load_space("auto"), str(only_folder))
    assert set(values_of(space, "family")) == {"probe", "scratch", "fused"}
    names = {parameter.name for parameter in space.parameters}
    assert not names & {"backbone", "unfreeze", "fine_tune_rate"}
    assert set(values_of(space, "probe_layers")) == {"gabor@1", "hog@3", "gabor@1+hog@3", "gabor@2", "hog@2"}
    refuse_unused(check_space(space), space.names)
    assert space.preset()["family"] == "probe"
    rng = np.random.default_rng(0)
    for _ in range(50):
        space.check(space.sample(rng))


def test_a_space_whose_weights_are_all_available_is_not_changed(only_folder, monkeypatch):
    monkeypatch.setattr(weight_files, "find_imagenet_file", lambda backbone, folder: only_folder / backbone.weights_file)
    space = load_space("auto")
    assert restrict_to_available(space, None) == (space, ())
