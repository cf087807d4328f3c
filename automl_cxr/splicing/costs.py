"""Parameters and multiply-adds of the network of each pair of cuts, computed from a few networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from automl_cxr.config import TrialConfig
from automl_cxr.splicing.pair_scoring import Pair


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        parameters: Number of parameters.
        multiply_adds: Number of multiply-adds for one image.
    """

    parameters: int
    multiply_adds: int


def count_costs(pairs: Iterable[Pair], config: TrialConfig, n_classes: int) -> dict[Pair, Cost]:
    """Return the costs of the networks of pairs and of single cuts, with the head of the configuration.

    The cost of a pair is a sum over its two branches, including their parts of the first layer of the head, and each term
    depends on one branch only. Therefore the costs of all pairs are computed from the pairs in which one of the cuts is fixed.
    For DenseNet121 with EfficientNetV2-B0, 29 networks are built instead of 176.

    Args:
        pairs: Cuts of the first and of the second branch.
        config: Configuration of the two-branch network, with any cuts.
        n_classes: Number of classes.
    """
    from automl_cxr.model.branches import single_branch_config
    from automl_cxr.model.memory_estimate import measure_size

    def count(network: TrialConfig) -> Cost:
        size = measure_size(network, n_classes)
        return Cost(size.parameters, size.multiply_adds)

    def count_pair(first: str, second: str) -> Cost:
        return count(dataclasses.replace(config, cut=first, second_cut=second))

    pairs = list(pairs)
    costs = {
        (first, second): count(single_branch_config(config, 0 if second is None else 1, first or second or ""))
        for first, second in pairs
        if first is None or second is None
    }
    both = [(first, second) for first, second in pairs if first is not None and second is not None]
    if not both:
        return costs
    reference = both[0]
    by_first = {first: count_pair(first, reference[1]) for first in dict.fromkeys(first for first, _ in both)}
    by_second = {second: count_pair(reference[0], second) for second in dict.fromkeys(second for _, second in both)}
    reference_cost = by_first[reference[0]]
    for first, second in both:
        first_cost, second_cost = by_first[first], by_second[second]
        costs[first, second] = Cost(
            first_cost.parameters + second_cost.parameters - reference_cost.parameters,
            first_cost.multiply_adds + second_cost.multiply_adds - reference_cost.multiply_adds,
        )
    return costs
