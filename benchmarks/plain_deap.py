"""A straightforward genetic algorithm over ensemble weights with DEAP, with which ensemble.py compares this package."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from deap import base, creator, tools

Weights = list[float]
Fitness = Callable[[list[Weights]], list[float]]

CROSSOVER, MUTATION, GENE_FRACTION, ELITE, TOURNAMENT = 0.8, 0.3, 0.5, 5, 3


def score_each_by_scikit_learn(probabilities: np.ndarray, labels: np.ndarray) -> Fitness:
    """Return a fitness function that calls scikit-learn's ``f1_score`` once for each individual."""
    from sklearn.metrics import f1_score

    def score(weights: Weights) -> float:
        average = np.tensordot(np.asarray(weights), probabilities, axes=1)
        return float(f1_score(labels, average.argmax(axis=1), average="macro"))

    return lambda individuals: [score(weights) for weights in individuals]


def evolve_plainly(
    fitness: Fitness, n_members: int, *, population: int, generations: int, seed: int, seeds: list[Weights] | None = None
) -> tuple[Weights, float]:
    """Evolve weights, and return the best ones with their fitness.

    Args:
        fitness: Returns the fitness of each individual; higher is better.
        n_members: Number of weights.
        population: Size of the population.
        generations: Number of generations.
        seed: Random seed.
        seeds: Initial weights for at most half of the first population. The rest is random.
    """
    random.seed(seed)
    if not hasattr(creator, "PlainFitness"):
        creator.create("PlainFitness", base.Fitness, weights=(1.0,))
        creator.create("PlainIndividual", list, fitness=creator.PlainFitness)
    toolbox = base.Toolbox()
    toolbox.register("mate", _average_genes)
    toolbox.register("mutate", _replace_gene)
    toolbox.register("select", tools.selTournament, tournsize=TOURNAMENT)
    individuals = [creator.PlainIndividual(_normalized(list(weights))) for weights in (seeds or [])[: population // 2]]
    while len(individuals) < population:
        individuals.append(creator.PlainIndividual(_normalized([random.random() for _ in range(n_members)])))
    _evaluate(individuals, fitness)
    for _ in range(generations):
        children = [toolbox.clone(individual) for individual in toolbox.select(individuals, population - ELITE)]
        for first, second in zip(children[::2], children[1::2], strict=False):
            if random.random() < CROSSOVER:
                toolbox.mate(first, second)
        for child in children:
            if random.random() < MUTATION:
                toolbox.mutate(child)
        _evaluate(children, fitness)
        individuals = tools.selBest(individuals, ELITE) + children
    best = tools.selBest(individuals, 1)[0]
    return list(best), best.fitness.values[0]


def _evaluate(individuals: list, fitness: Fitness) -> None:
    for individual, value in zip(individuals, fitness(individuals), strict=True):
        individual.fitness.values = (value,)


def _average_genes(first: Weights, second: Weights) -> None:
    for gene in random.sample(range(len(first)), max(1, round(GENE_FRACTION * len(first)))):
        first[gene] = second[gene] = (first[gene] + second[gene]) / 2
    first[:], second[:] = _normalized(first), _normalized(second)


def _replace_gene(child: Weights) -> None:
    child[random.randrange(len(child))] = 1 - random.random()
    child[:] = _normalized(child)


def _normalized(weights: Weights) -> Weights:
    return [weight / sum(weights) for weight in weights]
