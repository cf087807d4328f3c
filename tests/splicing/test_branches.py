import dataclasses
import shutil

import pytest

from automl_cxr.api import locate
from automl_cxr.config import TrialConfig
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.splicing.branches import find_branch, join_branches


@pytest.fixture
def places(trained):
    runs, storage = locate(trained.folder.parent)
    return {"runs": runs, "storage": storage}


@pytest.fixture
def best(trained):
    """The trial that kept its model, and the other one."""
    (kept,) = trained.folder.glob("trials/*/model.keras")
    return int(kept.parent.name), 1 - int(kept.parent.name)


def test_a_study_a_trial_and_its_folder_are_one_branch(trained, places, best):
    number, _ = best
    of_study = find_branch("tiny", **places)
    assert of_study.name == f"tiny/{number}"
    assert find_branch(f"tiny/{number}", **places) == of_study
    assert find_branch(trained.folder / "trials" / f"{number:05d}", **places) == of_study
    assert of_study.backbone == "scratch"
    assert of_study.weights == str(trained.folder / "trials" / f"{number:05d}" / "model.keras")
    assert of_study.fields["filters"] == 4


def test_a_backbone_is_no_study(places):
    branch = find_branch("squeezenet", **places)
    assert (branch.backbone, branch.trial, branch.fields) == ("squeezenet", None, {})


def test_a_trial_without_its_model_is_refused_and_those_with_theirs_are_named(places, best):
    kept, gone = best
    with pytest.raises(StudyError, match=f"Trials with a model: {kept}."):
        find_branch(f"tiny/{gone}", **places)


@pytest.mark.parametrize(
    ("word", "error", "told"),
    [
        ("squeeznet", StudyError, "is neither a backbone .*squeezenet.* nor a study.*It holds: .*tiny"),
        ("tiny/9", StudyError, "trials 0 to 1; received 9"),
        ("nowhere/trials/00001/", UsageError, "STUDY/NUMBER or the folder of a trial"),
    ],
)
def test_a_word_that_names_nothing_is_refused(places, word, error, told):
    with pytest.raises(error, match=told):
        find_branch(word, **places)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"family": "fused"}, "is of family fused"), ({"resizer": 0.5}, "has a resizer of 0.5")],
)
def test_a_network_that_cannot_be_a_branch_is_refused(trained, places, tmp_path, changed, told, best):
    folder = tmp_path / "study"
    shutil.copytree(trained.folder, folder)
    file = folder / "trials" / f"{best[0]:05d}" / "config.json"
    config = TrialConfig.from_json(file.read_text())
    file.write_text(dataclasses.replace(config, **changed).to_json())
    with pytest.raises(UsageError, match=told):
        find_branch(file.parent, **places)


def test_branches_with_shared_hyperparameters_must_agree(places):
    branch = find_branch("tiny", **places)
    other = dataclasses.replace(branch, name="other/3", fields={**branch.fields, "filters": 8})
    with pytest.raises(UsageError, match=r"share filters; tiny/\d was trained with 4, other/3 with 8"):
        join_branches(branch, other)
    joined = join_branches(find_branch("squeezenet", **places), branch)
    assert (joined["backbone"], joined["second_backbone"], joined["filters"]) == ("squeezenet", "scratch", 4)
