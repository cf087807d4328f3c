"""Ensemble weights by a genetic algorithm on macro-F1 (DEAP); the only file that imports DEAP.

DEAP gives the lexicographic fitness, the toolbox and the selection of the elite. Left out on purpose: ``deap.creator``,
which writes classes into module globals, and DEAP's random operators, which draw from the global ``random`` module:
any thread of Ray's or the dashboard's that draws from it as well would change the weights. Ours take a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from deap import base, tools  # DEAP ships no types

from automl_cxr.ensemble.selection import select_greedily, single_weights, top_k_weights, uniform_weights
from automl_cxr.ensemble.voting import Ballots, weighted_average
from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import score_macro_f1


@dataclass(frozen=True, kw_only=True)
class GeneticSettings:
    """Settings of the genetic algorithm.

    Attributes:
        population: Weightings in a generation, at least 4.
        generations: Generations of a run, at least 1.
        crossover_probability: Share of parent pairs that cross over, 0 to 1.
        mutation_probability: Share of children that mutate, 0 to 1.
        gene_fraction: Share of the genes that a crossover averages (at least one), 0 to 1.
        elitism_fraction: Share of a generation that enters the next unchanged (at least the best, never all), 0 to 1.
        tournament_size: Candidates in a tournament for parenthood, at least 1.
        restarts: Runs from different initial populations, at least 1.
        patience: Generations without a higher macro-F1 after which a run ends, at least 1.
        seed: Seed of all random choices, at least 0.

    Raises:
        UsageError: For a value out of range.
    """

    population: int = 100
    generations: int = 200
    crossover_probability: float = 0.8
    mutation_probability: float = 0.3
    gene_fraction: float = 0.5
    elitism_fraction: float = 0.05
    tournament_size: int = 3
    restarts: int = 3
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise UsageError(f"Genetic setting {name} must be an integer of at least {least}. Received {value!r}.")
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"Genetic setting {name} must be from 0 to 1. Received {value!r}.")


_LEAST = {"population": 4, "generations": 1, "tournament_size": 1, "restarts": 1, "patience": 1, "seed": 0}
_FRACTIONS = ("crossover_probability", "mutation_probability", "gene_fraction", "elitism_fraction")
DEFAULT_SETTINGS = GeneticSettings()


@dataclass(frozen=True, eq=False)
class GeneticResult:
    """What evolution found.

    Attributes:
        weights: float64 (n_members,), sum 1.
        score: Macro-F1 on the images it was fitted on: optimistic, to be repeated only as such.
        history: Best macro-F1 of the initial population and of each generation, in the best run.
    """

    weights: np.ndarray
    score: float
    history: tuple[float, ...]


class _Fitness(base.Fitness):
    """Macro-F1, then log loss.

    Macro-F1 of a few hundred images is a step function with wide plateaus. Within one, log loss (proper, and convex in
    the weights) leads to its well-calibrated inside, where the edge that first reached it would be luck; and it gives
    selection a slope to follow where macro-F1 is flat.
    """

    weights = (1.0, -1.0)


@dataclass(frozen=True, eq=False)
class _Individual:
    genes: np.ndarray  # (n_members,), sum 1
    fitness: _Fitness


def evolve_weights(
    probabilities: np.ndarray, labels: np.ndarray, *, settings: GeneticSettings = DEFAULT_SETTINGS
) -> GeneticResult:
    """Find ensemble weights of high macro-F1 on labelled (validation) images.

    The algorithm of the reference report on ChestX-ray14 (section 7.2.1), as its own pseudocode:

        seeds = everyone alike, each member alone, the best k alike, greedy selection
        for each restart:
            population = the best seeds, filled up with random weights; evaluate(population)
            for each generation, until patience is lost:
                elite = best(population)
                children = mutate(mate(select(population))); evaluate(children)
                population = elite + children
        return the best of all seeds and runs

    Seeds are ours: from random weights alone such an algorithm falls behind greedy selection, and even behind the best
    member, when there are many members. With them the result is, on these images, never below any of them.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        labels: True classes, integers (n,) from 0 to k - 1.
        settings: Of the algorithm; the same seed gives the same weights, whatever else the process does.

    Raises:
        DataError: If probabilities and labels do not fit together, are empty, not finite or out of range.
    """
    ballots = Ballots(probabilities, labels)
    seeds = _seed_weights(ballots)
    runs = [_evolve_once(ballots, seeds, settings, restart) for restart in range(settings.restarts)]
    _, history = max(runs, key=lambda run: run[0].fitness)
    weights, score = _best_of(ballots, [*seeds, *(best.genes for best, _ in runs)])
    return GeneticResult(weights, score, history)


def _seed_weights(ballots: Ballots) -> list[np.ndarray]:
    """Give the weights that evolution must beat, the simplest first."""
    n_members = ballots.n_members
    singles = [single_weights(n_members, index) for index in range(n_members)]
    scores = ballots.macro_f1(np.array(singles))
    top = [top_k_weights(scores, k) for k in range(2, n_members)]
    return [uniform_weights(n_members), *singles, *top, select_greedily(ballots)]


def _evolve_once(
    ballots: Ballots, seeds: list[np.ndarray], settings: GeneticSettings, restart: int
) -> tuple[_Individual, tuple[float, ...]]:
    """Run once; give the best individual and the best macro-F1 of each generation."""
    n_elite = min(max(1, round(settings.elitism_fraction * settings.population)), settings.population - 1)
    toolbox = _build_toolbox(ballots, settings, n_elite, np.random.default_rng([settings.seed, restart]))
    population = toolbox.evaluate(toolbox.initialize(seeds))
    history = [_best(population).fitness.values[0]]
    for _ in range(settings.generations):
        elite = tools.selBest(population, n_elite)
        children = toolbox.mutate(toolbox.mate(toolbox.select(population)))
        population = elite + toolbox.evaluate(children)
        history.append(_best(population).fitness.values[0])
        if len(history) > settings.patience and history[-1] <= history[-1 - settings.patience]:
            break
    return _best(population), tuple(history)


def _build_toolbox(ballots: Ballots, settings: GeneticSettings, n_elite: int, rng: np.random.Generator) -> base.Toolbox:
    """Bind the operators to the settings of one run."""
    n_averaged = max(1, round(settings.gene_fraction * ballots.n_members))
    toolbox = base.Toolbox()
    toolbox.register("initialize", _initialize, ballots=ballots, n=settings.population, rng=rng)
    toolbox.register("evaluate", _evaluate, ballots=ballots)
    toolbox.register("select", _select, n=settings.population - n_elite, size=settings.tournament_size, rng=rng)
    toolbox.register("mate", _mate, probability=settings.crossover_probability, n_averaged=n_averaged, rng=rng)
    toolbox.register("mutate", _mutate, probability=settings.mutation_probability, rng=rng)
    return toolbox


def _initialize(seeds: list[np.ndarray], *, ballots: Ballots, n: int, rng: np.random.Generator) -> np.ndarray:
    """Take the best seeds, at most half of a population, and random weights, (n, n_members)."""
    ranked = sorted(_evaluate(np.array(seeds), ballots=ballots), key=attrgetter("fitness"), reverse=True)
    kept = np.array([seed.genes for seed in ranked[: n // 2]])
    strangers = 1 - rng.random((n - len(kept), ballots.n_members))
    return np.concatenate([kept, _normalize(strangers)])


def _evaluate(genes: np.ndarray, *, ballots: Ballots) -> list[_Individual]:
    """Score weightings (n, n_members), all at once."""
    scores, losses = ballots.macro_f1(genes), ballots.log_loss(genes)
    return [_Individual(*row) for row in zip(genes, map(_Fitness, zip(scores, losses, strict=True)), strict=True)]


def _select(population: Sequence[_Individual], *, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Hold a tournament among ``size`` random individuals for each parent, (n or n + 1, n_members): an even number."""
    tournaments = rng.integers(len(population), size=(n + n % 2, size)).tolist()
    return np.array([_best([population[index] for index in tournament]).genes for tournament in tournaments])


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


def _best(individuals: Sequence[_Individual]) -> _Individual:
    return max(individuals, key=attrgetter("fitness"))


def _best_of(ballots: Ballots, candidates: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Choose by the score of the averages that the ensemble will publish, then by log loss, then the first.

    The population's matrix product may round an average differently in its last bit and turn a tie between two
    classes; what is promised about seeds must hold for the published score. The first are the simplest.
    """
    scores = [score_macro_f1(ballots.labels, weighted_average(ballots.probabilities, row)) for row in candidates]
    losses = ballots.log_loss(np.array(candidates))
    chosen = max(range(len(candidates)), key=lambda index: (scores[index], -losses[index]))
    return candidates[chosen], scores[chosen]
