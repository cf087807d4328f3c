import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from filelock import FileLock

from automl_cxr.data.feature_cache import FeatureCache, Features, digest_array
from automl_cxr.errors import FeatureCacheError, UsageError

N = 10


def features(name="a", n=N, width=4, dtype="float32"):
    return Features({"network": name}, (n, width), dtype, f"features {name}")


def identifying_values(requested):
    """Return values that identify the features and the row, without a network."""
    first = int(requested.origin["network"], 36)
    return (first + np.arange(np.prod(requested.shape))).reshape(requested.shape).astype(np.float32)


class Compute:
    """Computes features in batches of 4 and records the requests."""

    def __init__(self):
        self.requests = []

    def __call__(self, missing):
        self.requests.append([requested.label for requested in missing])
        for start in range(0, N, 4):
            yield tuple(identifying_values(requested)[start : start + 4] for requested in missing)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path)


def file_of(tmp_path, requested, name="values.npy"):
    return tmp_path / "features" / "entries" / requested.key / name


def test_missing_features_are_computed_in_one_pass_and_then_mapped(cache):
    compute = Compute()
    first, second = cache.open([features("a"), features("b")], compute)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    assert np.array_equal(first, identifying_values(features("a")))
    assert np.array_equal(second, identifying_values(features("b")))
    cache.open([features("b"), features("c"), features("c")], compute)
    assert compute.requests == [["features a", "features b"], ["features c"]]


def test_half_precision_halves_the_size(cache):
    requested = features(dtype="float16")
    (found,) = cache.open([requested], Compute())
    assert found.dtype == np.float16
    assert requested.n_bytes == features().n_bytes / 2
    assert requested.key != features().key


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def write_another_shape(path):
    np.save(path, np.zeros((N + 1, 4), np.float32))


def write_objects(path):
    np.save(path, np.array([{"run": "me"}], object), allow_pickle=True)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, write_another_shape, write_objects])
def test_damaged_values_are_computed_again(cache, tmp_path, damage):
    cache.open([features()], Compute())
    damage(file_of(tmp_path, features()))
    compute = Compute()
    (found,) = cache.open([features()], compute)
    assert len(compute.requests) == 1
    assert np.array_equal(found, identifying_values(features()))


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": "0"}'])
def test_values_without_their_digest_are_computed_again(cache, tmp_path, content):
    cache.open([features()], Compute())
    file_of(tmp_path, features(), "entry.json").write_text(content)
    compute = Compute()
    cache.open([features()], compute)
    assert len(compute.requests) == 1


def fail_halfway(missing):
    yield tuple(identifying_values(requested)[:4] for requested in missing)
    raise RuntimeError("the network diverged")


def stop_short(missing):
    yield tuple(identifying_values(requested)[:4] for requested in missing)


@pytest.mark.parametrize(("compute", "error"), [(fail_halfway, RuntimeError), (stop_short, FeatureCacheError)])
def test_an_incomplete_computation_leaves_no_files(cache, tmp_path, compute, error):
    with pytest.raises(error):
        cache.open([features()], compute)
    assert cache.entries() == []
    assert list((tmp_path / "features").glob("partial-*")) == []


def set_last_use(tmp_path, requested, seconds):
    os.utime(file_of(tmp_path, requested, "entry.json"), (seconds, seconds))


def test_the_least_recently_used_entry_is_removed_first(tmp_path):
    cache = FeatureCache(tmp_path, limit=2 * features().n_bytes)
    for name, seconds in (("a", 200), ("b", 100)):
        cache.open([features(name)], Compute())
        set_last_use(tmp_path, features(name), seconds)
    cache.open([features("b")], Compute())  # b is used again
    cache.open([features("c")], Compute())
    assert [entry.label for entry in cache.entries()] == ["features c", "features b"]


def test_entries_that_are_being_opened_are_not_removed(tmp_path):
    cache = FeatureCache(tmp_path, limit=2 * features().n_bytes)
    for name, seconds in (("a", 100), ("b", 200)):
        cache.open([features(name)], Compute())
        set_last_use(tmp_path, features(name), seconds)
    with FileLock(tmp_path / "features" / "locks" / f"{features('a').key}.lock"):
        cache.open([features("c")], Compute())
    assert {entry.label for entry in cache.entries()} == {"features a", "features c"}


