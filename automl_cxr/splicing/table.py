"""The leaderboard of a splice search, and the comparison of the best pair with its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.engine.pareto import is_on_front
from automl_cxr.scoring.intervals import bootstrap_interval, paired_difference
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.splicing.costs import Cost
from automl_cxr.splicing.pair_scoring import Pair, PairScore

COLUMNS = (
    *("rank", "first_cut", "second_cut", "macro_f1", "macro_f1_low", "macro_f1_high", "left_out_macro_f1"),
    *("n_parameters", "multiply_adds", "pareto", "beaten_by_one", "penalty"),
)
PARENT_COLUMNS = (
    *("parent", "macro_f1", "macro_f1_low", "macro_f1_high", "n_parameters"),
    *("difference", "difference_low", "difference_high", "parameter_share"),
)


@dataclass(frozen=True)
class Parent:
    """A complete network with which a spliced network is compared.

    Attributes:
        name: Description for the user.
        predictions: Predictions for the validation part.
        n_parameters: Number of parameters.
    """

    name: str
    predictions: Predictions
    n_parameters: int


def tabulate(scores: Mapping[Pair, PairScore], costs: Mapping[Pair, Cost], *, seed: int = 0) -> pd.DataFrame:
    """Rank pairs of cuts and single cuts by validation macro-F1, and equal scores by the number of parameters.

    Returns:
        One row for each network: rank, first_cut and second_cut (empty for a missing branch), macro_f1 of its ridge head with
        the 95 % bootstrap interval by patient, left_out_macro_f1 (leave-one-patient-out, on the training part), n_parameters,
        multiply_adds (for one image), pareto (whether the pair is undominated in score and parameters), beaten_by_one (whether
        a single cut has at least the same score with no more parameters) and penalty (of the head).
    """
    rows = []
    for (first, second), score in scores.items():
        predictions, cost = score.predictions, costs[first, second]
        interval = bootstrap_interval(predictions, seed=seed)
        rows.append(
            {
                "first_cut": first or "",
                "second_cut": second or "",
                "macro_f1": _macro_f1(predictions),
                "macro_f1_low": interval.low,
                "macro_f1_high": interval.high,
                "left_out_macro_f1": score.left_out,
                "n_parameters": cost.parameters,
                "multiply_adds": cost.multiply_adds,
                "penalty": score.head.penalty,
            }
        )
    table = pd.DataFrame(rows).sort_values(
        ["macro_f1", "n_parameters"], ascending=[False, True], kind="stable", ignore_index=True
    )
    is_pair = ((table["first_cut"] != "") & (table["second_cut"] != "")).to_numpy()
    losses = np.column_stack([-table["macro_f1"], table["n_parameters"]])
    table["rank"] = np.arange(1, len(table) + 1)
    table["pareto"] = False
    table.loc[is_pair, "pareto"] = is_on_front(losses[is_pair])
    single_losses = losses[~is_pair]
    table["beaten_by_one"] = is_pair & np.array([bool((single_losses <= row).all(axis=1).any()) for row in losses])
    return table[list(COLUMNS)]


def front_of(table: pd.DataFrame, n: int) -> list[tuple[str, str]]:
    """Return the best ``n`` pairs of the Pareto front, best first."""
    front = table[table["pareto"]].head(n)
    return list(zip(front["first_cut"], front["second_cut"], strict=True))


def compare_with_parents(pair: Predictions, n_parameters: int, parents: Sequence[Parent], *, seed: int = 0) -> pd.DataFrame:
    """Compare a spliced network with complete networks on the same images.

    Args:
        pair: Predictions of the spliced network.
        n_parameters: Its number of parameters.
        parents: The complete networks.
        seed: Seed of the bootstrap.

    Returns:
        One row for each parent: parent, macro_f1 with its 95 % interval by patient, n_parameters, difference (macro-F1 of the
        spliced network minus that of the parent, with the paired interval) and parameter_share (ratio of the parameters).
    """
    rows = []
    for parent in parents:
        interval = bootstrap_interval(parent.predictions, seed=seed)
        difference, difference_interval = paired_difference(pair, parent.predictions, seed=seed)
        rows.append(
            {
                "parent": parent.name,
                "macro_f1": _macro_f1(parent.predictions),
                "macro_f1_low": interval.low,
                "macro_f1_high": interval.high,
                "n_parameters": parent.n_parameters,
                "difference": difference,
                "difference_low": difference_interval.low,
                "difference_high": difference_interval.high,
                "parameter_share": n_parameters / parent.n_parameters,
            }
        )
    return pd.DataFrame(rows)


def _macro_f1(predictions: Predictions) -> float:
    return METRICS["macro_f1"].function(predictions.labels, predictions.probabilities, None)
