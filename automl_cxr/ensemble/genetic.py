"""Ensemble weights by a genetic algorithm (DEAP); the only file that imports DEAP.

DEAP gives the lexicographic fitness, the toolbox and the selection of the elite. Left out on purpose: ``deap.creator``,
which writes classes into module globals, and DEAP's random operators, which draw from the global ``random`` module:
any thread of Ray's or the dashboard's that draws from it as well would change the weights. Ours take a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from deap import base, tools  # DEAP ships no types

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights, uniform_weights
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.weight_scoring import WeightScorer

_STEP = 1e-4  # of fitness: less is no progress, since the Brier score's share can be improved for ever


@dataclass(frozen=True, eq=False)
class GeneticResult:
    """What evolution found.

    Attributes:
        weights: float64 (n_members,), sum 1; by class (n_members, k), sum k.
        merit: What the objective says of them on the images they were fitted on: optimistic, to be repeated only as such.
        history: Best fitness of the initial population and of each generation, in the best run.
    """

    weights: np.ndarray
    merit: float
    history: tuple[float, ...]


class _Fitness(base.Fitness):
    """The objective less a part of the Brier score, then the Brier score.

    Macro-F1 of a few hundred images is a step function with wide plateaus. The Brier score (proper, and convex in the weights)
    leads to the well-calibrated inside of one, where the edge that first reached it would be luck; and it gives selection a
    slope to follow where the objective is flat.
    """

    weights = (1.0, -1.0)


@dataclass(frozen=True, eq=False)
class _Individual:
    genes: np.ndarray  # (n_genes,), sum 1
    fitness: _Fitness


def evolve_weights(ballots: WeightScorer, settings: GeneticSettings, *, by_class: bool = False) -> GeneticResult:
    """Find ensemble weights of the highest fitness on labelled (validation) images, all of them.

    The algorithm of the reference report on ChestX-ray14 (section 7.2.1), as its own pseudocode:

        seeds = everyone alike, each member alone, the best k alike, greedy selection, of two members the exact optimum
        for each restart:
            population = the best seeds, filled up with random weights; evaluate(population)
            for each generation, until patience is lost:
                elite = best(population)
                children = mutate(mate(select(population))); evaluate(children)
                population = elite + children
        return the best of all seeds and runs

    Seeds are ours: from random weights alone such an algorithm falls behind greedy selection, and even behind the best
    member, when there are many members. With them its fitness is, on these images, never below that of any of them.

    Args:
        ballots: Members' probabilities, the truth and the objective.
        settings: Of the algorithm; the same seed gives the same weights, whatever else the process does.
        by_class: Find a weight for each member and class instead of one for each member.
    """
    shape = (ballots.n_members, ballots.n_classes) if by_class else (ballots.n_members,)
    seeds = np.stack([_spread(weights, shape).ravel() for weights in seed_weights(ballots)])
    runs = [_evolve_once(ballots, seeds, shape, settings, restart) for restart in range(settings.restarts)]
    _, history = max(runs, key=lambda run: run[0].fitness)
    candidates = [*seeds, *(best.genes for best, _ in runs)]
    best = _evaluate(np.array(candidates), ballots=ballots, shape=shape, settings=settings)[0]
    weights = _as_weights(best.genes[None], shape)
    return GeneticResult(weights[0], float(ballots.merit(weights)[0]), history)


def seed_weights(ballots: WeightScorer) -> list[np.ndarray]:
    """Give the weights that evolution must beat, the simplest first, each (n_members,)."""
    n_members, order = ballots.n_members, rank_members(ballots)
    top = [top_k_weights(order, k) for k in range(2, n_members)]
    # Chance hits the exact optimum of two members in 96 of 100 problems; the sweep always does.
    swept = [exact_two_member_weights(ballots)] if n_members == 2 and ballots.objective.metric.of_stacks is None else []
    return [uniform_weights(n_members), *np.eye(n_members), *top, greedy_weights(ballots), *swept]


def _spread(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert weights of members into genes of a shape, sum 1."""
    return weights if len(shape) == 1 else np.repeat(weights[:, None], shape[1], axis=1) / shape[1]


