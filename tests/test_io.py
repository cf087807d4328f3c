import hashlib

import pytest

from automl_cxr.io import atomic_folder, atomic_write, sha256_of_file, write_text


def _half_written():
    raise TypeError


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write(_half_written())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_successful_write_replaces_the_file(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_new_folder_is_complete_or_absent(tmp_path):
    folder = tmp_path / "copy"
    with pytest.raises(TypeError), atomic_folder(folder) as partial:
        (partial / "a").write_text(_half_written())
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(folder) as partial:
        (partial / "b").write_text("new")
    assert [entry.name for entry in folder.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_a_folder_that_exists_is_not_replaced(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.docx").write_text("years of work")
    with pytest.raises(OSError, match="not empty"), atomic_folder(folder) as partial:
        (partial / "b").write_text("new")
    assert (folder / "thesis.docx").read_text() == "years of work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_the_digest_equals_that_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content" * 100_000)
    assert sha256_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
