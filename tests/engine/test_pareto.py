"""Non-dominated sorting compared with its definition, and the selection at a rung."""

import numpy as np
import pytest

from automl_cxr.engine.pareto import (
    ParetoHalving,
    crowding_distances,
    is_among_best_third,
    is_on_front,
    nondominated_ranks,
)


def dominates(one, other):
    return (one <= other).all() and (one < other).any()


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_front_contains_the_nondominated_candidates(n_objectives, seed):
    losses = np.random.default_rng(seed).integers(6, size=(60, n_objectives)).astype(float)  # many ties
    expected = [not any(dominates(other, one) for other in losses) for one in losses]
    assert is_on_front(losses).tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_ranks_number_the_successive_fronts(seed):
    losses = np.random.default_rng(seed).random((40, 2))
    ranks = nondominated_ranks(losses)
    for number, loss in enumerate(losses):
        better = [ranks[other] for other in range(len(losses)) if dominates(losses[other], loss)]
        assert ranks[number] == max(better, default=-1) + 1


def test_crowding_is_infinite_at_the_ends_and_grows_with_the_gap():
    distances = crowding_distances(np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]]))
    assert np.isinf(distances[[0, 4]]).all()
    assert distances[2] > distances[1]
    assert distances[1] == pytest.approx(2 / 10 + 2 / 10)
    assert crowding_distances(np.ones((3, 2))).tolist() == [0, 0, 0]


def select(losses):
    return [is_among_best_third(np.array(losses, dtype=float), number) for number in range(len(losses))]


def test_a_third_is_selected_by_rank():
    assert select([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]) == [True, True, False, False, False, False]
    assert select([[2, 2], [1, 1]]) == [False, True], "the best one of fewer than three"
    assert select([[0.5, 0.5]]) == [True]


def test_the_least_crowded_of_a_large_front_are_selected():
    front = [[0, 10], [1, 9], [2, 8], [6, 4], [9, 1], [10, 0]]
    assert select(front) == [True, False, False, False, False, True], "two of six: both ends of the front"
    assert select([*front, [11, 11], [12, 12], [13, 13]]) == [True, False, False, True, False, True, False, False, False]


def test_an_objective_with_missing_values_is_ignored():
    nan = float("nan")
    assert select([[1, nan], [2, 0], [3, 0]]) == [True, False, False]
    assert select([[nan], [nan]]) == [True, True]


def test_each_rung_has_three_times_the_epochs():
    assert [epoch for epoch in range(1, 60) if ParetoHalving(2).is_rung(epoch)] == [2, 6, 18, 54]
