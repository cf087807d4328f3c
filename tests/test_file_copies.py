import hashlib
import os
import shutil
import stat
from collections import namedtuple

import pytest
from filelock import FileLock

from automl_cxr.file_copies import FileCopies

CONTENT = b"radiographs" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Usage = namedtuple("Usage", "total used free")


def open_copy(folder, content=CONTENT, reads=None):
    def read():
        if reads is not None:
            reads.append(content)
        return iter([content[:100], memoryview(content)[100:]])

    digest = hashlib.sha256(content).hexdigest()
    return FileCopies(folder).open(digest, suffix=".npy", n_bytes=len(content), read=read)


def test_a_copy_is_written_once_for_its_user_only(tmp_path):
    reads = []
    path = open_copy(tmp_path, reads=reads)
    assert path.read_bytes() == CONTENT
    assert open_copy(tmp_path, reads=reads) == path
    assert len(reads) == 1
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [copy.n_bytes for copy in FileCopies(tmp_path).entries()] == [len(CONTENT)]


@pytest.mark.parametrize("other", [b"forged pixels", CONTENT[::-1]], ids=["another size", "the same size"])
def test_a_file_with_another_content_is_not_believed(tmp_path, other):
    path = tmp_path / "copies" / f"{DIGEST}.npy"
    path.parent.mkdir()
    path.write_bytes(other)
    assert open_copy(tmp_path) == path
    assert path.read_bytes() == CONTENT


def test_a_transfer_with_an_error_leaves_no_copy(tmp_path):
    with pytest.raises(OSError, match="differs from the original"):
        FileCopies(tmp_path).open(DIGEST, suffix=".npy", n_bytes=3, read=lambda: iter([b"abc"]))
    assert FileCopies(tmp_path).entries() == []
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["locks"]


def test_the_least_recently_used_copies_make_room(tmp_path, monkeypatch):
    paths = [open_copy(tmp_path, bytes([number]) * 1000) for number in range(4)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9000, 0, 8000))  # a quarter of 8000 + 4000 is 3000
    new = open_copy(tmp_path, b"n" * 1000)
    assert {copy.path for copy in FileCopies(tmp_path).entries()} == {*paths[2:], new}
    huge = open_copy(tmp_path, b"h" * 5000)  # a search needs it, so it is written
    assert [copy.path for copy in FileCopies(tmp_path).entries()] == [huge]


def test_clearing_removes_copies_and_incomplete_files_but_no_other_files(tmp_path):
    path = open_copy(tmp_path)
    incomplete = path.with_name(f".{path.name}.{'0' * 32}.partial")
    incomplete.touch()
    notes = path.with_name("notes.txt")
    notes.touch()
    with FileLock(tmp_path / "copies" / "locks" / f"{DIGEST}.lock"):
        FileCopies(tmp_path).clear()
        assert path.exists(), "it is being written or verified"
    FileCopies(tmp_path).clear()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["locks", "notes.txt"]
    FileCopies(tmp_path / "nowhere").clear()
