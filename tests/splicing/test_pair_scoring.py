import numpy as np
import pytest

from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.splicing.costs import Cost
from automl_cxr.splicing.pair_scoring import list_pairs, score_pairs
from automl_cxr.splicing.ranking import Ranking
from automl_cxr.splicing.table import Parent, columns_of, compare_with_parents, front_of, tabulate


def part(name, n, labels):
    return PartRecord(
        images=tuple(f"{name}{row}" for row in range(n)),
        labels=tuple(int(label) for label in labels),
        patients=tuple(f"{name}{row // 2}" for row in range(n)),
    )


@pytest.fixture(scope="module")
def features():
    """Return features in which the class depends on the cut "deep" of the first branch and on "far" of the second."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=160)
    first = {"shallow": rng.normal(size=(160, 4)), "deep": rng.normal(size=(160, 6))}
    second = {"near": rng.normal(size=(160, 3)), "far": rng.normal(size=(160, 5))}
    first["deep"][:, 2] += 5 * (labels == 0)
    second["far"][:, 1] += 5 * (labels == 1)
    split = SplitRecord(
        classes=("a", "b", "c"), train=part("t", 100, labels[:100]), valid=part("v", 60, labels[100:]), test=(), seed=0,
        grouped=True, origin="made", unreadable={},
    )  # fmt: skip
    return first, second, split


COSTS = {"shallow": 10, "deep": 50, "near": 7, "far": 30, None: 0}


@pytest.fixture(scope="module")
def scored(features):
    first, second, split = features
    scores = score_pairs(first, second, split, same=False)
    costs = {pair: Cost(COSTS[pair[0]] + COSTS[pair[1]], 1000) for pair in scores}
    return scores, tabulate(scores, costs), split


def test_single_cuts_and_all_pairs_are_listed():
    one, other = dict.fromkeys("ab"), dict.fromkeys("xyz")
    assert len(list_pairs(one, other, same=False)) == 2 + 3 + 6
    assert list_pairs(other, other, same=True)[3:] == [("x", "y"), ("x", "z"), ("y", "z")]


def test_the_most_informative_pair_ranks_first_and_single_cuts_are_in_the_table(scored):
    _, table, _ = scored
    assert list(table.columns) == list(columns_of("macro_f1"))
    assert len(table) == 8
    best = table.iloc[0]
    assert (best["rank"], best["first_cut"], best["second_cut"]) == (1, "deep", "far")
    assert best["macro_f1_low"] <= best["macro_f1"] <= best["macro_f1_high"]
    assert best["macro_f1"] > 0.9
    single_cuts = table[table["second_cut"] == ""].set_index("first_cut")["macro_f1"]
    assert single_cuts["deep"] < best["macro_f1"] - 0.2
    assert table.loc[table["first_cut"] == "", "second_cut"].isin(["near", "far"]).all()


def test_the_front_contains_pairs_and_marks_those_that_a_single_cut_dominates(scored):
    _, table, _ = scored
    pairs = table[(table["first_cut"] != "") & (table["second_cut"] != "")]
    for row in pairs.itertuples():
        dominated_by = (
            (pairs["macro_f1"] >= row.macro_f1)
            & (pairs["n_parameters"] <= row.n_parameters)
            & ((pairs["macro_f1"] > row.macro_f1) | (pairs["n_parameters"] < row.n_parameters))
        )
        assert row.pareto == (not dominated_by.any())
        single_cuts = table[(table["first_cut"] == "") | (table["second_cut"] == "")]
        assert (
            row.beaten_by_one
            == ((single_cuts["macro_f1"] >= row.macro_f1) & (single_cuts["n_parameters"] <= row.n_parameters)).any()
        )
    assert not table.loc[table["second_cut"] == "", "pareto"].any()
    assert front_of(table, 2) == [(row.first_cut, row.second_cut) for row in table[table["pareto"]].itertuples()][:2]
    assert front_of(table, 0) == []


def test_comparison_of_a_network_with_its_parents(scored):
    scores, _, _ = scored
    pair_predictions, single_predictions = scores["deep", "far"].predictions, scores["deep", None].predictions
    table = compare_with_parents(
        pair_predictions, 80, [Parent("itself", pair_predictions, 80), Parent("half", single_predictions, 160)]
    )
    assert list(table["parent"]) == ["itself", "half"]
    assert list(table["difference"][:1]) == [0]
    assert table["difference_low"][1] > 0
    assert list(table["parameter_share"]) == [1, 0.5]


def test_progress_is_reported(features):
    first, _, split = features
    calls = []
    score_pairs(first, first, split, same=True, on_pair=lambda *counts: calls.append(counts))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_pairs_are_ranked_by_the_metric_of_the_study(features):
    first, second, split = features
    ranking = Ranking("log_loss", seed=1)
    scores = score_pairs(first, second, split, same=False, ranking=ranking)
    table = tabulate(scores, {pair: Cost(COSTS[pair[0]] + COSTS[pair[1]], 1000) for pair in scores}, ranking)
    assert list(table.columns) == list(columns_of("log_loss"))
    assert table["log_loss"].is_monotonic_increasing  # lower is better
    assert tuple(table.loc[0, ["first_cut", "second_cut"]]) == ("deep", "far")
    assert table.loc[0, "pareto"]
    assert table.loc[0, "log_loss"] == pytest.approx(ranking.score(scores["deep", "far"].predictions))
    worse, better = scores["shallow", "near"].predictions, scores["deep", "far"].predictions
    assert compare_with_parents(better, 80, [Parent("worse", worse, 17)], ranking)["difference_high"][0] < 0
