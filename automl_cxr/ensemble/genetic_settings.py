"""Settings of the genetic algorithm. Importing this module imports neither DEAP nor NumPy, so that help texts are fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from automl_cxr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GeneticSettings:
    """Settings of the genetic algorithm and of its regularisation.

    The first nine settings are the algorithm's own. ``halvings``, ``brier_weight``, ``shrinkage`` and ``shrink_to`` reduce
    overfitting to a few hundred images. Their values were chosen by measurement (benchmarks/ensemble.py).

    Attributes:
        population: Weightings in a generation, at least 4.
        generations: Maximum number of generations of a run, at least 1.
        crossover_probability: Share of parent pairs that cross over, 0 to 1.
        mutation_probability: Share of children that mutate, 0 to 1.
        gene_fraction: Share of the genes that a crossover averages (at least one), 0 to 1.
        elitism_fraction: Share of a generation that is copied unchanged to the next (at least the best, never all), 0 to 1.
        tournament_size: Candidates in a tournament that selects a parent, at least 1.
        restarts: Runs from different initial populations, at least 1.
        patience: Generations without a higher fitness after which a run ends, at least 1.
        halvings: How often the patients are divided into two halves. Weights are evolved on each half and averaged over all
            halves. 0 evolves once, on all images.
        brier_weight: Factor of the Brier score, which is subtracted from the objective, at least 0.
        shrinkage: Share of the final weights that comes from equal weights of the best members, 0 to 1.
        shrink_to: Number of these best members, at least 1.
        seed: Seed of all random choices, at least 0.

    Raises:
        UsageError: A value is out of range.
    """

    population: int = 100
    generations: int = 200
    crossover_probability: float = 0.8
    mutation_probability: float = 0.3
    gene_fraction: float = 0.5
    elitism_fraction: float = 0.05
    tournament_size: int = 3
    restarts: int = 1
    patience: int = 20
    halvings: int = 4
    brier_weight: float = 1.0
    shrinkage: float = 0.1
    shrink_to: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUMS.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise UsageError(f"Genetic setting {name} must be an integer of at least {minimum}. Received {value!r}.")
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"Genetic setting {name} must be from 0 to 1. Received {value!r}.")
        if not 0 <= self.brier_weight < math.inf:
            raise UsageError(f"Genetic setting brier_weight must be finite and at least 0. Received {self.brier_weight!r}.")


_MINIMUMS = {
    "population": 4,
    "generations": 1,
    "tournament_size": 1,
    "restarts": 1,
    "patience": 1,
    "halvings": 0,
    "shrink_to": 1,
    "seed": 0,
}
_FRACTIONS = ("crossover_probability", "mutation_probability", "gene_fraction", "elitism_fraction", "shrinkage")
DEFAULT_SETTINGS = GeneticSettings()
