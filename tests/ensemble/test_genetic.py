"""The genetic algorithm: never below its seeds, close to the optimum, reproducible."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.ensemble import genetic
from automl_cxr.ensemble.baselines import greedy_weights
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.genetic import evolve_weights, seed_weights
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.ensemble.weighted_average import weighted_average
from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import score_macro_f1
from tests.ensemble.drawing import draw, draw_weight_scorer

# Optimise only the objective, on all images.
BARE = GeneticSettings(restarts=3, patience=50, brier_weight=0.0)
SMALL = replace(BARE, population=30, generations=30, restarts=2, patience=15)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("m", "k"), [(2, 2), (6, 4), (30, 3)])
def test_the_result_is_never_below_its_seeds(m: int, k: int, seed: int) -> None:
    scorer = draw_weight_scorer(m, 150, k, seed)
    result = evolve_weights(scorer, SMALL)
    order = np.argsort(-scorer.score(np.eye(m)), kind="stable")
    top = [np.isin(np.arange(m), order[:n]) / n for n in range(1, m + 1)]
    baselines = np.array([np.ones(m) / m, *np.eye(m), greedy_weights(scorer), *top])
    assert result.score >= scorer.score(baselines).max()
    assert scorer.score(np.array(seed_weights(scorer))).max() >= scorer.score(baselines).max()
    assert result.weights.shape == (m,)
    assert result.weights.sum() == pytest.approx(1)
    assert (result.weights >= 0).all()
    assert result.score == pytest.approx(
        score_macro_f1(scorer.labels, weighted_average(scorer.probabilities, result.weights)), abs=0.01
    )


@pytest.mark.parametrize("seed", range(6))
def test_two_members_reach_the_exact_optimum(seed: int) -> None:
    scorer = draw_weight_scorer(2, 200, 3, seed)
    assert evolve_weights(scorer, BARE).score >= scorer.score(exact_two_member_weights(scorer)[None])[0]


def test_three_members_reach_the_optimum_of_a_fine_grid() -> None:
    scorer = draw_weight_scorer(3, 200, 3, 0)
    grid = np.array([(a, b, 50 - a - b) for a in range(51) for b in range(51 - a)]) / 50
    assert evolve_weights(scorer, BARE).score >= scorer.score(grid).max()


def test_weights_by_class_can_be_better_than_weights_by_member() -> None:
    labels = np.repeat([0, 1, 2], 30)
    truth = np.eye(3)[labels]
    ranks_class_0 = np.where(truth[:, :1] == 1, [[0.8, 0.1, 0.1]], [[0.1, 0.45, 0.45]])
    ranks_class_0[labels > 0] += np.random.default_rng(0).choice([-0.2, 0.2], size=60)[:, None] * np.array([0, 1, -1])
    overpredicts_class_0 = np.where(truth == 1, 0.35, 0.05) + np.array([0.5, 0, 0])
    overpredicts_class_0 /= overpredicts_class_0.sum(axis=1, keepdims=True)
    scorer = WeightScorer(np.array([ranks_class_0, overpredicts_class_0]), labels)
    by_class = evolve_weights(scorer, BARE, by_class=True)
    assert by_class.weights.shape == (2, 3)
    assert by_class.weights.sum() == pytest.approx(3)
    assert by_class.score == 1
    assert evolve_weights(scorer, BARE).score < 1


def test_evolution_improves_on_its_seeds_in_some_problem() -> None:
    gains = []
    for seed in range(5):
        result = evolve_weights(draw_weight_scorer(6, 300, 4, seed), SMALL)
        gains.append(result.history[-1] - result.history[0])
    assert max(gains) > 0.005


def test_the_history_never_decreases_and_patience_ends_a_run() -> None:
    result = evolve_weights(draw_weight_scorer(6, 200, 4, 0), replace(BARE, restarts=1, generations=80, patience=7))
    assert all(later >= earlier for earlier, later in pairwise(result.history))
    assert len(result.history) < 81
    assert result.history[-8] == pytest.approx(result.history[-1], abs=1e-4)
    assert result.history[-1] == pytest.approx(result.score)


def test_the_same_seed_gives_the_same_weights_in_another_process() -> None:
    weights = evolve_weights(draw_weight_scorer(5, 150, 3, 0), SMALL).weights
    script = (
        "import random, sys; random.seed(99)\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.ensemble.test_genetic import SMALL, draw_weight_scorer, evolve_weights\n"
        "print(evolve_weights(draw_weight_scorer(5, 150, 3, 0), SMALL).weights.tobytes().hex())"
    )
    other_process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert other_process == weights.tobytes().hex()


def test_global_random_states_are_neither_used_nor_changed() -> None:
    problem = draw_weight_scorer(5, 150, 3, 1)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]
    first = evolve_weights(problem, SMALL)
    assert states == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index, union-attr]
    random.seed(2)
    np.random.seed(2)
    np.testing.assert_array_equal(evolve_weights(problem, SMALL).weights, first.weights)


def test_the_result_depends_on_the_seed() -> None:
    problem = draw_weight_scorer(8, 400, 4, 2)
    results = [evolve_weights(problem, replace(SMALL, seed=seed)) for seed in range(4)]
    assert len({result.weights.tobytes() for result in results}) > 1


def test_deap_creator_is_not_used() -> None:
    script = "import sys, automl_cxr.ensemble.build; print('deap.creator' in sys.modules, 'deap.base' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "True"]


def test_one_member_gets_all_weight() -> None:
    assert evolve_weights(draw_weight_scorer(1, 50, 3, 0), SMALL).weights.tolist() == [1]


def test_copies_of_one_member_get_equal_weights() -> None:
    probabilities, labels = draw(1, 80, 3, 0)
    result = evolve_weights(WeightScorer(np.repeat(probabilities, 4, axis=0), labels), SMALL)
    assert result.weights.tolist() == [0.25] * 4
    assert result.score == score_macro_f1(labels, probabilities[0])


def test_on_a_plateau_the_brier_score_decides() -> None:
    labels = np.array([0, 1] * 20)
    correct = np.where(np.eye(2)[labels] == 1, 0.7, 0.3)
    other = np.where(np.eye(2)[labels] == 1, 0.99, 0.01)
    other[:4] = [[0.45, 0.55], [0.55, 0.45]] * 2  # each member is wrong, but their average is correct
    scorer = WeightScorer(np.array([correct, other], dtype=np.float32), labels)
    result = evolve_weights(scorer, BARE)
    first = np.linspace(0, 1, 201)
    grid = np.stack([first, 1 - first], axis=1)
    optimal = grid[scorer.score(grid) == 1]
    assert len(optimal) > 50
    assert result.score == 1
    assert scorer.squared_error(result.weights[None])[0] <= scorer.squared_error(optimal).min() + 1e-4


def test_operators_keep_sums_and_average_the_given_number_of_genes() -> None:
    rng = np.random.default_rng(0)
    parents = rng.dirichlet(np.ones(10), size=40)
    children = genetic._mate(parents, probability=1.0, n_averaged=10, rng=rng)
    np.testing.assert_allclose(children[:20], (parents[0::2] + parents[1::2]) / 2)
    np.testing.assert_allclose(children[20:], children[:20])
    np.testing.assert_allclose(
        genetic._mate(parents, probability=0.0, n_averaged=10, rng=rng), np.concatenate([parents[0::2], parents[1::2]])
    )
    singles = np.eye(10)[rng.integers(10, size=40)]
    for rows in (genetic._mate(singles, probability=1.0, n_averaged=3, rng=rng), parents.copy(), singles.copy()):
        np.testing.assert_allclose(genetic._mutate(rows, probability=1.0, rng=rng).sum(axis=1), 1)


def test_mutation_replaces_one_gene() -> None:
    rng = np.random.default_rng(0)
    before = rng.dirichlet(np.ones(6), size=100)
    after = genetic._mutate(before.copy(), probability=0.5, rng=rng)
    ratios = after / before
    n_unchanged = np.array([np.isclose(row, np.median(row)).sum() for row in ratios])
    assert set(n_unchanged) == {5, 6}, "all genes but one are only rescaled"
    assert 30 < (n_unchanged == 5).sum() < 70


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("population", 3),
        ("population", 10.0),
        ("generations", 0),
        ("restarts", 0),
        ("patience", 0),
        ("tournament_size", 0),
        ("seed", -1),
        ("crossover_probability", 1.1),
        ("mutation_probability", -0.1),
        ("gene_fraction", float("nan")),
        ("elitism_fraction", 2),
        ("halvings", -1),
        ("shrinkage", 1.5),
        ("shrink_to", 0),
        ("brier_weight", -1.0),
        ("brier_weight", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"Genetic setting {name} must be"):
        GeneticSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"elitism_fraction": 1.0}, {"elitism_fraction": 0.0}, {"population": 4}])
def test_settings_at_their_limits_are_accepted(changes: dict) -> None:
    scorer = draw_weight_scorer(5, 80, 3, 0)
    settings = replace(BARE, **{"generations": 5, "restarts": 1, **changes})
    assert evolve_weights(scorer, settings).score >= scorer.score(np.eye(5)).max()


def test_the_reference_size_takes_a_fraction_of_a_second() -> None:
    scorer = draw_weight_scorer(6, 1292, 4, 0)
    started = time.process_time()
    evolve_weights(scorer, replace(BARE, restarts=1, patience=201))
    assert time.process_time() - started < 3  # 0.25 measured; slow machines need more
