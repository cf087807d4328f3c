import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from automl_cxr import api
from automl_cxr.api.study import Study
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.corrected_best import correct_best
from automl_cxr.results.leaderboard import sort_leaderboard
from automl_cxr.results.tables import format_table
from automl_cxr.results.trial_comparison import group_by_images
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.study.study_audit import load_audit


def test_trials_are_ranked_by_their_saved_predictions(finished):
    table = finished.leaderboard()
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["macro_f1"].is_monotonic_decreasing
    for row in table.itertuples():
        predictions = finished._store.predictions(row.trial)
        labels, predicted = predictions.labels, predictions.probabilities.argmax(axis=1)
        assert row.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", labels=[0, 1, 2], zero_division=0))
        assert row.accuracy == pytest.approx(accuracy_score(labels, predicted))
        has_finding = labels != predictions.classes.index("normal")
        assert row.fnfr == pytest.approx((predicted[has_finding] == predictions.classes.index("normal")).mean())
        assert 0 <= row.macro_f1_low <= row.macro_f1_high <= 1
        assert row.macro_f1 == pytest.approx(finished.trials[row.trial].score)
    assert table["has_model"].tolist() == [True, True, True, False]
    assert {"macro_auc", "f1_normal", "f1_opacity", "f1_effusion", "n_parameters", "seconds", "epochs"} <= set(table)
    assert {"params_dense_units", "params_learning_rate"} <= set(table)


def test_intervals_are_reproducible(finished):
    assert finished.leaderboard().equals(finished.leaderboard())


def test_every_score_and_cost_has_a_column_and_the_best_trial_is_tied(finished):
    table = finished.leaderboard(intervals=["recall_opacity"], latency=True)
    scores = score_predictions(finished._store.predictions(int(table["trial"][0])), normal_class=1)
    for name, score in scores.items():
        assert table[name][0] == pytest.approx(score), name
    assert table["recall_opacity_low"][0] <= table["recall_opacity"][0] <= table["recall_opacity_high"][0]
    assert table["p_best"][0] == 1
    assert table["tied"].tolist() == (table["p_best"] > 0.05).tolist()
    assert (table["weight_bytes"] == 4 * table["n_parameters"]).all()
    assert (table["multiply_adds"] > table["n_parameters"]).all(), "a convolution uses its parameters at each position"
    assert table["milliseconds"].notna().tolist() == table["has_model"].tolist()
    assert not {"study", "set", "feasible", "pareto", "params"} & set(table)


def test_another_metric_can_rank_the_trials(finished):
    table = finished.leaderboard(metric="log_loss")
    assert table["log_loss"].is_monotonic_increasing
    assert list(table.columns[:5]) == ["rank", "trial", "log_loss", "log_loss_low", "log_loss_high"]
    assert {"macro_f1_low", "macro_f1_high"} <= set(table)
    by_f1 = sort_leaderboard(table, "macro_f1")
    assert by_f1["macro_f1"].is_monotonic_decreasing
    assert sorted(by_f1["rank"]) == [1, 2, 3, 4]
    assert sort_leaderboard(by_f1, "log_loss")["rank"].tolist() == [1, 2, 3, 4]
    assert finished.leaderboard(sort="seconds")["seconds"].is_monotonic_increasing
    for options in ({"metric": "macro_f2"}, {"sort": "macro_f2"}, {"intervals": ["macro_f2"]}):
        with pytest.raises(UnknownNameError, match="Did you mean 'macro_f1'"):
            finished.leaderboard(**options)


def test_studies_of_the_same_images_are_ranked_together(finished, tmp_path, phantoms):
    locations = {"runs": finished.folder.parent}
    copy = api.copy_study(finished.name, "copy", **locations)
    table = finished.leaderboard(copy)
    assert table["rank"].tolist() == list(range(1, 9))
    assert table["study"].tolist()[:2] == ["done", "copy"]
    assert table["tied"].tolist()[:2] == [True, True]
    assert "set" not in table
    api.delete_study("copy", **locations)
    with pytest.raises(UsageError, match="given only once"):
        finished.leaderboard(finished)


def test_studies_of_other_images_are_ranked_separately(finished, prepare, quick_search):
    other = prepare(name="elsewhere", seed=5)
    quick_search(other, trials=1)
    table = finished.leaderboard(Study(other.store))
    assert table["set"].tolist() == [1, 1, 1, 1, 2]
    assert table["rank"].tolist() == [1, 2, 3, 4, 1]
    assert not {"tied", "p_best"} & set(table)
    note = table.attrs["notes"][0]
    assert "cannot be compared" in note
    assert "images of elsewhere" in note


def test_the_shortcut_baseline_is_the_first_row(finished):
    audit = load_audit(finished._store)
    table = finished.leaderboard(with_baseline=True)
    first = table.iloc[0]
    assert first["trial"] == "shortcut baseline"
    assert [first[f"macro_f1{suffix}"] for suffix in ("", "_low", "_high")] == [
        audit.shortcut.macro_f1,
        audit.shortcut.low,
        audit.shortcut.high,
    ]
    assert math.isnan(first["rank"])
    assert table["rank"].tolist()[1:] == [1, 2, 3, 4]
    assert audit.baseline in table.attrs["notes"]
    rows = json.loads(format_table(table, "json"))
    assert (rows[0]["rank"], rows[0]["accuracy"], rows[1]["rank"]) == (None, None, 1)
    assert finished.leaderboard()["rank"].tolist() == [1, 2, 3, 4]


def test_the_best_score_stands_beside_its_value_corrected_for_the_choice(finished):
    table, best = finished.leaderboard(with_baseline=True), finished.corrected_score()
    assert (best.trial, best.metric, best.n_candidates) == (finished.best.number, "macro_f1", 4)
    assert best.raw == pytest.approx(finished.best.score)
    assert best.interval.low <= best.value <= best.raw
    assert table.attrs["corrected"] == (best,)
    assert f"is {best.value:.4f} (95% interval" in best.sentence()
    assert best.sentence() in table.attrs["notes"]
    assert best.sentence() in format_table(table, "md")
    assert not any("corrected" in column for column in table)
    rows = json.loads(format_table(table, "json"))
    assert [row["trial"] for row in rows if "corrected" in row] == [best.trial]
    assert rows[1]["corrected"]["value"] == best.value
    by_loss = finished.corrected_score(metric="log_loss")
    assert by_loss.value >= by_loss.raw == finished.leaderboard(metric="log_loss")["log_loss"][0]
    with pytest.raises(UnknownNameError):
        finished.corrected_score(metric="macro_f2")


def test_only_trials_that_could_be_chosen_are_candidates(finished):
    (trials,) = group_by_images([finished._store])
    infeasible = [replace(trial, record=replace(trial.record, violations={"fnfr": 0.1})) for trial in trials]
    two = correct_best([*infeasible[:2], *trials[2:]], "macro_f1")
    assert two.n_candidates == 2
    assert two.trial == trials[2].record.number, "trials are in the order of their scores"
    one = correct_best([*infeasible[:3], trials[3]], "macro_f1")
    assert one.value == one.raw
    assert one.sentence() == ""
    assert correct_best(infeasible, "macro_f1") is None


def test_sorting_by_the_worst_site_needs_external_sites():
    with pytest.raises(UsageError, match="Add one with --external"):
        sort_leaderboard(pd.DataFrame({"macro_f1": [0.5], "params_filters": [8]}), "worst_site")
