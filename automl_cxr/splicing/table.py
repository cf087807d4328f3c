"""The leaderboard of a splice search, and the comparison of the best pair with its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.engine.pareto import is_on_front
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.splicing.costs import Cost
from automl_cxr.splicing.pair_scoring import Pair, PairScore
from automl_cxr.splicing.ranking import Ranking


def columns_of(metric: str) -> tuple[str, ...]:
    """Return the columns of the leaderboard of a metric."""
    return (
        *("rank", "first_cut", "second_cut", metric, f"{metric}_low", f"{metric}_high", f"left_out_{metric}"),
        *("n_parameters", "multiply_adds", "pareto", "beaten_by_one", "penalty"),
    )


def parent_columns_of(metric: str) -> tuple[str, ...]:
    """Return the columns of the comparison with complete networks."""
    return (
        *("parent", metric, f"{metric}_low", f"{metric}_high", "n_parameters"),
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


def tabulate(scores: Mapping[Pair, PairScore], costs: Mapping[Pair, Cost], ranking: Ranking | None = None) -> pd.DataFrame:
    """Rank pairs of cuts and single cuts by a metric on the validation part, and equal scores by the number of parameters.

    Args:
        scores: The results of the ridge heads.
        costs: The costs of the networks.
        ranking: The metric, below called METRIC. [default: macro-F1]

    Returns:
        One row for each network: rank, first_cut and second_cut (empty for a missing branch), METRIC of its ridge head with
        the 95 % bootstrap interval by patient, left_out_METRIC (leave-one-patient-out, on the training part), n_parameters,
        multiply_adds (for one image), pareto (whether the pair is undominated in score and parameters), beaten_by_one (whether
        a single cut has at least the same score with no more parameters) and penalty (of the head).
    """
    ranking = ranking or Ranking()
    metric = ranking.metric
    rows = [
        {
            "first_cut": first or "",
            "second_cut": second or "",
            **_score_columns(score.predictions, ranking),
            f"left_out_{metric}": score.left_out,
            "n_parameters": costs[first, second].parameters,
            "multiply_adds": costs[first, second].multiply_adds,
            "penalty": score.head.penalty,
        }
        for (first, second), score in scores.items()
    ]
    table = pd.DataFrame(rows).sort_values(
        [metric, "n_parameters"], ascending=[not ranking.is_maximised, True], kind="stable", ignore_index=True
    )
    is_pair = ((table["first_cut"] != "") & (table["second_cut"] != "")).to_numpy()
    loss = -table[metric] if ranking.is_maximised else table[metric]
    losses = np.column_stack([loss.fillna(np.inf), table["n_parameters"]])
    table["rank"] = np.arange(1, len(table) + 1)
    table["pareto"] = False
    table.loc[is_pair, "pareto"] = is_on_front(losses[is_pair])
    single_losses = losses[~is_pair]
    table["beaten_by_one"] = is_pair & np.array([bool((single_losses <= row).all(axis=1).any()) for row in losses])
    return table[list(columns_of(metric))]


def front_of(table: pd.DataFrame, n: int) -> list[tuple[str, str]]:
    """Return the best ``n`` pairs of the Pareto front, best first."""
    front = table[table["pareto"]].head(n)
    return list(zip(front["first_cut"], front["second_cut"], strict=True))


def compare_with_parents(
    pair: Predictions, n_parameters: int, parents: Sequence[Parent], ranking: Ranking | None = None
) -> pd.DataFrame:
    """Compare a spliced network with complete networks on the same images.

    Args:
        pair: Predictions of the spliced network.
        n_parameters: Its number of parameters.
        parents: The complete networks.
        ranking: The metric, below called METRIC. [default: macro-F1]

    Returns:
        One row for each parent: parent, METRIC with its 95 % interval by patient, n_parameters, difference (METRIC of the
        spliced network minus that of the parent, with the paired interval) and parameter_share (ratio of the parameters).
    """
    ranking = ranking or Ranking()
    rows = []
    for parent in parents:
        difference, interval = ranking.difference(pair, parent.predictions)
        rows.append(
            {
                "parent": parent.name,
                **_score_columns(parent.predictions, ranking),
                "n_parameters": parent.n_parameters,
                "difference": difference,
                "difference_low": interval.low,
                "difference_high": interval.high,
                "parameter_share": n_parameters / parent.n_parameters,
            }
        )
    return pd.DataFrame(rows)


def _score_columns(predictions: Predictions, ranking: Ranking) -> dict[str, float]:
    metric, interval = ranking.metric, ranking.interval(predictions)
    return {metric: ranking.score(predictions), f"{metric}_low": interval.low, f"{metric}_high": interval.high}
