"""Settings of the genetic algorithm, apart from it: a command line shows them without loading DEAP or NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from automl_cxr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GeneticSettings:
    """Settings of the genetic algorithm, and of what keeps it from fitting chance.

    The first nine are the algorithm's own. The last four were chosen by measurement (benchmarks/ensemble.py): by themselves,
    weights that are best on a few hundred images are not on others.

    Attributes:
        population: Weightings in a generation, at least 4.
        generations: Generations of a run at most, at least 1.
        crossover_probability: Share of parent pairs that cross over, 0 to 1.
        mutation_probability: Share of children that mutate, 0 to 1.
        gene_fraction: Share of the genes that a crossover averages (at least one), 0 to 1.
        elitism_fraction: Share of a generation that enters the next unchanged (at least the best, never all), 0 to 1.
        tournament_size: Candidates in a tournament for parenthood, at least 1.
        restarts: Runs from different initial populations, at least 1.
        patience: Generations without a higher fitness after which a run ends, at least 1.
        halvings: How often the patients are parted into two halves; weights are evolved on each half, and the mean of all is
            taken. 0 evolves once, on all images.
        brier_weight: How much of the Brier score is taken off the objective, at least 0.
        shrinkage: How far the weights are drawn to the uniform ones of the best members, 0 (not at all) to 1.
        shrink_to: How many best members that is, at least 1.
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
    restarts: int = 1
    patience: int = 20
    halvings: int = 4
    brier_weight: float = 1.0
    shrinkage: float = 0.1
    shrink_to: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise UsageError(f"Genetic setting {name} must be an integer of at least {least}. Received {value!r}.")
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"Genetic setting {name} must be from 0 to 1. Received {value!r}.")
        if not 0 <= self.brier_weight < math.inf:
            raise UsageError(f"Genetic setting brier_weight must be finite and at least 0. Received {self.brier_weight!r}.")


_LEAST = {
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