def test_features_of_one_request_do_not_displace_each_other(tmp_path):
    cache = FeatureCache(tmp_path, limit=2 * features().n_bytes)
    cache.open([features("a")], Compute())
    set_last_use(tmp_path, features("a"), 100)
    cache.open([features("a"), features("b")], Compute())
    with pytest.raises(FeatureCacheError, match="limit"):
        cache.open([features("a"), features("b"), features("c")], Compute())
    assert {entry.label for entry in cache.entries()} == {"features a", "features b"}


def test_a_mapped_entry_can_be_read_after_its_removal(cache):
    (found,) = cache.open([features()], Compute())
    assert cache.clear() == features().n_bytes
    assert cache.entries() == []
    assert np.array_equal(found, identifying_values(features()))


def test_features_larger_than_the_limit_are_refused_before_computation(tmp_path):
    compute = Compute()
    with pytest.raises(FeatureCacheError, match="AUTOML_CXR_CACHE_LIMIT"):
        FeatureCache(tmp_path, limit=features().n_bytes - 1).open([features()], compute)
    assert compute.requests == []


def test_the_limit_is_set_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "1.5GB")
    assert FeatureCache(tmp_path).limit == 1_500_000_000
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="a size is written like"):
        FeatureCache(tmp_path)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "features").write_text("no folder")
    with pytest.raises(FeatureCacheError, match="cannot be written"):
        FeatureCache(tmp_path).open([features()], Compute())


def test_no_more_than_a_batch_is_in_memory(tmp_path):
    requested = features(n=400, width=25_000)  # 40 MB

    def compute(_missing):
        for _ in range(100):
            yield (np.zeros((4, 25_000), np.float32),)

    tracemalloc.start()
    try:
        FeatureCache(tmp_path, limit=2**30).open([requested], compute)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


REQUEST_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from automl_cxr.data.feature_cache import FeatureCache, Features

def compute(missing):
    yield (np.zeros((4, 4), np.float32),)
    print("computing", flush=True)
    sys.stdin.readline()
    yield (np.ones((6, 4), np.float32),)

print("asking", flush=True)
(found,) = FeatureCache(Path(sys.argv[1])).open([Features({"network": "a"}, (10, 4), "float32", "")], compute)
print("sum", int(found.sum()), flush=True)
"""


@pytest.fixture
def start_request(tmp_path):
    """Return a function that starts a process, which requests features, prints its steps and pauses during the computation."""
    processes = []

    def start():
        command = [sys.executable, "-c", REQUEST_SCRIPT, str(tmp_path)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "asking\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_one_of_two_processes_computes_and_the_other_waits(start_request):
    first = start_request()
    assert first.stdout.readline() == "computing\n"
    second = start_request()
    assert first.communicate("go on\n", timeout=60)[0] == "sum 24\n"
    assert second.communicate(timeout=60)[0] == "sum 24\n"


def test_a_process_killed_while_computing_blocks_no_other(start_request, tmp_path):
    first = start_request()
    assert first.stdout.readline() == "computing\n"
    first.kill()
    first.wait()
    assert list((tmp_path / "features").glob("partial-*")), "the killed process left incomplete files"
    second = start_request()
    assert second.communicate("go on\n", timeout=60)[0] == "computing\nsum 24\n"
    assert list((tmp_path / "features").glob("partial-*")) == []


def test_files_of_killed_processes_are_removed_when_space_is_needed(tmp_path, cache):
    incomplete = tmp_path / "features" / "partial-of-the-dead"
    cache.open([features("a")], Compute())
    incomplete.mkdir()
    (incomplete / "entry.json").write_text(json.dumps({"key": "k", "label": "", "shape": [9, 9], "dtype": "float32"}))
    cache.open([features("b")], Compute())
    assert not incomplete.exists()


def test_the_digest_of_an_array_depends_on_its_contents(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    first, second = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab")
    assert digest_array(first) == digest_array(second)
    assert digest_array(array) == digest_array(array.copy())
    others = [first[::-1], first[:1], array.reshape(2, 4, 3), array.astype(np.int8)]
    assert len({digest_array(other) for other in (first, array, *others)}) == 6
