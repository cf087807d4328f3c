"""Ensemble weights by a genetic algorithm (DEAP). No other file imports DEAP.

DEAP provides the lexicographic fitness, the toolbox and the selection of the elite. Two parts of it are not used:
``deap.creator``, which writes classes into module globals, and DEAP's random operators, which draw from the global ``random``
module, so that any thread of Ray or the dashboard that draws from it would change the weights. The operators here take a
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from deap import base, tools  # DEAP ships no types

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights, has_exact_optimum
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer

_MIN_IMPROVEMENT = 1e-4  # of the fitness: smaller improvements of the Brier score could continue for many generations


@dataclass(frozen=True, eq=False)
class GeneticResult:
    """The result of the genetic algorithm.

    Attributes:
        weights: float64 (n_members,), sum 1; by class (n_members, k), sum k.
        score: The objective on the images that the weights were fitted on, higher is better. It is optimistic and must be
            reported as such.
        history: Best fitness of the initial population and of each generation, in the best run.
    """

    weights: np.ndarray
    score: float
    history: tuple[float, ...]


class _Fitness(base.Fitness):
    """The objective minus a part of the Brier score, then the Brier score.

    Macro-F1 of a few hundred images is a step function of the weights with wide plateaus. The Brier score, which is proper and
    convex in the weights, ranks weights with equal macro-F1. It prefers well-calibrated weights inside a plateau to weights at
    its edge, which are there by chance.
    """

    weights = (1.0, -1.0)


@dataclass(frozen=True, eq=False)
class _Individual:
    genes: np.ndarray  # (n_genes,), sum 1
    fitness: _Fitness


def evolve_weights(
    scorer: BaseWeightScorer,
    settings: GeneticSettings,
    *,
    by_class: bool = False,
    seeds: Sequence[np.ndarray] | None = None,
) -> GeneticResult:
    """Find ensemble weights with the highest fitness on all labelled (validation) images.

    The algorithm of the reference report on ChestX-ray14 (section 7.2.1) in its own pseudocode:

        seeds = equal weights, each member alone, the best k members, greedy selection, for two members the exact optimum
        for each restart:
            population = the best seeds, filled up with random weights; evaluate(population)
            for each generation, until patience is exhausted:
                elite = best(population)
                children = mutate(mate(select(population))); evaluate(children)
                population = elite + children
        return the best of all seeds and runs

    The seeds are an addition to the report: from random weights alone, with many members, the result is worse than greedy
    selection and even worse than the best member. With seeds the fitness on these images is never below that of any seed.

    Args:
        scorer: Members' probabilities, labels and the objective.
        settings: Settings of the algorithm; the same seed gives the same weights.
        by_class: Find a weight for each member and class instead of one for each member.
        seeds: The seeds, if ``seed_weights`` was computed before.
    """
    shape = (scorer.n_members, scorer.n_classes) if by_class else (scorer.n_members,)
    seeds = seed_weights(scorer) if seeds is None else seeds
    initial = np.stack([_repeat_for_classes(weights, shape).ravel() for weights in seeds])
    runs = [_evolve_once(scorer, initial, shape, settings, restart) for restart in range(settings.restarts)]
    _, history = max(runs, key=lambda run: run[0].fitness)
    candidates = [*initial, *(best.genes for best, _ in runs)]
    best = _evaluate(np.array(candidates), scorer=scorer, shape=shape, settings=settings)[0]
    weights = _as_weights(best.genes[None], shape)
    return GeneticResult(weights[0], float(scorer.score(weights)[0]), history)


def seed_weights(scorer: BaseWeightScorer) -> list[np.ndarray]:
    """Return the weights of the initial population, simplest first, each (n_members,)."""
    n_members, order = scorer.n_members, rank_members(scorer)
    top = [top_k_weights(order, k) for k in range(2, n_members)]
    # Without this seed the algorithm finds the exact optimum of two members in 96 of 100 problems.
    exact = [exact_two_member_weights(scorer)] if n_members == 2 and has_exact_optimum(scorer) else []
    return [uniform_weights(n_members), *np.eye(n_members), *top, greedy_weights(scorer), *exact]


def _repeat_for_classes(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert weights of members into genes of the given shape, sum 1."""
    return weights if len(shape) == 1 else np.repeat(weights[:, None], shape[1], axis=1) / shape[1]


