"""A storage that is on a read-only file system, or becomes read-only during a search."""

import contextlib
import subprocess

import pytest

from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_info import list_studies


@contextlib.contextmanager
def read_only(folder):
    """Make a folder a read-only file system, also for root and for a process that has opened a file in it."""

    def run(*command):
        return subprocess.run([*command, str(folder)], check=False, capture_output=True).returncode

    if run("mount", "--bind", str(folder)):
        pytest.skip("only root can mount a folder as read-only")
    try:
        assert run("mount", "-o", "remount,bind,ro") == 0
        yield
    finally:
        assert run("umount", "--lazy") == 0


@pytest.fixture(params=["sqlite", "journal"])
def location(tmp_path, request):
    folder = tmp_path / "storage"
    folder.mkdir()
    return {"runs": tmp_path, "storage": f"{request.param}:///{folder / 'studies'}"}


@pytest.fixture
def folder(location, tmp_path):
    return tmp_path / "storage"


@pytest.mark.slow
def test_the_studies_of_a_read_only_storage_can_be_read(prepare, quick_search, location, folder):
    quick_search(prepare(storage=location["storage"]), trials=2)
    with read_only(folder):
        assert [study.trials for study in list_studies(**location)] == [{"complete": 2}]
        store = StudyStore.open("s", **location)
        assert len(store.ranked()) == 2


@pytest.mark.slow
def test_a_search_in_a_read_only_storage_ends_at_once_and_continues_later(prepare, quick_search, location, folder):
    quick_search(prepare(storage=location["storage"]), trials=1)
    with read_only(folder), pytest.raises(StudyError, match=r"(?i)storage .*read-?only") as raised:
        quick_search(prepare(storage=location["storage"]), trials=2)
    assert "\n" not in str(raised.value)
    prepared = prepare(storage=location["storage"])
    quick_search(prepared, trials=2)
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
def test_a_storage_that_becomes_read_only_ends_the_search_and_its_trial_is_requeued(prepare, quick_search, location, folder):
    prepared = prepare(storage=location["storage"])
    with contextlib.ExitStack() as mounts:

        def lock(proposal, epoch):
            if proposal.number == 1 and epoch == 2:
                mounts.enter_context(read_only(folder))

        with pytest.raises(StudyError, match="same command continues"):
            quick_search(prepared, trials=3, between_epochs=lock)
    prepared = prepare(storage=location["storage"])
    listener = quick_search(prepared, trials=3)
    assert listener.resumed == [1]
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 3
