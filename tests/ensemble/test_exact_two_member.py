"""The optimal weights of two members for every objective."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.tasks import MULTICLASS
from tests.ensemble.drawing import draw, draw_weight_scorer

FIRST = np.linspace(0, 1, 5001)
GRID = np.stack([FIRST, 1 - FIRST], axis=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "balanced_accuracy", "fnfr", "log_loss"])
def test_no_weight_of_a_fine_grid_is_better(name: str, seed: int) -> None:
    probabilities, labels = draw(2, 150, 2 + seed % 4, seed)
    scorer = WeightScorer(probabilities, labels, objective=Objective.named(name, normal_class=0))
    assert scorer.score(exact_two_member_weights(scorer)[None])[0] >= scorer.score(GRID).max() - 1e-6


def test_an_interval_between_grid_points_is_found() -> None:
    # The first image is right above 0.30001, the second below 0.30002.
    edges = np.array([0.30001, 0.30002])
    second = np.array([[0.5 + edge / 4, 0.5 - edge / 4] for edge in edges])
    first = second - np.array([0.25, -0.25])
    labels = np.array([1, 0])
    scorer = WeightScorer(np.array([first, second]), labels)
    assert scorer.score(np.array([[0.3, 0.7], [0.31, 0.69]])).max() < 1
    weights = exact_two_member_weights(scorer)
    assert edges[0] < weights[0] < edges[1]
    assert scorer.score(weights[None])[0] == 1


@pytest.mark.parametrize(
    "name",
    [name for name, row in METRICS.items() if MULTICLASS in row.tasks and row.of_confusions is None and name != "log_loss"],
)
def test_metrics_of_ranks_use_the_best_weight_of_a_grid(name: str) -> None:
    probabilities, labels = draw(2, 120, 3, 0)
    scorer = WeightScorer(probabilities, labels, objective=Objective.named(name, normal_class=0))
    ends = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert scorer.score(exact_two_member_weights(scorer)[None])[0] >= scorer.score(ends).max()


def test_two_equal_members_get_valid_weights() -> None:
    probabilities, labels = draw(1, 50, 3, 0)
    weights = exact_two_member_weights(WeightScorer(np.repeat(probabilities, 2, axis=0), labels))
    assert weights.sum() == pytest.approx(1)


def test_three_members_are_refused() -> None:
    with pytest.raises(UsageError, match="Received 3"):
        exact_two_member_weights(draw_weight_scorer(3, 30, 2, 0))
