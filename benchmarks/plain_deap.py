"""The genetic algorithm over ensemble weights as one writes it with DEAP in an afternoon: ensemble.py's peer."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from deap import base, creator, tools

Weights = list[float]
Fitness = Callable[[list[Weights]], list[float]]

CROSSOVER, MUTATION, GENE_FRACTION, ELITE, TOURNAMENT = 0.8, 0.3, 0.5, 5, 3


def score_each_by_scikit_learn(probabilities: np.ndarray, labels: np.ndarray) -> Fitness:
    """Make a fitness that calls scikit-learn's f1_score once an individual."""
    from sklearn.metrics import f1_score

    def score(weights: Weights) -> float:
        average = np.tensordot(np.asarray(weights), probabilities, axes=1)
        return float(f1_score(labels, average.argmax(axis=1), average="macro"))

    return lambda individuals: [score(weights) for weights in individuals]


def evolve_plainly(
    fitness: Fitness, n_members: int, *, population: int, generations: int, seed: int, seeds: list[Weights] | None = None
) -> tuple[Weights, float]:
    """Evolve from random weights, or from ``seeds`` filled up with such; give the best weights and their fitness."""
    random.seed(seed)
    if not hasattr(creator, "PlainFitness"):
        creator.create("PlainFitness", base.Fitness, weights=(1.0,))
        creator.create("PlainIndividual", list, fitness=creator.PlainFitness)
    toolbox = base.Toolbox()
    toolbox.register("mate", _average_genes)
    toolbox.register("mutate", _replace_gene)
    toolbox.register("select", tools.selTournament, tournsize=TOURNAMENT)
    started = [creator.PlainIndividual(_normalized(list(one))) for one in (seeds or [])[: population // 2]]
    while len(started) < population:
        started.append(creator.PlainIndividual(_normalized([random.random() for _ in range(n_members)])))
    people = started
    _evaluate(people, fitness)
    for _ in range(generations):
        children = [toolbox.clone(one) for one in toolbox.select(people, population - ELITE)]
        for mother, father in zip(children[::2], children[1::2], strict=False):
            if random.random() < CROSSOVER:
                toolbox.mate(mother, father)
        for child in children:
            if random.random() < MUTATION:
                toolbox.mutate(child)
        _evaluate(children, fitness)
        people = tools.selBest(people, ELITE) + children
    best = tools.selBest(people, 1)[0]
    return list(best), best.fitness.values[0]


def _evaluate(people: list, fitness: Fitness) -> None:
    for one, value in zip(people, fitness(people), strict=True):
        one.fitness.values = (value,)


def _average_genes(mother: Weights, father: Weights) -> None:
    for gene in random.sample(range(len(mother)), max(1, round(GENE_FRACTION * len(mother)))):
        mother[gene] = father[gene] = (mother[gene] + father[gene]) / 2
    mother[:], father[:] = _normalized(mother), _normalized(father)


def _replace_gene(child: Weights) -> None:
    child[random.randrange(len(child))] = 1 - random.random()
    child[:] = _normalized(child)


def _normalized(weights: Weights) -> Weights:
    return [weight / sum(weights) for weight in weights]
