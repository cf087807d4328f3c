"""A new study is written to a folder of its own, and a deletion removes nothing else."""

import pytest

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.study.copying import copy_study
from automl_cxr.study.deletion import delete_study
from automl_cxr.study.study_folder import claim_folder


@pytest.mark.parametrize("name", ["studies.db", "Studies.DB", "studies.db-journal", "other.db", "other.db-wal", "notes"])
def test_the_name_of_a_file_is_refused(tmp_path, prepare, name):
    (tmp_path / "notes").write_text("mine")
    storage = f"sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(UsageError, match=r"which is the name of a file\. Choose another name"):
        prepare(name=name, storage=storage)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_copy_may_not_have_the_name_of_the_database(tmp_path, prepare):
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    with pytest.raises(UsageError, match="which is the name of a file"):
        copy_study(prepare().store, "studies.db", runs=tmp_path, storage=storage)


def test_a_folder_of_the_user_is_never_the_folder_of_a_study(tmp_path, prepare):
    radiographs = tmp_path / "covid"
    radiographs.mkdir()
    (radiographs / "1.png").write_bytes(b"pixels")
    (radiographs / "study.json").write_text('{"title": "of another program"}')
    with pytest.raises(StudyError, match=r"contains '1\.png', which belongs to no study\. Choose another --name"):
        prepare(name="covid")
    assert sorted(path.name for path in radiographs.iterdir()) == ["1.png", "study.json"]
    (tmp_path / "empty").mkdir()
    prepare(name="empty")


def test_the_folder_of_an_interrupted_creation_is_used_again(tmp_path, prepare, monkeypatch):
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    folder = claim_folder("s", runs=tmp_path, storage=storage)
    (folder / "audit.json").write_text("{")
    assert prepare().is_new
    assert claim_folder("s", runs=tmp_path, storage=storage) == folder
    (folder / ".automl-cxr-study").unlink()  # a study of an earlier version
    assert claim_folder("s", runs=tmp_path, storage=storage) == folder


@pytest.mark.long
def test_a_study_of_another_storage_is_not_overwritten_by_a_search_of_the_same_name(tmp_path, prepare, quick_search):
    quick_search(prepare(), trials=0)  # no trial has ended yet
    files = {name: (tmp_path / "s" / name).read_bytes() for name in ("study.json", "split.json", "audit.json")}
    with pytest.raises(StudyError, match=r"contains a study that is not in .*other\.db"):
        prepare(storage=f"sqlite:///{tmp_path / 'other.db'}", seed=7)
    assert files == {name: (tmp_path / "s" / name).read_bytes() for name in files}


def test_a_deletion_removes_only_folders_that_this_program_has_renamed(tmp_path, prepare):
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    prepare()
    own, killed = tmp_path / ".deleted-scans", tmp_path / f".deleted-old-{'0a' * 16}"
    for folder in (own, killed):
        folder.mkdir()
        (folder / "1.png").touch()
    delete_study("s", runs=tmp_path, storage=storage)
    assert own.exists()
    assert not killed.exists()
    assert not (tmp_path / "s").exists()