def _as_weights(genes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert genes (population, n_genes) into weights (population, *shape) whose sum is 1 a class."""
    return genes.reshape(len(genes), *shape) * (shape[1] if len(shape) == 2 else 1)


def _evolve_once(
    ballots: WeightScorer, seeds: np.ndarray, shape: tuple[int, ...], settings: GeneticSettings, restart: int
) -> tuple[_Individual, tuple[float, ...]]:
    """Run once; give the best individual and the best fitness of each generation."""
    n_elite = min(max(1, round(settings.elitism_fraction * settings.population)), settings.population - 1)
    rng = np.random.default_rng([settings.seed, restart])
    toolbox = _build_toolbox(ballots, shape, settings, n_elite, rng)
    population = toolbox.evaluate(toolbox.initialize(seeds))
    history = [population[0].fitness.values[0]]
    for _ in range(settings.generations):
        children = toolbox.mutate(toolbox.mate(toolbox.select(population)))
        population = toolbox.survive(population[:n_elite] + toolbox.evaluate(children))
        history.append(population[0].fitness.values[0])
        if len(history) > settings.patience and history[-1] < history[-1 - settings.patience] + _STEP:
            break
    return population[0], tuple(history)


def _build_toolbox(
    ballots: WeightScorer, shape: tuple[int, ...], settings: GeneticSettings, n_elite: int, rng: np.random.Generator
) -> base.Toolbox:
    """Bind the operators to the settings of one run. Populations are ordered from the best individual."""
    n_averaged = max(1, round(settings.gene_fraction * np.prod(shape)))
    toolbox = base.Toolbox()
    toolbox.register("evaluate", _evaluate, ballots=ballots, shape=shape, settings=settings)
    toolbox.register("initialize", _initialize, evaluate=toolbox.evaluate, n=settings.population, rng=rng)
    toolbox.register("survive", tools.selBest, k=settings.population)
    toolbox.register("select", _select, n=settings.population - n_elite, size=settings.tournament_size, rng=rng)
    toolbox.register("mate", _mate, probability=settings.crossover_probability, n_averaged=n_averaged, rng=rng)
    toolbox.register("mutate", _mutate, probability=settings.mutation_probability, rng=rng)
    return toolbox


def _initialize(
    seeds: np.ndarray, *, evaluate: Callable[[np.ndarray], list[_Individual]], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Take the best seeds, at most half of a population, and random weights, (n, n_genes)."""
    kept = np.array([seed.genes for seed in evaluate(seeds)[: n // 2]])
    strangers = 1 - rng.random((n - len(kept), seeds.shape[1]))
    return np.concatenate([kept, _normalize(strangers)])


def _evaluate(
    genes: np.ndarray, *, ballots: WeightScorer, shape: tuple[int, ...], settings: GeneticSettings
) -> list[_Individual]:
    """Judge weightings (n, n_genes), all at once; give them from the best."""
    weights = _as_weights(genes, shape)
    errors = ballots.squared_error(weights)
    merits = ballots.merit(weights) - settings.brier_weight * errors
    fitnesses = map(_Fitness, zip(merits.tolist(), errors.tolist(), strict=True))
    individuals = [_Individual(*row) for row in zip(genes, fitnesses, strict=True)]
    return sorted(individuals, key=attrgetter("fitness"), reverse=True)


def _select(population: Sequence[_Individual], *, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Hold a tournament among ``size`` random individuals for each parent, (n or n + 1, n_genes): an even number.

    The population is ordered, so the first of those drawn has won.
    """
    winners = rng.integers(len(population), size=(n + n % 2, size)).min(axis=1)
    return np.array([individual.genes for individual in population])[winners]


def _mate(parents: np.ndarray, *, probability: float, n_averaged: int, rng: np.random.Generator) -> np.ndarray:
    """Cross each two neighbours: both children get the average of ``n_averaged`` random genes, else a parent's own."""
    mothers, fathers = parents[0::2], parents[1::2]
    averaged = rng.random(mothers.shape).argsort(axis=1) < n_averaged
    averaged &= rng.random((len(mothers), 1)) < probability
    average = (mothers + fathers) / 2
    return _normalize(np.concatenate([np.where(averaged, average, own) for own in (mothers, fathers)]))


def _mutate(children: np.ndarray, *, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Replace one random gene of some children by a number from U(0, 1], in place."""
    rows = np.flatnonzero(rng.random(len(children)) < probability)
    genes = rng.integers(children.shape[1], size=len(rows))
    children[rows, genes] = 1 - rng.random(len(rows))  # never 0, so that weights never sum to 0
    return _normalize(children)


def _normalize(genes: np.ndarray) -> np.ndarray:
    return genes / genes.sum(axis=1, keepdims=True)
