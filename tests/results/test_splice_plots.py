"""The figure and the sentences of a splice search, with simulated scores."""

import numpy as np
import pandas as pd
import pytest

from automl_cxr.errors import StudyError
from automl_cxr.results.splice_plots import ALONE, describe_splices, grid_of, plot_splices
from automl_cxr.splicing.record import SpliceRecord, load_splices, save_splices


@pytest.fixture
def scores():
    rows = [
        ("shallow", "far", 0.9, 1500, True, False),
        ("deep", "far", 0.88, 2_400_000, False, False),
        ("deep", "", 0.85, 400, False, False),
        ("shallow", "near", 0.8, 900, True, True),
        ("deep", "near", 0.7, 9000, False, True),
        ("shallow", "", 0.6, 300, False, False),
        ("", "near", 0.5, 200, False, False),
        ("", "far", 0.4, 250, False, False),
    ]
    table = pd.DataFrame(rows, columns=["first_cut", "second_cut", "macro_f1", "n_parameters", "pareto", "beaten_by_one"])
    table = table.assign(
        rank=np.arange(1, 9), macro_f1_low=table["macro_f1"] - 0.05, macro_f1_high=table["macro_f1"] + 0.05,
        left_out_macro_f1=0.7, multiply_adds=12_300_000, penalty=1.0,
    )  # fmt: skip
    parent = {
        "parent": "b/0, as trained", "macro_f1": 0.8, "macro_f1_low": 0.7, "macro_f1_high": 0.9, "n_parameters": 15_000,
        "difference": 0.1, "difference_low": -0.02, "difference_high": 0.2, "parameter_share": 0.1,
    }  # fmt: skip
    return SpliceRecord(
        first="a",
        second="b/0",
        cuts=(("shallow", "deep"), ("near", "far")),
        table=table,
        parents=pd.DataFrame([parent]),
        n_train=100,
        n_valid=40,
    )


def test_scores_are_saved_with_their_study(tmp_path, scores):
    assert load_splices(tmp_path) is None
    save_splices(tmp_path, scores)
    loaded = load_splices(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, scores.table, check_dtype=False)
    assert describe_splices(loaded) == describe_splices(scores)
    assert np.array_equal(plot_splices(loaded).data[0].text, plot_splices(scores).data[0].text)
    (tmp_path / "splices.json").write_text("{}")
    with pytest.raises(StudyError, match="damaged"):
        load_splices(tmp_path)


def test_the_sentences_summarise_the_result(scores):
    sentences = describe_splices(scores)
    assert sentences[0].startswith(
        "Ridge heads on 4 pairs of cuts of a and b/0 and 4 single cuts; 100 training and 40 validation"
    )
    assert sentences[1] == "Best pair: shallow + far, macro_f1 0.900 (0.850..0.950), 1,500 parameters."
    assert "b/0, as trained, macro_f1 0.800 (0.700..0.900), 15,000 parameters: +0.100 (-0.020..+0.200)" in sentences[2]
    assert "10.00% of the parameters" in sentences[2]
    assert "Of the 2 pairs on the Pareto front, 1 are not better than a single cut of one branch" in sentences[3]
    assert "optimistic" in sentences[-1]


def test_the_grid_has_the_row_of_each_pair(scores):
    grid = grid_of(scores)
    assert list(grid.index) == [ALONE, "shallow", "deep"]
    assert list(grid.columns) == [ALONE, "near", "far"]
    assert grid.loc["shallow", "far"] == 0
    assert grid.loc["deep", ALONE] == 2
    assert grid.loc[ALONE, ALONE] == -1


def test_the_heat_map_shows_scores_costs_and_the_pareto_front(scores):
    figure = plot_splices(scores)
    heat, *traces = figure.data
    assert np.isnan(heat.z[0][0])
    assert heat.z[1][2] == 0.9
    assert heat.text[1][2] == "★ 0.900<br>1.5 k / 12.3 M"
    assert heat.text[2][0] == "0.850<br>400 / 12.3 M"
    trace_by_name = {trace.name: trace for trace in traces}
    front = next(trace for name, trace in trace_by_name.items() if name.startswith("Pareto front"))
    assert list(front.x) == [900, 1500]
    assert list(trace_by_name["single cuts of a"].y) == [0.85, 0.6]
    assert list(trace_by_name["parent as trained"].x) == [15_000]
