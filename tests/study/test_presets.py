import pytest

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.presets import find_preset


def test_a_study_file_a_space_and_a_backbone_have_a_preset():
    study = find_preset("pneumonia3-inceptionv3", {})
    assert (study.config.backbone, study.config.image_size, study.config.epochs, study.n_classes) == ("inceptionv3", 256, 60, 3)
    space = find_preset("transfer", {"backbone": "squeezenet", "image_size": 96})
    assert (space.config.backbone, space.config.image_size, space.config.unfreeze) == ("squeezenet", 96, 20)
    assert find_preset("densenet121", {}).config.backbone == "densenet121"


def test_study_files_and_spaces_are_distinguished(tmp_path):
    (tmp_path / "space.toml").write_text('family = "fused"')
    (tmp_path / "study.toml").write_text("image-size = 64")
    assert find_preset(str(tmp_path / "space.toml"), {}).config.family == "fused"
    assert find_preset(str(tmp_path / "study.toml"), {}).config.image_size == 64
    (tmp_path / "within.toml").write_text('[space]\ndescription = "inside"\nfamily = "fused"')
    assert find_preset(str(tmp_path / "within.toml"), {}).config.family == "fused"


@pytest.mark.parametrize(
    ("name", "values", "error", "rule"),
    [
        ("cxr14-fussed", {}, UnknownNameError, "Did you mean 'cxr14-fused'"),
        ("nowhere.toml", {}, UsageError, "must exist"),
        ("fused", {"dropuot": 0.1}, UnknownNameError, "Did you mean 'dropout'"),
    ],
)
def test_unknown_names_are_rejected(name, values, error, rule):
    with pytest.raises(error, match=rule):
        find_preset(name, values)


def test_a_space_without_defaults_requires_values(tmp_path):
    (tmp_path / "space.toml").write_text('[n_blocks]\ntype = "int"\nlow = 1\nhigh = 3')
    with pytest.raises(UsageError, match="--set n_blocks=VALUE"):
        find_preset(str(tmp_path / "space.toml"), {})
    assert find_preset(str(tmp_path / "space.toml"), {"n_blocks": 2}).config.n_blocks == 2
