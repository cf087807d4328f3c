import dataclasses
import shutil

import pytest

from automl_cxr.api import locate
from automl_cxr.config import TrialConfig
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.splicing.branches import find_branch, join_branches


@pytest.fixture
def locations(trained):
    runs, storage = locate(trained.folder.parent)
    return {"runs": runs, "storage": storage}


@pytest.fixture
def best(trained):
    """Return the number of the trial with a model, and that of the other trial."""
    (model,) = trained.folder.glob("trials/*/model.keras")
    return int(model.parent.name), 1 - int(model.parent.name)


def test_a_study_a_trial_and_its_folder_name_the_same_branch(trained, locations, best):
    number, _ = best
    of_study = find_branch("tiny", **locations)
    assert of_study.name == f"tiny/{number}"
    assert find_branch(f"tiny/{number}", **locations) == of_study
    assert find_branch(trained.folder / "trials" / f"{number:05d}", **locations) == of_study
    assert of_study.backbone == "scratch"
    assert of_study.weights == str(trained.folder / "trials" / f"{number:05d}" / "model.keras")
    assert of_study.fields["filters"] == 4


def test_a_backbone_is_a_branch_without_a_trial(locations):
    branch = find_branch("squeezenet", **locations)
    assert (branch.backbone, branch.trial, branch.fields) == ("squeezenet", None, {})


def test_a_trial_without_a_model_is_rejected_and_trials_with_models_are_listed(locations, best):
    with_model, without_model = best
    with pytest.raises(StudyError, match=f"Trials with a model: {with_model}."):
        find_branch(f"tiny/{without_model}", **locations)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("squeeznet", StudyError, "is neither a backbone .*squeezenet.* nor a study.*Its studies: .*tiny"),
        ("tiny/9", StudyError, "trials 0 to 1; received 9"),
        ("nowhere/trials/00001/", UsageError, "STUDY/NUMBER or the folder of a trial"),
    ],
)
def test_an_unknown_name_is_rejected(locations, name, error, message):
    with pytest.raises(error, match=message):
        find_branch(name, **locations)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"family": "fused"}, "is of family fused"), ({"resizer": 0.5}, "has a resizer of 0.5")],
)
def test_a_network_that_cannot_be_a_branch_is_rejected(trained, locations, tmp_path, changed, message, best):
    folder = tmp_path / "study"
    shutil.copytree(trained.folder, folder)
    file = folder / "trials" / f"{best[0]:05d}" / "config.json"
    config = TrialConfig.from_json(file.read_text())
    file.write_text(dataclasses.replace(config, **changed).to_json())
    with pytest.raises(UsageError, match=message):
        find_branch(file.parent, **locations)


def test_branches_with_shared_hyperparameters_must_agree(locations):
    branch = find_branch("tiny", **locations)
    other = dataclasses.replace(branch, name="other/3", fields={**branch.fields, "filters": 8})
    with pytest.raises(UsageError, match=r"must have the same filters; tiny/\d was trained with 4, other/3 with 8"):
        join_branches(branch, other)
    joined = join_branches(find_branch("squeezenet", **locations), branch)
    assert (joined["backbone"], joined["second_backbone"], joined["filters"]) == ("squeezenet", "scratch", 4)
