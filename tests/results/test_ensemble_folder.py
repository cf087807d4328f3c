"""An ensemble replaces an ensemble of the same members, and nothing else."""

import json

import pytest

from automl_cxr.errors import UsageError
from automl_cxr.results.ensemble_folder import EnsembleFolder

AVERAGE = {"kind": "average", "weights": [0.5, 0.5]}


def record_of(digests, rule=AVERAGE, **entries):
    members = [{"name": f"trial {digest}", "predictions_sha256": digest} for digest in digests]
    return {"members": members, "rule": rule, **entries}


def write(parent, name, record, *files):
    """Write an ensemble, as ``ensemble build`` does after the weights are fitted."""
    destination = EnsembleFolder(parent, name, default_name="average-2")
    destination.check(record["members"])
    with destination.staged() as partial:
        (partial / "ensemble.json").write_text(json.dumps(record))
        (partial / "members").mkdir()
        for file in ("members/00001.keras", "members/00001.image_hashes.npz", *files):
            (partial / file).touch()
        return destination.publish(partial)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["thesis.docx", "members/notes.txt", "valid.npz", "members/00001.keras"])
def test_a_folder_of_the_user_is_refused_before_the_weights_are_fitted(tmp_path, name):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    destination = EnsembleFolder(tmp_path, "mine", default_name="average-2")
    with pytest.raises(UsageError, match=r"which is not a file of an ensemble\. Choose another --name"):
        destination.check(record_of("ab")["members"])
    with pytest.raises(UsageError, match="not a file of an ensemble"):
        write(tmp_path, "mine", record_of("ab"))
    assert file.read_text() == "years of work"
    assert files_in(tmp_path) == [f"mine/{name}"]


def test_a_file_of_the_user_is_refused(tmp_path):
    (tmp_path / "mine").write_text("years of work")
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path, "mine", record_of("ab"))


def test_an_ensemble_of_the_same_members_is_replaced(tmp_path):
    folder = write(tmp_path, "mine", record_of("ab"), "valid.npz")
    rule = {"kind": "average", "weights": [0.3, 0.7]}
    assert write(tmp_path, "mine", record_of("ab", rule)) == folder
    assert json.loads((folder / "ensemble.json").read_text())["rule"] == rule
    assert files_in(tmp_path) == ["mine/ensemble.json", "mine/members/00001.image_hashes.npz", "mine/members/00001.keras"]


@pytest.mark.parametrize("digests", ["ac", "ba", "a", "abc"])
def test_an_ensemble_of_other_members_is_refused(tmp_path, digests):
    write(tmp_path, "mine", record_of("ab"))
    with pytest.raises(UsageError, match=r"an ensemble of other members \(trial a, trial b\)"):
        write(tmp_path, "mine", record_of(digests))


def test_an_ensemble_to_which_the_user_added_a_file_is_refused(tmp_path):
    folder = write(tmp_path, "mine", record_of("ab"))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"contains 'notes\.txt'"):
        write(tmp_path, "mine", record_of("ab"))


def test_the_scores_of_an_evaluated_ensemble_are_kept_or_the_ensemble_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.results.ensemble_record.model_card", lambda record: str(record["test"]))
    folder = write(tmp_path, "mine", record_of("ab", test={"n_images": 9}))
    write(tmp_path, "mine", record_of("ab"))
    assert json.loads((folder / "ensemble.json").read_text())["test"] == {"n_images": 9}
    with pytest.raises(UsageError, match="other weights that was evaluated on the test part"):
        write(tmp_path, "mine", record_of("ab", {"kind": "average", "weights": [0.3, 0.7]}))


def test_without_a_name_a_free_name_is_chosen(tmp_path):
    (tmp_path / "average-2-2").mkdir()
    (tmp_path / "average-2-2" / "thesis.docx").touch()
    folders = [write(tmp_path, None, record_of(digests)) for digests in ("ab", "ac", "ab", "ac")]
    assert [folder.name for folder in folders] == ["average-2", "average-2-3", "average-2", "average-2-3"]
    assert not list(tmp_path.glob(".*"))
