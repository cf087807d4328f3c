import io
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.leaderboard import FORMATS, format_table, safe_cells


def test_trials_are_ranked_by_their_saved_predictions(finished):
    table = finished.leaderboard()
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["macro_f1"].is_monotonic_decreasing
    for row in table.itertuples():
        predictions = finished._store.predictions(row.trial)
        labels, predicted = predictions.labels, predictions.probabilities.argmax(axis=1)
        assert row.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", labels=[0, 1, 2], zero_division=0))
        assert row.accuracy == pytest.approx(accuracy_score(labels, predicted))
        sick = labels != predictions.classes.index("normal")
        assert row.fnfr == pytest.approx((predicted[sick] == predictions.classes.index("normal")).mean())
        assert 0 <= row.macro_f1_low <= row.macro_f1_high <= 1
        assert row.macro_f1 == pytest.approx(finished.trials[row.trial].score)
    assert table["has_model"].tolist() == [True, True, True, False]
    assert {"macro_auc", "f1_normal", "f1_opacity", "f1_effusion", "n_parameters", "seconds", "epochs"} <= set(table)
    assert {"params_dense_units", "params_learning_rate"} <= set(table)


def test_intervals_are_the_same_at_every_reading(finished):
    assert finished.leaderboard().equals(finished.leaderboard())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_holds_every_trial(finished, kind):
    table = finished.leaderboard()
    text = format_table(table, kind)
    if kind == "csv":
        back = pd.read_csv(io.StringIO(text))
        assert list(back.columns) == list(table.columns)
        for column in ("macro_f1", "params_learning_rate"):
            assert np.allclose(back[column], table[column], rtol=1e-12)
    elif kind == "json":
        back = json.loads(text)
        assert [row["trial"] for row in back] == table["trial"].tolist()
        assert back[0]["macro_f1"] == pytest.approx(table["macro_f1"][0])
    elif kind == "md":
        assert len(text.splitlines()) == 2 + len(table)
    else:
        assert text.count("<tr>") + text.count("<tr style") == 1 + len(table)


def test_an_unknown_format_is_refused(finished):
    with pytest.raises(UnknownNameError, match="Did you mean 'json'"):
        format_table(finished.leaderboard(), "jsn")


def test_cells_that_a_spreadsheet_would_run_are_escaped():
    table = safe_cells(pd.DataFrame({"=evil": ["=1+1", "@x", "-2", "fine", 3, -1.5]}))
    assert list(table.columns) == ["'=evil"]
    assert table.iloc[:, 0].tolist() == ["'=1+1", "'@x", "'-2", "fine", 3, -1.5]


def test_html_does_not_run_class_names():
    assert "<script>" not in format_table(pd.DataFrame({"<script>": ["<script>alert(1)</script>"]}), "html")