def _as_weights(genes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert genes (population, n_genes) into weights (population, *shape) with sum 1 for each class."""
    return genes.reshape(len(genes), *shape) * (shape[1] if len(shape) == 2 else 1)


def _evolve_once(
    scorer: BaseWeightScorer, seeds: np.ndarray, shape: tuple[int, ...], settings: GeneticSettings, restart: int
) -> tuple[_Individual, tuple[float, ...]]:
    """Run the algorithm once. Return the best individual and the best fitness of each generation."""
    n_elite = min(max(1, round(settings.elitism_fraction * settings.population)), settings.population - 1)
    rng = np.random.default_rng([settings.seed, restart])
    toolbox = _build_toolbox(scorer, shape, settings, n_elite, rng)
    population = toolbox.evaluate(toolbox.initialize(seeds))
    history = [population[0].fitness.values[0]]
    for _ in range(settings.generations):
        children = toolbox.mutate(toolbox.mate(toolbox.select(population)))
        population = toolbox.survive(population[:n_elite] + toolbox.evaluate(children))
        history.append(population[0].fitness.values[0])
        if len(history) > settings.patience and history[-1] < history[-1 - settings.patience] + _MIN_IMPROVEMENT:
            break
    return population[0], tuple(history)


def _build_toolbox(
    scorer: BaseWeightScorer, shape: tuple[int, ...], settings: GeneticSettings, n_elite: int, rng: np.random.Generator
) -> base.Toolbox:
    """Register the operators with the settings of one run. Populations are sorted, best individual first."""
    n_averaged = max(1, round(settings.gene_fraction * np.prod(shape)))
    toolbox = base.Toolbox()
    toolbox.register("evaluate", _evaluate, scorer=scorer, shape=shape, settings=settings)
    toolbox.register("initialize", _initialize, evaluate=toolbox.evaluate, n=settings.population, rng=rng)
    toolbox.register("survive", tools.selBest, k=settings.population)
    toolbox.register("select", _select, n=settings.population - n_elite, size=settings.tournament_size, rng=rng)
    toolbox.register("mate", _mate, probability=settings.crossover_probability, n_averaged=n_averaged, rng=rng)
    toolbox.register("mutate", _mutate, probability=settings.mutation_probability, rng=rng)
    return toolbox


def _initialize(
    seeds: np.ndarray, *, evaluate: Callable[[np.ndarray], list[_Individual]], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the best seeds, at most half of a population, and random weights, (n, n_genes)."""
    best_seeds = np.array([seed.genes for seed in evaluate(seeds)[: n // 2]])
    random_genes = 1 - rng.random((n - len(best_seeds), seeds.shape[1]))
    return np.concatenate([best_seeds, _normalize(random_genes)])


def _evaluate(
    genes: np.ndarray, *, scorer: BaseWeightScorer, shape: tuple[int, ...], settings: GeneticSettings
) -> list[_Individual]:
    """Evaluate weightings (n, n_genes) at once. Return the individuals, best first."""
    weights = _as_weights(genes, shape)
    errors = scorer.squared_error(weights)
    scores = scorer.score(weights) - settings.brier_weight * errors
    fitnesses = map(_Fitness, zip(scores.tolist(), errors.tolist(), strict=True))
    individuals = [_Individual(*row) for row in zip(genes, fitnesses, strict=True)]
    return sorted(individuals, key=attrgetter("fitness"), reverse=True)


def _select(population: Sequence[_Individual], *, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Select each parent by a tournament among ``size`` random individuals, (n or n + 1, n_genes): an even number.

    The population is sorted, best first, so the individual with the smallest index is selected.
    """
    selected_indices = rng.integers(len(population), size=(n + n % 2, size)).min(axis=1)
    return np.array([individual.genes for individual in population])[selected_indices]


def _mate(parents: np.ndarray, *, probability: float, n_averaged: int, rng: np.random.Generator) -> np.ndarray:
    """Cross each pair of neighbours: both children get the parents' average in ``n_averaged`` random genes."""
    first_parents, second_parents = parents[0::2], parents[1::2]
    averaged = rng.random(first_parents.shape).argsort(axis=1) < n_averaged
    averaged &= rng.random((len(first_parents), 1)) < probability
    average = (first_parents + second_parents) / 2
    return _normalize(np.concatenate([np.where(averaged, average, own) for own in (first_parents, second_parents)]))


def _mutate(children: np.ndarray, *, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Replace one random gene of some children by a number from U(0, 1], in place, and normalise all children."""
    rows = np.flatnonzero(rng.random(len(children)) < probability)
    genes = rng.integers(children.shape[1], size=len(rows))
    children[rows, genes] = 1 - rng.random(len(rows))  # never 0, so that weights never sum to 0
    return _normalize(children)


def _normalize(genes: np.ndarray) -> np.ndarray:
    return genes / genes.sum(axis=1, keepdims=True)
