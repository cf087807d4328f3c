import pytest

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.spaces import load_space, shipped
from automl_cxr.study.study_files import load_study_options, read_study_file


def test_settings_are_returned_as_typed_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('description = "x"\nimage-size = 64\nclasses = ["a", "b"]\ntime = "2h"')
    settings = load_study_options(str(path))
    assert settings == {"image-size": "64", "classes": "a,b", "time": "2h"}


@pytest.mark.parametrize(("text", "rule"), [("image_sise = 3", "Did you mean 'image-size'"), ("= 3", "cannot be read")])
def test_invalid_files_are_refused(tmp_path, text, rule):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rule):
        load_study_options(str(path))


def test_a_file_may_contain_its_space(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "x"\ntrials = 1\n[reference]\nparameters = 5\n[space]\nfamily = "fused"\n[space.dropout]\n'
        'type = "float"\nlow = 0.0\nhigh = 0.5'
    )
    assert load_study_options(str(path)) == {"trials": "1", "space": str(path)}
    assert read_study_file(path).reference == {"parameters": 5}
    space = load_space(str(path))
    assert space.constants == {"family": "fused"}
    assert [parameter.name for parameter in space.parameters] == ["dropout"]


def test_an_unknown_key_of_the_reference_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[reference]\nparametres = 5")
    with pytest.raises(UnknownNameError, match="Did you mean 'parameters'"):
        read_study_file(path)


@pytest.mark.parametrize("name", shipped("studies"))
def test_a_shipped_study_without_a_search_is_one_trial(name):
    file = read_study_file(shipped("studies")[name])
    assert file.description
    space = load_space(str(file.options["space"]))
    assert file.options.get("trials") == 1 or space.parameters


@pytest.mark.parametrize("text", ["reference = 5", '[reference]\nparameters = "many"', "[reference]\nn_classes = 1"])
def test_a_reference_with_invalid_values_is_refused(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="reference of the study file"):
        read_study_file(path)


def test_the_name_of_a_study_is_not_a_study_file():
    with pytest.raises(UnknownNameError, match="--name names the study"):
        load_study_options("covid")
