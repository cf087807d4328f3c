"""Diverse members and near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.baselines import rank_members
from automl_cxr.ensemble.member_selection import (
    choose_diverse,
    error_correlations,
    near_duplicates,
)
from automl_cxr.ensemble.weight_scoring import WeightScorer
from tests.ensemble.drawing import draw, draw_weight_scorer


def test_members_that_disagree_are_preferred_to_copies() -> None:
    probabilities, labels = draw(4, 400, 3, 1)
    best = rank_members(WeightScorer(probabilities, labels))[0]
    others = [index for index in range(4) if index != best]
    with_copies = np.concatenate([np.repeat(probabilities[[best]], 3, axis=0), probabilities[others]])
    chosen = choose_diverse(WeightScorer(with_copies, labels), 3)
    assert chosen[0] == 0
    assert chosen[1] >= 3


def test_near_duplicates_are_chosen_last() -> None:
    probabilities, labels = draw(4, 400, 3, 1)
    with_copies = np.concatenate([np.repeat(probabilities[[0]], 3, axis=0), probabilities[1:]])
    chosen = choose_diverse(WeightScorer(with_copies, labels), 6)
    assert sum(index in (0, 1, 2) for index in chosen[:4]) == 1
    assert all(index in (0, 1, 2) for index in chosen[4:])


def test_a_member_of_another_family_is_preferred_among_equals() -> None:
    """Three members err on 40 images each; which of the other two is added first depends on their families only."""
    labels = np.arange(400) % 2
    members = np.full((3, 400, 2), 0.2, np.float32)
    for member, first in enumerate((0, 100, 200)):
        predicted = labels.copy()
        predicted[first : first + 40] = 1 - labels[first : first + 40]
        members[member, np.arange(400), predicted] = 0.8
    scorer = WeightScorer(members, labels)
    assert choose_diverse(scorer, 2) == [0, 1]
    assert choose_diverse(scorer, 2, kinds=["probe", "probe", "scratch"]) == [0, 2]
    assert choose_diverse(scorer, 2, kinds=["probe", "scratch", "probe"]) == [0, 1]


def test_at_most_all_members_are_chosen() -> None:
    assert sorted(choose_diverse(draw_weight_scorer(3, 60, 2, 0), 9)) == [0, 1, 2]


def test_correlations_equal_those_of_the_errors() -> None:
    probabilities, labels = draw(3, 200, 4, 0)
    errors = (probabilities - np.eye(4)[labels]).reshape(3, -1)
    assert error_correlations(WeightScorer(probabilities, labels)) == pytest.approx(np.corrcoef(errors), abs=1e-4)


def test_near_duplicates_are_sorted_by_correlation() -> None:
    probabilities, labels = draw(2, 200, 3, 0)
    scorer = WeightScorer(probabilities[[0, 1, 0]], labels)
    assert near_duplicates(scorer) == [(0, 2, pytest.approx(1))]
    assert near_duplicates(scorer, threshold=-1)[0][:2] == (0, 2)
    perfect = WeightScorer(np.eye(3)[labels][None].repeat(2, axis=0), labels)
    assert near_duplicates(perfect) == []
