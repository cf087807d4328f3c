"""The genetic algorithm: never below its seeds, close to a full sweep, the same anywhere."""

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
from automl_cxr.ensemble.genetic import GeneticSettings, evolve_weights
from automl_cxr.ensemble.selection import greedy_selection
from automl_cxr.ensemble.voting import score_population, weighted_average
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.metrics import log_loss, score_macro_f1

SMALL = GeneticSettings(population=30, generations=30, restarts=2, patience=15)


def draw(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw members of different skill on classes of different size."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits = rng.normal(size=(m, n, k)) * rng.uniform(0.8, 3, size=(m, 1, 1)) + np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probabilities.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("m", "k"), [(2, 2), (6, 4), (30, 3)])
def test_never_below_its_seeds(m: int, k: int, seed: int) -> None:
    probabilities, labels = draw(m, 150, k, seed)
    result = evolve_weights(probabilities, labels, settings=SMALL)
    order = np.argsort(-score_population(probabilities, labels, np.eye(m)), kind="stable")
    top = [np.isin(np.arange(m), order[:n]) for n in range(1, m + 1)]
    rivals = [np.ones(m), *np.eye(m), greedy_selection(probabilities, labels), *top]
    best = max(score_macro_f1(labels, weighted_average(probabilities, weights)) for weights in rivals)
    assert result.score >= best
    assert result.weights.shape == (m,)
    assert result.weights.sum() == pytest.approx(1)
    assert (result.weights >= 0).all()
    assert result.score == score_macro_f1(labels, weighted_average(probabilities, result.weights))


@pytest.mark.parametrize("seed", range(6))
def test_two_members_against_a_full_sweep(seed: int) -> None:
    probabilities, labels = draw(2, 200, 3, seed)
    first = np.linspace(0, 1, 4001)
    sweep = score_population(probabilities, labels, np.stack([first, 1 - first], axis=1))
    assert evolve_weights(probabilities, labels).score >= sweep.max() - 1e-12


def test_evolution_improves_on_its_seeds_somewhere() -> None:
    gains = []
    for seed in range(5):
        result = evolve_weights(*draw(6, 300, 4, seed), settings=SMALL)
        gains.append(result.history[-1] - result.history[0])
    assert max(gains) > 0.005


def test_history_only_rises_and_patience_ends_a_run() -> None:
    result = evolve_weights(*draw(6, 200, 4, 0), settings=GeneticSettings(restarts=1, generations=80, patience=7))
    assert all(later >= earlier for earlier, later in pairwise(result.history))
    assert len(result.history) < 81
    assert result.history[-8] == result.history[-1]
    assert result.history[-1] == pytest.approx(result.score)


def test_the_same_seed_gives_the_same_weights_in_another_process() -> None:
    here = evolve_weights(*draw(5, 150, 3, 0), settings=SMALL).weights
    script = (
        "import random, sys; random.seed(99)\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_genetic import SMALL, draw, evolve_weights\n"
        "print(evolve_weights(*draw(5, 150, 3, 0), settings=SMALL).weights.tobytes().hex())"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert there == here.tobytes().hex()


def test_global_random_states_are_neither_used_nor_touched() -> None:
    problem = draw(5, 150, 3, 1)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]
    first = evolve_weights(*problem, settings=SMALL)
    assert states == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index, union-attr]
    random.seed(2)
    np.random.seed(2)
    np.testing.assert_array_equal(evolve_weights(*problem, settings=SMALL).weights, first.weights)


def test_seeds_matter() -> None:
    problem = draw(8, 400, 4, 2)
    results = [evolve_weights(*problem, settings=replace(SMALL, seed=seed)) for seed in range(4)]
    assert len({result.weights.tobytes() for result in results}) > 1


def test_deap_creator_is_not_used() -> None:
    script = "import sys, automl_cxr.ensemble.build; print('deap.creator' in sys.modules, 'deap.base' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "True"]


def test_one_member_gets_all_weight() -> None:
    probabilities, labels = draw(1, 50, 3, 0)
    assert evolve_weights(probabilities, labels, settings=SMALL).weights.tolist() == [1]


def test_copies_of_one_member_are_weighed_alike() -> None:
    probabilities, labels = draw(1, 80, 3, 0)
    result = evolve_weights(np.repeat(probabilities, 4, axis=0), labels, settings=SMALL)
    assert result.weights.tolist() == [0.25] * 4
    assert result.score == score_macro_f1(labels, probabilities[0])


def test_on_a_plateau_log_loss_decides() -> None:
    labels = np.array([0, 1] * 20)
    right = np.where(np.eye(2)[labels] == 1, 0.7, 0.3)
    other = np.where(np.eye(2)[labels] == 1, 0.99, 0.01)
    other[:4] = [[0.45, 0.55], [0.55, 0.45]] * 2  # wrong alone, right on average
    problem = np.array([right, other], dtype=np.float32), labels
    result = evolve_weights(*problem)
    perfect = [np.array([w, 1 - w]) for w in np.linspace(0, 1, 201)]
    perfect = [w for w in perfect if score_macro_f1(labels, weighted_average(problem[0], w)) == 1]
    assert len(perfect) > 50
    losses = [log_loss(labels, weighted_average(problem[0], w)) for w in perfect]
    assert result.score == 1
    assert log_loss(labels, weighted_average(problem[0], result.weights)) <= min(losses) + 1e-4


def test_operators_keep_sums_and_average_as_many_genes_as_asked() -> None:
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
    n_kept = np.array([np.isclose(row, np.median(row)).sum() for row in ratios])
    assert set(n_kept) == {5, 6}, "all genes but one are only rescaled"
    assert 30 < (n_kept == 5).sum() < 70


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused(value: float) -> None:
    probabilities, labels = draw(3, 30, 3, 0)
    probabilities[1, 2, 0] = value
    with pytest.raises(DataError, match="finite"):
        evolve_weights(probabilities, labels, settings=SMALL)


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
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"Genetic setting {name} must be"):
        GeneticSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"elitism_fraction": 1.0}, {"elitism_fraction": 0.0}, {"population": 4}])
def test_settings_at_their_ends_work(changes: dict) -> None:
    probabilities, labels = draw(5, 80, 3, 0)
    settings = GeneticSettings(**{"generations": 5, "restarts": 1, **changes})
    result = evolve_weights(probabilities, labels, settings=settings)
    assert result.score >= score_population(probabilities, labels, np.eye(5)).max()


def test_the_reference_size_takes_seconds() -> None:
    problem = draw(6, 1292, 4, 0)
    started = time.process_time()
    evolve_weights(*problem, settings=GeneticSettings(restarts=1, patience=200))
    assert time.process_time() - started < 6  # 0.8 measured; the rest is for a slow machine
