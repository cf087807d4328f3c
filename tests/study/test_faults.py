"""Errors in a trial: retries by the class of the error, their record, and the continuation of the search."""

import errno
import json
import subprocess
from collections import Counter

import pytest

from automl_cxr.errors import DiskFullError, ImpossibleModelError, NonFiniteLossError, OutOfMemoryError, WorkerDiedError
from automl_cxr.records import TrialState
from automl_cxr.study.resource_errors import explained_resource_errors


def fail(number, errors):
    """Raise the errors in the second epoch of a trial, one at each attempt."""
    remaining = list(errors)

    def fail_once(proposal, epoch):
        if proposal.number == number and epoch == 2 and remaining:
            raise remaining.pop(0)

    return fail_once


TEMPORARY = [
    [WorkerDiedError("gone")],
    [WorkerDiedError("gone"), WorkerDiedError("gone")],
    [OutOfMemoryError("full")],
    [DiskFullError("full")],
    [OSError(errno.EIO, "temporary")],
    [WorkerDiedError("gone"), OutOfMemoryError("full"), WorkerDiedError("gone"), DiskFullError("full")],
]


@pytest.mark.long
@pytest.mark.parametrize("errors", TEMPORARY, ids=lambda errors: "+".join(type(error).__name__ for error in errors))
def test_a_temporary_error_is_retried_and_recorded(prepare, quick_search, errors):
    prepared = prepare()
    listener = quick_search(prepared, trials=3, between_epochs=fail(1, errors))
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 3
    reasons = [f"{type(error).__name__}: {error}" for error in errors]
    assert list(prepared.store.record(1).retries) == reasons
    assert listener.failures == [(1, reason) for reason in reasons]
    assert listener.ended == [0, 1, 2]


PERMANENT = [
    [NonFiniteLossError("NaN")],
    [ImpossibleModelError("no")],
    [ValueError("a mistake")],
    [WorkerDiedError("gone")] * 3,
    [OutOfMemoryError("full")] * 2,
    [OSError(errno.EIO, "broken")] * 2,
]


@pytest.mark.parametrize("errors", PERMANENT, ids=lambda errors: f"{len(errors)}x{type(errors[0]).__name__}")
def test_a_permanent_error_fails_the_trial_with_its_reason(prepare, quick_search, errors):
    prepared = prepare()
    quick_search(prepared, trials=3, between_epochs=fail(1, errors))
    states = [record.state for record in prepared.store.records()]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE]
    assert prepared.store.record(1).error == f"{type(errors[0]).__name__}: {errors[0]}"
    assert len(prepared.store.record(1).retries) == len(errors) - 1
    assert not list((prepared.store.folder / "trials").glob(".*"))


@pytest.mark.slow
def test_a_trial_that_ran_out_of_memory_is_retried_with_gradient_accumulation(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=2, between_epochs=fail(1, [OutOfMemoryError("full")]))
    configs = [json.loads((prepared.store.trial_folder(number) / "config.json").read_text()) for number in (0, 1)]
    assert [config["gradient_accumulation"] for config in configs] == [1, 2]
    assert configs[0]["batch_size"] == configs[1]["batch_size"]


def test_retries_are_counted_over_searches(prepare, quick_search):
    prepared = prepare()
    errors = [WorkerDiedError("gone"), KeyboardInterrupt(), WorkerDiedError("gone"), WorkerDiedError("gone")]
    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=2, between_epochs=fail(0, errors[:2]))
    quick_search(prepared, trials=2, between_epochs=fail(0, errors[2:]))
    assert Counter(record.state for record in prepared.store.records()) == {TrialState.FAILED: 1, TrialState.COMPLETE: 1}


@pytest.mark.slow
def test_new_epochs_reset_the_number_of_retries(prepare, quick_search):
    prepared = prepare(epochs=9)
    last_epochs = iter(range(1, 7))
    last_epoch = next(last_epochs)

    def fail_later_each_time(proposal, epoch):
        nonlocal last_epoch
        if proposal.number == 0 and last_epoch is not None and epoch > last_epoch:
            last_epoch = next(last_epochs, None)
            raise WorkerDiedError("gone")

    quick_search(prepared, trials=1, epochs=9, between_epochs=fail_later_each_time)
    record = prepared.store.record(0)
    assert (record.state, len(record.retries)) == (TrialState.COMPLETE, 6)


@pytest.mark.parametrize("class_name", ["ResourceExhaustedError", "XlaRuntimeError", "OutOfMemoryError"])
def test_the_memory_errors_of_all_libraries_are_converted(class_name):
    library_error = type(class_name, (RuntimeError,), {"__module__": "jaxlib._jax"})
    with pytest.raises(OutOfMemoryError, match="memory is insufficient"), explained_resource_errors():
        raise library_error("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 15.00GiB.\nmore")
    with pytest.raises(OutOfMemoryError, match="MemoryError"), explained_resource_errors():
        raise MemoryError
    with pytest.raises(ValueError, match="out of memory"), explained_resource_errors():
        raise ValueError("a column named 'out of memory'")


@pytest.mark.long
def test_a_real_memory_error_of_the_backend_is_converted():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the other backends have no limit on the CPU that can be exceeded safely")
    with pytest.raises(OutOfMemoryError, match="OOM when allocating"), explained_resource_errors():
        keras.ops.zeros((10**13,))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_trial_is_retried_after_a_full_disk_has_free_space(prepare, quick_search, small_disk):
    prepared = prepare()
    trials = prepared.store.folder / "trials"
    trials.rmdir()
    (small_disk / "trials").mkdir()
    trials.symlink_to(small_disk / "trials")
    files = []

    def fill(proposal, epoch):
        if proposal.number == 1 and epoch == 3 and not files:
            files.append(small_disk / "block")
            with explained_resource_errors(), files[0].open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        if proposal.number == 1 and epoch == 1 and files:
            files[0].unlink()

    quick_search(prepared, trials=3, between_epochs=fill)
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 3
    assert "The disk is full" in prepared.store.record(1).retries[0]
