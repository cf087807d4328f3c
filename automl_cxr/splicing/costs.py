"""What the network of each pair costs, counted on as few networks as tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from automl_cxr.config import TrialConfig
from automl_cxr.splicing.pair_scoring import Pair


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes:
        parameters: Numbers that it holds.
        multiply_adds: Multiplications with a parameter for one image.
    """

    parameters: int
    multiply_adds: int


def count_costs(pairs: Iterable[Pair], config: TrialConfig, n_classes: int) -> dict[Pair, Cost]:
    """Count the networks of pairs and of single cuts, with the head that the configuration puts on them.

    A pair costs what its two branches and the head's first layer cost, and each of these terms belongs to one branch alone. So
    the pairs of one cut of each branch tell all others, and DenseNet121 with EfficientNetV2-B0 takes 29 networks, not 176.

    Args:
        pairs: Cuts of the first and the second branch.
        config: The two-branch network, whatever it is cut at.
        n_classes: Number of classes.
    """
    from automl_cxr.model.branches import one_branch
    from automl_cxr.model.memory_estimate import measure_size

    def count(network: TrialConfig) -> Cost:
        size = measure_size(network, n_classes)
        return Cost(size.parameters, size.multiply_adds)

    def count_pair(first: str, second: str) -> Cost:
        return count(dataclasses.replace(config, cut=first, second_cut=second))

    pairs = list(pairs)
    costs = {
        (first, second): count(one_branch(config, 0 if second is None else 1, first or second or ""))
        for first, second in pairs
        if first is None or second is None
    }
    both = [(first, second) for first, second in pairs if first is not None and second is not None]
    if not both:
        return costs
    corner = both[0]
    down = {first: count_pair(first, corner[1]) for first in dict.fromkeys(first for first, _ in both)}
    across = {second: count_pair(corner[0], second) for second in dict.fromkeys(second for _, second in both)}
    start = down[corner[0]]
    for first, second in both:
        one, other = down[first], across[second]
        costs[first, second] = Cost(
            one.parameters + other.parameters - start.parameters,
            one.multiply_adds + other.multiply_adds - start.multiply_adds,
        )
    return costs
