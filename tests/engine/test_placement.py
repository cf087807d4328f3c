"""The division of clusters among trials: only machines that can run a trial count, and each has its own share of memory."""

import pytest

from automl_cxr.engine.placement import Node, Placement, RayResources, place
from automl_cxr.errors import UsageError

GIB = 2**30


def describe(settings, *nodes):
    """Return the number of trials at once, cores and GPUs of each."""
    placement = place(RayResources(**settings), [Node(**node) for node in nodes])
    return placement.concurrency, placement.cpus, placement.gpus


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        ({}, [{"cpus": 2, "memory": 16 * GIB}], (2, 1, 0)),
        ({}, [{"cpus": 64, "memory": 16 * GIB}], (8, 8, 0)),
        ({}, [{"cpus": 16, "gpus": 4, "memory": 64 * GIB}], (4, 4, 1)),
        ({"gpus_per_trial": 0.25}, [{"cpus": 16, "gpus": 1}], (4, 4, 0.25)),
        ({"gpus_per_trial": 0.1}, [{"cpus": 16, "gpus": 1}], (10, 1, 0.1)),
        ({"gpus_per_trial": 0.4}, [{"cpus": 16, "gpus": 2}], (4, 4, 0.4)),  # no trial spans a part of two GPUs
        ({"gpus_per_trial": 0.6}, [{"cpus": 16, "gpus": 2}], (2, 8, 0.6)),
        ({"gpus_per_trial": 2}, [{"cpus": 16, "gpus": 4}], (2, 8, 2)),
        ({"gpus_per_trial": 2}, [{"cpus": 8, "gpus": 3}, {"cpus": 8, "gpus": 3}], (2, 8, 2)),
        ({"gpus_per_trial": 0}, [{"cpus": 4, "gpus": 1}], (4, 1, 0)),
        ({"concurrency": 1}, [{"cpus": 4}, {"cpus": 4}], (1, 4, 0)),
        ({"concurrency": 3}, [{"cpus": 8}, {"cpus": 4}], (3, 4, 0)),
        ({"concurrency": 8}, [{"cpus": 2}], (8, 1, 0)),  # further machines may join
        ({"cpus_per_trial": 2}, [{"cpus": 8}], (4, 2, 0)),
        ({"cpus_per_trial": 0.1}, [{"cpus": 1}], (10, 0.1, 0)),
        ({"cpus_per_trial": 3}, [{"cpus": 4}, {"cpus": 4}], (2, 3, 0)),
        ({}, [{"cpus": 1, "memory": GIB}], (1, 1, 0)),
        ({}, [{"cpus": 16, "gpus": 1}, {"cpus": 4, "gpus": 1}], (2, 4, 1)),  # both GPUs are used
        ({}, [{"cpus": 8}, {"cpus": 8, "gpus": 2}], (2, 4, 1)),
        ({}, [{"cpus": 0}, {"cpus": 2}], (2, 1, 0)),
    ],
)
def test_trials_share_the_machines_that_can_run_them(settings, nodes, expected):
    assert describe(settings, *nodes) == expected


def test_a_small_machine_without_a_gpu_does_not_reduce_the_memory_of_trials_on_gpus():
    head, workers = Node(cpus=4, memory=6 * GIB, store=2 * GIB), [Node(cpus=16, gpus=4, memory=200 * GIB)] * 2
    placement = place(RayResources(), [head, *workers])
    assert (placement.concurrency, placement.cpus) == (8, 4)
    assert [placement.memory_on(node) for node in workers] == [50 * GIB] * 2


def test_each_machine_divides_its_own_memory():
    small, large = Node(cpus=8, memory=6 * GIB, store=2 * GIB), Node(cpus=8, memory=48 * GIB, store=16 * GIB)
    placement = place(RayResources(), [small, large])
    assert placement.concurrency == 11  # of at least 2 GiB
    assert placement.memory_on(small) == 8 * GIB // 3
    assert placement.memory_on(large) == 8 * GIB
    assert place(RayResources(concurrency=1), [small, large]).memory_on(large) == 64 * GIB
    assert place(RayResources(memory_per_trial=5), [small, large]).memory_on(small) == 5
    growing = place(RayResources(), [small], may_grow=True)
    assert growing.concurrency is None
    assert growing.memory_on(large) == 16 * GIB  # a machine that joins divides its memory among its own trials
    assert place(RayResources(concurrency=2), [small], may_grow=True).concurrency == 2
    assert Placement(concurrency=1, cpus=1, gpus=0).memory_on(Node(cpus=1)) is None


def test_a_machine_that_ray_describes():
    assert Node.from_ray({"CPU": 4.0, "memory": 5.0, "object_store_memory": 2.0}) == Node(cpus=4, memory=5, store=2)
    assert Node.from_ray({"GPU": 2.0, "node:10.0.0.1": 1.0}).gpus == 2


@pytest.mark.parametrize(
    ("settings", "nodes"),
    [
        ({"gpus_per_trial": 1}, [{"cpus": 2}]),
        ({"gpus_per_trial": 2}, [{"cpus": 2, "gpus": 1}] * 2),
        ({"cpus_per_trial": 4}, [{"cpus": 2}] * 2),
        ({"cpus_per_trial": 4}, [{"cpus": 2, "gpus": 1}, {"cpus": 4}]),
    ],
)
def test_a_trial_that_no_machine_can_run_is_rejected(settings, nodes):
    with pytest.raises(UsageError, match=r"A trial needs .* on one machine; received a Ray cluster with \d+ CPUs"):
        describe(settings, *nodes)


@pytest.mark.parametrize(
    "settings",
    [{"concurrency": 0}, {"cpus_per_trial": 0}, {"gpus_per_trial": -1}, {"gpus_per_trial": 1.5}, {"memory_per_trial": 0}],
)
def test_invalid_resources_are_rejected(settings):
    with pytest.raises(UsageError, match="must be"):
        RayResources(**settings)
